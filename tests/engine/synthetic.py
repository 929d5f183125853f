"""A fast loader of synthetic images with the contract of `dali_mix.build_loader`, and tiny models."""

from __future__ import annotations

import os
import signal
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import train

CLASSES = 4


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    ids: torch.Tensor


class Records(list):
    """Records of the synthetic loader: a length, and the metainfo of a set."""

    metainfo: ClassVar = {"classes": tuple("abcd"), "num_classes": CLASSES, "task": "classification"}


class SyntheticLoader:
    """Loader whose image i is noise from seed i with a bright quadrant for its class, i % CLASSES.

    With `multilabel`, the quadrant of class i // CLASSES % CLASSES is bright too. In every fifth image, class
    (i + 1) % CLASSES is unknown unless it is bright.
    """

    def __init__(
        self, count, batch_size, *, train, seed=0, rank=0, world_size=1, nan_at=(), bad=(), size=8, multilabel=False
    ):
        self.count, self.batch_size, self.train, self.seed = count, batch_size, train, seed
        self.rank, self.world_size, self.size = rank, world_size, size
        self.global_batch_size = batch_size * world_size
        self.epoch = self.samples_seen = self.global_size = 0
        self.resuming = False
        self.waits_at = -1  # batches before SIGTERM arrives during the wait for the next one; -1: never
        self.nan_at, self.bad = set(nan_at), set(bad)  # bad: skipped, as with on_bad_record="skip"
        self.multilabel = multilabel
        self.dataset = Records(range(count))
        if multilabel:
            self.dataset.metainfo = {**self.dataset.metainfo, "task": "multilabel"}

    def __len__(self):
        return -(-self.count // self.global_batch_size)

    def __iter__(self):
        if not self.resuming:
            self.samples_seen = 0
        return self._batches()

    def _batches(self):
        order = np.arange(self.count)
        if self.train:
            order = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch])).permutation(self.count)
        for start in range(self.samples_seen, self.count, self.global_batch_size):
            before = self.epoch, self.samples_seen
            ids = order[start : start + self.global_batch_size]
            self.samples_seen, self.global_size, self.resuming = start + len(ids), len(ids), False
            if self.samples_seen == self.count:
                self.epoch, self.samples_seen = self.epoch + 1, 0
            mine = np.array_split(ids, self.world_size)[self.rank]
            mine = np.array([i for i in mine if i not in self.bad], dtype=np.int64)
            if len(mine):
                if self.waits_at == 0:  # SIGTERM during a wait for a worker pool
                    os.kill(os.getpid(), signal.SIGTERM)
                    assert self.asked()
                    self.epoch, self.samples_seen = before
                    raise InterruptedError
                self.waits_at -= 1
                yield self._batch(mine)

    def _batch(self, ids):
        images = []
        for i in ids:
            image = np.random.Generator(np.random.Philox(key=[7, int(i)])).normal(size=(3, self.size, self.size))
            half, cls = self.size // 2, int(i) % CLASSES
            for shown in {cls, int(i) // CLASSES % CLASSES} if self.multilabel else {cls}:
                image[:, (shown // 2) * half :, (shown % 2) * half :][:, :half, :half] += 1.0
            images.append(image if int(i) not in self.nan_at else image * np.nan)
        images = torch.from_numpy(np.stack(images).astype(np.float32))
        return Batch(images, torch.from_numpy(self._targets(ids)), torch.from_numpy(ids))

    def _targets(self, ids):
        if not self.multilabel:
            return ids % CLASSES
        rows = np.zeros((len(ids), CLASSES), np.float32)
        for row, i in zip(rows, ids, strict=True):
            row[(i + 1) % CLASSES] = -1.0 if i % 5 == 0 else 0.0
            row[[i % CLASSES, i // CLASSES % CLASSES]] = 1.0
        return rows

    def state_dict(self):
        names = ("epoch", "samples_seen", "seed", "global_batch_size", "train")
        return {**{n: getattr(self, n) for n in names}, "fingerprint": f"made-up-{self.count}"}

    def load_state_dict(self, state, strict=True):
        mine = self.state_dict()
        for key in ("seed", "fingerprint", "global_batch_size", "train"):
            if strict and state[key] != mine[key]:
                raise ValueError(f"{key} was {state[key]}, is {mine[key]}")
        self.epoch, self.samples_seen = state["epoch"], state["samples_seen"]
        self.resuming = True

    def interrupt_when(self, asked):
        self.asked = asked

    def close(self):
        pass


def make_loaders(config, ranks, *, count=40, nan_at=(), bad=()):
    """Return (training, evaluation) loaders, for `dali_mix.engine.run.train(make_loaders=…)`."""
    several = config.pipeline["type"] == "multilabel"
    common: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size, "multilabel": several}
    if several:
        common["size"] = config.pipeline["image_size"]
    train = SyntheticLoader(
        count, config.per_rank(ranks.world_size), train=True, seed=config.seed, nan_at=nan_at, bad=bad, **common
    )
    return train, SyntheticLoader(22, 8, train=False, **common)


class TinyNet(nn.Module):
    """Model of 364 parameters (with 4 classes) that has all kinds of state that a checkpoint must restore.

    It has a convolution, BatchNorm (or none), dropout and a linear layer.
    """

    def __init__(self, num_classes: int, norm: bool = True, dropout: float = 0.2):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8 * 4, num_classes)

    def forward(self, images):
        x = torch.relu(self.norm(self.conv(images)))
        return self.head(self.dropout(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)))


PLAIN = {"type": "tests.engine.synthetic:TinyNet", "norm": False, "dropout": 0.0}  # no statistics, no randomness


def recipe(**changes):
    """Return a recipe as a dict, for the loaders and model above. An epoch has 5 steps, the last one short."""
    return {
        "train_set": "made-up",
        "val_set": "made-up",
        "pipeline": {"type": "cifar"},
        "batch_size": 9,
        "epochs": 3,
        "model": {"type": "tests.engine.synthetic:TinyNet"},
        "mixer": {"type": "CutMix"},
        "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
        "schedule": {"type": "cosine", "warmup_epochs": 1, "min_lr": 1e-4},
        "ema": 0.99,
        "device": "cpu",
        "log_interval": 2,
        "log_ids": True,
        "checkpoint": {"interval_steps": 2, "keep": 3},
        "visualizer": [],
        **changes,
    }


def train_synthetic(values, work_dir, **options):
    """Train a recipe dict with the loaders above; return how the run ended."""
    return train(make_config(values), work_dir, make_loaders=make_loaders, **options)
