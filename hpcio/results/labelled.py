"""A result as a Dataset of xarray: lazy, with names and coordinates of its axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hpcio.errors import MissingPackageError

if TYPE_CHECKING:
    import xarray

__all__ = ["labelled"]

# Attributes by which HDF5 and netCDF know scales.
_OF_SCALES = (
    "CLASS", "NAME", "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "_Netcdf4Dimid",
    "coordinates",
)  # fmt: skip


def labelled(f: h5py.File, virtual: h5py.Dataset) -> xarray.Dataset:
    """A result as a Dataset; see `hpcio.results.ResultFile.to_xarray`.

    Parameters
    ----------
    f : ResultFile
        Values of ``data`` are read by it.
    virtual : h5py.Dataset
        The dataset ``data`` as HDF5 holds it, for its labels and scales.
    """
    try:
        import xarray
        from xarray.core import indexing
    except ImportError as error:
        raise MissingPackageError(
            "to_xarray needs the package xarray. Install it: pip install xarray"
        ) from error

    class Lazy(xarray.backends.BackendArray):
        """The data, read where they are asked for."""

        def __init__(self) -> None:
            self.shape, self.dtype = f["data"].shape, np.dtype(f["data"].dtype)

        def __getitem__(self, key: Any) -> Any:
            one_list = indexing.IndexingSupport.OUTER_1VECTOR
            return indexing.explicit_indexing_adapter(
                key, self.shape, one_list, lambda region: np.asarray(f["data"][region])
            )

    dims = [dim.label or _names(dim)[0] for dim in virtual.dims]
    coordinates: dict[str, tuple[str, np.ndarray]] = {}
    along: dict[str, str] = {}  # the dimension of each scale
    for name, dim in zip(dims, virtual.dims, strict=True):
        scale = dim[0]
        along[scale.name] = name
        if not _is_phony(scale):
            coordinates[name] = name, _values(scale)
    if "trial" in f and "/trial" not in along and isinstance(f["trial"], h5py.Dataset):
        along["/trial"] = "trial"
        coordinates["trial"] = "trial", _values(f["trial"])
    for name, thing in f.items():
        if isinstance(thing, h5py.Dataset) and name != "data" and thing.name not in along:
            scales = _names(thing.dims[0]) if thing.ndim == 1 else []
            if scales and f"/{scales[0]}" in along:
                coordinates[name] = along[f"/{scales[0]}"], _values(thing)
    data = xarray.Variable(dims, indexing.LazilyIndexedArray(Lazy()), _attributes(virtual))
    found = xarray.Dataset({"data": data}, coordinates, _attributes(f))
    found.set_close(f.close)
    return found


def _names(dim: Any) -> list[str]:
    return [scale.name.lstrip("/") for scale in dim.values()]


def _is_phony(scale: h5py.Dataset) -> bool:
    """Whether netCDF says that a scale stands for a dimension without values."""
    said = scale.attrs.get("NAME", b"")
    return b"not a netCDF variable" in (said if isinstance(said, bytes) else str(said).encode())


def _values(dataset: h5py.Dataset) -> np.ndarray:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr()[()], "U")
    values = np.asarray(dataset[()])
    return values.astype(bool) if dataset.attrs.get("dtype") == "bool" else values


def _attributes(thing: Any) -> dict[str, Any]:
    return {key: value for key, value in thing.attrs.items() if key not in _OF_SCALES}
