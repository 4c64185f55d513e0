"""Names of filters, good chunks, and what is packed is unpacked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hpcio.files.compression import Chunking, Compression, Packer, good_chunk
from tests.rigs.bench import FILTERS


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", ["i1", "i2", ">f4", "f8", "c16", "?"])
def test_what_is_packed_is_unpacked(name, dtype):
    if name[:4] not in ("gzip", "lzf"):
        pytest.importorskip("hdf5plugin")
    random = np.random.default_rng(0)
    with Packer(Chunking((6, 7), Compression.parse(name)), np.dtype(dtype)) as packer:
        for shape in ((6, 7), (6, 3), (1, 7), (2, 2)):
            for data in (random.normal(size=shape).astype(dtype), np.zeros(shape, dtype)):
                mask, packed = packer.pack(data)
                whole = packer.unpack(mask, packed)
                assert whole[: shape[0], : shape[1]].tobytes() == data.tobytes()


@pytest.mark.parametrize(
    ("shape", "itemsize", "axis", "chunk"),
    [
        ((100_000, 64), 4, 0, (4096, 64)),
        ((64, 100_000), 4, 1, (64, 4096)),
        ((10, 64), 4, 0, (10, 64)),
        ((1000, 1 << 20), 8, 0, (1, 1 << 18)),
        ((5, 0), 8, 0, (5, 1)),
    ],
)
def test_good_chunks(shape, itemsize, axis, chunk):
    assert good_chunk(shape, itemsize, axis) == chunk


def test_names_are_canonical():
    assert str(Compression.parse(" GZIP ")) == "gzip:4"
    assert str(Compression.parse("lzf+shuffle")) == "lzf+shuffle"


def test_this_needs_no_plugin():
    code = (
        "import sys; sys.modules['hdf5plugin'] = None; import hpcio; "
        "from hpcio.files.compression import Compression; Compression.parse('gzip')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
