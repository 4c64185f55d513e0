"""What a run will take, before any work."""

from __future__ import annotations

import os
import pickle

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import FunctionError
from hpcio.planning.describing import _only, probe
from hpcio.words import duration, size


@pytest.fixture
def recording(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((1000, 4))
    return f"{tmp_path}/rec.h5::/lfp"


TABLE = [[0, 10], [10, 500], [500, 520]]


def test_says_what_is_read_and_written_and_probes_the_longest_trial(recording, tmp_path):
    notes = tmp_path / "notes"

    def twice(trial):
        with notes.open("a") as f:
            f.write(f"{len(trial)} {os.getpid()}\n")
        return np.concatenate([trial, trial], axis=1)

    plan = hpcio.Plan.create(twice, recording, trials=TABLE, out=tmp_path / "out.h5")
    notes.unlink()
    said = plan.describe(workers=2)
    lengths, processes = zip(*map(str.split, notes.read_text().splitlines()), strict=True)
    assert set(lengths) == {"490"}
    assert str(os.getpid()) not in processes
    assert (said.trials, said.blocks, said.workers, said.probe_trial) == (3, 3, 2, 1)
    assert (said.smallest, said.largest) == (10 * 32, 490 * 32)
    assert (said.nbytes_read, said.nbytes_written) == (520 * 32, 520 * 64)
    assert said.shape == (520, 8)
    # The probe's time, for as many bytes, by two workers.
    assert said.seconds == pytest.approx(said.probe_seconds * 520 / 490 / 2)
    assert said.memory > 490 * 96
    for part in ("16.6 kB", "33.3 kB: float64 of shape (520, 8)", "trial 1, the longest"):
        assert part in str(said)
    assert not list(tmp_path.glob("out.h5*"))


def test_a_function_that_raises_for_the_longest_trial_says_which(recording, tmp_path):
    def fragile(trial, noCompute=None):
        if noCompute:
            return trial.shape, "f8"
        raise ValueError("too long")

    plan = hpcio.Plan.create(fragile, recording, trials=TABLE, out=tmp_path / "out.h5")
    with pytest.raises(FunctionError, match="raised ValueError for trial 1: too long"):
        plan.describe()


@pytest.mark.parametrize("harm", ["raise ValueError('too long')", "os.kill(os.getpid(), 11)"])
def test_where_the_longest_trial_does_harm_the_next_is_timed(recording, tmp_path, harm):
    space: dict[str, object] = {"os": os}
    exec(
        "def func(trial, noCompute=None):\n    if noCompute:\n        return trial.shape, 'f8'\n"
        f"    if len(trial) == 490:\n        {harm}\n    return 2.0 * trial",
        space,
    )
    plan = hpcio.Plan.create(space["func"], recording, trials=TABLE, out=tmp_path / "out.h5")
    assert plan.describe().probe_trial != 1


def test_sizes_and_times_for_people():
    assert [size(n) for n in (7, 4096, 2.5e6, 3e13)] == ["7 B", "4.1 kB", "2.5 MB", "30 TB"]
    said = [duration(s) for s in (2e-5, 0.5, 3.21, 600, 7500)]
    assert said == ["20 us", "500 ms", "3.21 s", "10 min", "2 h 5 min"]


def test_a_probe_gets_its_block_and_no_others(recording, tmp_path):
    def tells(trial, number, noCompute=None):
        if noCompute:
            return trial.shape, "f8"
        raise ValueError(f"{trial.shape} {trial.sum()} {number}")

    with h5py.File(tmp_path / "rec.h5", "r+") as f:
        f["lfp"][10:500, 2:] = 1
    numbers = hpcio.per_trial([5, 6, 7])
    plan = hpcio.Plan.create(
        tells, recording, trials=TABLE, out=tmp_path / "out.h5", args=[numbers],
        channels_per_block=2,
    )  # fmt: skip
    with pytest.raises(FunctionError, match=r"for trial 1: \(490, 2\) 980\.0 6"):
        probe(plan, [3])


def test_a_probe_of_many_trials_is_small(recording, tmp_path):
    trials = hpcio.Trials.from_array(np.tile(TABLE, (10_000, 1)))
    trials = trials.with_columns(kind=np.tile(["a", "b", "c"], 10_000))
    plan = hpcio.Plan.create(np.negative, recording, trials=trials, out=tmp_path / "out.h5")
    # What does not grow with the trials is the function, with the versions of what it reaches.
    assert len(pickle.dumps(_only(plan, 20_001))) < 100_000 < len(pickle.dumps(plan))
