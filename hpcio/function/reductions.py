"""Three functions of the user's own that make one array of the results of all trials."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from hpcio.errors import FunctionError
from hpcio.files import fill_of
from hpcio.function.calls import as_array
from hpcio.function.functions import Compute
from hpcio.words import START_OVER

__all__ = ["ROLES", "Reduction", "plain_state", "state_of"]

# The three functions, in their order.
ROLES = ("start", "add", "finish")

# The type of a state: that of one array, or of a record of several.
PlainState = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Reduction:
    """``start``, ``add`` and ``finish`` as they are called: what they give is checked each time.

    A state is kept as one array, or as one record of arrays, which nobody else holds. Functions get
    its arrays read-only, and what they return is copied. So they can change no state.

    Attributes
    ----------
    functions : tuple of callable
    names : tuple of str
    state : numpy.dtype or None
        Of a state; None while that is not known.
    shape, dtype : optional
        Of what ``finish`` makes; None while that is not known.
    """

    functions: tuple[Compute, ...]
    names: tuple[str, ...]
    state: np.dtype | None = None
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None

    @classmethod
    def tried(cls, functions: Sequence[Compute], names: Sequence[str], result: np.ndarray) -> Self:
        """The functions, with what they make of a result and of the same result once more.

        Raises
        ------
        FunctionError
            If one of them raises, or gives what is no state, or another one than before; if
            ``add`` is not associative.
        """
        made = cls(tuple(functions), tuple(names))
        with np.errstate(all="ignore"):
            try:
                first = made.start(result)
            except FunctionError:
                raise
            except (Exception, SystemExit) as error:
                raise made._raised(0, error) from error
            made = replace(made, state=_type_of(first))
            stored = made.finish(made.add(first, made.start(result)))
            made._check_associative(result)
        return replace(made, shape=stored.shape, dtype=stored.dtype)

    def _check_associative(self, result: np.ndarray) -> None:
        """Raise FunctionError if three trials give another state when they are joined otherwise.

        The mean of two means is the usual mistake. Of results that the functions refuse, nothing
        is known.
        """
        try:
            a, b, c = (self.start((k * result).astype(result.dtype)) for k in (1, 2, 4))
            one, other = self.add(self.add(a, b), c), self.add(a, self.add(b, c))
        except (Exception, SystemExit):  # noqa: BLE001  (ones are what they have to take)
            return
        pairs = zip(_arrays(one), _arrays(other), strict=True)
        if not all(np.allclose(x, y, rtol=1e-4, equal_nan=True) for x, y in pairs):
            raise FunctionError(
                f"{self._who(1)} is not associative: of three results of ones, twos and fours, "
                "add(add(a, b), c) is not add(a, add(b, c)). Then the average would depend on how "
                "trials are grouped. Keep in the state what can be added, such as sum and count, "
                "and divide in finish."
            )

    @property
    def fill(self) -> float:
        """What stands where no trial has a result: NaN, or zero for integers."""
        assert self.dtype is not None
        return fill_of(self.dtype)

    def start(self, result: np.ndarray) -> np.ndarray:
        """The state of one trial; what the function raises passes through."""
        seen = result.view()
        seen.flags.writeable = False
        return self._kept(0, self.functions[0](seen))

    def add(self, state: np.ndarray, later: np.ndarray) -> np.ndarray:
        """The state of all trials of two states, of which the second has later ones.

        Raises
        ------
        FunctionError
            If the function raises, or gives another kind of state.
        """
        return self._kept(1, self._called(1, _handed(state), _handed(later)))

    def finish(self, state: np.ndarray) -> np.ndarray:
        """What is stored.

        Raises
        ------
        FunctionError
            If the function raises, or gives another shape or type than was planned.
        """
        array = self._array(2, self._called(2, _handed(state)))
        array = array.astype(array.dtype.newbyteorder("="))
        if self.dtype is not None and (array.shape, array.dtype) != (self.shape, self.dtype):
            raise FunctionError(
                f"{self._who(2)} returned {array.dtype} of shape {array.shape}, but {self.dtype} "
                f"of shape {self.shape} was planned. {self._remedy}"
            )
        return array

    def _called(self, which: int, *states: Any) -> Any:
        try:
            return self.functions[which](*states)
        except (Exception, SystemExit) as error:
            raise self._raised(which, error) from error

    def _raised(self, which: int, error: BaseException) -> FunctionError:
        frames = traceback.extract_tb(error.__traceback__)[1:2]  # the first one is ours
        where = "".join(f" ({os.path.basename(f.filename)}, line {f.lineno})" for f in frames)
        return FunctionError(
            f"{self._who(which)} raised {type(error).__name__}: {error}{where}. {self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        return "Correct it." if self.dtype is None else f"Correct it, then {START_OVER}."

    def _kept(self, which: int, value: Any) -> np.ndarray:
        """A copy of what a function gave as a state, if it is one of the kind that is known."""
        parts = value if isinstance(value, tuple) else (value,)
        arrays = [self._array(which, part) for part in parts]
        said = [(a.dtype.newbyteorder("=").str, a.shape) for a in arrays]
        kind = state_of({"is_tuple": isinstance(value, tuple), "arrays": said})
        if not arrays or (self.state is not None and kind != self.state):
            before = "" if self.state is None else f", and before {_words(self.state)}"
            raise FunctionError(
                f"{self._who(which)} gave {_words(kind)} as a state{before}. Let start and add "
                "give an array, or a tuple of arrays, of the same shapes and types each time."
            )
        kept = np.zeros((), kind)
        for place, array in zip(_arrays(kept), arrays, strict=True):
            place[...] = array
        kept.flags.writeable = False
        return kept

    def _array(self, which: int, value: Any) -> np.ndarray:
        try:
            return as_array(value)
        except FunctionError as error:
            said = str(error).replace("The function", self._who(which))
            raise FunctionError(said) from error

    def _who(self, which: int) -> str:
        return f"'{self.names[which]}' (the {ROLES[which]} of reduce)"


def state_of(plain: PlainState) -> np.dtype:
    """The type of a state, of what `plain_state` has said of it."""
    arrays = [(np.dtype(kind), tuple(shape)) for kind, shape in plain["arrays"]]
    if not plain["is_tuple"]:
        return np.dtype(arrays[0])
    named = [(f"f{k}", kind, shape) for k, (kind, shape) in enumerate(arrays)]
    return np.dtype(named, align=True)


def plain_state(state: np.dtype) -> PlainState:
    """The type of a state as JSON can hold it."""
    arrays = [[kind.base.str, list(kind.shape)] for kind in _kinds(state)]
    return {"is_tuple": state.names is not None, "arrays": arrays}


def _kinds(state: np.dtype) -> list[np.dtype]:
    """The types of the arrays of a state, with their shapes."""
    return [state] if state.names is None else [state[name] for name in state.names]


def _type_of(state: np.ndarray) -> np.dtype:
    """The type of the record that is a state, or of the array."""
    return state.dtype if state.dtype.names else np.dtype((state.dtype, state.shape))


def _arrays(state: np.ndarray) -> list[np.ndarray]:
    """The arrays of a state, which share its memory."""
    names = state.dtype.names
    return [state] if names is None else [state[name] for name in names]


def _handed(state: np.ndarray) -> Any:
    """A state as functions get it: as they gave it, but read-only."""
    handed = []
    for array in _arrays(state):
        seen = array.view()
        seen.flags.writeable = False
        handed.append(seen[()])  # a number where there are no axes
    return handed[0] if state.dtype.names is None else tuple(handed)


def _words(kind: np.dtype) -> str:
    listed = ", ".join(f"{one.base} of shape {one.shape}" for one in _kinds(kind)) or "nothing"
    return listed if kind.names is None else f"({listed})"
