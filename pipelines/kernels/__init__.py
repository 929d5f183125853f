"""Custom operators for DALI graphs, compiled by numba."""
