"""Results that are compressed while they are computed: as safe as any other, and smaller."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import MissingPackageError, PlanError, ResultError
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from tests.rigs import support
from tests.rigs.bench import CHANNELS, FILTERS, ROWS, TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.support import damage, kill, names, run, start
from tests.rigs.waiting import until

BLOCK = ROWS * CHANNELS


class Packed(Bench):
    """A bench whose plans compress, by chunks that blocks lie across."""

    def __init__(self, folder: Path, **options: object) -> None:
        chunks = (ROWS - 1, CHANNELS)
        super().__init__(folder, **{"compression": "gzip:1", "chunks": chunks, **options})

    def files(self, pattern: str = "*") -> list[Path]:
        return sorted(p for p in Path(f"{self.out}.run/sources").rglob(pattern) if p.is_file())


SOURCES = ["trial", "task"]


@pytest.fixture(params=SOURCES)
def bench(tmp_path, request) -> Packed:
    return Packed(tmp_path, sources=request.param)


COMPRESSIONS = [None, *FILTERS]


@pytest.mark.parametrize(
    ("bench", "compression", "workers"),
    combinations(
        SOURCES, COMPRESSIONS, [0, 2],
        everyday=[
            *((sources, compression, 0) for sources in SOURCES for compression in COMPRESSIONS),
            *((SOURCES[k % 2], compression, 2) for k, compression in enumerate(COMPRESSIONS)),
        ],
    ),
    indirect=["bench"],
)  # fmt: skip
def test_the_result_is_the_same(bench, compression, workers):
    if compression and compression[:4] not in ("gzip", "lzf"):
        pytest.importorskip("hdf5plugin")
    plan = bench.plan(compression=compression)
    plan.run(workers=workers, progress=False)
    bench.check()
    assert bench.files("*.packed") == bench.files("*.part") == []
    for path in bench.files():
        with h5py.File(path) as f:
            assert f["data"].chunks is not None
            assert bool(f["data"]._filters) == (compression is not None)
            assert f["data"].attrs["plan"] == plan.digest.encode()
    loaded = hpcio.Plan.load(bench.out)
    assert (loaded.chunks, loaded.compression) == (plan.chunks, plan.compression)
    # By as many processes as the run, or in this one.
    for options in ({}, {"compression": "lzf", "workers": workers or 1}):
        one = bench.folder / f"one{len(options)}.h5"
        hpcio.repack(bench.out, one, **options)
        bench.check(one)


@pytest.mark.parametrize("dtype", ["i2", ">f4", "c16", "?"])
@pytest.mark.parametrize("options", [{}, {"chunks": None}, {"channels_per_block": 2}])
def test_types_channels_and_gaps(bench, dtype, options):
    path = bench.folder / f"{bench.module}.py"
    path.write_text(
        path.read_text() + "\n\ndef some(trial):\n    if int(trial[0, 0]) == 5:\n"
        f"        raise ValueError('no')\n    return (10 * trial).astype('{dtype}')\n"
    )
    shape = None if "channels_per_block" in options else (ROWS, CHANNELS)
    options = {"out_shape": shape or (lambda s: s), "out_dtype": dtype, **options}
    plain = Bench.plan(bench, "some", out=bench.folder / "plain.h5", **{**options, "chunks": None})
    plain.run(workers=0, progress=False, gaps=True)
    if shape is None:
        options["chunks"] = (ROWS - 1, 1)
    bench.plan("some", **options).run(workers=0, progress=False, gaps=True)
    with hpcio.open(bench.out) as f, hpcio.open(bench.folder / "plain.h5") as g:
        assert f["data"][...].tobytes() == g["data"][...].tobytes()
    assert hpcio.verify(bench.out).gaps == hpcio.verify(bench.folder / "plain.h5").gaps > 0


@pytest.mark.parametrize(
    ("returned", "shape"),
    [("trial[0, 0]", ()), ("trial[:0]", (0, CHANNELS)), ("trial[:3]", (3, CHANNELS))],
)
def test_scalars_and_nothing(bench, returned, shape):
    path = bench.folder / f"{bench.module}.py"
    path.write_text(path.read_text() + f"\n\ndef some(trial):\n    return {returned}\n")
    options = {"join": "stack", "chunks": None, "out_shape": shape, "out_dtype": "f8"}
    bench.plan("some", **options).run(workers=0, progress=False)
    trials = bench.lfp.reshape(TRIALS, ROWS, CHANNELS)
    expected = np.stack([eval(returned, {"trial": t}) for t in trials])  # noqa: S307
    with hpcio.open(bench.out) as f:
        assert f["data"][...].tobytes() == expected.tobytes()
    assert hpcio.verify(bench.out).blocks == TRIALS


def test_it_becomes_smaller_and_chunks_are_large(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((400_000, 8))
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=100, out=tmp_path / "out.h5",
        compression="gzip",
    )  # fmt: skip
    assert plan.sources == "task"
    plan.run(workers=2, progress=False)
    sources = list((tmp_path / "out.h5.run" / "sources").iterdir())
    assert sum(p.stat().st_size for p in sources) < 400_000
    with h5py.File(sources[0]) as f:
        assert f["data"].chunks[0] % 800 == 0
        assert 500_000 < f["data"].chunks[0] * 8 <= 1 << 20


@pytest.mark.parametrize(
    ("bench", "workers"),
    combinations(SOURCES, [0, 2], everyday=[("trial", 2), ("task", 0), ("task", 2)]),
    indirect=["bench"],
)
def test_killed_and_resumed(bench, workers):
    bench.hold(7)
    child = bench.start(workers=workers)
    until(lambda: 7 in bench.calls, "block 7")
    kill(child)
    bench.hold()
    bench.forget_calls()
    bench.plan().run(workers=workers, progress=False)
    assert 7 in bench.calls
    # What was in the log is not computed again: at the most what waited for its chunk.
    assert len(bench.calls) < TRIALS
    bench.check()


def test_what_waits_for_its_chunk_is_logged_in_time(tmp_path):
    bench = Packed(tmp_path)
    script = bench.script(workers=0).replace(f"chunks=({ROWS - 1},", "chunks=(10_000,")
    bench.hold(9)
    # A second is over at once.
    hasty = "import hpcio.running.batch as c; c.FLUSH_EVERY = c.TICK_EVERY = 0.0\n"
    child = start(hasty + script, tmp_path)
    until(lambda: 9 in bench.calls, "block 9")
    kill(child)
    bench.hold()
    bench.forget_calls()
    run(script, tmp_path)
    assert bench.calls == [9, 10, 11]
    bench.check()


def killed_at(bench: Packed, moment: int, calls: str) -> bool:
    return support.killed_at(bench.script(workers=0), bench.folder, moment, calls)


@pytest.mark.parametrize("moment", range(6))
def test_killed_while_a_log_becomes_a_file(tmp_path, moment):
    bench = Packed(tmp_path)
    killed_at(bench, moment, "rename unlink")
    bench.plan().run(workers=0, progress=False)
    bench.check()


@pytest.mark.torture
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_killed_at_any_call_to_the_system(tmp_path, sources):
    moment, reached = 0, True
    while reached:
        (tmp_path / str(moment)).mkdir()
        bench = Packed(tmp_path / str(moment), sources=sources)
        reached = killed_at(bench, moment, "pwrite fsync rename unlink open pread")
        if not bench.out.exists():
            bench.plan().run(workers=0, progress=False)
        bench.check()
        hpcio.repack(bench.out)
        bench.check()
        moment += 1
    assert moment > TRIALS


def torn(bench: Packed) -> Path:
    """A run whose attempt was killed, and its log."""
    bench.hold(7)
    child = bench.start(workers=0)
    until(lambda: 7 in bench.calls, "block 7")
    kill(child)
    bench.hold()
    bench.forget_calls()
    (log,) = bench.files("*.packed")
    return log


@pytest.mark.parametrize("where", [0, 10, 60, -1])
def test_a_log_that_is_damaged_or_torn_counts_up_to_there(tmp_path, where):
    bench = Packed(tmp_path)
    log = torn(bench)
    size = log.stat().st_size
    for cut in (False, True):
        if cut:
            os.truncate(log, max(0, where % size))
        else:
            damage(log, where % size)
    bench.plan().run(workers=0, progress=False)
    bench.check()
    if where == 0:
        assert sorted(bench.calls) == list(range(TRIALS))


def test_a_file_that_was_finished_and_cannot_be_read_is_computed_again(bench):
    bench.stop(TRIALS - 1)
    with pytest.raises(KeyboardInterrupt):
        bench.plan().run(workers=0, progress=False)
    bench.stop()
    bench.forget_calls()
    path = bench.files()[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert len(bench.calls) == (2 if bench.sources == "trial" else TRIALS)
    bench.check()


ANY_MARK = [np.uint64(2**63), np.int64(10**12), 1.5, np.arange(3), h5py.Empty("f8"), "another"]


@pytest.mark.parametrize("mark", ANY_MARK, ids=str)
def test_a_file_with_a_mark_of_another_type_is_not_ours(tmp_path, mark):
    bench = Packed(tmp_path, sources="trial")
    bench.stop(TRIALS - 1)
    with pytest.raises(KeyboardInterrupt):
        bench.plan().run(workers=0, progress=False)
    bench.stop()
    bench.forget_calls()
    with h5py.File(bench.files()[0], "r+") as f:
        del f["data"].attrs["plan"]
        f["data"].attrs["plan"] = mark if isinstance(mark, str | h5py.Empty) else np.asarray(mark)
    hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert len(bench.calls) == 2
    bench.check()


def test_a_log_that_was_left_is_kept_when_its_result_goes(tmp_path):
    bench = Packed(tmp_path)
    torn(bench)
    bench.plan().run(workers=0, progress=False)
    bench.out.unlink()
    bench.forget_calls()
    bench.plan().run(workers=0, progress=False)
    assert bench.calls == []
    bench.check()


@pytest.fixture
def done(bench) -> Packed:
    bench.plan().run(workers=0, progress=False)
    return bench


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_damaged_chunk_is_found_and_its_file_named(tmp_path, sources):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.random.default_rng(0).normal(size=(4000, CHANNELS))
    out = tmp_path / "out.h5"
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=1000, out=out, sources=sources,
        chunks=(100, CHANNELS), compression="gzip",
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    path = min(Path(f"{out}.run/sources").rglob("*.h5"))
    with h5py.File(path) as f:  # beyond what is compared when the result is opened
        where = f["data"].id.get_chunk_info(9)
    damage(path, where.byte_offset + where.size // 2)
    damaged = rf"Block 0 .*'{path}'"
    with pytest.raises(ResultError, match=damaged):
        hpcio.verify(out)
    for options in ({}, {"compression": "gzip", "workers": 1}, {"chunks": True, "workers": 2}):
        with pytest.raises(ResultError, match=damaged):
            hpcio.repack(out, **options)
    assert names(tmp_path, ".*") == []


@pytest.mark.parametrize("how", ["missing", "short", "header", "foreign"])
def test_a_source_that_is_not_the_one_written_is_refused(done, how, tmp_path_factory):
    path = done.files()[0]
    if how == "missing":
        path.unlink()
    elif how == "short":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "header":
        damage(path, 40)
    else:
        other = Packed(tmp_path_factory.mktemp("other"), sources=done.sources)
        other.plan("double", join="stack").run(workers=0, progress=False)
        shutil.copy(other.files()[0], path)
    with pytest.raises(ResultError, match=f"'{path}'"):
        hpcio.open(done.out)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compression": "rar"}, "'rar' is unknown. Write NAME"),
        ({"compression": "zstd:23"}, "no level 23"),
        ({"compression": "gzip:"}, "is unknown"),
        ({"chunks": (3,)}, "1 axes, but the result has 2"),
        ({"chunks": False}, "needs chunks"),
        (
            {"writer": "direct"},
            r"compressed chunks have none\. .*hpcio repack OUT --compression gzip:1",
        ),
        ({"writer": "direct", "compression": None}, "hpcio repack OUT .*--chunks"),
    ],
)
def test_impossible_plans_are_refused(tmp_path, options, says):
    if "zstd" in str(options):
        pytest.importorskip("hdf5plugin")
    with pytest.raises(PlanError, match=says):
        Packed(tmp_path).plan(**options)
    assert names(tmp_path, "out*") == []


def test_another_compression_is_another_plan(tmp_path):
    bench = Packed(tmp_path)
    digests = [
        bench.plan(**options).digest
        for options in (
            {}, {"compression": "gzip:2"}, {"compression": None}, {"chunks": True},
            {"compression": None, "chunks": None},
        )
    ]  # fmt: skip
    assert len({*digests}) == 5
    assert bench.plan(compression="gzip").digest == bench.plan(compression="GZIP:4").digest


BLOCKED = """
import sys
sys.modules["hdf5plugin"] = None  # as if it were not installed
import hpcio
from hpcio.errors import MissingPackageError, PlanError
for call in (
    lambda: hpcio.Plan.create("{module}.py:double", "rec.h5::lfp", trials=5, out="x.h5",
                              compression="zstd"),
    lambda: hpcio.repack("out.h5", "one.h5", compression="lz4"),
    lambda: hpcio.open("out.h5"),
):
    try:
        call()
    except (MissingPackageError, PlanError) as error:
        print(type(error).__name__, error)
