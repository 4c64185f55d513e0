"""Adding trials to a finished result: values, what is computed, kills, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import (
    BlocksFailed,
    FunctionError,
    HpcioWarning,
    OptionError,
    OutputError,
    PlanError,
    SourceError,
    TrialError,
)
from hpcio.running.extending import take_over
from hpcio.watching import status

X = np.random.default_rng(3).standard_normal((600, 4))


def squared(trial):
    return trial**2


def noted(trial, notes, noCompute=None):
    """Writes a line for each call."""
    if noCompute:
        return trial.shape, "f8"
    with open(notes, "a") as f:
        f.write(f"{len(trial)}\n")
    return trial**2


def several(trial):
    return {"power": trial**2, "peak": trial.max(), "rows": np.arange(2) + len(trial)}


def gained(trial, gain, rng=None):
    noise = 0 if rng is None else rng.standard_normal()
    return trial * gain + noise


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two recordings of 300 rows."""
    for name, rows in {"a.h5": X[:300], "b.h5": X[300:]}.items():
        with h5py.File(tmp_path / name, "w") as f:
            f["lfp"] = rows
    return tmp_path


def table(starts, labels, rows=20):
    return {"start": starts, "stop": [a + rows for a in starts], "label": [*labels]}


FIRST = table([0, 20, 40, 60], "abba")
MORE = table([80, 100], "ca")
OF_B = table([0, 30], "bb")
# Where all of them lie in X.
ALL = [0, 20, 40, 60, 80, 100, 300, 330]
LABELS = np.asarray([*"abbacabb"])
EACH = np.stack([X[a : a + 20] ** 2 for a in ALL])


def made(folder, func=squared, trials=FIRST, **options):
    plan = hpcio.Plan.create(
        func, folder / "a.h5::lfp", trials=trials, out=folder / "out.h5", **options
    )
    plan.run(workers=0, progress=False)
    return hpcio.Plan.load(folder / "out.h5")


def extended_twice(folder, plan):
    done = plan.extend(trials=MORE).run(workers=0, progress=False)
    again = hpcio.Plan.load(plan.out).extend(trials=OF_B, source=folder / "b.h5::lfp")
    return done, again.run(workers=0, progress=False)


WAYS = {
    "trial": {}, "task": {"sources": "task"}, "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"}, "packed": {"chunks": True, "compression": "gzip"},
    "packed task": {"chunks": True, "sources": "task"},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("join", ["stack", "concatenate"])
def test_new_trials_alone_are_computed_and_all_are_in_the_result(folder, way, join):
    done = extended_twice(folder, made(folder, join=join, **way))
    assert [(one.computed, one.blocks) for one in done] == [(2, 6), (2, 8)]
    with hpcio.open(folder / "out.h5") as f:
        want = EACH if join == "stack" else EACH.reshape(-1, 4)
        np.testing.assert_array_equal(f["data"][()], want)
        assert f["run"][()].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
        assert f["recording"].asstr()[()].tolist() == [*"aaaaaabb"]
        assert f["label"].asstr()[()].tolist() == LABELS.tolist()
        assert f["trials"]["trial"].tolist() == [*range(8)]
        assert f["trials"]["start"].tolist() == [*ALL[:6], 0, 30]
        runs = json.loads(f.attrs["runs"])
        assert [run["trials"] for run in runs] == [4, 2, 2]
        assert len({run["run_id"] for run in runs}) == 3
        assert all(run["created"] for run in runs)
        assert "functions" not in f.attrs
    assert hpcio.verify(folder / "out.h5").blocks == 8
    assert not status(folder / "out.h5").earlier
    shown = repr(hpcio.open(folder / "out.h5"))
    assert "kept" not in shown
    assert re.search(r"runs +4 trials \S+Z, 2 trials \S+Z, 2 trials", shown)
    assert re.search(r"recording +2 recordings, the first of them \S+a\.h5::lfp", shown)


def test_nothing_old_is_called(folder):
    plan = made(folder, noted, kwargs={"notes": str(folder / "notes")})
    plan.extend(trials=table([80], "c", rows=33)).run(workers=0, progress=False)
    assert (folder / "notes").read_text().split() == ["20"] * 4 + ["33"]


@pytest.mark.parametrize("join_axis", [1])
@pytest.mark.parametrize("way", [{}, {"writer": "direct"}], ids=["virtual", "direct"])
def test_results_that_follow_each_other_along_another_axis(folder, join_axis, way):
    extended_twice(folder, made(folder, join_axis=join_axis, **way))
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_array_equal(f["data"][()], np.concatenate(EACH, axis=1))
    hpcio.verify(folder / "out.h5")


