"""Every reader of a file that hpcio has, with a whole file for it, and what is done with it then.

``python -m tests.rigs.readers ASKED`` tries inputs; each process has a folder of its own.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import struct
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio
from hpcio.errors import HpcioError
from hpcio.files import mark_of
from hpcio.files.bytes import checksum
from hpcio.journals import Ledger, computed_by
from hpcio.journals.journal import HEADER, MAGIC, RECORD
from hpcio.journals.usage import read_usage
from hpcio.onefile.preallocated import load_offsets
from hpcio.onefile.seams import read_seams, seams_that_count
from hpcio.planning.planfile import _SEAL, _seal
from hpcio.recording import Recording
from hpcio.watching import status
from hpcio.writers.backend import backend_of, trusted_ledger
from slurm.mapping import JobArray
from slurm.site.config import settings
from slurm.submissions import records
from slurm.submissions.status import queue
from slurm.tasks.heartbeats import HeartbeatMonitor
from tests.rigs.inputs import (
    Bad,
    Reader,
    any_array,
    any_bytes,
    any_hdf5,
    any_json,
    either,
    try_inputs,
)
from tests.rigs.runs import left_by_a_kill
from tests.rigs.support import told

# The share of a reader that no weight is named for.
USUAL = 10.0
RECORDING = np.random.default_rng(1).normal(size=(24, 3))
TABLE = [[0, 4, 1], [4, 8, 1], [8, 13, 1], [13, 16, 0], [16, 20, 2], [20, 24, -3]]
WORK = """
import os

def double(trial):
    if os.environ.get("SICK") and trial.shape[0] == 5:
        raise ValueError("sick")
    return 2.0 * trial
