"""Runs on the ranks of an MPI job, for scripts under ``mpirun``; see `hpcio.running`."""

from hpcio.running import Ranks, share_out
from hpcio.running import call_on_ranks as call

__all__ = ["Ranks", "call", "share_out"]
