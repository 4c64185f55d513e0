"""Whatever lies where a file of hpcio should lie is read or refused; nothing else happens.

Every reader of a file gets inputs: damaged bytes, and whole files in which some values are others,
with right checksums, so that what is behind the checksums is tried.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.rigs.inputs import Bad
from tests.rigs.readers import tried

# How many inputs the long test tries in all; so many at a time, in a process.
MANY = int(os.environ.get("HPCIO_INPUTS", "1000000"))
EACH = 20_000
# Of a million: what takes a tenth of a second to read gets fewer than what takes a tenth of a
# millisecond. All others get 10 (thousands).
WEIGHTS = {
    **{f"result, bytes: {kind}": 5 for kind in ("virtual", "packed", "one file", "average")},
    **{f"result, structure: {kind}": 2 for kind in ("virtual", "packed", "one file", "average")},
    **dict.fromkeys(("plan, bytes", "plan, structure"), 40),
    **dict.fromkeys(("recording, bytes", "recording, structure"), 40),
    **dict.fromkeys(("offsets", "seams", "usage", "heartbeat", "settings", "trials, text"), 120),
}


def wrong(bad: list[Bad]) -> list[Bad]:
    """What may not be: HDF5 alone may crash or hang, on files that it opens for users."""
    return [b for b in bad if not (b.in_library and b.reader.startswith(("result", "recording")))]


def test_some_inputs(tmp_path):
    found = tried(tmp_path, first=0, count=150)
    assert sum(f["count"] for f in found.values()) >= 120
    assert [b for f in found.values() for b in wrong(f["bad"])] == []


@pytest.mark.torture
def test_many_inputs(tmp_path):
    def some(number: int) -> dict[str, dict]:
        folder = tmp_path / str(number)
        folder.mkdir()
        return tried(folder, first=number * EACH, count=min(EACH, MANY), weights=WEIGHTS)

    count: dict[str, int] = defaultdict(int)
    bad: dict[str, list[Bad]] = defaultdict(list)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done, found in enumerate(pool.map(some, range(max(1, MANY // EACH)))):
            for name, of in found.items():
                count[name] += of["count"]
                bad[name] += of["bad"]
            print(done + 1, "times", EACH, [b for some in bad.values() for b in wrong(some)])
    for name, total in count.items():
        numbers = [b.number for b in bad[name] if b.in_library]
        print(f"{name}: {total} inputs, {len(numbers)} ended HDF5: {numbers[:20]}")
    assert [b for some in bad.values() for b in wrong(some)] == []
