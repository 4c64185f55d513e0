"""Submissions: the plan on the shared filesystem is all that array tasks need.

Nothing is left running on the login node. One job array computes; a job that waits for its end,
the finalizer, puts the result together.
"""

from __future__ import annotations

import getpass
import inspect
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.errors import ClusterError, PlanError
from hpcio.files.slab import as_output_error
from hpcio.journals import rundir
from hpcio.journals.ledger import Ledger
from hpcio.machine.filesystems import look_again, write_whole
from hpcio.planning.limits import check_disk, parse_bytes
from hpcio.planning.plan import Plan
from hpcio.results.opening import open as open_result
from hpcio.results.publishing import publish
from hpcio.running.run import Nobody
from hpcio.writers import module_of, needs_ranks
from slurm.mapping import (
    BASE_TASK,
    Array,
    Mapping,
    arrays_of,
    check_memory,
    check_walltime,
    map_blocks,
    measured_speed,
)
from slurm.site.commands import call
from slurm.site.config import settings
from slurm.site.partitions import Site, parse_time, read_site
from slurm.submissions import records as submissions
from slurm.submissions.queue import FIRST_LOOK, LAST_LOOK, Queue, read_queue
from slurm.submissions.records import Jobs, Submission
from slurm.submissions.records import jobs as jobs_of
from slurm.submissions.script import Ask, array_script, check_options, finish_script, ranks_script

