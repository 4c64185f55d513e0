"""Several results of one call, from workers to the datasets of the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, OptionError, ResultError
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import backend_of
from tests.layout.test_outputs import STACKED, announced, several
from tests.rigs.plans import LFP, TRIALS, plan
from tests.rigs.support import damage

__all__ = ["plan"]  # the fixture

# `peak` is stored as it is; chunks of `power` end inside of trials.
PACKED = {"compression": {"power": "gzip:1+shuffle", "flag": "lzf"}, "chunks": {"power": (5, 4)}}
WAYS = {
    "trial": {"sources": "trial"},
    "task": {"sources": "task"},
    "packed-trial": {"sources": "trial", **PACKED},
    "packed-task": {"sources": "task", **PACKED},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"},
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EACH = [LFP[a:b] for a, b, _ in TRIALS]


def check(out: Path, gaps: tuple[int, ...] = ()) -> None:
    """All results are those of plain numpy; a gap has the fill value in each."""
    power, peak = LFP**2, np.asarray([t.argmax(axis=0) for t in EACH], "i4")
    flag = np.asarray([t.max() > 2 for t in EACH])
    for gap in gaps:
        power[slice(*TRIALS[gap][:2])] = np.nan
        peak[gap], flag[gap] = 0, False
    with hpcio.open(out) as f:
        np.testing.assert_array_equal(f["power"][()], power)
        np.testing.assert_array_equal(f["peak"][()], peak)
        np.testing.assert_array_equal(f["flag"][()], flag)
        assert json.loads(f.attrs["results"]) == ["power", "peak", "flag"]
        rows = f["trials"][()]
        assert rows["first"].tolist() == [a for a, *_ in TRIALS]
        assert np.flatnonzero(~rows["done"]).tolist() == list(gaps)
    checked = hpcio.verify(out)
    assert (checked.blocks, checked.gaps) == (5 - len(gaps), len(gaps))


@ways
def test_each_result_is_a_dataset(plan, way):
    made = plan(announced, join=STACKED, **way)
    made.run(workers=0, progress=False)
    check(made.out)


def test_processes_store_several_results(plan):
    made = plan(several, join=STACKED, sources="task")
    made.run(workers=2, progress=False)
    check(made.out)


def test_results_without_axes_are_stacked(plan):
    made = plan(lambda trial: {"double": 2 * trial, "peak": trial.max(), "rows": len(trial)})
    made.run(workers=0, progress=False)
    with hpcio.open(made.out) as f:
        np.testing.assert_array_equal(f["double"][()], 2 * LFP)
        assert f["peak"][()].tolist() == [trial.max() for trial in EACH]
        assert f["rows"][()].tolist() == [len(trial) for trial in EACH]


@ways
def test_a_run_that_was_killed_computes_what_is_missing(plan, way):
    calls = []

    def noted(trial, chunkShape=None, noCompute=None):
        if not noCompute:
            calls.append(len(trial))
        return announced(trial, noCompute=noCompute)

    made = prepare(plan(noted, join=STACKED, **way))
    backend_of(made).reserve(made)
    with Attempt(made, "here") as attempt:
        run_batch(attempt, np.asarray([0, 2]))
        run_batch(attempt, np.asarray([3]))
    (log,) = read_logs(made)
    assert (log.records["kind"] == DONE).sum() == 3
    calls.clear()
    made.run(workers=0, progress=False)
    assert calls == [6, 4]
    check(made.out)


@pytest.mark.parametrize("way", ["task", "packed-task"])
def test_blocks_whose_places_are_lost_are_computed_again(plan, way):
    made = prepare(plan(announced, join=STACKED, **WAYS[way]))
    with Attempt(made, "here") as attempt:
        run_batch(attempt, np.asarray([0, 2]))
    (notes,) = made.rundir.path.glob("journal/*.notes")
    notes.unlink()
    made.run(workers=0, progress=False)
    check(made.out)


@ways
def test_failed_trials_are_gaps_in_each_result(plan, way):
    def failing(trial, chunkShape=None, noCompute=None):
        if not noCompute and len(trial) == 8:
            raise ValueError("no")
        return announced(trial, noCompute=noCompute)

    made = plan(failing, join=STACKED, **way)
    with pytest.raises(BlocksFailed):
        made.run(workers=0, progress=False)
    made.run(workers=0, progress=False, gaps=True)
    check(made.out, gaps=(2,))
    hpcio.repack(made.out)
    check(made.out, gaps=(2,))


@ways
def test_repack_of_a_result_whose_last_trial_is_a_gap(plan, way):
    def failing(trial, chunkShape=None, noCompute=None):
        if not noCompute and len(trial) == 4:
            raise ValueError("no")
        return announced(trial, noCompute=noCompute)

    made = plan(failing, join=STACKED, **way)
    made.run(workers=0, progress=False, gaps=True)
    hpcio.repack(made.out)
    check(made.out, gaps=(4,))


@ways
@pytest.mark.parametrize("name", ["power", "peak", "flag"])
def test_a_flipped_byte_is_found_in_each_result(plan, way, name):
    made = plan(announced, join=STACKED, **way)
    made.run(workers=0, progress=False)
    with h5py.File(made.out) as f:
        dataset = f[name]
        path, inside = made.out, name
        if dataset.is_virtual:
            path = os.path.join(os.path.dirname(made.out), dataset.virtual_sources()[-1].file_name)
    with h5py.File(path) as f:
        dataset = f[inside]
        if dataset.chunks is None:
            offset = dataset.id.get_offset() + dataset.nbytes - 1
        else:
            chunk = dataset.id.get_chunk_info(dataset.id.get_num_chunks() - 1)
            offset = chunk.byte_offset + chunk.size // 2
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 1]))
    # The beginning of a file that is packed is compared when it is opened.
    said = rf"{path}' is not the file" if way is WAYS["packed-task"] else f"Block 4 .*of '{name}'"
    with pytest.raises(ResultError, match=said):
        hpcio.verify(made.out)


def test_a_block_that_a_filter_cannot_unpack_is_named(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.random.default_rng(0).normal(size=(4000, 4))
    made = hpcio.Plan.create(
        several, tmp_path / "rec.h5::lfp", trials=1000, out=tmp_path / "out.h5", join=STACKED,
        sources="task", chunks={"power": (100, 4)}, compression={"power": "gzip"},
    )  # fmt: skip
    made.run(workers=0, progress=False)
    (path,) = made.rundir.sources.iterdir()
    with h5py.File(path) as f:
        chunk = f["power"].id.get_chunk_info(25)
    damage(path, chunk.byte_offset + chunk.size // 2)
    with pytest.raises(ResultError, match=rf"Block 2 .*of 'flag'\) .*'{path}'"):
        hpcio.verify(made.out)


@ways
@pytest.mark.parametrize("compression", [None, "gzip", {"power": "gzip:1", "flag": "lzf"}])
def test_repack_copies_each_result(plan, tmp_path, way, compression):
    axes = {"power": {"time": None, "channel": [4, 5, 6, 7]}}
    made = plan(announced, join=STACKED, axes=axes, **way)
    made.run(workers=0, progress=False)
    hpcio.repack(made.out, tmp_path / "one.h5", compression=compression)
    check(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as f:
        assert f["power"].dims[1]["channel"][()].tolist() == [4, 5, 6, 7]
        assert f["peak"].dims[0][0][()].tolist() == [0, 1, 2, 3, 4]
        expected = dict.fromkeys(("power", "peak", "flag"), compression)
        if isinstance(compression, dict):
            expected = {"power": "gzip", "peak": None, "flag": "lzf"}
        assert {name: f[name].compression for name in expected} == expected
        assert [f[n].chunks is None for n in expected] == [c is None for c in expected.values()]
    hpcio.repack(made.out)
    check(made.out)


@ways
@pytest.mark.parametrize("options", [{}, {"chunks": {"all": (5, 2)}}], ids=["plain", "chunks"])
def test_repack_of_a_result_that_some_trials_have_nothing_of(plan, tmp_path, way, options):
    def some(trial):
        return {"some": trial if len(trial) == 8 else trial[:0], "all": -trial}

    way = {option: how for option, how in way.items() if not isinstance(how, dict)}
    made = plan(some, **way)
    made.run(workers=0, progress=False)
    hpcio.repack(made.out, tmp_path / "one.h5", **options)
    with hpcio.open(tmp_path / "one.h5") as f:
        np.testing.assert_array_equal(f["some"][()], EACH[2])
        np.testing.assert_array_equal(f["all"][()], -LFP)


def test_repack_refuses_what_names_no_result(plan, tmp_path):
    made = plan(announced, join=STACKED)
    made.run(workers=0, progress=False)
    with pytest.raises(OptionError, match=r"compression= names 'peek'.*power, peak, flag"):
        hpcio.repack(made.out, tmp_path / "one.h5", compression={"peek": "gzip"})


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_results_are_packed_as_was_said_by_name(plan, sources):
    made = plan(announced, join=STACKED, sources=sources, **PACKED)
    made.run(workers=2, progress=False)
    check(made.out)
    for path in made.rundir.sources.rglob("*.h5"):
        with h5py.File(path) as f:
            found = {name: (f[name].chunks is not None, f[name].compression) for name in f}
            assert found["power"] == (True, "gzip")
            assert f["power"].shuffle
            assert found["peak"] == (False, None)
            # HDF5 has no chunks of a scalar
            assert found["flag"] == ((False, None) if sources == "trial" else (True, "lzf"))
    loaded = hpcio.Plan.load(made.out)
    assert loaded.digest == made.digest
    kept = [(o.chunks, o.compression) for o in loaded.outputs]
    assert kept == [(o.chunks, o.compression) for o in made.outputs]
    with h5py.File(made.out) as f:
        assert f["hpcio"].attrs["compression"] == b"gzip:1+shuffle,lzf"


def test_a_log_whose_writer_was_killed_becomes_a_file(plan):
    calls = []

    def noted(trial, chunkShape=None, noCompute=None):
        if not noCompute:
            calls.append(len(trial))
        return announced(trial, noCompute=noCompute)

    made = prepare(plan(noted, join=STACKED, **WAYS["packed-task"]))
    with Attempt(made, "here") as attempt:
        run_batch(attempt, np.arange(4))
        attempt.sync()
        # As if it were killed now: nobody makes a file of its log.
        attempt.writer._fd = -1
    assert [path.suffix for path in made.rundir.sources.iterdir()] == [".packed"]
    calls.clear()
    made.run(workers=0, progress=False)
    assert calls == [4]
    check(made.out)


def test_xarray_has_each_result_as_a_variable(plan):
    pytest.importorskip("xarray")
    axes = {"peak": {"trial": None, "channel": list("abcd")}}
    made = plan(announced, join=STACKED, axes=axes)
    made.run(workers=0, progress=False)
    with hpcio.open(made.out).to_xarray() as found:
        assert set(found) == {"power", "peak", "flag"}
        assert found["peak"].dims == ("trial", "channel")
        assert found["flag"].dims == ("trial",)
        peak = found["peak"].sel(trial=2, channel="b")
        assert int(peak) == EACH[2][:, 1].argmax()


@ways
def test_blocks_of_channels_lie_side_by_side_in_each_result(plan, way):
    if "writer" in way:  # which have a place for blocks of channels of equal trials only
        way = {**way, "trials": 6}
    made = plan(
        lambda trial: {"power": trial**2, "peak": trial.argmax(axis=0)},
        channels_per_block=2, join={"peak": "stack"}, out_channel_axis={"peak": 0, "power": 1},
        **{**way, "compression": {"power": "gzip"} if "chunks" in way else None, "chunks": None},
    )  # fmt: skip
    made.run(workers=0, progress=False)
    each = np.split(LFP, 5) if "writer" in way else EACH
    with hpcio.open(made.out) as f:
        np.testing.assert_array_equal(f["power"][()], LFP**2)
        np.testing.assert_array_equal(f["peak"][()], [t.argmax(axis=0) for t in each])
        assert (f.plain("power").chunks == (6, 2)) == ("writer" in way)
    hpcio.verify(made.out)
    hpcio.repack(made.out)
    with hpcio.open(made.out) as f:
        np.testing.assert_array_equal(f["power"][()], LFP**2)


def test_unequal_shapes_of_several_results_are_joined(plan, tmp_path):
    def uneven(trial):
        n = len(trial)
        return {"long": np.repeat(trial, 2, axis=0), "short": trial[: n // 2].astype("f4")}

    for name, way in {**WAYS, "all": {"compression": "gzip", "sources": "task"}}.items():
        options = {option: how for option, how in way.items() if not isinstance(how, dict)}
        made = plan(uneven, out=tmp_path / f"{name}.h5", **options)
        made.run(workers=0, progress=False)
        with hpcio.open(made.out) as f:
            np.testing.assert_array_equal(f["long"][()], np.repeat(LFP, 2, axis=0))
            short = np.concatenate([t[: len(t) // 2] for t in EACH]).astype("f4")
            np.testing.assert_array_equal(f["short"][()], short)
        hpcio.verify(made.out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("peak"), "returned no 'peak'"),
        (lambda found: found.update(peek=1), "'peek', which was not"),
        (lambda found: found.update(peak=np.zeros(3, "i4")), r"'peak': .*shape \(3,\)"),
        (lambda found: found.update(peak=np.zeros(4)), "'peak': .*returned float64"),
    ],
)
def test_what_was_not_planned_fails_and_names_the_result(plan, change, said):
    def wrong(trial, chunkShape=None, noCompute=None):
        found = announced(trial, noCompute=noCompute)
        if not noCompute and len(trial) == 8:
            change(found)
        return found

    with pytest.raises(BlocksFailed, match=said):
        plan(wrong, join=STACKED).run(workers=0, progress=False)


SCRIPT = """
import os, signal

