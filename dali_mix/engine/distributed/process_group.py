"""Process-group helpers, and SIGTERM and Ctrl-C handling."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dali_mix.engine.distributed.environment import address, environment
from dali_mix.engine.distributed.rendezvous import Rendezvous


@dataclass(frozen=True)
class Ranks:
    """The rank of this process in a run, with methods to communicate with the other ranks.

    A single process is rank 0 of 1 and does not communicate.

    Attributes:
        rank: from 0 to `world_size` - 1.
        world_size: number of ranks.
        device: the device of this rank.
        rendezvous: the connection to rank 0's store; None for a single process.
    """

    rank: int
    world_size: int
    device: torch.device
    rendezvous: Rendezvous | None = None

    @property
    def main(self) -> bool:
        """Return True on rank 0, which writes files and prints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks, in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's picklable `value`, in rank order. Every rank must call it, and waits for all others."""
        found = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(found, value)
        return found

    def exchange(self, name: str, value: str) -> list[str]:
        """Return every rank's `value` in rank order, exchanged through the store. Every rank must call it.

        Each `name` can be used only once, since the store keeps its values.
        """
        return [value] if self.rendezvous is None else self.rendezvous.exchange(name, value)

    def share_buffers(self, *models: nn.Module) -> None:
        """Copy rank 0's buffers of `models` to all other ranks, in place. Every rank must call it.

        BatchNorm statistics, for example, differ between ranks under DDP.
        """
        if self.world_size > 1:
            for model in models:
                for buffer in model.buffers():
                    dist.broadcast(buffer, 0)

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients of `model` over ranks, in place. Needed after backward passes under DDP's `no_sync`.

        Every rank must call it, with gradients for the same parameters. Parameters without a gradient are omitted.
        """
        if self.world_size > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad.div_(self.world_size))


def pick_device(name: str) -> torch.device:
    """Return the torch device for a recipe's `device`. "auto" is this rank's GPU if there is a GPU, else the CPU.

    Raises:
        ValueError: "cuda" on a machine without a GPU, or several GPUs, but none for this process's local rank.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device='cuda', but torch finds no GPU here; run `dali-mix doctor` for details")
    if name == "cpu" or not available:
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # A single visible GPU belongs to this process, as in a container or a Slurm task.
    local_rank = environment()[2] if count > 1 else 0
    if local_rank >= count:
        raise ValueError(f"this is local rank {local_rank}, but there are {count} GPUs: start fewer processes")
    return torch.device("cuda", local_rank)


# References to process groups, kept until the process ends. If DDP's reducer held the last reference, its destructor
# would hold the GIL while waiting for gloo's threads, which may need the GIL to free a tensor (pytorch/pytorch#56297).
# With torch 2.9 one in five runs of two ranks hung at exit on a busy CPU; with these references, none of 14.
_groups: list[Any] = []


@contextmanager
def joined(prepare: Callable[[], tuple[torch.device, dict[str, str]]]) -> Iterator[Ranks]:
    """Compare settings with the other ranks, then keep a process group (NCCL on GPUs, gloo on CPUs) for the block.

    After an error the group is not destroyed: NCCL's shutdown would wait for the other ranks, which wait for this one.
    After success all ranks wait for each other, so that none is killed while it saves.

    Args:
        prepare: runs the checks this process can make alone; returns its device and the values that must be equal on
            all ranks.

    Yields:
        the `Ranks` of this process. A single process compares nothing and has no process group.

    Raises:
        ValueError: the values of the ranks differ, or torch.distributed is already initialized. `prepare` may raise
            other errors.
        RankLost: another rank failed.
        OSError: ranks are missing, or rank 0's store cannot be opened or reached.
    """
    rank, world_size, _ = environment()
    if world_size == 1:
        yield Ranks(0, 1, prepare()[0])
        return
    if dist.is_initialized():
        raise ValueError("torch.distributed is already initialized: do not call init_process_group before a run")
    problem: Exception | None = None
    try:
        device, values = prepare()
    except Exception as error:
        problem = error
    try:
        rendezvous = Rendezvous(rank, world_size, *address())
    except (ValueError, OSError):
        if problem is None:
            raise
        raise problem from None
    with rendezvous.reporting():
        if problem is not None:
            raise problem
        rendezvous.compare({"WORLD_SIZE": str(world_size), **values})
        extra: dict[str, Any] = {}
        if device.type == "cuda":
            torch.cuda.set_device(device)
            extra["device_id"] = device
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", rendezvous.store),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(minutes=10),  # for each exchange, to notice a rank that has died
            **extra,
        )
        _groups.append(dist.group.WORLD)
        ranks = Ranks(rank, world_size, device, rendezvous)
        yield ranks
        ranks.gather(None)
        dist.destroy_process_group()


class StopSignal:
    """A flag that SIGTERM and Ctrl-C set: `with handled(stop.note, SIGTERM, SIGINT): … if stop.asked: …`.

    After the first signal, a Ctrl-C raises KeyboardInterrupt. Further SIGTERMs are ignored, since a launcher may
    forward a SIGTERM that the scheduler also sends. A process that hangs must therefore be ended by SIGKILL.

    Attributes:
        asked: True once a signal was received.
        name: the first signal received, "Ctrl-C" or "SIGTERM".
    """

    def __init__(self) -> None:
        self.asked = False
        self.name = "SIGTERM"

    def note(self, number: int, frame: FrameType | None) -> None:
        """Record signal `number`; a handler for `signal.signal`. `frame` is not used.

        If Ctrl-C is the first signal, rank 0 prints a notice to stderr. For Ctrl-C after another signal, raise
        KeyboardInterrupt.
        """
        if number == signal.SIGINT:
            if self.asked:
                raise KeyboardInterrupt
            self.name = "Ctrl-C"
            if os.environ.get("RANK", "0") == "0":
                with suppress(OSError):  # the terminal may be gone
                    os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")
        self.asked = True
