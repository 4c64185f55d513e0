"""Whatever goes wrong in a run is said by name, with the remedy, and harms nothing."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import (
    BlocksFailed,
    HpcioError,
    MemoryLimitError,
    OutputError,
    PlanError,
    SourceError,
    WorkerError,
)
from tests.rigs.bad import begun, case, check_error, make
from tests.rigs.bench import record

LIES = {
    "shape": r"shape \(2, 3\), but \(10, 3\) was planned.*out_shape=",
    "rank": r"\(10, 3, 1, 2\), but \(10, 3\) was planned.*out_shape=",
    "type": r"complex128, but float64 was planned.*out_dtype=",
    "narrow": r"float32, but float64 was planned.*out_dtype=",
    "none": r"returned nothing.*Return a numpy array",
    "list": r"returned a list.*Return a numpy array",
    "number": r"shape \(\), but \(10, 3\) was planned",
    "objects": r"array of type object.*Return integers",
    "masked": r"masked array.*filled\(value\)",
    "dates": r"datetime64\[ns\].*Return integers",
    "details": r"detail 'x'.*numbers or strings",
    "three": r"tuple of 3.*\(array, details\)",
    "error": r"ZeroDivisionError: by nothing",
    "exit": r"SystemExit: 3",
}


@pytest.mark.parametrize(("what", "says"), LIES.items(), ids=LIES)
def test_a_function_that_does_not_keep_its_word(folder, what, says):
    plan = make({"func": "bad_functions.py:lies", "args": (what,)})
    with pytest.raises(BlocksFailed, match="6 of 6 trials failed; nothing was published") as info:
        plan.run(workers=0, progress=False)
    assert [f.block for f in info.value.done.failed] == list(range(6))
    assert all(re.search(says, f.reason) for f in info.value.done.failed)
    assert "bad_functions.py" in info.value.done.failed[0].traceback or what != "error"
    check_error(info.value, "trial 0: .*What now:.*try them again, once the cause is gone")
    assert not (folder / "out.h5").exists()
    assert list(folder.glob(".out*")) == []


@pytest.mark.parametrize(
    ("error", "says", "given"),
    [
        case(WorkerError, "workers=-1", "Use 0 or more", workers=-1),
        case(WorkerError, "workers='2'", "Use 0 or more", workers="2"),
        case(WorkerError, "threads=0", "Use 1 or more", threads=0),
        case(WorkerError, "threads=1.5", "Use 1 or more", threads=1.5),
        case(PlanError, "retries='2'", "Use 0 or more", retries="2"),
        case(PlanError, "max_failed=0.5", "Use 0 or more", max_failed=0.5),
        case(PlanError, "executor=4 is none", "workers", executor=4),
        case(PlanError, "'-1' is no size", "4GB", memory=-1),
        case(PlanError, "'much' is no size", "4GB", memory="much"),
        case(PlanError, "retries=-1", "Use 0 or more", retries=-1),
        case(MemoryLimitError, "Trial 0 needs", "Allow at least", memory=1000),
        case(MemoryLimitError, "Trial 0 needs", "Allow at least", memory="50 MB"),
    ],
)
def test_a_run_that_cannot_begin(folder, error, says, given):
    plan = make({})
    with pytest.raises(error) as info:
        plan.run(progress=False, **given)
    check_error(info.value, says)
    assert not (folder / "out.h5").exists()
    assert not (folder / "out.h5.run").exists()


def test_a_trial_that_is_larger_than_what_is_allowed_is_named(folder):
    plan = make({"trials": np.array([[0, 10], [0, 20], [0, 60]]), "out_dtype": "f8"})
    plan = make({"trials": hpcio.Trials.from_array([[0, 5], [0, 60], [0, 20]])})
    with pytest.raises(MemoryLimitError, match="Trial 1 needs"):
        plan.run(workers=1, memory=80 << 20, progress=False)


def lost(path: Path) -> None:
    path.unlink()


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def longer(path: Path) -> None:
    with h5py.File(path, "r+") as f:
        f["more"] = np.zeros(1000)


def replaced(path: Path) -> None:
    path.unlink()
    record(path)


@pytest.mark.parametrize("change", [lost, touched, longer, replaced])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_has_changed_since(folder, change, begun, workers):
    plan = make({"func": "bad_functions.py:lies", "args": ("error",)})
    if begun:
        with pytest.raises(BlocksFailed):
            plan.run(workers=0, progress=False)
    change(folder / "rec.h5")
    with pytest.raises(SourceError) as info:
        plan.run(workers=workers, progress=False)
    check_error(info.value, r"rec\.h5' .*(has changed|cannot be found).*plan")
    assert not (folder / "out.h5").exists()


def test_a_recording_that_is_cut_short_while_the_run_goes_on(folder):
    (folder / "bad_cut.py").write_text(
        "import os\ndef cut(trial, path, size):\n    os.truncate(path, size)\n    return trial\n"
    )
    (folder / "big.h5").unlink(missing_ok=True)
    with h5py.File(folder / "big.h5", "w") as f:
        f["lfp"] = np.zeros((1000, 3))
    path = str(folder / "big.h5")
    plan = make({"func": "bad_cut.py:cut", "args": (path, 6000), "source": f"{path}::lfp",
                 "trials": 100, "out_shape": (100, 3), "out_dtype": "f8"})  # fmt: skip
    for workers in (0, 1):
        os.truncate(path, plan.source.size)
        os.utime(path, ns=(plan.source.mtime_ns, plan.source.mtime_ns))
        with pytest.raises(SourceError) as info:
            plan.run(workers=workers, progress=False)
        check_error(info.value, r"big\.h5'.*(cut short|changed).*plan anew")
    assert not (folder / "out.h5").exists()


def test_an_output_that_appears_meanwhile_is_not_replaced(folder):
    plan = make({})
    (folder / "out.h5").write_text("my thesis")
    with pytest.raises(OutputError) as info:
        plan.run(workers=0, progress=False)
    check_error(info.value, r"out\.h5' exists.*Choose another name")
    (folder / "out.h5").unlink()
    (folder / "bad_late.py").write_text(
        "import pathlib\n\ndef late(trial):\n"
        "    pathlib.Path('out.h5').write_text('my thesis')\n    return trial\n"
    )
    plan = make({"func": "bad_late.py:late", "out_shape": (10, 3), "out_dtype": "f8"})
    with pytest.raises(OutputError) as info:
        plan.run(workers=0, progress=False, fresh=True)
    check_error(info.value, r"out\.h5' has appeared.*Move it away")
    assert (folder / "out.h5").read_text() == "my thesis"
    assert list(folder.glob(".out*")) == []


def test_a_run_directory_that_is_a_file(folder):
    plan = make({})
    (folder / "out.h5.run").write_text("my thesis")
    with pytest.raises(HpcioError, match=r"out\.h5\.run'"):
        plan.run(workers=0, progress=False)
    assert (folder / "out.h5.run").read_text() == "my thesis"


def test_names_too_long_for_the_file_system(folder):
    with pytest.raises(OutputError) as info:
        make({"out": "x" * 300 + ".h5"}).run(workers=0, progress=False)
    check_error(info.value, "xxx.*(too long)")


def test_a_journal_of_another_plan(folder):
    begun(folder)
    folder.joinpath("out.h5.run").rename(folder / "other.h5.run")
    with pytest.raises(BlocksFailed):
        make({"func": "bad_functions.py:lies", "args": ("none",)}).run(workers=0, progress=False)
    for path in (folder / "other.h5.run" / "journal").iterdir():
        shutil.copy(path, folder / "out.h5.run" / "journal")
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5").run(workers=0, progress=False)
    check_error(info.value, r"journal '.*\.jnl' belongs to another plan.*Start over")
