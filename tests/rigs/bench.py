"""A recording, a function that can be held, and runs of it that are checked to the last bit."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

import hpcio
from tests.rigs.support import ended, kill, run, start
from tests.rigs.waiting import until

TRIALS, ROWS, CHANNELS = 12, 5, 3
FILTERS = ["gzip:1", "gzip+shuffle", "lzf", "zstd", "lz4", "blosc-lz4+shuffle"]

# Each way to store the results of trials that any machine has, and averages.
WRITERS: dict[str, dict[str, Any]] = {
    "a file a batch": {"sources": "task"},
    "a file a trial": {"sources": "trial"},
    "packed": {"sources": "task", "compression": "zstd"},
    "packed trials": {"sources": "trial", "compression": "gzip"},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"},
}
STORED: dict[str, dict[str, Any]] = {**WRITERS, "averages": {"keeptrials": False}}

# The first sample of a trial is its number. `double` tells of each call in the file `calls`. In a
# trial that has a file `hold-NUMBER` it waits until that is gone; so it does in any trial of an
# array task that has a file `hold-task-INDEX`. With `stuck-NUMBER` it waits, too, and catches all
# that is raised in it. With `stop-NUMBER` it stops the run as Ctrl-C does; `raise-NUMBER` and
# `die-NUMBER` speak for themselves. With `step-NUMBER` it kills its process and the one that waits
# for it; with `freeze-NUMBER` its process stops, and with `spin-NUMBER` it stays in C for ever.
# With `greedy-NUMBER` and `shared-NUMBER` it takes as many MB as the file says, of its own
# memory or of what processes may share, which only cgroups count. With a file `meet-2` it waits
# until two nodes are at work: or one might do it all before the other has begun. When a process has
# been told of its near end,
# there is a file `told-PID`.
WORK = """
import mmap
import os
import signal
import time

HERE = {notes!r}


def note_what_is_told():
    before = signal.getsignal(signal.SIGUSR1)
    if not callable(before) or hasattr(before, "noted"):
        return

    def told(number, frame):
        before(number, frame)
        open(f"{{HERE}}/told-{{os.getpid()}}", "w").close()

    told.noted = True
    signal.signal(signal.SIGUSR1, told)


def marked(what, whom):
    return os.path.exists(f"{{HERE}}/{{what}}-{{whom}}")


def asked(what, whom):
    with open(f"{{HERE}}/{{what}}-{{whom}}") as f:
        return int(f.read()) << 20


def called(trial):
    number = int(trial[0, 0])
    known = ("SLURM_ARRAY_TASK_ID", "-1"), ("SLURM_RESTART_COUNT", "0"), ("SLURMD_NODENAME", "-")
    words = [str(number), str(os.getpid()), *(os.environ.get(*each) for each in known)]
    with open(f"{{HERE}}/calls", "ab", buffering=0) as calls:
        calls.write((" ".join(words) + "\\n").encode())
    return number


def nodes():
    with open(f"{{HERE}}/calls") as calls:
        return {{line.split()[-1] for line in calls}}


