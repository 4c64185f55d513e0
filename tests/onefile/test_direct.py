"""One ordinary dataset that many processes write, by `direct` or `mutex`: the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio.errors import BlocksFailed, PlanError, ResultError
from hpcio.journals.rundir import prepare
from hpcio.onefile import direct
from hpcio.onefile.direct import Direct
from hpcio.onefile.preallocated import PAGE, reserve
from hpcio.onefile.seams import read_seams
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import trusted_ledger
from tests.rigs.bench import TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.support import ended, kill
from tests.rigs.waiting import PATIENCE, until

Array = np.ndarray
WRITERS = ["direct", "mutex"]
DTYPES = ["<f8", ">f8", "<f4", ">f4", "<f2", "<c16", ">c8", "<i8", ">i4", "i1", "u1", "<u2", "?"]


def record(folder: Path, data: Array) -> str:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = data
    return f"{folder}/rec.h5::lfp"


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> str:
    return request.param


def run(folder: Path, writer: str, data: Array, func: Any, **options: Any) -> Array:
    """What plain h5py reads of a run by the writer, and of a virtual one: the same."""
    workers, name = options.pop("workers", 0), "out.h5"
    source = record(folder, data)
    read = []
    for kind, out in ((writer, name), ("virtual", f"v{name}")):
        plan = hpcio.Plan.create(func, source, out=folder / out, writer=kind, **options)
        # What the writer is compared with needs no processes.
        plan.run(workers=workers if kind == writer else 0, progress=False)
        with h5py.File(folder / out) as f:
            assert f["data"].is_virtual == (kind == "virtual")
            assert "incomplete" not in f.attrs
            read.append(f["data"][...])
            tables = f["trials"][...]
    assert hpcio.verify(folder / name).blocks == len(plan)
    assert read[0].dtype == read[1].dtype
    assert read[0].tobytes() == read[1].tobytes()
    with hpcio.open(folder / name) as f:
        assert (f["trials"][...] == tables).all()
    return read[0]


@pytest.mark.parametrize(
    ("writer", "dtype", "workers"),
    [
        *((writer, dtype, 0) for writer in WRITERS for dtype in DTYPES),
        ("direct", ">f4", 2), ("mutex", "?", 2),
        pytest.param("direct", "?", 2, marks=pytest.mark.torture),
        pytest.param("mutex", ">f4", 2, marks=pytest.mark.torture),
    ],
)  # fmt: skip
def test_every_type(tmp_path, writer, dtype, workers):
    data = (100 * np.random.default_rng(1).random((60, 3))).astype(dtype)
    found = run(tmp_path, writer, data, np.copy, trials=7 + np.arange(2)[:, None] * 10 + [[0, 10]],
                workers=workers)  # fmt: skip
    assert found.dtype == dtype
    assert found.tobytes() == data[7:27].tobytes()


UNEQUAL = [[0, 6], [6, 12], [12, 20], [20, 26], [26, 30]]


@pytest.mark.parametrize(
    ("writer", "workers"),
    combinations(
        WRITERS, [0, 1, 3, 5],
        everyday=[("direct", 0), ("mutex", 0), ("mutex", 1), ("direct", 3), ("mutex", 5)],
    ),
)  # fmt: skip
def test_unequal_trials_in_a_contiguous_dataset(tmp_path, writer, workers):
    data = np.random.default_rng(1).normal(size=(30, 4))
    found = run(tmp_path, writer, data, np.negative, trials=UNEQUAL, workers=workers)
    assert found.tobytes() == (-data).tobytes()
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"].chunks is None


JOINS = {
    "stacked": {"join": "stack"},
    "along axis 1": {"join_axis": 1},
    "channels": {"channels_per_block": 2},
    "channels stacked": {"channels_per_block": 2, "join": "stack"},
    "channels along axis 0": {"channels_per_block": 4, "join_axis": 0},
}


@pytest.mark.parametrize(
    ("writer", "workers", "join"),
    combinations(
        WRITERS, [0, 2], JOINS,
        everyday=[
            *((writer, 0, join) for writer in WRITERS for join in JOINS),
            *((WRITERS[k % 2], 2, join) for k, join in enumerate(JOINS)),
        ],
    ),
)  # fmt: skip
def test_every_way_to_join(tmp_path, writer, workers, join):
    data = np.random.default_rng(1).normal(size=(40, 4))
    run(tmp_path, writer, data, np.negative, trials=8, workers=workers, **JOINS[join])


def test_sizes_that_fit_no_page(tmp_path, writer):
    data = np.random.default_rng(1).integers(0, 255, (300, 10_008), np.uint8)
    found = run(tmp_path, writer, data, np.copy, trials=1, workers=2)
    assert found.tobytes() == data.tobytes()
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"].id.get_offset() % PAGE == 0


@pytest.mark.parametrize("options", [{}, {"join_axis": 1}, {"channels_per_block": 1}], ids=str)
def test_other_programs_read_it(tmp_path, writer, options):
    """Contiguous or chunked: programs of HDF5 1.10, as Debian has them."""
    run(tmp_path, writer, np.arange(60.0).reshape(20, 3), np.negative, trials=4, **options)
    out = tmp_path / "out.h5"
    shutil.rmtree(tmp_path / "out.h5.run")
    for tool in (["h5dump", "-d", "/data"], ["h5ls", "-r"], ["h5stat"]):
        if shutil.which(tool[0]) is None:
            pytest.skip("no hdf5-tools here")
        said = subprocess.run([*tool, str(out)], capture_output=True, text=True, check=True)
        assert "error" not in said.stderr
    subprocess.run(["h5repack", "-f", "GZIP=1", str(out), f"{out}.packed"], check=True)
    with h5py.File(f"{out}.packed") as f, h5py.File(out) as g:
        assert (f["data"][...] == g["data"][...]).all()


def test_results_that_make_no_plain_dataset_are_refused(tmp_path, writer):
    source = record(tmp_path, np.zeros((30, 4)))
    with pytest.raises(PlanError, match=r"unequal shape along the first axis only.*virtual"):
        hpcio.Plan.create(
            np.transpose, source, trials=UNEQUAL, out=tmp_path / "out.h5", writer=writer,
            join_axis=1,
        )  # fmt: skip


def fails_for_two(trial: Array) -> Array:
    if trial[0, 0] in (8.0, 24.0):
        raise ValueError("sick")
    return -trial


@pytest.mark.parametrize(
    ("writer", "workers"),
    combinations(WRITERS, [0, 2], everyday=[("direct", 0), ("mutex", 0), ("mutex", 2)]),
)
def test_what_is_not_complete_says_so_and_gaps_are_filled(tmp_path, writer, workers):
    data = np.repeat(np.arange(40.0), 3).reshape(40, 3)
    plan = hpcio.Plan.create(
        fails_for_two, record(tmp_path, data), trials=8, out=tmp_path / "out.h5",
        writer=writer, out_shape=(8, 3), out_dtype="f8",
    )  # fmt: skip
    with pytest.raises(BlocksFailed, match="2 of 5 trials failed"):
        plan.run(workers=workers, progress=False)
    assert not (tmp_path / "out.h5").exists()
    with h5py.File(plan.run_directory / "data.h5") as f:
        assert "incomplete" in f.attrs
    done = plan.run(workers=workers, gaps=True, progress=False)
    assert done.computed == 0
    expected = -data
    expected[8:16] = expected[24:32] = np.nan
    with h5py.File(tmp_path / "out.h5") as f:
        np.testing.assert_array_equal(f["data"], expected)
    assert hpcio.verify(tmp_path / "out.h5").gaps == 2


def test_two_runs_into_two_files_at_once(tmp_path, writer):
    folders = [tmp_path / name for name in ("a", "b")]
    children = []
    for k, folder in enumerate(folders):
        folder.mkdir()
        bench = Bench(folder, writer=writer)
        bench.hold(5 + k)
        children.append((bench, bench.start(workers=1)))
    with ended(children[0][1]), ended(children[1][1]):
        for k, (bench, _) in enumerate(children):  # both are at work
            until(lambda bench=bench, k=k: 5 + k in bench.calls, "the trial")
        for bench, child in children:
            bench.hold()
            assert child.wait(PATIENCE) == 0
            bench.check()


@pytest.mark.parametrize(
    ("writer", "workers"),
    combinations(WRITERS, [1, 2], everyday=[("direct", 2), ("mutex", 1)]),
)
def test_killed_and_resumed(tmp_path, writer, workers):
    bench = Bench(tmp_path, writer=writer)
    bench.hold(5)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 5 in bench.calls, "the trial")
        kill(child)
    bench.hold()
    before = set(bench.calls) - {5}
    bench.forget_calls()
    bench.plan().run(workers=workers, progress=False)
    bench.check()
    assert len(set(bench.calls) & before) <= workers  # those at hand


def test_bytes_that_the_disk_has_lost_are_found_before_anything_is_published(tmp_path, writer):
    data = np.random.default_rng(1).normal(size=(40, 3))
    plan = hpcio.Plan.create(
        fails_for_two, record(tmp_path, data), trials=8, out=tmp_path / "out.h5",
        writer=writer, out_shape=(8, 3), out_dtype="f8",
    )  # fmt: skip
    plan = prepare(plan)
    reserve(plan)
    with Attempt(plan, "here") as attempt:
        run_batch(attempt, np.arange(5))
        attempt.sync()
    offsets = np.load(plan.run_directory / "data.npy")
    with (plan.run_directory / "data.h5").open("r+b") as f:
        f.seek(int(offsets[3]))
        f.write(b"\0" * 8)
    with pytest.raises(ResultError, match=r"1 blocks in .* are not what was computed.* block 3"):
        plan.run(workers=0, progress=False)
    assert not (tmp_path / "out.h5").exists()
    assert trusted_ledger(plan).missing().tolist() == [3]
    assert plan.run(workers=0, progress=False).computed == 1
    assert hpcio.verify(tmp_path / "out.h5").blocks == 5


def test_of_two_attempts_that_differ_the_one_counts_whose_bytes_are_there(tmp_path, writer):
    plan = hpcio.Plan.create(
        np.copy, record(tmp_path, np.ones((40, 3))), trials=8, out=tmp_path / "out.h5",
        writer=writer,
    )  # fmt: skip
    plan = prepare(plan)
    reserve(plan)
    for label, value in (("a", 1.0), ("b", 2.0)):
        with Attempt(plan, label) as attempt:
            attempt.func = lambda trial, value=value: np.full_like(trial, value)
            run_batch(attempt, np.arange(5) if label == "a" else np.arange(2, 4))
            attempt.sync()
    plan.run(workers=0, progress=False)
    assert hpcio.verify(tmp_path / "out.h5").blocks == 5
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"][::8, 0].tolist() == [1, 1, 2, 2, 1]


# ---------------------------------------------------------------------- pages and seams


class Elsewhere(Direct):
    """The writer as it is where other nodes may write too."""

    def __init__(self, plan: hpcio.Plan, attempt: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(direct, "is_local", lambda _: False)
            super().__init__(plan, attempt)


@given(
    st.lists(st.integers(1, 3 * PAGE // 1000), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_only_whole_pages_of_its_own_reach_the_file(tmp_path_factory, rows, owner, often):
    """Blocks of several attempts side by side; the rest of their pages is in the seams."""
    folder = tmp_path_factory.mktemp("seams")
    edges = np.cumsum([0, *rows])
    table = np.stack([edges[:-1], edges[1:]], axis=1)
    data = np.random.default_rng(2).integers(1, 255, (int(edges[-1]), 1000), np.uint8)
    plan = hpcio.Plan.create(
        np.copy, record(folder, data), trials=table, out=folder / "out.h5", writer="direct"
    )
    plan = prepare(plan)
    reserve(plan)
    writers = {o: Elsewhere(plan, f"a{o}") for o in set(owner)}
    offsets = np.load(plan.run_directory / "data.npy")
    for block, (first, last) in enumerate(table.tolist()):
        writer = writers[owner[block]]
        writer.write(block, data[first:last])
        if block % often == 0:
            writer.flush()
            assert writer.is_flushed
    written = np.fromfile(plan.run_directory / "data.h5", np.uint8)
    for writer in writers.values():
        writer.flush()
        writer.prepare_sync()()
        writer.close()
    # Whatever reached the file came in whole pages.
    pages = np.flatnonzero(written[offsets[0] :].reshape(-1)[: data.size])
    if pages.size and offsets[0] % PAGE == 0:
        whole = written[offsets[0] :][: data.size // PAGE * PAGE].reshape(-1, PAGE)
        assert ((whole != 0).all(axis=1) | (whole == 0).all(axis=1)).all()
    found = np.fromfile(plan.run_directory / "data.h5", np.uint8)
    for o in writers:
        for at, seam in read_seams(plan.run_directory / "sources" / f"a{o}.seams"):
            found[at : at + len(seam)] = np.frombuffer(seam, np.uint8)
    start = int(offsets[0])
    assert found[start : start + data.size].tobytes() == data.tobytes()


@pytest.mark.gluster
@pytest.mark.parametrize("rows", [1, 37])
def test_attempts_on_several_clients_lose_no_byte(the_gluster, tmp_path, rows):
    """Chunks of three processes on three clients, which all have read the file before."""
    folder = Path(tempfile.mkdtemp(dir=the_gluster.path("login")))
    data = np.random.default_rng(1).integers(1, 255, (600, 10_008), np.uint8)
    plan = hpcio.Plan.create(
        np.copy, record(folder, data), trials=rows, out=folder / "out.h5", writer="direct"
    )
    plan = prepare(plan)
    reserve(plan)
    script = (
        "import sys, numpy as np, hpcio\n"
        "from hpcio.running.attempt import Attempt\nfrom hpcio.running.batch import run_batch\n"
        "out, part = sys.argv[1], int(sys.argv[2])\n"
        "plan = hpcio.Plan.load(out)\n"
        "open(f'{out}.run/data.h5', 'rb').read()\n"
        "with Attempt(plan, f'c{part}') as attempt:\n"
        "    for k in range(part * 7, len(plan), 21):\n"
        "        run_batch(attempt, np.arange(k, min(k + 7, len(plan))))\n"
        "    attempt.sync()\n"
    )
    children = []
    for part, client in enumerate(("login", "a", "b")):
        out = the_gluster.path(client) / folder.name / "out.h5"
        until(lambda out=out: Path(f"{out}.run", "data.npy").exists(), "the file, elsewhere")
        children.append(subprocess.Popen([sys.executable, "-c", script, str(out), str(part)]))
    assert [child.wait(timeout=PATIENCE) for child in children] == [0, 0, 0]
    done = plan.run(workers=0, progress=False)
    assert done.blocks == len(plan)
    assert done.computed == 0
    with h5py.File(folder / "out.h5") as f:
        assert f["data"][...].tobytes() == data[: len(plan) * rows].tobytes()
    assert any((plan.run_directory / "sources").glob("*.seams"))


def test_a_torn_seam_is_cut(tmp_path):
    plan = hpcio.Plan.create(
        np.copy, record(tmp_path, np.ones((4, 3))), trials=1, out=tmp_path / "out.h5",
        writer="direct",
    )  # fmt: skip
    plan = prepare(plan)
    reserve(plan)
    writer = Elsewhere(plan, "a")
    for block in range(3):
        writer.write(block, np.full((1, 3), float(block)))
        writer.flush()
    writer.close()
    path = plan.run_directory / "sources" / "a.seams"
    seams = [*read_seams(path)]
    assert len(seams) == 3
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert [*read_seams(path)] == seams[:2]
    path.write_bytes(whole[:-1] + b"\xff")
    assert [*read_seams(path)] == seams[:2]


@pytest.mark.gluster
def test_a_block_that_kills_its_worker_is_the_one_that_is_named(the_gluster, tmp_path):
    """Not one of those whose bytes were held back, and lost with the worker."""
    folder = Path(tempfile.mkdtemp(dir=the_gluster.path("login")))
    data = np.repeat(np.arange(300.0), 3).reshape(300, 3)
    (tmp_path / "work.py").write_text(
        "import os\n"
        "def func(trial):\n"
        "    if trial[0, 0] == 123:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return -trial\n"
    )
    plan = hpcio.Plan.create(
        f"{tmp_path}/work.py:func", record(folder, data), trials=1, out=folder / "out.h5",
        writer="direct", out_shape=(1, 3), out_dtype="f8",
    )  # fmt: skip
    done = plan.run(workers=2, gaps=True, progress=False)
    assert [f.block for f in done.failed] == [123]
    assert hpcio.verify(plan.out).blocks == 299


@pytest.mark.parametrize(
    ("writer", "executor"),
    combinations(
        WRITERS, ["this process", "processes", "dask"],
        everyday=[
            *((writer, "this process") for writer in WRITERS),
            ("direct", "processes"), ("mutex", "dask"),
        ],
    ),
    indirect=["executor"],
)  # fmt: skip
def test_whoever_computes(tmp_path, writer, executor):
    """Several blocks at a time, by threads and processes."""
    bench = Bench(tmp_path, writer=writer)
    done = executor(bench.plan())
    assert (done.blocks, done.computed, done.failed) == (TRIALS, TRIALS, ())
    bench.check()
    with h5py.File(bench.out) as f:
        assert not f["data"].is_virtual