__all__ = [
    "Submitted",
    "attach",
    "log_files",
    "scripts",
    "submit",
    "write_scripts",
    "write_submission",
]


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted.

    Attributes
    ----------
    out : str
        The result, whose run directory holds all there is to know.
    """

    out: str

    def status(self) -> Any:
        """How far it is, from its journals; see `hpcio.watching.status`."""
        from hpcio.watching.status import status

        return status(self.out)

    def queue(self) -> Queue | None:
        """What SLURM says of its jobs."""
        return read_queue(Plan.load(self.out))

    def wait(self, *, timeout: float | None = None) -> None:
        """Wait until no job of the run is left.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at the most.

        Raises
        ------
        TimeoutError
            If jobs are left then.
        """
        end = None if timeout is None else time.monotonic() + timeout
        delay = FIRST_LOOK
        while self._at_work():
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"'{self.out}' is not finished after {timeout:.0f} s.")
            time.sleep(delay)
            delay = min(delay * 1.5, LAST_LOOK)

    def _at_work(self) -> bool:
        try:
            return _jobs_left(Plan.load(self.out))
        except ClusterError:  # it does not answer: no news is no end
            return True

    def result(self, *, timeout: float | None = None) -> Any:
        """Wait for the result and open it, as `hpcio.open` does.

        Raises
        ------
        BlocksFailed
            If blocks failed, or their tasks did not live to compute them.
        TimeoutError
        """
        self.wait(timeout=timeout)
        look_again(self.out)
        if not Path(self.out).exists():
            # Says which blocks are missing, and why.
            Plan.load(self.out).run(Nobody(), progress=False)
        return open_result(self.out)

    def cancel(self) -> None:
        """Cancel all jobs of the run; what is done is kept, and can be resumed."""
        plan = Plan.load(self.out)
        found = read_queue(plan)
        if found is not None and found.trouble:
            raise ClusterError(found.trouble)
        jobs = sorted({row.job for row in found.rows if row.alive}) if found else []
        if jobs:
            call(["scancel", "--quiet", *map(str, jobs)])

    def resume(self, **options: Any) -> Submitted:
        """Submit what is missing; options as for `submit`, by default as the last time."""
        plan = Plan.load(self.out)
        last = submissions.newest(plan)
        asked = {**(last.options if last else {}), **options}
        return submit(plan, **asked)


def attach(out: str | os.PathLike[str]) -> Submitted:
    """A run that was submitted before, by whomever.

    Examples
    --------
    >>> slurm.attach("out.h5").wait()                                # doctest: +SKIP
    """
    return Submitted(Plan.load(out).out)


def submit(
    plan: Plan,
    *,
    tasks: int | None = None,
    partition: str | None = None,
    memory: str | None = None,
    walltime: str | None = None,
    cpus: int | None = None,
    throttle: int | None = None,
    name: str | None = None,
    retries: int = 0,
    max_failed: int | None = None,
    gaps: bool = False,
    prologue: str | None = None,
    sbatch: Sequence[str] = (),
    probe: bool = False,
    signal: int | None = None,
    stale: float | None = None,
    ranks: int | None = None,
    launcher: str | None = None,
) -> Submitted:
    """Submit what a plan lacks as one job array, and a finalizer behind it.

    What is not given comes from the file of `slurm.site.config`, then from SLURM's own defaults.

    Parameters
    ----------
    plan : Plan
    tasks : int, optional
        Array tasks at the most.
    partition : str, optional
        ``"auto"`` takes the smallest that fits.
    memory : str, optional
        Of a task, such as ``"8GB"``.
    walltime : str, optional
        Of a task, such as ``"01:00:00"``; longer runs start their tasks again.
    cpus : int, optional
        Of a task, for threads of numerical libraries.
    throttle : int, optional
        How many tasks may run at a time.
    name : str, optional
        Of the jobs.
    retries, max_failed, gaps
        As for `Plan.run`.
    prologue : str, optional
        Shell that comes before Python, such as ``"module load hdf5"``.
    sbatch : sequence of str
        Further options of sbatch, such as ``["--qos=high", "--gres=gpu:1"]``.
    probe : bool
        Compute a few trials here first, and refuse a walltime that is too short for one.
    signal : int, optional
        So many seconds before its end a task is told so; at least 90 for SLURM's clock.
    stale : float, optional
        A task without a sign of life for so many seconds counts as dead.
    ranks : int, optional
        Submit one MPI job of so many ranks instead of a job array; then memory and cpus are
        those of a rank.
    launcher : str, optional
        What starts them: by default ``mpirun``, or such as ``"srun --mpi=pmix"``.

    Returns
    -------
    Submitted

    Raises
    ------
    ClusterError
        If there is no SLURM here, or it refuses, in its own words.
    PlanError
        If the run is at work already.
    MemoryLimitError, TimeLimitError
        If the largest block does not fit into a task.

    Examples
    --------
    >>> run = submit(plan, tasks=64, memory="8GB", walltime="01:00:00")  # doctest: +SKIP
    >>> with run.result() as f:                                      # doctest: +SKIP
    ...     print(f["data"].shape)
    """
    options = {
        "tasks": tasks, "partition": partition, "memory": memory, "walltime": walltime,
        "cpus": cpus, "throttle": throttle, "prologue": prologue, "signal": signal,
        "stale": stale, "sbatch": list(sbatch) or None, "name": name, "retries": retries,
        "max_failed": max_failed, "gaps": gaps, "ranks": ranks, "launcher": launcher,
    }  # fmt: skip
    return _submit(plan, options, send=_send, probe=probe)


def write_scripts(plan: Plan, **options: Any) -> Submitted:
    """Write the scripts of a submission into the run directory, and submit nothing.

    ``sbatch OUT.run/array.sh`` works as it stands.

    Parameters
    ----------
    plan : Plan
    **options
        As for `submit`.
    """
    return _submit(plan, _known(options), send=lambda *_: None)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Options that `submit` has, as they are kept."""
    unknown = options.keys() - inspect.signature(submit).parameters
    if unknown:
        raise TypeError(f"submit() has no option {', '.join(sorted(unknown))}")
    return {k: list(v) if k == "sbatch" else v for k, v in options.items()}


def _effective(options: dict[str, Any], site: Site) -> dict[str, Any]:
    """What was asked for, and the defaults of the user for the rest."""
    values = {**settings(site.cluster).values, "ranks": None}
    return {**values, **{k: v for k, v in options.items() if k in values and v is not None}}


def _submit(
    plan: Plan,
    options: dict[str, Any],
    *,
    send: Callable[[Plan, Submission], None],
    probe: bool = False,
) -> Submitted:
    site = read_site()
    asked = _effective(options, site)
    ask = _ask(plan, site, asked, name=options.get("name"))
    _check(plan, ask, probe=probe)
    plan = rundir.prepare(plan)
    with rundir.held(plan):
        look_again(plan.out)
        if Path(plan.out).exists():
            return Submitted(plan.out)
        if _jobs_left(plan):
            raise PlanError(
                f"'{plan.out}' is at work in the queue already. Wait for it, or cancel it first: "
                f"hpcio cancel {shlex.quote(plan.out)}"
            )
        ledger = Ledger.read_trusted(plan)
        missing = ledger.missing()
        if not missing.size:
            publish(ledger)
            return Submitted(plan.out)
        check_disk(plan, missing)
        module_of(plan).reserve(plan)
        most = _most_tasks(site, asked)
        chosen = {k: v for k, v in options.items() if v is not None}
        while True:
            made = write_submission(
                plan, site, ask, missing, ledger, tasks=most, options=chosen,
                stale=float(asked["stale"]),
            )  # fmt: skip
            try:
                send(plan, made)
                return Submitted(plan.out)
            except ClusterError as error:
                # Fewer tasks of more chunks may be within the limit that the site has set.
                if most == 1 or not re.search(r"MaxSubmit|submit limit", str(error)):
                    raise
                most //= 2


