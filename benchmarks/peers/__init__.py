"""The same work by what else people use for it; see ``README.md``.

Modules that run beside another program's packages (`work`, `serving`, `sides`) import numpy
and h5py, and nothing of hpcio.
"""
