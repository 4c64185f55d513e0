"""The dry run: shape and type of every block, by one call for each distinct case, or for some."""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import numpy as np

from hpcio.errors import FunctionError, HpcioError, HpcioWarning, Interrupted, OptionError
from hpcio.fingerprints import Fingerprint, fingerprint
from hpcio.function import (
    Arguments,
    FauxTrial,
    FreshArguments,
    Function,
    announced_parts,
    arrays_of,
    split_details,
    takes,
)
from hpcio.layout import RESERVED
from hpcio.machine import available, cores
from hpcio.planning.options import CallOptions
from hpcio.planning.plan import Plan
from hpcio.planning.rules import Rule, Shape
from hpcio.planning.trying import (
    MOST_TRIES,
    Said,
    failure,
    in_words,
    is_tried_apart,
    tell,
    try_each,
)
from hpcio.recording import Blocks, InputKind, Recording, take
from hpcio.words import duration

__all__ = ["Called", "Outcome", "calls_for", "dry_run", "dtype_of"]

OutShape = Sequence[int] | Callable[[Shape], Sequence[int]]

# So many shapes are tried before a rule is looked for that says the others.
FEW_SHAPES = 8
# So many of them must be known, since any rule fits one or two.
ENOUGH = 4
# HDF5 counts no further.
_LONGEST = 2**63 - 1
# A trial that is tried is held together with its result, and with what the function makes of it.
_COPIES = 4


@dataclass(frozen=True, eq=False)
class Called:
    """What is called: the function and its arguments, as given and as a plan keeps them."""

    func: Callable[..., Any]
    function: Function
    arguments: Arguments
    payload: bytes
    given: Fingerprint


@dataclass(frozen=True, eq=False)
class Outcome:
    """What blocks return: one result, or one of several.

    Attributes
    ----------
    name : str
        ``""`` if it is the only one, and has none.
    shape_index : numpy.ndarray of int32, shape (B,)
        Index into `shapes` for each block.
    shapes : tuple of tuple of int
        The distinct shapes.
    dtype : numpy.dtype
    """

    shape_index: np.ndarray
    shapes: tuple[Shape, ...]
    dtype: np.dtype
    name: str = ""

    @classmethod
    def of_plan(cls, plan: Plan) -> tuple[Outcome, ...]:
        """What the blocks of a plan return."""
        return tuple(
            cls(o.target.shape_index, o.shapes, o.dtype, o.name if plan.several else "")
            for o in plan.outputs
        )


def dry_run(
    called: Called,
    recording: Recording,
    blocks: Blocks,
    call: CallOptions,
    *,
    known: tuple[Blocks, Sequence[Outcome]] | None = None,
    on_probe: Callable[[int, int], None] | None = None,
) -> tuple[Outcome, ...]:
    """Ask for each distinct (trial shape, arguments) what a block returns.

    A function that announces its results is asked in this process. Any other one is called with
    trials, in processes of their own. Of many shapes only some are tried, if those follow a rule;
    what the others return is checked in the run.

    There is an outcome for each of several results.

    Parameters
    ----------
    called : Called
    recording : Recording
    blocks : Blocks
    call : CallOptions
    known : tuple of Blocks and sequence of Outcome, optional
        Other blocks of the same function, and what they return.
    on_probe : callable, optional
        Called with how many shapes have been tried, and of how many.
    """
    return _DryRun(called, recording, blocks, call, known, on_probe).outcomes()


@dataclass(frozen=True)
class _Answer:
    """What a function returns for a case; or why that is not known."""

    shapes: tuple[Shape, ...] = ()
    dtypes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    failed: Said | None = None

    @property
    def is_known(self) -> bool:
        return bool(self.dtypes)

    @classmethod
    def of(cls, said: Said) -> _Answer:
        if "error" in said:
            return cls(failed=said)
        return cls(tuple(map(tuple, said["shapes"])), tuple(said["dtypes"]), tuple(said["names"]))