@pytest.mark.parametrize("way", [{}, {"sources": "task"}, {"writer": "direct"}], ids=str)
def test_blocks_of_channels_and_selections_go_on(folder, way):
    trials = hpcio.Trials.read(FIRST).select(channels=[0, 1, 3, 2], time=slice(5, 15))
    plan = made(folder, trials=trials, channels_per_block=2, **way)
    extended_twice(folder, plan)
    with hpcio.open(folder / "out.h5") as f:
        want = EACH[:, 5:15][:, :, [0, 1, 3, 2]]
        np.testing.assert_array_equal(f["data"][()], want.reshape(-1, 4))
    with pytest.raises(OptionError, match=r"channels=.*Select the same, or nothing"):
        hpcio.Plan.load(plan.out).extend(
            trials=hpcio.Trials.read(table([120], "a")).select(channels=[0]),
            source=folder / "a.h5::lfp",
        )


@pytest.mark.parametrize("way", [{}, {"sources": "task"}, {"writer": "direct"}], ids=str)
def test_several_results_of_a_call(folder, way):
    extended_twice(folder, made(folder, several, join={"rows": "stack"}, **way))
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_array_equal(f["power"][()], EACH.reshape(-1, 4))
        assert f["peak"][()].tolist() == [X[a : a + 20].max() for a in ALL]
        assert f["rows"][()].tolist() == [[20, 21]] * 8
    hpcio.verify(folder / "out.h5")


@pytest.mark.parametrize("way", [{}, {"writer": "direct"}, {"writer": "mutex"}], ids=str)
def test_averages_among_several_results_go_on(folder, way):
    options = {"reduce": {"power": "mean", "peak": "max"}, "by": "label", **way}
    extended_twice(folder, made(folder, several, join={"rows": "stack"}, **options))
    with hpcio.open(folder / "out.h5") as f:
        for k, kind in enumerate("abc"):
            some = EACH[LABELS == kind]
            np.testing.assert_allclose(f["power"][k], some.mean(axis=0), rtol=1e-12)
            assert f["peak"][k] == max(X[a : a + 20].max() for a in np.asarray(ALL)[LABELS == kind])
        assert f["rows"][()].tolist() == [[20, 21]] * 8
        assert f["run"][()].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    hpcio.verify(folder / "out.h5")


# ---------------------------------------------------------------------- averages


def begin(trial):
    return trial.sum(axis=0), len(trial)


def add(state, later):
    return state[0] + later[0], state[1] + later[1]


def finish(state):
    return state[0] / state[1]


OWN = EACH.mean(axis=(0, 1))
REDUCTIONS = {
    "mean": EACH.mean(axis=0), "sum": EACH.sum(axis=0), "var": EACH.var(axis=0),
    "min": EACH.min(axis=0), "max": EACH.max(axis=0), "count": np.full((20, 4), 8),
    "cov": np.cov(EACH.reshape(-1, 4).T), "own": OWN,
}  # fmt: skip


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_averages_go_on(folder, reduce):
    what = (begin, add, finish) if reduce == "own" else reduce
    extended_twice(folder, made(folder, keeptrials=False, reduce=what))
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_allclose(f["data"][()], REDUCTIONS[reduce], rtol=1e-12)
        assert f["data"].attrs["trials"] == 8
        assert f["run"][()].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("reduce", ["mean", "var"])
def test_averages_by_condition_go_on_with_conditions_that_are_new(folder, reduce):
    extended_twice(folder, made(folder, keeptrials=False, reduce=reduce, by="label"))
    with hpcio.open(folder / "out.h5") as f:
        kinds = f["label"].asstr()[()].tolist()
        assert kinds == ["a", "b", "c"]
        for k, kind in enumerate(kinds):
            want = getattr(np, reduce)(EACH[LABELS == kind], axis=0)
            np.testing.assert_allclose(f["data"][k], want, rtol=1e-12, atol=1e-15)
        assert f["count"][()].tolist() == [3, 4, 1]


def test_groups_of_before_stay_and_the_bits_do_not_depend_on_the_workers(folder):
    rows = np.arange(1100)  # groups of three, of which the last has two
    first = np.stack([rows % 280, rows % 280 + 20], axis=1)
    found = []
    for workers in (0, 2):
        out = folder / f"out{workers}.h5"
        options = {"trials": first, "out": out, "keeptrials": False}
        hpcio.Plan.create(squared, folder / "a.h5::lfp", **options).run(workers=0, progress=False)
        plan = hpcio.Plan.load(out)
        assert plan.average.stretches == ((0, 3),)
        more = plan.extend(
            trials=[[7, 27], [100, 120], [33, 53], [1, 21]], source=folder / "b.h5::lfp"
        )
        assert more.average.stretches == ((0, 3), (1100, 3))
        assert more.run(workers=workers, progress=False).computed == 4
        with hpcio.open(out) as f:
            found.append(f["data"][()])
    np.testing.assert_array_equal(*found)
    each = [X[a:b] ** 2 for a, b in first] + [X[300 + a : 320 + a] ** 2 for a in (7, 100, 33, 1)]
    np.testing.assert_allclose(found[0], np.mean(each, axis=0), rtol=1e-12)


