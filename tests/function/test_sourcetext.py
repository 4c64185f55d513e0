"""A function is another one if anything that it uses of its module has changed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcio.function.sourcetext import text_digest

MODULE = """
import numpy as np

SCALE = 2.0
UNUSED = 1

def helper(x):
    return x * SCALE

class Kept:
    pass

def unrelated():
    return UNUSED

def power(trial, gain=1):
    # a comment
    return np.abs(helper(trial)) * gain
"""


@pytest.fixture
def digest(tmp_path: Path):
    count = 0

    def of(text: str) -> str:
        nonlocal count
        count += 1
        path = tmp_path / f"module_{count}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        # inspect looks a function's module up by its name.
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
            return text_digest(module.power)
        finally:
            del sys.modules[path.stem]

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* gain", "+ gain"),
        ("gain=1", "gain=2"),
        ("x * SCALE", "x + SCALE"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("import numpy as np", "import math as np\nnp.abs = abs"),
    ],
)
def test_what_it_leads_to_counts(digest, old, new):
    assert digest(MODULE.replace(old, new)) != digest(MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("return UNUSED", "return -UNUSED"),
        ("    pass", "    x = 1"),
        ("SCALE = 2.0", "SCALE    =   2.0  # two"),
    ],
)
def test_the_rest_of_the_module_does_not(digest, old, new):
    assert digest(MODULE.replace(old, new)) == digest(MODULE)


def test_a_built_in_function_has_no_text():
    assert text_digest(len) == ""
    assert text_digest(np.add) == ""
