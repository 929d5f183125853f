"""Random numbers that depend only on (seed, epoch, record), drawn for all records of a batch at once.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a keyed
bijection of 128-bit counters. A counter identifies each random number, so there is no hidden state, and the numbers of
any record can be computed at any time.
"""

from __future__ import annotations

import numpy as np

from dali_mix.options import whole

ROUND_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Return Philox4x32-10's random words (4, …) uint32 for counters (4, …) uint32 and a key of two 32-bit words."""
    c0, c1, c2, c3 = (part.astype(np.uint64) for part in counters)
    k0, k1 = key
    for _ in range(10):
        high0_low0 = c0 * ROUND_MULTIPLIERS[0]
        high1_low1 = c2 * ROUND_MULTIPLIERS[1]
        c0 = (high1_low1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c2 = (high0_low0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c1 = high1_low1 & _LOW
        c3 = high0_low0 & _LOW
        k0 = (k0 + KEY_INCREMENTS[0]) & 0xFFFFFFFF
        k1 = (k1 + KEY_INCREMENTS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


class SampleRandom:
    """Random numbers of B records in one epoch.

    Each call of a drawing method uses the next stream, so the same sequence of calls returns the same numbers.

    The four words of a counter are the index of a block of four outputs, the epoch, the low 32 bits of the record
    number, and the record number's high 16 bits above the 16 bits of the stream number.

    Args:
        seed: 0 to 2^64 - 1, the key.
        epoch: 0 to 2^32 - 1.
        ids: (B,) record numbers, 0 to 2^48 - 1.
        stream: number of the first stream.
    """

    def __init__(self, seed: int, epoch: int, ids: np.ndarray, stream: int = 0) -> None:
        seed, epoch = whole("seed", seed, 0, (1 << 64) - 1), whole("epoch", epoch, 0, (1 << 32) - 1)
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._epoch = epoch
        self._ids = np.asarray(ids, dtype=np.uint64)
        self._seed = seed
        self._stream = stream

    def __len__(self) -> int:
        return len(self._ids)

    def branch(self, number: int) -> SampleRandom:
        """Return a new generator for the same seed, epoch and records, with 1,024 · `number` as its first stream.

        The two generators draw independent numbers as long as neither of them reaches a stream of the other. Raise
        ValueError unless `number` is from 1 to 63.
        """
        return SampleRandom(self._seed, self._epoch, self._ids, 1024 * whole("branch", number, 1, 63))

    def words(self, k: int) -> np.ndarray:
        """Draw (B, k) uint32, uniform over all values.

        The call uses one stream, and so does a call of `uniform`, `integers` or `normal`. Raise ValueError if all
        65,536 streams are used up.
        """
        if self._stream >= 1 << 16:
            raise ValueError("more than 65,536 draws for one record: draw several numbers in one call")
        blocks = -(-k // 4)
        counters = np.empty((4, len(self._ids), blocks), dtype=np.uint64)
        counters[0] = np.arange(blocks, dtype=np.uint64)
        counters[1] = self._epoch
        counters[2] = (self._ids & _LOW)[:, None]
        counters[3] = ((self._ids >> _SHIFT) << np.uint64(16) | np.uint64(self._stream))[:, None]
        self._stream += 1
        return np.moveaxis(philox4x32(counters, self._key), 0, -1).reshape(len(self._ids), 4 * blocks)[:, :k]

    def uniform(self, k: int) -> np.ndarray:
        """Draw (B, k) float64 in [0, 1), with 53 random bits each."""
        words = self.words(4 * -(-k // 2)).astype(np.uint64)
        high, low = words[:, 0::2] >> np.uint64(5), words[:, 1::2] >> np.uint64(6)
        return ((high << np.uint64(26) | low)[:, :k]).astype(np.float64) * 2.0**-53

    def integers(self, low: int | np.ndarray, high: int | np.ndarray, k: int) -> np.ndarray:
        """Draw (B, k) int64, uniform from `low` to `high` - 1.

        `low` and `high` are integers, or arrays that broadcast to (B, k). The bias for an interval of m integers is
        below m / 2^53. Raise ValueError unless `high` is above `low`.
        """
        low, high = np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)
        if (high <= low).any():
            raise ValueError("nothing to draw from: high must be above low")
        return low + np.floor(self.uniform(k) * (high - low)).astype(np.int64)

    def normal(self, k: int) -> np.ndarray:
        """Draw (B, k) float64, standard normal (Box-Muller)."""
        u = self.uniform(2 * k)
        return np.sqrt(-2.0 * np.log1p(-u[:, :k])) * np.cos(2.0 * np.pi * u[:, k:])
