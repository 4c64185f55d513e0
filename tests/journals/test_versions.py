"""With which versions blocks were computed, from the journals to the result."""

import dataclasses
import json
import os
import platform

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, HpcioWarning
from hpcio.journals import Ledger, computed_by, prepare, read_logs
from hpcio.journals.journal import HEADER, Journal, read_log
from hpcio.reporting import write_page
from hpcio.reporting.account import facts_of
from hpcio.reporting.timeline import read_timeline
from tests.rigs.made import attempt

HERE = {
    "hpcio": hpcio.__version__, "python": platform.python_version(), "numpy": np.__version__,
    "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version,
}  # fmt: skip
WORK = """\
import os
import calib_

def calibrated(trial, ready):
    if trial[0, 0] >= 60 and not os.path.exists(ready):
        raise ValueError("not yet")
    return trial * calib_.gain()
"""


def _install(folder, version):
    package = folder / "site-packages" / "calib_"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(
        f"__version__ = '{version}'\n\ndef gain():\n    return 2.0\n"
    )


@pytest.fixture
def two_versions(tmp_path, monkeypatch):
    """A run of which another version of an installed package has computed the rest."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.arange(100.0)[:, None] * np.ones(2)
    (tmp_path / "calibrated_.py").write_text(WORK)
    _install(tmp_path, "1.0")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path)
    plan = hpcio.Plan.create(
        "calibrated_:calibrated", f"{tmp_path}/rec.h5::/lfp", trials=20, out=tmp_path / "out.h5",
        kwargs={"ready": f"{tmp_path}/ready"}, out_shape=(20, 2), out_dtype="f8",
    )  # fmt: skip
    with pytest.raises(BlocksFailed):
        plan.run(workers=1, progress=False)
    _install(tmp_path, "2.0.rc1")
    (tmp_path / "ready").touch()
    plan.run(workers=1, progress=False)  # this process, which publishes, still has version 1.0
    return plan


def test_a_result_says_with_which_versions_who_computed(two_versions):
    first, second = {"calib_": "1.0", **HERE}, {"calib_": "2.0.rc1", **HERE}
    with hpcio.open(two_versions.out) as f:
        assert json.loads(f.attrs["versions"]) == first
        assert json.loads(f.attrs["versions_of_blocks"]) == [
            {"blocks": 3, "versions": first},
            {"blocks": 2, "versions": second},
        ]
        np.testing.assert_array_equal(f["data"][:, 0], 2.0 * np.arange(100))
    ledger = Ledger.read(two_versions)
    facts = dict(facts_of(ledger, read_timeline(ledger)))
    assert facts["versions"].endswith(
        f"python {platform.python_version()}; 2 trials with calib_ 2.0.rc1"
    )
    page = write_page(None, two_versions.out).read_text()
    assert "<pre>def calibrated(trial, ready):\n    if trial[0, 0] &gt;= 60" in page
    hpcio.repack(two_versions.out)
    with h5py.File(two_versions.out) as f:
        assert len(json.loads(f.attrs["versions_of_blocks"])) == 2


def test_a_run_with_one_set_of_versions_says_it_once(lfp, tmp_path):
    plan = hpcio.Plan.create(np.negative, lfp, trials=15, out=tmp_path / "out.h5")
    plan.run(workers=0, progress=False)
    with h5py.File(plan.out) as f:
        assert json.loads(f.attrs["versions"]) == HERE
        assert "versions_of_blocks" not in f.attrs


def test_journals_that_say_no_versions_are_read_and_are_not_taken_for_ours(lfp, tmp_path):
    plan = hpcio.Plan.create(np.negative, lfp, trials=15, out=tmp_path / "out.h5")
    plan.run(workers=0, progress=False)
    os.unlink(read_logs(plan)[0].path)
    attempt(plan, "w0", [0, 1], [1e9, 2e9])
    (unknown,) = computed_by(Ledger.read(plan))
    assert (unknown.versions, unknown.blocks) == ({}, 2)


def test_a_plan_of_other_versions_that_is_adopted_counts_for_what_attempts_say(lfp, tmp_path):
    made = hpcio.Plan.create(np.negative, lfp, trials=15, out=tmp_path / "out.h5")
    seen = made.function.fingerprint
    old = dataclasses.replace(
        made.function,
        fingerprint=dataclasses.replace(seen, packages={**seen.packages, "pytest": "1.0"}),
    )
    prepare(dataclasses.replace(made, function=old))
    with pytest.warns(HpcioWarning, match=r"pytest 1\.0"):
        made.run(workers=0, progress=False)
    with h5py.File(made.out) as f:
        assert json.loads(f.attrs["versions"]) == {**HERE, "pytest": pytest.__version__}


def test_a_header_has_room_for_what_it_must_say_however_many_versions_there_are(tmp_path):
    digest = 32 * "a"
    about = {"label": "w0", "run_id": "r", "host": "h", "pid": 7, "user": "u", "start": 1.5}
    many = {**HERE, **{f"package_{k}": f"{k}.0.1.dev{k}" for k in range(100)}, "long": 999 * "1"}
    journal = Journal(tmp_path, "w0-1", digest, about, versions=many)
    journal.close()
    assert os.path.getsize(tmp_path / "w0-1.jnl") == HEADER
    log = read_log(tmp_path / "w0-1.jnl", digest)
    assert log is not None
    said = log.header["versions"]
    left = said.pop("...")
    assert said == {name: many[name] for name in said}
    assert HERE.items() <= said.items()
    assert left == f"{len(many) - len(said)} more are not as planned"
