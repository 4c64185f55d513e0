"""Submissions on a real SLURM: nothing is left running but the jobs, and the bytes are right."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
import slurm as slurm_side
from hpcio.errors import BlocksFailed, ClusterError, OutputError, PlanError
from hpcio.journals.ledger import read_logs
from slurm.submissions import records as submissions
from slurm.submissions.queue import read_queue
from tests.rigs.slurm import until

pytestmark = pytest.mark.slurm

TRIALS, ROWS = 48, 50

# The first sample of a trial is its number. In a trial that has a file `hold-NUMBER` the
# function waits until that is gone; `raise-NUMBER` and `die-NUMBER` speak for themselves.
WORK = """
import os, time

HERE = NOTES


def double(trial):
    number = int(trial[0, 0])
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "-1")
    with open(f"{HERE}/calls", "ab", buffering=0) as calls:
        calls.write(b"%d %d %d\\n" % (number, os.getpid(), int(task)))
    while os.path.exists(f"{HERE}/hold-{number}") or os.path.exists(f"{HERE}/hold-task-{task}"):
        time.sleep(0.005)
    if os.path.exists(f"{HERE}/raise-{number}"):
        raise ValueError("sick")
    if os.path.exists(f"{HERE}/die-{number}"):
        os._exit(7)
    return trial * 2


def marked(trial, mark, *, factor):
    return trial * factor[mark]