# ---------------------------------------------------------------------- what is given


def test_a_table_that_has_grown_is_given_whole(folder):
    plan = made(folder)
    plan.extend(trials=table([0, 20, 40, 60, 80, 100], "abbaca")).run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][()], EACH[:6].reshape(-1, 4))
        assert f["trials"]["trial"].tolist() == [*range(6)]


def test_equal_trials_count_as_often_as_they_are_given(folder):
    twice = table([0, 0], "ab")
    plan = made(folder, trials=twice)
    more = plan.extend(trials=table([0, 0, 0], "abc"))
    assert more.trials["label"].tolist() == [*"abc"]


def test_what_is_there_already_is_refused_unless_all_is_given(folder):
    plan = made(folder)
    with pytest.raises(TrialError, match=r"given 1 are in the result .*trial 1.*3 that are there"):
        plan.extend(trials=table([80, 20], "cb"))
    with pytest.warns(
        HpcioWarning, match="All 4 trials that are given are in .*: there is nothing"
    ):
        assert plan.extend(trials=FIRST).digest == plan.digest
    with pytest.raises(TrialError, match=r"'label' says b of trial 0, and a in the result"):
        plan.extend(trials=table([0, 20, 40, 60, 80], "bbbac"))


def test_columns_that_differ_are_refused(folder):
    plan = made(folder)
    with pytest.raises(TrialError, match=r"'trials=' have no column 'label'"):
        plan.extend(trials=[[80, 100]])
    with pytest.raises(TrialError, match=r"out\.h5' have no column 'side'"):
        plan.extend(trials={**MORE, "side": ["l", "r"]})
    with pytest.raises(TrialError, match="is text in the trials of"):
        plan.extend(trials={**MORE, "label": [1, 2]})


def test_a_pattern_gives_what_is_new(folder):
    for name in "ab":
        with h5py.File(folder / f"{name}.h5", "r+") as f:
            f["trials"] = np.asarray([[0, 20], [30, 50]]) + 10 * (name == "b")
    pattern, trials = str(folder / "*.h5::lfp"), "::trials"
    (folder / "b.h5").rename(folder / "b")
    first = hpcio.Plan.create(squared, pattern, trials=trials, out=folder / "out.h5")
    first.run(workers=0, progress=False)
    (folder / "b").rename(folder / "b.h5")
    done = hpcio.Plan.load(first.out).extend(trials=trials, source=pattern).run(workers=0)
    assert done.computed == 2
    with hpcio.open(first.out) as f:
        rows = [X[a : a + 20] ** 2 for a in (0, 30, 310, 340)]
        np.testing.assert_array_equal(f["data"][()], np.concatenate(rows))
        assert f["recording"].asstr()[()].tolist() == [*"aabb"]
    with pytest.warns(HpcioWarning, match="All 4 trials .* nothing to add"):
        again = hpcio.Plan.load(first.out).extend(trials=trials, source=pattern).run(workers=0)
    assert again.computed == 0


def test_a_recording_that_became_longer(folder):
    plan = made(folder)
    with h5py.File(folder / "a.h5", "r+") as f:
        del f["lfp"]
        f["lfp"] = X[:500]
    with pytest.warns(HpcioWarning, match="has grown from 300 to 500 rows"):
        more = plan.extend(trials=table([400], "c"))
    more.run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][80:], X[400:420] ** 2)


def test_a_recording_that_is_another_is_refused(folder):
    plan = made(folder)
    with h5py.File(folder / "a.h5", "r+") as f:
        f["lfp"][0] = 7
    with pytest.raises(SourceError, match="has changed since the plan was made"):
        plan.extend(trials=MORE)
    with h5py.File(folder / "c.h5", "w") as f:
        f["lfp"] = X[:, :3]


def test_recordings_that_do_not_agree_are_refused(folder):
    plan = made(folder)
    with h5py.File(folder / "c.h5", "w") as f:
        f["lfp"] = X[:, :3]
    with pytest.raises(SourceError, match=r"a\.h5.* and .*c\.h5.* differ in shape"):
        plan.extend(trials=OF_B, source=folder / "c.h5::lfp")


