"""Run hpcio plans on a cluster: job arrays by sbatch, and live sessions through dask.

This package knows the scheduler and nothing of HDF5; :mod:`hpcio` knows HDF5 and
nothing of schedulers. Imports go one way, from ``slurm`` to ``hpcio``.
"""
