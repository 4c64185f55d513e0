"""What is measured in a folder, in which order, and how often."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from hpcio.bench.comparing import Rates, Side, compare
from hpcio.bench.figures import WRITERS, Figure, LeftOut
from hpcio.bench.functions import as_it_is
from hpcio.bench.jobs import NBYTES, noise, split
from hpcio.bench.team import TEAMS, Round, Team
from hpcio.errors import OutputError, PlanError, WorkerError
from hpcio.journals import prepare
from hpcio.machine import check_room
from hpcio.plan import Plan
from hpcio.words import duration
from hpcio.words import size as size_words
from hpcio.writers import backend_of, needs_ranks

__all__ = ["SCALES", "Scale", "measure"]

# The hard cases of IO500 (https://io500.org): records of `ior`, files of `mdtest`.
RECORD, SMALL_FILE = 47_008, 3_901
# Channels of the recording that is read.
_CHANNELS = 16
# Trials whose results are read again, and files that are made, at the most.
_READ_AGAIN, _MOST_FILES = 128, 20_000
_SIZE_READ = 1_000_000


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes
    ----------
    sizes : tuple of int
        Bytes of a trial.
    repetitions : int
    seconds : float
        About so long each measurement takes.
    budget : float
        About so many seconds all of it may take.
    nbytes : int
        At most so much lies on the disk at a time.
    all_counts : bool
        Whether all powers of two are measured between one process and all.
    """

    sizes: tuple[int, ...]
    repetitions: int
    seconds: float
    budget: float
    nbytes: int
    all_counts: bool = False

    def counts(self, processes: int) -> list[int]:
        """With how many processes it is measured."""
        powers = [2**k for k in range(processes.bit_length())] if self.all_counts else [1]
        return sorted({*powers, processes})


SCALES = {
    "quick": Scale((10_000, 1_000_000, 64_000_000), 3, 0.3, 105.0, 3 << 30),
    "normal": Scale(
        (10_000, 100_000, 1_000_000, 16_000_000, 64_000_000), 5, 0.5, 900.0, 8 << 30,
        all_counts=True,
    ),
    "full": Scale(
        (10_000, 31_600, 100_000, 316_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000), 15, 1.0,
        4 * 3600.0, 16 << 30, all_counts=True,
    ),
}  # fmt: skip


# Measures a part of it, given the seconds that it has.
_Part = Callable[[float], Iterator[Figure | LeftOut]]


def measure(
    folder: Path,
    team: Team,
    scale: Scale,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Figure | LeftOut]:
    """Measure a file system with some processes, in a new folder that all of them see.

    Parameters
    ----------
    folder : pathlib.Path
        It takes at most `scale.nbytes` there, and leaves nothing behind.
    team : Team
    scale : Scale
    say : callable, optional
        Is told what is measured now.

    Yields
    ------
    Figure or LeftOut

    Raises
    ------
    OutputError
        If there is too little room.
    """
    return _Measurements(folder, team, scale, say).run()


def _at_work(size: int, processes: int) -> str:
    return f"trials of {size_words(size)}, {processes} at work"


