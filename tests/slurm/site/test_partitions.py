"""What a site offers, as SLURM says."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import ClusterError
from slurm import SLURMArrayCluster, read_site, submit
from slurm.site.commands import refusal
from slurm.site.partitions import MB, format_time, parse_site, parse_time

PARTITIONS = (
    "short|up|1:00:00|n/a\nlong*|up|7-00:00:00|2:00:00\ngpu|down|infinite|n/a\nempty|up|10:00|n/a\n"
)
NODES = "short|8|16000|(null)\nshort|8|16000|(null)\nlong|64|512000+|big,avx\ngpu|32|64000|a100\n"
CONFIG = "ClusterName             = demo\nMaxArraySize            = 1001\nMaxJobCount = 500\n"


@pytest.fixture
def site():
    return parse_site(PARTITIONS, NODES, CONFIG)


def test_partitions_and_limits(site):
    assert (site.cluster, site.max_array_size, site.max_jobs) == ("demo", 1001, 500)
    short, long, gpu, empty = site.partitions
    assert [(n.count, n.cpus, n.memory, n.features) for n in short.nodes] == [
        (2, 8, 16000 * MB, ())
    ]
    assert long.default
    assert long.seconds == 7 * 86400
    assert long.nodes[0].features == ("big", "avx")
    assert not gpu.up
    assert gpu.seconds is None
    assert empty.nodes == ()
    assert [site.seconds_of(name) for name in ("short", "long", "gpu")] == [3600, 7200, None]
    assert site.seconds_of(None) == 7200  # of the default partition


def test_the_smallest_that_fits(site):
    def fitting(**asked):
        return site.smallest_fitting(**asked).name

    assert fitting(cpus=1, memory=1000 * MB, seconds=600) == "short"
    assert fitting(cpus=9, memory=1000 * MB, seconds=600) == "long"
    assert fitting(cpus=1, memory=20_000 * MB, seconds=600) == "long"
    assert fitting(cpus=1, memory=1000 * MB, seconds=7200) == "long"
    with pytest.raises(ClusterError, match=r"No partition.*short \(8 CPUs and 16000 MB a node"):
        fitting(cpus=100, memory=MB, seconds=60)
    with pytest.raises(ClusterError, match=r"no partition 'fast'.*short, long, gpu, empty"):
        site.partition("fast")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("1:30", 90), ("01:00:00", 3600), ("2-00", 172800), ("1-02:03", 93780),
        ("1-02:03:04", 93784), ("infinite", None), ("UNLIMITED", None),
    ],
)  # fmt: skip
def test_times(text, seconds):
    assert parse_time(text) == seconds
    if seconds is not None:
        assert parse_time(format_time(seconds)) == seconds


def test_no_time():
    with pytest.raises(ClusterError, match="'soon' is no time"):
        parse_time("soon")


def test_without_slurm_the_error_says_what_works(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((4, 2))
    plan = hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=2, out=tmp_path / "out.h5"
    )
    for ask in (
        read_site,
        lambda: SLURMArrayCluster(tasks=2, memory="1GB"),
        lambda: submit(plan, tasks=2),
    ):
        with pytest.raises(ClusterError, match=r"no SLURM on this machine.*plan\.run\(workers="):
            ask()
    assert not plan.run_directory.exists()


@pytest.mark.slurm
def test_a_real_site(slurm):
    site = read_site()
    assert site.max_array_size == 1001
    main, short = site.partitions
    assert (main.name, main.default, main.seconds) == ("main", True, None)
    assert (short.name, short.default, short.seconds) == ("short", False, 1800)
    assert [(n.count, n.cpus, n.memory) for n in main.nodes] == [(4, 4, 8000 * MB)]


def test_a_machine_of_no_cluster_says_what_to_do():
    words = "squeue: fatal: Could not establish a configuration source"
    assert "This machine is of no cluster. Go to a login node" in str(refusal("squeue", words))
    assert str(refusal("sbatch", "Invalid qos")) == "'sbatch' refuses. It says: Invalid qos"
