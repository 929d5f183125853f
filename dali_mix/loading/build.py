"""`build_loader`: checks what it is given, puts a loader together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_mix import pipelines
from dali_mix.loading.cached import CachedSource
from dali_mix.loading.exact import ExactSource
from dali_mix.loading.feed import BadRecords
from dali_mix.loading.loader import Dataset, Loader
from dali_mix.loading.order import Schedule
from dali_mix.loading.source import Source
from dali_mix.options import choice, flag, whole
from dali_mix.recordio import RecordSet


def build_loader(
    pipeline: str | pipelines.Pipeline,
    prefix: str | os.PathLike[str] | RecordSet,
    *,
    batch_size: int,
    train: bool,
    seed: int = 0,
    device: str | torch.device = "auto",
    rank: int | None = None,
    world_size: int | None = None,
    num_threads: int | None = None,
    on_bad_record: str = "raise",
    drop_last: bool = False,
    prefetch: int = 2,
    verify_crc: bool = True,
    pipeline_options: Mapping[str, Any] | None = None,
) -> Loader:
    """Return a loader over a packed set.

    Args:
        pipeline: a name ("imagenet", "cifar", "multilabel", "detection", or one an installed package offers), or a
            constructed pipeline.
        prefix: of the packed set, or the set opened.
        batch_size: records a step on each rank.
        train: shuffled by (seed, epoch) and augmented; or in order, each record exactly once, none dropped.
        seed: of order and augmentation, 0 to 2^64 - 1.
        device: "auto" (torch's current GPU if there is one), "cpu", "cuda" or "cuda:N".
        rank, world_size: from torch.distributed where that is initialised, else 0 of 1.
        num_threads: of DALI; default: the cores this process may use, shared with the other ranks of this machine.
        on_bad_record: "raise" a ValueError naming file and record, or "skip": go on without it, noted in
            `loader.skipped`.
        drop_last: drop what does not fill a step.
        prefetch: batches to prepare ahead.
        verify_crc: compare each record's crc32 with the manifest's, the first time this loader reads it.
        pipeline_options: keyword arguments of the pipeline named.

    Raises:
        ValueError, FileNotFoundError: for options that do not fit, or a set that cannot be opened.
    """
    for name, value in (("train", train), ("drop_last", drop_last), ("verify_crc", verify_crc)):
        flag(name, value)
    records = prefix if isinstance(prefix, RecordSet) else RecordSet(Path(prefix))
    if isinstance(pipeline, str):
        pipeline = pipelines.build(pipeline, train, pipeline_options)
    elif pipeline_options:
        raise ValueError("pipeline_options belong to a pipeline given by name; this one is constructed already")
    elif pipeline.train != train:
        raise ValueError(f"the pipeline was constructed with train={pipeline.train}, the loader with train={train}")
    rank, world_size = _rank(rank, world_size)
    whole("batch_size", batch_size, 1, 1 << 20)
    whole("seed", seed, 0, (1 << 64) - 1)
    whole("prefetch", prefetch, 1, 64)
    choice("on_bad_record", on_bad_record, ("raise", "skip"))
    schedule = Schedule(len(records), seed, train, batch_size, rank, world_size, drop_last)
    if train and pipeline.one_orientation:
        taller = np.asarray(records.table["height"]) > records.table["width"]
        schedule = dataclasses.replace(schedule, groups=taller.astype(np.int64), group_step=batch_size * world_size)
    if train and not schedule.steps_left(0):
        raise ValueError(
            f"{records.prefix}: {len(records)} records do not make a single step of {batch_size} a rank on"
            f" {world_size} ranks"
            f"{' with drop_last' if drop_last else ''}: use fewer ranks, a smaller batch, or more records"
        )
    if records.task.boxes:
        try:
            pipeline.check_boxes()
        except ValueError as error:
            raise ValueError(f"{records.prefix} is a {records.info.task} set: {error}") from None
    where = _device(device)
    cores = len(os.sched_getaffinity(0)) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    threads = max(1, cores) if num_threads is None else whole("num_threads", num_threads, 1)
    bad = BadRecords(records, skip=on_bad_record == "skip")

    options: dict[str, Any] = {"device": where, "num_threads": threads, "bad": bad, "verify_crc": verify_crc}
    if isinstance(pipeline, pipelines.CachedPipeline):
        source: Source = CachedSource(records, pipeline, schedule, **options)
    else:
        source = ExactSource(records, pipeline, schedule, prefetch=prefetch, **options)
    return Loader(Dataset(records), pipeline, source, bad, schedule, where)


def _rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}: ranks count from 0 to world_size - 1")
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}: choose auto, cpu, cuda or cuda:N") from None
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose auto, cpu, cuda or cuda:N")
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device is {device!r}, but torch sees no GPU: choose cpu, or check the driver with `dali-mix doctor`"
            )
        where = torch.device("cuda", torch.cuda.current_device() if where.index is None else where.index)
    return where