class _Measurements:
    def __init__(self, folder: Path, team: Team, scale: Scale, say: Callable[[str], None]) -> None:
        self._folder, self._team, self._scale, self._say = folder, team, scale, say
        self._recordings: dict[int, Path] = {}
        self._compare = partial(compare, seconds=scale.seconds, repetitions=scale.repetitions)
        self._writers: list[str] = []  # those that this file system can have
        self._ranks: Team | None = None
        self._end_ranks = ExitStack()
        self._number = 0
        self._started = time.monotonic()

    def run(self) -> Iterator[Figure | LeftOut]:
        with self._end_ranks:
            yield from self._run()

    def _run(self) -> Iterator[Figure | LeftOut]:
        check_room(self._folder / "any", self._scale.nbytes)
        for name in WRITERS:
            try:
                self._try_out(name)
            except (PlanError, OutputError, WorkerError) as error:  # such as locks of one node
                self._end_ranks.close()
                yield LeftOut(WRITERS[name][2], str(error))
            else:
                self._writers.append(name)
        # What matters most comes first, in case the time is over before all is measured.
        *fewer, most = self._scale.counts(self._team.count)
        parts = [
            *self._written(most),
            (f"records of {RECORD:,} bytes", self._records, 0.5),
            (f"files of {SMALL_FILE:,} bytes", self._files, 0.5),
            ("reading again", self._reading, 2.0),
            *(part for processes in fewer for part in self._written(processes)),
        ]
        for k, (what, part, weight) in enumerate(parts):
            left = self._scale.budget - (time.monotonic() - self._started)
            share = left * weight / sum(of for *_, of in parts[k:])
            if left <= 0:
                yield LeftOut(what, f"{duration(self._scale.budget)} were over")
                continue
            self._say(what)
            yield from part(share)
        for path in self._recordings.values():
            path.unlink()

    def _try_out(self, name: str) -> None:
        """Raise what keeps a writer from being measured here, if anything does."""
        size, processes = self._scale.sizes[0], self._team.count
        with self._fresh() as place:
            plan = self._planned(place, name, size, processes)
            if needs_ranks(plan):  # only a round shows whether they start, and open a file together
                self._computed(plan, size, processes)

    def _written(self, processes: int) -> list[tuple[str, _Part, float]]:
        """Parts: their names, and their weights when the time is shared out."""
        return [
            (_at_work(size, processes), partial(self._writing, size, processes), 1.0)
            for size in self._scale.sizes
        ]

    def _figures(
        self,
        part: Literal["write", "records", "files", "read"],
        rates: Mapping[str, Rates] | LeftOut,
        held: Mapping[str, str],
        size: int,
        processes: int,
        unit: Literal["B/s", "1/s"] = "B/s",
    ) -> Iterator[Figure | LeftOut]:
        """Figures of what was compared; `held` says what a side is held against."""
        if isinstance(rates, LeftOut):
            yield rates
            return
        nodes = len({*self._team.hosts[:processes]})
        for name, found in rates.items():
            yield Figure(
                part, name, size, processes, nodes, unit, tuple(found.values),
                held[name] if found.limits else "", tuple(found.limits),
            )  # fmt: skip

    def _each(
        self, processes: int, given: Callable[[int], dict[str, Any]]
    ) -> list[dict[str, Any] | None]:
        return [given(k) if k < processes else None for k in range(self._team.count)]

    # ---- writing

    def _writing(self, size: int, processes: int, share: float) -> Iterator[Figure | LeftOut]:
        what = _at_work(size, processes)
        most = self._scale.nbytes // (2 * size * processes)
        if not most:
            yield LeftOut(what, f"it would take more than {size_words(self._scale.nbytes)}")
            return
        writers = [*self._writers]
        if "mpi" in writers:
            try:
                self._as_ranks(processes)  # to begin takes them longer than a round
            except WorkerError as error:
                writers.remove("mpi")
                yield LeftOut(f"{WRITERS['mpi'][2]}, {what}", str(error))
        files = max(1, min(most, _MOST_FILES // processes))
        sides: dict[str, Side] = {
            "own files": partial(self._raw, size, processes, shared=False),
            "one file": partial(self._raw, size, processes, shared=True),
            "a file a trial": partial(self._made, size, processes),
            **{name: partial(self._ours, name, size, processes) for name in writers},
        }
        at_most = {name: files if "trial" in name else most for name in sides}
        held = {
            "virtual": "own files", "virtual-trial": "a file a trial", "direct": "one file",
            "mpi": "one file", "mutex": "one file",
        }  # fmt: skip
        rates = self._compare(sides, held=held, most=at_most, share=share, what=what)
        yield from self._figures("write", rates, held, size, processes)

    def _raw(self, size: int, processes: int, count: int, *, shared: bool) -> Round:
        """Plain pwrite and one fsync, into a file of each process or into one."""
        with self._fresh() as folder:
            return self._team.do("write", self._each(processes, lambda k: {
                "path": str(folder / ("0" if shared else str(k))), "size": size, "count": count,
                "first": size * k * count if shared else 0, "step": size, "sync": True,
            }))  # fmt: skip

    def _made(self, size: int, processes: int, count: int) -> Round:
        """A new file for each trial, by open, pwrite, close, and fsync."""
        with self._fresh() as folder:
            made = self._team.do("make_files", self._each(processes, lambda k: {
                "folder": str(folder), "name": str(k), "size": size, "count": count, "sync": True,
            }))  # fmt: skip
        return Round(made.seconds, made.nbytes * size)

    def _ours(
        self, name: str, size: int, processes: int, count: int, *, by_turns: bool = False
    ) -> Round:
        """What hpcio takes for the same bytes: read, called, checked, journalled, synced."""
        with self._fresh() as folder:
            plan = self._planned(folder, name, size, processes * count)
            return self._computed(plan, size, processes, by_turns=by_turns)

    def _planned(self, folder: Path, name: str, size: int, trials: int) -> Plan:
        writer, sources, _ = WRITERS[name]
        recording, rows = self._recording(size)
        there = max(1, NBYTES // size)
        start = rows * (np.arange(trials) % there)
        plan = Plan.create(
            as_it_is, f"{recording}::data", trials=np.stack([start, start + rows], axis=1),
            out=folder / "out.h5", writer=writer, sources=sources, join="stack",
        )  # fmt: skip
        return Plan(**vars(prepare(plan)))

    def _computed(self, plan: Plan, size: int, processes: int, *, by_turns: bool = False) -> Round:
        backend_of(plan).reserve(plan)
        shares, step = split(len(plan), processes), 1
        if by_turns:
            shares = [(k, len(range(k, len(plan), processes))) for k in range(processes)]
            step = processes
        team = self._as_ranks(processes) if needs_ranks(plan) else self._team
        return team.do("compute", self._each(processes, lambda k: {
            "out": plan.out, "first": shares[k][0], "count": shares[k][1], "step": step,
            "size": size,
        })[: team.count])  # fmt: skip

    def _as_ranks(self, processes: int) -> Team:
        """A team of so many ranks: all ranks of a job open a file together, so none may rest."""
        if self._ranks is None or self._ranks.count != processes:
            self._ranks = None
            self._end_ranks.close()
            _check_here(self._team)
            folder = self._end_ranks.enter_context(self._fresh())
            ranks = Team(folder / "ranks", processes, TEAMS["ranks"])
            self._ranks = self._end_ranks.enter_context(ranks)
            _check_here(ranks)
        return self._ranks

    def _recording(self, size: int) -> tuple[Path, int]:
        """A recording whose trials have so many bytes, and the rows of each."""
        columns = _CHANNELS if size % _CHANNELS == 0 else 1
        path = self._recordings.get(columns)
        if path is None:
            path = self._recordings[columns] = self._folder / f"recording{columns}.h5"
            with h5py.File(path, "w") as f:
                f["data"] = noise().reshape(-1, columns)
        return path, size // columns

    def _fresh(self) -> _Fresh:
        self._number += 1
        return _Fresh(self._folder / f"round{self._number}")

    # ---- the hard cases of IO500

    def _records(self, share: float) -> Iterator[Figure | LeftOut]:
        """Records that all write into one file by turns; each reads what its neighbour wrote."""
        processes, size = self._team.count, RECORD
        read: list[float] = []

        def raw(count: int) -> Round:
            with self._fresh() as folder:

                def of(k: int) -> dict[str, Any]:
                    return {"path": str(folder / "0"), "size": size, "count": count,
                            "first": size * k, "step": size * processes}  # fmt: skip

                found = self._team.do("write", self._each(processes, lambda k: {
                    **of(k), "sync": True,
                }))  # fmt: skip
                again = self._each(processes, lambda k: of((k + 1) % processes))
                read.append(self._team.do("read", again).rate)
            return found

        most = self._scale.nbytes // (2 * size * processes)
        sides: dict[str, Side] = {
            "one file, by turns": raw,
            "direct": partial(self._ours, "direct", size, processes, by_turns=True),
            "virtual": partial(self._ours, "virtual", size, processes, by_turns=True),
        }
        held = dict.fromkeys(("direct", "virtual"), "one file, by turns")
        rates = self._compare(
            sides, held=held, most=dict.fromkeys(sides, most), share=share, what="records"
        )
        if not isinstance(rates, LeftOut):
            rates["one file, read by the neighbour"] = Rates(read[-self._scale.repetitions :], [])
        yield from self._figures("records", rates, held, size, processes)

    def _files(self, share: float) -> Iterator[Figure | LeftOut]:
        """Small files in one folder: made, looked at, read by a neighbour, removed."""
        processes, size = self._team.count, SMALL_FILE
        phases: dict[str, list[float]] = {"stat": [], "read": [], "remove": []}

        def raw(count: int) -> Round:
            with self._fresh() as folder:

                def of(k: int) -> dict[str, Any]:
                    return {"folder": str(folder), "name": str(k % processes), "count": count}

                made = self._team.do("make_files", self._each(processes, lambda k: {
                    **of(k), "size": size, "sync": False,
                }))  # fmt: skip
                do = self._team.do
                phases["stat"].append(
                    do("stat_files", self._each(processes, lambda k: of(k + 1))).rate
                )
                phases["read"].append(do("read_files", self._each(
                    processes, lambda k: {**of(k + 1), "size": size})).rate)  # fmt: skip
                phases["remove"].append(do("remove_files", self._each(processes, of)).rate)
            return made

        def synced(count: int) -> Round:
            made = self._made(size, processes, count)
            return Round(made.seconds, made.nbytes // size)

        def ours(count: int) -> Round:
            done = self._ours("virtual-trial", size, processes, count)
            return Round(done.seconds, done.nbytes // size)

        most = max(1, _MOST_FILES // processes)
        sides: dict[str, Side] = {"make": raw, "make, fsync": synced, "virtual-trial": ours}
        held = {"virtual-trial": "make, fsync"}
        rates = self._compare(
            sides, held=held, most=dict.fromkeys(sides, most), share=share, what="files"
        )
        if not isinstance(rates, LeftOut):
            rates |= {n: Rates(v[-self._scale.repetitions :], []) for n, v in phases.items()}
        yield from self._figures("files", rates, held, size, processes, "1/s")

    # ---- the result

    def _reading(self, share: float) -> Iterator[Figure | LeftOut]:
        """Results of all processes, read again by one, once this machine has forgotten them."""
        size, processes = _SIZE_READ, self._team.count
        most = self._scale.nbytes // (6 * size)
        trials = max(processes, min(_READ_AGAIN, most))
        with self._fresh() as folder:
            results: dict[str, tuple[str, list[str]]] = {}
            for name in ("virtual", "direct"):
                place = folder / name
                place.mkdir()
                plan = self._planned(place, name, size, trials)
                self._computed(plan, size, processes)
                plan.run(workers=0, progress=False)
                parts = [str(path) for path in plan.rundir.sources.glob("*.h5")]
                results[name] = plan.out, parts
            whole = folder / "whole.h5"
            data = np.resize(noise(), trials * size).reshape(trials, -1, _CHANNELS)
            with h5py.File(whole, "w") as f:
                f["data"] = data
            results["h5py, one dataset"] = str(whole), []
            for how in ("all", "chance", "channel"):
                sides: dict[str, Side] = {
                    name: partial(
                        self._alone, "read_result", out=out, files=files, how=how,
                        plain=name not in WRITERS,
                    )
                    for name, (out, files) in results.items()
                }  # fmt: skip
                yield from self._read_as(how, sides, "h5py, one dataset", size, share / 5)
            into = folder / "into.h5"

            def afresh(job: str, given: dict[str, Any], _: int) -> Round:
                into.unlink(missing_ok=True)
                return self._team.do(job, self._each(1, lambda _: {"into": str(into), **given}))

            path = str(whole)
            copies: dict[str, Side] = {"copy": partial(afresh, "copy", {"path": path})}
            checks: dict[str, Side] = {"checksum": partial(self._alone, "check", path=path)}
            for name in ("virtual", "direct"):
                out, parts = results[name]
                given: dict[str, Any] = {"out": out, "files": parts}
                copies[name] = partial(afresh, "repack_result", given)
                checks[name] = partial(self._alone, "verify_result", **given)
            yield from self._read_as("repack", copies, "copy", size, share / 5)
            yield from self._read_as("verify", checks, "checksum", size, share / 5)

    def _read_as(
        self, how: str, sides: Mapping[str, Side], limit: str, size: int, share: float
    ) -> Iterator[Figure | LeftOut]:
        held = {name: limit for name in sides if name != limit}
        rates = self._compare(
            sides, held=held, most=dict.fromkeys(sides, 1), share=share, what=f"{how} of a result"
        )
        if isinstance(rates, LeftOut):
            yield rates
            return
        named = {f"{how}: {name}": found for name, found in rates.items()}
        held = {f"{how}: {name}": f"{how}: {limit}" for name in held}
        yield from self._figures("read", named, held, size, 1)

    def _alone(self, job: str, _: int, **given: Any) -> Round:
        return self._team.do(job, self._each(1, lambda _: given))


def _check_here(team: Team) -> None:
    """Raise WorkerError if some of a team are elsewhere: ranks would not be beside their limit."""
    here = platform.node()
    if elsewhere := sorted({*team.hosts} - {here}):
        raise WorkerError(
            f"Ranks and what they are held against must be on this node, {here}, and some are on "
            f"{', '.join(elsewhere)}. Run hpcio bench without --tasks, in a job of one node."
        )


class _Fresh:
    """A new folder, and all in it removed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._folder.mkdir()
        return self._folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error others may still write there: then it goes with all that was made.
        shutil.rmtree(self._folder, ignore_errors=kind is not None)
