"""What is recommended, by what was measured, and the sentence that says why."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import hpcio
from hpcio.bench import SCALES, WRITERS, Figure, Found, Place, Scale, read_found, write_found
from hpcio.cli import cli
from hpcio.errors import OptionError
from hpcio.machine import bench_file, on_one_mount
from slurm import Cluster, Disk, Work, recommend, simulate
from slurm.simulation.disk import Rates
from slurm.site import Site
from slurm.site.partitions import NodeType, Partition

WIDE = Cluster(nodes=100, slots=16)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a quick benchmark of this machine has kept."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "quick", Scale((8_000, 64_000), 1, 0.002, 600.0, 8 << 20))
        arguments = ["bench", "--dir", str(folder), "--quick", "--processes", "2"]
        done = CliRunner().invoke(cli, [*arguments, "--json", f"{folder}/b.json"])
    assert done.exit_code == 0, done.output
    return (folder / "b.json").read_text()


@pytest.fixture
def measured(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "config" / "config.toml"))
    (tmp_path / "b.json").write_text(kept)
    return tmp_path / "b.json"


def test_what_a_benchmark_has_measured(measured):
    disk, found = Disk.of(measured), read_found(measured)
    assert disk.rates.keys() <= WRITERS.keys()
    assert {"virtual", "direct"} <= disk.rates.keys()
    assert disk.rates["virtual"].sizes == (8_000, 64_000)
    asked = ("write", "virtual", 64_000)
    rate = {f.processes: f.spread.median for f in found.figures
            if (f.part, f.what, f.size) == asked}  # fmt: skip
    one = max(rate[1], rate[2] / 2)  # in such short rounds it may seem less than its part
    assert disk.rates["virtual"].seconds(64_000) == pytest.approx(64_000 / one)
    assert disk.words.endswith("as 2 processes measured it")
    assert min(disk.read_one, disk.read_all, disk.creates, *disk.verify.values()) > 0
    said = simulate(Work(trials=100, seconds=0.1, read=8e3, written=8e3), WIDE, disk, tasks=4)
    assert said.done == 100


def test_config_take_keeps_what_was_measured(measured):
    done = CliRunner().invoke(cli, ["config", "--take", str(measured)])
    assert done.exit_code == 0, done.output
    assert str(bench_file()) in done.output
    assert read_found(bench_file()) == read_found(measured)
    assert bench_file().parent == measured.parent / "config"


def test_config_take_keeps_nothing_that_tasks_auto_could_not_use(measured):
    assert CliRunner().invoke(cli, ["config", "--take", str(measured)]).exit_code == 0
    said = json.loads(measured.read_text())
    said["figures"] = [f for f in said["figures"] if f["part"] != "write"]
    little = measured.with_name("little.json")
    little.write_text(json.dumps(said))
    done = CliRunner().invoke(cli, ["config", "--take", str(little)])
    assert done.exit_code == 0, done.output
    assert "--tasks auto goes by what it knew before" in done.output
    assert read_found(bench_file()) == read_found(measured)


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("figures"),
        lambda said: said.update(figures=[{"part": "write"}]),
        lambda said: said["figures"][0].update(values=[]),
        lambda said: said["figures"][0].update(values=["fast"]),
        lambda said: said["place"].update(cores="many"),
        lambda said: said.update(place=[]),
    ],
)
def test_files_that_no_benchmark_has_written_are_refused(measured, change):
    said = json.loads(measured.read_text())
    change(said)
    measured.write_text(json.dumps(said))
    with pytest.raises(OptionError, match="was not written by hpcio bench --json"):
        Disk.of(measured)


def test_too_little_was_measured(measured):
    said = json.loads(measured.read_text())
    said["figures"] = [f for f in said["figures"] if f["part"] != "write"]
    measured.write_text(json.dumps(said))
    with pytest.raises(OptionError, match="has not measured how fast results are written"):
        Disk.of(measured)


def test_what_was_measured_on_ranks_is_nothing_for_array_tasks(measured):
    said = json.loads(measured.read_text())
    said["figures"] += [f | {"what": "mpi"} for f in said["figures"] if f["what"] == "direct"]
    measured.write_text(json.dumps(said))
    assert "mpi" not in Disk.of(measured).rates


@pytest.fixture
def found_of(tmp_path):
    """Keeps what a benchmark would: a function of figures (part, what, size, processes, rate)."""

    def keep(*figures: tuple[str, str, int, int, float]) -> Path:
        made = tuple(Figure(*what, 1, "B/s", (rate,)) for *what, rate in figures)
        write_found(tmp_path / "b.json", Found(Place.of(tmp_path, ["a"]), made, (), None))
        return tmp_path / "b.json"

    return keep


ONE, ALL = ("write", "virtual", 10_000, 1, 1e8), ("write", "virtual", 10_000, 4, 2e8)
READ = ("read", "all: h5py, one dataset", 10**6, 1, 1e9)
VERIFIED = ("read", "verify: virtual", 10**6, 1, 1e9)
MADE = ("write", "a file a trial", 10_000, 4, 1e8)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ([READ, VERIFIED, MADE], ""),
        ([READ, MADE], "; verifying is a guess"),
        ([MADE], "; reading and verifying are guesses"),
        ([], "; reading, verifying and making files are guesses"),
    ],
)
def test_what_was_not_measured_is_called_a_guess(found_of, figures, said):
    disk = Disk.of(found_of(ONE, ALL, *figures))
    assert disk.words.endswith(f"as 4 processes measured it{said}")


def test_one_process_was_not_measured_with_all_sizes(found_of):
    larger = ("write", "virtual", 10**6, 4, 2e9)
    disk = Disk.of(found_of(ONE, ALL, larger, READ, VERIFIED, MADE))
    assert disk.rates["virtual"] == Rates((1e4, 1e6), one=(1e8, 1e9), all=(2e8, 2e9))
    assert disk.words.endswith("measured it; writing 1 MB by one process is a guess")
    none = Disk.of(found_of(ALL, larger, READ, VERIFIED, MADE))
    assert none.rates["virtual"] == Rates((1e4, 1e6), one=(5e7, 5e8), all=(2e8, 2e9))
    assert none.words.endswith("measured it; writing 10 kB or 1 MB by one process is a guess")


def test_several_processes_are_no_more_times_as_fast_than_they_are(found_of):
    alone = ("write", "virtual", 10_000, 1, 5e6)  # of so few trials that it is the fsync alone
    disk = Disk.of(found_of(alone, ALL, ("write", "virtual", 10**6, 4, 2e9), READ))
    assert disk.rates["virtual"] == Rates((1e4, 1e6), one=(5e7, 5e8), all=(2e8, 2e9))
    assert disk.read_all == 4e9


def test_what_an_answer_rests_on_is_shown(found_of):
    path, work = found_of(ONE, ALL), Work(trials=1000, seconds=1.0)
    few, many = (simulate(work, WIDE, Disk.of(path), tasks=n) for n in (4, 5))
    assert f"rests on  {Disk.of(path).words}" in repr(few).splitlines()[-1]
    assert few.rests_on == Disk.of(path).words
    assert many.rests_on == f"{few.rests_on}; 5 tasks are taken to write no faster than that"
    said = recommend(work, WIDE, path, most=10)
    assert said == recommend(work, WIDE, Disk.of(path), most=10)
    assert many == simulate(work, WIDE, str(path), tasks=5)
    shown = repr(said)
    assert said.simulated.rests_on in shown
    assert "chunks_per_task  4: 40 chunks of about 25 trials" in shown
    assert said._repr_html_().count("<tr>") == len(shown.splitlines())


def test_folders_of_one_mount(tmp_path):
    kind = hpcio.machine.kind_of(tmp_path)
    assert on_one_mount(tmp_path, tmp_path / "not" / "yet", kind=kind)
    assert not on_one_mount(tmp_path, tmp_path, kind="lustre")
    assert not on_one_mount(tmp_path, "/proc", kind=kind)


# ---------------------------------------------------------------------- recommending


def test_little_work_gets_one_task():
    said = recommend(Work(trials=50, seconds=0.001), WIDE, Disk())
    assert (said.tasks, said.chunks_per_task, said.writer) == (1, 4, "virtual")
    assert said.why.startswith("1 task: ")


def test_much_work_gets_all_slots():
    said = recommend(Work(trials=100_000, seconds=10.0), Cluster(nodes=4, slots=16), Disk())
    assert said.tasks == 64
    assert said.why.endswith("there is no room or work for more tasks")
    assert said.seconds == said.simulated.makespan


def test_more_than_the_file_system_can_take_is_not_asked_for():
    rates = {"virtual": Rates((1e6,), one=(1e8,), all=(1e9,))}
    narrow = Disk(rates=rates, verify={"virtual": 1e11})
    work = Work(trials=100_000, seconds=0.05, written=1e6)
    said = recommend(work, WIDE, narrow)
    assert said.tasks == 64
    end = "would take .*, since the file system is full at 60 tasks"
    assert re.fullmatch(rf"64 tasks: .*; 128 {end}", said.why)


def test_the_writer_that_is_faster_is_taken():
    slow, fast = (Rates((1e6,), one=(rate,), all=(4 * rate,)) for rate in (1e7, 1e9))
    disk = Disk(rates={"virtual": slow, "virtual-trial": slow, "direct": fast})
    work = Work(trials=10_000, seconds=0.01, written=1e6)
    said = recommend(work, WIDE, disk)
    assert (said.writer, said.sources) == ("direct", "auto")
    said = recommend(work, WIDE, disk, writers=["virtual-trial"])
    assert (said.writer, said.sources) == ("virtual", "trial")
    assert recommend(work, WIDE, disk, writers="virtual-trial") == said
    for writers in ("mutex", ["direct", "mutex"], "virtual,direct"):
        with pytest.raises(OptionError, match="Choose one of: virtual, virtual-trial, direct"):
            recommend(work, WIDE, disk, writers=writers)


def test_writers_of_which_nothing_is_measured_are_guessed():
    work = Work(trials=10_000, seconds=0.01, written=1e6)
    said = recommend(work, WIDE, Disk(), writers="mutex")
    assert said.writer == "mutex"
    assert said.simulated.bottleneck.startswith("the file system is full")
    assert recommend(work, WIDE, Disk()).writer == "virtual"


def test_uneven_trials_get_smaller_chunks():
    seconds = np.where(np.arange(4000) < 3600, 0.5, 20.0)
    work = Work(trials=4000, seconds=seconds)
    said = recommend(work, Cluster(nodes=1, slots=16, stale=1e6), Disk())
    assert said.chunks_per_task > 4


def test_the_same_is_recommended_again():
    work = Work(trials=5000, seconds=np.random.default_rng(0).exponential(1.0, 5000))
    cluster = dataclasses.replace(WIDE, wait=60.0, spread=0.5, preempted=3000.0)
    first, again = (recommend(work, cluster, Disk(), most=64, seed=3) for _ in range(2))
    assert first == again
    assert first.tasks <= 64


# ---------------------------------------------------------------------- plans and sites


def test_the_work_of_a_plan(plan):
    work = Work.of(plan, bytes_per_second=1000.0)
    nbytes = 4 * 2 * 8
    assert (work.trials, work.read, work.written) == (10, nbytes, nbytes)
    assert work.seconds == 2 * nbytes / 1000.0
    assert Work.of(plan, seconds=0.5, blocks=np.arange(3)).trials == 3
    for options in ({}, {"seconds": 1.0, "bytes_per_second": 1.0}):
        with pytest.raises(OptionError, match="either seconds or bytes_per_second"):
            Work.of(plan, **options)


def test_the_nodes_of_a_site():
    kinds = (NodeType(10, 32, 64 << 30, ()), NodeType(2, 8, 8 << 30, ()))
    site = Site("c", "", 1001, 10_000, (
        Partition("big", True, True, None, kinds), Partition("none", False, True, None, ()),
    ))  # fmt: skip
    assert Cluster.of(site).total == 12 * ((320 + 16) // 12)
    assert Cluster.of(site, cpus=16).nodes == 10
    assert Cluster.of(site, "big", memory=32 << 30).slots == 2
    with pytest.raises(OptionError, match=r"has 64 CPUs .* Say tasks=N"):
        Cluster.of(site, cpus=64)
    with pytest.raises(OptionError, match="No node"):
        Cluster.of(site, "none")
