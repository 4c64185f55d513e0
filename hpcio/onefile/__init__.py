"""The writers of one ordinary file: `direct`, `mpi`, `mutex`.

This room uses `hpcio.writers` and those below, for the protocol `Backend` that each of them offers.
Nobody imports from it: the registry of writers names them, and each is loaded when a plan asks for
it.
"""
