"""A function is another one if anything that it reaches has changed, and only then."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import importlib
import itertools
import pickle
import random
import re
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray

from hpcio.errors import FunctionError
from hpcio.fingerprints import fingerprint

HELPER = """
import numpy as np

SCALE = 2.0
TABLE = {"gain": 1, "taps": [1.0, 2.0]}
UNUSED = 1

def helper(x):
    return x * SCALE

def unrelated():
    return UNUSED

class Filter:
    order = 4

    def __init__(self, taps):
        self.taps = taps

    def __call__(self, x):
        return helper(x) + self.taps[0] + self.order
"""
MODULE = """
import numpy as np
import {helper} as lib
from {helper} import helper, Filter

make = Filter(lib.TABLE["taps"])

def power(trial, gain=1, *, offset=0.0):
    # a comment
    def inner(x):
        return np.abs(helper(x)) * gain
    return inner(trial) + offset + make(trial) + lib.SCALE
"""


class Modules:
    """Modules `main_K` and `helper_K`, imported anew for each text."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count()

    def power(self, main: str = MODULE, helper: str = HELPER):
        """The function `power` of new modules."""
        number = next(self._numbers)
        folder = self._folder / str(number)
        folder.mkdir()
        (folder / "helper_.py").write_text(helper)
        (folder / "main_.py").write_text(main.format(helper="helper_"))
        sys.path.insert(0, str(folder))
        try:
            for name in ("main_", "helper_"):
                sys.modules.pop(name, None)
            return __import__("main_").power
        finally:
            sys.path.remove(str(folder))


@pytest.fixture
def modules(tmp_path):
    yield Modules(tmp_path)
    for name in ("main_", "helper_"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("* gain", "+ gain", "main_.power"),
        ("gain=1,", "gain=2,", "main_.power"),
        ("offset=0.0", "offset=1.0", "main_.power"),
        ("lib.SCALE", "lib.UNUSED", "main_.power"),
        ("trial, gain=1, *,", "trial, *gain,", "main_.power"),
        ("Filter(lib", "Filter(2 * lib", "main_.make"),
    ],
)
def test_a_change_of_the_module_counts(modules, old, new, name):
    before = fingerprint(modules.power())
    assert name in fingerprint(modules.power(MODULE.replace(old, new))).changes(before)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("x * SCALE", "x + SCALE", "helper_.helper"),
        ("SCALE = 2.0", "SCALE = 3.0", "helper_.SCALE"),
        ("[1.0, 2.0]", "[1.0, 2.5]", "main_.make"),
        ("order = 4", "order = 5", "helper_.Filter"),
        ("self.order\n", "self.order + 1\n", "helper_.Filter.__call__"),
        ("class Filter:", "class Filter(dict):", "helper_.Filter"),
        ("def unrelated", "def helper(x):\n    pass\ndef unrelated", "helper_.helper"),
        ("UNUSED = 1\n", "UNUSED = 1\ndef late():\n    global SCALE\n    SCALE = 7\n", None),
        ("class Filter:", "def late():\n    global SCALE\n    SCALE = 7\nlate()\nclass Filter:",
         "helper_.SCALE"),
        ("UNUSED = 1\n", "globals()['SCALE'] = 9\n", "helper_.SCALE"),
        ("def helper(x):", "def helper(x=1):", "helper_.helper"),
    ],
)  # fmt: skip
def test_a_change_of_another_module_counts(modules, old, new, name):
    assert old in HELPER
    before = fingerprint(modules.power())
    changes = fingerprint(modules.power(helper=HELPER.replace(old, new))).changes(before)
    assert (name in changes) if name else not changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("UNUSED = 1", "UNUSED = 2"),
        ("return UNUSED", "return -UNUSED"),
        ("SCALE = 2.0", "# two\nSCALE    =   2.0"),
        ('"gain": 1', '"gain": 3'),
    ],
)
def test_what_it_does_not_reach_does_not_count(modules, old, new):
    before = fingerprint(modules.power())
    after = fingerprint(modules.power(helper=HELPER.replace(old, new)))
    assert not after.changes(before)
    assert after.digest == before.digest


def test_values_that_are_set_later_count(modules):
    power = modules.power()
    before = fingerprint(power)
    sys.modules["helper_"].SCALE = 5.0
    assert fingerprint(power).changes(before) == ["helper_.SCALE"]
    sys.modules["helper_"].SCALE = 2.0
    assert fingerprint(power).digest == before.digest
    sys.modules["main_"].make.taps.append(3)
    assert fingerprint(power).changes(before) == ["main_.make"]