"""


# ---- what is read, and then used


def _each(*steps: Callable[[], object]) -> None:
    """Do all of these; what one refuses, the next one may take. The last refusal is raised."""
    refused: HpcioError | None = None
    for step in steps:
        try:
            step()
        except HpcioError as error:
            refused = error
    if refused is not None:
        raise refused


def _use_plan(out: Path) -> None:
    plan = hpcio.Plan.load(out)
    for block in {0, len(plan) // 2, len(plan) - 1}:
        plan.trl_dat(block)
        plan.blocks.ingrid(block)
    plan.input_sizes(), plan.work_sizes(), plan.target.rows()
    plan.stored_bytes(np.arange(len(plan)))
    backend_of(plan)
    str(plan.source), plan.modes, plan.counted
    _each(
        lambda: status(str(out)),
        lambda: trusted_ledger(plan),
        lambda: Recording.open(plan.source).close(),
    )


def _read_data(out: Path) -> None:
    with hpcio.open(out) as f, suppress(OSError, RuntimeError, MemoryError):  # of h5py, which reads
        f["data"][...]


def _use_result(out: Path) -> None:
    def table() -> None:
        recording = Recording.read(f"{out}::/data")
        hpcio.Trials.read(f"{out}::/trials", rows=recording.shape[0], recording=recording)

    def repack() -> None:
        again = out.with_name("again.h5")
        try:
            hpcio.repack(out, again)
        finally:
            again.unlink(missing_ok=True)

    _each(lambda: _read_data(out), lambda: hpcio.verify(out), lambda: mark_of(out), table, repack)


def _use_journals(out: Path) -> None:
    plan = hpcio.Plan.load(out)

    def ledger() -> None:
        found = Ledger.read(plan)
        found.failures(), found.details(), found.missing(), computed_by(found)

    _each(ledger, lambda: status(str(out)), lambda: trusted_ledger(plan).missing())


def _use_submissions(out: Path) -> None:
    plan = hpcio.Plan.load(out)

    def asked() -> None:
        found = queue(plan)
        json.dumps(found and found.as_json())

    def newest() -> None:
        found = records.newest(plan)
        assert found is not None
        found.policy, found.options.policy()
        # What tasks, cancel and logs make of it.
        [os.path.basename(name) for name in (*found.script, found.finish_script)]
        sum(array.size for array in found.arrays), found.stale + 1, found.signal + 1
        found.memory and found.memory + 1, found.seconds and found.seconds + 1

    def tasks() -> None:
        work = records.task_plan(plan, 1)
        for batch in work.batches:
            plan.work_sizes()[batch]
        work.tasks, np.flatnonzero(work.task == 0)

    _each(asked, newest, tasks, lambda: records.jobs(plan, 1))


# ---- inputs with a structure


def _sealed(whole: bytes, chosen: random.Random) -> bytes:
    """Another plan, with a right seal."""
    image = any_hdf5(whole[: -_SEAL.size], chosen)
    return image + _seal(checksum(image))


def _journal(digest: str) -> Callable[[bytes, random.Random], bytes]:
    """Another journal, with right checksums."""

    def make(whole: bytes, chosen: random.Random) -> bytes:
        head, raw = whole[: HEADER - 8], bytearray(whole[HEADER:])
        if chosen.randrange(3) == 0:
            said = any_json(head[len(MAGIC) :].rstrip(), chosen)
            head = (MAGIC + said).ljust(HEADER - 8)[: HEADER - 8]
        found = np.frombuffer(raw, RECORD)
        for _ in range(1 + chosen.randrange(3)):
            k, name = chosen.randrange(found.size), chosen.choice(RECORD.names[1:])
            limits = (-1, 0, 1, 2, 3, 5, 7, 8, 100, 2**31 - 1, 2**62, -(2**62), float("nan"))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name][k] = np.asarray(chosen.choice(limits)).astype(RECORD[name])
            at, size = k * RECORD.itemsize, RECORD.itemsize
            struct.pack_into("<Q", raw, at, checksum(raw[at + 8 : at + size], int(digest[:16], 16)))
        return head + struct.pack("<Q", checksum(head)) + bytes(raw)

    return make


def _arrays(whole: bytes, chosen: random.Random) -> bytes:
    """An ``.npz`` with other arrays, some of which are objects."""
    with np.load(io.BytesIO(whole)) as f:
        kept: dict[str, Any] = dict(f)
    name = chosen.choice(sorted(kept))
    if chosen.randrange(5) == 0:
        del kept[name]
    else:
        found = any_array(kept[name], chosen)
        kept[name] = np.asarray(None if isinstance(found, h5py.Empty) else found)
    packed = io.BytesIO()
    np.savez(packed, **kept)
    return packed.getvalue()


def _offsets(whole: bytes, chosen: random.Random) -> bytes:
    """Other offsets, with a right checksum."""
    found = any_array(np.load(io.BytesIO(whole[:-8])), chosen)
    packed = io.BytesIO()
    np.save(packed, np.asarray(None if isinstance(found, h5py.Empty) else found))
    return packed.getvalue() + struct.pack("<Q", checksum(packed.getvalue()))


def _text(whole: bytes, chosen: random.Random) -> bytes:
    """Other words in the place of some, of those that matter to some reader."""
    words = [b"1", b"-1", b"1e400", b"nan", b"0x1", b",", b"\n", b'"', b"[", b"]", b"=", b"#",
             b"\t", b"9" * 30, b"9" * 5000, b"1e999999999", b"\xff", b"\0", b"[submit.a]",
             b"= 2024-01-01", b"start", "\u0663".encode(), b'"""']  # fmt: skip
    raw = whole
    for _ in range(1 + chosen.randrange(4)):
        at = chosen.randrange(len(raw) + 1)
        raw = raw[:at] + chosen.choice(words) + raw[at + chosen.randrange(6) :]
    return raw


# ---- whole files


