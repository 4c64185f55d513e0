"""What a file system can do, as far as a simulation needs to know."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from hpcio.bench import WRITERS, Figure, read_found
from hpcio.errors import OptionError, check_path
from hpcio.words import count, size
from slurm.simulation.dealing import Amount

__all__ = ["Disk", "Rates", "as_disk"]


@dataclass(frozen=True)
class Rates:
    """How fast results of some sizes are written, in bytes per second.

    Attributes
    ----------
    sizes : tuple of float
        Bytes of a result, ascending.
    one : tuple of float
        Of one process that has the file system for itself.
    all : tuple of float
        Of all processes together, however many they are.

    Examples
    --------
    >>> rates = Rates((1e4, 1e6), one=(1e8, 1e9), all=(1e9, 1e10))
    >>> round(rates.seconds(2e6), 6), round(rates.share(2e6), 6)
    (0.002, 0.0002)
    """

    sizes: tuple[float, ...]
    one: tuple[float, ...]
    all: tuple[float, ...]

    def seconds(self, nbytes: Amount) -> Amount:
        """What a result takes in a process that is alone."""
        return self._taken(nbytes, self.one)

    def share(self, nbytes: Amount) -> Amount:
        """Seconds of the whole file system that a result takes up."""
        return self._taken(nbytes, self.all)

    def _taken(self, nbytes: Amount, rates: tuple[float, ...]) -> Amount:
        # What a result costs besides its bytes is all that counts of those that are smaller than
        # any that was measured; those that are larger go on at the same rate.
        known = np.asarray(self.sizes) / np.asarray(rates)
        larger = np.maximum(np.asarray(nbytes, np.float64) / self.sizes[-1], 1.0)
        within = np.clip(nbytes, self.sizes[0], self.sizes[-1])
        taken = larger * np.exp(np.interp(np.log(within), np.log(self.sizes), np.log(known)))
        taken = np.where(np.asarray(nbytes) > 0, taken, 0.0)
        return taken if isinstance(nbytes, np.ndarray) else float(taken)


def _guessed() -> dict[str, Rates]:
    """A shared file system of middling size, such as many sites have."""
    sizes = (1e4, 1e6, 6.4e7)
    plain = Rates(sizes, one=(2e8, 5e8, 5e8), all=(4e9, 1e10, 1e10))
    of_files = Rates(sizes, one=(5e6, 2e8, 5e8), all=(5e7, 2e9, 1e10))
    in_turn = Rates(sizes, one=(5e6, 2e8, 4e8), all=(5e6, 2e8, 4e8))
    return {"virtual": plain, "virtual-trial": of_files, "direct": plain, "mutex": in_turn}


_SECONDS = ("per_trial", "publish", "publish_block", "publish_source")


def _same(rate: float) -> dict[str, float]:
    return dict.fromkeys(WRITERS, rate)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file system: what writers reach on it, and what the result takes.

    Attributes
    ----------
    rates : mapping of str to Rates
        By writer, as `hpcio.bench.WRITERS` calls them.
    read_one, read_all : float
        Bytes of the recording that one process, and all together, read in a second.
    creates : float
        Files that all together make in a second.
    per_trial : float
        Seconds of hpcio itself for each trial, besides what is in the rates: those of a benchmark
        have reading, checksum and journal in them.
    publish, publish_block, publish_source : float
        Seconds until the result is there when the last trial is done: the same for all results,
        for each block, and for each file of results.
    verify : mapping of str to float
        Bytes of the result that are read again in a second, by writer.
    words : str
        Where all this is from, and what of it is a guess.
    processes : int or None
        So many have written together when it was measured; None if it was not.

    Examples
    --------
    >>> Disk().words
    'a guessed file system (hpcio bench --dir DIR --json FILE measures yours)'
    """

    rates: Mapping[str, Rates] = field(default_factory=_guessed)
    read_one: float = 5e8
    read_all: float = 1e10
    creates: float = 5_000.0
    per_trial: float = 0.0
    publish: float = 0.6
    publish_block: float = 2e-6
    publish_source: float = 1e-3
    verify: Mapping[str, float] = field(default_factory=lambda: _same(5e8))
    words: str = "a guessed file system (hpcio bench --dir DIR --json FILE measures yours)"
    processes: int | None = None

    def __post_init__(self) -> None:
        more = {
            "read_one": self.read_one, "read_all": self.read_all, "creates": self.creates,
            **{f"verify[{name!r}]": rate for name, rate in self.verify.items()},
            **{f"rates[{name!r}]": min(*rates.sizes, *rates.one, *rates.all)
               for name, rates in self.rates.items()},
        }  # fmt: skip
        least = {name: getattr(self, name) for name in _SECONDS}
        for name, value in {**more, **least}.items():
            if not 0 <= value < math.inf or (name in more and not value):
                raise OptionError(
                    f"Disk({name}={value}) makes no sense. Use "
                    f"{'more than 0' if name in more else '0 or more'}."
                )

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """What a benchmark has measured (``hpcio bench --json FILE``).

        What all can write is what as many processes as it had have written: more of them may
        reach more. How fast all together read a recording it does not measure: as many times as
        fast as one as they write. What it has left out is guessed, and `words` says so.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        OptionError
            If that is no such file, or it has measured too little.
        SourceError
            If it cannot be read.

        Examples
        --------
        >>> Disk.of("bench.json").rates["virtual"].sizes                 # doctest: +SKIP
        (10000, 1000000, 64000000)
        """
        found = read_found(path)
        writes = [f for f in found.figures if f.part == "write"]
        # Array tasks are no ranks of MPI.
        names = [name for name in WRITERS if name != "mpi"]
        known = {name: made for name in names if (made := _rates(writes, name)) is not None}
        rates = {name: made for name, (made, _) in known.items()}
        if "virtual" not in rates:
            raise OptionError(
                f"The benchmark in '{path}' has not measured how fast results are written. Give it "
                "more time: leave out --quick."
            )
        reads = {f.what: f.spread.median for f in found.figures if f.part == "read"}
        plain = cls()
        read = reads.get("all: h5py, one dataset")
        one = read or plain.read_one
        together = rates["virtual"].all[-1] / rates["virtual"].one[-1]
        checked = {n: reads.get(f"verify: {n.partition('-')[0]}") for n in WRITERS}
        slowest = min((rate for rate in checked.values() if rate), default=None)
        creates = _creates(found.figures)
        missing = {"reading": read, "verifying": slowest, "making files": creates}
        guesses = [what for what, rate in missing.items() if rate is None]
        if alone := sorted({nbytes for _, sizes in known.values() for nbytes in sizes}):
            guesses.append(f"writing {' or '.join(map(size, alone))} by one process")
        most = max(f.processes for f in writes)
        return cls(
            rates=rates, read_one=one, read_all=one * max(1.0, together),
            creates=creates or plain.creates,
            verify={name: rate or slowest or one for name, rate in checked.items()},
            words=f"{found.place.filesystem} at {found.place.folder}, as "
            f"{count(most, 'process', 'processes')} measured it{_guess_words(guesses)}",
            processes=most,
        )  # fmt: skip

    def rests_on(self, tasks: int) -> str:
        """What is said of so many tasks rests on this, in words.

        Examples
        --------
        >>> Disk(words="nfs at /data, as 2 processes measured it", processes=2).rests_on(64)
        'nfs at /data, as 2 processes measured it; 64 tasks are taken to write no faster than that'
        """
        if self.processes is None or tasks <= self.processes:
            return self.words
        return f"{self.words}; {count(tasks, 'task')} are taken to write no faster than that"

    def reading(self, writer: str) -> float:
        """Bytes of a result that are read again in a second."""
        return self.verify.get(writer, min(self.verify.values()))


