"""The same plan works from wherever Python is started, and however the function is made."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

import hpcio
from hpcio.watching.watcher import status
from tests.rigs.bench import ROWS, TRIALS, record
from tests.rigs.support import ended, run
from tests.rigs.waiting import PATIENCE

# Every way in ends with these lines, and all must give the same numbers.
RUN = f"""
import hpcio
plan = hpcio.Plan.create(function, "rec.h5::/lfp", trials={ROWS}, out="out.h5")
print(plan.run(workers=1, progress=False))
"""

SCRIPT = (
    """
import numpy as np

FACTOR = 2.0

def helper(trial):
    return FACTOR * trial

def function(trial):
    return helper(np.asarray(trial))
"""
    + RUN
)

MODULE = """
FACTOR = 2.0

def helper(trial):
    return FACTOR * trial

def function(trial, chunkShape=None, noCompute=None):
    return (trial.shape, trial.dtype) if noCompute else helper(trial)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    record(tmp_path / "rec.h5")
    return tmp_path


def check(folder: Path, *, pickled: bool, out: str = "out.h5") -> None:
    with hpcio.open(folder / out) as f:
        np.testing.assert_array_equal(f["data"][...], 2.0 * source(folder))
    state = status(str(folder / out))
    assert (state.done, state.blocks, state.published) == (TRIALS, TRIALS, True)
    assert state.pickled == pickled


def source(folder: Path) -> np.ndarray:
    return record(folder / "again.h5")


def python(folder: Path, *args: str, stdin: str | None = None, runs: int = 1) -> None:
    child = subprocess.Popen(
        [sys.executable, *args], cwd=folder, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with ended(child):
        out, err = child.communicate(stdin, timeout=PATIENCE)
        assert child.returncode == 0, err
    # Once for each run: no worker has run the script again.
    assert out.startswith(f"{TRIALS} trials in ")
    assert out.count(f"{TRIALS} trials in ") == out.count("\n") == runs


def test_a_script_without_a_guard(folder):
    (folder / "script.py").write_text(SCRIPT)
    python(folder, "script.py")
    check(folder, pickled=True)


def test_a_script_in_another_folder(folder):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "script.py").write_text(f"from mine import function\n{RUN}")
    (folder / "deep" / "er" / "mine.py").write_text(MODULE)
    python(folder, "deep/er/script.py")
    check(folder, pickled=False)


def test_standard_input(folder):
    python(folder, "-", stdin=SCRIPT)
    check(folder, pickled=True)


def test_a_command_in_the_shell(folder):
    python(folder, "-c", SCRIPT)
    check(folder, pickled=True)


def test_an_interactive_session(folder):
    code = textwrap.dedent(SCRIPT).replace("\ndef ", "\n\ndef ").replace("trial\n\n", "trial\n\n\n")
    child = subprocess.run(
        [sys.executable, "-i", "-q"], cwd=folder, text=True, input=code, timeout=PATIENCE,
        capture_output=True, check=False,
    )  # fmt: skip
    assert f"{TRIALS} trials in " in child.stdout, child.stderr
    check(folder, pickled=True)


@pytest.mark.parametrize("name", ["package.task", "package"])
def test_a_module_run_as_a_program(folder, name):
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / ("task.py" if name == "package.task" else "__main__.py")).write_text(SCRIPT)
    python(folder, "-m", name)
    check(folder, pickled=True)


@pytest.mark.parametrize(
    "how", ["import mine; function = mine.function", "from mine import function as function",
            "function = 'mine:function'", "function = 'mine.py:function'"],
)  # fmt: skip
def test_a_module_beside_the_script(folder, how):
    (folder / "mine.py").write_text(MODULE)
    (folder / "script.py").write_text(how + RUN)
    python(folder, "script.py")
    check(folder, pickled=False)
    assert status(str(folder / "out.h5")).function == "mine:function"


MADE = {
    "lambda": "function = lambda trial: 2.0 * trial",
    "partial": "import functools, numpy\nfunction = functools.partial(numpy.multiply, 2.0)",
    "partial of the script": (
        "import functools\ndef times(trial, by):\n    return by * trial\n"
        "function = functools.partial(times, by=2.0)"
    ),
    "closure": (
        "def times(by):\n    def inner(trial):\n        return by * trial\n    return inner\n"
        "function = times(2.0)"
    ),
    "callable": (
        "class Times:\n    def __init__(self, by):\n        self.by = by\n"
        "    def __call__(self, trial):\n        return self.by * trial\n"
        "function = Times(2.0)"
    ),
    "callable that compares": (
        "import dataclasses\n@dataclasses.dataclass\nclass Times:\n    by: float\n"
        "    def __call__(self, trial):\n        return self.by * trial\n"
        "function = Times(2.0)"
    ),
    "method": (
        "class Times:\n    by = 2.0\n    def apply(self, trial):\n        return self.by * trial\n"
        "function = Times().apply"
    ),
    "decorated": (
        "import hpcio\n@hpcio.unwrap_io\ndef function(trial, chunkShape=None, noCompute=None):\n"
        "    return (trial.shape, trial.dtype) if noCompute else 2.0 * trial"
    ),
    "decorated by one's own": (
        "import functools\ndef same(f):\n    @functools.wraps(f)\n    def inner(*a, **k):\n"
        "        return f(*a, **k)\n    return inner\n"
        "@same\ndef function(trial):\n    return 2.0 * trial"
    ),
    "recursion": (
        "def function(trial, depth=3):\n"
        "    return 2.0 * trial if depth == 0 else function(trial, depth - 1)"
    ),
}


