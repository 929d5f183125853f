"""Operators of our own for DALI graphs, compiled by numba."""
