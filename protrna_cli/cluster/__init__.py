"""Runs of many processes: job arrays of batch systems, and Dask clusters."""
