"""A function that was mended: what is done is kept, on request, and each trial says by which."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import BlocksFailed, HpcioWarning, OptionError, OutputError, PlanError
from hpcio.reporting import write_page
from hpcio.status import status
from tests.rigs.runs import LFP, check, record

FIRST = """
def work(trial, factor=1.0):
    if trial[0, 0] in SICK and os.path.exists("BAD"):
        raise ValueError("cannot do this one")
    return trial * 2 * factor
"""
MENDED = """
def work(trial, factor=1.0):
    return trial * 3 * factor
"""
# Five trials of six rows; the second and the last fail at first.
SICK = (1, 4)
WAYS: dict[str, dict[str, Any]] = {
    "a file a trial": {"sources": "trial"},
    "a file a batch": {"sources": "task"},
    "packed a trial": {"sources": "trial", "compression": "gzip"},
    "packed": {"sources": "task", "compression": "gzip"},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"},
}


class Study:
    """A recording, and a module whose function is edited; another process sees the edit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out.h5"
        self.source, self.edits = record(folder / "rec.h5", LFP[:30]), 0
        self.edit(FIRST)
        (folder / "bad").touch()

    def edit(self, text: str) -> None:
        text = text.replace("BAD", str(self.folder / "bad"))
        said = f"import os\nSICK = {[float(LFP[6 * k, 0]) for k in SICK]}\n"
        # Each has a length of its own: bytecode is told from its source by size and second.
        self.edits += 1
        width = 1000 * self.edits
        (self.folder / "mine.py").write_text(f"{said}{text}".ljust(width, "#").rstrip() + "\n")

    def plan(self, **options: Any) -> Plan:
        options = {"out_shape": (6, options.get("channels_per_block", 4)), **options}
        options = {"out_dtype": "f8", **options}
        func = f"{self.folder}/mine.py:work"
        return Plan.create(func, self.source, trials=6, out=self.out, **options)

    def fail(self, **options: Any) -> str:
        with pytest.raises(BlocksFailed) as info:
            self.plan(**options).run(workers=0, progress=False)
        return str(info.value)

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, check=False, cwd=self.folder,
            env={**os.environ, "PATH": path},
        )  # fmt: skip


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def expected(kept: Any = (0, 2, 3), before: float = 2.0, after: float = 3.0) -> np.ndarray:
    factor = np.full((5, 1, 1), after)
    factor[list(kept)] = before
    return (LFP[:30].reshape(5, 6, 4) * factor).reshape(30, 4)


def check_mixed(out: Path, values: np.ndarray, by: list[int]) -> None:
    """The numbers, and that all that looks at a result says which function they are of."""
    assert str(hpcio.verify(out)).count("kept from an earlier function") == 1
    with hpcio.open(out) as f:
        assert (f["data"][()].reshape(values.shape) == values).all()
        places = json.loads(f["trials"].attrs["columns"])
        assert f[places["function"]][()].tolist() == by
        functions = json.loads(f.attrs["functions"])
        assert [n for one in functions if (n := one["trials"])] == np.bincount(by).tolist()
        assert f.earlier == sum(one["trials"] for one in functions[:-1])
        assert f"{f.earlier} trials kept from an earlier function" in repr(f)
        assert functions[-1]["function_digest"] == f.attrs["function_digest"]
        assert len({(one["text"], one["kwargs"]) for one in functions}) == len(functions)
        earlier = f.earlier
    assert status(str(out)).earlier == earlier


@pytest.mark.parametrize("way", WAYS)
def test_what_is_done_is_kept_and_told(study, way):
    study.fail(**WAYS[way])
    study.edit(MENDED)
    with pytest.raises(PlanError, match=r"other function.*keep_done=True"):
        study.plan(**WAYS[way]).run(workers=0, progress=False)
    done = study.plan(**WAYS[way]).run(workers=0, progress=False, keep_done=True)
    assert (done.blocks, done.computed) == (5, 2)
    check_mixed(study.out, expected(), [0, 1, 0, 0, 1])
    page = Path(write_page(study.folder / "page.html", study.out)).read_text()
    assert "of an earlier function or other arguments" in page
    # The script is run once more as it stands; without the word, it is another plan.
    again = study.plan(**WAYS[way]).run(workers=0, progress=False, keep_done=True)
    assert again.computed == 0
    with pytest.raises(OutputError, match=r"kept results of an earlier run.*keep_done=True"):
        study.plan(**WAYS[way]).run(workers=0, progress=False)
    hpcio.repack(study.out)
    check_mixed(study.out, expected(), [0, 1, 0, 0, 1])


