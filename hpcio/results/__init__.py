"""The finished file: published, opened, verified, and made one ordinary file.

This room uses `hpcio.writers` and those below. Others take `publish` from it, and readers `open`,
`verify` and `repack`, which trust nothing that they have not looked at.
"""

from hpcio.results.opening import open
from hpcio.results.publishing import provenance, publish
from hpcio.results.repacking import repack
from hpcio.results.verifying import verify

__all__ = [
    "open",
    "provenance",
    "publish",
    "repack",
    "verify",
]
