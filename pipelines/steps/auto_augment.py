"""RandAugment, TrivialAugment and AutoAugment with DALI's operations and reproducible draws.

The draws depend only on (seed, epoch, record). Each policy is a sequence of choices (operation, magnitude, sign) per
record; DALI's lists of operations and their ranges are used unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from dali_mix.pipelines.base import Step
from dali_mix.pipelines.random import SampleRandom
from nvidia.dali.auto_aug import augmentations
from nvidia.dali.auto_aug.auto_augment import get_image_net_policy
from nvidia.dali.auto_aug.core import signed_bin
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite
from nvidia.dali.data_node import DataNode

from dali_mix.options import choice, whole

KINDS = ("randaugment", "trivialaugment", "autoaugment")
FILL = 128  # grey, for areas uncovered by a shift or rotation


class AutoAugment(Step):
    """One of three published policies, or none.

    The sign of a signed operation is flipped with probability ½.

    Args:
        kind: "randaugment" (arXiv 1909.13719) applies `count` operations of magnitude bin `magnitude` (0 to 30).
            "trivialaugment" (arXiv 2103.10158, wide) applies one operation of any magnitude. "autoaugment" (arXiv
            1805.09501) applies the ImageNet policy. None or "" disables the step.
        size: (height, width) of the images. Translations are at most 100/224 of it for "randaugment", 150/331 of it for
            "autoaugment", and 32 pixels for "trivialaugment".
        count, magnitude: for "randaugment" only.
    """

    conditional = True

    def __init__(self, kind: str | None, size: tuple[int, int], count: int = 2, magnitude: int = 9) -> None:
        self.active = bool(kind)
        if not kind:
            return
        self.kind = choice("auto_augment", kind, KINDS)
        count = whole("augment_count", count, 1, 8)
        self.magnitude = whole("augment_magnitude", magnitude, 0, 30)
        self.bins = 31
        if kind == "randaugment":
            self.count = count
            self.operations = get_rand_augment_suite(max_translate_abs=_part(size, 100 / 224))
        elif kind == "trivialaugment":
            self.count = 1
            self.operations = get_trivial_augment_wide_suite(max_translate_abs=32)
        else:
            policy = get_image_net_policy(max_translate_abs=_part(size, 150 / 331))
            self.count, self.bins = 2, policy.num_magnitude_bins
            names = list(policy.augmentations)
            self.operations = [*policy.augmentations.values(), augmentations.identity]
            none = (len(names), 1.0, 0)
            steps = [
                [(names.index(operation.name), share, level or 0) for operation, share, level in policy_steps]
                for policy_steps in policy.sub_policies
            ]
            # (policies, 2, [operation, probability, bin])
            self._policy = np.array([[*found, none][:2] for found in steps])

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw operation, bin and sign, (B, n) int32 each, for n operations in sequence.

        An operation is an index into `operations`, a bin is that of its magnitude, and a sign is 1 to negate the
        magnitude of a signed operation, else 0.
        """
        if self.kind == "autoaugment":
            chosen = self._policy[random.integers(0, len(self._policy), 1)[:, 0]]
            applied = random.uniform(self.count) < chosen[:, :, 1]
            operation = np.where(applied, chosen[:, :, 0], len(self.operations) - 1)
            level = chosen[:, :, 2]
        else:
            operation = random.integers(0, len(self.operations), self.count)
            level = np.full(operation.shape, self.magnitude)
            if self.kind == "trivialaugment":
                level = random.integers(0, self.bins, self.count)
        drawn = {"operation": operation, "bin": level, "sign": random.integers(0, 2, self.count)}
        return {name: value.astype(np.int32) for name, value in drawn.items()}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        magnitude = signed_bin(draws["bin"], draws["sign"])
        for step in range(self.count):
            images = self._apply(images, draws["operation"][step], magnitude[step], 0, len(self.operations))
        return images

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raise ValueError, since DALI does not report how its operations move image content."""
        raise ValueError(f"auto_augment={self.kind!r} would rotate and shift images but not their boxes: omit it")

    def _apply(self, images: DataNode, operation: DataNode, level: DataNode, low: int, high: int) -> DataNode:
        """Apply to each image its `operation`, an index from `low` to `high` - 1, with signed magnitude bin `level`.

        Recursive bisection on the index keeps the number of branches per image small.
        """
        if high - low == 1:
            return self.operations[low](images, magnitude_bin=level, num_magnitude_bins=self.bins, fill_value=FILL)
        middle = (low + high) // 2
        if operation < middle:
            images = self._apply(images, operation, level, low, middle)
        else:
            images = self._apply(images, operation, level, middle, high)
        return images


def _part(size: tuple[int, int], share: float) -> tuple[int, int]:
    return round(share * size[0]), round(share * size[1])