def test_a_trial_of_which_some_blocks_are_kept_is_of_the_oldest_function(study):
    study.fail(channels_per_block=2)  # the second block of a trial does not fail
    study.edit(MENDED)
    done = study.plan(channels_per_block=2).run(workers=0, progress=False, keep_done=True)
    assert (done.blocks, done.computed) == (10, 2)
    values = expected(range(5)).reshape(5, 6, 4)
    values[list(SICK), :, :2] = LFP[:30].reshape(5, 6, 4)[list(SICK), :, :2] * 3
    check_mixed(study.out, values.reshape(30, 4), [0] * 5)


def test_what_is_said_after_failures_works(study):
    said = study.fail()
    command = re.search(
        r"keep what is done; once it is edited: (hpcio resume .* --keep-done)\n", said
    )
    assert command, said
    study.edit(MENDED)
    told = study.shell(f"{command[1]} --workers 1")
    assert told.returncode == 0, told.stderr
    check_mixed(study.out, expected(), [0, 1, 0, 0, 1])
    shown = study.shell("hpcio status out.h5; hpcio verify out.h5; hpcio resume out.h5 --keep-done")
    assert shown.stdout.count("3 trials kept from an earlier function") == 2
    assert "(0 computed now)" in shown.stdout or "nothing" in shown.stdout, shown.stdout


def test_it_is_edited_more_than_once(study):
    study.fail()
    study.edit(
        MENDED.replace("return", "if trial[0, 0] == SICK[1]:\n        raise KeyError\n    return")
    )
    with pytest.raises(BlocksFailed):
        study.plan().run(workers=0, progress=False, keep_done=True)
    study.edit(MENDED.replace("3", "5"))
    study.plan().run(workers=0, progress=False, keep_done=True)
    values = expected()
    values[24:] = LFP[24:30] * 5
    check_mixed(study.out, values, [0, 1, 0, 0, 2])


def test_it_is_edited_many_times(study):
    """Functions of which nothing is kept are not told of; the column counts those that are."""
    study.fail()
    for k in range(20):
        still = f"if trial[0, 0] in SICK:\n        raise KeyError({k})\n    return"
        study.edit(MENDED.replace("return", still))
        with pytest.raises(BlocksFailed):
            study.plan().run(workers=0, progress=False, keep_done=True)
    study.edit(MENDED)
    study.plan().run(workers=0, progress=False, keep_done=True)
    assert len(Plan.load(study.out).former) == 21
    check_mixed(study.out, expected(), [0, 1, 0, 0, 1])


def test_other_arguments_are_kept_apart_likewise(study):
    study.fail(kwargs={"factor": 1.0})
    study.edit(MENDED)
    study.plan(kwargs={"factor": 2.0}).run(workers=0, progress=False, keep_done=True)
    check_mixed(study.out, expected(after=6.0), [0, 1, 0, 0, 1])


@pytest.mark.parametrize("mended", [True, False], ids=["mended", "the cause lay outside"])
def test_gaps_of_a_result_are_filled(study, mended):
    study.plan(kwargs={"factor": 1.0}).run(workers=0, progress=False, gaps=True)
    before = study.out.read_bytes()
    with pytest.raises(BlocksFailed):  # tried once more, and the result stays
        study.plan(kwargs={"factor": 1.0}).run(workers=0, progress=False, keep_done=True)
    assert study.out.read_bytes() == before
    if mended:
        study.edit(MENDED)
    else:
        (study.folder / "bad").unlink()
    done = study.plan(kwargs={"factor": 1.0}).run(workers=0, progress=False, keep_done=True)
    assert (done.blocks, done.computed, done.gaps) == (5, 2, 0)
    if mended:
        check_mixed(study.out, expected(), [0, 1, 0, 0, 1])
    else:  # the result of one function, like any other
        check(study.out, expected(after=2.0))
    assert hpcio.Plan.load(study.out).run(workers=0, progress=False).computed == 0


