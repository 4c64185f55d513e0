"""``unwrap_cfg``: call a function with one dict that holds its keywords."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hpcio.errors import ConfigError

__all__ = ["unwrap_cfg"]

R = TypeVar("R")

# The keys of a cfg that may hold the data themselves.
_DATA = ("data", "dataset")
_SWITCHES = {"yes": True, "no": False}


# No ParamSpec: the wrapper accepts more kinds of calls than the function does.
def unwrap_cfg(func: Callable[..., R]) -> Callable[..., R]:
    """Let a function also be called with one dict of its keywords, a ``cfg``.

    The decorated function accepts all of ``func(cfg, data)``, ``func(data, cfg)``,
    ``func(data, cfg=cfg)``, ``func(cfg=cfg, data=data)`` and, where the cfg holds the
    data under ``"data"`` or ``"dataset"``, ``func(cfg)``. Further keywords may stand
    beside the cfg. A call without a cfg reaches the function as it is.

    In a call with a cfg the strings ``"yes"`` and ``"no"``, in any case, become ``True``
    and ``False``. Data under the name of a parameter of the function go to that
    parameter, else they are the first positional argument. The cfg is never changed.

    Parameters
    ----------
    func : callable
        A Python function without a parameter named ``cfg``. It should not take a dict as
        a positional argument: each dict found there is a cfg. Compute functions, which
        workers call with a dict, are decorated with ``unwrap_io`` only.

    Returns
    -------
    callable
        The function with the calls above.

    Raises
    ------
    ConfigError
        From the decorator, if `func` cannot be decorated. From a call, if the cfg is no
        mapping of names, if there are two, if a key or the data are given twice, or if
        the function has no such key.

    See Also
    --------
    hpcio.unwrap_io : The decorator of compute functions.

    Examples
    --------
    >>> @unwrap_cfg
    ... def smooth(data, *, width=3, detrend=False):
    ...     return data, width, detrend
    >>> smooth([1, 2], {"width": 5, "detrend": "yes"})
    ([1, 2], 5, True)
    >>> smooth({"data": [1, 2], "width": 5}, detrend=True)
    ([1, 2], 5, True)
    """
    name, signature = _inspect(func)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        cfgs = [arg for arg in args if isinstance(arg, dict)]
        if "cfg" in kwargs:
            cfgs.append(kwargs.pop("cfg"))
        if not cfgs:
            return func(*args, **kwargs)
        if len(cfgs) > 1:
            raise ConfigError(f"{name} was given {len(cfgs)} cfgs. Merge them into one dict.")
        keywords = _merge(name, cfgs[0], kwargs)
        data = [arg for arg in args if not isinstance(arg, dict)]
        data += _take_data(name, keywords, signature.parameters, given=bool(data))
        try:
            signature.bind(*data, **keywords)
        except TypeError as error:
            raise ConfigError(
                f"{name} cannot be called with this cfg: {error}. "
                f"Give each argument once, under a name that {name}{signature} knows."
            ) from error
        return func(*data, **keywords)

    return wrapper


def _inspect(func: Callable[..., Any]) -> tuple[str, inspect.Signature]:
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"unwrap_cfg cannot decorate {func!r}: it has no signature. Decorate a function."
        ) from error
    name = getattr(func, "__qualname__", repr(func))
    if "cfg" in signature.parameters:
        raise ConfigError(
            f"unwrap_cfg cannot decorate {name}: its parameter 'cfg' would never be filled. "
            "Give the parameter another name, or leave the decorator away."
        )
    return name, signature


def _merge(name: str, cfg: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """One new dict of the cfg and the keywords beside it, with switches as booleans."""
    if not isinstance(cfg, Mapping):
        raise ConfigError(
            f"The cfg of {name} is {cfg!r} of type {type(cfg).__name__}. "
            "Give a dict of keywords, such as {'width': 5}."
        )
    for key in cfg:
        if not isinstance(key, str):
            raise ConfigError(
                f"The cfg of {name} has the key {key!r}, which is no name. Use strings as keys."
            )
        if key == "cfg":
            raise ConfigError(f"The cfg of {name} holds another 'cfg'. Merge them into one dict.")
        if key in keywords:
            raise ConfigError(
                f"{name} was given '{key}' twice, in its cfg and as a keyword. Remove one of them."
            )
    return {
        key: value if key in _DATA else _switch(value) for key, value in {**cfg, **keywords}.items()
    }


def _switch(value: Any) -> Any:
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def _take_data(
    name: str, keywords: dict[str, Any], parameters: Mapping[str, Any], *, given: bool
) -> list[Any]:
    """Take the data out of `keywords`, unless they go to a parameter of that name."""
    found = [key for key in _DATA if key in keywords]
    if len(found) > 1 and "dataset" not in parameters:
        raise ConfigError(f"{name} was given both 'data' and 'dataset'. Remove one of them.")
    taken = [key for key in found if key not in parameters]
    if not taken:
        return []
    if given:
        raise ConfigError(
            f"{name} was given its data twice, as an argument and as '{taken[0]}'. "
            "Remove one of them."
        )
    return [keywords.pop(taken[0])]
