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
from hpcio.planning import Plan

__all__ = ["ComputedBy", "computed_by", "versions_here"]


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
        **other_versions(plan.function.fingerprint.packages),
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
    planned = ledger.plan.function.fingerprint.packages
    blocks: dict[str, int] = {}
    for log, number in zip(ledger.logs, counted, strict=True):
        if number:
            said = log.header.get("versions")
            # A header that had no room for all does not say which are as planned.
            versions = {**({} if "..." in said else planned), **said} if said else {}
            key = json.dumps(versions, sort_keys=True)
            blocks[key] = blocks.get(key, 0) + number
    return tuple(
        ComputedBy(json.loads(key), number)
        for key, number in sorted(blocks.items(), key=lambda item: (-item[1], item[0]))
    )
