"""What a benchmark measures: every writer beside its limit; and it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import glob
import html
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import hpcio
from hpcio.bench import (
    SCALES,
    TEAMS,
    WRITERS,
    Advice,
    Figure,
    Found,
    LeftOut,
    Place,
    Scale,
    Team,
    advise,
    jobs,
    measure,
    measuring,
    read_advice,
)
from hpcio.bench.page import figure_rows, write_page
from hpcio.cli import cli
from hpcio.command import benching
from hpcio.errors import OptionError, OutputError, WorkerError
from hpcio.journals import prepare
from hpcio.results import verify
from tests.rigs.waiting import PATIENCE, until

SMALL = Scale((800, 64_000), 2, 0.01, 600.0, 64 << 20)
LIMITS = {
    "virtual": "own files", "virtual-trial": "a file a trial", "direct": "one file",
    "mpi": "one file", "mutex": "one file",
}  # fmt: skip
# Those that need no ranks; `test_mpi` has the other one.
OURS = [name for name in WRITERS if name != "mpi"]
WITHOUT_MPI = "mpi (one file) left out: writer='mpi' needs an h5py that was built with MPI."


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("measured")
    said: list[str] = []
    with Team(folder / "team", 2, TEAMS["processes"]) as team:
        place = Place.of(folder, team.hosts)
        measured = list(measure(folder, team, SMALL, say=said.append))
    assert os.listdir(folder) == ["team"]
    assert said[:3] == [
        "trials of 800 B, 2 at work", "trials of 64 kB, 2 at work", "records of 47,008 bytes"
    ]  # fmt: skip
    figures = tuple(one for one in measured if isinstance(one, Figure))
    left_out = tuple(one for one in measured if isinstance(one, LeftOut))
    return Found(place, figures, left_out, advise(figures, left_out, where="a disk"))


def of_part(found: Found, part: str) -> dict[tuple[str, int, int], Figure]:
    return {(f.what, f.size, f.processes): f for f in found.figures if f.part == part}


def test_every_writer_is_measured_beside_its_limit(found):
    written = of_part(found, "write")
    for size in SMALL.sizes:
        for processes in (1, 2):
            for name in (*OURS, "own files", "one file", "a file a trial"):
                figure = written.pop((name, size, processes))
                assert len(figure.values) == SMALL.repetitions
                assert figure.nodes == 1
                assert (figure.limit or None) == LIMITS.get(name)
                if figure.limit and name != "mutex":  # that one does fewer
                    limit = of_part(found, "write")[figure.limit, size, processes]
                    assert figure.limits == limit.values
                    pairs = zip(limit.values, figure.values, strict=True)
                    assert figure.ratio.median == np.median([a / b for a, b in pairs])
    assert not written


def test_a_writer_that_this_python_cannot_have_is_left_out_and_said(tmp_path, found):
    (one,) = found.left_out
    assert one.what == "mpi (one file)"
    assert "needs an h5py that was built with MPI" in one.why
    assert "HDF5_MPI=ON pip install" in one.why
    assert found.advice.sentence.endswith(WITHOUT_MPI)
    page = html.unescape(write_page(tmp_path / "b.html", found).read_text())
    assert f"<dt>mpi (one file)</dt><dd>{one.why}</dd>" in page


def test_ranks_are_not_held_against_processes_of_other_nodes(tmp_path):
    with Team(tmp_path / "team", 2, TEAMS["processes"]) as team:
        team.hosts = ("n1", "n2")
        bench = measuring._Measurements(tmp_path, team, SMALL, print)
        with pytest.raises(WorkerError, match=r"and some are on n1, n2\. .* without --tasks"):
            bench._as_ranks(2)


def test_the_hard_cases_of_io500_are_theirs(found):
    assert set(of_part(found, "records")) == {
        (name, 47_008, 2)
        for name in ("one file, by turns", "one file, read by the neighbour", "direct", "virtual")
    }
    files = of_part(found, "files")
    assert set(files) == {
        (name, 3_901, 2)
        for name in ("make", "make, fsync", "stat", "read", "remove", "virtual-trial")
    }
    assert {f.unit for f in files.values()} == {"1/s"}


def test_the_result_is_read_again(found):
    read = of_part(found, "read")
    for how in ("all", "chance", "channel"):
        for name in ("virtual", "direct"):
            assert read[f"{how}: {name}", 1_000_000, 1].limit == f"{how}: h5py, one dataset"
    assert read["repack: direct", 1_000_000, 1].limit == "repack: copy"
    assert read["verify: virtual", 1_000_000, 1].limit == "verify: checksum"


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("by_turns", [False, True], ids=["in a row", "by turns"])
def test_what_is_measured_is_a_result_that_verifies(tmp_path, name, by_turns):
    """A benchmark of something that does not write the right bytes says nothing."""
    with Team(tmp_path / "team", 2, TEAMS["processes"]) as team:
        bench = measuring._Measurements(tmp_path, team, SMALL, lambda _: None)
        (tmp_path / "x").mkdir()
        plan = bench._planned(tmp_path / "x", name, 47_008, 7)
        done = bench._computed(plan, 47_008, 2, by_turns=by_turns)
    assert done.nbytes == 7 * 47_008
    done = plan.run(workers=0, progress=False)
    assert (done.blocks, done.computed) == (7, 0)  # all by the two processes
    verify(plan.out)
    with h5py.File(plan.source.path) as f, hpcio.open(plan.out) as result:
        expected = f["data"][:][: 7 * 47_008 // 16].reshape(result["data"].shape)
        np.testing.assert_array_equal(result["data"][...], expected)


def test_what_takes_too_long_is_left_out_and_said(tmp_path):
    hurried = dataclasses.replace(SMALL, budget=1e-9)
    with Team(tmp_path / "team", 1, TEAMS["processes"]) as team:
        (_, first, *_) = measured = list(measure(tmp_path, team, hurried))  # mpi is left out, too
    assert all(isinstance(one, LeftOut) for one in (first, *measured))
    assert first.what == "trials of 800 B, 1 at work"
    assert "were over" in first.why
    large = dataclasses.replace(SMALL, sizes=(40 << 20,), budget=30.0)
    with Team(tmp_path / "again", 1, TEAMS["processes"]) as team:
        _, first = itertools.islice(measure(tmp_path, team, large), 2)
    assert "it would take more than 67.1 MB" in first.why


def test_room_is_looked_for_first(tmp_path):
    huge = dataclasses.replace(SMALL, nbytes=1 << 60)
    with (
        Team(tmp_path / "team", 1, TEAMS["processes"]) as team,
        pytest.raises(OutputError, match=r"need .* MB, but only"),
    ):
        next(measure(tmp_path, team, huge))


def test_scales_grow():
    quick, normal, full = SCALES["quick"], SCALES["normal"], SCALES["full"]
    assert quick.budget < 120
    assert quick.nbytes < 4 << 30
    assert (quick.counts(6), normal.counts(6)) == ([1, 6], [1, 2, 4, 6])
    assert {*quick.sizes} <= {*normal.sizes}
    assert {10_000, 64_000_000} <= {*full.sizes}


# ---------------------------------------------------------------------- what follows


def figures_of(rates: dict[str, float]) -> list[Figure]:
    """Of two sizes, of which all writers are known; and of one, where one is better alone."""
    figures = []
    for size in (10, 1000):
        for name, rate in rates.items():
            limit = LIMITS[name]
            figures.append(
                Figure("write", name, size, 4, 2, "B/s", (rate,) * 3, limit, (200.0,) * 3)
            )
        figures.append(Figure("write", "direct", size, 1, 1, "B/s", (1e9,), "one file", (1e9,)))
    figures.append(Figure("write", "direct", 5, 4, 2, "B/s", (1e9,), "one file", (1e9,)))
    return figures


def test_the_fastest_writer_is_advised_unless_the_default_is_about_as_fast():
    rates = {"virtual": 100.0, "virtual-trial": 10.0, "direct": 105.0, "mutex": 2.0}
    advice = advise(figures_of(rates), where="nfs4 at /scratch")
    assert (advice.writer, advice.sources) == ("virtual", "task")
    assert advice.sentence == (
        "On nfs4 at /scratch: virtual (files of tasks), which takes 2 times as long as plain "
        "system calls; virtual (a file a trial) takes 10 times as long as that, direct (one file) "
        "0.95, mutex (one file) 50. direct (one file) is faster by less than a tenth, which is "
        "not worth leaving the default."
    )
    rates["direct"] = 150.0
    other = advise(figures_of(rates), where="lustre at /scratch")
    assert (other.writer, other.sources) == ("direct", "auto")
    assert other.costs["virtual"] == pytest.approx(1.5)
    assert "Gaps of failed trials in one file are not filled later" in other.sentence
    assert "Gaps" not in advice.sentence
    assert advise([], where="nowhere") is None


def test_what_only_ranks_can_do_is_said_and_is_no_default():
    rates = {"virtual": 100.0, "virtual-trial": 10.0, "direct": 150.0, "mpi": 300.0, "mutex": 2.0}
    advice = advise(figures_of(rates), where="gpfs at /scratch")
    assert (advice.writer, advice.costs["mpi"]) == ("direct", 0.5)
    assert "mpi (one file) 0.5, mutex (one file) 75." in advice.sentence
    assert advice.sentence.endswith("mpi is faster: mpirun -n R hpcio run ... --writer mpi.")
    rates["mpi"] = 151.0
    assert "mpirun" not in advise(figures_of(rates), where="gpfs at /scratch").sentence


def test_the_sentence_says_why_writers_are_left_out():
    rates = {"virtual": 100.0, "virtual-trial": 10.0, "direct": 150.0}
    left_out = [
        LeftOut("mpi (one file)", "There is no mpirun. Load one."),
        LeftOut("mutex (one file)", "Cannot write '/x/round5' in turn: it has no locks. Use none."),
        LeftOut("reading again", "late"),
    ]
    sentence = advise(figures_of(rates), left_out, where="here").sentence
    assert sentence.endswith(
        "mpi (one file) left out: There is no mpirun. mutex (one file) left out: it has no locks."
    )


def test_advice_is_kept_and_read_again(tmp_path, found):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(dataclasses.asdict(found)))
    assert read_advice(path) == found.advice
    path.write_text(json.dumps({"advice": None}))
    with pytest.raises(OptionError, match="too little"):
        read_advice(path)
    wrong = dataclasses.asdict(Advice("floppy", "task", {}, ""))
    for text in ("", "[]", "{}", '{"advice": 3}', json.dumps({"advice": wrong})):
        path.write_text(text)
        with pytest.raises(OptionError, match="not written by hpcio bench"):
            read_advice(path)


def test_a_page_and_a_table_say_the_same(tmp_path, found):
    page = html.unescape(write_page(tmp_path / "b.html", found).read_text())
    assert found.advice.sentence in page
    for part in ("write", "records", "files", "read"):
        for row in figure_rows(found.figures, part):
            assert f'<td class="n">{row[2]}</td>' in page
    assert "<svg" in page
    assert "2 processes together" in page
    assert "http:" not in page.replace("http://www.w3.org", "")  # it loads nothing
    assert write_page(tmp_path / "b.html", found).exists()
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(OutputError, match="is not replaced"):
        write_page(tmp_path / "mine.html", found)


# ---------------------------------------------------------------------- in the shell


def test_in_the_shell(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "quick", dataclasses.replace(SMALL, sizes=(64_000,), repetitions=1))
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["bench", "--dir", str(tmp_path), "--quick", "--processes", "1",
                 "--json", f"{tmp_path}/b.json", "--html", f"{tmp_path}/b.html"]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert sorted(os.listdir(tmp_path)) == ["b.html", "b.json"]
    said = json.loads((tmp_path / "b.json").read_text())
    assert said["place"]["processes"] == 1
    assert said["place"]["folder"] == str(tmp_path)
    assert said["advice"]["sentence"] in done.output
    (one,) = said["left_out"]
    assert f"Left out: mpi (one file), since {one['why']}.\n" in done.output
    assert "64 kB: direct (one file)" in done.output


def test_what_was_measured_before_an_error_is_not_lost(tmp_path, monkeypatch, found):
    def measured(*_: object, **__: object):
        yield found.figures[0]
        raise WorkerError("A task has ended (TIMEOUT). Ask for more time.")

    monkeypatch.setattr(benching, "measure", measured)
    arguments = ["bench", "--dir", str(tmp_path), "--processes", "1",
                 "--json", f"{tmp_path}/b.json"]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert (
        "Left out: the rest, since A task has ended (TIMEOUT). Ask for more time.\n" in done.output
    )
    assert len(json.loads((tmp_path / "b.json").read_text())["figures"]) == 1


def half(trial):
    if trial[0, 0] > 0.5:
        raise ValueError("too much")
    return trial


def test_blocks_that_fail_are_not_counted_as_written(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["data"] = np.repeat([0.0, 1.0], 10)[:, None]
    plan = prepare(hpcio.Plan.create(
        half, f"{tmp_path}/rec.h5::data", trials=5, out=tmp_path / "out.h5", out_shape=(5, 1),
        out_dtype="f8",
    ))  # fmt: skip
    job = jobs.compute(plan.out, size=40, first=0, count=4, step=1)
    assert next(job) == 0
    with pytest.raises(WorkerError, match="2 of 4 trials could not be read, or computed"):
        next(job)


def test_misuse_in_the_shell(tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    for arguments, match in (
        (["--json", f"{tmp_path}/nowhere/b.json"], "b.json' cannot be written"),
        (["--json", f"{tmp_path}"], "cannot be written. Name a file"),
        (["--json", f"{tmp_path}/mine.html"], "mine.html' is no benchmark of hpcio"),
        (["--html", f"{tmp_path}/mine.html"], "mine.html' is no report of hpcio"),
        (["--processes", "2", "--tasks", "2"], "exclude each other"),
        (["--quick", "--full"], "exclude each other"),
        (["--", "--qos=x"], "Options of sbatch are for --tasks"),
        (["--dir", f"{tmp_path}/nowhere"], "Choose a folder that is there"),
    ):
        done = CliRunner().invoke(cli, ["bench", *arguments])
        assert done.exit_code != 0
        assert match in done.output + str(done.exception)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
def test_one_that_is_stopped_leaves_nothing(tmp_path, number):
    command = [str(Path(sys.executable).with_name("hpcio")), "bench", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as bench:
        try:
            # A writer is at work.
            # (By `glob`, which holds folders that vanish meanwhile for empty ones.)
            until(lambda: glob.glob(f"{tmp_path}/*/round*/out.h5.run/journal/*"))
            bench.send_signal(number)
            _, said = bench.communicate(timeout=PATIENCE)
        finally:
            bench.kill()
    assert bench.returncode == 130
    assert said.splitlines()[-1] == "hpcio: Stopped."
    assert said.splitlines()[0].startswith("trials of 10 kB")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "config" / "config.toml"))
    return tmp_path / "config" / "config.toml"


def test_the_shell_takes_over_what_was_found_best(tmp_path, config):
    advice = Advice("direct", "auto", {"virtual": 2.0}, "On a disk: direct.")
    (tmp_path / "b.json").write_text(json.dumps({"advice": dataclasses.asdict(advice)}))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["x"] = np.arange(12.0)

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    def writer_of(name: str, *options: str) -> str:
        invoke("run", "numpy:negative", f"{tmp_path}/rec.h5::x", "--trials", "4", "--quiet",
               "--workers", "0", "--out", f"{tmp_path}/{name}.h5", *options)  # fmt: skip
        return hpcio.Plan.load(tmp_path / f"{name}.h5").writer

    assert writer_of("before") == "virtual"
    assert "On a disk: direct." in invoke("config", "--take", f"{tmp_path}/b.json")
    assert config.read_text() == '[plan]\nwriter = "direct"\nsources = "auto"\n'
    assert writer_of("after") == "direct"
    assert writer_of("said", "--sources", "task") == "virtual"
    assert re.search(r"writer  direct  \[plan\]\n *sources  auto  \[plan\]", invoke("config"))
    assert json.loads(invoke("config", "--json"))["origin"]["writer"] == "[plan]"
    # What is there goes on as it is; the next one is as the file says.
    assert writer_of("before") == "virtual"
    assert writer_of("before", "--exists", "fresh") == "direct"
    said = "writer = direct, sources = auto.\n"
    assert said in invoke("plan", "numpy:negative", f"{tmp_path}/rec.h5::x", "--trials", "4",
                          "--out", f"{tmp_path}/other.h5")  # fmt: skip


def test_defaults_that_nobody_has_set_are_shown(config):
    shown = CliRunner().invoke(cli, ["config"]).output
    assert re.search(r"writer  virtual  default\n *sources  auto  default", shown)


def test_a_section_is_added_to_what_is_there(tmp_path, config):
    config.parent.mkdir()
    kept = tmp_path / "dotfiles.toml"
    kept.write_text("# mine\n[submit]\ntasks = 3\n")
    kept.chmod(0o600)
    config.symlink_to(kept)
    (tmp_path / "b.json").write_text(
        json.dumps({"advice": dataclasses.asdict(Advice("virtual", "task", {}, "."))})
    )
    done = CliRunner().invoke(cli, ["config", "--take", f"{tmp_path}/b.json"])
    assert done.exit_code == 0, done.output
    assert config.is_symlink()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text() == (
        '# mine\n[submit]\ntasks = 3\n\n[plan]\nwriter = "virtual"\nsources = "task"\n'
    )
    # A section that is there, even an empty one, is changed; what others have said there stays.
    for section in ("[plan]  # of mine\n", "\ufeff[plan]  # of mine\nwriter = 'direct' # fast\n"):
        kept.write_text(f"{section}[submit]\ntasks = 3\n")
        assert CliRunner().invoke(cli, ["config", "--take", f"{tmp_path}/b.json"]).exit_code == 0
        said = tomllib.loads(kept.read_text())
        assert said == {"plan": {"writer": "virtual", "sources": "task"}, "submit": {"tasks": 3}}
        assert kept.read_text().startswith("[plan]  # of mine\n")
    kept.write_text("[plan]\nwriter = 'floppy'\n")
    assert isinstance(CliRunner().invoke(cli, ["config"]).exception, OptionError)
    wrong = CliRunner().invoke(
        cli, ["plan", "numpy:negative", "a.h5::x", "--trials", "4", "--out", f"{tmp_path}/o.h5"]
    )
    assert isinstance(wrong.exception, OptionError)
    assert "'writer = 'floppy''" in str(wrong.exception)
