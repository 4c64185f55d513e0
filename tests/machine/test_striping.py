"""Files on Lustre are laid out over servers by its own command; here a stand-in for it answers.

No Lustre can be run where these tests are: they show what is asked and what follows from answers.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.bench import Place
from hpcio.machine import Striping, layout_in_words, new_file, striping
from hpcio.machine.striping import stripes_for, striping_of

GIB = 1 << 30
# What `lfs getstripe -d` of Lustre 2.15 prints.
PLAIN = "stripe_count:  {count} stripe_size:   1048576 pattern:       raid0 stripe_offset: -1\n"
PROGRESSIVE = """\
  lcm_layout_gen:    0
  lcm_entry_count:   2
    lcme_id:             N/A
    lcme_extent.e_end:   268435456
      stripe_count:  1       stripe_size:   1048576       pattern:       raid0
    lcme_id:             N/A
    lcme_extent.e_end:   EOF
      stripe_count:  8       stripe_size:   4194304       pattern:       raid0
"""


@pytest.fixture
def lustre(tmp_path, monkeypatch):
    """A folder that is taken for Lustre, and its command, which notes what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(striping, "kind_of", lambda _: "lustre")

    def stand_in(answer: str, *, setstripe: str = 'touch "$4"') -> Path:
        (folder / "answer").write_text(answer)
        asked = tmp_path / "asked"
        script = folder / "lfs"
        script.write_text(
            f"""#!/bin/sh
echo "$@" >> {asked}
case $1 in
getstripe) cat {folder}/answer ;;
setstripe) {setstripe} ;;
esac
"""
        )
        script.chmod(0o755)
        return asked

    return stand_in


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (PLAIN.format(count=1), Striping(1, 1 << 20)),
        (PLAIN.format(count=-1), Striping(-1, 1 << 20)),
        (PROGRESSIVE, Striping(8, 4 << 20)),
        ("error: no layout\n", None),
        ("", None),
    ],
)
def test_what_the_command_says(tmp_path, lustre, answer, found):
    lustre(answer)
    assert striping_of(tmp_path) == found


def test_a_file_is_worth_more_servers_the_larger_it_is():
    assert [stripes_for(n * GIB // 4) for n in (0, 1, 4, 1000)] == [1, 1, 4, 64]


@pytest.mark.parametrize(
    ("count", "nbytes", "asked"),
    [
        (1, 2 * GIB, ["getstripe -d {folder}", "setstripe -c 8 {file}"]),
        (4, 2 * GIB, ["getstripe -d {folder}", "setstripe -c 8 {file}"]),
        (8, 2 * GIB, ["getstripe -d {folder}"]),
        (-1, 2 * GIB, ["getstripe -d {folder}"]),
        (1, 1 << 20, []),  # nobody is asked about small files
    ],
)
def test_an_empty_file_is_striped_before_it_is_written(tmp_path, lustre, count, nbytes, asked):
    noted = lustre(PLAIN.format(count=count))
    file = tmp_path / "one.h5"
    fd = new_file(file, os.O_WRONLY, nbytes=nbytes)
    os.write(fd, b"x")
    os.close(fd)
    said = noted.read_text().splitlines() if noted.exists() else []
    assert said == [line.format(folder=tmp_path, file=file) for line in asked]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"x"


@pytest.mark.parametrize(
    "setstripe",
    ["exit 1", "kill $$", 'touch "$4"; exit 1', 'touch "$4"; exec sleep 600'],
    ids=["refuses", "is killed", "complains", "takes too long"],
)
def test_where_the_command_fails_the_file_is_made_as_ever(tmp_path, lustre, setstripe, monkeypatch):
    lustre(PLAIN.format(count=1), setstripe=setstripe)
    if "sleep" in setstripe:
        monkeypatch.setattr(striping, "_PATIENCE", 2.0)
    os.close(new_file(tmp_path / "one.h5", os.O_WRONLY, nbytes=GIB))
    assert (tmp_path / "one.h5").stat().st_size == 0


def test_a_file_that_others_have_put_there_meanwhile_is_not_opened(tmp_path, lustre):
    lustre(PLAIN.format(count=1), setstripe='echo theirs > "$4"')
    with pytest.raises(FileExistsError):
        new_file(tmp_path / "one.h5", os.O_WRONLY, nbytes=GIB)
    assert (tmp_path / "one.h5").read_text() == "theirs\n"


def test_a_name_that_is_taken_is_not_opened(tmp_path, lustre):
    noted = lustre(PLAIN.format(count=1))
    (tmp_path / "one.h5").write_text("mine")
    (tmp_path / "link.h5").symlink_to("nowhere")
    for name in ("one.h5", "link.h5"):
        with pytest.raises(FileExistsError):
            new_file(tmp_path / name, os.O_WRONLY, nbytes=GIB)
    assert "setstripe" not in noted.read_text()
    assert (tmp_path / "one.h5").read_text() == "mine"


def test_words_for_people(tmp_path, lustre, monkeypatch):
    lustre(PLAIN.format(count=1))
    assert layout_in_words(tmp_path, GIB) == ", laid out over 4 servers (lfs setstripe -c 4)"
    lustre(PLAIN.format(count=16))
    assert layout_in_words(tmp_path, GIB) == ", over 16 servers"
    lustre(PLAIN.format(count=-1))
    assert layout_in_words(tmp_path, GIB) == ", over all servers"
    assert layout_in_words(tmp_path, 1000) == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "perhaps on one server of lustre" in layout_in_words(tmp_path, GIB)
    monkeypatch.setattr(striping, "kind_of", lambda _: "beegfs")
    assert "beegfs-ctl" in layout_in_words(tmp_path, GIB)
    monkeypatch.setattr(striping, "kind_of", lambda _: "ext4")
    assert layout_in_words(tmp_path, GIB) == ""


@pytest.mark.parametrize("way", ["direct", "repack"])
def test_one_file_of_a_run_is_striped(tmp_path, lustre, monkeypatch, way):
    noted = lustre(PLAIN.format(count=1))
    monkeypatch.setattr(striping, "_WORTH", 1 << 20)
    values = np.random.default_rng(0).random((8, 1 << 16))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["x"] = values
    plan = hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::x", trials=8, out=tmp_path / "out.h5",
        writer="direct" if way == "direct" else "virtual",
    )  # fmt: skip
    if way == "direct":
        assert "laid out over 4 servers" in repr(plan.describe())
    plan.run(workers=0, progress=False)
    if way == "repack":
        hpcio.repack(plan.out)
    (line,) = [line for line in noted.read_text().splitlines() if line.startswith("setstripe")]
    assert line.startswith(f"setstripe -c 4 {tmp_path}/")
    with h5py.File(plan.out) as f:
        np.testing.assert_array_equal(f["data"], -values)


def test_a_benchmark_says_over_how_many_servers_new_files_are(tmp_path, lustre):
    lustre(PLAIN.format(count=4))
    assert re.fullmatch(r"4 servers, 1\.05 MB each", Place.of(tmp_path, ["n1"]).striping)
    lustre(PLAIN.format(count=-1))
    assert Place.of(tmp_path, ["n1"]).striping.startswith("all servers")
