"""Derive seeds from integers, so that no generator's state ever has to be saved."""

from __future__ import annotations

import hashlib

import torch

# The first key of a derived seed says what it is for; equal (seed, step, rank) then never mean equal streams.
INIT, MODEL, MIXER = 1, 2, 3


def derive_seed(*keys: int) -> int:
    """Return a seed in [0, 2**63) that depends on every key and on their order.

    blake2b over the keys as signed 64-bit little-endian numbers: neighbouring keys give unrelated seeds, which sums and
    products of (seed, step, rank) do not.

    Raises:
        OverflowError: a key outside the signed 64-bit range.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(int(key).to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little") >> 1


def seed_model(seed: int, device: torch.device) -> None:
    """Seed torch's own generators, of the CPU and of `device`, which dropout and the like draw from.

    Not by `torch.manual_seed`: without a GPU in use that formats a stack trace at every call, for every kind of device
    it might still have to seed, which took longer than all else the trainer adds to a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
