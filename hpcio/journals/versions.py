"""With which versions blocks were computed: what an attempt says, and what the ledger says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import numpy as np

from hpcio.fingerprints import version_of
from hpcio.function import other_versions
from hpcio.journals.ledger import Ledger
from hpcio.planning import Former, Plan

__all__ = ["ComputedBy", "computed_by", "functions_of", "plans_of", "versions_here"]


def versions_here(plan: Plan) -> dict[str, str]:
    """What the journal of an attempt of this process says of versions.

    Of the packages that the function reaches, only those are named that are not as planned: the
    plan has the others, and each attempt begins with this.
    """
    return {
        "hpcio": version_of("hpcio"),
        "python": version_of("python"),
        "numpy": version_of("numpy"),
        "h5py": version_of("h5py"),
        "hdf5": h5py.version.hdf5_version,
        **other_versions(plan.packages),
    }


@dataclass(frozen=True)
class ComputedBy:
    """Blocks that were computed with the same versions.

    Attributes
    ----------
    versions : mapping of str to str
        Of Python, HDF5, and packages; empty if the journals do not say it, as those of earlier
        versions of hpcio.
    blocks : int
    """

    versions: Mapping[str, str]
    blocks: int


def computed_by(ledger: Ledger) -> tuple[ComputedBy, ...]:
    """With which versions the blocks that count were computed, those of most blocks first."""
    counted = np.bincount(ledger.log[ledger.done], minlength=len(ledger.logs)).tolist()
    plans = (Former.of(ledger.plan), *ledger.plan.former)
    planned = {one.digest: one.packages for one in plans}
    blocks: dict[str, int] = {}
    for log, number in zip(ledger.logs, counted, strict=True):
        if number:
            said = log.header.get("versions")
            # A header that had no room for all does not say which are as planned.
            as_planned = {} if not said or "..." in said else planned[log.plan]
            versions = {**as_planned, **said} if said else {}
            key = json.dumps(versions, sort_keys=True)
            blocks[key] = blocks.get(key, 0) + number
    return tuple(
        ComputedBy(json.loads(key), number)
        for key, number in sorted(blocks.items(), key=lambda item: (-item[1], item[0]))
    )


def functions_of(ledger: Ledger) -> tuple[tuple[Former, ...], np.ndarray]:
    """The functions, with their arguments, that blocks were computed by.

    Returns
    -------
    tuple of Former
        The oldest first; the last is that of the plan.
    numpy.ndarray of int, shape (B,)
        The place of the one that each block was computed by; -1 if it is not done.
    """
    plans, by = plans_of(ledger)
    # Of plans that differ in their trials alone, the last one stands for all.
    last = [k for k, one in enumerate(plans) if one.changed or k == len(plans) - 1]
    place = np.searchsorted(last, np.arange(len(plans)))
    return tuple(plans[k] for k in last), np.where(by < 0, -1, place[by])


def plans_of(ledger: Ledger) -> tuple[tuple[Former, ...], np.ndarray]:
    """The plans, the oldest first, and the place of the one that each block was computed for.

    Returns
    -------
    tuple of Former
    numpy.ndarray of int, shape (B,)
        -1 if it is not done.
    """
    plans = (*ledger.plan.former, Former.of(ledger.plan))
    place = {one.digest: k for k, one in enumerate(plans)}
    of_log = np.asarray([*(place[log.plan] for log in ledger.logs), -1])
    return plans, of_log[np.where(ledger.done, ledger.log, -1)]
