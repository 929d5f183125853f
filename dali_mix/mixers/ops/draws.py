"""Random draws used by mixers: shares, positions, partners.

Draws are made on the device of a `torch.Generator` (None: torch's default CPU generator), so a CPU generator gives the
same mixes for images on any device. Real numbers are float64. Nothing here waits for a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def device_of(generator: torch.Generator | None) -> torch.device:
    """Return the device that `generator` draws on."""
    return torch.device("cpu") if generator is None else generator.device


def uniform(count: int, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw (count,) float64 in [low, high)."""
    draws = torch.rand(count, generator=generator, device=device_of(generator), dtype=torch.float64)
    return draws if (low, high) == (0.0, 1.0) else low + (high - low) * draws


def pixels(count: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Draw (count,) int64, uniform over 0 … size - 1."""
    return torch.randint(size, (count,), generator=generator, device=device_of(generator))


def beta(count: int, alpha: float, generator: torch.Generator | None) -> Tensor:
    """Draw (count,) float64 from Beta(alpha, alpha)."""
    if alpha == 1.0:
        return uniform(count, generator)
    concentration = torch.full((2, count), alpha, dtype=torch.float64, device=device_of(generator))
    # torch.distributions does not accept a generator, so the sampler of its Gamma distribution is called directly.
    # The draws are above 0, so 0 / 0 cannot occur for any alpha.
    first, second = torch._standard_gamma(concentration, generator=generator).unbind()
    return first / (first + second)


def square_root(draws: Tensor) -> Tensor:
    """Return √draws. For a CPU tensor, numpy computes the square root, except under torch.compile.

    On a CPU, torch (through MKL's vector math) would start all its threads even for a few numbers. They spin for
    milliseconds on cores that the mixing loops need.
    """
    if draws.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sqrt(draws.numpy()))
    return draws.sqrt()


def permutation(count: int, generator: torch.Generator | None) -> Tensor:
    """Draw a uniform permutation, (count,) int64; an image may be its own partner."""
    return torch.randperm(count, generator=generator, device=device_of(generator))


def per_sample(draw: Tensor, batch_size: int) -> Tensor:
    """Expand a draw made once per batch, (1, …), to (batch_size, …); return per-image draws unchanged."""
    return draw if draw.shape[0] == batch_size else draw.expand(batch_size, *draw.shape[1:]).contiguous()
