"""What a compute function gets besides the trial, and how a plan keeps it."""

from __future__ import annotations

import pickle
import reprlib
import types
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hpcio.errors import OptionError, PlanError
from hpcio.words import brief, count

__all__ = ["Arguments", "FreshArguments", "per_trial", "pickled"]


# What no call can change, and so all calls may share.
_SHARED = {
    type(None), bool, int, float, complex, str, bytes, range, type(...), type, np.ufunc,
    types.BuiltinFunctionType, types.ModuleType,
}  # fmt: skip


def _is_shared(value: object) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(_is_shared, value))  # type: ignore[call-overload]
    if isinstance(value, types.FunctionType):  # one that holds things may change them
        return not (value.__closure__ or value.__defaults__ or value.__kwdefaults__ or vars(value))
    if isinstance(value, np.generic):
        return type(value).__module__ == "numpy" and not isinstance(value, np.void)
    return type(value) in _SHARED or isinstance(value, np.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class PerTrial:
    """One value for each trial; made by :func:`per_trial`.

    Attributes
    ----------
    values : sequence or numpy.ndarray
    column : str
        The column of the trials that they are, if any.
    """

    values: Sequence[Any] | np.ndarray
    column: str = ""

    def __repr__(self) -> str:
        return f"per_trial({count(len(self), 'value')})"

    def __len__(self) -> int:
        return len(self.values)

    def taken(self, order: np.ndarray) -> Self:
        """The values at some places."""
        own = self.values
        if isinstance(own, np.ndarray):
            return type(self)(own[order], self.column)
        return type(self)([own[k] for k in order.tolist()], self.column)

    def of(self, trial: int) -> Any:
        """The value of a trial, for one call alone."""
        value = self.values[trial]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return value.copy()
        return value if _is_shared(value) else pickle.loads(pickled(value))


@dataclass(frozen=True)
class PerTrialGenerator:
    """A generator of random numbers for each trial, spawned from the one that was given.

    The draws of a trial do not depend on the others, so that they are the same for any number of
    workers. The children are those of `numpy.random.Generator.spawn`.

    Attributes
    ----------
    kind : str
        The class of its bit generator.
    entropy : int or sequence of int
    spawn_key : tuple of int
    pool_size : int
        As of `numpy.random.SeedSequence`.
    spawned : int
        How many children it had already.
    """

    kind: str
    entropy: Any
    spawn_key: tuple[int, ...]
    pool_size: int
    spawned: int

    @classmethod
    def spawned_from(cls, generator: np.random.Generator) -> Self:
        """Children of a generator, which does not change."""
        bits = generator.bit_generator
        seed = getattr(bits, "seed_seq", None) or getattr(bits, "_seed_seq", None)
        if not isinstance(seed, np.random.SeedSequence):
            raise OptionError(
                f"The generator {generator} has no seed to spawn others from. Make it by "
                "numpy.random.default_rng(seed)."
            )
        return cls(
            type(bits).__name__, seed.entropy, tuple(seed.spawn_key), seed.pool_size,
            seed.n_children_spawned,
        )  # fmt: skip

    def of(self, trial: int) -> np.random.Generator:
        """The generator of a trial."""
        seed = np.random.SeedSequence(
            self.entropy, spawn_key=(*self.spawn_key, self.spawned + trial),
            pool_size=self.pool_size,
        )  # fmt: skip
        return np.random.Generator(getattr(np.random, self.kind)(seed))


def _for_each_trial(value: object) -> object:
    """An argument as a plan keeps it: generators of random numbers become one for each trial."""
    if isinstance(value, np.random.Generator):
        return PerTrialGenerator.spawned_from(value)
    if isinstance(value, np.random.SeedSequence):
        raise OptionError(
            "A SeedSequence counts the children that were spawned of it, which each process would "
            "do for itself. Give numpy.random.default_rng(seed): each trial gets a child of it."
        )
    return value


@dataclass(frozen=True)
class PerTrialColumn:
    """A column of the trials, which are not known yet; made by :func:`per_trial`."""

    name: str


def _are_alike(one: object, other: object) -> bool:
    """Whether values of trials are arrays that keep all they say in one array."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    alike = one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "U"
    return bool(alike and one.shape[1:] == other.shape[1:])


def _in_full(value: object) -> object:
    """A value that shows all of an argument."""
    return {"per_trial": value.values} if isinstance(value, PerTrial) else value


def per_trial(values: Sequence[Any] | np.ndarray | str) -> PerTrial | PerTrialColumn:
    """Mark an argument of a compute function as having one value for each trial.

    Parameters
    ----------
    values : str, sequence, numpy.ndarray, pandas.Series or pandas.DataFrame, length N
        The name of a column of the trials; or values: value `i` goes to the call for trial `i`, in
        the order of the selected trials. What is of pandas is taken by position, whatever its
        index. Of a frame, or an array with fields, each call gets a record, with its columns by
        name: ``row["gain"]``.

    Returns
    -------
    PerTrial or PerTrialColumn
        To be handed over in ``args`` or ``kwargs`` of :meth:`hpcio.Plan.create`.

    Examples
    --------
    >>> gain = per_trial([1.0, 2.0, 0.5])
    >>> len(gain)
    3
    >>> per_trial("gain")
    PerTrialColumn(name='gain')
    """
    if isinstance(values, PerTrial | PerTrialColumn):
        return values
    if isinstance(values, str):
        return PerTrialColumn(values)
    # Of pandas, whose index says nothing of positions.
    table: Any = values
    if hasattr(table, "to_records"):
        values = table.to_records(index=False)
    elif hasattr(table, "to_numpy"):
        # numpy has no word for some of its values, such as missing integers.
        plain = isinstance(table.dtype, np.dtype) and table.dtype.kind not in "mM"
        values = table.to_numpy() if plain else table.astype(object).to_numpy()
    unordered = isinstance(values, Mapping | Set)
    if unordered or not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        raise OptionError(f"per_trial needs a sequence, not {type(values).__name__}. Pass a list.")
    return PerTrial(values)


@dataclass(frozen=True, repr=False)
class Arguments:
    """What a compute function gets besides the trial."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        named = [f"{name}={reprlib.repr(value)}" for name, value in self.kwargs.items()]
        return f"Arguments({brief(', '.join([*map(reprlib.repr, self.args), *named]))})"

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
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise OptionError(f"kwargs={kwargs!r:.100} is no dict. Write kwargs={{'name': value}}.")
        named = {name: _for_each_trial(value) for name, value in kwargs.items()}
        return cls(tuple(map(_for_each_trial, args)), named)

    def with_columns(self, column: Callable[[str], np.ndarray]) -> Self:
        """The same, with the values of columns of the trials in place of their names."""

        def with_values(value: object) -> object:
            return (
                PerTrial(column(value.name), value.name)
                if isinstance(value, PerTrialColumn)
                else value
            )

        return type(self)(
            tuple(map(with_values, self.args)),
            {name: with_values(value) for name, value in self.kwargs.items()},
        )

    def in_order(self, order: np.ndarray) -> Self:
        """The same for trials that were sorted; `order` is the place that each of them had."""

        def sorted_too(value: object) -> object:
            if not isinstance(value, PerTrial) or len(value) != len(order):
                return value
            return value.taken(order)

        if (order == np.arange(len(order))).all():
            return self
        return type(self)(
            tuple(map(sorted_too, self.args)),
            {name: sorted_too(value) for name, value in self.kwargs.items()},
        )

    def extended(
        self,
        column: Callable[[str], np.ndarray],
        kwargs: Mapping[str, Any],
        order: np.ndarray,
        trials: int,
    ) -> Self:
        """The same with values for further trials behind those that there are.

        Parameters
        ----------
        column : callable
            Gives the values of a column of the further trials.
        kwargs : mapping
            By :func:`per_trial`, the values of those arguments that are of no column.
        order : numpy.ndarray of int
            The place of the value of each further trial among these.
        trials : int
            How many trials were given, of which some may be there already.

        Raises
        ------
        OptionError
            If values are missing, or given for what has none.
        """
        if not isinstance(kwargs, Mapping):
            raise OptionError(f"kwargs={kwargs!r:.100} is no dict. Write kwargs={{'name': value}}.")
        left = dict(kwargs)

        def longer(name: str | int, value: object) -> object:
            if not isinstance(value, PerTrial):
                return value
            given = left.pop(str(name), None)
            if isinstance(given, PerTrial):
                if len(given) != trials:
                    raise OptionError(
                        f"The argument {name!r} has {len(given)} values for {trials} trials that "
                        "are given. Give one for each."
                    )
                given = given.taken(order)
            elif given is None and value.column:
                given = PerTrial(column(value.column))
            else:
                raise OptionError(
                    f"The argument {name!r} has a value for each trial, and the further trials "
                    f"have none. Give them: kwargs={{{str(name)!r}: hpcio.per_trial([...])}}."
                )
            both = value.values, given.values
            if _are_alike(*both):
                return PerTrial(np.concatenate(both), value.column)
            return PerTrial([*both[0], *both[1]], value.column)

        args = tuple(longer(k, value) for k, value in enumerate(self.args))
        named = {name: longer(name, value) for name, value in self.kwargs.items()}
        if left:
            raise OptionError(
                f"The function has no argument {next(iter(left))!r} with a value for each "
                "trial. The others stay as they were planned."
            )
        return type(self)(args, named)

    def values(self) -> list[Any]:
        """All of them, those without a name first."""
        return [*self.args, *self.kwargs.values()]

    def dump(self) -> bytes:
        """The arguments as bytes; PlanError names what cannot be pickled."""
        return pickled((self.args, self.kwargs))

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
        kwargs = {name: _in_full(value) for name, value in self.kwargs.items()}
        return {"args": repr(tuple(map(_in_full, self.args))), "kwargs": repr(kwargs)}

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

    def of(self, trial: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of one call for a trial; see `FreshArguments`."""
        return FreshArguments(self).of(trial)


class FreshArguments:
    """Arguments for one call after the other: what a call does to them, no other call sees.

    Parameters
    ----------
    arguments : Arguments

    Attributes
    ----------
    shared : bool
        Whether all calls get the same, since they do not differ and no call can change them.
    varies : bool
        Whether values were given for each trial; generators of random numbers are none.
    """

    def __init__(self, arguments: Arguments) -> None:
        self._count, self._names = len(arguments.args), tuple(arguments.kwargs)
        self._values = arguments.values()
        kinds = PerTrial | PerTrialGenerator
        self._varying = [k for k, v in enumerate(self._values) if isinstance(v, kinds)]
        fixed = [k for k in range(len(self._values)) if k not in self._varying]
        self._copied = [k for k in fixed if not _is_shared(self._values[k])]
        self._pickled = pickled([self._values[k] for k in self._copied]) if self._copied else b""
        self.shared = not self._varying and not self._copied
        self._told = [v for v in self._values if isinstance(v, PerTrial)]
        self.varies = bool(self._told)

    def told(self, trial: int) -> tuple[Any, ...]:
        """The values that were given for a trial alone; they are not to be changed."""
        return tuple(value.values[trial] for value in self._told)

    def of(self, trial: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call for a trial, given its number among the selected ones."""
        values = list(self._values)
        if self._copied:
            for k, value in zip(self._copied, pickle.loads(self._pickled), strict=True):
                values[k] = value
        for k in self._varying:
            values[k] = values[k].of(trial)
        n = self._count
        return tuple(values[:n]), dict(zip(self._names, values[n:], strict=True))


def pickled(value: object) -> bytes:
    """A value as bytes that any process can load; PlanError names what cannot be pickled."""
    import cloudpickle

    try:
        return cloudpickle.dumps(value, protocol=5)  # type: ignore[no-any-return]
    except Exception as error:
        raise PlanError(
            f"{value!r:.200} cannot be pickled ({error}). A plan keeps its function and "
            "arguments on disk: pass plain values, and open files inside the function."
        ) from error
