"""Ranks: who we are, the few things we tell one another, and when we were asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among the others. One process alone is rank 0 of 1, and nothing below communicates."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, value: int) -> int:
        """Rank 0's `value`, on every rank; also a barrier."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.broadcast(tensor, 0)
        return int(tensor.item())

    def share_buffers(self, *models: nn.Module) -> None:
        """Gives every rank rank 0's buffers: BatchNorm's statistics drift apart between forward passes of DDP."""
        if self.world_size > 1:
            for model in models:
                for buffer in model.buffers():
                    dist.broadcast(buffer, 0)

    def average_gradients(self, model: nn.Module) -> None:
        """Averages gradients that were gathered outside of DDP's own reduction."""
        if self.world_size > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad.div_(self.world_size))


def environment() -> tuple[int, int, int]:
    """(rank, world_size, local_rank) from the variables torchrun sets; (0, 1, 0) without them.

    Raises:
        ValueError: WORLD_SIZE above 1 with another variable missing.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return 0, 1, 0
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(f"WORLD_SIZE is {world_size} but {', '.join(missing)} is not set: start with torchrun")
    rank = int(os.environ["RANK"])
    return rank, world_size, int(os.environ.get("LOCAL_RANK", rank))


def pick_device(name: str) -> torch.device:
    """ "auto" → this rank's GPU where there is one, else the CPU; "cpu" or "cuda" as asked.

    Raises:
        ValueError: an unknown name, or "cuda" on a machine without.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {name!r} is unknown: use auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device='cuda', but torch finds no GPU here; `dali-mix doctor` says more")
    if name == "cpu" or not available:
        return torch.device("cpu")
    local_rank = environment()[2]
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"this is local rank {local_rank}, but there are {torch.cuda.device_count()} GPUs: start fewer processes"
        )
    return torch.device("cuda", local_rank)


def start(device: torch.device, timeout_seconds: float = 600.0) -> Ranks:
    """Joins the other ranks (NCCL on GPUs, gloo on CPUs) and returns who we are.

    A rank that dies makes gloo's next exchange fail at once; with NCCL it is torchrun that ends the others, and
    `timeout_seconds` is the last resort.
    """
    rank, world_size, _ = environment()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1 and not dist.is_initialized():
        extra: dict[str, Any] = {"device_id": device} if device.type == "cuda" else {}
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds), **extra
        )
    return Ranks(rank, world_size, device)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """`start` for the length of a block; the group of ranks is left when the block ends well.

    After an error it is not: NCCL's orderly end waits for the other ranks, and those wait for this one. The process is
    about to end, which is what tells them.
    """
    yield start(device)
    if dist.is_initialized():
        dist.destroy_process_group()


class StopSignal:
    """Notes SIGTERM and Ctrl-C instead of dying from them: `with StopSignal() as stop: … if stop.asked: …`.

    Later SIGTERMs change nothing (launchers forward what the scheduler sent as well): SIGKILL ends what hangs. A second
    Ctrl-C stops at once. `name` is what asked first.
    Outside of the main thread Python cannot handle signals; `asked` then stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self.name = "SIGTERM"
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.asked:
                raise KeyboardInterrupt
            self.name = "Ctrl-C"
            with suppress(OSError):  # nobody may be left to read it
                os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")
        self.asked = True

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
