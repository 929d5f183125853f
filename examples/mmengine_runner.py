"""A mixer in mmengine's Runner: a data preprocessor that mixes batches in training but not in validation.

    python examples/mmengine_runner.py

The mixer's random numbers depend only on (seed, iteration, rank). A resumed run therefore mixes in the same way without
any saved state, and every process draws different numbers.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from digits import CLASSES, HELD_OUT, accuracy, scans, small_cnn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dali_mix.engine import derive_seed
from dali_mix.losses import SoftCrossEntropy
from dali_mix.mixers import Mixer, ResizeMix

EPOCHS, BATCH_SIZE, SEED = 6, 64, 0


class MixPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the model's device, mixes it there in training, and returns it as the model's arguments."""

    def __init__(self, mixer: Mixer[Any], seed: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.seed = seed

    def forward(self, data: Any, training: bool = False) -> dict[str, Tensor]:
        images, targets = self.cast_data(data)
        if training:
            iteration = MessageHub.get_current_instance().get_info("iter")
            generator = torch.Generator().manual_seed(derive_seed(self.seed, iteration, get_rank()))
            images, targets = self.mixer(images, targets, generator)
        return {"images": images, "targets": targets}


class Classifier(BaseModel):
    """A network and its loss, with the interface that the Runner calls."""

    def __init__(self, network: torch.nn.Module, data_preprocessor: MixPreprocessor) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.network = network
        self.loss_of = SoftCrossEntropy()

    def forward(self, images: Tensor, targets: Tensor, mode: str = "tensor") -> dict[str, Tensor] | Tensor:
        logits = self.network(images)
        if mode != "loss":
            return logits
        # The Runner logs all entries and minimizes those with "loss" in their name.
        mixed = (targets.max(1).values < 1).float().mean()
        return {"loss": self.loss_of(logits, targets), "share_mixed": mixed}


class PrintEpochs(Hook):
    """Prints the mean loss and share of mixed images after each epoch."""

    def before_train_epoch(self, runner: Runner) -> None:
        self.seen: list[tuple[float, float]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.seen.append((outputs["loss"].item(), outputs["share_mixed"].item()))

    def after_train_epoch(self, runner: Runner) -> None:
        loss, share = torch.tensor(self.seen).mean(0).tolist()
        print(f"epoch {runner.epoch + 1}: loss {loss:.3f}, {100 * share:.0f}% of the images with mixed labels")


def main() -> None:
    images, labels = scans()
    loader = DataLoader(
        TensorDataset(images[HELD_OUT:], labels[HELD_OUT:]),
        BATCH_SIZE,
        shuffle=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    model = Classifier(small_cnn(), MixPreprocessor(ResizeMix(CLASSES), SEED))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    with tempfile.TemporaryDirectory() as work_dir:
        runner = Runner(
            model,
            work_dir,
            train_dataloader=loader,
            train_cfg={"by_epoch": True, "max_epochs": EPOCHS},
            optim_wrapper={"type": "OptimWrapper", "optimizer": optimizer},
            default_hooks={"checkpoint": None, "logger": None},
            custom_hooks=[PrintEpochs()],
            log_level="WARNING",
            experiment_name="digits",
        )
        runner.train()
    device = next(model.parameters()).device
    held_out = accuracy(model.network, images[:HELD_OUT].to(device), labels[:HELD_OUT].to(device))
    print(f"held-out accuracy {held_out:.1f}%")


if __name__ == "__main__":
    main()
