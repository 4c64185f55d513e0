"""Job scripts: text that people can read, change, and submit by hand."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcio.errors import ClusterError
from hpcio.planning.plan import Plan
from slurm.site.partitions import format_time

__all__ = [
    "Ask",
    "array_script",
    "check_options",
    "finish_script",
    "join_words",
    "names_option",
    "ranks_script",
]

_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
# What the finalizer, one process that copies no data, has no use for.
_DEVICES = re.compile(r"gres|gpus?\b|gpus-|cpus-per|ntasks|nodes$|exclusive|mem|dependency|hold")
# What hpcio has options of its own for, or cannot do without.
_OURS = {
    "array": "tasks and throttle", "time": "walltime", "mem": "memory", "partition": "partition",
    "cpus-per-task": "cpus", "job-name": "name", "signal": "", "output": "", "error": "",
    "open-mode": "", "wrap": "", "parsable": "", "test-only": "", "wait": "",
}  # fmt: skip
# Of the finalizer, in MB.
_FINISH_MEMORY = 2000


@dataclass(frozen=True)
class Ask:
    """What tasks ask SLURM for.

    Attributes
    ----------
    partition : str or None
    seconds : int or None
        Walltime.
    memory : int or None
        Bytes.
    cpus : int
    throttle : int or None
        How many tasks may run at a time.
    name : str
        Of the job.
    signal : int
        So many seconds before its end a task is told so.
    sbatch : tuple of str
        Further options of sbatch, one in each.
    prologue : str
        Lines of shell that come before Python, such as ``module load``.
    python : str
    launcher : str
        The command that starts the ranks of an MPI job, with its options.
    """

    partition: str | None
    seconds: int | None
    memory: int | None
    cpus: int
    throttle: int | None
    name: str
    signal: int
    sbatch: tuple[str, ...] = ()
    prologue: str = ""
    python: str = sys.executable
    launcher: str = "mpirun"


def array_script(plan: Plan, ask: Ask, *, submission: int, first: int, size: int) -> str:
    """The script of one job array."""
    index = f"0-{size - 1}" + (f"%{ask.throttle}" if ask.throttle else "")
    own = [
        ("array", index),
        *_common(plan, ask, log="%A_%a", seconds=ask.seconds, options=ask.sbatch),
        ("cpus-per-task", str(ask.cpus)),
    ]
    if ask.memory is not None:
        own.append(("mem", f"{-(-ask.memory // 2**20)}M"))
    if ask.seconds is not None:
        own.append(("signal", f"B:USR1@{ask.signal}"))
    return _script(
        f"Computes a share of the trials of {plan.out}",
        "The result is put together by the job of finish.sh, or: hpcio resume OUT",
        own,
        ask,
        f"{_threads(ask)}\n\n"
        # The task takes the place of the shell, so that signals reach it.
        f"exec {_python(ask)} run {shlex.quote(plan.out)} {submission} {first}",
    )


def ranks_script(plan: Plan, ask: Ask, *, submission: int, ranks: int) -> str:
    """The script of one MPI job: all ranks in one allocation."""
    own = [
        ("ntasks", str(ranks)),
        *_common(plan, ask, log="%j_0", seconds=ask.seconds, options=ask.sbatch),
        ("cpus-per-task", str(ask.cpus)),
    ]
    if ask.memory is not None:
        own.append(("mem-per-cpu", f"{-(-ask.memory // 2**20 // ask.cpus)}M"))
    if ask.seconds is not None:
        own.append(("signal", f"B:USR1@{ask.signal}"))
    launcher = shlex.join(shlex.split(ask.launcher))
    return _script(
        f"Computes the trials of {plan.out} on {ranks} ranks of one MPI job",
        "To go on after its end, whatever the reason: hpcio resume OUT",
        own,
        ask,
        f"{_threads(ask)}\n\n"
        f"exec {launcher} -n {ranks} {_python(ask)} ranks {shlex.quote(plan.out)} {submission}",
    )


def finish_script(plan: Plan, ask: Ask, *, submission: int) -> str:
    """The script of the job that comes after all arrays."""
    options = [o for o in ask.sbatch if not _DEVICES.match(names_option(o))]
    own = _common(plan, ask, log="finish-%j", seconds=ask.seconds, options=options)
    own.append(("mem", f"{_FINISH_MEMORY}M"))
    return _script(
        f"Puts the result {plan.out} together, when all tasks have ended",
        "Exit status 1 if blocks are missing; outcome.json says which",
        own,
        ask,
        f"exec {_python(ask)} finish {shlex.quote(plan.out)} {submission}",
        options=options,
    )


def _common(
    plan: Plan, ask: Ask, *, log: str, seconds: int | None, options: Sequence[str]
) -> list[tuple[str, str]]:
    own = [("job-name", ask.name), ("output", f"{_plain(plan.run_directory / 'logs')}/{log}.log")]
    own += [("open-mode", "append"), ("requeue", "")]
    if ask.partition is not None:
        own.append(("partition", ask.partition))
    if seconds is not None:
        own.append(("time", format_time(seconds)))
    return own


def _script(
    about: str,
    more: str,
    own: Sequence[tuple[str, str]],
    ask: Ask,
    command: str,
    options: Sequence[str] | None = None,
) -> str:
    options = ask.sbatch if options is None else options
    given = {names_option(option) for option in options}
    lines = ["#!/bin/bash"]
    lines += [_directive(n, v) for n, v in own if n not in given]
    lines += [_directive(*_split(option)) for option in options]
    lines += ["", f"# {_one_line(about)}.", f"# {more}."]
    lines += ["# A signal that comes before Python is ready must not end the task."]
    lines += ["trap '' USR1 TERM", ""]
    lines += [ask.prologue.rstrip("\n"), ""] if ask.prologue.strip() else []
    return "\n".join([*lines, command, ""])


_SHORT = {
    "A": "account", "C": "constraint", "c": "cpus-per-task", "d": "dependency", "D": "chdir",
    "e": "error", "G": "gpus", "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes",
    "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time", "w": "nodelist",
    "x": "exclude", "a": "array", "i": "input",
}  # fmt: skip


def names_option(option: str) -> str:
    """The long name of an option of sbatch, without dashes.

    Examples
    --------
    >>> names_option("--qos=high"), names_option("-phigh")
    ('qos', 'partition')
    """
    if option.startswith("--"):
        return option[2:].partition("=")[0]
    if option.startswith("-") and len(option) > 1:
        return _SHORT.get(option[1], option[1])
    raise ClusterError(f"'{option}' is no option of sbatch. Write --name=value.")


def join_words(words: Sequence[str]) -> tuple[str, ...]:
    """Options as they are written in a shell, one in each.

    Examples
    --------
    >>> join_words(["--qos", "high", "-A", "lab", "--exclusive"])
    ('--qos=high', '-Alab', '--exclusive')
    """
    joined: list[str] = []
    for word in words:
        if word.startswith("-") or not joined or "=" in joined[-1]:
            joined.append(word)
        else:
            joined[-1] += ("=" if joined[-1].startswith("--") else "") + word
    return tuple(joined)


def check_options(options: Sequence[str]) -> None:
    """Raise ClusterError for options of sbatch that are not to be passed on."""
    for option in options:
        name = names_option(option)
        if name in _OURS:
            instead = f": say {_OURS[name]} instead" if _OURS[name] else ""
            raise ClusterError(f"'--{name}' of sbatch is set by hpcio{instead}.")


def _split(option: str) -> tuple[str, str]:
    name = names_option(option)
    if option.startswith("--"):
        return name, option.partition("=")[2]
    return name, option[2:].lstrip(" =")


def _directive(name: str, value: str) -> str:
    """A directive as sbatch reads it: quotes and backslashes as in a shell, nothing else."""
    if re.search(r"[\n\r\0]", name + value):
        raise ClusterError(f"{value!r} cannot stand in a job script: it holds a line end.")
    if value and not re.fullmatch(r"[\w@%+=:,./\[\]-]+", value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}" + (f"={value}" if value else "")


def _plain(path: Path) -> str:
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


def _threads(ask: Ask) -> str:
    return "export " + " ".join(f"{name}_NUM_THREADS={ask.cpus}" for name in _THREADS)


def _python(ask: Ask) -> str:
    # -P: the folder at hand must not hide modules of the standard library.
    return f"{shlex.quote(ask.python)} -P -m slurm.submissions.task"
