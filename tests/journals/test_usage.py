"""What processes were allowed and took: kept, read back, and made into the next request."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import OutputError, PlanError
from hpcio.journals import usage
from hpcio.journals.rundir import discard, prepare
from hpcio.journals.usage import Usage
from tests.rigs.support import run

USED = Usage(
    label="123_4", memory_asked=4_000_000_000, memory_peak=1_234_567_890, walltime_asked=3600.0,
    seconds=1234.5, cpus_asked=4, cpu_seconds=2345.6,
)  # fmt: skip


@pytest.fixture
def plan(tmp_path) -> hpcio.Plan:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.ones((10, 2))
    return prepare(
        hpcio.Plan.create(np.negative, f"{tmp_path}/rec.h5::/lfp", trials=5, out=tmp_path / "o.h5")
    )


# ---- keeping


def test_what_is_written_is_read(plan):
    assert usage.read_usage(plan) == ((), ())
    free = Usage("here", None, 10**8, None, 5, None, 0)
    usage.write_usage(plan, "here-00000001", free)
    usage.write_usage(plan, "123_4-00000002", USED)
    assert usage.read_usage(plan) == ((USED, free), ())  # in the order of the names of attempts
    later = replace(USED, seconds=2000.0)
    usage.write_usage(plan, "123_4-00000002", later)
    assert usage.read_usage(plan) == ((later, free), ())


def test_files_are_as_announced(plan):
    usage.write_usage(plan, "123_4-00000002", USED)
    folder = plan.run_directory / "usage"
    assert [path.name for path in folder.iterdir()] == ["123_4-00000002.json"]
    assert json.loads((folder / "123_4-00000002.json").read_text()) == asdict(USED)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_usage_goes_with_its_run(plan):
    usage.write_usage(plan, "123_4-00000002", USED)
    prepare(plan)
    discard(plan.out)
    assert not plan.run_directory.exists()


def test_usage_that_cannot_be_written_says_so(plan):
    (plan.run_directory / "usage").write_text("in the way")
    with pytest.raises(OutputError, match=r"usage/123_4\.json"):
        usage.write_usage(plan, "123_4", USED)


BAD_VALUES = {
    "label": [None, 5],
    "memory_asked": [0, -1, 4e9, True, "4GB"],
    "memory_peak": [None, -1, 1.5, True, "1", [1]],
    "walltime_asked": [0, -5.0, float("nan"), float("inf"), "01:00:00"],
    "seconds": [None, -1e-9, float("nan"), False],
    "cpus_asked": [0, 1.0, "1"],
    "cpu_seconds": [None, float("inf"), {}],
}
BAD = [(name, value) for name, values in BAD_VALUES.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_that_make_no_sense(plan, name, value):
    with pytest.raises(PlanError, match=f"'{name}' is "):
        replace(USED, **{name: value})
    usage.write_usage(plan, "good", USED)
    path = plan.run_directory / "usage" / "bad.json"
    path.write_text(json.dumps({**asdict(USED), name: value}))
    usages, (damage,) = usage.read_usage(plan)
    assert usages == (USED,)
    assert damage.name == "bad.json"
    assert damage.why.startswith(f"'{name}' is ")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Expecting value"),
        (b'{"label": "1', "Unterminated string"),
        (b"[1, 2]", r"holds \[1, 2\] instead of an object"),
        (b"{}", "lacks label, memory_asked, memory_peak, walltime_asked, seconds, cpus_asked"),
        (b"\xff\xfe\x00", "."),
        (b"[" * 100_000, "recursion"),
        (b'{"label": "' + b"x" * 100, "Unterminated"),
    ],
)
def test_damaged_files_are_named_and_raise_nothing(plan, raw, why):
    usage.write_usage(plan, "good", USED)
    (plan.run_directory / "usage" / "bad.json").write_bytes(raw)
    usages, (damage,) = usage.read_usage(plan)
    assert usages == (USED,)
    assert damage.name == "bad.json"
    assert re.search(why, damage.why)


def test_what_is_no_file_is_damage_too(plan):
    usage.write_usage(plan, "good", USED)
    (plan.run_directory / "usage" / "folder.json").mkdir()
    (plan.run_directory / "usage" / ".half.json.1.part").write_text("{")
    usages, (damage,) = usage.read_usage(plan)
    assert usages == (USED,)
    assert damage.name == "folder.json"


def test_what_a_later_version_adds_is_no_damage(plan):
    usage.write_usage(plan, "good", USED)
    path = plan.run_directory / "usage" / "good.json"
    path.write_text(json.dumps({**asdict(USED), "energy": 5}))
    assert usage.read_usage(plan) == ((USED,), ())


# ---- measuring


def test_measure_takes_what_it_is_told():
    started = time.time() - 100
    used = usage.measure_usage(started, "7_1", memory_asked=10**9, walltime_asked=600, cpus_asked=2)
    ended = time.time()
    assert (used.label, used.memory_asked, used.walltime_asked, used.cpus_asked) == (
        "7_1", 10**9, 600, 2,
    )  # fmt: skip
    assert 100 <= used.seconds <= ended - started
    assert (
        usage.measure_usage(time.time() + 3600, "7_1").seconds == 0
    )  # by a clock that was set back


def test_measure_finds_memory_that_was_given_back_and_time_of_children(tmp_path):
    script = """
import json, subprocess, sys, time
import numpy as np
from dataclasses import asdict
from hpcio.journals.usage import measure_usage as measure
before = measure(time.time(), "a")
big = np.ones(50_000_000)  # 400 MB
del big
busy = "import time\\nwhile time.process_time() < 0.5: pass"
subprocess.run([sys.executable, "-c", busy], check=True)
after = measure(time.time(), "a")
inside = (
    "import time, hpcio.journals.usage as u; "
    "print(u.measure_usage(time.time(), 'b').memory_peak)"
)
child = subprocess.run([sys.executable, "-c", inside], check=True, capture_output=True, text=True)
print(json.dumps([asdict(before), asdict(after), int(child.stdout)]))
"""
    before, after, child = json.loads(run(script, tmp_path, env=dict(os.environ)))
    assert before["memory_peak"] < 300e6
    assert 400e6 < after["memory_peak"] < 900e6
    assert after["cpu_seconds"] - before["cpu_seconds"] >= 0.5
    assert child < 300e6  # that of its parent is not its own


# ---- suggesting


@pytest.mark.parametrize("peak", [1.0, 5e7, 8.3e8, 8.4e8, 4.1e9, 9e9, 5e10, 3.3e11])
def test_memory_suggested_is_enough_but_not_too_much(peak):
    asked = usage.memory_to_ask(peak)
    assert 1.2 * peak <= asked <= max(1.2 * peak * 1.5, 1e8)
    assert asked % 10**8 == 0


@pytest.mark.parametrize("longest", [0.0, 10.0, 1000.0, 2399.0, 2401.0, 20_000.0, 200_000.0])
def test_walltime_suggested_is_enough_but_not_too_much(longest):
    asked = usage.walltime_to_ask(longest)
    assert 1.5 * longest <= asked <= max(1.5 * longest * 1.35, 300)
    assert asked % 300 == 0
