"""What a compute function gets besides the trial, and how a plan keeps it."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hpcio.errors import OptionError, PlanError

__all__ = ["Arguments", "fingerprint", "per_trial"]


@dataclass(frozen=True, eq=False)
class PerTrial:
    """One value for each trial; made by :func:`per_trial`."""

    values: Sequence[Any] | np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def per_trial(values: Sequence[Any] | np.ndarray) -> PerTrial:
    """Mark an argument of a compute function as having one value for each trial.

    Parameters
    ----------
    values : sequence or numpy.ndarray, length N
        Value `i` goes to the call for trial `i`, in the order of the selected trials.

    Returns
    -------
    PerTrial
        To be handed over in ``args`` or ``kwargs`` of :meth:`hpcio.Plan.create`.

    Examples
    --------
    >>> gain = per_trial([1.0, 2.0, 0.5])
    >>> len(gain)
    3
    """
    if isinstance(values, PerTrial):
        return values
    if not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        raise OptionError(f"per_trial needs a sequence, not {type(values).__name__}. Pass a list.")
    return PerTrial(values)


@dataclass(frozen=True)
class Arguments:
    """What a compute function gets besides the trial."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def given(cls, args: object, kwargs: object) -> Self:
        """Arguments as a caller gives them.

        Raises
        ------
        PlanError
            If `args` is no sequence, or `kwargs` is no dict.
        """
        if not isinstance(args, Sequence) or isinstance(args, str | bytes):
            raise OptionError(f"args={args!r:.100} is no tuple. Write args=(value,) for one value.")
        if not isinstance(kwargs, Mapping):
            raise OptionError(f"kwargs={kwargs!r:.100} is no dict. Write kwargs={{'name': value}}.")
        return cls(tuple(args), dict(kwargs))

    def dump(self) -> bytes:
        """The arguments as bytes; PlanError names what cannot be pickled."""
        fingerprint(self)  # says what cannot be pickled
        import cloudpickle

        return cloudpickle.dumps((self.args, self.kwargs), protocol=5)  # type: ignore[no-any-return]

    @classmethod
    def load(cls, payload: bytes) -> Self:
        """The arguments from the bytes of `dump`; needs the Python environment that made them."""
        try:
            return cls(*pickle.loads(payload))
        except Exception as error:
            raise PlanError(
                f"The arguments of the plan cannot be unpickled here ({type(error).__name__}: "
                f"{error}). Use the Python environment that made the plan."
            ) from error

    def described(self) -> dict[str, str]:
        """The arguments as text, for people."""
        return {"args": repr(self.args), "kwargs": repr(self.kwargs)}

    def check(self, trials: int) -> None:
        """Raise PlanError unless every per-trial argument has one value for each trial."""
        for name in (*range(len(self.args)), *self.kwargs):
            value = self.args[name] if isinstance(name, int) else self.kwargs[name]
            if isinstance(value, PerTrial) and len(value) != trials:
                raise OptionError(
                    f"The per-trial argument {name!r} has {len(value)} values for {trials} trials. "
                    "Give one value for each selected trial."
                )
        reserved = self.kwargs.keys() & {"noCompute", "chunkShape"}
        if reserved:
            raise OptionError(f"'{reserved.pop()}' is set by the plan. Take it out of kwargs.")

    @property
    def vary(self) -> bool:
        """Whether any argument differs from trial to trial."""
        return any(isinstance(v, PerTrial) for v in (*self.args, *self.kwargs.values()))

    def of(self, trial: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of one trial."""
        if not self.vary:
            return self.args, self.kwargs

        def pick(value: Any) -> Any:
            return value.values[trial] if isinstance(value, PerTrial) else value

        return tuple(map(pick, self.args)), {k: pick(v) for k, v in self.kwargs.items()}


_PLACE = {"__package__", "__name__", "__path__", "__file__"}


def _is_random(value: object) -> bool:
    """Whether this is a random identifier that cloudpickle gives a class of ``__main__``."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None


def fingerprint(value: object) -> str:
    """A digest of any value that can be pickled, functions by their code included.

    Two equal functions from two sessions get the same digest, wherever they were typed:
    a notebook cell that is run again is still the same function.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
        def persistent_id(self, obj: Any) -> Any:
            if type(obj) in (set, frozenset):  # each process has an order of its own
                return type(obj).__name__, sorted(map(fingerprint, obj))
            if type(obj) is dict and "__name__" in obj and obj.keys() <= _PLACE:
                return "globals"  # of a function: they name the file that it was typed in
            return None

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, types.CodeType):  # never loaded again, so any callable will do
                place_free = (obj.co_code, obj.co_consts, obj.co_names, obj.co_varnames)
                return str, place_free
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and isinstance(reduced, tuple):
                make, arguments, *state = reduced
                return make, tuple(None if _is_random(a) else a for a in arguments), *state
            return reduced

    out = io.BytesIO()
    try:
        Pickler(out, protocol=5).dump(value)
    except Exception as error:
        raise PlanError(
            f"{value!r:.200} cannot be pickled ({error}). A plan keeps its function and "
            "arguments on disk: pass plain values, and open files inside the function."
        ) from error
    return hashlib.sha256(out.getvalue()).hexdigest()