def as_disk(disk: Disk | str | os.PathLike[str]) -> Disk:
    """A file system, also if only the path of its benchmark is given."""
    if isinstance(disk, Disk):
        return disk
    check_path("disk", disk)
    return Disk.of(disk)


def _guess_words(guesses: list[str]) -> str:
    if not guesses:
        return ""
    *others, last = guesses
    if not others:
        return f"; {last} is a guess"
    return f"; {', '.join(others)} and {last} are guesses"


def _rates(figures: Iterable[Figure], name: str) -> tuple[Rates, list[int]] | None:
    """What one process, and all of them, have reached, and of which sizes the former is guessed.

    None if nothing was measured.
    """
    ours = [f for f in figures if f.what == name]
    if not ours:
        return None
    most = max(f.processes for f in ours)
    one = {f.size: f.spread.median for f in ours if f.processes == 1}
    all_ = {f.size: f.spread.median for f in ours if f.processes == most}
    # What one process reaches of what all do: at least its part of it. If it seems to be less, its
    # round was so short that the fsync at its end was most of it.
    share = {s: max(one[s] / all_[s], 1 / most) for s in one.keys() & all_.keys()}

    def alone(nbytes: int) -> float:
        # One process comes last in a benchmark, and its time may be over by then.
        near = min(share, key=lambda known: abs(math.log(known / nbytes)), default=None)
        return all_[nbytes] * (1 / most if near is None else share[near])

    sizes = sorted(all_)
    made = Rates(tuple(map(float, sizes)), tuple(map(alone, sizes)), tuple(all_[s] for s in sizes))
    return made, [s for s in sizes if s not in share]


def _creates(figures: Iterable[Figure]) -> float | None:
    """Files that all make in a second; None if it was not measured."""
    made = [f for f in figures if (f.part, f.what) == ("files", "make")]
    if made:
        return max(made, key=lambda f: f.processes).spread.median
    # Small ones of a trial each, synced at the end.
    trials = [f for f in figures if (f.part, f.what) == ("write", "a file a trial")]
    most = max(trials, key=lambda f: (-f.size, f.processes), default=None)
    return None if most is None else most.spread.median / most.size
