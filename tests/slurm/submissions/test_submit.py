"""Submissions on a real SLURM: nothing is left running but the jobs, and the bytes are right."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import hpcio
import slurm as slurm_side
from hpcio.errors import BlocksFailed, ClusterError, HpcioWarning, PlanError, SourceError
from hpcio.journals import start_over
from hpcio.watching import status
from slurm.submissions import records as submissions
from slurm.submissions.queue import read_queue
from tests.rigs.cluster_bench import HPCIO, OPTIONS, ClusterBench, hpcio_command
from tests.rigs.runs import left_by_a_kill
from tests.rigs.several import SOURCE, TRIALS, check_all, make_study, plan_of, record
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("tasks", [1, 4, pytest.param(8, marks=pytest.mark.torture)])
def test_submit_and_come_back(slurm, place, tasks):
    run = place.submit(tasks)
    with run.result(timeout=PATIENCE) as f:
        assert f["data"].shape == (place.trials * place.rows, 4)
    place.finished(run)
    assert len(place.calls) == place.trials  # each block once
    assert place.outcome()["status"] == "complete"
    assert {row.state for row in run.queue().rows} == {"COMPLETED"}
    assert len(run.queue().rows) == tasks + 1


@pytest.mark.parametrize("writer", ["virtual", "direct", "mutex"])
def test_begun_here_and_resumed_there(slurm, place, writer):
    place.mark("raise", *range(10, 20))
    plan = place.plan(writer=writer)
    with pytest.raises(BlocksFailed):
        plan.run(workers=0, progress=False)
    place.clear("raise")
    run = slurm_side.submit(hpcio.Plan.load(place.out), tasks=2, **OPTIONS)
    place.finished(run)
    assert len(place.calls) == place.trials + 10


@pytest.mark.parametrize("writer", ["virtual", "direct", "mutex"])
def test_several_recordings(slurm, place, writer):
    """Begun here by a process that was killed in the second; and one was replaced meanwhile."""
    study = make_study(place.folder)
    plan = left_by_a_kill(plan_of(study, writer=writer), safe=3, more=1)
    if writer == "virtual":
        old = os.stat(study / "s1.h5")
        record(study, 1, gain=2.0)
        with pytest.raises(SourceError, match=r"'\S*s1\.h5' has changed since the plan"):
            slurm_side.submit(hpcio.Plan.load(plan.out), tasks=2, **OPTIONS)
        record(study, 1)
        os.utime(study / "s1.h5", ns=(old.st_atime_ns, old.st_mtime_ns))
    slurm_side.submit(hpcio.Plan.load(plan.out), tasks=2, **OPTIONS).wait(timeout=PATIENCE)
    until(Path(plan.out).exists, "the result")
    check_all(Path(plan.out))


def test_several_recordings_by_the_command(slurm, place, monkeypatch):
    monkeypatch.chdir(make_study(place.folder))
    options = ["--mem", "400M", "--time", "00:30:00", "--tasks", "2"]
    words = ["submit", "study.py:double", SOURCE, "--trials", TRIALS, "--out", "out.h5", *options]
    assert "Submitted 2 tasks" in hpcio_command(*words)
    slurm_side.attach("out.h5").wait(timeout=PATIENCE)
    until(Path("out.h5").exists, "the result")
    check_all(Path("out.h5"))


@pytest.mark.parametrize("how", ["in Python", "in the shell"])
def test_a_mended_function_goes_on_in_jobs(slurm, place, how):
    """Results of the first are kept, jobs compute the rest by the second, the result says which."""
    place.mark("raise", *range(10, 20))
    place.submit(2).wait(timeout=PATIENCE)
    module = Path(f"{place.module}.py")
    module.write_text(
        module.read_text().replace('ValueError("sick")', "0", 1).replace("raise 0", "0")
    )
    if how == "in Python":
        run = slurm_side.submit(place.plan().keeping_done(), tasks=2, **OPTIONS)
    else:
        assert "Submitted 2 tasks" in hpcio_command("resume", "out.h5", "--keep-done")
        run = slurm_side.attach(place.out)
    place.finished(run)
    with run.result() as f:
        assert np.flatnonzero(f["function"][:]).tolist() == [*range(10, 20)]
    assert len(place.calls) == place.trials + 10


def test_trials_are_added_in_jobs(slurm, place):
    """First half of the trials here, the others by tasks, which compute nothing twice."""
    rows = np.arange(place.trials)[:, None] * place.rows + [0, place.rows]
    plan = place.plan(trials=rows[:30])
    plan.run(workers=0, progress=False)
    run = slurm_side.submit(hpcio.Plan.load(place.out).extend(trials=rows[30:]), tasks=2, **OPTIONS)
    place.finished(run)
    assert len(place.calls) == place.trials
    with run.result() as f:
        assert f["run"][()].tolist() == [0] * 30 + [1] * 18


@pytest.mark.slow
# More than there are CPUs.
@pytest.mark.parametrize("tasks", [20, pytest.param(200, marks=pytest.mark.torture)])
def test_many_tasks(slurm, place, tasks):
    run = place.submit(tasks)
    run.wait(timeout=2 * PATIENCE)
    place.check()
    plan = hpcio.Plan.load(place.out)
    # Tasks that have not begun when all is done are not needed.
    assert len(list((plan.run_directory / "usage").iterdir())) >= 2


def test_a_submission_that_starts_over_says_what_is_thrown_away(slurm, place):
    place.mark("raise", *range(10, 20))
    with pytest.raises(BlocksFailed):
        place.plan().run(workers=0, progress=False)
    with pytest.warns(HpcioWarning, match=f"{place.trials - 10} done trials of .* are thrown away"):
        slurm_side.write_scripts(start_over(place.plan()), tasks=2, **OPTIONS)
    assert not status(str(place.out)).done


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
    words = ["submit", place.func, "rec.h5::/lfp", "--trials", str(place.rows), "--out", "out.h5",
             "--tasks", "3", "--mem", "400M", "--time", "00:30:00"]  # fmt: skip
    more = ["--", "--comment", "a b", "--nice=7"]
    script = hpcio_command(*words, "--print", *more)
    assert '#SBATCH --comment="a b"' in script
    assert "-m slurm.tasks run " in script
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
    small_slurm("MaxArraySize=3")
    place.mark("hold", "task-0", "task-1", "task-2")
    run = place.submit(5)
    first, second = submissions.jobs(hpcio.Plan.load(place.out), 1).arrays
    assert Path(f"{place.out}.run", "array-2.sh").exists()
    place.clear("hold")
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
    words = [HPCIO, "submit", place.func, "rec.h5::/lfp", "--trials", str(place.rows), "--out",
             "out.h5", "--tasks", "2", "--mem", "400M"]  # fmt: skip
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=PATIENCE)[1] for p in both]
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
    there = ClusterBench(inside)
    monkeypatch.chdir(inside)
    there.out = inside / "o$(touch y);.h5"
    run = there.submit(2, name=ODD, prologue=f"export ODD='{ODD.replace(chr(39), '')}'")
    run.wait(timeout=PATIENCE)
    there.check()
    plan = hpcio.Plan.create(
        f"{inside}/{there.module}.py:scaled", f"{inside}/rec.h5::/lfp", trials=place.rows,
        out=inside / "marked.h5", args=[ODD], kwargs={"factor": {ODD: 2.0}},
    )  # fmt: skip
    slurm_side.submit(plan, tasks=2, **OPTIONS).result(timeout=PATIENCE).close()
    with hpcio.open(inside / "marked.h5") as f:
        assert f["data"][...].tobytes() == there.expected.tobytes()
    names = {p.name for p in inside.iterdir()} | {p.name for p in place.folder.iterdir()}
    assert not names & {"x", "y"}
    assert any(Path(f"{there.out}.run", "logs").iterdir())
    back = inside / "back\\slash.h5"
    there.out = back
    with pytest.raises(ClusterError, match="backslash"):
        there.submit(1)


@pytest.mark.parametrize("when", ["when all has ended", "at once"])
def test_cancel_then_resume(slurm, place, when):
    place.mark("hold", 5, 40)
    run = place.submit(2)
    until(lambda: {5, 40} <= set(place.calls), "both")
    assert "Cancelled" in hpcio_command("cancel", "out.h5")
    if when == "when all has ended":
        run.wait(timeout=PATIENCE)
    place.clear("hold")
    before = place.calls
    said = hpcio_command("resume", "out.h5", "--time", "00:20:00")
    assert re.search(r"Submitted 2 tasks as job", said)
    plan = hpcio.Plan.load(place.out)
    assert submissions.newest(plan).seconds == 1200
    assert submissions.newest(plan).memory == 400_000_000  # as the first time
    place.finished(run)
    assert set(place.calls[len(before) :]).isdisjoint(set(before) - {5, 40})


def test_failed_trials(slurm, place):
    place.mark("raise", 3, 30)
    run = place.submit(2, retries=1)
    run.wait(timeout=PATIENCE)
    assert not place.out.exists()
    assert place.outcome() | {"time": 0, "message": ""} == {
        "run_id": hpcio.Plan.load(place.out).run_id, "submission": 1, "status": "incomplete",
        "time": 0, "done": place.trials - 2, "failed": 2, "missing": 0, "message": "",
    }  # fmt: skip
    (finish,) = (row for row in run.queue().rows if row.task is None)
    assert finish.state == "FAILED"
    assert "ExitCode=1:0" in slurm.call("scontrol", "show", "job", str(finish.job))
    said = hpcio_command("logs", "out.h5")
    assert "trial 3: ValueError: sick" in said
    assert "hpcio resume" in said
    with pytest.raises(BlocksFailed, match="2 of 48 trials failed"):
        run.result()
    place.clear("raise")
    run.resume()
    place.finished(run)
    assert place.calls.count(3) == 3  # two tries, then one


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
    with pytest.raises(PlanError, match=r"logs' is a link or no folder"):
        place.submit(1)
    assert not slurm.call("squeue", "-h").strip()


def test_a_tree_that_has_moved(slurm, place, monkeypatch):
    inside = place.folder / "before"
    inside.mkdir()
    there = ClusterBench(inside, notes=place.folder)
    there.mark("hold", 5)
    run = there.submit(2)
    until(lambda: 5 in there.calls, "it")
    run.cancel()
    run.wait(timeout=PATIENCE)
    there.clear("hold")
    moved = place.folder / "after"
    inside.rename(moved)
    there.folder, there.out = moved, moved / "out.h5"
    plan = hpcio.Plan.load(there.out)
    assert read_queue(plan) is not None
    said = hpcio_command("resume", str(there.out))
    assert "Submitted" in said
    slurm_side.attach(there.out).wait(timeout=PATIENCE)
    there.check()


def test_a_source_that_cannot_be_written(slurm, place):
    """The folder of the recording is closed; what is written goes elsewhere."""
    elsewhere = place.folder / "results"
    elsewhere.mkdir()
    closed = place.folder / "closed"
    closed.mkdir()
    shutil.copy(place.folder / "rec.h5", closed)
    plan = hpcio.Plan.create(
        np.negative, f"{closed}/rec.h5::/lfp", trials=place.rows, out=elsewhere / "out.h5"
    )
    closed.chmod(0o555)
    immutable = subprocess.run(["chattr", "+i", str(closed)], check=False, capture_output=True)
    try:
        run = slurm_side.submit(plan, tasks=2, **OPTIONS)
        run.wait(timeout=PATIENCE)
    finally:
        if immutable.returncode == 0:
            subprocess.run(["chattr", "-i", str(closed)], check=True)
    assert hpcio.verify(elsewhere / "out.h5").blocks == place.trials


def test_a_login_shell_that_has_gone(slurm, place):
    place.mark("hold", 5)
    shell = subprocess.Popen(
        ["bash", "-c", f"{HPCIO} submit {place.func} rec.h5::/lfp --trials "
         f"{place.rows} --out out.h5 --tasks 2 --mem 400M; touch said; read line"],
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    until(lambda: Path("said").exists() and 5 in place.calls, "the submission")
    os.killpg(shell.pid, signal.SIGHUP)
    shell.communicate()
    place.clear("hold")
    place.finished(slurm_side.attach("out.h5"))