TEXTS = {
    "whole": "import library_.parts\n return library_.parts.half(x) * library_.GAIN\n",
    "renamed": "import library_ as m\n from library_.parts import half\n return half(x) * m.GAIN\n",
    "part": "from library_ import GAIN, parts\n return parts.half(x) * GAIN\n",
}


@pytest.mark.parametrize("how", TEXTS)
def test_what_an_import_inside_gives_counts(tmp_path, monkeypatch, how):
    (tmp_path / "library_").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f"def func(x):\n {TEXTS[how]}"
    found = []
    for gain, factor, unused in ((1, 0.5, 0), (2, 0.5, 0), (1, 0.4, 0), (1, 0.5, 3)):
        (tmp_path / "library_" / "__init__.py").write_text(f"GAIN = {gain}\nUNUSED = {unused}\n")
        (tmp_path / "library_" / "parts.py").write_text(f"def half(x): return x * {factor}\n")
        importlib.invalidate_caches()
        for name in ("library_", "library_.parts"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        found.append(fingerprint(typed(text)))
    before, *after = found
    assert [one.changes(before) for one in after] == [
        ["library_.GAIN"], ["library_.parts.half"], [],
    ]  # fmt: skip


def test_what_was_put_into_a_package_counts(monkeypatch):
    func = typed("def func(x): return np.linalg.norm(x)")
    before = fingerprint(func)
    for other in (lambda x: 0.0, functools.partial(closing(abs), 1), np.linalg.cond, 3.0):
        monkeypatch.setattr(np.linalg, "norm", other)
        assert fingerprint(func).digest != before.digest


def typed(text: str):
    space: dict[str, object] = {"__name__": "__main__", "np": np}
    exec(text, space)
    return space["func"]


TRY = """
def rest(x):
    raise ValueError
def func(x):
    try:
        try:
            y = abs(x)
{}        except ValueError:
            y = 1
{}    except ValueError:
        y = 2
    return y
"""
LINE = "            y = rest(x)\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TRY.format("", "        else:\n" + LINE), TRY.format(LINE, "")),
        ("def func(x, gain): return gain", "def func(x, *gain): return gain"),
        ("def func(x): return x", "async def func(x): return x"),
        ("def func(x, y): return y", "def func(x, *, y): return y"),
        ("def func(x, y): return y", "def func(x, /, y): return y"),
        ("def func(x): return x * 1", "def func(x): return x * 1.0"),
        ("def func(x): return x * 0.0", "def func(x): return x * -0.0"),
        ("def func(x): return x * True", "def func(x): return x * 1"),
        ("def func(x): return x in {1, 2}", "def func(x): return x in {1, 3}"),
        ("func = lambda x: [y for y in x]", "func = lambda x: [-y for y in x]"),
        ("func = (lambda k: lambda x: x * k)(1)", "func = (lambda k: lambda x: x * k)(2)"),
        ("def func(x): return x\nfunc.k = 1", "def func(x): return x\nfunc.k = 2"),
        ("def func(x): return np.sin(x)", "def func(x): return np.cos(x)"),
        ("import math\ndef func(x): return math.sin(x)", "import math\ndef func(x): return abs(x)"),
        ("def func(x):\n import json\n return json.dumps(x)",
         "def func(x):\n import pickle as json\n return json.dumps(x)"),
        ("class K: a = 1\ndef func(x): return K.a", "class K: a = 2\ndef func(x): return K.a"),
        ("P = []\nP.append(1)\ndef func(x): return P",
         "P = []\nP.append(2)\ndef func(x): return P"),
        ("from toolz import compose\nfunc = compose(lambda x: x * 2, abs)",
         "from toolz import compose\nfunc = compose(lambda x: x * 3, abs)"),
        ("def func(x): return np.linalg.norm(x)", "def func(x): return np.linalg.cond(x)"),
        ("import enum\nclass K(enum.Enum): A = 1\nK.A.gain = 1\ndef func(x): return K.A.gain",
         "import enum\nclass K(enum.Enum): A = 1\nK.A.gain = 2\ndef func(x): return K.A.gain"),
        ("class K: a: 1\ndef func(x): return K.__annotations__['a']",
         "class K: a: 2\ndef func(x): return K.__annotations__['a']"),
        ("def func(x):\n import math as m\n return m.sin(x)",
         "def func(x):\n import cmath as m\n return m.sin(x)"),
        ("import pandas as pd\n@pd.option_context('display.precision', 1)\ndef func(x): return x",
         "import pandas as pd\n@pd.option_context('display.precision', 2)\ndef func(x): return x"),
        ("import functools\nclass K:\n @functools.cached_property\n def gain(self): return 1\n"
         "k = K()\nk.gain = 2\ndef func(x): return k.gain",
         "import functools\nclass K:\n @functools.cached_property\n def gain(self): return 1\n"
         "k = K()\nk.gain = 3\ndef func(x): return k.gain"),
    ],
)  # fmt: skip
def test_functions_that_do_different_things_differ(one, other):
    assert fingerprint(typed(one)).digest != fingerprint(typed(other)).digest
    assert fingerprint(typed(one)).digest == fingerprint(typed("\n# moved\n\n" + one)).digest


