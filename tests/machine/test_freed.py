"""Memory that is kept where malloc was told not to; what else it was told is left alone."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

COUNTED = """
import resource
import numpy as np
from hpcio.machine import giving_back_freed, keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(1 << 17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
keep_freed()
faults()
kept = faults()
with giving_back_freed():
    pass
print(kept, faults())
"""
PAGES = 10 * (1 << 20) // resource.getpagesize()


def counted(**variables: str) -> tuple[int, int]:
    said = subprocess.check_output([sys.executable, "-c", COUNTED], env=variables, text=True)
    kept, given_back = map(int, said.split())
    return kept, given_back


@pytest.mark.parametrize("told", ["65536", "0", "-1"])
def test_what_was_told_holds_again_afterwards(told):
    kept, given_back = counted(MALLOC_TRIM_THRESHOLD_=told)
    assert kept < PAGES / 10
    assert given_back >= PAGES


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_TRIM_THRESHOLD_": "x"},
        {"MALLOC_TRIM_THRESHOLD_": ""},
        {"MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
        {"MALLOC_TRIM_THRESHOLD_": str(1 << 80)},
        {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"},
        {},
    ],
)
def test_what_else_malloc_was_told_is_left_alone(variables):
    kept, given_back = counted(**variables)
    assert (kept >= PAGES) == (given_back >= PAGES)
