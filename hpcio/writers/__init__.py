"""How results are stored: one file for each way, all behind one typed protocol, `Backend`.

This room uses `hpcio.journals` and those below. Others ask `backend_of` a plan, and never which way
it is; `trusted_ledger` holds the journals against what is stored. A new way is a file here, or
anywhere, and an entry in `WRITERS`.
"""

from hpcio.writers.backend import (
    WRITERS,
    Backend,
    Stored,
    Unbuffered,
    Writer,
    backend_of,
    needs_ranks,
    trusted_ledger,
)
from hpcio.writers.virtual import check_sources

__all__ = [
    "WRITERS",
    "Backend",
    "Stored",
    "Unbuffered",
    "Writer",
    "backend_of",
    "check_sources",
    "needs_ranks",
    "trusted_ledger",
]
