"""Reading trials: the open source of one attempt."""

from __future__ import annotations

import os
import sys
from typing import Self

import h5py
import numpy as np

from hpcio.blocks import read_region
from hpcio.errors import SourceError
from hpcio.plan import Plan
from hpcio.slab import read_at
from hpcio.sources import find_dataset, open_file
from hpcio.trials import Form

__all__ = ["Reader"]


def _plain_offset(dataset: h5py.Dataset) -> int | None:
    """Where the bytes of a dataset begin, if they lie in its file just as numpy holds them."""
    plain = (
        dataset.chunks is None
        and not dataset.is_virtual
        and dataset.external is None
        and dataset.file.driver == "sec2"
        and dataset.file.userblock_size == 0
        and dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True)
        and dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    )
    offset: int | None = dataset.id.get_offset() if plain else None
    return offset


class Reader:
    """The source of a plan, held open for one attempt.

    Trials that lie in one piece in the file (a contiguous dataset, cut along its first
    axis, all channels) are read by one `preadv` each, three times as fast as through
    HDF5; all others by HDF5.

    Parameters
    ----------
    plan : Plan

    Raises
    ------
    SourceError
        If the source cannot be read, or has changed since the plan was made.
    """

    def __init__(self, plan: Plan) -> None:
        source = plan.source
        source.check_unchanged()
        self._file = open_file(source.path)
        self._fd = -1
        try:
            self._dataset = find_dataset(self._file, source.dataset)
            if (self._dataset.shape, self._dataset.dtype) != (source.shape, source.dtype):
                raise SourceError(
                    f"'{source.dataset}' in '{source.path}' is not what the plan was made for. "
                    "Make a new plan (in the shell: --fresh)."
                )
            self._axis = plan.blocks.axis
            self._dtype = source.dtype
            self._shape = source.shape
            offset = _plain_offset(self._dataset) if self._axis == 0 else None
            if offset is not None:
                self._fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
                self._offset = offset
                self._row = int(np.prod(source.shape[1:], dtype=np.int64)) * self._dtype.itemsize
        except BaseException:
            self.close()
            raise
        self._buffer: np.ndarray | None = None

    def in_one_piece(self, form: Form) -> bool:
        """Whether trials of this form lie in one piece in the file."""
        return (
            self._fd >= 0
            and form.sigrid is None
            and form.grid[0].step == 1
            and all(
                (g.start, g.stop, g.step) == (0, n, 1)
                for g, n in zip(form.grid[1:], self._shape[1:], strict=True)
            )
        )

    def read(self, form: Form, base: int, *, in_one_piece: bool) -> np.ndarray:
        """The trial of a form whose rows begin at `base`; the function may change it."""
        if in_one_piece:
            array = self._empty(form.inshape)
            if not read_at(self._fd, array, self._offset + (base + form.grid[0].start) * self._row):
                raise SourceError(
                    f"'{self._file.filename}' ends before row {base}. It was cut short while the "
                    "run went on: make a new plan."
                )
            return array
        rows = form.grid[self._axis]
        region = list(form.grid)
        region[self._axis] = slice(base + rows.start, base + rows.stop, rows.step)
        return read_region(self._dataset, tuple(region), form.sigrid, form.inshape)

    def _empty(self, shape: tuple[int, ...]) -> np.ndarray:
        # Fresh memory for a large trial costs as much as reading it. The last trial's memory
        # serves again if nobody else holds it: the attribute and the argument are the only
        # two references then (a view or a stored trial would be a third).
        if (
            self._buffer is not None
            and self._buffer.shape == shape
            and sys.getrefcount(self._buffer) == 2
        ):
            return self._buffer
        self._buffer = np.empty(shape, self._dtype)
        return self._buffer

    def close(self) -> None:
        """Let go of the source."""
        self._file.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
