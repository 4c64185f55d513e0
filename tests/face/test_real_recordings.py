"""Real recordings that Python packages bring along, against a computation trial by trial.

Spoken vowels (sktime): 640 utterances of 7 to 29 samples in 12 channels. Receptors of
grasshoppers (nitime): 10 s of sound at 20 kHz, and the times of their spikes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, Trials, per_trial
from tests.rigs.everyday import combinations

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "japanese_vowels.py"
Array = np.ndarray


def data_of(package: str, *path: str) -> Path:
    """A folder of an installed package, which is not imported for it."""
    spec = find_spec(package)
    folder = Path(spec.submodule_search_locations[0], *path) if spec else None
    if folder is None or not folder.is_dir():
        pytest.skip(f"needs the recordings of {package}: pip install {package}")
    return folder


def check(out: Path, trials: list[Array]) -> None:
    """Trial by trial the same bytes, for plain h5py and for `hpcio.open`."""
    for opened in (h5py.File(out), hpcio.open(out)):
        with opened as f:
            data, table = f["data"][...], f["trials"][...]
        assert len(table) == len(trials)
        for row, expected in zip(table, trials, strict=True):
            found = data[row["first"] : row["last"] + 1]
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes()
    assert hpcio.verify(out).gaps == 0


# ---- spoken vowels ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vowels() -> tuple[list[Array], Array]:
    folder = data_of("sktime", "datasets", "data", "JapaneseVowels")
    trials, speakers = [], []
    for part in ("TRAIN", "TEST"):
        text = (folder / f"JapaneseVowels_{part}.ts").read_text()
        for line in text.partition("@data\n")[2].splitlines():
            *channels, speaker = line.split(":")
            numbers = np.array([[float(x) for x in c.split(",")] for c in channels])
            trials.append(np.ascontiguousarray(numbers.T))
            speakers.append(int(speaker))
    return trials, np.array(speakers)


@pytest.fixture
def recording(vowels: tuple[list[Array], Array], tmp_path: Path) -> Path:
    """The same numbers stored in four ways, and the table of utterances."""
    trials, _ = vowels
    data = np.concatenate(trials)
    stop = np.cumsum([len(x) for x in trials])
    with h5py.File(tmp_path / "vowels.h5", "w") as f:
        f["contiguous"] = data
        f.create_dataset("compressed", data=data, chunks=(100, 12), compression="gzip")
        f["channels_first"] = data.T
        f["big_endian"] = data.astype(">f8")
        f["trials"] = np.column_stack([stop - [len(x) for x in trials], stop])
    return tmp_path / "vowels.h5"


def test_the_vowels_are_what_their_description_says(vowels):
    trials, speakers = vowels
    lengths = [len(x) for x in trials]
    assert (len(trials), min(lengths), max(lengths)) == (640, 7, 29)
    assert {x.shape[1] for x in trials} == {12}
    assert np.bincount(speakers[:270]).tolist() == [0] + [30] * 9


def centred(trial: Array) -> Array:
    return trial - trial.mean(axis=0)


@pytest.mark.parametrize(
    ("dataset", "workers"),
    combinations(
        ["contiguous", "compressed"], [0, 2], everyday=[("contiguous", 0), ("compressed", 2)]
    ),
)
def test_utterances_of_all_lengths_are_joined(vowels, recording, dataset, workers):
    out = recording.with_name("out.h5")
    plan = Plan.create(
        lambda x: x - x.mean(axis=0), f"{recording}::{dataset}", trials=f"{recording}::trials",
        out=out,
    )  # fmt: skip
    assert plan.sources == "task"
    assert set(plan.target.shapes) == {x.shape for x in vowels[0]}
    done = plan.run(workers=workers, progress=False)
    assert done.computed == 640
    check(out, [centred(x) for x in vowels[0]])


def test_a_file_for_each_utterance(vowels, recording):
    out = recording.with_name("out.h5")
    func: Callable[..., Array] = lambda x: np.cumsum(x, axis=0)  # noqa: E731
    Plan.create(
        func, f"{recording}::contiguous", trials=f"{recording}::trials", out=out, sources="trial"
    ).run(workers=2, progress=False)
    assert len(list(Path(f"{out}.run/sources").rglob("*.h5"))) == 640
    check(out, [np.cumsum(x, axis=0) for x in vowels[0]])


def test_utterances_along_the_second_axis(vowels, recording):
    out = recording.with_name("out.h5")
    Plan.create(
        lambda x: np.diff(x, axis=1, prepend=0), f"{recording}::channels_first", axis=1,
        trials=f"{recording}::trials", out=out, channels_per_block=5,
    ).run(workers=2, progress=False)  # fmt: skip
    with hpcio.open(out) as f:
        found, table = f["data"][...], f["trials"][...]
    for row, x in zip(table, vowels[0], strict=True):
        expected = np.ascontiguousarray(np.diff(x.T, axis=1, prepend=0))
        assert found[:, row["first"] : row["last"] + 1].tobytes() == expected.tobytes()


@hpcio.unwrap_io
def covariance(utterance, weight, chunkShape=None, noCompute=None):
    """Covariance of the channels, and as detail the length of the utterance."""
    if noCompute:
        return (utterance.shape[1],) * 2, np.dtype("f4")
    x = utterance - utterance.mean(axis=0)
    return (weight * (x.T @ x) / len(x)).astype("f4"), {"length": np.array(len(x))}


@pytest.mark.parametrize("dataset", ["contiguous", "big_endian"])
def test_one_matrix_for_each_utterance_of_one_speaker(vowels, recording, dataset):
    trials, speakers = vowels
    mine = np.flatnonzero(speakers == 3)
    weights = np.linspace(0, 1, len(mine))
    out = recording.with_name("out.h5")
    Plan.create(
        covariance, f"{recording}::{dataset}", join="stack", out=out, args=[per_trial(weights)],
        trials=Trials.from_hdf5(f"{recording}::trials").select(trials=speakers == 3),
    ).run(workers=0, progress=False)  # fmt: skip
    as_read = [trials[k].astype(">f8" if dataset == "big_endian" else "f8") for k in mine]
    expected = [covariance(x, w)[0][None] for x, w in zip(as_read, weights, strict=True)]
    check(out, expected)
    with hpcio.open(out) as f:
        assert f["trials"]["trial"].tolist() == mine.tolist()
        lengths = {name: int(value) for name, value in f["metadata"].attrs.items()}
    assert lengths == {f"length__{k}_0": len(trials[i]) for k, i in enumerate(mine)}


def test_the_end_of_each_utterance_backwards(vowels, recording):
    out = recording.with_name("out.h5")
    trials = Trials.from_hdf5(f"{recording}::trials")
    Plan.create(
        np.negative, f"{recording}::compressed", join="stack", out=out,
        trials=trials.select(time=[-1, -2, -7], channels=[11, 0]),
    ).run(workers=2, progress=False)  # fmt: skip
    check(out, [-x[[-1, -2, -7]][:, [11, 0]][None] for x in vowels[0]])


def test_the_worked_example(vowels, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr

    trials, speakers = vowels
    flat = []
    for x in trials:
        old, new = np.linspace(0, 1, len(x)), np.linspace(0, 1, 8)
        flat.append(np.stack([np.interp(new, old, channel) for channel in x.T], axis=1))
    check(tmp_path / "stretched.h5", [x[None] for x in flat])

    table = [line.split() for line in done.stdout.splitlines() if line.endswith("%")]
    assert [row[0] for row in table] == [*"123456789", "all"]
    assert [int(row[1]) for row in table] == [*np.bincount(speakers[270:])[1:].tolist(), 370]
    known = np.array(flat[:270])
    heard = [speakers[((known - x) ** 2).sum(axis=(1, 2)).argmin()] for x in flat[270:]]
    right = np.array(heard) == speakers[270:]
    expected = [right[speakers[270:] == s].mean() for s in range(1, 10)]
    assert [row[2] for row in table] == [f"{x:.0%}" for x in [*expected, right.mean()]]


# ---- receptors of grasshoppers ------------------------------------------------------------------

# A spike is preceded by 300 samples of sound (15 ms) and followed by 100.
BEFORE, AFTER = 300, 100


@pytest.fixture(scope="module")
def receptors() -> list[tuple[Array, Array]]:
    """For both receptors the sound, and the sample at which each spike came."""
    folder = data_of("nitime", "data")
    both = []
    for k in (1, 2):
        microseconds, sound = np.loadtxt(folder / f"grasshopper_stimulus{k}.txt", unpack=True)
        assert np.unique(np.diff(microseconds)).tolist() == [50]
        spikes = np.loadtxt(folder / f"grasshopper_spike_times{k}.txt").astype(int) // 50
        fits = (spikes >= BEFORE) & (spikes + AFTER <= len(sound))
        both.append((sound, spikes[fits]))
    return both


def windows(spikes: Array) -> Array:
    return np.column_stack([spikes - BEFORE, spikes + AFTER, np.full(len(spikes), BEFORE)])


@pytest.mark.parametrize(
    ("receptor", "workers"), combinations([0, 1], [0, 2], everyday=[(0, 2), (1, 0)])
)
def test_the_sound_around_each_spike(receptors, tmp_path, receptor, workers):
    sound, spikes = receptors[receptor]
    table = windows(spikes)
    assert (table[1:, 0] < table[:-1, 1]).any()  # the windows overlap
    with h5py.File(tmp_path / "sound.h5", "w") as f:
        f["sound"] = sound
        f["sound"].dims[0].label = "time"
    np.savetxt(tmp_path / "spikes.csv", table, "%d", ",", header="start,stop,offset", comments="")

    plan = Plan.create(
        lambda x: x - x[0], f"{tmp_path}/sound.h5::sound", trials=tmp_path / "spikes.csv",
        join="stack", out=tmp_path / "around.h5",
        axes={"spike": spikes, "time": np.arange(-BEFORE, AFTER) * 5e-5},
    )  # fmt: skip
    plan.run(workers=workers, progress=False)
    check(tmp_path / "around.h5", [(sound[a:b] - sound[a])[None] for a, b, _ in table])
    with hpcio.open(tmp_path / "around.h5") as f:
        assert f["data"].dims[0]["spike"][...].tolist() == spikes.tolist()
        assert (f["trials"]["start"] + f["trials"]["offset"]).tolist() == spikes.tolist()
        # the average is that of numpy, and sound does precede a spike
        average = f["data"][...].mean(axis=0)
    direct = np.mean([sound[a:b] - sound[a] for a, b, _ in table], axis=0)
    np.testing.assert_array_equal(average, direct)
    assert average[BEFORE - 150 : BEFORE].max() > 2 * np.abs(average[:100]).max()


def test_the_loudness_between_spikes(receptors, tmp_path):
    """Intervals of unequal length, one number each; in parts of one dataset of two channels."""
    sound = np.stack([sound for sound, _ in receptors], axis=1)
    spikes = receptors[0][1]
    table = np.column_stack([spikes[:-1], spikes[1:]])
    with h5py.File(tmp_path / "sound.h5", "w") as f:
        f.create_dataset("sound", data=sound, chunks=(4096, 1), shuffle=True, compression="lzf")
    source: dict[str, Any] = {"source": f"{tmp_path}/sound.h5::sound", "trials": table}
    Plan.create(
        lambda x: np.sqrt((x**2).mean(axis=0)), **source, join="stack", out=tmp_path / "rms.h5",
        channels_per_block=1, out_channel_axis=0,
    ).run(workers=2, progress=False)  # fmt: skip
    expected = [
        np.concatenate([np.sqrt((sound[a:b, k : k + 1] ** 2).mean(axis=0)) for k in (0, 1)])
        for a, b in table
    ]
    check(tmp_path / "rms.h5", [x[None] for x in expected])