"""

HPCIO = str(Path(sys.executable).with_name("hpcio"))
OPTIONS = {"memory": "400MB", "walltime": "00:30:00"}


class Place:
    """A folder with a recording, and a function that tells of its calls.

    Notes of calls, and files that hold it, are in `notes`, which all nodes see at once: they
    are on one machine, whatever filesystem the folder is on.
    """

    def __init__(self, folder: Path, notes: Path | None = None) -> None:
        self.folder, self.notes = folder, notes or folder
        data = np.random.default_rng(3).standard_normal((TRIALS * ROWS, 4))
        data[::ROWS, 0] = np.arange(TRIALS)
        with h5py.File(folder / "rec.h5", "w") as f:
            f["lfp"] = data
        self.expected = data * 2
        (folder / "work.py").write_text(WORK.replace("NOTES", repr(str(self.notes))))
        (self.notes / "calls").touch()
        self.out = folder / "out.h5"

    def plan(self, **options: Any) -> hpcio.Plan:
        return hpcio.Plan.create(
            f"{self.folder}/work.py:double", f"{self.folder}/rec.h5::/lfp", trials=ROWS,
            out=self.out, out_shape=(ROWS, 4), out_dtype="f8", **options,
        )  # fmt: skip

    def submit(
        self, tasks: int = 2, *, writer: str = "virtual", **options: Any
    ) -> slurm_side.Submitted:
        plan = self.plan(writer=writer)
        return slurm_side.submit(plan, tasks=tasks, **{**OPTIONS, **options})

    def mark(self, what: str, *numbers: object) -> None:
        for number in numbers:
            (self.notes / f"{what}-{number}").touch()

    def clear(self, what: str) -> None:
        for path in self.notes.glob(f"{what}-*"):
            path.unlink()

    @property
    def calls(self) -> list[tuple[int, int, int]]:
        """Trial, process and array task of each call."""
        lines = (self.notes / "calls").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]

    @property
    def trials_called(self) -> list[int]:
        return [number for number, _, _ in self.calls]

    def check(self) -> None:
        # On a shared filesystem this client may have looked before it was there.
        until(self.out.exists, "the result")
        with hpcio.open(self.out) as f:
            assert f["data"][...].tobytes() == self.expected.tobytes()
        assert hpcio.verify(self.out).blocks == TRIALS

    def logs(self) -> str:
        folder = Path(f"{self.out}.run", "logs")
        return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(folder.glob("*.log")))

    def finished(self, run: slurm_side.Submitted) -> None:
        run.wait(timeout=100)
        self.check()
        assert set(self.trials_called) == set(range(TRIALS))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    return Place(tmp_path)


def task_of(place: Place, trial: int) -> tuple[str, int]:
    """Job and process that are at work on a trial."""
    until(lambda: trial in place.trials_called, f"trial {trial}")
    pid, index = next((p, t) for n, p, t in reversed(place.calls) if n == trial)
    jobs = submissions.jobs(hpcio.Plan.load(place.out), 1)
    assert jobs is not None
    return f"{jobs.arrays[0]}_{index}", pid


def outcome(place: Place) -> dict[str, Any]:
    return json.loads(Path(f"{place.out}.run", "outcome.json").read_text())


def hpcio_command(*words: str, **options: Any) -> str:
    done = subprocess.run(
        [HPCIO, *words], capture_output=True, text=True,
        check=False, timeout=100, **options,
    )  # fmt: skip
    assert done.returncode == options.get("status", 0), done.stderr
    return done.stdout


# ---------------------------------------------------------------------- end to end


@pytest.mark.parametrize("tasks", [1, 8])
def test_submit_and_come_back(slurm, place, tasks):
    run = place.submit(tasks)
    with run.result(timeout=100) as f:
        assert f["data"].shape == (TRIALS * ROWS, 4)
    place.finished(run)
    assert len(place.calls) == TRIALS  # each block once
    assert outcome(place)["status"] == "complete"
    assert {row.state for row in run.queue().rows} == {"COMPLETED"}
    assert len(run.queue().rows) == tasks + 1


@pytest.mark.parametrize("writer", ["direct", "mutex"])
def test_all_tasks_write_one_file(slurm, place, writer):
    # Another task is held too, or all might have ended when this one is killed at its last block.
    place.mark("hold", 5, 40)
    run = place.submit(4, writer=writer, stale=3.0)
    _, pid = task_of(place, 5)
    task_of(place, 40)
    with h5py.File(f"{place.out}.run/data.h5") as f:
        assert "incomplete" in f.attrs
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for victim in (parent, pid):  # its part is taken over
        os.kill(victim, signal.SIGKILL)
    place.clear("hold")
    place.finished(run)
    with h5py.File(place.out) as f:
        assert not f["data"].is_virtual
        assert "incomplete" not in f.attrs


@pytest.mark.parametrize("writer", ["virtual", "direct", "mutex"])
def test_begun_here_and_resumed_there(slurm, place, writer):
    place.mark("raise", *range(10, 20))
    plan = place.plan(writer=writer)
    with pytest.raises(BlocksFailed):
        plan.run(workers=2, progress=False)
    place.clear("raise")
    run = slurm_side.submit(hpcio.Plan.load(place.out), tasks=2, **OPTIONS)
    place.finished(run)
    assert len(place.calls) == TRIALS + 10


@pytest.mark.slow
def test_two_hundred_tasks(slurm, place):
    run = place.submit(200)
    run.wait(timeout=200)
    place.check()
    plan = hpcio.Plan.load(place.out)
    assert len(list((plan.run_directory / "usage").iterdir())) >= TRIALS


def test_the_scripts_work_as_they_stand(slurm, place):
    slurm_side.write_scripts(place.plan(), tasks=3, **OPTIONS)
    with pytest.raises(TypeError, match="no option memroy"):
        slurm_side.write_scripts(place.plan(), memroy="1GB")
    assert not slurm.call("squeue", "-h").strip()
    folder = f"{place.out}.run"
    job = slurm.call("sbatch", "--parsable", f"{folder}/array.sh").strip()
    slurm.call("sbatch", f"--dependency=afterany:{job}", f"{folder}/finish.sh")
    run = slurm_side.attach(place.out)
    assert {row.submission for row in run.queue().rows} == {1}
    place.finished(run)


def test_the_command(slurm, place):
    words = ["submit", "work.py:double", "rec.h5::/lfp", "--trials", str(ROWS), "--out", "out.h5",
             "--tasks", "3", "--mem", "400M", "--time", "00:30:00"]  # fmt: skip
    more = ["--", "--comment", "a b", "--nice=7"]
    script = hpcio_command(*words, "--print", *more)
    assert '#SBATCH --comment="a b"' in script
    assert "-m slurm.submissions.task run " in script
    assert not Path("out.h5.run").exists()
    said = hpcio_command(*words, *more)
    assert re.search(r"Submitted 3 tasks as job \d+; job \d+ finishes the result", said)
    run = slurm_side.attach("out.h5")
    (job,) = submissions.jobs(hpcio.Plan.load("out.h5"), 1).arrays
    shown = slurm.call("scontrol", "show", "job", str(job))
    for part in ("Comment=a b", "Nice=7", "TimeLimit=00:30:00", "NumCPUs=1", "mem=382M"):
        assert part in shown
    place.finished(run)
    assert "nothing is missing" in hpcio_command("submit", "out.h5")
    assert "No job of this run" in hpcio_command("cancel", "out.h5")
    assert "finish" in hpcio_command("logs", "out.h5")


def test_more_tasks_than_an_array_may_have(place, small_slurm):
    small = small_slurm("MaxArraySize=3")
    run = place.submit(5, throttle=2)
    first, second = submissions.jobs(hpcio.Plan.load(place.out), 1).arrays
    assert "ArrayTaskThrottle=2" in small.call("scontrol", "show", "job", str(first))
    assert Path(f"{place.out}.run", "array-2.sh").exists()
    place.finished(run)
    assert {row.task for row in run.queue().rows} == {0, 1, 2, 3, 4, None}
    assert {row.job for row in run.queue().rows} >= {first, second}


def test_more_tasks_than_the_controller_holds(place, small_slurm):
    small_slurm("MaxJobCount=10")
    run = place.submit(40)
    assert submissions.newest(hpcio.Plan.load(place.out)).tasks <= 5
    place.finished(run)


def test_defaults_of_the_cluster(slurm, place, monkeypatch):
    cluster = slurm_side.read_site().cluster
    path = place.folder / "config.toml"
    path.write_text(
        f'[submit]\npartition = "short"\ntasks = 3\n[submit.{cluster}]\nmemory = "410MB"\n'
        'walltime = "00:12:00"\nprologue = "export SITE=1"\nsbatch = ["--nice=5"]\n'
    )
    monkeypatch.setenv("HPCIO_CONFIG", str(path))
    run = slurm_side.submit(place.plan(), walltime="00:11:00")
    said = submissions.newest(hpcio.Plan.load(place.out))
    assert (said.tasks, said.seconds, said.memory) == (3, 660, 410_000_000)
    text = Path(said.script[0]).read_text()
    for line in ("#SBATCH --partition=short", "#SBATCH --nice=5", "export SITE=1"):
        assert line in text.splitlines()
    shown = hpcio_command("config")
    for word in (str(path), cluster, "[submit]", f"[submit.{cluster}]", "00:12:00"):
        assert word in shown
    assert json.loads(hpcio_command("config", "--json"))["values"]["tasks"] == 3
    place.finished(run)


def test_two_submit_at_the_same_moment(slurm, place):
    place.mark("hold", "task-0", "task-1")
    words = [HPCIO, "submit", "work.py:double", "rec.h5::/lfp", "--trials", str(ROWS), "--out",
             "out.h5", "--tasks", "2", "--mem", "400M"]  # fmt: skip
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=100)[1] for p in both]
    assert sorted(p.returncode for p in both) == [0, 2], said
    assert any("at work" in words for words in said)
    assert len({row.job for row in read_queue(hpcio.Plan.load(place.out)).rows}) == 2
    place.clear("hold")
    place.finished(slurm_side.attach("out.h5"))


def test_the_report_holds_what_was_asked_for_against_what_was_used(slurm, place):
    run = place.submit(2)
    place.finished(run)
    hpcio_command("report", "out.h5")
    page = Path("out.h5.html").read_text()
    for words in ("Asked for", "400 MB", "30 min"):
        assert words in page
    assert re.search("1-[01]", page)


OTHERS = ("--comment=mine", "--exclude=n4", "--ntasks=1", "--mail-user=me@here", "--mail-type=END")


def test_options_reach_the_finalizer_unless_they_are_of_the_tasks(slurm, place):
    place.mark("hold", 0)
    run = place.submit(1, sbatch=OTHERS)
    plan = hpcio.Plan.load(place.out)
    finish = submissions.jobs(plan, 1).finish
    shown = slurm.call("scontrol", "show", "job", str(finish))
    assert "Comment=mine" in shown
    assert "ExcNodeList=n4" in shown
    assert "MailUser=me@here" in shown
    assert "ntasks" not in (plan.run_directory / "finish.sh").read_text()
    place.clear("hold")
    place.finished(run)


ODD = "a \"b\" 'c' ;$(touch x) %j `d` é"


def test_odd_names(slurm, place, monkeypatch):
    inside = place.folder / ODD
    inside.mkdir()
    there = Place(inside)
    monkeypatch.chdir(inside)
    there.out = inside / "o$(touch y);.h5"
    run = there.submit(2, name=ODD, prologue=f"export ODD='{ODD.replace(chr(39), '')}'")
    run.wait(timeout=100)
    there.check()
    plan = hpcio.Plan.create(
        f"{inside}/work.py:marked", f"{inside}/rec.h5::/lfp", trials=ROWS,
        out=inside / "marked.h5", args=[ODD], kwargs={"factor": {ODD: 2.0}},
    )  # fmt: skip
    slurm_side.submit(plan, tasks=2, **OPTIONS).result(timeout=100).close()
    with hpcio.open(inside / "marked.h5") as f:
        assert f["data"][...].tobytes() == there.expected.tobytes()
    names = {p.name for p in inside.iterdir()} | {p.name for p in place.folder.iterdir()}
    assert not names & {"x", "y"}
    assert any(Path(f"{there.out}.run", "logs").iterdir())
    back = inside / "back\\slash.h5"
    there.out = back
    with pytest.raises(ClusterError, match="backslash"):
        there.submit(1)


# ---------------------------------------------------------------------- time and signals


def test_a_task_near_its_end_is_started_again_where_it_stopped(slurm, place):
    place.mark("hold", 5)
    run = place.submit(1)
    job, _ = task_of(place, 5)
    slurm.call("scancel", "-b", "-s", "USR1", job)
    until(lambda: "requeue" in slurm.call("scontrol", "show", "job", job) or True, "it")
    place.clear("hold")  # it ends the trial at hand, and no other
    until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), "a restart")
    place.finished(run)
    assert len(place.calls) == TRIALS


def test_a_trial_that_takes_too_long_is_left_for_the_next_start(slurm, place):
    place.mark("hold", 5)
    run = place.submit(1, signal=61)  # leaves a trial one second later
    job, _ = task_of(place, 5)
    slurm.call("scancel", "-b", "-s", "USR1", job)
    until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), "a restart")
    place.clear("hold")
    place.finished(run)
    assert place.trials_called.count(5) == 2
    assert len(place.calls) == TRIALS + 1


def test_a_task_without_progress_gives_up_and_says_why(slurm, place):
    place.mark("hold", 0)
    run = place.submit(1, signal=61)
    for start in (1, 2):
        until(lambda n=start: place.trials_called.count(0) == n, f"start {start}")
        job, _ = task_of(place, 0)
        slurm.call("scancel", "-b", "-s", "USR1", job)
    run.wait(timeout=100)
    assert "gives up: its trials take longer than a task may run" in place.logs()
    assert outcome(place)["status"] == "incomplete"
    with pytest.raises(BlocksFailed, match="48 blocks were not tried"):
        run.result()


def test_cancel_then_resume(slurm, place):
    place.mark("hold", 5, 40)
    run = place.submit(2)
    until(lambda: {5, 40} <= set(place.trials_called), "both")
    assert "Cancelled" in hpcio_command("cancel", "out.h5")
    run.wait(timeout=60)
    place.clear("hold")
    before = place.trials_called
    said = hpcio_command("resume", "out.h5", "--time", "00:20:00")
    assert re.search(r"Submitted 2 tasks as job", said)
    plan = hpcio.Plan.load(place.out)
    assert submissions.newest(plan).seconds == 1200
    assert submissions.newest(plan).memory == 400_000_000  # as the first time
    place.finished(run)
    assert set(place.trials_called[len(before) :]).isdisjoint(set(before) - {5, 40})


# ---------------------------------------------------------------------- trouble


def test_failed_trials(slurm, place):
    place.mark("raise", 3, 30)
    run = place.submit(2, retries=1)
    run.wait(timeout=100)
    assert not place.out.exists()
    assert outcome(place) | {"time": 0, "message": ""} == {
        "submission": 1, "status": "incomplete", "time": 0, "done": TRIALS - 2, "failed": 2,
        "missing": 0, "message": "",
    }  # fmt: skip
    (finish,) = (row for row in run.queue().rows if row.task is None)
    assert finish.state == "FAILED"
    assert "ExitCode=1:0" in slurm.call("scontrol", "show", "job", str(finish.job))
    said = hpcio_command("logs", "out.h5")
    assert "block 3 (trial 3): ValueError: sick" in said
    assert "hpcio resume" in said
    with pytest.raises(BlocksFailed, match="2 of 48 blocks failed"):
        run.result()
    place.clear("raise")
    run.resume()
    place.finished(run)
    assert place.trials_called.count(3) == 3  # two tries, then one


def test_a_trial_that_kills_its_process_is_named(slurm, place):
    place.mark("die", 3)
    run = place.submit(2)
    run.wait(timeout=100)
    with pytest.raises(BlocksFailed, match="1 of 48 blocks failed") as caught:
        run.result()
    (failure,) = caught.value.done.failed
    assert failure.trial == 3
    assert "its process ended with exit status 7" in failure.reason
    assert place.trials_called.count(3) == 2
    place.clear("die")
    run.resume()
    place.finished(run)


def test_too_many_failures_end_all_tasks(slurm, place):
    place.mark("raise", *range(TRIALS))
    run = place.submit(2, max_failed=4)
    run.wait(timeout=100)
    assert 5 <= outcome(place)["failed"] <= 10
    assert "more than 4 had failed" in outcome(place)["message"]


def test_a_worker_killed_by_signal_9_is_replaced_by_its_task(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2)
    _, pid = task_of(place, 5)
    place.clear("hold")
    os.kill(pid, signal.SIGKILL)
    place.finished(run)
    assert place.trials_called.count(5) <= 2


def test_a_task_that_is_gone_is_taken_over_by_its_sibling(slurm, place):
    place.mark("hold", 5, 47)
    run = place.submit(2, stale=3.0)
    until(lambda: {5, 47} <= set(place.trials_called), "both")
    _, pid = task_of(place, 5)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for victim in (parent, pid):
        os.kill(victim, signal.SIGKILL)
    place.clear("hold")
    place.finished(run)
    (gone,) = (row for row in run.queue().rows if row.task == 0)
    assert gone.state in ("FAILED", "NODE_FAIL", "CANCELLED")


def test_a_slow_task_gets_help(slurm, place):
    """One task is at a trial that takes for ever; the other does all the rest of that range.

    Which of both that is depends on which of them SLURM starts first.
    """
    place.mark("hold", 0)
    run = place.submit(2, stale=36.0)
    until(lambda: set(place.trials_called) == set(range(TRIALS)), "all others")
    place.clear("hold")
    place.finished(run)
    by = {trial: task for trial, _, task in place.calls}
    assert by[0] in (0, 1)
    assert [by[t] for t in range(1, 24)] == [1 - by[0]] * 23


@pytest.mark.parametrize("writer", ["virtual", "mutex"])
def test_two_copies_of_one_task(slurm, place, writer):
    """A node that is cut off goes on with its task while SLURM starts it elsewhere."""
    place.mark("hold", 5)
    run = place.submit(1, writer=writer)
    job, _ = task_of(place, 5)
    shown = slurm.call("scontrol", "show", "job", "-o", job)
    node = re.search(r" NodeList=(n\d)", shown)[1]
    try:
        slurm.kill(f"slurmd-{node}")
        until(lambda: place.trials_called.count(5) == 2, "its copy", seconds=120)
    finally:
        slurm.start_node(int(node[1:]))
    place.clear("hold")
    place.finished(run)


def test_the_controller_dies_and_comes_back(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2)
    task_of(place, 5)
    # What it has not saved yet, some seconds, it would forget.
    slurm.save()
    try:
        slurm.kill("slurmctld")
        began = time.monotonic()
        with pytest.raises(ClusterError, match=r"has not answered|refuses"):
            run.cancel()
        assert time.monotonic() - began < 30
        assert run.queue().trouble
        place.clear("hold")
        until(lambda: len(set(place.trials_called)) == TRIALS, "all trials, meanwhile")
    finally:
        slurm.start_controller()
        slurm.wait_for_answer()
    place.finished(run)


def test_a_second_submission_is_refused_while_the_first_is_at_work(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2)
    with pytest.raises(PlanError, match=r"at work in the queue already.*hpcio cancel"):
        place.submit(2)
    place.clear("hold")
    place.finished(run)


def test_what_sbatch_refuses(slurm, place):
    with pytest.raises(ClusterError, match=r"'sbatch' refuses.*Invalid feature"):
        place.submit(2, sbatch=["--constraint=moon"])
    with pytest.raises(ClusterError, match="no partition 'night'"):
        place.submit(2, partition="night")
    with pytest.raises(ClusterError, match="set by hpcio: say walltime instead"):
        place.submit(2, sbatch=["--time=5"])
    assert not slurm.call("squeue", "-h").strip()


def test_a_folder_of_logs_that_cannot_be_made(slurm, place):
    run = slurm_side.write_scripts(place.plan(), tasks=1, **OPTIONS)
    logs = Path(f"{run.out}.run", "logs")
    logs.rmdir()
    logs.touch()
    with pytest.raises(OutputError, match=r"File exists|Not a directory"):
        place.submit(1)
    assert not slurm.call("squeue", "-h").strip()


def test_a_tree_that_has_moved(slurm, place, monkeypatch):
    inside = place.folder / "before"
    inside.mkdir()
    there = Place(inside, notes=place.folder)
    there.mark("hold", 5)
    run = there.submit(2)
    until(lambda: 5 in there.trials_called, "it")
    run.cancel()
    run.wait(timeout=60)
    there.clear("hold")
    moved = place.folder / "after"
    inside.rename(moved)
    there.folder, there.out = moved, moved / "out.h5"
    plan = hpcio.Plan.load(there.out)
    assert read_queue(plan) is not None
    said = hpcio_command("resume", str(there.out))
    assert "Submitted" in said
    slurm_side.attach(there.out).wait(timeout=100)
    there.check()


def test_a_source_that_cannot_be_written(slurm, place):
    """The folder of the recording is closed; what is written goes elsewhere."""
    elsewhere = place.folder / "results"
    elsewhere.mkdir()
    closed = place.folder / "closed"
    closed.mkdir()
    for name in ("rec.h5", "work.py"):
        shutil.copy(place.folder / name, closed)
    plan = hpcio.Plan.create(
        np.negative, f"{closed}/rec.h5::/lfp", trials=ROWS, out=elsewhere / "out.h5"
    )
    closed.chmod(0o555)
    immutable = subprocess.run(["chattr", "+i", str(closed)], check=False, capture_output=True)
    try:
        run = slurm_side.submit(plan, tasks=2, **OPTIONS)
        run.wait(timeout=100)
    finally:
        if immutable.returncode == 0:
            subprocess.run(["chattr", "-i", str(closed)], check=True)
    assert hpcio.verify(elsewhere / "out.h5").blocks == TRIALS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_a_full_disk(slurm, place, small_disk):
    place.out = small_disk / "out.h5"
    place.mark("hold", 5)
    run = place.submit(1)
    until(lambda: 5 in place.trials_called, "it")
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize))
    place.clear("hold")
    run.wait(timeout=100)
    ballast.unlink()
    if not place.out.exists():  # it was reserved before, or it was not
        run.resume()
        run.wait(timeout=100)
    place.check()


def test_a_login_shell_that_has_gone(slurm, place):
    place.mark("hold", 5)
    shell = subprocess.Popen(
        ["bash", "-c", f"{HPCIO} submit work.py:double rec.h5::/lfp --trials "
         f"{ROWS} --out out.h5 --tasks 2 --mem 400M; touch said; read line"],
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    until(lambda: Path("said").exists() and 5 in place.trials_called, "the submission")
    os.killpg(shell.pid, signal.SIGHUP)
    shell.communicate()
    place.clear("hold")
    place.finished(slurm_side.attach("out.h5"))


@pytest.mark.torture
def test_a_run_longer_than_its_time_limit(slurm, place):
    """A minute each, told so within 30 s of their start; every start does a part."""
    work = Path("work.py").read_text()
    Path("work.py").write_text(
        work.replace("    return trial * 2", "    time.sleep(1)\n    return trial * 2")
    )
    run = place.submit(1, walltime="00:01:00")
    run.wait(timeout=600)
    place.check()
    attempts = {log.about["name"] for log in read_logs(hpcio.Plan.load(place.out))}
    assert len(attempts) >= 2