class _DryRun:
    def __init__(
        self,
        called: Called,
        recording: Recording,
        blocks: Blocks,
        call: CallOptions,
        known: tuple[Blocks, Sequence[Outcome]] | None,
        on_probe: Callable[[int, int], None] | None,
    ) -> None:
        self._called, self._recording, self._blocks = called, recording, blocks
        self._call, self._on_probe = call, on_probe
        self._name = called.function.name
        self._asks = takes(called.func, "noCompute")
        self._fresh = FreshArguments(called.arguments)
        # With arguments of their own, trials of one shape may give results of several.
        self._known = {} if known is None or self._fresh.varies else _by_shape(*known)
        self._case = _cases(blocks, self._fresh if self._asks else None)
        # The blocks of each case, the first of them as examples.
        order = np.argsort(self._case, kind="stable")
        first = np.searchsorted(self._case[order], np.arange(self._case.max() + 1))
        self._examples = [
            order[np.unique(np.linspace(a, b - 1, MOST_TRIES).astype(int))].tolist()
            for a, b in itertools.pairwise([*first.tolist(), order.size])
        ]

    def outcomes(self) -> tuple[Outcome, ...]:
        """Shape and type of every block, of each result."""
        told, dtype = self._told(), None
        if self._call.out_dtype is not None:
            dtype = dtype_of(self._call.out_dtype)
        if told is None or dtype is None:
            answers = self._answers()
            self._check_names(answers)
            if answers[0].names != ("",):
                return tuple(
                    self._outcome([a.shapes[k] for a in answers], self._type_of(answers, k), name)
                    for k, name in enumerate(answers[0].names)
                )
            shapes = [answer.shapes[0] for answer in answers]
            dtype = self._type_of(answers, 0, dtype)
            self._compare(shapes, told, answers)
        else:
            shapes = told
        return (self._outcome(shapes, dtype),)

    def _outcome(self, shapes: list[Shape], dtype: np.dtype, name: str = "") -> Outcome:
        if dtype.kind not in "biufc":
            raise FunctionError(
                f"'{self._name}' gives results of type {dtype}, which this format does not hold. "
                "Return integers, floats, complex or bool."
            )
        known: dict[Shape, int] = {}
        index = [known.setdefault(shape, len(known)) for shape in shapes]
        return Outcome(np.asarray(index, np.int32)[self._case], tuple(known), dtype, name)

    def _check_names(self, answers: list[_Answer]) -> None:
        """Raise an error unless all trials have the same results, and names that a file can."""
        names, options = answers[0].names, self._call
        for case, answer in enumerate(answers):
            if answer.names != names:
                raise FunctionError(
                    f"'{self._name}' gives {_listed(names)} for {self._where(0)}, but "
                    f"{_listed(answer.names)} for {self._where(case)}. Return the same names, in "
                    "the same order, for all trials."
                )
        taken = {*RESERVED} - {"data"}
        if bad := [name for name in names if name in taken and names != ("",)]:
            raise FunctionError(
                f"'{self._name}' gives a result '{bad[0]}', which is the name of another thing in "
                "the file of a result. Choose another one."
            )
        if names != ("",) and (options.out_shape is not None or options.out_dtype is not None):
            raise OptionError(
                f"out_shape and out_dtype are of one result, and '{self._name}' gives "
                f"{_listed(names)}. Leave them out, and let it announce its results (noCompute)."
            )

    # ---- what the caller says

    def _told(self) -> list[Shape] | None:
        out_shape = self._call.out_shape
        if out_shape is None:
            return None
        return [_told(out_shape, self._inshape(case)) for case in range(len(self._examples))]

    def _compare(
        self, shapes: list[Shape], told: list[Shape] | None, answers: list[_Answer]
    ) -> None:
        for case, (shape, said) in enumerate(zip(shapes, told or shapes, strict=True)):
            if shape != said and answers[case].is_known:
                raise FunctionError(
                    f"'{self._name}' gives shape {shape} for {self._where(case)}, but out_shape "
                    f"says {said}. Correct out_shape, or leave it out."
                )

    def _type_of(
        self, answers: list[_Answer], part: int, dtype: np.dtype | None = None
    ) -> np.dtype:
        for case, answer in enumerate(answers):
            found = np.dtype(answer.dtypes[part])
            if dtype is None:
                dtype = found
            elif found != dtype:
                trial = self._trial(self._examples[case][0])
                of = f" of '{answer.names[part]}'" if answer.names[part] else ""
                gives = f"'{self._name}' gives {found}{of} for {trial}"
                _check_type(found, dtype, self._call, gives)
        assert dtype is not None  # there is at least one block
        return dtype

    # ---- what the function says

    def _answers(self) -> list[_Answer]:
        """What a block of each case returns."""
        cases = list(range(len(self._examples)))
        if self._asks:
            return [self._announced(self._examples[case][0]) for case in cases]
        if all(self._inshape(case) in self._known for case in cases):
            return [self._known[self._inshape(case)] for case in cases]
        some = self._spread(cases) if len(cases) > FEW_SHAPES else cases
        answers = self._tried(some)
        rule = self._rule(answers)
        rest = [case for case in cases if case not in answers]
        known = sum(answer.is_known for answer in answers.values())
        if rest and (rule is None or known < ENOUGH):
            answers |= self._tried(rest)
            rule = self._rule(answers)
        return [self._settled(case, answers, rule) for case in cases]

    def _spread(self, cases: list[int]) -> list[int]:
        """Some cases, from the smallest to the largest; neighbours among them tell rules apart."""
        by_size = sorted(cases, key=lambda case: (np.prod(self._inshape(case)), case))
        places = np.linspace(0, len(cases) - 1, FEW_SHAPES - 2).astype(int).tolist()
        return sorted({by_size[k] for k in (*places, 1, 2)})

    def _rule(self, answers: dict[int, _Answer]) -> list[Rule] | None:
        """The rule of each result; None if one of them follows none."""
        good = [case for case in answers if answers[case].is_known]
        if len({answers[case].names for case in good}) != 1:
            return None
        shapes = zip(*(answers[case].shapes for case in good), strict=True)
        trials = [self._inshape(case) for case in good]
        rules = [Rule.fit(list(zip(trials, each, strict=True))) for each in shapes]
        found = [rule for rule in rules if rule is not None]
        return found if len(found) == len(rules) else None

    def _settled(self, case: int, answers: dict[int, _Answer], rule: list[Rule] | None) -> _Answer:
        """What is known of a case, from its probe or by the rule."""
        answer = answers.get(case, _Answer())
        if answer.is_known:
            return answer
        good = [a for a in answers.values() if a.is_known]
        if answer.failed and (rule is None or not good):
            raise self._error(answer.failed, self._examples[case][0])
        assert rule is not None
        if answer.failed:
            warnings.warn(
                f"'{self._name}' has failed in the dry run, {self._where(case)}: "
                f"{answer.failed['error']}. "
                "Its result is planned as those of others, and the run will try it again.",
                HpcioWarning,
                stacklevel=7,
            )
        inshape = self._inshape(case)
        return _Answer(tuple(r.apply(inshape) for r in rule), good[0].dtypes, good[0].names)

    def _tried(self, cases: list[int]) -> dict[int, _Answer]:
        """What comes of calling the function for some cases, each with some trials at most."""
        answers: dict[int, _Answer] = {}
        for turn in range(MOST_TRIES):
            left = [
                case
                for case in cases
                if not answers.get(case, _Answer()).is_known and turn < len(self._examples[case])
            ]
            if not left:
                break
            found = self._call_for([self._examples[case][turn] for case in left])
            for case, answer in zip(left, found, strict=True):
                if answer.is_known or case not in answers:
                    answers[case] = answer
        return answers

    def _call_for(self, blocks: list[int]) -> list[_Answer]:
        jobs = [
            (int(self._blocks.trial[b]), self._blocks.ingrid(b), self._blocks.kind_of(b))
            for b in blocks
        ]
        need = _COPIES * max(math.prod(kind.inshape) for *_, kind in jobs)
        need *= self._recording.dtype.itemsize
        on_done = None
        if (on_probe := self._on_probe) is not None:
            on_done = lambda done: on_probe(done, len(jobs))  # noqa: E731
        started = perf_counter()
        try:
            found = try_each(
                calls_for,
                (self._called.function, self._recording, self._called.payload),
                jobs,
                apart=is_tried_apart(self._called.function.fingerprint, self._called.given),
                processes=max(1, min(cores(), available() // max(1, need))),
                limit=self._call.trial_time,
                on_done=on_done,
            )
        except KeyboardInterrupt as error:
            others = f", and {len(blocks) - 1} others" if len(blocks) > 1 else ""
            raise Interrupted(
                f"Stopped in the dry run, which had tried '{self._name}' for "
                f"{duration(perf_counter() - started)} with {self._at(blocks[0])}{others}. "
                "If it hangs, say how long a trial may take (trial_time)."
            ) from error
        return [_Answer.of(said) for said in found]

    def _announced(self, block: int) -> _Answer:
        args, kwargs = self._fresh.of(int(self._blocks.trial[block]))
        region = self._blocks.ingrid(block)
        inshape = self._blocks.kind_of(block).inshape
        faux = FauxTrial(inshape, region, self._recording.dtype)
        try:
            parts = announced_parts(self._called.func(faux, *args, noCompute=True, **kwargs))
        except (Exception, SystemExit) as error:
            raise self._error(in_words(error), block) from error
        names, shapes, dtypes = zip(*parts, strict=True)
        return _Answer(shapes, tuple(dtype.str for dtype in dtypes), names)

    # ---- words

    def _inshape(self, case: int) -> Shape:
        return self._blocks.kind_of(self._examples[case][0]).inshape

    def _trial(self, block: int) -> str:
        return f"trial {self._blocks.trial[block]}"

    def _where(self, case: int) -> str:
        return self._at(self._examples[case][0])

    def _at(self, block: int) -> str:
        return f"{self._trial(block)} (shape {self._blocks.kind_of(block).inshape})"

    def _error(self, said: Said, block: int) -> HpcioError:
        return failure(said, self._name, f"in the dry run, {self._at(block)}")


def calls_for(
    given: tuple[Function, Recording, bytes],
) -> Callable[[tuple[int, tuple[slice, ...], InputKind]], Said]:
    """A function that tries a trial, for `try_each`."""
    function, recording, payload = given
    func, arguments = function.load(), FreshArguments(Arguments.load(payload))

    def call(job: tuple[int, tuple[slice, ...], InputKind]) -> Said:
        number, region, kind = job

        def answer() -> Said:
            with recording.open() as opened:
                trial = take(opened.read(region), kind.sigrid)
            args, kwargs = arguments.of(number)
            result, _ = split_details(func(trial, *args, **kwargs))
            arrays = arrays_of(result)
            return {
                "names": [*arrays],
                "shapes": [array.shape for array in arrays.values()],
                "dtypes": [array.dtype.str for array in arrays.values()],
            }

        return tell(answer)

    return call


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) if names != ("",) else "one array"


def _by_shape(blocks: Blocks, outcomes: Sequence[Outcome]) -> dict[Shape, _Answer]:
    """What is returned for trials of each shape."""
    dtypes, names = tuple(o.dtype.str for o in outcomes), tuple(o.name for o in outcomes)
    first = np.unique(blocks.input_kind, return_index=True)[1].tolist()
    return {
        blocks.kind_of(b).inshape: _Answer(
            tuple(o.shapes[o.shape_index[b]] for o in outcomes), dtypes, names
        )
        for b in first
    }


def _cases(blocks: Blocks, fresh: FreshArguments | None) -> np.ndarray:
    """The case of each block, from 0, shape (B,); with arguments, their values count, too."""
    shapes = [kind.inshape for kind in blocks.input_kinds]
    distinct = {shape: k for k, shape in enumerate(dict.fromkeys(shapes))}
    case = np.asarray([distinct[shape] for shape in shapes], np.int64)[blocks.input_kind]
    if fresh is not None and fresh.varies:
        values: dict[str, int] = {}
        of_trial = np.empty(int(blocks.trial[-1]) + 1, np.int64)
        for trial in range(of_trial.size):
            key = _key(fresh.told(trial))
            of_trial[trial] = values.setdefault(key, len(values))
        case = case + len(distinct) * of_trial[blocks.trial]
    return cast(np.ndarray, np.unique(case, return_inverse=True)[1].reshape(-1))


def _check_type(found: np.dtype, dtype: np.dtype, call: CallOptions, gives: str) -> None:
    if call.out_dtype is None or not np.can_cast(found, dtype, "same_kind"):
        raise FunctionError(
            f"{gives}, but {dtype} {'for others' if call.out_dtype is None else 'is asked for'}. "
            "Let it return one type for all trials."
        )


def _key(values: tuple[Any, ...]) -> str:
    """A key that is equal for equal values, and quick to make for plain numbers."""
    if all(isinstance(v, str | int | float | bool | None | np.generic) for v in values):
        return repr(values)
    return fingerprint(values).digest


def _told(out_shape: OutShape, inshape: Shape) -> Shape:
    try:
        told = out_shape(inshape) if callable(out_shape) else out_shape
    except Exception as error:
        raise OptionError(
            f"out_shape raised {type(error).__name__} for trials of shape {inshape}: {error}. "
            "Correct it, or leave it out."
        ) from error
    try:
        shape = tuple(operator.index(n) for n in told)
    except TypeError:
        shape = (-1,)
    if isinstance(told, Mapping) or not all(0 <= n <= _LONGEST for n in shape):
        raise OptionError(
            f"out_shape={told!r:.100} is no shape for trials of shape {inshape}. Give a tuple of "
            "int from 0, or a function of the trial's shape that returns one."
        )
    return shape


def dtype_of(out_dtype: Any) -> np.dtype:
    """The type that a caller asks for, or an OptionError."""
    try:
        dtype: np.dtype = np.dtype(out_dtype)
        dtype = np.dtype(dtype.str) if dtype.metadata else dtype
    except TypeError:
        raise OptionError(
            f"out_dtype={out_dtype!r:.100} is no type of numpy. Give one such as 'float32'."
        ) from None
    return dtype
