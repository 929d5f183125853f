"""A step of the trainer compared with a bare loop, on a small CIFAR network, where overhead is most visible.

usage: python benchmarks/trainer_step.py [--model wrn-10-1] [--batch-size 64] [--steps 10] [--rounds 25] [--out FILE]

Both run forward, loss, backward and an SGD step with a cosine schedule on the same batches, which are in memory. The
trainer also seeds the model's randomness, checks the loss before the step, and records and logs waiting times. Trainer
and loop take turns in a process that keeps freed memory, as training on a CPU does. Otherwise page faults, which depend
on the layout of the heap, would outweigh the difference.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _compare import environment, report, table, take_turns, write_json

from dali_mix.engine.build import build_parts
from dali_mix.engine.checkpoint.files import CheckpointFolder
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks, StopSignal
from dali_mix.engine.logging import Report
from dali_mix.engine.train.trainer import Trainer
from dali_mix.loading import Batch
from dali_mix.malloc import keep_freed_memory


class Resident:
    """A loader that repeats `batches`, which are in memory. An epoch has `steps` batches."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self.batches, self.steps = batches, steps
        self.epoch, self.global_size = 0, len(batches[0].ids)
        self.global_batch_size = self.global_size
        self.dataset = SimpleNamespace(metainfo={"classes": [str(i) for i in range(10)]})

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.steps):
            yield self.batches[step % len(self.batches)]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        raise NotImplementedError("a benchmark is not resumed")

    def close(self) -> None:
        """Do nothing: batches in memory need no cleanup."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn-10-1")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/trainer_step.json"))
    args = parser.parse_args()

    config = make_config(
        {
            "train_set": "in memory",
            "val_set": None,
            "pipeline": {"type": "cifar"},
            "batch_size": args.batch_size,
            "epochs": 10**6,
            "model": {"type": args.model},
            "optimizer": {"type": "SGD", "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"type": "cosine"},
            "amp": "off",
            "channels_last": False,
            "log_interval": 10,
        }
    )
    device = torch.device(args.device, *([0] if args.device == "cuda" else []))
    generator = torch.Generator().manual_seed(0)
    batches = [
        Batch(
            torch.randn(args.batch_size, 3, 32, 32, generator=generator).to(device),
            torch.randint(10, (args.batch_size,), generator=generator).to(device),
            torch.arange(args.batch_size),
        )
        for _ in range(4)
    ]
    if args.device == "cpu":
        keep_freed_memory()
    ranks = Ranks(0, 1, device)
    bare = build_parts(config, ranks, Resident(batches, args.steps), None)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(bare.optimizer, 10**6)

    def bare_loop() -> float:
        start = time.perf_counter()
        for step in range(args.steps):
            batch = batches[step % len(batches)]
            loss = bare.loss(bare.model(batch.images), batch.targets)
            bare.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            bare.optimizer.step()
            schedule.step()
        loss.item()
        return args.steps / (time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        log = Report(Path(folder), main=True, visualizer=[])
        log.open(None)
        parts = build_parts(config, ranks, Resident(batches, args.steps), None)
        trainer = Trainer(config, parts, ranks, CheckpointFolder(Path(folder), 1, log.warn), log, StopSignal())

        def our_loop() -> float:
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.run_epoch()
            return args.steps / (time.perf_counter() - start)

        bare.model.train()
        rates = take_turns({"trainer": our_loop, "bare loop": bare_loop}, args.rounds)
        log.close()

    print(f"{args.model}, batch {args.batch_size}, {args.device}, {args.steps} steps a turn, {args.rounds} rounds")
    print(table(rates, "trainer", "steps/s"))
    found = report(rates, "trainer")
    found["time_ratio"] = 1 / found["ratios"]["trainer / bare loop"]["median"]
    print(f"a trainer step takes {found['time_ratio']:.3f} × the bare step (goal: at most 1.05)")
    facts = {"settings": {k: str(v) for k, v in vars(args).items()}, "environment": environment(["torch", "dali_mix"])}
    write_json(args.out, {**facts, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
