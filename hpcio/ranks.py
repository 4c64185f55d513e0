"""Runs on the ranks of an MPI job, for scripts under ``mpirun``; see `hpcio.running`."""

from hpcio.running.ranks import Ranks, call

__all__ = ["Ranks", "call"]
