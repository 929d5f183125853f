"""A mixer in a `DataLoader`: the collate function mixes each batch in the worker that assembles it.

    python examples/dataloader_collate.py [--workers 2]

The mixer draws from a seed derived from the samples' indices, not from a worker's generator, so batches and printed
figures are the same for any number of workers. When training on a GPU, mix there instead, as in `plain_loop.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from digits import CLASSES, HELD_OUT, accuracy, scans, small_cnn
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, default_collate

from dali_mix.engine import derive_seed
from dali_mix.losses import SoftCrossEntropy
from dali_mix.mixers import CutMix, Mixer

EPOCHS, BATCH_SIZE, SEED = 6, 64, 0


class MixCollate:
    """Collates [(image (C,H,W), label, sample index), …] into mixed images (B,C,H,W) and soft targets (B,K)."""

    def __init__(self, mixer: Mixer[Any], seed: int) -> None:
        self.mixer = mixer
        self.seed = seed

    def __call__(self, samples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images, labels, numbers = default_collate(list(samples))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, *numbers.tolist()))
        return self.mixer(images, labels, generator)


def make_loader(train_set: TensorDataset, workers: int) -> DataLoader[Any]:
    """Return a loader of `train_set` that shuffles in every epoch and mixes batches with CutMix."""
    # The sampler has its own generator, since DataLoader draws seeds for its workers from the one passed to it.
    return DataLoader(
        train_set,
        BATCH_SIZE,
        sampler=RandomSampler(train_set, generator=torch.Generator().manual_seed(SEED)),
        collate_fn=MixCollate(CutMix(CLASSES), SEED),
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on digits mixed in the collate function.")
    parser.add_argument("--workers", type=int, default=0, help="worker processes (default: 0, load in this process)")
    workers = parser.parse_args().workers

    images, labels = scans()
    train_set = TensorDataset(images[HELD_OUT:], labels[HELD_OUT:], torch.arange(len(images) - HELD_OUT))
    loader = make_loader(train_set, workers)
    model, loss_of = small_cnn(), SoftCrossEntropy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    for epoch in range(EPOCHS):
        model.train()
        losses, mixed = [], 0
        for batch, targets in loader:
            mixed += int((targets.max(1).values < 1).sum())
            loss = loss_of(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}: loss {mean:.3f}, {mixed} of {len(train_set)} images with mixed labels")
    print(f"held-out accuracy {accuracy(model, images[:HELD_OUT], labels[:HELD_OUT]):.1f}%")


if __name__ == "__main__":
    main()
