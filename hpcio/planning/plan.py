"""The plan: what every block reads, computes and writes, frozen before work begins."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpcio.errors import PlanError
from hpcio.files import ACCESS, Access, Modes, RunDirectory
from hpcio.fingerprints import Fingerprint, fingerprint
from hpcio.function import Arguments, Function, Part, Reduction
from hpcio.layout import Average, Axis, Output, Target, nbytes_of
from hpcio.planning.options import Sources
from hpcio.planning.sharing import hold_once, memory_of
from hpcio.recording import Blocks, Recording, Trials, trials_in_words
from hpcio.words import START_OVER, count, html_table, in_lines, shape_words, size

__all__ = ["Former", "Plan"]


@dataclass(frozen=True)
class Former:
    """A plan whose results are kept: of another function, other arguments, or fewer trials.

    Attributes
    ----------
    digest, run_id : str
        Of that plan.
    trials : int
        How many it had.
    changed : bool
        Whether the next plan has another function, or other arguments.
    created : str
        When its result was published; ``""`` if it was not.
    function, function_digest, function_version : str
    packages : mapping of str to str
        Versions that were planned, by package.
    described : mapping of str to str
        Its arguments and its function as text.
    """

    digest: str
    run_id: str
    trials: int
    changed: bool
    created: str
    function: str
    function_digest: str
    function_version: str
    packages: Mapping[str, str]
    described: Mapping[str, str]

    @classmethod
    def of(cls, plan: Plan, *, changed: bool = True, created: str = "") -> Self:
        """What is kept of a plan."""
        by = plan.function
        return cls(
            plan.digest, plan.run_id, len(plan.trials), changed, created,
            by.name, by.digest, by.version, plan.packages, plan.described,
        )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """The value alone: what every block reads, computes and writes.

    :class:`hpcio.Plan`, which can be made and run, names the attributes.
    """

    function: Function
    source: Recording
    trials: Trials
    blocks: Blocks
    target: Target
    axes: tuple[Axis, ...]
    payload: bytes = field(repr=False)
    given: Fingerprint = field(repr=False)
    out: str
    writer: str
    sources: Sources
    average: Average | None
    casting: str
    described: Mapping[str, str]
    run_id: str
    digest: str
    live: Callable[..., Any] | None = field(default=None, repr=False)
    chunks: tuple[int, ...] | None = None
    compression: str | None = None
    same_versions: bool = False
    access: Access = "result"
    reduction: tuple[Function, ...] = ()
    # The run whose result this one replaces, "" if there is none; None while that is not known.
    replaces: str | None = None
    # Plans of the same blocks, or of the first of them, whose results are kept, the oldest first;
    # for each block the place of the one whose result is kept, from 1 on, or 0 for what this plan
    # computes itself.
    former: tuple[Former, ...] = ()
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16), repr=False)
    # Whether `prepare` is to set aside what is there; no run directory keeps it.
    starts_over: bool = False
    # Several results of one call; then `target` is the layout of the records that hold those of
    # trials, `axes` is empty and `average` is None. See `outputs`.
    several: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        hold_once([*self._targets, self.blocks], [self.trials])

    def __len__(self) -> int:
        """Number of blocks."""
        return int(self.blocks.trial.size)

    @property
    def _targets(self) -> list[Target]:
        return [self.target, *(output.target for output in self.several)]

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes."""
        return memory_of([*self._targets, self.blocks, self.trials])

    def _rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        blocks = f"; in {count(len(self), 'block')}" if self.counted == "block" else ""
        rows = [
            ("plan", self.digest[:8]),
            ("function", str(self.function)),
            ("recording", str(self.source)),
            ("trials", trials_in_words(self.trials) + blocks),
            *((self.called_in_words(output), self.in_words(output)) for output in self.outputs),
            ("average", str(self.average) if self.average else ""),
            ("into", f"{self.out} (writer {self.writer})"),
        ]
        return [(name, value) for name, value in rows if value]

    def __repr__(self) -> str:
        return in_lines(self._rows())

    def _repr_html_(self) -> str:
        return html_table("What a run will do", self._rows())

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The datasets of the result: ``data`` alone, or one for each of several results."""
        one = Output("data", self.target, self.axes, self.average, self.chunks, self.compression)
        return self.several or (one,)

    @property
    def is_packed(self) -> bool:
        """Whether virtual sources have chunks, those of some output at least."""
        return any(output.chunks is not None for output in self.outputs)

    @property
    def of_trials(self) -> tuple[Output, ...]:
        """The outputs that hold the results of trials."""
        return tuple(output for output in self.outputs if output.average is None)

    @property
    def averaged(self) -> tuple[Output, ...]:
        """The outputs that hold averages of all trials."""
        return tuple(output for output in self.outputs if output.average is not None)

    @property
    def grouping(self) -> Average | None:
        """An average that says which groups trials form, in which all of a plan agree."""
        return next((output.average for output in self.averaged), None)

    def without_averages(self) -> Self:
        """The plan as the writer of the results of trials is to see it."""
        return replace(self, several=self.of_trials)

    def called_in_words(self, output: Output) -> str:
        """What people call an output: the result, or one of several by its name."""
        return f"result '{output.name}'" if self.several else "result"

    def in_words(self, output: Output) -> str:
        """Shape, type and size of an output, and which average one of several is."""
        target, names = output.target, [axis.name for axis in output.axes]
        average = f", {output.average}" if self.several and output.average else ""
        shape = shape_words(target.shape, names)
        return f"{shape}, {target.dtype}, {size(target.nbytes)}{average}"

    def expected(self, blocks: np.ndarray) -> Mapping[int, tuple[Any, ...]]:
        """What calls return for some blocks, by `target.shape_index`.

        Returns
        -------
        mapping
            Shapes for `hpcio.function.compute`; of several results, what `compute_record` takes:
            those that are averaged come last.
        """
        if not self.several:
            return dict(enumerate(self.shapes))
        index, first = np.unique(self.target.shape_index[blocks], return_index=True)
        found: list[tuple[Part, ...]] = [
            tuple((o.name, o.shape_of(b), o.dtype) for o in (*self.of_trials, *self.averaged))
            for b in blocks[first].tolist()
        ]
        return dict(zip(index.tolist(), found, strict=True))

    @property
    def dtype(self) -> np.dtype:
        """Type of the result of one block."""
        return self.outputs[0].dtype

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of plans whose journals count: of this one, then of the former ones."""
        return self.digest, *(one.digest for one in self.former)

    def has_changed_since(self, digest: str) -> bool:
        """Whether function or arguments of a plan, which counts, are others."""
        digests = [one.digest for one in self.former]
        return digest in digests and any(
            one.changed for one in self.former[digests.index(digest) :]
        )

    def has_but_grown_since(self, digest: str) -> bool:
        """Whether a plan, which counts, had fewer trials, and nothing else has changed."""
        return self.has_grown_since(digest) and not self.has_changed_since(digest)

    def has_grown_since(self, digest: str) -> bool:
        """Whether a plan, which counts, had fewer trials."""
        fewer = (one.digest for one in self.former if one.trials < len(self.trials))
        return digest in fewer

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The distinct shapes of results of blocks; of several results, those of the first."""
        return self.outputs[0].shapes

    def shape_of(self, block: int) -> tuple[int, ...]:
        """Shape of the result of one block."""
        return self.outputs[0].shape_of(block)

    def largest_shape(self) -> tuple[int, ...]:
        """The largest length of a result on each axis, which functions know as `chunkShape`."""
        return tuple(max(lengths) for lengths in zip(*self.shapes, strict=True))

    @property
    def counted(self) -> str:
        """What people count: a trial, or a block where trials are cut into channel blocks."""
        return "trial" if self.blocks.channel_blocks == 1 else "block"

    def group_of(self, blocks: np.ndarray) -> np.ndarray:
        """Which blocks one process computes together: numbers of groups, in order, shape (n,)."""
        return blocks if self.grouping is None else self.grouping.group_of(blocks)

    @property
    def run_directory(self) -> Path:
        """``OUT.run``, where plan, sources, journals and logs of this run lie."""
        return self.rundir.path

    @property
    def rundir(self) -> RunDirectory:
        """The names of all that lies in the run directory."""
        return RunDirectory.of(self.out)

    @property
    def modes(self) -> Modes:
        """The modes of the result and of what the run keeps."""
        return ACCESS[self.access]

    def input_sizes(self) -> np.ndarray:
        """Bytes that each block hands to the function, shape (B,)."""
        each = [int(np.prod(kind.inshape, dtype=np.int64)) for kind in self.blocks.input_kinds]
        sizes: np.ndarray = np.asarray(each, np.int64)[self.blocks.input_kind]
        return sizes * self.source.dtype.itemsize

    def work_sizes(self) -> np.ndarray:
        """Bytes that each block reads and writes, shape (B,)."""
        sizes: np.ndarray = self.input_sizes() + self.result_sizes()
        return sizes

    def result_sizes(self) -> np.ndarray:
        """Bytes of the results of each block, shape (B,); of averages, in the type of these."""
        sizes: np.ndarray = np.sum([output.result_sizes() for output in self.outputs], axis=0)
        return sizes

    @property
    def group_bytes(self) -> int:
        """Bytes of all sums of one group of averages; 0 without one."""
        return sum(
            output.average.conditions * nbytes_of(output.average, output.shape_of(block))
            for output in self.averaged
            if output.average is not None
            for block in range(output.average.channel_blocks)
        )

    def stored_bytes(self, blocks: np.ndarray) -> int:
        """Bytes that a run writes for some blocks: their results, and the sums of averages."""
        sums = self.group_bytes and int(np.unique(self.group_of(blocks)).size) * self.group_bytes
        return sums + (int(self.target.sizes()[blocks].sum()) if self.of_trials else 0)

    def load_function(self, *, remedy: str = "") -> Callable[..., Any]:
        """The function itself; it is in place only if it is the very one that was planned.

        Parameters
        ----------
        remedy : str
            What is said to do if it has changed; by default how to keep what is done.

        Raises
        ------
        FunctionError
            If it cannot be imported or unpickled here.
        PlanError
            If anything that it reaches has changed since.
        """
        return self.function.load(
            live=self.live,
            same_versions=self.same_versions,
            remedy=remedy or self._keep_what_is_done,
        )

    def load_reduction(self, *, remedy: str = "") -> Reduction | None:
        """The user's functions that make an average, if they are what the plan was made for.

        Parameters
        ----------
        remedy : str
            As for `load_function`.

        Returns
        -------
        Reduction or None
            None if the plan has no such functions.

        Raises
        ------
        FunctionError, PlanError
            As for `load_function`.
        """
        if self.average is None or not self.reduction:
            return None
        # What such functions have added up cannot be kept: `finish` gets it whole.
        functions = [
            function.load(same_versions=self.same_versions, remedy=remedy)
            for function in self.reduction
        ]
        return Reduction(
            tuple(functions),
            self.average.functions,
            state=self.average.state,
            shape=self.target.shapes[0],
            dtype=self.target.dtype,
        )

    @property
    def packages(self) -> dict[str, str]:
        """The versions of all packages that the functions reach, by name."""
        found: dict[str, str] = {}
        for function in (*self.reduction, self.function):
            found |= function.fingerprint.packages
        return found

    def arguments(self) -> Arguments:
        """The arguments of the function; values of :func:`hpcio.per_trial` are still whole.

        Raises
        ------
        PlanError
            If they cannot be unpickled here, or lead to code that has changed.
        """
        given = Arguments.load(self.payload)
        changes = self.given.reaches_code and fingerprint(given).changes(self.given)
        if changes:
            raise PlanError(
                f"An argument of the plan leads to code that has changed since ({changes[0]}). "
                f"{self._keep_what_is_done}"
            )
        return given

    @property
    def _keep_what_is_done(self) -> str:
        """What to do if the function has changed; results are not mixed without a word."""
        resume = f"hpcio resume {shlex.quote(self.out)}"
        keep = f"go on with the new one ({resume} --keep-done; the result says which trials are of "
        if self.function.pickled:
            keep = "plan again, and plan.run(keep_done=True) (the result says which trials are of "
        return (
            f"To keep what is done, {keep}which), or put the old one back and finish with it "
            f"({resume}). Else {START_OVER}; in a session, import an edited module anew first."
        )

    def trl_dat(self, i: int) -> dict[str, Any]:
        """The dict of block `i` for a function decorated with `unwrap_io`.

        It makes a worker write a virtual source of its own, as a plan with
        ``sources="trial"`` does.

        Parameters
        ----------
        i : int
            Number of the block, from 0.

        Returns
        -------
        dict
            With the keys described in :func:`hpcio.unwrap_io`.

        Raises
        ------
        PlanError
            If values are to be read in units: such a dict says where they lie, and no more.
        """
        if self.several:
            raise PlanError(
                "A dict for a worker holds one array, and this function returns several. Run the "
                "plan."
            )
        if self.source.units is not None:
            raise PlanError(
                f"The plan reads '{self.source.dataset}' in {self.source.units}, and a "
                "dict for a worker would have the values as they are stored. Run the plan, or "
                "make one without units."
            )
        kind = self.blocks.kind_of(i)
        source, region = self.source.at(self.blocks.ingrid(i))
        trial, part = int(self.blocks.trial[i]), int(self.blocks.channel_block[i])
        folder = Path(f"{self.out}.byhand")
        return {
            "keeptrials": self.average is None,
            "infile": source.path,
            "indset": source.dataset,
            "ingrid": region,
            "inshape": kind.inshape,
            "sigrid": None if kind.sigrid is None else [list(s) for s in kind.sigrid],
            "fancy": kind.sigrid is not None,
            "vdsdir": str(folder),
            "outfile": str(folder / f"{trial}_{part}.h5"),
            "outdset": "data",
            "outgrid": self.target.region(i),
            "outshape": self.shape_of(i),
            "dtype": self.target.dtype,
            "call_id": f"__{trial}_{part}",
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that say what each block reads, by their name in ``plan.h5``."""
        b, t = self.blocks, self.trials
        return {
            "trials/start": t.start, "trials/stop": t.stop, "trials/offset": t.offset,
            "trials/index": t.index, "blocks/trial": b.trial, "blocks/base": b.base,
            "blocks/input_kind": b.input_kind, "blocks/channel_block": b.channel_block,
        }  # fmt: skip
