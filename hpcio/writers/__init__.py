"""How results are stored: each way has a file here, and all offer the protocol `Backend`.

This room uses `hpcio.journals` and those below. Others call `backend_of` for a plan, and never ask
which way it is; `trusted_ledger` checks the journals against what is stored. A new way needs one
file, here or elsewhere, and an entry in `WRITERS`.
"""

from hpcio.writers.backend import (
    WRITERS,
    Backend,
    Stored,
    Unbuffered,
    Writer,
    backend_of,
    fills_gaps,
    needs_ranks,
    trusted_ledger,
    without_lost,
)
from hpcio.writers.virtual import defects_of

__all__ = [
    "WRITERS",
    "Backend",
    "Stored",
    "Unbuffered",
    "Writer",
    "backend_of",
    "defects_of",
    "fills_gaps",
    "needs_ranks",
    "trusted_ledger",
    "without_lost",
]