@dataclasses.dataclass
class Settings:
    low: float = 1.0
    names: list[str] = dataclasses.field(default_factory=lambda: ["a"])


class Kind(enum.Enum):
    LEFT = 1
    RIGHT = 2


Pair = namedtuple("Pair", "a b")
around: list[object] = [1]
around.append(around)


def closing(over):
    return lambda x: over(x) + 1


class Electrode:
    def __init__(self, place):
        self.place, self.neighbours = place, []


def grid(n):
    """Each knows its neighbours, so that there are very many ways through them."""
    found = {(x, y): Electrode((x, y)) for x in range(n) for y in range(n)}
    for (x, y), one in found.items():
        for dx, dy in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            if (x + dx, y + dy) in found:
                one.neighbours.append(found[x + dx, y + dy])
    return found[0, 0]


def twice(levels):
    found: object = [np.float32(1)]
    for _ in range(levels):
        found = [found, found]
    return found


VALUES = [
    {"a": [1, 2.5], "b": {"x", "y", "zz"}},
    frozenset({("a", 1), ("b", 2)}),
    np.arange(6.0).reshape(2, 3).T,
    np.array([1, "a", None], object),
    np.array([(1, 2.0)], [("n", "i4"), ("x", "f8")]),
    np.array(["a", "bc"]),
    np.random.default_rng(3),
    random.Random(3),
    re.compile("x+"),
    Settings(2.0, ["b"]),
    Kind.LEFT,
    Pair(1, [2]),
    functools.partial(np.sum, axis=1),
    np.sum,
    np.add,
    "ä" * 3,
    slice(1, 2),
    range(4),
    around,
    Settings,
    np.float32(1),
    np.dtype("f4"),
    closing(np.tanh),
    grid(8),
    twice(60),
    {(1, 2), (3, 4)},
    {closing(np.cos), closing(np.sin)},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_it_survives_pickling(value):
    once = pickle.loads(cloudpickle.dumps(value))
    twice = pickle.loads(cloudpickle.dumps(once))
    assert not fingerprint(once).changes(fingerprint(value))
    assert fingerprint(twice).digest == fingerprint(once).digest
    assert not fingerprint(value).unseen


def test_no_two_of_many_values_are_one():
    digests = [fingerprint(value).digest for value in VALUES]
    assert len(set(digests)) == len(VALUES)


MORE_NAMES = """
import ctypes

def notch(at):
    return lambda x: x - at

NAMES = {'a', 'b', 'c', 'd', *(notch(at) for at in range(20)), ctypes.CDLL(None)}
"""
FROM_ANOTHER = """
import sys
from hpcio.fingerprints import fingerprint
import power_module
print(fingerprint(power_module.power).digest)
"""


def test_it_is_the_same_in_every_process(tmp_path):
    (tmp_path / "helper_.py").write_text(HELPER + MORE_NAMES)
    text = MODULE.format(helper="helper_") + "\ndef other(x):\n    return x in lib.NAMES\n"
    (tmp_path / "power_module.py").write_text(text.replace("+ lib.SCALE", "+ other(lib.SCALE)"))
    said = {
        subprocess.run(
            [sys.executable, "-c", FROM_ANOTHER], cwd=tmp_path, check=True, capture_output=True,
            env={"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(3)
    }  # fmt: skip
    assert len(said) == 1


LAZY = """
import sys
import numpy as np
from hpcio.fingerprints import fingerprint
if sys.argv[1] == "loaded":
    import numpy.ma, numpy.testing
space = {"__name__": "__main__", "np": np}
exec("def func(x): return np.ma.array(x), np.testing.measure", space)
print(fingerprint(space["func"]).digest)
"""


def test_what_a_package_loads_late_is_the_same_before(tmp_path):
    said = {subprocess.check_output([sys.executable, "-c", LAZY, how]) for how in ("", "loaded")}
    assert len(said) == 1


lock = threading.Lock()
rng = np.random.default_rng(1)


def locks(x):
    with lock:
        return x


def draws(x):
    return x + rng.normal()


def evaluates(x):
    return eval("x + 1")  # noqa: S307


def test_what_it_cannot_see_is_said():
    (said,) = fingerprint(locks).unseen
    assert said == f"{__name__}.lock: a _thread.lock cannot be looked into"
    (said,) = fingerprint(evaluates).unseen
    assert said == f"{__name__}.evaluates: it calls eval(), and what that reaches is not seen"
    assert fingerprint(draws).generators == (f"{__name__}.rng",)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import importlib\ndef func(x): return importlib.import_module(x)", "import_module()"),
        ("import runpy\ndef func(x): return runpy.run_path(x)", "run_path()"),
        ("do = exec\ndef func(x): return do(x)", "exec()"),
        ("import builtins\ndef func(x): return builtins.eval(x)", "eval()"),
        ("import sys\ndef func(x): return sys.modules['x']", "sys.modules"),
        ("def func(x): return int.__subclasses__()", "__subclasses__"),
        ("func = np.frompyfunc(lambda x: x, 1, 1)", "the universal function"),
        ("from numpy.random import normal\ndef func(x): return normal()", "that all of Python"),
        ("def func(x): return np.random.normal()", "that all of Python"),
        ("import random\ndef func(x): return random.gauss(0, 1)", "that all of Python"),
    ],
)
def test_what_it_cannot_see_behind_a_name_is_said(text, what):
    (said,) = fingerprint(typed(text)).unseen
    assert what in said


@pytest.mark.parametrize(
    "text",
    [
        "def func(x):\n np.random.seed(1)\n return np.random.normal()",
        "import random\ndef func(x):\n random.seed(1)\n return random.gauss(0, 1)",
        "from numpy.random import seed, normal\ndef func(x):\n seed(1)\n return normal()",
        "def func(x): return np.random.default_rng(1).normal()",
    ],
)
def test_whoever_seeds_a_common_generator_may_draw(text):
    assert not fingerprint(typed(text)).unseen


def test_draws_from_a_common_generator_make_no_other_function():
    func = typed("from numpy.random import normal\ndef func(x): return normal()")
    before = fingerprint(func).digest
    np.random.normal()  # noqa: NPY002
    assert fingerprint(func).digest == before


class Steps(enum.Flag):
    ONE = 1
    TWO = 2


class Spectrum:
    pass


@functools.singledispatch
def kind_of(x):
    return "any"


@kind_of.register
def _(x: collections.abc.Sized):
    return "sized"


@pytest.mark.parametrize(
    ("value", "use"),
    [
        (Steps, lambda steps: steps(3)),
        (np.vectorize(abs, otypes=["f8"]), lambda func: func([1.0, 2.0])),
        (functools.cache(abs), lambda func: func(1)),
        (kind_of, lambda _: collections.abc.Sized.register(Spectrum)),
        (kind_of, lambda func: func([])),
        (np.ma.array([1, 2], mask=[0, 1]), lambda array: array.sum()),
        (scipy.sparse.csr_matrix([[0, 1]]), lambda array: array @ array.T),
        (xarray.Dataset({"v": ("t", [1, 3])}), repr),
        (pd.DataFrame({"a": [1, 2]}), lambda frame: frame.describe()),
    ],
)
def test_what_is_kept_for_the_next_call_does_not_count(value, use):
    before = fingerprint(value)
    use(value)
    assert not fingerprint(value).changes(before)


def test_what_is_nested_too_deeply_is_refused():
    found: list[object] = [None]
    for _ in range(30_000):
        found = [found]
    with pytest.raises(FunctionError, match="nested too deeply"):
        fingerprint(found)


def test_packages_are_taken_by_their_version():
    found = fingerprint(draws)
    assert found.packages["numpy"] == np.__version__
    assert set(found.parts) == {"", f"{__name__}.draws", f"{__name__}.rng"}


def test_bytecode_of_another_text_is_refused(tmp_path, monkeypatch):
    import os
    import py_compile

    path = tmp_path / "stale_.py"
    path.write_text("def func(x):\n    return x * 2\n")
    os.utime(path, (1e9, 1e9))
    py_compile.compile(str(path))
    path.write_text("def func(x):\n    return x * 3\n")
    os.utime(path, (1e9, 1e9))
    monkeypatch.syspath_prepend(str(tmp_path))
    func = importlib.import_module("stale_").func
    assert func(1) == 2  # Python itself does not notice
    with pytest.raises(FunctionError, match=r"bytecode of .*stale_.py' is that of another text"):
        fingerprint(func)
    del sys.modules["stale_"]
