"""The finished file: published, opened, verified, and made one ordinary file.

This room uses `hpcio.writers` and those below. Others take `publish` from it, and readers `open`,
`verify` and `repack`, which trust nothing that they have not looked at.
"""

from typing import TYPE_CHECKING

from hpcio.machine import lazily

if TYPE_CHECKING:
    from hpcio.results.opening import open
    from hpcio.results.parts import about_older, what_is_gone
    from hpcio.results.publishing import publish
    from hpcio.results.repacking import repack
    from hpcio.results.verifying import verify

__all__ = [
    "about_older",
    "open",
    "publish",
    "repack",
    "verify",
    "what_is_gone",
]

# Imported when they are asked for: workers publish nothing.
__getattr__ = lazily(
    __name__,
    {
        "about_older": "parts",
        "open": "opening",
        "publish": "publishing",
        "repack": "repacking",
        "verify": "verifying",
        "what_is_gone": "parts",
    },
)
