"""Random harms to submissions on a real SLURM, one after the other, and what becomes of them.

Whatever is done, the result is there in the end, with the right bytes, by what a user would do:
wait, and resume what was cancelled.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import hpcio
import slurm as slurm_side
from hpcio.errors import ClusterError, HpcioError, PlanError
from slurm.submissions.queue import read_queue
from tests.rigs.cluster_bench import OPTIONS, ClusterBench
from tests.rigs.slurm import Slurm, until
from tests.rigs.waiting import PATIENCE

# How long the function takes for a trial, in seconds, and how many trials there are.
EACH, TRIALS = 0.05, 240
NODES = 4
WRITERS = ("virtual", "direct", "mutex")
# Which lets a trial take some time, and is otherwise that of the bench.
SLOW = "\n\ndef slow(trial):\n    called(trial)\n    time.sleep({each})\n    return 2.0 * trial\n"


class Harm(NamedTuple):
    """What was done, and how many trials were computed more than once in the end.

    Attributes
    ----------
    kind, writer : str
    seed : int
    repeated : int
    resumed : int
        How often the run had to be resumed by hand.
    """

    kind: str
    writer: str
    seed: int
    repeated: int
    resumed: int


class Harms:
    """Runs on one SLURM that are harmed.

    Parameters
    ----------
    slurm : Slurm
    folder : path
        Where runs lie; a shared file system, perhaps.
    notes : path
        See `tests.rigs.bench.Bench`.
    writers : sequence of str
        Those that may write there.
    """

    def __init__(
        self, slurm: Slurm, folder: Path, notes: Path, writers: Sequence[str] = WRITERS
    ) -> None:
        self.slurm, self.folder, self.notes, self.writers = slurm, folder, notes, writers
        self._looked = time.monotonic()

    def run(self, seed: int) -> Harm:
        """One run that is harmed once, and checked."""
        chosen = random.Random(seed)
        kind, writer = chosen.choice(sorted(KINDS)), chosen.choice(self.writers)
        folder, notes = self.folder / str(seed), self.notes / str(seed)
        folder.mkdir()
        notes.mkdir(exist_ok=True)
        bench = ClusterBench(folder, notes=notes, trials=TRIALS, rows=5)
        with open(folder / f"{bench.module}.py", "a") as f:
            f.write(SLOW.format(each=EACH))
        plan = bench.plan("slow", out_shape=(5, 4), out_dtype="f8", writer=writer)
        slurm_side.submit(plan, tasks=chosen.randint(2, 6), **{**OPTIONS, "stale": 15.0})
        at = chosen.randrange(1, TRIALS * 3 // 4)
        until(lambda: self._let_nodes_work() or len(bench.calls) >= at, f"{at} trials")
        KINDS[kind](self, bench, chosen)
        resumed = self._come_to_an_end(bench)
        bench.check()
        return Harm(kind, writer, seed, len(bench.calls) - len(set(bench.calls)), resumed)

    def _come_to_an_end(self, bench: ClusterBench) -> int:
        """Wait, and resume as often as what is said says so."""
        for resumed in range(6):
            run = slurm_side.attach(bench.out)
            self._wait(run)
            if bench.out.exists():
                return resumed
            # Who publishes may be a task that SLURM knows no more; it is waited for, as is said.
            until(partial(self._goes_on, bench, run), "the end of who is at work")
        raise AssertionError(f"not published: {bench.logs()}")

    @staticmethod
    def _goes_on(bench: ClusterBench, run: slurm_side.Submitted) -> bool:
        """Whether the run is done, or could be resumed: nobody else was at work."""
        if bench.out.exists():
            return True
        try:
            run.resume()
        except PlanError as error:
            if "is at work in another process. Wait for it" not in str(error):
                raise
            return False
        return True

    def _wait(self, run: slurm_side.Submitted) -> None:
        """Wait until no job is left."""
        end = time.monotonic() + 3 * PATIENCE
        while True:
            try:
                return run.wait(timeout=30)
            except TimeoutError:
                if time.monotonic() > end:
                    raise
            self._let_nodes_work()

    def _let_nodes_work(self) -> None:
        """Do now and then what an administrator does about drained nodes and jobs that are held.

        A controller that has lost jobs may give their numbers to others; SLURM then drains nodes
        that have both, and holds the new ones.
        """
        if time.monotonic() < self._looked + 20:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(RuntimeError):  # most are not drained
            self.slurm.call("scontrol", "update", f"NodeName=n[1-{NODES}]", "State=RESUME")
        for line in self.slurm.call("squeue", "--noheader", "--format=%F %r").splitlines():
            job, _, reason = line.partition(" ")
            if "held" in reason:
                with contextlib.suppress(RuntimeError):
                    self.slurm.call("scontrol", "release", job)

    # ---- what is done

    def workers(self, bench: ClusterBench) -> list[int]:
        """Processes of tasks that have worked and live."""
        return [pid for pid in {c.pid for c in bench.all_calls} if os.path.exists(f"/proc/{pid}")]

    def kill(self, bench: ClusterBench, chosen: random.Random, *, which: str) -> None:
        """Kill the process that works, the one that waits for it, or both."""
        for worker in chosen.sample(pids := self.workers(bench), min(1, len(pids))):
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{worker}/stat").read_text()
                watcher = int(text.rpartition(")")[2].split()[1])
                if which == "both":
                    os.kill(watcher, signal.SIGSTOP)
                if which != "watcher":
                    os.kill(worker, signal.SIGKILL)
                if which != "worker":
                    os.kill(watcher, signal.SIGKILL)

    def stop(self, bench: ClusterBench, chosen: random.Random) -> None:
        """Stop a process for some seconds, as a node does that has no time."""
        for worker in chosen.sample(pids := self.workers(bench), min(1, len(pids))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(chosen.uniform(0.5, 4))
                os.kill(worker, signal.SIGCONT)

    def of_task(self, bench: ClusterBench, chosen: random.Random, *words: str) -> None:
        """Have SLURM do something to a task that runs."""
        found = read_queue(hpcio.Plan.load(bench.out))
        rows = [r for r in (found.rows if found else ()) if r.task is not None and r.alive]
        for row in chosen.sample(rows, min(1, len(rows))):
            with contextlib.suppress(RuntimeError):  # it has just ended
                self.slurm.call(*words, f"{row.job}_{row.index}")

    def node(self, bench: ClusterBench, chosen: random.Random) -> None:
        """Kill a slurmd, and start it again."""
        number = chosen.randint(1, NODES)
        self.slurm.kill(f"slurmd-n{number}")
        time.sleep(chosen.uniform(0, 3))
        self.slurm.start_node(number)

    def controller(self, bench: ClusterBench, chosen: random.Random) -> None:
        """Kill slurmctld, perhaps before it has saved the jobs, and start it again."""
        self.slurm.kill("slurmctld")
        time.sleep(chosen.uniform(0, 3))
        self.slurm.start_controller()
        self.slurm.wait_for_answer()

    def cancel_and_resume(self, bench: ClusterBench, chosen: random.Random) -> None:
        run = slurm_side.attach(bench.out)
        run.cancel()
        if not bench.out.exists():
            run.resume()

    def resume_twice(self, bench: ClusterBench, chosen: random.Random) -> None:
        """Two people resume what was cancelled, at once: one of them is refused."""
        slurm_side.attach(bench.out).cancel()
        refused: list[BaseException] = []

        def resume() -> None:
            try:
                slurm_side.attach(bench.out).resume()
            except (PlanError, ClusterError) as error:
                refused.append(error)
            except HpcioError as error:
                raise AssertionError("refused for something else") from error

        both = [threading.Thread(target=resume) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert len(refused) <= 1 or bench.out.exists()


KINDS: dict[str, Callable[[Harms, ClusterBench, random.Random], None]] = {
    "a worker is killed": lambda h, b, c: h.kill(b, c, which="worker"),
    "a watcher is killed": lambda h, b, c: h.kill(b, c, which="watcher"),
    "a task is killed": lambda h, b, c: h.kill(b, c, which="both"),
    "a worker is stopped": Harms.stop,
    "a task is cancelled": lambda h, b, c: h.of_task(b, c, "scancel"),
    "a task is requeued": lambda h, b, c: h.of_task(b, c, "scontrol", "requeue"),
    "a node goes": Harms.node,
    "the controller goes": Harms.controller,
    "cancelled and resumed": Harms.cancel_and_resume,
    "resumed by two": Harms.resume_twice,
}
