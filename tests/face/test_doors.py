"""What other packages can add: each is a file of theirs and a line in their entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

OUTSIDE = '''
"""A package that adds one of each: nothing of it is in hpcio."""

import os
from pathlib import Path

import click
import h5py
import numpy as np

from hpcio.files import checksum, write_under_name
from hpcio.planning import WriterAbilities
from hpcio.recording import Recording, TrialTable
from hpcio.running import Attempt, run_batch
from hpcio.reporting import Section
from hpcio.writers import Stored, Unbuffered


# ---- a writer: a file of numpy for each result

class NumpyWriter(Unbuffered):
    def __init__(self, plan, attempt):
        self.plan, self.attempt = plan, attempt

    def begin(self, blocks, journal):
        pass

    def write(self, block, data):
        with open(npy_file(self.plan, self.attempt, block), "xb") as f:
            np.save(f, data)
        return 0, 0

    def prepare_sync(self):
        return os.sync

    def close(self):
        pass


def npy_file(plan, attempt, block):
    return plan.rundir.sources / f"{attempt}-{block}.npy"


class NumpyReader:
    def __init__(self, plan, records):
        self.plan, self.attempt = plan, records.attempt

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def there(self, records):
        return np.array([npy_file(self.plan, self.attempt, b).exists() for b in records["block"]])

    def intact(self, record):
        data = np.load(npy_file(self.plan, self.attempt, record["block"]))
        return checksum(data) == record["checksum"]


class NumpyFiles:
    abilities = WriterAbilities()

    def check_plan(self, plan):
        pass

    def reserve(self, plan):
        pass

    def open_writer(self, plan, attempt):
        return NumpyWriter(plan, attempt)

    def open_reader(self, plan, records):
        return NumpyReader(plan, records)

    def add_data(self, ledger, file, folder):
        target = ledger.plan.target
        data = file.create_dataset("data", target.shape, target.dtype, fillvalue=target.fill)
        for block in np.flatnonzero(ledger.done).tolist():
            attempt = ledger.logs[ledger.log[block]].attempt
            data[target.region(block)] = np.load(npy_file(ledger.plan, attempt, block))
        return Stored.blocks_of(ledger)

    def publish(self, ledger, fill, final):
        plan = ledger.plan
        write_under_name(fill, final, tag=plan.run_id, replaces=plan.replaces)


writer = NumpyFiles()


# ---- an executor: this process, from the last block to the first

class Backwards:
    about = ""

    def check(self, plan, memory):
        pass

    def execute(self, work):
        with Attempt(work.plan, "backwards", retries=work.retries) as attempt:
            for block in work.blocks[::-1]:
                run_batch(attempt, np.array([block]))
            attempt.sync()


def executor(*, workers, threads):
    return Backwards()


# ---- a kind of recording: a file of numpy

class OpenNumpy:
    plain = None

    def __init__(self, path):
        self.array = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.name = self.array.shape, self.array.dtype, path

    def read(self, region):
        return np.array(self.array[region])

    def axis_name(self, axis):
        return ("time", "channel")[axis]

    def coordinates(self, axis):
        return None

    def columns(self, axis):
        return {}

    def close(self):
        del self.array

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class NumpyRecording:
    name = "npy"

    def claims(self, spec):
        return spec.endswith(".npy")

    def look(self, spec):
        path = os.path.abspath(spec)
        array, stat = np.load(path, mmap_mode="r"), os.stat(path)
        return Recording(path, "", array.shape, array.dtype, stat.st_size, stat.st_mtime_ns, "npy")

    def open(self, recording):
        return OpenNumpy(recording.path)


recording = NumpyRecording()


# ---- a kind of trial table: words

class Words:
    name = "words"

    def claims(self, spec):
        return spec.startswith("every:")

    def read(self, spec):
        start = np.arange(0, 40, int(spec.removeprefix("every:")))
        columns = {"start": start, "stop": start + 5}
        return TrialTable(columns, f"'{spec}'", lambda k: f"Trial {k} of '{spec}'")


trial_table = Words()


# ---- a section of the report

def section(run):
    return Section("Mine", f"{len(run.plan)} blocks, <b>and no more</b>")


# ---- a subcommand

@click.command()
@click.argument("name")
def greet(name):
    """Greet somebody."""
    click.echo(f"Good day, {name}.")
'''

ENTRY_POINTS = """
[hpcio.writers]
npy = outside:writer
[hpcio.executors]
backwards = outside:executor
[hpcio.recordings]
npy = outside:recording
[hpcio.trial_tables]
words = outside:trial_table
[hpcio.report_sections]
mine = outside:section
[hpcio.commands]
greet = outside:greet
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording, and a package beside it that is as good as installed."""
    (tmp_path / "outside.py").write_text(OUTSIDE)
    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "mine.py").write_text(
        "def double(trial, noCompute=None):\n"
        "    return (trial.shape, 'f8') if noCompute else 2.0 * trial\n"
    )
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp()
    np.save(tmp_path / "rec.npy", lfp())
    return tmp_path


def lfp() -> np.ndarray:
    return np.arange(120.0).reshape(40, 3)


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def planned(folder: Path, source: str = "rec.h5::/lfp", *, how: str = "", options: str = "") -> str:
    script = (
        f"import hpcio\nplan = hpcio.Plan.create('mine.py:double', {source!r}, out='out.h5',"
        f" **dict(trials=5){options})\nprint(plan.run({how}progress=False))"
    )
    return run(folder, sys.executable, "-c", script)


def result(folder: Path) -> np.ndarray:
    with h5py.File(folder / "out.h5") as f:
        found: np.ndarray = f["data"][...]
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_writer(folder, workers):
    planned(folder, how=f"workers={workers}, ", options=" | dict(writer='npy')")
    np.testing.assert_array_equal(result(folder), 2 * lfp())
    run(folder, sys.executable, "-m", "hpcio", "verify", "out.h5")
    assert len(list(folder.glob("out.h5.run/sources/*.npy"))) == 8


def test_an_executor(folder):
    planned(folder, how="'backwards', ")
    np.testing.assert_array_equal(result(folder), 2 * lfp())
    assert "backwards" in run(folder, sys.executable, "-m", "hpcio", "status", "out.h5")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_kind_of_recording(folder, workers):
    planned(folder, "rec.npy", how=f"workers={workers}, ")
    np.testing.assert_array_equal(result(folder), 2 * lfp())
    with h5py.File(folder / "out.h5") as f:
        assert [dim.label for dim in f["data"].dims] == ["time", "channel"]


def test_a_recording_that_was_added_is_held_against_its_plan_too(folder):
    script = (
        "import hpcio, os\n"
        "plan = hpcio.Plan.create('mine.py:double', 'rec.npy', trials=5, out='out.h5')\n"
        "os.utime('rec.npy', (1, 1))\n"
        "try:\n    plan.run(workers=0, progress=False)\n"
        "except hpcio.errors.SourceError as error:\n    print(error)\n"
    )
    assert "has changed" in run(folder, sys.executable, "-c", script)


def test_a_kind_of_trial_table(folder):
    planned(folder, how="workers=0, ", options=" | dict(trials='every:20')")
    np.testing.assert_array_equal(result(folder), 2 * lfp()[[*range(5), *range(20, 25)]])


def test_a_section_of_the_report(folder):
    planned(folder, how="workers=0, ")
    run(folder, sys.executable, "-m", "hpcio", "report", "out.h5")
    page = (folder / "out.h5.html").read_text()
    assert '<section id="mine">\n<h2>Mine</h2>\n8 blocks, &lt;b&gt;and no more&lt;/b&gt;' in page
    assert page.index('id="slowest"') < page.index('id="mine"')


def test_a_subcommand(folder):
    assert "greet" in run(folder, sys.executable, "-m", "hpcio", "--help")
    assert run(folder, sys.executable, "-m", "hpcio", "greet", "Ada") == "Good day, Ada.\n"


def test_what_is_not_there_is_refused_with_what_is(folder):
    script = (
        "import hpcio\n"
        "try:\n    hpcio.Plan.create('mine.py:double', 'rec.h5::/lfp', trials=5, out='out.h5',"
        " writer='nothing')\n"
        "except hpcio.errors.PlanError as error:\n    print(error)\n"
    )
    said = run(folder, sys.executable, "-c", script)
    assert said == (
        "There is no writer 'nothing'. Choose one of: virtual, direct, mpi, mpi-collective, mutex, "
        "npy.\n"
    )
