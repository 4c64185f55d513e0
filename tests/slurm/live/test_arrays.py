"""Job arrays as dask clusters, on a real SLURM."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from distributed import Client

import hpcio
from hpcio.errors import BlocksFailed, ClusterError, MemoryLimitError, TimeLimitError
from slurm import SLURMArrayCluster, submit
from slurm.live.cluster import remove_folder
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm

LOOPBACK = {"scheduler_options": {"host": "127.0.0.1"}}
ROWS = 60_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(3).standard_normal((ROWS, 8)).astype("f4")
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = data
    return tmp_path


def edges() -> np.ndarray:
    """240 trials of unequal length."""
    cuts = np.sort(np.random.default_rng(4).choice(np.arange(1, ROWS), 239, replace=False))
    return np.stack([np.append(0, cuts), np.append(cuts, ROWS)], axis=1)


def detrend(trial: np.ndarray) -> np.ndarray:
    return trial - trial.mean(axis=0)


def make(name: str, func: Any = detrend, **options: Any) -> hpcio.Plan:
    return hpcio.Plan.create(func, "rec.h5::/lfp", trials=edges(), out=name, **options)


def cluster(tasks: int = 2, **options: Any) -> SLURMArrayCluster:
    options = {"memory": "400MB", "walltime": "00:30:00", **LOOPBACK, **options}
    return SLURMArrayCluster(tasks=tasks, **options)


def bytes_of(path: str) -> bytes:
    with hpcio.open(path) as f:
        return f["data"][...].tobytes()


@pytest.fixture
def local(folder: Path) -> Iterator[bytes]:
    """The bytes that a run on this machine gives."""
    make("local.h5").run(workers=0, progress=False)
    return bytes_of("local.h5")


@pytest.mark.parametrize(
    "tasks", [3, *(pytest.param(n, marks=pytest.mark.torture) for n in (1, 12, 40))]
)
def test_the_result_is_that_of_a_local_run(slurm, local, tasks):
    with cluster(tasks) as there:
        done = make("out.h5").run(there, progress=False)
    assert bytes_of("out.h5") == local
    assert done.blocks == done.computed == 240
    assert not done.failed
    assert 1 <= done.workers <= tasks


def test_one_sbatch_for_all_tasks(slurm, folder):
    with cluster(3) as there, Client(there) as client:
        client.wait_for_workers(3, timeout=PATIENCE)
        names = {w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
        jobs = slurm.call("squeue", "-h", "-r", "-o", "%F %K").split("\n")
    assert names == {f"{there.name}-{i}" for i in range(3)}
    arrays, tasks = zip(*(job.split() for job in jobs if job), strict=True)
    assert len(set(arrays)) == 1
    assert sorted(map(int, tasks)) == list(range(3))


def test_scaling_up_adds_an_array_and_down_cancels_single_tasks(slurm, folder):
    def tasks() -> list[str]:
        return slurm.call("squeue", "-h", "-r", "-t", "PD,R", "-o", "%F_%K").split()

    with cluster(2) as there, Client(there) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        first = tasks()
        there.scale(4)
        client.wait_for_workers(4, timeout=PATIENCE)
        more = tasks()
        assert set(first) < set(more)
        assert len({t.partition("_")[0] for t in more}) == 2
        there.scale(1)
        until(lambda: len(tasks()) == 1)
        until(lambda: len(client.nthreads()) == 1)
        assert set(tasks()) < set(more)
    until(lambda: not tasks())


def test_adapt_works_between_its_bounds(slurm, local):
    with cluster(0) as there:
        adaptive = there.adapt(minimum=1, maximum=3, interval="200ms")
        make("out.h5").run(there, progress=False)
        until(lambda: len(there.worker_spec) == 1)
        asked = {said["n"] for _, said in adaptive.log if said["status"] == "up"}
    assert bytes_of("out.h5") == local
    assert asked
    assert asked <= {1, 2, 3}


def test_a_throttled_array(slurm, folder):
    with cluster(4, throttle=2) as there, Client(there) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        (limit,) = set(
            re.findall(r"ArrayTaskThrottle=(\d+)", slurm.call("scontrol", "show", "job"))
        )
        assert limit == "2"
        running = slurm.call("squeue", "-h", "-r", "-t", "R", "-o", "%K").split()
        assert len(running) == 2
        assert there.plan == {f"{there.name}-{i}" for i in range(4)}


def test_nothing_stays_when_a_cluster_is_closed(slurm, folder):
    with pytest.raises(ZeroDivisionError), cluster(2):
        1 / 0  # noqa: B018
    until(lambda: not slurm.call("squeue", "-h").strip())
    assert sorted(p.name for p in folder.iterdir()) == ["rec.h5"]


def test_a_folder_goes_though_logs_appear_in_it_meanwhile(tmp_path):
    folder = tmp_path / ".hpcio-cluster-x"
    folder.mkdir()
    begun = threading.Event()

    def tasks_that_start() -> None:
        with contextlib.suppress(FileNotFoundError):
            for number in itertools.count():
                (folder / f"worker-1_{number}.log").touch()
                if number == 100:
                    begun.set()

    thread = threading.Thread(target=tasks_that_start)
    thread.start()
    assert begun.wait(PATIENCE)
    remove_folder(folder)
    thread.join(PATIENCE)
    assert list(tmp_path.iterdir()) == []


SLOW_SBATCH = """#!/bin/sh
touch {folder}/asked
while [ ! -e {folder}/go ]; do sleep 0.02; done
exec {sbatch} "$@"
"""


def test_closing_while_a_lost_task_is_replaced_leaves_no_job(slurm, folder, monkeypatch):
    there = cluster(1)
    until(lambda: slurm.call("squeue", "-h", "-r", "-t", "R", "-o", "%F_%K").split(), "its task")
    wrapper = folder / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(SLOW_SBATCH.format(folder=folder, sbatch=shutil.which("sbatch")))
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    slurm.call("scancel", f"--user={os.geteuid()}")
    until((folder / "asked").exists, "sbatch to be called")
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(there.close)
        until(closing.running, "the cluster to be closing")
        (folder / "go").touch()
        closing.result(timeout=PATIENCE)
    until(lambda: not slurm.call("squeue", "-h").strip(), "jobs to go")


def test_connections_are_encrypted_and_certificates_private(slurm, folder):
    with cluster(1) as there:
        assert there.scheduler_address.startswith("tls://")
        pems = sorted(there.folder.glob("*.pem"))
        assert [p.name for p in pems] == ["ca_file.pem", "cert.pem", "key.pem"]
        assert {stat.S_IMODE(p.stat().st_mode) for p in pems} == {0o600}
        assert stat.S_IMODE(there.folder.stat().st_mode) == 0o700
    with cluster(1, security=None) as open_to_all:
        assert open_to_all.scheduler_address.startswith("tcp://")


def test_logs_stay_where_they_are_wanted(slurm, folder):
    with (
        cluster(2, log_directory="logs of mine", job_name="spectra") as there,
        Client(there) as client,
    ):
        client.wait_for_workers(2, timeout=PATIENCE)
    names = sorted(p.name for p in Path("logs of mine").iterdir())
    assert [re.sub(r"\d+_", "N_", n) for n in names] == ["spectra-N_0.log", "spectra-N_1.log"]


def test_keywords_and_configuration_of_dask_jobqueue(slurm, folder):
    with cluster(
        0,
        account="lab",
        job_extra_directives=["--qos=high", "--gres=gpu:1"],
        job_script_prologue=["module load hdf5", "export A=1"],
        job_directives_skip=["--mem"],
        local_directory="/scratch/my files",
        worker_extra_args=["--no-dashboard"],
        nanny=False,
        death_timeout=33,
        python="/opt/my python/bin/python",
        cores=3,
    ) as there:
        script = there.job_script()
    for line in (
        "#SBATCH -A lab",
        "#SBATCH --qos=high",
        "#SBATCH --gres=gpu:1",
        "module load hdf5\nexport A=1",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH -t 00:30:00",
    ):
        assert line in script
    assert "#SBATCH --mem" not in script
    (command,) = [line for line in script.splitlines() if line.startswith("exec ")]
    for part in (
        "exec '/opt/my python/bin/python' -m distributed.cli.dask_worker tls://127.0.0.1:",
        "--local-directory '/scratch/my files'",
        "--no-nanny",
        "--no-dashboard",
        "--dashboard-address 127.0.0.1:0",
        "--death-timeout 33",
        "--nthreads 3",
    ):
        assert part in command


# ---------------------------------------------------------------------- what goes wrong


def test_what_slurm_refuses_is_said_in_its_own_words(slurm, folder):
    with pytest.raises(ClusterError, match=r"no partition 'night'.*main, short"):
        cluster(1, partition="night")
    with pytest.raises(ClusterError, match=r"'sbatch' refuses.*Invalid feature"):
        cluster(1, job_extra_directives=["--constraint=moon"]).close()
    until(lambda: not slurm.call("squeue", "-h").strip())


def test_memory_that_no_node_has(slurm, folder):
    with pytest.raises(ClusterError, match="No partition has a node for"):
        cluster(1, partition="auto", memory="900GB")


def test_the_smallest_partition_that_fits(slurm, folder):
    with cluster(0, partition="auto", walltime="00:20:00") as there:
        assert there.partition == "short"
    with cluster(0, partition="auto", walltime="02:00:00") as there:
        assert there.partition == "main"


def test_a_trial_too_large_for_a_task_is_refused_before_anything_starts(slurm, folder):
    with cluster(0, memory="200MB") as there, pytest.raises(MemoryLimitError, match="memory='"):
        make("out.h5").run(there, progress=False)
    assert not Path("out.h5.run").exists()


def slow(trial: np.ndarray) -> np.ndarray:
    time.sleep(len(trial) / 500)
    return trial - trial.mean(axis=0)


def test_a_trial_too_long_for_a_task_is_refused_by_probes(slurm, folder):
    table = [[20 * k, 20 * k + 20] for k in range(20)] + [[400, ROWS]]
    options = {"trials": table, "out_shape": lambda shape: shape, "out_dtype": "f4"}
    plan = hpcio.Plan.create(slow, "rec.h5::/lfp", out="out.h5", **options)
    refused = pytest.raises(TimeLimitError, match=r"Trial 20 takes about .* works for 30 s")
    with cluster(0, walltime="00:01:00", probe=True) as there, refused:
        plan.run(there, progress=False)
    assert not Path("out.h5.run").exists()
    with pytest.raises(TimeLimitError, match="Trial 20"):
        submit(plan, tasks=2, walltime="00:01:00", probe=True)
    assert not Path("out.h5.run").exists()


def sick(trial: np.ndarray) -> np.ndarray:
    if len(trial) in SICK:
        raise ValueError("sick")
    return trial - trial.mean(axis=0)


SICK = sorted({int(stop - start) for start, stop in edges()})[-3:]


def test_a_function_that_raises_for_three_trials(slurm, folder):
    shape = {"out_shape": lambda inshape: inshape, "out_dtype": "f4"}
    lengths = np.diff(edges(), axis=1).ravel()
    ill = np.flatnonzero(np.isin(lengths, SICK)).tolist()
    with cluster(2) as there, pytest.raises(BlocksFailed) as caught:
        make("out.h5", sick, **shape).run(there, progress=False)
    assert [f.trial for f in caught.value.done.failed] == ill
    assert caught.value.done.computed == 240 - len(ill)
    assert not Path("out.h5").exists()