"""


def test_a_missing_package_is_named(tmp_path):
    pytest.importorskip("hdf5plugin")
    bench = Packed(tmp_path)
    bench.plan(compression="zstd").run(workers=0, progress=False)
    said = run(BLOCKED.replace("{module}", bench.module), tmp_path).splitlines()
    refused = ["OptionError", "MissingPackageError", "MissingPackageError"]
    assert [line.split()[0] for line in said] == refused
    assert all("pip install 'hpcio[compress]'" in line for line in said)
    assert issubclass(MissingPackageError, ImportError)


def test_plain_h5py_without_the_filter_gives_no_numbers(tmp_path):
    pytest.importorskip("hdf5plugin")
    bench = Packed(tmp_path)
    bench.plan(compression="zstd").run(workers=0, progress=False)
    hpcio.repack(bench.out, tmp_path / "one.h5", compression="zstd")
    read = "import h5py\nfor n in ('one.h5', 'out.h5'):\n"
    read += (
        "    try:\n        h5py.File(n)['data'][...]\n    except OSError:\n        print('no')\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "HDF5_PLUGIN_PATH"}
    assert run(read, tmp_path, env=env).split() == ["no", "no"]


def test_hdf5_itself_reads_gzip(done):
    if not shutil.which("h5dump"):
        pytest.skip("there is no h5dump here")
    for path in (done.out, *done.files()):
        said = subprocess.run(
            ["h5dump", "-d", "/data", path], capture_output=True, text=True, check=True
        ).stdout
        assert "DATA {" in said


def mask_at(source: Path) -> int:
    """Where the index of chunks has the filter mask of the first one."""
    raw = source.read_bytes()
    with h5py.File(source) as f:
        chunk, nbytes = f["data"].id.get_chunk_info(0), f["data"].chunks[0] * 8
        if f["data"].ndim > 1:  # a tree of HDF5 1.8, whose keys begin with size and mask
            return raw.index(struct.pack("<IIQ", chunk.size, 0, 0)) + 4
    # An array of addresses, sizes (as long as that of a chunk may be) and masks.
    return raw.index(struct.pack("<Q", chunk.byte_offset)) + 9 + (nbytes.bit_length() + 7) // 8


@pytest.mark.parametrize("compression", ["gzip:1", "gzip+shuffle", "zstd"])
def test_another_filter_mask_of_a_chunk_is_found(bench, compression):
    """By another mask HDF5 takes what is packed for values, or shuffled values for plain ones."""
    bench.plan(compression=compression).run(workers=0, progress=False)
    source = bench.files("*.h5")[0]
    at = mask_at(source)
    for bit in range(1 + ("shuffle" in compression)):
        damage(source, at, bit)
        with pytest.raises(ResultError, match=re.escape(str(source))):
            hpcio.verify(bench.out)
        damage(source, at, bit)
    assert hpcio.verify(bench.out).blocks == TRIALS


def test_another_filter_mask_in_a_log_is_computed_again(tmp_path):
    bench = Packed(tmp_path)
    plan = prepare(bench.plan())
    if not (pid := os.fork()):
        with Attempt(plan, "killed") as attempt:
            run_batch(attempt, np.arange(TRIALS))
            attempt.sync()
            os._exit(0)
    os.waitpid(pid, 0)
    [log] = bench.files("*.packed")
    with log.open("r+b") as f:  # the mask comes after the number of the chunk
        f.seek(8)
        f.write(b"\1")
    bench.forget_calls()
    bench.plan().run(workers=0, progress=False)
    assert bench.calls
    bench.check()
