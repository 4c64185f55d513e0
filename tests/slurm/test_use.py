"""Job arrays as people use them: from a notebook, as an ordinary user, by a site's own file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import nbclient
import nbformat
import numpy as np
import pytest
from distributed import Client

import hpcio
from slurm import SLURMArrayCluster, read_site
from tests.rigs.slurm import missing, until
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm

OPTIONS = 'memory="400MB", walltime="00:30:00", scheduler_options={"host": "127.0.0.1"}'
RIG = (sys.executable, "-m", "tests.rigs.slurm")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    record(tmp_path)
    return tmp_path


def record(folder: Path) -> None:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.random.default_rng(3).standard_normal((1000, 4))


def check(folder: Path) -> None:
    with h5py.File(folder / "rec.h5") as f, hpcio.open(folder / "out.h5") as g:
        assert g["data"][...].tobytes() == (-f["lfp"][...]).tobytes()


CELLS = (
    "import hpcio, slurm\n\ndef negative(trial):\n    return -trial",
    'plan = hpcio.Plan.create(negative, "rec.h5::/lfp", trials=50, out="out.h5")',
    f"cluster = slurm.SLURMArrayCluster(tasks=2, {OPTIONS})\nprint(cluster.describe(plan))",
    "print(plan.run(cluster))\ncluster.close()",
)


def test_a_notebook(slurm, folder, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(folder / name))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    nbclient.NotebookClient(
        notebook, timeout=int(PATIENCE), kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()  # fmt: skip
    check(folder)
    *_, table, run = (cell.outputs for cell in notebook.cells)
    assert "2 in 1 job array" in table[0]["text"]
    said = "".join(o["text"] for o in run if o["output_type"] == "stream")
    assert "dask dashboard http://127.0.0.1:" in said
    assert "20 trials in " in said
    (bar,) = (o["data"]["text/html"] for o in run if o["output_type"] == "display_data")
    assert '<progress style="width: 20em; vertical-align: middle" value="20" max="20">' in bar
    assert "20/20 trials" in bar


CONFIG = """
jobqueue:
  slurm: &site
    queue: short
    cores: 2
    memory: 300MB
    walltime: "00:20:00"
    account: lab
    job-extra-directives: ["--comment=of the site"]
    job-script-prologue: ["module load hdf5"]
    log-directory: logs
  gpus:  # a section of its own must say all, as dask-jobqueue wants it
    <<: *site
    queue: main
    account: null
    python: /opt/python
    interface: null
    death-timeout: 60
    local-directory: null
    extra: null
    worker-command: distributed.cli.dask_worker
    worker-extra-args: []
    env-extra: null
    shebang: "#!/usr/bin/env bash"
    name: gpu worker
    job-cpu: null
    job-mem: null
    shared-temp-directory: null
"""

SCRIPTS = """
import slurm
for name in (None, "gpus"):
    with slurm.SLURMArrayCluster(config_name=name, scheduler_options={"host": "127.0.0.1"}) as c:
        print(c.job_script())
"""


def test_the_configuration_file_of_dask_jobqueue(slurm, folder):
    (folder / "jobqueue.yaml").write_text(CONFIG)
    said = subprocess.run(
        [sys.executable, "-c", SCRIPTS], capture_output=True, text=True, check=True,
        env={**slurm.environment, "DASK_CONFIG": str(folder / "jobqueue.yaml")},
    ).stdout  # fmt: skip
    of_site, of_gpus = (f"#!{script}" for script in said.split("#!")[1:])
    for line in (
        "#SBATCH -p short",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=287M",
        "#SBATCH -t 00:20:00",
        "#SBATCH -A lab",
        "#SBATCH --comment=of the site",
        '#SBATCH -o "logs/',
        "module load hdf5",
    ):
        assert line in of_site
    assert "#SBATCH -p main" in of_gpus
    assert "exec /opt/python -m " in of_gpus
    assert "lab" not in of_gpus


def test_more_tasks_than_an_array_may_have(folder, small_slurm):
    small = small_slurm("MaxArraySize=3")
    assert read_site().max_array_size == 3
    plan = hpcio.Plan.create(np.negative, "rec.h5::/lfp", trials=50, out="out.h5")
    options = {"memory": "400MB", "scheduler_options": {"host": "127.0.0.1"}}
    with SLURMArrayCluster(tasks=5, **options) as there, Client(there) as client:
        assert there.describe(plan).arrays == 2
        client.wait_for_workers(5, timeout=PATIENCE)
        jobs = small.call("squeue", "-h", "-r", "-o", "%F %K").split("\n")
        plan.run(there, progress=False)
    arrays, tasks = zip(*(job.split() for job in jobs if job), strict=True)
    assert len(set(arrays)) == 2
    assert sorted(tasks) == ["0", "0", "1", "1", "2"]
    check(folder)
    until(lambda: not small.call("squeue", "-h").strip(), "jobs to go")


ORDINARY = f"""
import os, hpcio, numpy, slurm
plan = hpcio.Plan.create(numpy.negative, "rec.h5::/lfp", trials=50, out="out.h5")
with slurm.SLURMArrayCluster(tasks=2, {OPTIONS}) as cluster:
    plan.run(cluster, progress=False)
print(os.getuid())
"""

# Reading is all that root's Python, below a home that is closed, has to be opened for.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
          "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # fmt: skip


@pytest.mark.root
@pytest.mark.skipif(bool(missing()) or shutil.which("setpriv") is None, reason="no setpriv here")
def test_all_of_it_as_an_ordinary_user():
    # pytest's own folders are closed to others.
    folder = Path(tempfile.gettempdir(), f"hpcio-nobody-{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        record(folder)
        os.chown(folder, 65534, 65534)

        def run(*command: str, **environment: str) -> str:
            done = subprocess.run(
                [*NOBODY, *command], cwd=folder, capture_output=True, text=True, check=False,
                timeout=PATIENCE, env={**os.environ, "HOME": str(folder), **environment},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        try:
            conf = run(*RIG, "up", str(folder / "slurm"))
            conf = conf.strip().removeprefix("export SLURM_CONF=")
            assert run(sys.executable, "-c", ORDINARY, SLURM_CONF=conf) == "65534\n"
        finally:
            run(*RIG, "down", str(folder / "slurm"))
        check(folder)
        journals = list((folder / "out.h5.run" / "journal").iterdir())
        assert {path.stat().st_uid for path in journals} == {65534}
    finally:
        shutil.rmtree(folder)
