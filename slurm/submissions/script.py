"""Job scripts: text that people can read, change, and submit by hand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpcio.errors import ClusterError
from hpcio.planning import Plan
from slurm.site import format_time, names_option, split_option
from slurm.submissions.request import JobRequest

__all__ = ["array_script", "finish_script", "job_script", "plain_path", "ranks_script"]

_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
# Options that the finalizer does not need: it is one process, and copies no data.
_DEVICES = re.compile(r"gres|gpus?\b|gpus-|cpus-per|ntasks|nodes$|exclusive|mem|dependency|hold")
# A prologue that fails ends the job there, with words that `hpcio status` shows.
_FAILS_HERE = (
    "# What fails here ends the job: say `|| true` where it may.",
    "set -eE",
    "trap 'echo \"hpcio: the prologue failed (status $?): $BASH_COMMAND\" >&2' ERR",
)
# Memory of the finalizer, in MB.
_FINISH_MEMORY = 2000


def array_script(plan: Plan, request: JobRequest, *, submission: int, first: int, size: int) -> str:
    """The script of one job array, whose first task has the number `first`."""
    # Several arrays together have no more tasks than may run at a time; see `make_request`.
    index = f"0-{size - 1}" + (f"%{request.throttle}" if request.throttle else "")
    memory = [] if request.memory is None else [("mem", _megabytes(request.memory))]
    return job_script(
        f"Computes a share of the trials of {plan.out}",
        "The result is put together by the job of finish.sh, or: hpcio resume OUT",
        [
            ("array", index), *_common(plan, request, log="%A_%a"),
            ("cpus-per-task", str(request.cpus)), *memory, _signal(request),
        ],
        f"{_threads(request)}\n\n"
        # The task takes the place of the shell, so that signals reach it.
        f"exec {_python(request)} run {shlex.quote(plan.out)} {submission} {first}",
        prologue=request.prologue,
        options=request.sbatch,
    )  # fmt: skip


def ranks_script(plan: Plan, request: JobRequest, *, submission: int, ranks: int) -> str:
    """The script of one MPI job: all ranks in one allocation."""
    launcher = shlex.join(shlex.split(request.launcher))
    memory = []
    if request.memory is not None:
        memory = [("mem-per-cpu", f"{-(-request.memory // 2**20 // request.cpus)}M")]
    return job_script(
        f"Computes the trials of {plan.out} on {ranks} ranks of one MPI job",
        "To go on after its end, whatever the reason: hpcio resume OUT",
        [
            ("ntasks", str(ranks)), *_common(plan, request, log="%j_0"),
            ("cpus-per-task", str(request.cpus)), *memory, _signal(request),
        ],
        f"{_threads(request)}\n\n"
        f"exec {launcher} -n {ranks} {_python(request)} ranks {shlex.quote(plan.out)} {submission}",
        prologue=request.prologue,
        options=request.sbatch,
    )  # fmt: skip


def finish_script(plan: Plan, request: JobRequest, *, submission: int) -> str:
    """The script of the job that comes after all arrays."""
    return job_script(
        f"Puts the result {plan.out} together, when all tasks have ended",
        "Exit status 1 if blocks are missing; outcome.json says which",
        [*_common(plan, request, log="finish-%j"), ("mem", f"{_FINISH_MEMORY}M")],
        f"exec {_python(request)} finish {shlex.quote(plan.out)} {submission}",
        prologue=request.prologue,
        options=[o for o in request.sbatch if not _DEVICES.match(names_option(o))],
    )


def _common(plan: Plan, request: JobRequest, *, log: str) -> list[tuple[str, str]]:
    """Directives of every job."""
    own = [("job-name", request.name), ("output", f"{plain_path(plan.rundir.logs)}/{log}.log")]
    own += [("open-mode", "append"), ("requeue", "")]
    if request.partition is not None:
        own.append(("partition", request.partition))
    if request.seconds is not None:
        own.append(("time", format_time(request.seconds)))
    return own


def _signal(request: JobRequest) -> tuple[str, str]:
    """The directive by which a task hears of its end, be that its own or the partition's."""
    return "signal", f"B:USR1@{request.signal}"


def _megabytes(nbytes: int) -> str:
    return f"{-(-nbytes // 2**20)}M"


def job_script(
    about: str,
    more: str,
    own: Sequence[tuple[str, str]],
    command: str,
    *,
    prologue: str,
    options: Sequence[str],
) -> str:
    """The text of a job script.

    Parameters
    ----------
    about, more : str
        What it does and what people should know, for the comments on top.
    own : sequence of (str, str)
        Directives: names and values of options of sbatch.
    command : str
        As in a shell.
    prologue : str
        Lines of shell before it; if one fails, the job ends there.
    options : sequence of str
        Options of sbatch that the user gives, which replace those of `own`.
    """
    given = {names_option(option) for option in options}
    lines = ["#!/bin/bash"]
    lines += [_directive(n, v) for n, v in own if n not in given]
    lines += [_directive(*split_option(option)) for option in options]
    lines += ["", f"# {_one_line(about)}.", f"# {more}."]
    lines += ["# A signal that comes before Python is ready must not end the task."]
    lines += ["trap '' USR1 TERM", ""]
    if prologue.strip():
        lines += [*_FAILS_HERE, prologue.rstrip("\n"), "set +eE", "trap - ERR", ""]
    return "\n".join([*lines, command, ""])


def _directive(name: str, value: str) -> str:
    """A directive as sbatch reads it: quotes and backslashes as in a shell, nothing else."""
    if re.search(r"[\n\r\0]", name + value):
        raise ClusterError(f"{value!r} cannot stand in a job script: it holds a line end.")
    if value and not re.fullmatch(r"[\w@%+=:,./\[\]-]+", value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}" + (f"={value}" if value else "")


def plain_path(path: Path) -> str:
    """A path in a pattern of sbatch, where per cent signs and backslashes mean something."""
    text = str(path)
    if "\\" in text:
        raise ClusterError(
            f"SLURM cannot write logs to '{text}', since it holds a backslash. "
            "Choose another output."
        )
    return text.replace("%", "%%")


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)


def _threads(request: JobRequest) -> str:
    return "export " + " ".join(f"{name}_NUM_THREADS={request.cpus}" for name in _THREADS)


def _python(request: JobRequest) -> str:
    # -P: the folder at hand must not hide modules of the standard library.
    return f"{shlex.quote(request.python)} -P -m slurm.tasks"
