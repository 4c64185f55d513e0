"""What decides in objects of libraries: not what they have gathered, nor where they lie."""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["content_of", "digest_of_file", "without_gathered"]

# What each member of an enumeration has, besides what the user has put there.
_OF_ENUM = {"_value_", "_name_", "__objclass__", "_sort_order_"}


def content_of(obj: Any) -> tuple[Any, ...] | None:
    """What stands for an object that does not say it by `__reduce__`; None for all others.

    Raises
    ------
    ValueError
        If nobody can say it.
    """
    kind = type(obj)
    if isinstance(obj, enum.Enum):
        own = {k: v for k, v in vars(obj).items() if k not in _OF_ENUM}
        return (kind, obj.name, obj.value, own)
    # The mask and the fill value of a masked array may be made later.
    if "numpy.ma" in sys.modules and isinstance(obj, np.ma.MaskedArray):
        return (kind, obj.data, np.ma.getmaskarray(obj), obj.fill_value)
    if isinstance(obj, np.ndarray) and getattr(obj, "__dict__", None):  # pickle forgets these
        return (kind, obj.view(np.ndarray), vars(obj))
    if kind is np.vectorize:
        return (kind, {k: v for k, v in vars(obj).items() if k != "_ufunc"})
    if isinstance(obj, ctypes.CDLL):  # it knows the address that it was loaded to
        file = str(obj._name)
        return (kind, digest_of_file(file) if os.path.isfile(file) else file)
    if kind.__module__.partition(".")[0] == "numba" and hasattr(obj, "py_func"):
        # What it has compiled so far does not decide.
        return (kind, obj.py_func, getattr(obj, "targetoptions", None))
    if any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in kind.__mro__):
        try:
            values = obj.detach().cpu().numpy()
        except (RuntimeError, TypeError) as error:  # sparse ones, and types that numpy has not
            raise ValueError from error
        return (kind, str(obj.dtype), obj.device.type, obj.requires_grad, values)
    return None


@functools.cache
def digest_of_file(path: str) -> bytes:
    """A digest of all bytes of a file, as they were when somebody first asked."""
    return hashlib.sha256(Path(path).read_bytes()).digest()


def without_gathered(kind: type, state: Any) -> Any:
    """The state of an instance without what it has gathered from the rest while it was used."""
    if type(state) is tuple:  # attributes, and slots
        return tuple(without_gathered(kind, part) for part in state)
    if type(state) is not dict:
        return state
    library = kind.__module__.partition(".")[0]
    if library == "scipy":  # sparse arrays remember how they are sorted
        state = {k: v for k, v in state.items() if not str(k).startswith(("_has_", "has_"))}
        if "_eval_args" in state:  # a spline; its work space is not initialized
            state.pop("_data", None)
    if library == "pandas":
        state = {k: v for k, v in state.items() if k not in ("_cache", "_item_cache")}
    if library == "xarray":  # attributes become an empty dict when they are asked for
        state = {k: v for k, v in state.items() if k not in ("_attrs", "_encoding") or v}
    return state
