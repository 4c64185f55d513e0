"""The file of a plan: it comes back as it was, or is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import (
    HpcioError,
    OutputError,
    PlanError,
)
from hpcio.files import checksum
from hpcio.journals import rundir
from hpcio.planning import load_for_worker, load_plan, write_plan
from hpcio.planning.digest import digest_of
from hpcio.planning.planfile import _SEAL, _seal
from hpcio.recording.blocks import Blocks, InputKind
from tests.rigs.bad import begun, check_error
from tests.rigs.plans import TRIALS, Planner, rich, weighted


def test_no_plan(folder):
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("nothing.h5")
    check_error(info.value, r"no result and no run '.*nothing\.h5'.*Make one: hpcio plan")


def test_a_plan_of_another_version(folder):
    with h5py.File(begun(folder), "r+") as f:
        f.attrs["format"] = 999
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5")
    check_error(info.value, r"plan\.h5' was made by another version.*Plan again")


@pytest.mark.parametrize("content", [b"", b"my thesis", bytes(5000)])
def test_a_plan_that_is_no_plan(folder, content):
    begun(folder).write_bytes(content)
    with pytest.raises(HpcioError, match=r"plan\.h5'"):
        hpcio.Plan.load("out.h5")


@pytest.mark.root
@pytest.mark.parametrize("victim", ["plan.h5", "."])
def test_a_plan_of_another_user_is_not_loaded(folder, victim):
    plan = begun(folder)
    os.chown(plan.parent / victim, 65534, 65534)
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5")
    check_error(info.value, "belongs to another user.*Make one of your own")


def same(a: Any, b: Any) -> bool:
    """Whether two parts of plans are equal, arrays by type and bytes."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, tuple) and a and dataclasses.is_dataclass(a[0]):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_plan_comes_back_as_it_was(plan):
    made = rundir.prepare(rich(plan))
    for name in (made.out, f"{made.out}.run", Path(made.out)):
        loaded = Plan.load(name)
        for field in dataclasses.fields(Plan):
            if field.name == "trials":  # what is selected of them, is in the blocks
                for column in ("start", "stop", "offset", "index", "axis"):
                    assert same(getattr(loaded.trials, column), getattr(made.trials, column))
            elif field.name != "live":  # the function itself stays in the session
                assert same(getattr(loaded, field.name), getattr(made, field.name)), field.name
        assert [loaded.trl_dat(i) for i in range(8)] == [made.trl_dat(i) for i in range(8)]
        assert loaded.arguments().of(2) == ((3.0,), {"gain": 0.5})
    assert isinstance(loaded.blocks, Blocks)
    assert all(isinstance(form, InputKind) for form in loaded.blocks.input_kinds)


COLUMNS = {
    "condition": ["left", "right", "", "größer", "left"],
    "rt": [0.25, np.nan, 0.5, 1.0, 2.0],
    "block": [1, 1, 2, 2, 3],
    "correct": [True, False, True, True, False],
}


def with_columns(plan: Planner) -> Plan:
    trials = hpcio.Trials.from_array(TRIALS).with_columns(**COLUMNS)
    average = {"keeptrials": False, "reduce": "sum", "by": ["condition", "correct"]}
    return plan(lambda trial: trial[:2], trials=trials, **average)


def test_columns_come_back_as_they_were(plan):
    made = rundir.prepare(with_columns(plan))
    loaded = Plan.load(made.out)
    assert list(loaded.trials.columns) == list(COLUMNS)
    for name, values in made.trials.columns.items():
        assert loaded.trials[name].dtype == values.dtype
        np.testing.assert_array_equal(loaded.trials[name], COLUMNS[name])
        assert not loaded.trials[name].flags.writeable
    assert digest_of(loaded) == made.digest


def test_workers_load_all_but_the_columns(plan):
    made = rundir.prepare(with_columns(plan))
    whole, loaded = load_plan(made.out), load_for_worker(made.out)
    assert not loaded.trials.columns
    for field in dataclasses.fields(Plan):
        if field.name != "trials":
            assert same(getattr(loaded, field.name), getattr(whole, field.name)), field.name
    assert np.array_equal(loaded.trials.index, whole.trials.index)


def test_plain_h5py_reads_a_plan(plan):
    made = rundir.prepare(with_columns(plan))
    with h5py.File(made.rundir.plan) as f:
        names = json.loads(f["spec"][()].tobytes())["columns"]
        assert names == list(COLUMNS)
        for k in (1, 2, 3):
            np.testing.assert_array_equal(f[f"columns/{k}"], COLUMNS[names[k]])
        codes = [[ord(c) for c in text.ljust(6, "\0")] for text in COLUMNS["condition"]]
        assert f["columns/0"][()].tolist() == codes
        assert f["trials/start"][()].tolist() == [0, 6, 12, 20, 26]


