"""What ``hpcio status`` says of jobs, on a real SLURM."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import hpcio
from hpcio.errors import PlanError
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import open_journal
from hpcio.journals.rundir import prepare
from hpcio.watching.state import as_json, working
from hpcio.watching.watcher import queues, status
from slurm.mapping import JobArray
from slurm.submissions.records import Submission
from slurm.submissions.status import SlurmQueue, queue
from tests.rigs.bench import ROWS, Bench
from tests.rigs.slurm import Slurm, until
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm

WAIT = """\
#!/bin/sh
while [ ! -e {go} ]; do sleep 0.1; done
"""


class ByHand:
    """A run that was submitted, by hand: its tasks wait for a file `go`, its finalizer does not."""

    def __init__(self, slurm: Slurm, path: Path) -> None:
        self.slurm = slurm
        path.mkdir(parents=True, exist_ok=True)
        self.bench = Bench(path)
        self.plan = prepare(self.bench.plan(out_shape=(ROWS, 3), out_dtype="f8"))
        self.run = self.plan.run_directory
        self.go = path / "go"
        self.script("array.sh", WAIT.format(go=self.go))
        self.script("array-2.sh", WAIT.format(go=self.go))
        self.script("finish.sh", "#!/bin/sh\n")

    def script(self, name: str, text: str) -> str:
        path = self.run / name
        path.write_text(text)
        return str(path)

    def submission(self, number: int = 1, *sizes: int) -> None:
        """Note a submission, as it is before sbatch is called."""
        sizes = sizes or (4,)
        arrays = tuple(JobArray(sum(sizes[:k]), size) for k, size in enumerate(sizes))
        names = ["array.sh", *(f"array-{k + 2}.sh" for k in range(len(sizes) - 1))]
        made: dict[str, Any] = {
            "number": number, "run_id": self.plan.run_id, "cluster": "here", "user": "me",
            "time": time.time(), "tasks": sum(sizes), "arrays": arrays,
            "script": tuple(str(self.run / name) for name in names),
            "finish_script": str(self.run / "finish.sh"), "options": {}, "cpus": 1,
            "memory": None, "seconds": None, "signal": 60, "stale": 60.0, "retries": 0,
            "max_failed": 100, "gaps": False, "known": (),
        }  # fmt: skip
        text = json.dumps(dataclasses.asdict(Submission(**made)))
        self.plan.rundir.submissions.mkdir(exist_ok=True)
        (self.plan.rundir.submissions / f"{number}.json").write_text(text)

    def jobs(self, number: int, *arrays: int, finish: int | None = None) -> None:
        """Note the numbers of the jobs, as it is after sbatch."""
        text = json.dumps({"arrays": arrays, "finish": finish})
        (self.plan.rundir.submissions / f"{number}.jobs.json").write_text(text)

    def sbatch(self, *words: str, script: str = "array.sh") -> int:
        said = self.slurm.call(
            "sbatch", "--parsable", "--mem=10M", "--output=/dev/null", *words,
            str(self.run / script),
        )  # fmt: skip
        return int(said)

    def ask(self) -> SlurmQueue:
        found = queue(self.plan)
        assert found is not None
        return found

    def until(self, line: str) -> SlurmQueue:
        """Wait until the line is so, and return all of it."""
        said = []

        def there() -> bool:
            said.append(self.ask())
            return said[-1].line == line

        try:
            until(there, line)
        except AssertionError:
            raise AssertionError(f"{said[-1].line!r} is not {line!r}") from None
        return said[-1]


@pytest.fixture
def place(slurm: Slurm, tmp_path: Path) -> ByHand:
    return ByHand(slurm, tmp_path)


def test_what_was_never_submitted_has_no_queue(place):
    assert queue(place.plan) is None
    assert queues(place.plan) == {}


def test_from_pending_to_ended(place):
    place.submission()
    array = place.sbatch("--hold", "--array=0-3")
    finish = place.sbatch(f"--dependency=afterany:{array}", script="finish.sh")
    place.jobs(1, array, finish=finish)
    tail = f"; finish job {finish} pending (Dependency)"
    found = place.until(f"job array {array}: 4 pending (JobHeldUser){tail}")
    assert found.states == {f"1-{k}": "pending" for k in range(4)}
    assert found.alive == 5
    assert working(status(place.plan.out), [found]) is True

    place.slurm.call("scontrol", "release", f"{array}_1")
    place.slurm.call("scontrol", "release", f"{array}_2")
    line = f"job array {array}: 2 running, 2 pending (JobHeldUser){tail}"
    found = place.until(line)
    assert found.states == {"1-0": "pending", "1-1": "running", "1-2": "running", "1-3": "pending"}
    assert {row.node for row in found.rows if row.state == "RUNNING"} <= {"n1", "n2", "n3", "n4"}

    place.slurm.call("scancel", f"{array}_2")
    line = f"job array {array}: 1 running, 2 pending (JobHeldUser), 1 cancelled{tail}"
    assert place.until(line).states["1-2"] == "cancelled"

    for k in (0, 3):
        place.slurm.call("scontrol", "release", f"{array}_{k}")
    place.go.touch()
    found = place.until(f"job array {array}: 3 ended, 1 cancelled")
    assert found.alive == 0
    assert set(found.states.values()) == {"completed", "cancelled"}
    assert working(status(place.plan.out), [found]) is False

    said = {"run_id": place.plan.run_id, "submission": 1, "status": "incomplete", "done": 0}
    (place.run / "outcome.json").write_text(json.dumps(said))
    found = place.ask()
    assert found.line == (
        f"job array {array}: 3 ended, 1 cancelled; finished: the result is incomplete"
    )
    assert found.outcome == said
    place.submission(2)
    assert place.ask().outcome is None  # that was of the one before


def test_what_slurm_holds_is_said_together_with_the_remedy(place):
    place.submission(1, 1)
    array = place.sbatch("--requeue", "--array=0-0")
    place.jobs(1, array)
    place.until(f"job array {array}: 1 running")
    place.slurm.call("scontrol", "requeuehold", f"{array}_0")
    place.until(
        f"job array {array}: 1 pending (job requeued in held state); "
        f"held until: scontrol release {array}"
    )
    place.slurm.call("scontrol", "release", str(array))
    place.go.touch()
    place.until(f"job array {array}: 1 ended")


def test_how_tasks_ended_is_said(place):
    place.submission()
    place.script("array.sh", "#!/bin/sh\nexit $SLURM_ARRAY_TASK_ID\n")
    array = place.sbatch("--array=0-3")
    place.jobs(1, array)
    found = place.until(
        f"job array {array}: 1 ended, 3 failed; 3 tasks ended before any trial, without a word"
    )
    assert found.states == {"1-0": "completed", **{f"1-{k}": "failed" for k in (1, 2, 3)}}


def test_several_arrays_of_one_submission(place):
    place.submission(1, 3, 2)
    first = place.sbatch("--array=0-2")
    second = place.sbatch("--array=0-1", "--hold", script="array-2.sh")
    place.jobs(1, first, second)
    line = f"job arrays {first}, {second}: 3 running, 2 pending (JobHeldUser)"
    assert place.until(line).states == {
        "1-0": "running", "1-1": "running", "1-2": "running", "1-3": "pending", "1-4": "pending"
    }  # fmt: skip


def test_of_several_submissions_the_newest_counts_and_older_jobs_are_told(place):
    place.submission(1)
    older = place.sbatch("--array=0-2", "--hold")
    place.jobs(1, older)
    for k in (0, 1):
        place.slurm.call("scontrol", "release", f"{older}_{k}")
    place.go.touch()
    # Of the fourth SLURM has never heard, as of one that it has forgotten.
    place.until(f"job array {older}: 1 pending (JobHeldUser), 3 ended")
    place.submission(2)
    newer = place.sbatch("--array=0-3", "--hold")
    place.jobs(2, newer)
    found = place.until(
        f"job array {newer}: 4 pending (JobHeldUser); of submission 1: 1 pending (JobHeldUser)"
    )
    assert found.submission == 2
    assert found.alive == 5
    assert found.states == {
        "1-0": "completed", "1-1": "completed", "1-2": "pending",
        **{f"2-{k}": "pending" for k in range(4)},
    }  # fmt: skip


def test_a_job_is_known_by_its_script(place, tmp_path):
    place.submission()
    foreign = tmp_path / "array.sh"
    shutil.copy(place.run / "array.sh", foreign)
    number = int(place.slurm.call("sbatch", "--parsable", "--mem=10M", "--array=0-3",
                                  "--output=/dev/null", str(foreign)))  # fmt: skip
    place.jobs(1, number)  # SLURM has given the number out again
    found = place.ask()
    assert found.line == "no task of this run in the queue"
    assert (found.alive, found.states, found.rows) == (0, {}, ())
    # A job that was submitted by hand is one of the run.
    mine = place.sbatch("--array=1")
    found = place.until(f"job array {mine}: 1 running, 3 ended")
    assert found.states == {"1-1": "running"}


def test_a_submitter_that_died_before_it_noted_its_jobs(place):
    place.submission(1)
    place.jobs(1, 999_999)
    place.submission(2)
    array = place.sbatch("--array=0-1", "--hold")
    found = place.until(f"job array {array}: 2 pending (JobHeldUser)")
    assert found.states == {"2-0": "pending", "2-1": "pending"}


def test_ended_jobs_of_a_run_that_was_thrown_away_are_not_told(place):
    place.submission()
    place.go.touch()
    first = place.sbatch("--array=0-3")
    place.jobs(1, first)
    place.until(f"job array {first}: 4 ended")
    place.go.unlink()
    second = place.sbatch("--array=0-3", "--hold")
    place.jobs(1, second)  # the number of a new run begins at 1 again
    found = place.until(f"job array {second}: 4 pending (JobHeldUser)")
    assert {row.job for row in found.rows} == {second}


def test_a_run_that_was_moved(place, tmp_path):
    place.submission()
    array = place.sbatch("--array=0-3", "--hold")
    place.jobs(1, array)
    place.until(f"job array {array}: 4 pending (JobHeldUser)")
    there = tmp_path / "there"
    there.mkdir()
    place.run.rename(there / "out.h5.run")
    found = queue(hpcio.Plan.load(str(there / "out.h5")))
    assert found is not None
    assert found.line == f"job array {array}: 4 pending (JobHeldUser)"


def test_a_path_with_blanks(slurm, tmp_path):
    place = ByHand(slurm, tmp_path / "a b, c; d's")
    place.submission()
    array = place.sbatch("--array=0-3", "--hold")
    place.jobs(1, array)
    place.until(f"job array {array}: 4 pending (JobHeldUser)")


def test_starting_over_here_is_refused_while_jobs_wait(place):
    place.submission()
    array = place.sbatch("--array=0-3", "--hold")
    place.jobs(1, array)
    place.until(f"job array {array}: 4 pending (JobHeldUser)")
    before = sorted(place.run.rglob("*"))
    with pytest.raises(PlanError, match=rf"job array {array}: 4 pending.*hpcio cancel"):
        place.plan.run(workers=0, progress=False, fresh=True)
    assert sorted(place.run.rglob("*")) == before


# ---------------------------------------------------------------------- the command


def command(place: ByHand, *words: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of ``hpcio status``."""
    call = "import sys; from hpcio.cli import main; sys.argv[0] = 'hpcio'; main()"
    done = subprocess.run(
        [sys.executable, "-c", call, "status", place.plan.out, *words], capture_output=True,
        text=True, check=False, timeout=PATIENCE,
        env={**os.environ, "COLUMNS": "160", **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


def journal(place: ByHand, label: str, *blocks: int) -> None:
    made = open_journal(place.plan, f"{label}-{os.urandom(4).hex()}", label)
    for block in blocks:
        made.append(DONE, block, compute=0.01)
    made.close()


def rows(said: str) -> list[list[str]]:
    lines = said.split("─\n", 1)[1].split("\n")
    return [line.split() for line in lines if line.startswith("1-")]


def test_the_table_has_a_row_for_each_task(place):
    place.submission()
    array = place.sbatch("--hold", "--array=0-3")
    place.jobs(1, array)
    for k in (2, 3):
        place.slurm.call("scontrol", "release", f"{array}_{k}")
    place.until(f"job array {array}: 2 running, 2 pending (JobHeldUser)")
    place.slurm.call("scancel", f"{array}_3")
    place.until(f"job array {array}: 1 running, 2 pending (JobHeldUser), 1 cancelled")
    journal(place, "1-2", 0, 1, 2)
    code, said = command(place)
    assert code == 0
    assert f"slurm  job array {array}: 1 running, 2 pending" in said
    assert [row[:3] for row in rows(said)] == [
        ["1-3", "cancelled"], ["1-2", "running", "3"], ["1-0", "pending"], ["1-1", "pending"]
    ]  # fmt: skip
    assert "hpcio resume" not in said

    found = json.loads(command(place, "--json")[1])
    assert found["working"] is True
    assert [(w["label"], w["state"]) for w in found["workers"]] == [("1-2", "running")]
    said = found["queues"]["slurm"]
    assert (said["alive"], said["submission"], said["cluster"]) == (3, 1, "here")
    assert {job["label"]: job["state"] for job in said["jobs"]} == {
        "1-0": "PENDING", "1-1": "PENDING", "1-2": "RUNNING", "1-3": "CANCELLED"
    }  # fmt: skip

    place.slurm.call("scancel", str(array))
    until(lambda: place.ask().alive == 0)
    code, said = command(place, "--watch")  # not forever: nobody is at work
    assert code == 0
    assert f"Nobody is at work. Go on with: hpcio resume {place.plan.out}" in said


def test_a_controller_that_is_dead(place):
    place.submission()
    array = place.sbatch("--array=0-3")
    place.jobs(1, array)
    place.until(f"job array {array}: 4 running")
    journal(place, "1-2", 0, 1, 2)
    place.slurm.save()
    place.slurm.kill("slurmctld")
    try:
        code, said = command(place)
        found = json.loads(command(place, "--json")[1])
    finally:
        place.slurm.start_controller()
        place.go.touch()
        place.slurm.wait_for_answer()
    assert code == 0
    assert "slurm  SLURM does not answer: " in said
    assert "trials  3 done (25 %), 0 failed, 9 left" in said
    assert [row[:2] for row in rows(said)] == [["1-2", "3"]]
    assert "If nobody is at work on it, go on with: hpcio resume" in said
    assert found["working"] is None
    assert found["queues"]["slurm"]["alive"] is None
    # It answers again, though it may have forgotten the jobs of its last seconds.
    until(lambda: place.ask().alive == 0)


def test_a_machine_without_slurm(place, monkeypatch):
    place.submission()
    journal(place, "1-0", 0)
    code, said = command(place, PATH="/nowhere")
    assert code == 0
    assert "slurm  no squeue on this machine: look on a node of the cluster 'here'" in said
    assert [row[:2] for row in rows(said)] == [["1-0", "1"]]
    with monkeypatch.context() as m:
        m.setenv("PATH", "/nowhere")
        assert as_json(status(place.plan.out), queues(place.plan))["working"] is None


def test_a_submission_that_cannot_be_read_is_said(place):
    place.submission()
    (place.plan.rundir.submissions / "1.json").write_text("{}")
    code, said = command(place)
    assert code == 0
    assert "slurm  The submission '" in said


def test_status_needs_no_dask():
    module = "slurm.submissions.status"
    script = f"import sys, {module}; assert not {{'dask', 'distributed'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
