"""A mixer in a plain PyTorch loop: one call between the batch and the model.

    python examples/plain_loop.py

The mixer turns class indices into soft targets (B,10); the loss accepts both. All random numbers come from the
generator passed to it, so a second run prints the same figures.
"""

from __future__ import annotations

import torch
from digits import CLASSES, HELD_OUT, accuracy, scans, small_cnn

from dali_mix.losses import SoftCrossEntropy
from dali_mix.mixers import CutMix, MixChoice, ResizeMix

EPOCHS, BATCH_SIZE = 6, 64


def main() -> None:
    images, labels = scans()
    train_images, train_labels = images[HELD_OUT:], labels[HELD_OUT:]
    model, loss_of = small_cnn(), SoftCrossEntropy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    # ResizeMix for half of the batches, CutMix for three in ten; the other two in ten stay unmixed.
    mixer = MixChoice([ResizeMix(CLASSES), CutMix(CLASSES)], probs=[0.5, 0.3])
    generator = torch.Generator().manual_seed(0)

    for epoch in range(EPOCHS):
        model.train()
        losses, mixed = [], 0
        for rows in torch.randperm(len(train_images), generator=generator).split(BATCH_SIZE):
            batch, targets = mixer(train_images[rows], train_labels[rows], generator)
            mixed += int((targets.max(1).values < 1).sum())
            loss = loss_of(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}: loss {mean:.3f}, {mixed} of {len(train_images)} images with mixed labels")
    print(f"held-out accuracy {accuracy(model, images[:HELD_OUT], labels[:HELD_OUT]):.1f}%")


if __name__ == "__main__":
    main()
