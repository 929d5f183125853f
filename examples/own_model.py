"""Your own dataset, model, optimizer and loss: pack, train with a mixer, resume, evaluate.

    python examples/own_model.py [--work-dir work_dirs/own_model]

The recipe sets everything that is not passed here, such as schedule, precision and checkpoints. Run the script again to
resume. A run that was stopped at any point, including by SIGTERM or Ctrl-C, ends with the same weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from digits import HELD_OUT, scans, small_cnn
from torch import nn

import dali_mix
from dali_mix.engine import Callback
from dali_mix.mixers import CutMix

NAMES = [str(digit) for digit in range(10)]


class PrintEpochs(Callback):
    """Prints the accuracy after each epoch."""

    def after_epoch(self, trainer: Any) -> None:
        print(f"epoch {trainer.epoch + 1}: held-out accuracy {trainer.scores['top1']:.1f}%")


def pack(folder: Path) -> None:
    """Write the scans to `folder` as two sets, train and val. Existing sets of these names are replaced.

    For a torchvision dataset, use `dali_mix.Writer.from_dataset(dataset, prefix)`.
    """
    images, labels = scans()
    pixels = (images * 255).round().to(torch.uint8)
    for name, rows in (("train", range(HELD_OUT, len(images))), ("val", range(HELD_OUT))):
        with dali_mix.Writer(folder / name, classes=NAMES, force=True) as writer:
            for row in rows:
                writer.write(pixels[row], int(labels[row]))


class Gray(nn.Module):
    """The small network of the other examples, on one of the three channels that loaders return."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_cnn()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images[:, :1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train your own model on your own images.")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/own_model"), help="folder of sets and run")
    work_dir = parser.parse_args().work_dir
    data = work_dir / "data"
    if not (data / "val.json").exists():
        pack(data)

    how = dali_mix.train(
        "quickstart",
        work_dir,
        resume="auto",
        train_set=data / "train",
        val_set=data / "val",
        epochs=4,
        model=Gray(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3),
        loss=nn.CrossEntropyLoss(label_smoothing=0.05),
        mixer=CutMix(10),
        callbacks=[PrintEpochs()],
    )
    best = work_dir / "checkpoints/best.pt"
    top1 = dali_mix.evaluate("quickstart", best, model=Gray(), loss=nn.CrossEntropyLoss()).values["top1"]
    print(f"{how}: held-out accuracy {top1:.1f}%")


if __name__ == "__main__":
    main()
