"""Live sessions: job arrays as dask clusters."""