def double(trial, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    note_what_is_told()
    number, task = called(trial), os.environ.get("SLURM_ARRAY_TASK_ID")
    while marked("meet", 2) and len(nodes()) < 2:
        time.sleep(0.005)
    while marked("hold", number) or (task and marked("hold-task", task)):
        time.sleep(0.002)
    while marked("stuck", number):
        try:
            time.sleep(0.01)
        except BaseException:
            pass
    if marked("stop", number):
        raise KeyboardInterrupt
    if marked("raise", number):
        raise ValueError("sick")
    if marked("die", number):
        os._exit(7)
    for code in (0, 1, 75, 143):
        if marked("exit-" + str(code), number):
            os._exit(code)
    if marked("step", number):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of SLURM, as soon as the other one is gone
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if marked("freeze", number):
        os.kill(os.getpid(), signal.SIGSTOP)
    if marked("spin", number):
        sum(range(10**13))
    if marked("greedy", number):
        taken = bytearray(asked("greedy", number))
    if marked("shared", number):
        taken = mmap.mmap(-1, asked("shared", number))
        for at in range(0, len(taken), 4096):
            taken[at] = 1
    return 2.0 * trial


def scaled(trial, mark, *, factor):
    return trial * factor[mark]
"""


class Call(NamedTuple):
    """One call of the function, and where it was: task -1 is none of SLURM."""

    trial: int
    pid: int
    task: int
    restarts: int
    node: str


def record(
    path: Path, trials: int = TRIALS, *, rows: int = ROWS, channels: int = CHANNELS
) -> np.ndarray:
    """A recording `lfp` of equal trials, each of which begins with its number."""
    lfp = np.random.default_rng(7).normal(size=(trials * rows, channels))
    lfp[::rows, 0] = np.arange(trials)
    with h5py.File(path, "w") as f:
        f["lfp"] = lfp
    return lfp


class Bench:
    """A folder with a recording, a module of functions, and the plan of a run.

    Parameters
    ----------
    folder : path
    notes : path, optional
        Where calls are noted, and files lie that hold the function: all processes must see them
        at once, whatever file system the folder is on. By default there.
    trials, rows, channels : int
        Of the recording.
    **options
        Of every plan.
    """

    def __init__(
        self,
        folder: Path,
        *,
        notes: Path | None = None,
        trials: int = TRIALS,
        rows: int = ROWS,
        channels: int = CHANNELS,
        **options: Any,
    ) -> None:
        self.folder, self.notes = folder, notes or folder
        self.trials, self.rows = trials, rows
        self.options = {"sources": "task", **options}
        self.out = folder / "out.h5"
        self.lfp = record(folder / "rec.h5", trials, rows=rows, channels=channels)
        # A name of its own: this process imports the modules of many tests.
        self.module = f"work_{secrets.token_hex(6)}"
        (folder / f"{self.module}.py").write_text(WORK.format(notes=str(self.notes)))
        (self.notes / "calls").touch()

    @property
    def sources(self) -> str:
        return str(self.options["sources"])

    # -- what the function is at

    @property
    def all_calls(self) -> list[Call]:
        """All calls of the function so far, in order."""
        lines = (self.notes / "calls").read_text().split("\n")[:-1]
        words = [line.split() for line in lines]
        return [Call(*map(int, numbers), node) for *numbers, node in words]

    @property
    def calls(self) -> list[int]:
        """The trials that the function was called with, in order."""
        return [call.trial for call in self.all_calls]

    def pid(self, trial: int) -> int:
        """The process that was last at work on a trial."""
        return next(call.pid for call in reversed(self.all_calls) if call.trial == trial)

    def forget_calls(self) -> None:
        (self.notes / "calls").write_bytes(b"")

    def mark(self, what: str, *whom: object) -> None:
        """Let the function do something, in some trials."""
        for one in whom:
            (self.notes / f"{what}-{one}").touch()

    def ask(self, what: str, trial: int, megabytes: int) -> None:
        """Let the function take so much memory in a trial."""
        (self.notes / f"{what}-{trial}").write_text(str(megabytes))

    def clear(self, what: str, *whom: object) -> None:
        """Take marks away; without numbers, all of them."""
        for name in [f"{what}-{one}" for one in whom] or [f"{what}-*"]:
            for path in self.notes.glob(name):
                path.unlink()

    def hold(self, *trials: object) -> None:
        """Let the function wait in these trials, and in no other."""
        self.clear("hold")
        self.mark("hold", *trials)

    def stop(self, *trials: object) -> None:
        """Let the function stop the run in these trials, and in no other."""
        self.clear("stop")
        self.mark("stop", *trials)

    def told(self, pid: int) -> bool:
        """Whether a process has heard of its near end."""
        return (self.notes / f"told-{pid}").exists()

    # -- runs

    def plan(self, func: str = "double", **options: Any) -> hpcio.Plan:
        options = {"trials": self.rows, "out": self.out, **self.options, **options}
        name = f"{self.folder}/{self.module}.py:{func}"
        return hpcio.Plan.create(name, f"{self.folder}/rec.h5::/lfp", **options)

    def script(
        self, *, workers: int, func: str = "double", options: str = "", **of_plan: Any
    ) -> str:
        """A script that plans and runs, the first time as every other."""
        planned = {"trials": self.rows, "out": "out.h5", **self.options, **of_plan}
        words = ", ".join(f"{name}={value!r}" for name, value in planned.items())
        return (
            "import hpcio\n"
            f"plan = hpcio.Plan.create('{self.module}.py:{func}', 'rec.h5::/lfp', {words})\n"
            f"print(plan.run(workers={workers}{options}))\n"
        )

    def start(self, **options: Any) -> subprocess.Popen[str]:
        return start(self.script(**options), self.folder)

    def kill_in(self, trial: int, **options: Any) -> None:
        """Run, and kill all of it while a trial is computed."""
        self.hold(trial)
        with ended(self.start(**options)) as child:
            until(lambda: trial in self.calls, "the trial")
            kill(child)
        self.hold()

    def run(self, **options: Any) -> str:
        return run(self.script(**options), self.folder)

    @property
    def expected(self) -> np.ndarray:
        if self.options.get("keeptrials", True):
            return 2.0 * self.lfp
        total = np.zeros((self.rows, self.lfp.shape[1]))
        for trial in np.split(2.0 * self.lfp, self.trials):  # in this order, a group a trial
            total += trial
        return total / self.trials

    def check(self, out: Path | None = None) -> None:
        """The result is whole, and the same bytes as those of any other run."""
        out = out or self.out
        with hpcio.open(out) as f:
            assert f["data"].dtype == self.expected.dtype
            assert f["data"][...].tobytes() == self.expected.tobytes()
            assert f["trials"]["done"].all()
            assert f["trials"]["first"].tolist() == list(range(0, len(self.lfp), self.rows))
        assert hpcio.verify(out).blocks == self.trials