def readers(folder: Path) -> list[Reader]:
    """All readers, whose files are laid out in a folder."""
    os.environ["HPCIO_CONFIG"] = str(folder / "config.toml")
    (folder / "work_of_readers.py").write_text(WORK)
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"], f["trials"] = RECORDING, TABLE
        f["channel"] = [3.0, 1.0, 2.0]
        f["channel"].make_scale("channel")
        f["lfp"].dims[1].attach_scale(f["channel"])

    def plan(name: str, **options: Any) -> hpcio.Plan:
        named = f"{folder}/work_of_readers.py:double", f"{folder}/rec.h5::lfp"
        options = {"trials": TABLE, "sources": "task", "out": folder / f"{name}.h5", **options}
        return hpcio.Plan.create(*named, **options)

    def finished(name: str, **options: Any) -> Path:
        plan(name, **options).run(workers=0, progress=False)
        return folder / f"{name}.h5"

    def left(name: str, **options: Any) -> hpcio.Plan:
        """A run that was killed before its results were whole; one trial has failed."""
        os.environ["SICK"] = "1"
        made = left_by_a_kill(plan(name, **options), safe=2, more=3)
        del os.environ["SICK"]
        return made

    found: list[Reader] = []

    def add(
        name: str, path: Path, use: Callable[[Path], object], of: Path, *make: Callable[..., bytes]
    ) -> None:
        path_, whole = str(path), path.read_bytes()
        found.append(Reader(name, path_, whole, lambda: use(of), either(*make)))

    results = {
        "virtual": finished("virtual"),
        "packed": finished("packed", compression="gzip"),
        "one file": finished("one", writer="direct"),
        "average": finished("average", keeptrials=False, trials=4),
    }
    for name, out in results.items():
        add(f"result, bytes: {name}", out, _use_result, out, any_bytes)
        add(f"result, structure: {name}", out, _use_result, out, any_hdf5)
    run = left("left")
    out = Path(run.out)
    add("plan, bytes", run.rundir.plan, _use_plan, out, any_bytes)
    add("plan, structure", run.rundir.plan, _use_plan, out, _sealed)
    journal = next(run.rundir.journals.glob("*.jnl"))
    trim = len(journal.read_bytes().rstrip(b"\0")) - HEADER
    with journal.open("r+b") as f:  # without the room that was reserved
        f.truncate(HEADER - (-trim // RECORD.itemsize) * RECORD.itemsize)
    add("journal, bytes", journal, _use_journals, out, any_bytes)
    add("journal, structure", journal, _use_journals, out, _journal(run.digest))
    add("notes", journal.with_suffix(".notes"), _use_journals, out, any_bytes)
    for name, ending, options in (
        ("log of chunks", "packed", {"compression": "gzip"}),
        ("sums", "sums", {"keeptrials": False, "trials": 4}),
        ("source", "h5", {}),
    ):
        other = left(f"left_{ending}", **options)
        path = next(other.rundir.sources.rglob(f"*.{ending}"))
        add(name, path, _use_journals, Path(other.out), any_bytes)
    chunked = left("left_chunked", compression="gzip", sources="trial")
    path = next(chunked.rundir.sources.rglob("*.h5"))
    add("packed source", path, _use_journals, Path(chunked.out), any_bytes, any_hdf5)
    direct = left("left_direct", writer="direct")
    add("offsets", direct.rundir.offsets, lambda _: _use_offsets(direct), out, any_bytes, _offsets)
    seams = next(direct.rundir.sources.glob("*.seams"), None) or direct.rundir.sources / "x.seams"
    if not seams.exists():
        seams.write_bytes(b"".join(
            struct.pack("<qqQ", 4096 * k, 9, checksum(b"ninebytes")) + b"ninebytes" for k in (1, 2)
        ))  # fmt: skip
    add("seams", seams, lambda _: _use_seams(direct, seams), out, any_bytes)
    _submitted(run)
    where = run.rundir.submissions
    add("submission", where / "1.json", _use_submissions, out, any_json, any_bytes)
    add("jobs", where / "1.jobs.json", _use_submissions, out, any_json, any_bytes)
    add("tasks", where / "1.npz", _use_submissions, out, _arrays, any_bytes)
    add("outcome", run.rundir.outcome, _use_submissions, out, any_json, any_bytes)
    use = next(run.rundir.usage.glob("*.json"))
    add("usage", use, lambda _: read_usage(run), out, any_json, any_bytes)
    beat = run.rundir.heartbeats / "a-12345678"
    monitor = HeartbeatMonitor(run, stale=60)
    add("heartbeat", beat, lambda _: monitor.look("a-12345678"), out, any_bytes)
    add("settings", folder / "config.toml", lambda _: settings("hpc2"), out, _text, any_bytes)
    table = folder / "table.csv"
    add("trials, text", table, hpcio.Trials.from_csv, table, _text, any_bytes)
    rec = folder / "other.h5"
    rec.write_bytes((folder / "rec.h5").read_bytes())
    add("recording, bytes", rec, _use_recording, rec, any_bytes)
    add("recording, structure", rec, _use_recording, rec, any_hdf5)
    return found


def _use_offsets(plan: hpcio.Plan) -> None:
    load_offsets(plan)
    trusted_ledger(plan)


def _use_seams(plan: hpcio.Plan, path: Path) -> None:
    list(read_seams(path))
    list(seams_that_count(Ledger.read(plan), load_offsets(plan)))


def _use_recording(path: Path) -> None:
    def rows() -> None:
        recording = Recording.read(f"{path}::/lfp")
        with recording.open() as opened:
            region = tuple(slice(0, min(n, 4), 1) for n in opened.shape)
            if 0 not in opened.shape:
                opened.read(region)
            for axis in range(len(opened.shape)):
                opened.axis_name(axis), opened.coordinates(axis), opened.columns(axis)

    _each(rows, lambda: hpcio.Trials.from_hdf5(f"{path}::/trials"))


def _submitted(plan: hpcio.Plan) -> None:
    """What a submission leaves, a task, the finalizer, and the user."""
    made = records.Submission(
        number=1, run_id=plan.run_id, cluster="here", user="me", time=time.time(), tasks=2,
        arrays=(JobArray(0, 2),), script=(str(plan.rundir.path / "array.sh"),),
        finish_script=str(plan.rundir.path / "finish.sh"),
        options=records.SubmitOptions(tasks=2, memory="1GB", sbatch=["--qos=high"]), cpus=1,
        memory=10**9, seconds=3600, signal=60, stale=60.0, retries=0, max_failed=100, gaps=False,
        known=("a-1.jnl",),
    )  # fmt: skip
    work = records.TaskPlan((np.arange(3), np.arange(3, 6)), np.arange(2))
    records.write(plan, made, work)
    records.note_jobs(plan, 1, records.Jobs((17,), 18))
    said = {"run_id": plan.run_id, "submission": 1, "status": "complete", "time": 1.5, "done": 6,
            "failed": 0, "missing": 0, "message": ""}  # fmt: skip
    plan.rundir.outcome.write_text(json.dumps(said))
    used = {"label": "1-0", "memory_asked": 10**9, "memory_peak": 10**8, "walltime_asked": 60.0,
            "seconds": 1.0, "cpus_asked": 1, "cpu_seconds": 0.5}  # fmt: skip
    for where, name, text in (
        (plan.rundir.usage, "1-0-12345678.json", json.dumps(used)),
        (plan.rundir.heartbeats, "a-12345678", f"{7:016d}"),
    ):
        where.mkdir(exist_ok=True)
        (where / name).write_text(text)
    folder = Path(plan.out).parent
    (folder / "table.csv").write_text("start,stop,offset\n0,10,0\n10,20,-5\n\n# end\n20,30,1e1\n")
    (folder / "config.toml").write_text(
        '[submit]\npartition = "short"\nmemory = "4GB"\n[submit.hpc2]\nsbatch = ["--account=lab"]\n'
    )
    dataclasses.asdict(made)


# ---- processes


def tried(
    folder: Path, *, first: int, count: int, weights: dict[str, float] | None = None
) -> dict[str, Any]:
    """Try inputs of every reader, so many in all; what came of it, by the name of the reader.

    Parameters
    ----------
    folder : path
        Its own; it is filled.
    first : int
        Number of the first input of each reader.
    count : int
    weights : dict of str to float, optional
        How many inputs a reader gets, as a share; without it all get the same number, and one
        that is not named gets `USUAL`.
    """
    found = told("tests.rigs.readers", str(folder), first, count, weights or {}, env={"PATH": ""})
    return {name: {**of, "bad": [Bad(*b) for b in of["bad"]]} for name, of in found}


def _main(folder: str, first: int, count: int, weights: dict[str, float]) -> None:
    warnings.simplefilter("ignore")
    all_readers = readers(Path(folder))
    for reader in all_readers:
        # What is imported late is imported before any child is forked. Runs that were left, and
        # averages, are refused by some who read them.
        with suppress(HpcioError):
            reader.read()
    share = [weights.get(reader.name, USUAL) for reader in all_readers]
    for reader, part in zip(all_readers, share, strict=True):
        begun = time.monotonic()
        numbers = range(first, first + max(1, round(count * part / sum(share))))
        found = try_inputs(reader, numbers)._asdict()
        found["seconds"] = time.monotonic() - begun
        print(json.dumps([reader.name, found]), flush=True)


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
