"""Starting over: what is there stays until what replaces it is whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import (
    BlocksFailed,
    HpcioWarning,
    Interrupted,
    MemoryLimitError,
    OutputError,
    PlanError,
    ResultError,
    SourceError,
)
from hpcio.journals import held, prepare, rundir, start_over
from hpcio.status import status
from hpcio.watching import print_status
from hpcio.words import START_OVER
from tests.rigs.bench import Bench
from tests.rigs.resuming import resume_here
from tests.rigs.runs import LFP, check

WAYS = {
    "a file a trial": {"sources": "trial"},
    "a file a batch": {"sources": "task"},
    "packed": {"compression": "gzip", "join": "stack"},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"},
}


def while_absent(trial, factor, path):
    """Scale a trial; raise while a file is there."""
    if os.path.exists(path):
        raise ValueError("not yet")
    return trial * factor


def plan_of(lfp, tmp_path, factor, **options) -> Plan:
    kwargs = {"factor": factor, "path": str(tmp_path / "bad")}
    options = {"trials": 6, "out": tmp_path / "out.h5", "out_shape": (6, 4), **options}
    return Plan.create(while_absent, lfp, kwargs=kwargs, out_dtype=LFP.dtype, **options)


def values(path) -> np.ndarray:
    with hpcio.open(path) as f:
        return f["data"][()].reshape(-1, 4)


@pytest.fixture
def short(tmp_path):
    """A recording of five equal trials."""
    with h5py.File(tmp_path / "short.h5", "w") as f:
        f["lfp"] = LFP[:30]
    return f"{tmp_path}/short.h5::/lfp"


@pytest.mark.parametrize("way", WAYS)
def test_the_old_result_stays_until_the_new_one_replaces_it(short, tmp_path, capsys, way):
    out, bad = tmp_path / "out.h5", tmp_path / "bad"
    plan_of(short, tmp_path, 2.0, **WAYS[way]).run(workers=0, progress=False)
    parts = set((tmp_path / "out.h5.run/sources").rglob("*.h5"))
    bad.touch()
    one_file = way in ("direct", "mutex")
    back = "to go back to it, remove" if one_file else rf"hpcio repack {out}\), and then remove"
    with pytest.raises(BlocksFailed, match=back):
        plan_of(short, tmp_path, 3.0, **WAYS[way]).run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(out), 2.0 * LFP[:30])
    found = status(out)
    assert (found.published, found.older) == (False, True)
    print_status(found, {})
    assert re.search(back, capsys.readouterr().out)
    bad.unlink()
    # A second call goes on with what was begun, and needs no word about it.
    plan_of(short, tmp_path, 3.0, **WAYS[way]).run(workers=1, progress=False)
    np.testing.assert_array_equal(values(out), 3.0 * LFP[:30])
    hpcio.verify(out)
    found = status(out)
    assert (found.published, found.older) == (True, False)
    assert not parts & set((tmp_path / "out.h5.run/sources").rglob("*.h5"))


def test_who_stops_starting_over_can_go_back_to_the_old_result(tmp_path):
    bench = Bench(tmp_path)
    bench.plan().run(workers=0, progress=False)
    bench.stop(2)
    with pytest.raises(Interrupted, match=r"(?s)hpcio resume.*its parts lie in .*hpcio repack"):
        bench.plan().run(workers=0, progress=False, fresh=True)
    with pytest.warns(HpcioWarning, match=r"That folder is not removed"):
        hpcio.repack(bench.out)
    shutil.rmtree(tmp_path / "out.h5.run")
    bench.check()


def test_the_same_plan_anew(short, tmp_path):
    plan = plan_of(short, tmp_path, 2.0)
    plan.run(workers=0, progress=False)
    before = (tmp_path / "out.h5").read_bytes()
    done = plan.run(workers=0, progress=False, fresh=True)
    assert done.computed == 5
    assert (tmp_path / "out.h5").read_bytes() != before
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 2.0 * LFP[:30])
    assert plan.run(workers=0, progress=False).computed == 0


@pytest.mark.parametrize("wrong", ["memory", "recording"])
def test_what_is_refused_has_touched_nothing(short, tmp_path, wrong):
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    kept = sorted(os.listdir(tmp_path / "out.h5.run"))
    again = plan_of(short, tmp_path, 3.0)
    if wrong == "recording":
        os.utime(tmp_path / "short.h5", (1e9, 1e9))
    error = SourceError if wrong == "recording" else MemoryLimitError
    with pytest.raises(error):
        again.run(workers=1, memory=1000, progress=False, fresh=True)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 2.0 * LFP[:30])
    assert sorted(os.listdir(tmp_path / "out.h5.run")) == kept


@pytest.mark.parametrize("way", ["a file a trial", "direct"])
def test_a_result_is_not_replaced_by_what_is_made_of_it(short, tmp_path, way):
    plan_of(short, tmp_path, 2.0, **WAYS[way]).run(workers=0, progress=False)
    own = plan_of(f"{tmp_path}/out.h5::/data", tmp_path, 3.0)
    with pytest.raises(OutputError, match="its own source"):
        own.run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 2.0 * LFP[:30])


@pytest.mark.parametrize("mark", ["a group", "a dataset", "a group with half of it"])
def test_a_file_is_known_by_its_mark_not_by_a_name(short, tmp_path, mark):
    with h5py.File(tmp_path / "out.h5", "w") as f:
        f["precious"] = 1
        made = f.create_dataset("hpcio", data=1) if mark == "a dataset" else f.create_group("hpcio")
        if mark == "a group with half of it":
            made.attrs["plan"] = np.bytes_("0" * 64)
    with pytest.raises(OutputError, match="was not made by hpcio"):
        plan_of(short, tmp_path, 2.0)
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["precious"][()] == 1


def test_a_folder_of_the_user_with_a_name_alike_stays(short, tmp_path):
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    other = tmp_path / "out.h5.run.20240101.old"
    other.mkdir()
    (other / "notes").write_text("mine")
    hpcio.repack(tmp_path / "out.h5")
    assert (other / "notes").read_text() == "mine"
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 2.0 * LFP[:30])
    # One file was made of it, and the plan still knows its result.
    assert plan_of(short, tmp_path, 2.0).run(workers=0, progress=False).computed == 0


def test_what_the_user_put_into_the_run_directory_stays(short, tmp_path):
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    mine = ["notes.txt", "data.csv", "thesis.old", "sources/more.h5", "logs/notes.txt",
            "journal/diary.md"]  # fmt: skip
    run = tmp_path / "out.h5.run"
    for name in mine:
        (run / name).write_text(name)
    plan_of(short, tmp_path, 3.0).run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 3.0 * LFP[:30])
    assert [(run / name).read_text() for name in mine] == mine
    hpcio.repack(tmp_path / "out.h5")
    left = [path for path in run.rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in left) == sorted(mine)


@pytest.mark.parametrize("way", ["a file a trial", "direct"])
def test_files_of_the_user_hold_up_nothing(short, tmp_path, way):
    out, notes = tmp_path / "out.h5", tmp_path / "out.h5.run" / "notes.txt"
    plan_of(short, tmp_path, 2.0, **WAYS[way]).run(workers=0, progress=False)
    notes.write_text("mine")
    hpcio.repack(out)
    hpcio.repack(out, compression="gzip")
    plan_of(short, tmp_path, 3.0, **WAYS[way]).run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(out), 3.0 * LFP[:30])
    assert notes.read_text() == "mine"


def test_a_start_over_that_was_killed_before_its_plan_can_be_done_again(short, tmp_path):
    out, run = tmp_path / "out.h5", tmp_path / "out.h5.run"
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    (run / "notes.txt").write_text("mine")
    aside = run / "0123456789abcdef.old"
    aside.mkdir()
    for name in ("journal", "logs", "plan.h5"):
        (run / name).rename(aside / name)
    with pytest.raises(PlanError, match=r"was starting over .* was ended before its plan"):
        Plan.load(out)
    plan_of(short, tmp_path, 3.0).run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(out), 3.0 * LFP[:30])
    assert [path.name for path in run.glob("*.old")] == []


def test_files_of_the_user_are_back_where_they_lay(short, tmp_path):
    run = tmp_path / "out.h5.run"
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    (run / "journal" / "notes.txt").write_text("mine")
    for factor in (3.0, 4.0, 5.0):
        plan_of(short, tmp_path, factor).run(workers=0, progress=False, fresh=True)
    assert [*run.rglob("notes.txt")] == [run / "journal" / "notes.txt"]
    assert [*run.glob("*.old")] == []


def test_a_result_behind_a_link_is_not_replaced_by_a_file(short, tmp_path):
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    hpcio.repack(tmp_path / "out.h5")
    (tmp_path / "out.h5").rename(tmp_path / "on another disk.h5")
    (tmp_path / "out.h5").symlink_to("on another disk.h5")
    with pytest.raises(OutputError, match=r"out\.h5' is a link to '.*on another disk\.h5'"):
        plan_of(short, tmp_path, 3.0).run(workers=0, progress=False, fresh=True)
    assert (tmp_path / "out.h5").is_symlink()
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 2.0 * LFP[:30])


def test_a_published_result_whose_parts_are_gone_is_not_done(short, tmp_path):
    plan = plan_of(short, tmp_path, 2.0)
    plan.run(workers=0, progress=False)
    shutil.rmtree(tmp_path / "out.h5.run/sources")
    with pytest.raises(ResultError, match="cannot be read"):
        plan.run(workers=0, progress=False)


def test_names_and_arguments_that_hdf5_cannot_hold(lfp, tmp_path):
    class Odd:
        def __repr__(self) -> str:
            return "a\0b"

    odd = os.fsdecode(b"r\xff.h5")
    shutil.copy(lfp.partition("::")[0], tmp_path / odd)
    Plan.create(
        lambda trial, odd: trial * 2, f"{tmp_path / odd}::/lfp", trials=6, args=(Odd(),),
        out=tmp_path / "out.h5",
    ).run(workers=0, progress=False)  # fmt: skip
    check(tmp_path / "out.h5", 2 * LFP)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f.attrs["source"].endswith("r\\udcff.h5")
        assert "a\\0b" in f.attrs["args"]


def test_a_plan_that_was_loaded_before_does_not_start_over_again(short, tmp_path):
    """Who has loaded a run that started over does not throw away what others began since."""
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False, fresh=True)
    loaded = Plan.load(tmp_path / "out.h5")
    plan_of(short, tmp_path, 3.0).run(workers=0, progress=False, fresh=True)
    with pytest.raises(OutputError, match="is not the result of this plan"):
        loaded.run(workers=0, progress=False)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 3.0 * LFP[:30])


def test_a_loaded_plan_whose_function_has_changed_does_not_start_over(tmp_path):
    bench = Bench(tmp_path)
    bench.stop(5)
    with pytest.raises(Interrupted):
        bench.plan().run(workers=0, progress=False)
    bench.stop()
    path = tmp_path / f"{bench.module}.py"
    text = path.read_text()
    path.write_text(text.replace("2.0 * trial", "20.0 * trial"))
    sys.modules.pop(bench.module)
    with pytest.raises(PlanError, match="has changed since the plan was made"):
        Plan.load(bench.out).run(workers=0, progress=False, fresh=True)
    path.write_text(text)
    sys.modules.pop(bench.module)
    # It has touched nothing: what was done is still done.
    resume_here(bench, bench.out, set(range(5)))


def test_what_was_set_aside_goes_with_the_next_run_if_it_was_killed_before(short, tmp_path):
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    aside = tmp_path / "out.h5.run" / f"{'0' * 16}.old"
    aside.mkdir()
    (aside / "plan.h5").touch()
    (tmp_path / "out.h5").unlink()
    assert plan_of(short, tmp_path, 2.0).run(workers=0, progress=False).computed == 0
    assert not aside.exists()


def test_files_of_others_among_the_sources_stay(lfp, tmp_path):
    plan_of(lfp, tmp_path, 2).run(workers=0, progress=False)
    mine = tmp_path / "out.h5.run" / "sources" / "mine.txt"
    mine.write_text("of the user")
    plan_of(lfp, tmp_path, 3).run(workers=0, progress=False, fresh=True)
    assert mine.read_text() == "of the user"
    assert (values(tmp_path / "out.h5") == LFP * 3).all()


@pytest.mark.parametrize("writer", ["virtual", "direct"])
def test_another_process_has_started_over_meanwhile(lfp, tmp_path, writer):
    """Between the moments in which a run looks at its directory, and in which it is alone there."""
    ours = prepare(plan_of(lfp, tmp_path, 2, writer=writer))
    theirs = prepare(start_over(plan_of(lfp, tmp_path, 3, writer=writer)))
    with pytest.raises(PlanError, match="Another process has started over"), held(ours):
        pass
    theirs.run(workers=0, progress=False)
    assert (values(tmp_path / "out.h5") == LFP * 3).all()


@pytest.mark.parametrize("way", ["a file a trial", "direct"])
@pytest.mark.parametrize("before", [False, True])
def test_a_result_that_another_run_publishes_meanwhile_stays(short, tmp_path, way, before):
    """Between the moments in which starting over looks at it, and in which it is alone there."""
    if before:
        plan_of(short, tmp_path, 2.0, **WAYS[way]).run(workers=0, progress=False)
    ours = start_over(plan_of(short, tmp_path, 3.0, **WAYS[way]))
    plan_of(short, tmp_path, 4.0, **WAYS[way]).run(workers=0, progress=False, fresh=True)
    with pytest.raises(PlanError, match=r"out\.h5' has changed just now"):
        prepare(ours)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 4.0 * LFP[:30])
    assert hpcio.verify(tmp_path / "out.h5").blocks == 5
    plan_of(short, tmp_path, 3.0, **WAYS[way]).run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 3.0 * LFP[:30])


def test_an_equal_plan_has_started_over_meanwhile(short, tmp_path):
    ours = prepare(start_over(plan_of(short, tmp_path, 2.0)))
    theirs = prepare(start_over(plan_of(short, tmp_path, 2.0)))
    with pytest.raises(PlanError, match="Another process has started over"), held(ours):
        pass
    with held(theirs):
        pass


def test_of_two_plans_that_are_written_at_once_one_counts(short, tmp_path, monkeypatch):
    ours, theirs = plan_of(short, tmp_path, 2.0), plan_of(short, tmp_path, 2.0)
    write = rundir.write_plan

    def after_them(plan, folder):
        assert write(theirs, folder)
        return write(plan, folder)

    monkeypatch.setattr(rundir, "write_plan", after_them)
    assert prepare(ours).run_id == theirs.run_id
    assert list((tmp_path / "out.h5.run").glob("*.part")) == []


@pytest.mark.skipif(
    os.stat("/dev/shm").st_dev == os.stat(tempfile.gettempdir()).st_dev, reason="one disk"
)
def test_a_run_directory_on_another_disk(lfp, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "out.h5.run").symlink_to(elsewhere)
        with pytest.raises(OutputError, match=r"lies on another disk.*Use writer='virtual'"):
            plan_of(lfp, tmp_path, 2, writer="direct").run(workers=0, progress=False)
        assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    "name", [".data.npy.123.part", ".array-2.sh.7.part", ".outcome.json.9.part"]
)
def test_a_file_that_a_process_was_killed_over_is_no_bar(short, tmp_path, name):
    """Starting over was killed, too, when the old plan was gone and the new one not yet there."""
    run = tmp_path / "out.h5.run"
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    (run / "plan.h5").unlink()
    (run / name).write_bytes(b"half")
    plan_of(short, tmp_path, 3.0).run(workers=0, progress=False, fresh=True)
    np.testing.assert_array_equal(values(tmp_path / "out.h5"), 3.0 * LFP[:30])
    assert not (run / name).exists()


@pytest.mark.parametrize("plan_too", [False, True])
def test_what_a_killed_start_has_set_aside_is_not_missed(short, tmp_path, plan_too):
    """The old result is whole: so say status, and a run that is asked again."""
    plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    run, aside = tmp_path / "out.h5.run", tmp_path / "out.h5.run" / "0123456789abcdef.old"
    aside.mkdir()
    for name in ["journal", *(["plan.h5"] if plan_too else [])]:
        (run / name).rename(aside / name)
    found = status(str(tmp_path / "out.h5"))
    assert (found.published, found.done, found.failed, found.left) == (True, 5, 0, 0)
    done = plan_of(short, tmp_path, 2.0).run(workers=0, progress=False)
    assert (done.blocks, done.computed) == (5, 0)


def test_a_result_that_is_done_tells_of_an_edit_since(short, tmp_path, monkeypatch):
    """It stays what it is: but whoever edits a function and runs the old plan expects another."""
    module = tmp_path / "edited_later.py"
    module.write_text("def scaled(trial):\n    return 2.0 * trial\n")
    out = tmp_path / "out.h5"
    Plan.create(f"{module}:scaled", short, trials=6, out=out).run(workers=0, progress=False)
    call = [sys.executable, "-m", "hpcio", "run", str(out)]
    first = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "Since then" not in first.stderr
    module.write_text("def scaled(trial):\n    return 3.0 * trial\n")
    again = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "done already" in again.stdout + again.stderr
    (note,) = again.stderr.strip().splitlines()
    said = (
        "Since then: The function 'edited_later:scaled' has changed since the plan was made (in "
        f"'edited_later.scaled'). To compute with what it is now, {START_OVER}."
    )
    assert note.endswith(f"is done, and stays as it was computed. {said}")
    np.testing.assert_array_equal(values(out), 2.0 * LFP[:30])


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({}, "arguments"),
        ({"trials": 3, "out_shape": (3, 4)}, "trials, shape or type of the results"),
        ({"join": "stack"}, "shape or type of the results, how they are joined, axes"),
        ({"writer": "direct"}, "writer"),
    ],
)
@pytest.mark.parametrize("published", ["published", "not yet"])
def test_a_plan_that_is_refused_says_in_what_it_differs(short, tmp_path, changed, other, published):
    plan = plan_of(short, tmp_path, 2.0)
    if published == "published":
        plan.run(workers=0, progress=False)
    else:
        prepare(plan)
    asked = plan_of(short, tmp_path, 2.0 if changed else 3.0, **changed)
    with pytest.raises((OutputError, PlanError), match=rf"\(other {other}\)\. .*fresh=True"):
        asked.run(workers=0, progress=False)


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({"axes": {"low": {"row": None}}}, "axes"),
        ({"join": {"low": "stack"}}, "shape or type of the results, how they are joined, axes"),
        ({"reduce": {"low": "mean"}}, "shape or type of the results, average, writer"),
        ({"chunks": {"low": (2,)}, "sources": "task"}, "writer"),
    ],
)
def test_of_several_results_it_says_the_same(short, tmp_path, changed, other):
    (tmp_path / "ends.py").write_text(
        "def ends(trial):\n    return {'low': trial.min(axis=0), 'high': trial.max(axis=0)}\n"
    )

    def plan(**options):
        return Plan.create(
            f"{tmp_path}/ends.py:ends", short, trials=6, out=tmp_path / "out.h5", **options
        )

    plan().run(workers=0, progress=False)
    with pytest.raises(OutputError, match=rf"\(other {other}\)"):
        plan(**changed).run(workers=0, progress=False)
