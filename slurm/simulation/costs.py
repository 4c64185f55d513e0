"""What trials cost with one writer on one file system."""

from __future__ import annotations

import numpy as np

from hpcio.errors import OptionError
from slurm.simulation.dealing import Sums
from slurm.simulation.disk import Disk
from slurm.simulation.given import Work

__all__ = ["Costs"]


class Costs:
    """Sums over trials of all that a run needs to know of them.

    Attributes
    ----------
    trials : int
    writer : str
    compute : Sums
        Seconds of the function.
    per_trial : float
        Seconds of hpcio itself, for each trial.
    alone : Sums
        Seconds with reading and writing, in a task that has the file system for itself.
    used : Sums
        Seconds of the whole file system.
    longest : float
        Seconds that the longest trial takes in a task that has the file system for itself.
    nbytes : Sums
        By which work is divided.
    creates : float
        Files that can be made in a second.
    files : int
        Files that a trial makes.
    full_at : float
        So many tasks at work take up all of the file system.
    disk : Disk

    Raises
    ------
    OptionError
        If nothing is known of the writer there.
    """

    def __init__(self, work: Work, disk: Disk, writer: str) -> None:
        if writer not in disk.rates:
            raise OptionError(
                f"Nothing is known of writer '{writer}' on {disk.words}. Choose one of: "
                f"{', '.join(disk.rates)}; or measure it: hpcio bench --dir DIR --json FILE"
            )
        self.trials, self.writer, self.disk = work.trials, writer, disk
        rates, self.per_trial = disk.rates[writer], disk.per_trial
        io = work.read / disk.read_one + rates.seconds(work.written)
        self.compute = Sums(work.seconds, work.trials)
        alone = work.seconds + self.per_trial + io
        self.alone, self.longest = Sums(alone, work.trials), float(np.max(alone))
        used = work.read / disk.read_all + rates.share(work.written)
        self.used = Sums(used, work.trials)
        self.nbytes = Sums(np.maximum(work.nbytes, 1.0), work.trials)
        self.creates, self.files = disk.creates, 1 if writer == "virtual-trial" else 0
        self._written = Sums(work.written, work.trials).all
        self.full_at = self.alone.all / max(1e-9, self.used.all, self._made)

    @property
    def _made(self) -> float:
        """Seconds in which the files of trials are made."""
        return self.trials * self.files / self.creates

    def publishing(self, parts: int) -> float:
        """Seconds of publishing and verifying what was done in so many parts."""
        disk = self.disk
        sources = {"virtual": parts, "virtual-trial": self.trials}.get(self.writer, 1)
        return (
            disk.publish + disk.publish_block * self.trials + disk.publish_source * sources
            + self._written / disk.reading(self.writer)
        )  # fmt: skip

    def least(self, tasks: int) -> float:
        """Seconds that no run of so many tasks can be faster than."""
        return max(self.alone.all / tasks, self.used.all, self._made) + self.publishing(1)