def test_trials_that_leave_their_recording(folder):
    plan = made(folder)
    with pytest.raises(TrialError, match=r"Trial 1\b.*300"):
        plan.extend(trials=table([80, 290], "cc"))
    with pytest.warns(HpcioWarning, match="1 of 2 trials leave"):
        more = plan.extend(trials=table([80, 290], "ca"), outside="drop")
    assert more.trials["label"].tolist() == [*"abbac"]


# ---------------------------------------------------------------------- arguments


def test_each_trial_has_its_value_and_its_draws(folder):
    gain = np.arange(1.0, 9.0)
    rng = np.random.default_rng(5)
    source = [folder / "a.h5::lfp", folder / "b.h5::lfp"]
    whole = hpcio.Plan.create(
        gained, source, trials=[table(ALL[:6], LABELS[:6]), OF_B], out=folder / "whole.h5",
        kwargs={"gain": hpcio.per_trial(gain), "rng": rng},
    )  # fmt: skip
    whole.run(workers=0, progress=False)
    plan = made(folder, gained, kwargs={"gain": hpcio.per_trial(gain[:4]), "rng": rng})
    with pytest.raises(OptionError, match=r"'gain' has a value for each trial.*kwargs="):
        plan.extend(trials=MORE)
    with pytest.raises(OptionError, match="1 values for 2 trials"):
        plan.extend(trials=MORE, kwargs={"gain": hpcio.per_trial([1.0])})
    with pytest.raises(OptionError, match="no argument 'offset' with a value for each trial"):
        plan.extend(trials=MORE, kwargs={"gain": hpcio.per_trial(gain[4:6]), "offset": 1})
    plan.extend(trials=table(ALL[:6], LABELS[:6]), kwargs={"gain": hpcio.per_trial(gain[:6])}).run(
        workers=0, progress=False
    )
    hpcio.Plan.load(plan.out).extend(
        trials=OF_B, source=folder / "b.h5::lfp", kwargs={"gain": hpcio.per_trial(gain[6:])}
    ).run(workers=0, progress=False)
    with hpcio.open(whole.out) as one, hpcio.open(plan.out) as other:
        np.testing.assert_array_equal(one["data"][()], other["data"][()])


def cut(trial, n):
    return {"cut": trial[:n], "sum": trial.sum(axis=0)}


def test_shapes_that_follow_from_arguments_of_trials_are_tried_again(folder):
    """Trials of one shape had results of another: what they gave says nothing of the new ones."""
    plan = made(folder, cut, join={"sum": "stack"}, kwargs={"n": hpcio.per_trial([5] * 4)})
    plan.extend(trials=MORE, kwargs={"n": hpcio.per_trial([7, 7])}).run(workers=0, progress=False)
    with hpcio.open(folder / "out.h5") as f:
        assert f["cut"].shape[0] == 4 * 5 + 2 * 7
        assert f["sum"].shape[0] == 6


def test_values_of_a_column_are_those_of_the_new_trials(folder):
    trials = {**FIRST, "gain": [1.0, 2.0, 3.0, 4.0]}
    plan = made(folder, gained, trials, kwargs={"gain": hpcio.per_trial("gain")})
    plan.extend(trials={**MORE, "gain": [5.0, 6.0]}).run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        want = [X[a : a + 20] * k for k, a in enumerate(ALL[:6], 1)]
        np.testing.assert_array_equal(f["data"][()], np.concatenate(want))


# ---------------------------------------------------------------------- runs that do not end well


def broken(trial):
    if trial[0, 0] == X[80, 0]:
        raise ValueError("no")
    return trial**2


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_result_stays_until_all_is_done(folder, way):
    plan = made(folder, broken, **way)
    with pytest.raises(BlocksFailed):
        plan.extend(trials=MORE).run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][()], EACH[:4].reshape(-1, 4))
    with pytest.raises(OutputError, match="finish that run first"):
        hpcio.Plan.load(plan.out).extend(trials=MORE)
    done = hpcio.Plan.load(plan.out).run(workers=0, progress=False, gaps=True)
    assert (done.blocks, done.gaps) == (5, 1)
    with hpcio.open(plan.out) as f:
        want = np.where(np.arange(6)[:, None, None] == 4, np.nan, EACH[:6])
        np.testing.assert_array_equal(f["data"][()], want.reshape(-1, 4))
    hpcio.verify(plan.out)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_run_that_ended_before_its_first_trial_goes_on(folder, way):
    plan = made(folder, **way)
    take_over(plan.extend(trials=MORE))
    done = hpcio.Plan.load(plan.out).run(workers=0, progress=False)
    assert (done.computed, done.blocks) == (2, 6)
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][()], EACH[:6].reshape(-1, 4))


