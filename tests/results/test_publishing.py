"""What is in a finished file beside the data, and what it may be called."""

from __future__ import annotations

import calendar
import json
import os
import re
import time
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, Trials
from hpcio.errors import (
    OutputError,
    ResultError,
)
from tests.rigs.everyday import combinations
from tests.rigs.runs import LFP, WORK, check, pieces, record, run


def test_the_table_of_trials(tmp_path, lfp):
    run(lambda x: x[::2], lfp, tmp_path / "out.h5", channels_per_block=3)
    with h5py.File(tmp_path / "out.h5") as f:
        table = f["trials"][...]
        data = f["data"][...]
    assert table.dtype.names == ("first", "last", "done", "trial", "start", "stop", "offset")
    assert table.tolist() == [
        (0, 2, True, 0, 0, 6, 1),
        (3, 5, True, 1, 6, 12, 2),
        (6, 9, True, 2, 12, 20, 3),
        (10, 12, True, 3, 20, 26, 4),
        (13, 14, True, 4, 26, 30, -5),
    ]
    for row in table:
        found = data[row["first"] : row["last"] + 1]
        np.testing.assert_array_equal(found, LFP[row["start"] : row["stop"] : 2])


def test_the_table_of_stacked_trials(tmp_path, lfp):
    run(np.mean, lfp, tmp_path / "out.h5", join="stack")
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["trials"]["first"].tolist() == f["trials"]["last"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_axes_have_dimension_scales(tmp_path, lfp, sources):
    trials = Trials.equal(6, rows=30).select(trials=[3, 1])
    frequencies = np.fft.rfftfreq(6, 0.001)
    run(
        lambda x: np.abs(np.fft.rfft(x, axis=0)), lfp, tmp_path / "out.h5", trials=trials,
        join="stack", sources=sources,
        axes={"trial": None, "frequency": frequencies, "channel": ["Fz", "Cz", "Pz", "ö"]},
    )  # fmt: skip
    with h5py.File(tmp_path / "out.h5") as f:
        dims = f["data"].dims
        assert [dim.label for dim in dims] == ["trial", "frequency", "channel"]
        assert [dim.keys() for dim in dims] == [["trial"], ["frequency"], ["channel"]]
        assert dims[0][0][...].tolist() == [3, 1]
        assert dims[1]["frequency"][...].tobytes() == frequencies.tobytes()
        assert [name.decode() for name in f["channel"]] == ["Fz", "Cz", "Pz", "ö"]
        assert f["frequency"].is_scale


def test_the_file_says_where_it_came_from(tmp_path, lfp):
    before = int(time.time())
    (tmp_path / "work.py").write_text("__version__ = '7.1'\n" + WORK.replace("l)", "l, n, a=1)"))
    run(f"{tmp_path}/work.py:shifted", lfp, tmp_path / "out.h5", args=[5], kwargs={"a": "b"})
    with h5py.File(tmp_path / "out.h5") as f:
        attrs = dict(f.attrs)
    versions = json.loads(attrs.pop("versions"))
    assert versions["numpy"] == np.__version__
    assert versions["h5py"] == h5py.__version__
    assert versions["hpcio"] == hpcio.__version__
    created = time.strptime(attrs.pop("created"), "%Y-%m-%dT%H:%M:%SZ")
    assert before <= calendar.timegm(created) <= time.time()
    assert re.fullmatch("[0-9a-f]{64}", attrs.pop("function_digest"))
    stat = os.stat(tmp_path / "rec.h5")
    assert attrs.pop("source_mtime") == time.strftime(
        "%Y-%m-%dT%H:%M:%SZ", time.gmtime(stat.st_mtime_ns // 10**9)
    )
    assert attrs.pop("host")
    assert attrs.pop("user")
    assert attrs == {
        "function": "work:shifted",
        "function_version": "7.1",
        "function_text": "def shifted(trial, n, a=1):\n    return trial + SHIFT\n",
        "args": "(5,)",
        "kwargs": "{'a': 'b'}",
        "source": str(tmp_path / "rec.h5"),
        "source_dataset": "lfp",
        "source_size": stat.st_size,
    }


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(["trial", "task"], [0, 2], everyday=[("trial", 0), ("task", 0), ("task", 2)]),
)
def test_details_are_kept_beside_the_result(tmp_path, lfp, workers, sources):
    def fitted(trial):
        details = {
            "mean": trial.mean(axis=0),
            "rows": np.array(len(trial), "u2"),
            "unit": np.array("µV"),
            "raw": np.repeat(trial, 1000),  # too large for an attribute
        }
        return trial - details["mean"], details if len(trial) != 4 else {}

    options = {"channels_per_block": 3, "workers": workers, "sources": sources}
    told = {"out_shape": lambda shape: shape, "out_dtype": "f8"}
    run(fitted, lfp, tmp_path / "out.h5", **options, **told)
    check(tmp_path / "out.h5", np.concatenate([x - x.mean(axis=0) for x in pieces()]))
    with hpcio.open(tmp_path / "out.h5") as f:
        attributes = dict(f["metadata"].attrs)
        datasets = {name: item[...] for name, item in f["metadata"].items()}
    expected: dict[str, Any] = {}
    raw = {}
    for k, trial in enumerate(pieces()[:4]):
        for part, x in enumerate((trial[:, :3], trial[:, 3:])):
            expected[f"mean__{k}_{part}"] = x.mean(axis=0)
            expected[f"rows__{k}_{part}"] = np.uint16(len(trial))
            expected[f"unit__{k}_{part}"] = np.bytes_("µV".encode())
            raw[f"raw__{k}_{part}"] = np.repeat(x, 1000)
    small = {name for name, value in raw.items() if value.nbytes < 60_000}
    assert datasets.keys() == raw.keys() - small
    assert attributes.keys() == expected.keys() | small
    for name, value in {**expected, **raw}.items():
        found = {**attributes, **datasets}[name]
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


NAMES = [
    "with space", "it's", 'say "so"', "100%", "%b %d", "%%", "a::b", "zwölf µV 脳波", "$HOME;`ls`",
    "back\\slash", "-dash", "{braces}*[x]?", "new\nline", "tab\t", "~user", "#1&2",
]  # fmt: skip


# Workers are told one name, with all of it.
ALL_IN_ONE = " ".join(NAMES)


@pytest.mark.parametrize(
    ("name", "sources", "workers"),
    combinations(
        [*NAMES, ALL_IN_ONE], ["trial", "task"], [0, 2],
        everyday=[
            *((name, sources, 0) for name in NAMES for sources in ("trial", "task")),
            (ALL_IN_ONE, "task", 2),
        ],
    ),
)  # fmt: skip
def test_files_and_folders_have_any_name(tmp_path, name, sources, workers):
    folder = tmp_path / name
    folder.mkdir()
    source = record(folder / f"{name}.h5")
    out = folder / f"{name} out.h5"
    run(np.negative, source, out, trials=[[0, 15], [15, 30]], sources=sources, workers=workers)
    check(out, -LFP)
    assert {p.name for p in folder.iterdir()} == {f"{name}.h5", out.name, f"{out.name}.run"}
    with hpcio.open(out) as f:
        assert f.attrs["source"] == str(folder / f"{name}.h5")


def test_names_may_be_relative(tmp_path, lfp, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    plan = Plan.create(np.negative, "../rec.h5::lfp", trials=6, out="out.h5")
    monkeypatch.chdir("/")
    plan.run(workers=2, progress=False)
    check(tmp_path / "here" / "out.h5", -LFP)
    monkeypatch.chdir(tmp_path / "here")
    check("out.h5", -LFP)


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_result_can_be_moved_with_its_folder(tmp_path, lfp, sources, monkeypatch):
    (tmp_path / "old").mkdir()
    run(np.negative, lfp, tmp_path / "old" / "out.h5", sources=sources)
    (tmp_path / "old").rename(tmp_path / "new 100%")
    check(tmp_path / "new 100%" / "out.h5", -LFP)
    monkeypatch.chdir(tmp_path / "new 100%")
    check("out.h5", -LFP)


def test_a_link_leads_to_the_result(tmp_path, lfp):
    (tmp_path / "results").mkdir()
    run(np.negative, lfp, tmp_path / "results" / "out.h5")
    (tmp_path / "latest.h5").symlink_to("results/out.h5")
    check(tmp_path / "latest.h5", -LFP)


def test_a_folder_may_be_a_link(tmp_path, lfp):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "work").symlink_to("scratch")
    run(np.negative, lfp, tmp_path / "work" / "out.h5", workers=2)
    check(tmp_path / "work" / "out.h5", -LFP)
    check(tmp_path / "scratch" / "out.h5", -LFP)


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_result_without_its_folder_is_not_opened(tmp_path, lfp, sources):
    run(np.negative, lfp, tmp_path / "out.h5", sources=sources)
    (tmp_path / "out.h5.run").rename(tmp_path / "lost")
    with pytest.raises(ResultError, match=r"its values lie in 'out\.h5\.run'"):
        hpcio.open(tmp_path / "out.h5")


def test_an_output_that_appears_meanwhile_is_not_touched(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(OutputError, match="not the result of this plan"):
        plan.run(workers=0, progress=False)
    assert (tmp_path / "out.h5").read_text() == "precious"