def test_gaps_of_one_file_are_refused(study):
    study.plan(writer="direct").run(workers=0, progress=False, gaps=True)
    before = study.out.read_bytes()
    study.edit(MENDED)
    with pytest.raises(OutputError, match=r"one file.*not written again.*--fresh"):
        study.plan(writer="direct").run(workers=0, progress=False, keep_done=True)
    assert study.out.read_bytes() == before


def test_one_file_of_several_functions_stays_as_it_is(study):
    study.fail()
    study.edit(MENDED)
    study.plan().run(workers=0, progress=False, keep_done=True)
    hpcio.repack(study.out)
    with pytest.raises(OutputError, match="has 3 trials kept from an earlier function"):
        study.plan().run(workers=0, progress=False, keep_done=True)


def test_an_average_keeps_whole_groups(study):
    options = {"keeptrials": False, "reduce": "sum"}
    study.fail(**options)
    study.edit(MENDED)
    study.plan(**options).run(workers=0, progress=False, keep_done=True)
    check_mixed(study.out, expected().reshape(5, 6, 4).sum(axis=0), [0, 1, 0, 0, 1])


def test_nothing_was_done_or_all_was(study):
    study.edit(FIRST.replace("if trial[0, 0] in SICK", "if True"))
    study.fail()
    study.edit(MENDED)
    study.plan().run(workers=0, progress=False, keep_done=True)  # an ordinary result
    with hpcio.open(study.out) as f:
        assert (f["data"][()] == expected(())).all()
        assert "functions" not in f.attrs
    study.edit(MENDED.replace("3", "4"))
    with pytest.warns(HpcioWarning, match="stays as it was computed. Since then: The function"):
        done = study.plan().run(workers=0, progress=False, keep_done=True)
    assert done.computed == 0
    with hpcio.open(study.out) as f:
        assert (f["data"][()] == expected(())).all()


def test_nothing_else_may_differ(study):
    study.fail()
    study.edit(MENDED)
    with pytest.raises(PlanError, match=r"other .*shape or type.*function or arguments alone"):
        study.plan(out_dtype="f4").run(workers=0, progress=False, keep_done=True)
    with pytest.raises(OptionError, match="Leave out exists"):
        study.plan().run(workers=0, progress=False, keep_done=True, fresh=True)


def test_a_result_that_was_damaged_is_computed_by_what_there_is_now(study):
    study.fail(sources="trial")
    for path in (study.out.parent / "out.h5.run/sources").rglob("0000002-*.h5"):
        path.unlink()
    study.edit(MENDED)
    study.plan(sources="trial").run(workers=0, progress=False, keep_done=True)
    check_mixed(study.out, expected((0, 3)), [0, 1, 1, 0, 1])


def test_a_function_by_its_value(tmp_path):
    """A loaded plan has it as it was pickled, and says so; a plan that is made anew has the new."""
    source, out = record(tmp_path / "rec.h5", LFP[:30]), tmp_path / "out.h5"
    sick = [float(LFP[6 * k, 0]) for k in SICK]

    def work(trial):
        if trial[0, 0] in sick:
            raise ValueError("cannot do this one")
        return trial * 2

    with pytest.raises(BlocksFailed, match=r"plan again, and plan\.run\(keep_done=True\)"):
        Plan.create(work, source, trials=6, out=out).run(workers=0, progress=False)
    with (
        pytest.warns(HpcioWarning, match="kept in the plan by its value"),
        pytest.raises(BlocksFailed),
    ):
        Plan.load(out).run(workers=0, progress=False, keep_done=True)

    def work(trial):
        return trial * 3

    Plan.create(work, source, trials=6, out=out).run(workers=0, progress=False, keep_done=True)
    check_mixed(out, expected(), [0, 1, 0, 0, 1])


def test_a_finished_result_is_not_that_of_a_function_by_its_value(tmp_path):
    source, out = record(tmp_path / "rec.h5", LFP[:30]), tmp_path / "out.h5"
    for factor in (2, 3):

        def work(trial, _factor=factor):
            return trial * _factor

        plan = Plan.create(work, source, trials=6, out=out)
        if factor == 2:
            plan.run(workers=0, progress=False)
    with pytest.warns(HpcioWarning, match="All 5 trials .* nothing is computed"):
        assert plan.run(workers=0, progress=False, keep_done=True).computed == 0
    check(out, LFP[:30] * 2)


