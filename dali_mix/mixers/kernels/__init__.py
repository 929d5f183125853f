"""The operations' backends: numba on a CPU, Triton on a GPU, plain torch for the rest."""