def power(trial):
    mark = os.environ["MARK"]
    if len(trial) == 8 and os.path.exists(mark):
        os.unlink(mark)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"power": trial**2, "peak": trial.argmax(axis=0).astype("i4"),
            "flag": bool(trial.max() > 2)}
"""


def test_the_command_line_plans_runs_and_resumes_after_a_kill(plan, tmp_path):
    plan(np.negative)  # makes the recording
    (tmp_path / "own.py").write_text(SCRIPT)
    mark = tmp_path / "mark"

    def hpcio_(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hpcio", *words], cwd=tmp_path, text=True, check=False,
            capture_output=True, env={**os.environ, "MARK": str(mark)},
        )  # fmt: skip

    join = ",".join(f"{name}={how}" for name, how in STACKED.items())
    made = hpcio_("plan", "own.py:power", "rec.h5::lfp", "--trials", "rec.h5::trials",
                  "--out", "cli.h5", "--join", join, "--sources", "task", "--chunks",
                  "power=5,4,peak=auto", "--compression", "power=gzip:1")  # fmt: skip
    assert made.returncode == 0, made.stderr
    mark.touch()
    assert hpcio_("run", "cli.h5", "--workers", "0").returncode < 0
    done = hpcio_("run", "cli.h5", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "power (30, 4) float64, peak (5, 4) int32, flag (5,) bool" in done.stdout
    check(tmp_path / "cli.h5")
    packed = hpcio_("repack", "cli.h5", "one.h5", "--compression", "power=gzip:1,peak=lzf")
    assert packed.returncode == 0, packed.stderr
    check(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as f:
        assert (f["power"].compression, f["peak"].compression) == ("gzip", "lzf")
        assert f["flag"].chunks is None
    stored = [(o.chunks, o.compression) for o in hpcio.Plan.load(tmp_path / "cli.h5").outputs]
    assert stored == [((20,), "gzip:1"), ((262_144,), None), (None, None)]


def test_details_of_one_shape_are_a_dataset_along_trials(plan):
    def detailed(trial, chunkShape=None, noCompute=None):
        if noCompute:
            return trial.shape, trial.dtype
        if len(trial) == 8:
            raise ValueError("no")
        return -trial, {"mean": trial.mean(axis=0), "text": "a" * len(trial), "rows": trial[:, 0]}

    made = plan(detailed)
    with pytest.raises(BlocksFailed):
        made.run(workers=0, progress=False)
    made.run(workers=0, progress=False, gaps=True)
    with hpcio.open(made.out) as f:
        mean = np.asarray([t.mean(axis=0) for t in EACH])
        mean[2] = np.nan
        np.testing.assert_array_equal(f["details/mean"][()], mean)
        assert f["details/text"][()].tolist() == [b"aaaaaa", b"aaaaaa", b"", b"aaaaaa", b"aaaa"]
        assert set(f["details"]) == {"mean", "text"}  # the rows differ from trial to trial
        assert (f["metadata"].attrs["rows__4_0"] == EACH[4][:, 0]).all()
    hpcio.verify(made.out)


@pytest.mark.parametrize("name", ["power", "peak"])
def test_a_next_step_cuts_each_result_by_its_own_rows(plan, tmp_path, name):
    """In whatever order the trials were, and whatever else the call has returned."""
    made = plan(announced, join=STACKED)
    made.run(workers=0, progress=False)
    step = hpcio.Plan.create(
        lambda trial: trial.sum(axis=0), f"{made.out}::{name}", trials=made.out,
        out=tmp_path / "two.h5", join="stack",
    )  # fmt: skip
    step.run(workers=0, progress=False)
    with hpcio.open(made.out) as f, hpcio.open(step.out) as g:
        found = f[name][()]
        each = found if name == "peak" else [found[a:b] for a, b, _ in TRIALS]
        want = [np.atleast_2d(one).sum(axis=0) for one in each]
        np.testing.assert_allclose(g["data"][()], want)