@pytest.mark.parametrize("mended", [True, False], ids=["mended", "as it was"])
def test_kept_results_are_of_the_versions_that_computed_them(study, mended):
    """A package is another one by the time that gaps are filled."""
    package = study.folder / "site-packages" / "fakelib"
    package.mkdir(parents=True)

    def install(version: str) -> None:
        text = f"__version__ = {version!r}\n\ndef doubled(x):\n    return 2 * x\n"
        (package / "__init__.py").write_text(text)

    install("1.0")
    study.edit("import fakelib\n" + FIRST.replace("trial * 2", "fakelib.doubled(trial)"))
    run = f"PYTHONPATH={package.parent} PYTHONDONTWRITEBYTECODE=1 hpcio"
    options = "--out-shape 6,4 --out-dtype f8 --workers 0 --gaps"
    done = study.shell(f"{run} run mine.py:work {study.source} --trials 6 --out out.h5 {options}")
    assert done.returncode == 0, done.stderr
    install("2.0")
    (study.folder / "bad").unlink()
    if mended:
        text = (study.folder / "mine.py").read_text()
        (study.folder / "mine.py").write_text(text.replace("factor\n", "factor + 0\n"))
    done = study.shell(f"{run} resume out.h5 --keep-done --workers 0")
    assert done.returncode == 0, done.stderr
    assert "fakelib 1.0 (now 2.0)" in done.stderr
    with hpcio.open(study.out) as f:
        said = json.loads(f.attrs["versions_of_blocks"])
        assert [(g["blocks"], g["versions"]["fakelib"]) for g in said] == [(3, "1.0"), (2, "2.0")]


def test_a_column_of_that_name_stays(study):
    trials = hpcio.Trials.read(6, rows=30).with_columns(function=["a", "b", "c", "d", "e"])
    options = {"out": study.out, "out_shape": (6, 4), "out_dtype": "f8"}
    func = f"{study.folder}/mine.py:work"
    with pytest.raises(BlocksFailed):
        Plan.create(func, study.source, trials=trials, **options).run(workers=0, progress=False)
    study.edit(MENDED)
    plan = Plan.create(func, study.source, trials=trials, **options)
    plan.run(workers=0, progress=False, keep_done=True)
    found = hpcio.Trials.read(study.out)
    assert found["function"].tolist() == ["a", "b", "c", "d", "e"]
    assert found["function_"].tolist() == [0, 1, 0, 0, 1]


# ---------------------------------------------------------------------- a script is run twice


def test_what_is_there_is_refused_or_computed_anew(study):
    study.edit(MENDED)
    study.plan().run(workers=0, progress=False, exists="error")
    with pytest.raises(OutputError, match=r"out.h5' exists. Choose another output, or say"):
        study.plan().run(workers=0, progress=False, exists="error")
    assert study.plan().run(workers=0, progress=False).computed == 0
    assert study.plan().run(workers=0, progress=False, exists="fresh").computed == 5
    with pytest.raises(OptionError, match=r"exists='new' is unknown"):
        study.plan().run(workers=0, progress=False, exists="new")
    with pytest.raises(OptionError, match="give exists alone"):
        study.plan().run(workers=0, progress=False, exists="error", fresh=True)


def test_an_unfinished_run_is_refused_too(study):
    study.fail()
    with pytest.raises(OutputError, match="exists"):
        study.plan().run(workers=0, progress=False, exists="error")


def test_the_shell_is_called_twice(study):
    study.edit(MENDED)
    run = f"hpcio run mine.py:work {study.source} --trials 6 --out out.h5 --workers 1"
    first, second = study.shell(run), study.shell(run)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "5 trials" in first.stdout
    assert "done already" in second.stdout
    refused = study.shell(f"{run} --exists error")
    assert refused.returncode != 0
    assert "exists" in refused.stderr
    assert study.shell(f"{run} --exists fresh").returncode == 0
    both = study.shell(f"{run} --exists error --fresh")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr
