"""A result as a Dataset of xarray: lazy, with names and coordinates of its axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hpcio.errors import MissingPackageError
from hpcio.recording import column_of, is_phony

if TYPE_CHECKING:
    import xarray

__all__ = ["labelled", "names_of_axes"]

# Attributes by which HDF5 and netCDF know scales.
_OF_SCALES = (
    "CLASS", "NAME", "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "_Netcdf4Dimid",
    "coordinates",
)  # fmt: skip


def names_of_axes(virtual: h5py.Dataset) -> list[str]:
    """What the axes of the data of a result are called."""
    return [dim.label or dim[0].name.lstrip("/") for dim in virtual.dims]


def labelled(f: h5py.File, results: dict[str, h5py.Dataset]) -> xarray.Dataset:
    """A result as a Dataset; see `hpcio.results.ResultFile.to_xarray`.

    Parameters
    ----------
    f : ResultFile
        Values of results are read by it.
    results : dict of str to h5py.Dataset
        Each result as HDF5 holds it, for its labels and scales.
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

        def __init__(self, name: str) -> None:
            self.name, self.shape, self.dtype = name, f[name].shape, np.dtype(f[name].dtype)

        def __getitem__(self, key: Any) -> Any:
            one_list = indexing.IndexingSupport.OUTER_1VECTOR
            return indexing.explicit_indexing_adapter(
                key, self.shape, one_list, lambda region: np.asarray(f[self.name][region])
            )

    dims = {name: names_of_axes(virtual) for name, virtual in results.items()}
    coordinates: dict[str, tuple[str, np.ndarray]] = {}
    along: dict[str, str] = {}  # the dimension of each scale

    def add(scale: h5py.Dataset, name: str) -> None:
        along[scale.name] = name
        if not is_phony(scale):
            coordinates[name] = name, column_of(scale)

    for of, virtual in results.items():
        for name, dim in zip(dims[of], virtual.dims, strict=True):
            add(dim[0], name)
    for name, thing in f.items():
        if not isinstance(thing, h5py.Dataset) or name in results or thing.ndim != 1:
            continue
        for scale in list(thing.dims[0].values())[:1]:
            if scale.name not in along:  # that of trials, where no axis of the data is theirs
                add(scale, scale.name.lstrip("/"))
            coordinates[name] = along[scale.name], column_of(thing)
    data = {
        name: xarray.Variable(
            dims[name], indexing.LazilyIndexedArray(Lazy(name)), _attributes(virtual)
        )
        for name, virtual in results.items()
    }
    found = xarray.Dataset(data, coordinates, _attributes(f))
    found.set_close(f.close)
    return found


def _attributes(thing: Any) -> dict[str, Any]:
    return {key: value for key, value in thing.attrs.items() if key not in _OF_SCALES}