def test_one_file_that_is_gone_is_made_again(folder):
    """What was computed in it is computed again, and what the result has is copied once more."""
    plan = made(folder, broken, writer="direct")
    with pytest.raises(BlocksFailed):
        plan.extend(trials=MORE).run(workers=0, progress=False)
    data = hpcio.Plan.load(plan.out).rundir.data
    data.unlink()
    done = hpcio.Plan.load(plan.out).run(workers=0, progress=False, gaps=True)
    assert (done.computed, done.gaps) == (1, 1)
    with hpcio.open(plan.out) as f:
        want = np.where(np.arange(6)[:, None, None] == 4, np.nan, EACH[:6])
        np.testing.assert_array_equal(f["data"][()], want.reshape(-1, 4))


def test_gaps_of_before_are_tried_again(folder, tmp_path):
    flag = tmp_path / "mended"

    def fragile(trial):
        if trial[0, 0] == X[20, 0] and not os.path.exists(flag):
            raise ValueError("no")
        return trial**2

    plan = hpcio.Plan.create(fragile, folder / "a.h5::lfp", trials=FIRST, out=folder / "out.h5")
    plan.run(workers=0, progress=False, gaps=True)
    flag.touch()
    done = hpcio.Plan.load(plan.out).extend(trials=MORE).run(workers=0, progress=False)
    assert (done.computed, done.gaps) == (3, 0)
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][()], EACH[:6].reshape(-1, 4))
        assert f["run"][()].tolist() == [0, 1, 0, 0, 1, 1]


def test_a_plan_that_was_made_before_another_run_is_refused(folder):
    plan = made(folder)
    one, other = plan.extend(trials=MORE), plan.extend(trials=table([120], "a"))
    one.run(workers=0, progress=False)
    with pytest.raises(PlanError, match="has changed since: another run has replaced it"):
        other.run(workers=0, progress=False)
    assert one.run(workers=0, progress=False).blocks == 6


def test_starting_over_computes_all(folder):
    plan = made(folder)
    extended_twice(folder, plan)
    done = hpcio.Plan.load(plan.out).run(workers=0, progress=False, fresh=True)
    assert done.computed == 8
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][()], EACH.reshape(-1, 4))


# ---------------------------------------------------------------------- functions


def module(folder, factor):
    text = f"def func(trial):\n    return trial * {factor}\n"
    (folder / f"mod_{folder.name}.py").write_text(text)
    return f"{folder}/mod_{folder.name}.py:func"


def run_apart(folder, code):
    given = {"folder": folder, "MORE": MORE, "FIRST": FIRST}
    lines = [f"{name} = {str(value) if isinstance(value, Path) else value!r}"
             if not isinstance(value, Path) else f"{name} = {str(value)!r}"
             for name, value in given.items()]  # fmt: skip
    script = "\n".join(["import hpcio", *lines, code])
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_a_function_that_has_changed_is_refused_or_told(folder):
    func = module(folder, "2")
    plan = hpcio.Plan.create(func, folder / "a.h5::lfp", trials=FIRST, out=folder / "out.h5")
    plan.run(workers=0, progress=False)
    module(folder, "30")
    extend = "hpcio.Plan.load(folder + '/out.h5').extend(trials=MORE{})"
    refused = run_apart(folder, extend.format(""))
    assert "PlanError" in refused.stderr
    assert "has changed" in refused.stderr
    said = run_apart(folder, extend.format(", keep_done=True") + ".run(workers=0)")
    assert said.returncode == 0, said.stderr
    with hpcio.open(plan.out) as f:
        want = np.concatenate([X[:80] * 2, X[80:120] * 30])
        np.testing.assert_array_equal(f["data"][()], want)
        assert f["function"][()].tolist() == [0, 0, 0, 0, 1, 1]
        assert f["run"][()].tolist() == [0, 0, 0, 0, 1, 1]
        assert f.earlier == 4


def test_results_that_do_not_fit_are_refused(folder):
    def wide(trial):
        return np.zeros((len(trial), 4 if len(trial) == 20 else 5))

    def typed(trial):
        return trial.astype("f8" if len(trial) == 20 else "f4")

    for func, says in ((wide, "Results have different shapes"), (typed, "type float32 for the")):
        plan = hpcio.Plan.create(
            func, folder / "a.h5::lfp", trials=FIRST, out=folder / f"{func.__name__}.h5"
        )
        plan.run(workers=0, progress=False)
        with pytest.raises(FunctionError, match=says):
            hpcio.Plan.load(plan.out).extend(trials=table([80], "c", rows=10))