def scripts(plan: Plan, **options: Any) -> list[str]:
    """The job scripts that `submit` would write, the finalizer's last; nothing is written.

    Parameters
    ----------
    plan : Plan
    **options
        As for `submit`.
    """
    site = read_site()
    asked = _effective(_known(options), site)
    ask = _ask(plan, site, asked, name=options.get("name"))
    _check(plan, ask, probe=False)
    ranks = options.get("ranks")
    mapping = _map(plan, np.arange(len(plan)), tasks=_most_tasks(site, asked), ranks=ranks)
    arrays = arrays_of(mapping.tasks, max_array_size=site.max_array_size)
    texts = [_script_of(plan, ask, a, submission=1, ranks=ranks) for a in arrays]
    return [*texts, finish_script(plan, ask, submission=1)]


def _script_of(plan: Plan, ask: Ask, array: Array, *, submission: int, ranks: int | None) -> str:
    if ranks is not None:
        return ranks_script(plan, ask, submission=submission, ranks=ranks)
    return array_script(plan, ask, submission=submission, first=array.first, size=array.size)


def _ask(plan: Plan, site: Site, asked: dict[str, Any], *, name: str | None) -> Ask:
    """What tasks ask for, held against what the site has."""
    for option in ("tasks", "cpus", "throttle", "ranks"):
        if asked.get(option) is not None and asked[option] < 1:
            raise PlanError(f"{option}={asked[option]} makes no sense. Use 1 or more.")
    check_options(asked["sbatch"])
    if needs_ranks(plan) and asked.get("ranks") is None:
        raise PlanError(
            f"writer='{plan.writer}' writes from the ranks of one MPI job, not from array tasks. "
            "Ask for ranks=R (in the shell: --mpi --ntasks R), or use writer='direct'."
        )
    seconds = None if asked["walltime"] is None else parse_time(asked["walltime"])
    memory = None if asked["memory"] is None else parse_bytes(asked["memory"])
    partition = asked["partition"]
    if partition == "auto":
        partition = site.smallest_fitting(
            cpus=asked["cpus"], memory=memory or 0, seconds=seconds
        ).name
    elif partition is not None:
        site.partition(partition)
    lead = int(asked["signal"])
    return Ask(
        partition=partition, seconds=seconds, memory=memory, cpus=asked["cpus"],
        throttle=asked["throttle"], name=name or f"hpcio {Path(plan.out).stem}",
        signal=lead if seconds is None else max(1, min(lead, seconds // 2)),
        sbatch=tuple(asked["sbatch"]), prologue=asked["prologue"], launcher=asked["launcher"],
    )  # fmt: skip


def _most_tasks(site: Site, asked: dict[str, Any]) -> int:
    # sbatch would wait in vain for room that the controller does not have for all.
    return min(int(asked["tasks"]), max(1, site.max_jobs // 2))


def _check(plan: Plan, ask: Ask, *, probe: bool) -> None:
    if ask.memory is not None:
        check_memory(plan, ask.memory, base=BASE_TASK)
    if probe and ask.seconds is not None:
        check_walltime(plan, ask.seconds - ask.signal, bytes_per_second=measured_speed(plan))


def _map(plan: Plan, missing: np.ndarray, *, tasks: int, ranks: int | None = None) -> Mapping:
    if ranks is not None:  # they share out the work among themselves
        return Mapping((missing,), np.zeros(1, np.int64))
    work = (plan.input_sizes() + plan.target.sizes())[missing]
    return map_blocks(missing, work, tasks=tasks, unit=plan.unit)


def write_submission(
    plan: Plan,
    site: Site,
    ask: Ask,
    missing: np.ndarray,
    ledger: Ledger,
    *,
    tasks: int,
    options: dict[str, Any],
    stale: float,
) -> Submission:
    """Write the scripts and what they need, which is all that a submission is.

    Parameters
    ----------
    plan : Plan
        Its run directory exists.
    site : Site
    ask : Ask
    missing : numpy.ndarray of int
        The blocks to do.
    ledger : Ledger
        As it is before.
    tasks : int
    options : dict
        Of `submit`, to be kept.
    stale : float

    Returns
    -------
    Submission
    """
    number = max(submissions.numbers(plan), default=0) + 1
    ranks: Any = options.get("ranks")
    mapping = _map(plan, missing, tasks=tasks, ranks=ranks)
    arrays = arrays_of(mapping.tasks, max_array_size=site.max_array_size)
    folder = plan.run_directory
    kind = "array" if ranks is None else "ranks"
    names = [f"{kind}{'' if k == 0 else f'-{k + 1}'}.sh" for k in range(len(arrays))]
    try:
        for name in ("claims", "beats", "logs", "usage"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        for name, array in zip(names, arrays, strict=True):
            text = _script_of(plan, ask, array, submission=number, ranks=ranks)
            write_whole(folder / name, text.encode(), mode=0o700)
        text = finish_script(plan, ask, submission=number)
        write_whole(folder / "finish.sh", text.encode(), mode=0o700)
    except OSError as error:
        raise as_output_error(error, folder) from error
    made = Submission(
        number=number, token=plan.token, cluster=site.cluster, user=getpass.getuser(),
        time=time.time(), tasks=mapping.tasks, arrays=arrays,
        script=tuple(str(folder / name) for name in names),
        finish_script=str(folder / "finish.sh"), options=options, cpus=ask.cpus,
        memory=ask.memory, seconds=ask.seconds, signal=ask.signal, stale=stale,
        retries=int(options.get("retries", 0)),
        max_failed=options.get("max_failed", max(100, len(plan) // 10)),
        gaps=bool(options.get("gaps")), known=tuple(log.path.name for log in ledger.logs),
        ranks=ranks,
    )  # fmt: skip
    submissions.write(plan, made, mapping)
    return made


def _send(plan: Plan, made: Submission) -> None:
    """Call sbatch for each array, then for the finalizer; if one is refused, for none."""
    sent: list[int] = []
    try:
        for script in made.script:
            sent.append(_sbatch([script]))  # noqa: PERF401  (those sent count if one fails)
        after = ":".join(map(str, sent))
        finish = _sbatch(
            [f"--dependency=afterany:{after}", "--kill-on-invalid-dep=yes", made.finish_script]
        )
    except BaseException:
        if sent:
            call(["scancel", "--quiet", *map(str, sent)])
        raise
    submissions.note_jobs(plan, made.number, Jobs(tuple(sent), finish))


def _sbatch(arguments: Sequence[str]) -> int:
    answer = call(["sbatch", "--parsable", *arguments])
    match = re.match(r"(\d+)", answer)
    if match is None:
        raise ClusterError(f"'sbatch' gives no number of a job. It says: {answer.strip()}")
    return int(match[1])


# What a log holds when something went wrong: words of ours, of Python, of SLURM.
_TROUBLE = re.compile(rb"^(hpcio: |Traceback |slurmstepd: error)", re.MULTILINE)


def log_files(plan: Plan, submission: Submission, *, task: int | None = None) -> list[Path]:
    """Logs of a submission, oldest first.

    Parameters
    ----------
    plan : Plan
    submission : Submission
    task : int, optional
        Of this array task; by default of all in which something went wrong.
    """
    folder = plan.run_directory / "logs"
    found = jobs_of(plan, submission.number)
    if task is not None:
        if not 0 <= task < submission.tasks:
            raise PlanError(f"There is no task {task}; they are 0 to {submission.tasks - 1}.")
        k = max(k for k, array in enumerate(submission.arrays) if array.first <= task)
        job = str(found.arrays[k]) if found else "*"
        return sorted(folder.glob(f"{job}_{task - submission.arrays[k].first}.log"))
    paths = [p for p in folder.glob("*.log") if re.fullmatch(r"\d+_\d+|finish-\d+", p.stem)]
    if found:
        ours = {*map(str, found.arrays), f"finish-{found.finish}"}
        paths = [p for p in paths if p.stem in ours or p.stem.partition("_")[0] in ours]
    wrong = [p for p in paths if _TROUBLE.search(p.read_bytes()) or p.stem.startswith("finish")]
    return sorted(wrong, key=lambda p: p.stat().st_mtime)


def _jobs_left(plan: Plan) -> bool:
    """Whether SLURM has jobs of a run that wait or run."""
    found = read_queue(plan)
    if found is None:
        return False
    if found.trouble:
        raise ClusterError(found.trouble)
    return any(row.alive for row in found.rows)