def test_functions_of_the_script_however_they_are_made(folder):
    # One after the other by one script, which names each of them `function`.
    outs = [f"{number}.h5" for number in range(len(MADE))]
    runs = [RUN.replace("out.h5", out) for out in outs]
    code = [f"{made}\n{run}" for made, run in zip(MADE.values(), runs, strict=True)]
    python(folder, "-c", "\n".join(code), runs=len(code))
    for out in outs:
        check(folder, pickled=True, out=out)


@pytest.mark.parametrize("name", ["lambda", "closure"])
def test_functions_of_a_module_however_they_are_made(folder, name):
    (folder / "mine.py").write_text(MADE[name])
    python(folder, "-c", "from mine import function" + RUN)
    check(folder, pickled=True)


def test_what_a_pickled_function_uses_is_imported_by_the_workers(folder):
    (folder / "mine.py").write_text(MODULE)
    python(folder, "-c", f"import mine\nfunction = lambda trial: mine.helper(trial){RUN}")
    check(folder, pickled=True)


def test_a_function_of_numpy_is_found_by_name(folder):
    python(folder, "-c", f"import numpy\nfunction = numpy.abs{RUN}")
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_array_equal(f["data"][...], np.abs(source(folder)))


# Modules of the user, named like one that is installed beside hpcio or that workers use.
NAMES = [
    "signal_utils", "numpy_helper", "local", "chunks", "tests", "benchmarks", "slurm", "pytest",
]  # fmt: skip


def test_names_that_exist_elsewhere(folder):
    # One after the other by one script; each has a worker of its own.
    code = ""
    for name in NAMES:
        (folder / f"{name}.py").write_text(MODULE)
        code += f"from {name} import function\n{RUN.replace('out.h5', f'{name}.h5')}\n"
    python(folder, "-c", code, runs=len(NAMES))
    for name in NAMES:
        check(folder, pickled=False, out=f"{name}.h5")


def test_files_that_hide_a_standard_module_do_not_reach_the_workers(folder):
    for name in ("json", "selectors", "socket", "h5py", "numpy", "hpcio"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "script.py").write_text(SCRIPT)
    python(folder, "scripts/script.py")
    check(folder, pickled=True)


def test_arguments_of_the_script(folder):
    script = """
import dataclasses, numpy as np, hpcio

@dataclasses.dataclass
class Setting:
    by: float

def function(trial, setting, offset, table=None):
    return setting.by * trial + offset - table["zero"]
"""
    call = (
        RUN.replace('out="out.h5"', 'out="out.h5", args=(Setting(2.0), offset), kwargs=more')
        .replace("plan =", f"offset = hpcio.per_trial(np.arange({TRIALS}.0))\nplan =")
        .replace("plan =", "more = {'table': {'zero': 0}}\nplan =", 1)
    )
    python(folder, "-c", script + call)
    each = np.repeat(np.arange(float(TRIALS)), ROWS)[:, None]
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_array_equal(f["data"][...], 2.0 * source(folder) + each)


def test_a_changed_module_is_refused_when_the_run_goes_on(folder):
    (folder / "mine.py").write_text(MODULE)
    plan = f"from mine import function\n{RUN}".rpartition("print")[0]
    plan += "from hpcio.journals import rundir; rundir.prepare(plan)\n"
    run(plan, folder)
    (folder / "mine.py").write_text(MODULE.replace("helper(trial)\n", "3.0 * trial\n"))
    go_on = "import hpcio\nhpcio.Plan.load('out.h5').run(workers={})\n"
    for workers in (0, 2):
        with pytest.raises(AssertionError, match="'mine:function' has changed since the plan"):
            run(go_on.format(workers), folder)
    (folder / "mine.py").write_text(MODULE)
    run(go_on.format(2), folder)
    check(folder, pickled=False)


@pytest.mark.parametrize("where", ["cell", "module"])
def test_a_notebook(folder, where, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(folder / name))
    (folder / "mine.py").write_text(MODULE)
    if where == "cell":
        cells = ["FACTOR = 2.0", "def function(trial):\n    return FACTOR * trial", RUN]
    else:
        cells = ["import mine", "function = mine.function", RUN]
    # The cells are run again, as people do: the same function is the same plan.
    cells += [*cells[:2], "plan = hpcio.Plan.load('out.h5')\nprint(plan.run())"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(
        notebook, timeout=int(PATIENCE), kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()  # fmt: skip
    printed = notebook.cells[2].outputs[0]["text"]
    assert printed.startswith(f"{TRIALS} trials in ")
    check(folder, pickled=where == "cell")


HIDING = ("cloudpickle", "rich", "hdf5plugin", "tomllib", "csv", "sqlite3", "matplotlib")
# Beside it lie a helper that it imports at once, and one that it imports when it is called.
MINE = """
import helper
import wave

def func(trial):
    import late
    return helper.BY * late.BY * trial
"""


@pytest.mark.parametrize(
    ("function", "workers"), [("numpy:negative", "1"), ("mine:func", "0"), ("mine.py:func", "1")]
)
def test_files_in_the_folder_at_hand_hide_nothing_from_the_command(folder, function, workers):
    for name in HIDING:
        (folder / f"{name}.py").write_text(f"open('hidden', 'a').write('{name} ')")
    (folder / "mine.py").write_text(MINE)
    (folder / "helper.py").write_text("BY = -2.0")
    (folder / "late.py").write_text("BY = 0.5")
    (folder / "statistics").mkdir()  # no package, but a folder
    for words in (
        ("run", function, "rec.h5::lfp", "--trials", "20", "--out", "out.h5", "--compression",
         "zstd", "--workers", workers),
        ("status", "out.h5"),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "hpcio", *words], cwd=folder, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert not (folder / "hidden").exists(), (folder / "hidden").read_text()
    with hpcio.open(folder / "out.h5") as f:
        np.testing.assert_array_equal(f["data"][...], -source(folder))
