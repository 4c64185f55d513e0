"""A virtual dataset is read from its files as HDF5 reads it."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import hpcio
from hpcio.errors import SourceError
from hpcio.files import VirtualReader

UNLIMITED = h5py.h5s.UNLIMITED
Slab = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def space_of(shape: tuple[int, ...], slab: Slab | None, most: tuple[int, ...] | None = None):
    space = h5py.h5s.create_simple(shape, most)
    if slab is None:
        space.select_all()
    else:
        start, stride, count, block = slab
        space.select_hyperslab(start, count, stride, block)
    return space


def make(path: Path, shape: tuple[int, ...], *mappings: tuple, most=None, fill=-7) -> None:
    """Make a virtual dataset of HDF5's own words: selection, file, dataset, its selection."""
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_fill_value(np.full(1, fill, "i4"))
    for onto, file, name, taken in mappings:
        dcpl.set_virtual(space_of(shape, onto, most), file.encode(), name.encode(), taken)
    with h5py.File(path, "a", libver="latest") as f:
        space = h5py.h5s.create_simple(shape, most)
        h5py.h5d.create(f.id, b"x", h5py.h5t.NATIVE_INT32, space, dcpl)


def check(path: Path, *wanted: range | np.ndarray) -> None:
    """Read entries of each axis, of everything by default, as HDF5 does."""
    with h5py.File(path) as f:
        data = f["x"]
        reader, expected = VirtualReader(data), data[...]
    entries = wanted or [range(n) for n in expected.shape]
    found = reader.read(entries)
    reader.close()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected[np.ix_(*entries)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mappings")
    for k in range(4):
        with h5py.File(folder / f"part{k}.h5", "w") as f:
            f["flat"] = np.arange(1000 * k, 1000 * k + 600, dtype="i4")
            f["box"] = f["flat"][:240].reshape(12, 20)
            f["deep"] = f["flat"][...].reshape(2, 10, 30)
            f["narrow"] = f["box"][...].astype("f4") + 0.5
    with h5py.File(folder / "link.h5", "w") as f:
        f["box"] = h5py.ExternalLink("part2.h5", "box")
    inner = ((((0, 0), (1, 1), (12, 20), (1, 1))), "part3.h5", "box", space_of((12, 20), None))
    make(folder / "inner.h5", (14, 20), inner, fill=-9)
    return folder


SIZES = {"flat": (600,), "box": (12, 20), "deep": (2, 10, 30), "narrow": (12, 20), "x": (14, 20)}
FILES = [*itertools.product(["part0.h5", "part1.h5"], ["flat", "box", "deep", "narrow"]),
         ("link.h5", "box"), ("inner.h5", "x")]  # fmt: skip


@st.composite
def axis(draw: st.DrawFn, length: int, n: int | None = None) -> tuple[int, int, int, int]:
    """Start, stride, count and block of a selection of an axis, of `n` entries."""
    blocks = [b for b in range(1, length + 1) if n is None or n % b == 0]
    block = draw(st.sampled_from([b for b in blocks if b <= length]))
    count = draw(st.integers(1, length // block)) if n is None else n // block
    most = (length - block) // (count - 1) if count > 1 else block + 3
    stride = draw(st.integers(block, max(block, most)))
    last = (count - 1) * stride + block
    return draw(st.integers(0, max(0, length - last))), stride, count, block


def is_within(slab: tuple[int, int, int, int], length: int) -> bool:
    start, stride, count, block = slab
    return start + (count - 1) * stride + block <= length


@st.composite
def mapping(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple | None:
    """A mapping of a regular part of a source onto one of the dataset, or of a run onto a box."""
    file, name = draw(st.sampled_from(FILES))
    size = SIZES[name]
    onto = [draw(axis(n)) for n in shape]
    sizes = [count * block for _, _, count, block in onto]
    if not all(map(is_within, onto, shape)):
        return None
    if len(size) == 1:
        sizes = [int(np.prod(sizes))]
    else:
        sizes = [n for n in sizes if n > 1]
        sizes = [1] * (len(size) - len(sizes)) + sizes
    if len(sizes) > len(size) or any(n > most for n, most in zip(sizes, size, strict=True)):
        return None
    if len(size) == 1:  # one value after the other
        taken = [(draw(st.integers(0, size[0] - sizes[0])), 1, 1, sizes[0])]
    else:
        taken = [draw(axis(most, n)) for n, most in zip(sizes, size, strict=True)]
    if not all(map(is_within, taken, size)):
        return None
    return (
        tuple(zip(*onto, strict=True)),
        file,
        name,
        space_of(size, tuple(zip(*taken, strict=True))),
    )


def disjoint(shape: tuple[int, ...], mappings: list[tuple]) -> list[tuple]:
    """Those that lie upon no other: HDF5 does not say what comes of others."""
    taken, kept = np.zeros(shape, bool), []
    for one in mappings:
        places = [
            [start + stride * k + j for k in range(count) for j in range(block)]
            for start, stride, count, block in zip(*one[0], strict=True)
        ]
        if not taken[np.ix_(*places)].any():
            taken[np.ix_(*places)] = True
            kept.append(one)
    return kept


@st.composite
def entries(draw: st.DrawFn, length: int) -> range | np.ndarray:
    if draw(st.booleans()):
        start = draw(st.integers(0, length))
        return range(start, draw(st.integers(start, length)), draw(st.integers(1, 4)))
    return np.array(sorted(draw(st.sets(st.integers(0, length - 1), min_size=1))), np.int64)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_as_hdf5_reads_it(folder, data):
    shape = data.draw(st.sampled_from([(40,), (30, 9), (6, 7, 8)]))
    found = data.draw(st.lists(mapping(shape), min_size=1, max_size=5))
    found = disjoint(shape, [one for one in found if one is not None])
    assume(found)
    path = folder / "virtual.h5"
    path.unlink(missing_ok=True)
    make(path, shape, *found)
    check(path, *[data.draw(entries(n)) for n in shape])
    check(path)


@pytest.mark.parametrize("span", [1 << 22, 7])
def test_some_columns_of_what_is_stored_flat(tmp_path, folder, monkeypatch, span):
    monkeypatch.setattr("hpcio.files.virtual._SPAN", span)
    slab = (0, 0, 0), (1, 1, 1), (1, 1, 1), (5, 6, 20)
    path = folder / "flat.h5"
    path.unlink(missing_ok=True)
    make(path, (5, 6, 20), (slab, "part1.h5", "flat", space_of((600,), ((0,), (1,), (1,), (600,)))))
    for wanted in itertools.product([range(5), range(1, 5, 2), np.array([0, 3])],
                                    [range(6), range(2, 3), np.array([1, 5])],
                                    [range(20), range(19, 20), np.array([2, 3, 19])]):  # fmt: skip
        check(path, *wanted)


def test_files_by_a_pattern(folder):
    onto = (0, 1), (13, 1), (UNLIMITED, 1), (12, 20)
    path = folder / "pattern.h5"
    make(path, (50, 21), (onto, "part%b.h5", "box", space_of((12, 20), None)), most=(UNLIMITED, 21))
    check(path)
    check(path, range(3, 50, 7), np.array([0, 20]))
    with h5py.File(path) as f:
        assert f["x"].shape == (51, 21)


@pytest.mark.parametrize("block", [1, 4])
def test_what_may_grow(tmp_path, block):
    slab = (0, 0), (block + 1, 1), (UNLIMITED, 1), (block, 3)
    with h5py.File(tmp_path / "source.h5", "w", libver="latest") as f:
        f.create_dataset("x", data=np.arange(60, dtype="i4").reshape(20, 3), maxshape=(None, 3))
    taken = space_of((20, 3), slab, (UNLIMITED, 3))
    make(tmp_path / "rec.h5", (20, 3), (slab, "source.h5", "x", taken), most=(UNLIMITED, 3))
    check(tmp_path / "rec.h5")
    check(tmp_path / "rec.h5", range(1, 18, 3), range(1, 2))


def irregular(path: Path) -> None:
    with h5py.File(path.with_name("source.h5"), "w") as f:
        f["x"] = np.arange(10, dtype="i4")
    space = h5py.h5s.create_simple((10,))
    space.select_hyperslab((0,), (2,))
    space.select_hyperslab((5,), (3,), op=h5py.h5s.SELECT_OR)
    make(path, (5,), (((0,), (1,), (1,), (5,)), "source.h5", "x", space))


def test_what_is_not_regular_is_left_to_hdf5(tmp_path):
    irregular(tmp_path / "rec.h5")
    check(tmp_path / "rec.h5")
    check(tmp_path / "rec.h5", np.array([0, 2, 4]))
    (tmp_path / "source.h5").unlink()
    with (
        h5py.File(tmp_path / "rec.h5") as f,
        pytest.raises(SourceError, match=r"source\.h5', which cannot be read"),
    ):
        VirtualReader(f["x"]).read([range(5)])


TYPES = ["f8", "f4", "i2", "u2", "i8", ">i4", "f2"]


@pytest.mark.parametrize(("inner", "outer"), [*itertools.product(TYPES, TYPES), ("?", "?")])
def test_types_and_fill_values_are_converted_as_by_hdf5(tmp_path, inner, outer):
    fill = {"f": -1.5, "i": -1, "u": 2, "b": 1}[np.dtype(inner).kind]
    with h5py.File(tmp_path / "source.h5", "w") as f:
        f["x"] = np.array([0, 1, 300 if inner != "?" else 1]).astype(inner)
        layout = h5py.VirtualLayout((5,), inner)
        layout[:3] = h5py.VirtualSource(".", "x", (3,))
        f.create_virtual_dataset("some", layout, fillvalue=fill)
    layout = h5py.VirtualLayout((7,), outer)
    layout[:5] = h5py.VirtualSource("source.h5", "some", (5,))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_virtual_dataset("x", layout, fillvalue=np.array(1).astype(outer))
    check(tmp_path / "rec.h5")
    check(tmp_path / "rec.h5", range(5))
    check(tmp_path / "rec.h5", range(3, 5))


def test_a_virtual_dataset_of_itself_is_refused(tmp_path):
    for name, other in (("a.h5", "b.h5"), ("b.h5", "a.h5")):
        make(tmp_path / name, (6,), (((0,), (1,), (1,), (6,)), other, "x", space_of((6,), None)))
    with pytest.raises(SourceError, match="made of itself"):
        hpcio.Plan.create(np.copy, tmp_path / "a.h5::x", trials=2, out=tmp_path / "out.h5")


def test_what_may_grow_of_sources_of_unequal_length(tmp_path):
    for name, length in (("a.h5", 3), ("b.h5", 0), ("c.h5", 1)):
        with h5py.File(tmp_path / name, "w", libver="latest") as f:
            f.create_dataset("x", data=np.arange(length, dtype="i4"), maxshape=(None,))
    mappings = []
    for k, name in enumerate(("a.h5", "b.h5", "c.h5")):
        onto = (0, k), (1, 1), (1, 1), (UNLIMITED, 1)
        taken = space_of((1,), ((0,), (1,), (1,), (UNLIMITED,)), (UNLIMITED,))
        mappings.append((onto, name, "x", taken))
    make(tmp_path / "rec.h5", (1, 3), *mappings, most=(UNLIMITED, 3))
    check(tmp_path / "rec.h5")


def test_a_fill_value_may_be_undefined(tmp_path):
    """As C makes it, and h5py does not."""
    slab = (0,), (1,), (1,), (6,)
    make(tmp_path / "rec.h5", (6,), (slab, "source.h5", "x", space_of((6,), None)))
    with h5py.File(tmp_path / "source.h5", "w") as f:
        f["x"] = np.arange(6, dtype="i4")

    class Undefined(h5py.Dataset):
        @property
        def fillvalue(self):
            raise RuntimeError("Can't get fill value (fill value is undefined)")

    with h5py.File(tmp_path / "rec.h5") as f:
        reader = VirtualReader(Undefined(f["x"].id))
    assert (reader.read([range(6)]) == np.arange(6)).all()


def test_a_dataset_of_the_same_file(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["own"] = np.arange(6, dtype="i4")
    make(tmp_path / "rec.h5", (8,), (((1,), (1,), (1,), (6,)), ".", "own", space_of((6,), None)))
    check(tmp_path / "rec.h5")


def test_a_source_that_is_too_short_or_away_is_an_error(tmp_path):
    slab = (0,), (1,), (1,), (6,)
    make(tmp_path / "rec.h5", (8,), (slab, "source.h5", "x", space_of((6,), slab)))
    with h5py.File(tmp_path / "rec.h5") as f:
        reader = VirtualReader(f["x"])
    assert (reader.read([range(6, 8)]) == -7).all()  # what no file is needed for
    with pytest.raises(SourceError, match=r"source\.h5'"):
        reader.read([range(8)])
    with h5py.File(tmp_path / "source.h5", "w") as f:
        f["x"] = np.arange(5)
    with pytest.raises(SourceError, match="less than a virtual dataset takes of it"):
        reader.read([range(8)])


def test_no_file_is_read_that_the_plan_does_not_know(tmp_path):
    slab = (0,), (1,), (1,), (6,)
    for name in ("source.h5", "other.h5"):
        with h5py.File(tmp_path / name, "w") as f:
            f["x"] = np.arange(6)
    (tmp_path / "named.h5").symlink_to("source.h5")
    make(tmp_path / "rec.h5", (6,), (slab, "named.h5", "x", space_of((6,), slab)))
    with h5py.File(tmp_path / "rec.h5") as f:
        reader = VirtualReader(f["x"], known=[str(tmp_path / "source.h5")])
        assert (reader.read([range(6)]) == np.arange(6)).all()
        (tmp_path / "named.h5").unlink()
        (tmp_path / "named.h5").symlink_to("other.h5")
        reader = VirtualReader(f["x"], known=[str(tmp_path / "source.h5")])
    with pytest.raises(SourceError, match="would read values from"):
        reader.read([range(6)])