def test_coordinates_that_were_given_along_trials_are_missing_for_new_ones(folder):
    axes = {"when": [1.0, 2.0, 3.0, 4.0], "time": None, "channel": ["w", "x", "y", "z"]}
    plan = made(folder, join="stack", axes=axes)
    with pytest.raises(OptionError, match=r"'when' .* as columns of their table"):
        plan.extend(trials=MORE)


def test_names_and_coordinates_of_axes_stay(folder):
    axes = {"event": None, "time": np.arange(20) / 10, "channel": ["w", "x", "y", "z"]}
    extended_twice(folder, made(folder, join="stack", axes=axes))
    with hpcio.open(folder / "out.h5") as f:
        assert [dim.label for dim in f["data"].dims] == ["event", "time", "channel"]
        assert f["time"][()].tolist() == (np.arange(20) / 10).tolist()
        assert f["channel"].asstr()[()].tolist() == [*"wxyz"]


# ---------------------------------------------------------------------- in the shell


def hpcio_(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "hpcio", *map(str, words)], cwd=cwd, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_the_shell(folder):
    (folder / "first.csv").write_text("start,stop,label\n0,20,a\n20,40,b\n")
    (folder / "more.csv").write_text("start,stop,label\n40,60,b\n60,80,x\n")
    (folder / "b.csv").write_text("start,stop,label\n0,20,b\n")
    (folder / "f.py").write_text("def func(trial):\n    return trial**2\n")
    hpcio_("run", "f.py:func", "a.h5::lfp", "--trials", "first.csv", "--out", "out.h5",
           "--workers", 1, cwd=folder)  # fmt: skip
    said = hpcio_("extend", "out.h5", "--trials", "more.csv", "--where", "label=b",
                  "--workers", 1, cwd=folder)  # fmt: skip
    assert "1 trial in" in said
    assert "2 from earlier runs" in said
    said = hpcio_("extend", "out.h5", "b.h5::lfp", "--trials", "b.csv", "--only-plan", cwd=folder)
    assert said == "4 trials. Run it with: hpcio run out.h5\n"
    hpcio_("run", "out.h5", "--workers", 1, cwd=folder)
    # The first command once more: what it says of the result is true.
    said = hpcio_("run", "f.py:func", "a.h5::lfp", "--trials", "first.csv", "--out", "out.h5",
                  "--workers", 1, cwd=folder)  # fmt: skip
    assert "4 trials; nothing was computed, data (80, 4) float64" in said
    with hpcio.open(folder / "out.h5") as f:
        want = np.concatenate([X[:60], X[300:320]]) ** 2
        np.testing.assert_array_equal(f["data"][()], want)
    hpcio_("repack", "out.h5", cwd=folder)
    assert hpcio.verify(folder / "out.h5").blocks == 4
    with hpcio.open(folder / "out.h5") as f:
        assert f["run"][()].tolist() == [0, 0, 1, 2]


# ---------------------------------------------------------------------- what was mended