def test_a_plan_is_written_without_a_copy_of_it(plan, tmp_path):
    count = 100_000
    trials = hpcio.Trials.from_array(np.tile(TRIALS, (count // 5, 1)))
    trials = trials.with_columns(
        **{name: np.tile(values, count // 5) for name, values in COLUMNS.items()}
    )
    made = plan(weighted, trials=trials, args=[1.0], sources="task")
    tracemalloc.start()
    try:
        assert write_plan(made, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "plan.h5").stat().st_size > 100 * count


@pytest.mark.parametrize("place", ["first", "columns", "last", "seal", "cut"])
def test_a_damaged_plan_is_told(plan, place):
    made = rundir.prepare(with_columns(plan))
    path = made.rundir.plan
    with h5py.File(path) as f:
        at = f["columns/1"].id.get_offset()
    image = bytearray(path.read_bytes())
    if place == "cut":
        del image[-1]
    else:
        image[{"first": 0, "columns": at, "last": -_SEAL.size - 1, "seal": -1}[place]] ^= 1
    path.write_bytes(image)
    for load in (load_plan, load_for_worker):
        with pytest.raises(PlanError, match=r"plan\.h5' (is damaged|was made by another)"):
            load(made.out)


def test_a_plan_on_a_full_disk(plan, tmp_path, monkeypatch):
    made = rundir.prepare(with_columns(plan))
    place = tmp_path / "place"
    place.mkdir()
    pwrite = os.pwrite

    def full(fd: int, data: Any, offset: int) -> int:
        if offset > 8000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError) as info:
        write_plan(made, place)
    check_error(info.value, r"Cannot write '.*plan\.h5'.*disk or quota is full.*Free some space")
    assert not list(place.iterdir())


def test_a_plan_is_its_owners_alone(plan):
    made = plan(np.negative)
    rundir.prepare(made)
    modes = [path.stat().st_mode & 0o777 for path in made.run_directory.iterdir() if path.is_file()]
    assert modes == [0o600]


@pytest.mark.root
def test_a_plan_of_another_user_is_never_unpickled(plan):
    made = plan(np.negative)
    rundir.prepare(made)
    os.chown(made.run_directory / "plan.h5", 12345, -1)
    with pytest.raises(PlanError, match="belongs to another user"):
        Plan.load(made.out)


def test_there_is_no_plan(tmp_path):
    with pytest.raises(PlanError, match=r"no result and no run '.*none\.h5'"):
        Plan.load(tmp_path / "none.h5")


def resealed(path: Path, name: str, values: Any) -> None:
    """Other values in a plan, behind a right seal."""
    image = path.read_bytes()[: -_SEAL.size]
    path.write_bytes(image)
    with h5py.File(path, "r+") as f:
        del f[name]
        f[name] = values
    image = path.read_bytes()
    path.write_bytes(image + _seal(checksum(image)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("blocks/trial", np.arange(9)),
        ("blocks/input_kind", np.full(5, 7)),
        ("blocks/base", np.full(5, -1)),
        ("target/start", np.full(5, 1000)),
        ("target/channel", np.zeros((5, 1), int)),
        ("trials", 3.0),
        ("spec", np.frombuffer(b"[" * 100_000, np.uint8)),
    ],
)
def test_a_plan_that_makes_no_sense_behind_its_seal(folder, name, values):
    path = begun(folder)
    resealed(path, name, values)
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5")
    check_error(info.value, r"plan\.h5' makes no sense.*Restore it")


@pytest.mark.parametrize(
    "source",
    [
        {"filters": [2**40]},
        {"filters": [-1]},
        {"path": "/a\0b"},
        {"dataset": "\ud800"},
        {"behind": [{"path": "a\0", "size": 1, "mtime_ns": 1}]},
        {"dtype": ","},
    ],
)
def test_a_plan_whose_recording_cannot_be(folder, source):
    path = begun(folder)
    with h5py.File(path) as f:
        spec = json.loads(f["spec"][()].tobytes())
    spec["source"].update(source)
    resealed(path, "spec", np.frombuffer(json.dumps(spec).encode(), np.uint8))
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5")
    check_error(info.value, r"plan\.h5' makes no sense.*Restore it")
