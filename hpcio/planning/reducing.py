"""What a user's own reduction makes of results: its three functions are tried before the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcio.errors import FunctionError, OptionError, from_message
from hpcio.function import ROLES, Function, Reduction, functions_named, plain_state, state_of
from hpcio.layout import OwnReduction
from hpcio.planning.options import Reducing
from hpcio.planning.trying import Said, is_tried_apart, tell, try_each

__all__ = ["calls_of", "reduction_of", "try_reduction"]

Job = tuple[tuple[int, ...], str]


def reduction_of(reduce: Reducing | Mapping[str, Reducing] | None) -> tuple[Function, ...]:
    """The three functions of a reduction, as a plan keeps them; none for averages by their names.

    Raises
    ------
    OptionError
        If these are not three.
    FunctionError
        If one cannot be imported, is not callable, or cannot be pickled.
    """
    if reduce is None or isinstance(reduce, Mapping):
        return ()
    if isinstance(reduce, str) and ":" not in reduce:
        return ()
    found = functions_named(reduce) if isinstance(reduce, str) else reduce
    if not isinstance(found, Sequence) or len(found) != len(ROLES):
        raise OptionError(
            f"reduce={reduce!r:.200} is neither the name of an average nor three functions. Give "
            f"({', '.join(ROLES)})."
        )
    for role, function in zip(ROLES, found, strict=True):
        if not callable(function):
            raise FunctionError(
                f"The {role} of reduce, {function!r:.100}, is not callable. Give three functions "
                f"({', '.join(ROLES)})."
            )
    return tuple(Function.of(function) for function in found)


def try_reduction(
    functions: Sequence[Function],
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    limit: float | None = None,
) -> OwnReduction:
    """Try a reduction with two results of ones.

    Parameters
    ----------
    functions : sequence of Function
    shape, dtype
        Of each result.
    limit : float, optional
        How long that may take, in seconds.

    Raises
    ------
    FunctionError
        If one of the functions raises, or gives no state.
    """
    names = tuple(function.name for function in functions)
    apart = is_tried_apart(*(function.fingerprint for function in functions))
    (said,) = try_each(calls_of, tuple(functions), [(shape, dtype.str)], apart=apart, limit=limit)
    if "kind" in said:
        raise from_message(said)
    if "error" in said:
        raise FunctionError(
            f"The functions of reduce ({', '.join(names)}) fail with two results of ones of shape "
            f"{shape}: {said['error']}. Call them with such to find out why."
        )
    return OwnReduction(
        names, state_of(said["state"]), tuple(said["shape"]), np.dtype(said["dtype"])
    )


def calls_of(functions: Sequence[Function]) -> Callable[[Job], Said]:
    """A function that tries a reduction, for `try_each`."""
    loaded = [function.load() for function in functions]
    names = [function.name for function in functions]

    def call(job: Job) -> Said:
        def answer() -> dict[str, Any]:
            shape, dtype = job
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Reduction.tried(loaded, names, np.ones(shape, dtype))
            assert found.state is not None
            assert found.dtype is not None
            return {
                "state": plain_state(found.state), "shape": found.shape, "dtype": found.dtype.str,
            }  # fmt: skip

        return tell(answer)

    return call
