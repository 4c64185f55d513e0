"""What a repacked file must hold, and what must be left beside it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests.rigs.bench import Bench


def run_directory(bench: Bench) -> dict[str, bytes]:
    """All files of the run directory."""
    folder = Path(f"{bench.out}.run")
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_ordinary(path: Path, expected: np.ndarray) -> None:
    with h5py.File(path) as f:
        assert not f["data"].is_virtual
        assert f["data"].chunks is None
        assert f["data"][...].tobytes() == expected.tobytes()
        assert "sources" not in f["hpcio"]


def contents(path: Path) -> dict[str, object]:
    """All that a reader can see, but how the data are stored."""
    seen: dict[str, object] = {}

    def attributes(name: str, item: h5py.HLObject) -> None:
        for key, value in item.attrs.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST"):
                seen[f"{name}@{key}"] = np.asarray(value).tolist()

    def visit(name: str, item: h5py.HLObject) -> None:
        if name.startswith("hpcio/source"):
            return
        attributes(name, item)
        if isinstance(item, h5py.Dataset):
            values = item[()]
            kept = values.tolist() if item.dtype.kind == "O" else values.tobytes()
            seen[name] = (item.dtype, item.shape, kept)

    with h5py.File(path) as f:
        attributes("/", f)
        f.visititems(visit)
        for k, dim in enumerate(f["data"].dims):
            scales = [(scale.name, scale[()].tolist(), scale.is_scale) for scale in dim.values()]
            seen[f"axis {k}"] = (dim.label, list(dim.keys()), scales)
    return seen