def test_functions_of_reduce_that_have_changed_are_refused(folder):
    (folder / "red.py").write_text(
        "FACTOR = 1\ndef begin(r): return r.sum() * FACTOR\ndef add(a, b): return a + b\n"
        "def finish(s): return s\nSUM = (begin, add, finish)\n"
    )
    plan = hpcio.Plan.create(
        squared, folder / "a.h5::lfp", trials=FIRST, out=folder / "out.h5", keeptrials=False,
        reduce=f"{folder}/red.py:SUM",
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    text = (folder / "red.py").read_text()
    (folder / "red.py").write_text(text.replace("FACTOR = 1\n", "FACTOR = 1000\n"))
    for option in ("", ", keep_done=True"):
        code = f"hpcio.Plan.load(folder + '/out.h5').extend(trials=MORE{option}).run(workers=0)"
        said = run_apart(folder, code)
        assert said.returncode == 1
        assert "has changed" in said.stderr or "have changed" in said.stderr


def test_drop_sees_rows_that_are_new(folder):
    (folder / "first.csv").write_text("start,stop\n0,20\n")
    (folder / "more.csv").write_text("start,stop\n20,40\n400,420\n900,920\n")
    (folder / "f.py").write_text("def func(trial):\n    return trial**2\n")
    hpcio_("run", "f.py:func", "a.h5::lfp", "--trials", "first.csv", "--out", "out.h5",
           "--workers", 1, cwd=folder)  # fmt: skip
    with h5py.File(folder / "a.h5", "r+") as f:
        del f["lfp"]
        f["lfp"] = X
    hpcio_("extend", "out.h5", "--trials", "more.csv", "--outside", "drop", "--workers", 1,
           cwd=folder)  # fmt: skip
    with hpcio.open(folder / "out.h5") as f:
        want = np.concatenate([X[:40], X[400:420]]) ** 2
        np.testing.assert_array_equal(f["data"][()], want)


def test_a_column_of_recordings_stays(folder):
    first = {**FIRST, "recording": ["day 1"] * 4}
    plan = made(folder, trials=first)
    plan.extend(trials={**MORE, "recording": ["day 1"] * 2}).run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        assert f["recording"].asstr()[()].tolist() == ["day 1"] * 6
    for one in ("a", "b"):
        with h5py.File(folder / f"{one}.h5", "r+") as f:
            f["trials"] = np.asarray([[0, 20]])
    alone = hpcio.Plan.create(
        squared, f"{folder}/a*.h5::lfp", trials="::trials", out=folder / "alone.h5"
    )
    alone.run(workers=0, progress=False)
    hpcio.Plan.load(alone.out).extend(trials=np.array([[20, 40]])).run(workers=0, progress=False)
    with hpcio.open(alone.out) as f:
        assert f["recording"].asstr()[()].tolist() == ["a", "a"]


def test_recordings_of_one_name_in_other_folders(folder):
    for name in ("A", "B"):
        (folder / name).mkdir()
        for k in (1, 2):
            with h5py.File(folder / name / f"s{k}.h5", "w") as f:
                f["lfp"] = X[:100]
                f["trials"] = np.asarray([[0, 20]])
    plan = hpcio.Plan.create(
        squared, f"{folder}/A/s*.h5::lfp", trials="::trials", out=folder / "out.h5"
    )
    plan.run(workers=0, progress=False)
    more = hpcio.Plan.load(plan.out).extend(source=f"{folder}/?/s*.h5::lfp", trials="::trials")
    assert more.trials["recording"].tolist() == ["A/s1", "A/s2", "B/s1", "B/s2"]
    more.run(workers=0, progress=False)
    hpcio.verify(plan.out)


def test_numbers_of_a_column_keep_their_digits(folder):
    large = [2**60 + 1, 2**60 + 3, 5, 6]
    plan = made(folder, trials={**FIRST, "id": large})
    with pytest.raises(TrialError, match=r"'id' has whole numbers .* too large"):
        plan.extend(trials={**MORE, "id": [np.nan, 1.0]})


def test_values_for_trials_stay_of_their_kind(folder):
    plan = made(folder, gained, kwargs={"gain": hpcio.per_trial("index")})
    plan.extend(trials=MORE).run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][100:], X[100:120] * 5)
    with pytest.raises(OptionError, match="is no dict"):
        hpcio.Plan.load(plan.out).extend(trials=OF_B, source=folder / "b.h5::lfp", kwargs=[1])


@pytest.mark.parametrize("writer", ["direct", "mutex"])
def test_what_a_writer_cannot_hold_is_refused_before_anything_is_touched(folder, writer):
    plan = made(folder, lambda trial: trial.T**2, join_axis=1, writer=writer)
    with pytest.raises(PlanError, match="unequal shape along the first axis only"):
        plan.extend(trials=table([80], "c", rows=33))
    plan.extend(trials=MORE).run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        want = np.concatenate([one.T for one in EACH[:6]], axis=1)
        np.testing.assert_array_equal(f["data"][()], want)


def test_a_copy_of_a_recording_is_that_recording(folder):
    plan = made(folder)
    (folder / "copy").mkdir()
    shutil.copy2(folder / "a.h5", folder / "copy" / "a.h5")  # with its time
    with pytest.warns(HpcioWarning, match="All 4 trials .* nothing to add"):
        plan.extend(trials=FIRST, source=folder / "copy" / "a.h5::lfp")
    both = [folder / "a.h5::lfp", folder / "copy" / "a.h5::lfp"]
    with pytest.raises(OptionError, match="or copies of it"):
        plan.extend(trials=[FIRST, FIRST], source=both)


@pytest.mark.parametrize("reduce", [None, "mean"])
def test_times_of_rows_are_those_of_all_trials(folder, reduce):
    with h5py.File(folder / "a.h5", "r+") as f:
        for dim, name in zip(f["lfp"].dims, ("time", "channel"), strict=True):
            dim.label = name
    events = hpcio.Trials.from_events
    how = {"join": "stack"} if reduce is None else {"keeptrials": False, "reduce": reduce}
    plan = made(folder, trials=events([1.0, 1.5], rate=100, pre=0.2, post=0.3), **how)
    more = plan.extend(trials=events([2.0], rate=100, pre=0.2, post=0.3))
    assert more.axes[-2].values.tolist() == plan.axes[-2].values.tolist()
    with pytest.warns(HpcioWarning, match="'time' loses its times"):
        more = plan.extend(trials=events([2.0], rate=100, pre=0.1, post=0.4))
    assert more.axes[-2].values is None
    with pytest.raises(OptionError, match=r"t_start=1\.0, and those that are there with t_start=0"):
        plan.extend(trials=events([2.6], rate=100, pre=0.2, post=0.3, t_start=1.0))


