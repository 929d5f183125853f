"""Derive seeds from integers, so that no generator state needs to be saved."""

from __future__ import annotations

import hashlib

import torch

# The first key of a derived seed is its purpose. Different purposes get different streams for equal (seed, step, rank).
INIT, MODEL, MIXER = 1, 2, 3


def derive_seed(*keys: int) -> int:
    """Return a seed in [0, 2**63) that depends on every key and on their order.

    The seed is a blake2b hash of the keys as signed 64-bit little-endian integers. Adjacent keys give unrelated seeds,
    unlike sums or products of (seed, step, rank).

    Raises:
        OverflowError: a key outside the signed 64-bit range.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(int(key).to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little") >> 1


def seed_model(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and, if `device` is a GPU, of the current GPU.

    Dropout and similar layers use these generators. `torch.manual_seed` is not used, since it formats a stack trace at
    every call for each device type that is not initialized yet. This took longer than all other overhead of the trainer
    in a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