def test_the_next_step_follows(folder):
    """Columns that tell of the runs of one step are none of the trials of the next."""
    one = made(folder)
    two = hpcio.Plan.create(squared, one.out, trials=one.out, out=folder / "two.h5")
    two.run(workers=0, progress=False)
    one.extend(trials=MORE).run(workers=0, progress=False)
    with pytest.warns(HpcioWarning, match="has grown from 80 to 120 rows"):
        more = hpcio.Plan.load(two.out).extend(trials="::trials")
    assert more.run(workers=0, progress=False).computed == 2
    with hpcio.open(two.out) as f:
        np.testing.assert_array_equal(f["data"][()], EACH[:6].reshape(-1, 4) ** 2)
        assert f["run"][()].tolist() == [0, 0, 0, 0, 1, 1]


def test_a_plan_at_hand_says_that_another_run_has_begun(folder):
    plan = made(folder, broken)
    with pytest.raises(BlocksFailed):
        plan.extend(trials=MORE).run(workers=0, progress=False)
    with pytest.raises(OutputError, match="finish that run first"):
        plan.extend(trials=table([120], "a"))


def test_each_run_keeps_its_date(folder):
    func = module(folder, "2")
    plan = hpcio.Plan.create(func, folder / "a.h5::lfp", trials=FIRST, out=folder / "out.h5")
    plan.run(workers=0, progress=False)
    for k in range(2):
        more = hpcio.Plan.load(plan.out).extend(trials=table([80 + 20 * k], "c"), keep_done=True)
        more.run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        runs = json.loads(f.attrs["runs"])
    assert [run["trials"] for run in runs] == [4, 1, 1]
    assert all(run["created"] for run in runs)


def test_a_script_of_a_run_and_what_follows_may_be_run_again(folder):
    def script():
        plan = hpcio.Plan.create(squared, folder / "a.h5::lfp", trials=FIRST, out=folder / "out.h5")
        plan.run(workers=0, progress=False)
        return plan.extend(trials=MORE).run(workers=0, progress=False)

    assert script().computed == 2
    with (
        pytest.warns(HpcioWarning, match="has all 4 trials of this plan, and 2 that were added"),
        pytest.warns(HpcioWarning, match="All 2 trials that are given are in .*: there is nothing"),
    ):
        again = script()
    assert (again.computed, again.blocks) == (0, 6)
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_array_equal(f["data"][()], EACH[:6].reshape(-1, 4))
    plan = hpcio.Plan.create(squared, folder / "a.h5::lfp", trials=FIRST, out=folder / "out.h5")
    assert plan.extend(trials=table([120], "b")).run(workers=0, progress=False).blocks == 7


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_plan_of_all_is_done_by_what_was_extended(folder, way):
    made(folder, **way).extend(trials=MORE).run(workers=0, progress=False)
    both = table([0, 20, 40, 60, 80, 100], "abbaca")

    def planned(func):
        return hpcio.Plan.create(
            func, folder / "a.h5::lfp", trials=both, out=folder / "out.h5", **way
        )

    done = planned(squared).run(workers=0, progress=False)
    assert (done.computed, done.blocks) == (0, 6)
    with pytest.raises(OutputError, match="other function"):
        planned(np.abs).run(workers=0, progress=False)


def test_times_of_a_single_trial_end_with_it(folder):
    with h5py.File(folder / "a.h5", "r+") as f:
        for dim, name in zip(f["lfp"].dims, ("time", "channel"), strict=True):
            dim.label = name
    events = hpcio.Trials.from_events
    plan = made(folder, trials=events([1.0], rate=100, pre=0.2, post=0.3))
    assert plan.axes[0].values is not None
    more = plan.extend(trials=events([2.0], rate=100, pre=0.2, post=0.3))
    assert (more.axes[0].name, more.axes[0].values) == ("time", None)
    more.run(workers=0, progress=False)


def test_numbers_of_trials_are_no_times(folder):
    """Twenty trials of twenty rows each, at one row a second from their event."""
    with h5py.File(folder / "a.h5", "r+") as f:
        f["lfp"].dims[0].label = "time"
    events = hpcio.Trials.from_events
    first = events(np.arange(20.0), rate=1, post=20)
    plan = made(folder, trials=first, join="stack")
    more = plan.extend(trials=events([50.0], rate=1, post=20))
    assert more.axes[0].values.tolist() == [*range(21)]
    assert more.axes[1].values.tolist() == [*range(20)]
