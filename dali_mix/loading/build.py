"""`build_loader`: check the arguments and build a loader."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dali_mix import pipelines
from dali_mix._keywords import suggesting
from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.cached import CachedSource
from dali_mix.loading.decoder import Decoder
from dali_mix.loading.exact import ExactSource
from dali_mix.loading.loader import Loader
from dali_mix.loading.order import Schedule
from dali_mix.loading.remote import RemoteSource
from dali_mix.loading.source import Source
from dali_mix.loading.workers import Opened, Pool, Spec
from dali_mix.malloc import keep_freed_memory
from dali_mix.options import as_path, choice, flag, whole
from dali_mix.recordio import RecordSet
from dali_mix.tasks import TASKS


@suggesting(
    image_size="pass pipeline_options={'image_size': ...}",
    num_workers="num_threads is the number of threads that decode",
    shuffle="train=True shuffles, train=False keeps the order of the records",
    transform="pass a pipeline, by name or as an object, and pipeline_options",
)
def build_loader(
    pipeline: str | pipelines.Pipeline,
    prefix: str | os.PathLike[str] | RecordSet,
    *,
    batch_size: int,
    train: bool,
    seed: int = 0,
    device: str | torch.device = "auto",
    decode: str = "auto",
    dtype: str = "float32",
    rank: int | None = None,
    world_size: int | None = None,
    num_threads: int | None = None,
    on_bad_record: str = "raise",
    drop_last: bool = False,
    prefetch: int = 2,
    verify_crc: bool = True,
    pipeline_options: Mapping[str, Any] | None = None,
    workers: Pool | None = None,
) -> Loader:
    """Return a loader over a packed set.

    Args:
        pipeline: a name ("imagenet", "cifar", "multilabel", "detection", one that an installed package registers, or
            "module:Class"), or a constructed pipeline.
        prefix: prefix of the packed set, or an open `RecordSet`.
        batch_size: records per step on each rank.
        train: True: shuffle by (seed, epoch) and augment. False: keep the order of the records and do not augment;
            every record is yielded exactly once over all ranks, unless `drop_last` or on_bad_record="skip" omits it.
        seed: seed of order and augmentation, 0 to 2^64 - 1.
        device: "auto" (torch's current GPU if available), "cpu", "cuda" or "cuda:N".
        decode: where images are decoded, resized and augmented: "cpu", "gpu" (pixels differ by a few grey levels), or
            "auto", which is `device`, or the workers' default with `workers`. Images decoded on a CPU for a GPU are
            copied as uint8 and normalized on the GPU. Pipelines that cache the set ("cifar") decode on the CPU.
        dtype: dtype of the images: "float32" (normalized), or "uint8" (not normalized, see
            `dali_mix.pipelines.normalize`).
        rank, world_size: default: from torch.distributed if initialized, else 0 and 1.
        num_threads: number of DALI threads; default: the number of cores available to this process, divided by the
            number of ranks on the machine.
        on_bad_record: "raise" a ValueError naming file and record, or "skip" the record and list it in
            `loader.skipped`.
        drop_last: drop the last step of an epoch if it is incomplete.
        prefetch: batches to decode ahead.
        verify_crc: check each record's crc32 against the manifest the first time this loader reads it.
        pipeline_options: keyword arguments for a pipeline passed by name.
        workers: a pool that decodes in other processes (see `dali_mix.service`). `prefix` is then a path on the
            workers' machines, prefetch has no effect, and num_threads applies only to the pool's fallback="local".

    Raises:
        ValueError: an invalid argument, a set that is damaged or that the pool cannot open, or, in training, a set with
            fewer records than one step needs.
        FileNotFoundError: a file of the set is missing.
    """
    for name, value in (("train", train), ("drop_last", drop_last), ("verify_crc", verify_crc)):
        flag(name, value)
    whole("batch_size", batch_size, 1, 1 << 20)
    whole("seed", seed, 0, (1 << 64) - 1)
    whole("prefetch", prefetch, 1, 64)
    choice("on_bad_record", on_bad_record, ("raise", "skip"))
    choice("decode", decode, ("auto", "cpu", "gpu"))
    choice("dtype", dtype, ("float32", "uint8"))
    if workers is not None and (isinstance(workers, os.PathLike) or not callable(getattr(workers, "open", None))):
        address = workers if isinstance(workers, str) else "auto"
        raise ValueError(
            f"workers={workers!r:.40}: must be a pool: dali_mix.service.connect({address!r}); num_threads is the number"
            " of threads"
        )
    made = _pipeline(pipeline, train, pipeline_options)
    if workers is None:
        opened: RecordSet | Opened = prefix if isinstance(prefix, RecordSet) else RecordSet(prefix)
    else:
        if isinstance(made, pipelines.CachedPipeline):
            raise ValueError(f"pipeline {made.name!r} decodes a set once and keeps it: it needs no workers")
        if not isinstance(pipeline, str):
            raise ValueError("workers build the pipeline themselves: give its name and pipeline_options")
        folder = prefix.prefix if isinstance(prefix, RecordSet) else as_path("prefix", prefix)
        options = dict(pipeline_options or {})
        opened = workers.open(Spec(folder.absolute(), pipeline, options, train, seed, decode, verify_crc))
    rank, world_size = _rank(rank, world_size)
    schedule = Schedule(len(opened), seed, train, batch_size, rank, world_size, drop_last)
    if train and made.one_orientation:
        groups = opened.taller.astype(np.int64)
        schedule = dataclasses.replace(schedule, groups=groups, group_step=batch_size * world_size)
    if train and not schedule.steps_left(0):
        raise ValueError(
            f"{opened.prefix}: {len(opened)} records are less than one step of {batch_size} per rank on"
            f" {world_size} ranks"
            f"{' with drop_last' if drop_last else ''}: use fewer ranks, a smaller batch, or more records"
        )
    if TASKS[opened.metainfo["task"]].boxes:
        try:
            made.check_boxes()
        except ValueError as error:
            raise ValueError(f"{opened.prefix} is a {opened.metainfo['task']} set: {error}") from None
    where = _device(device)
    if decode == "gpu" and where.type == "cpu" and workers is None:
        raise ValueError("decode is 'gpu', but device is the CPU: choose device='cuda', or decode='cpu'")
    bad = BadRecords(opened.prefix, skip=on_bad_record == "skip")
    normalizing = dtype == "float32" and where.type == "cpu"  # on a GPU, uint8 images are copied and normalized there

    if isinstance(opened, Opened):
        if where.type == "cpu":
            keep_freed_memory()  # batches are allocated here, and page faults would take longer than copying into them
        fallback = None
        if opened.local is not None:
            fallback = _local_decoder(opened, made, seed, opened.local, where, num_threads, verify_crc)
        source: Source = RemoteSource(
            opened.workers, made, schedule, bad, device=where, normalizing=normalizing, local=fallback
        )
        return Loader(opened, made, source, bad, schedule, where, getattr(torch, dtype))
    threads = _default_threads() if num_threads is None else whole("num_threads", num_threads, 1)
    local: dict[str, Any] = {"num_threads": threads, "bad": bad, "verify_crc": verify_crc}
    if isinstance(made, pipelines.CachedPipeline):
        if decode == "gpu":
            raise ValueError(f"pipeline {made.name!r} decodes a set once, on the CPU: omit decode='gpu'")
        source = CachedSource(opened, made, schedule, device=where, **local)
    else:
        running = copy.copy(made)
        running.normalizing = normalizing
        decoding = torch.device("cpu") if decode == "cpu" else where
        source = ExactSource(opened, running, schedule, device=decoding, prefetch=prefetch, **local)
    return Loader(opened, made, source, bad, schedule, where, getattr(torch, dtype))


def _local_decoder(
    opened: Opened,
    pipeline: pipelines.Pipeline,
    seed: int,
    decode: str,
    device: torch.device,
    num_threads: int | None,
    verify_crc: bool,
) -> Decoder:
    """Return the decoder that a loader with a pool uses in this process while no worker answers.

    Raise FileNotFoundError if a file of the set `opened.prefix` is missing on this machine. Raise ValueError if that
    set is damaged or has another fingerprint than the set that the pool opened, if `decode` is "gpu" and `device` is
    the CPU, or if `num_threads` is neither None nor an integer of at least 1.
    """
    records = RecordSet(opened.prefix)
    if records.fingerprint != opened.metainfo["fingerprint"]:
        raise ValueError(f"{opened.prefix}: not the set that the pool opened: omit fallback='local'")
    if decode == "gpu" and device.type == "cpu":
        raise ValueError("the pool decodes on GPUs and this process has none: omit fallback='local'")
    return Decoder.for_chunks(
        records,
        pipeline,
        seed,
        device=device if decode == "gpu" else torch.device("cpu"),
        num_threads=_default_threads() if num_threads is None else whole("num_threads", num_threads, 1),
        verify_crc=verify_crc,
    )


def _pipeline(pipeline: str | pipelines.Pipeline, train: bool, options: Mapping[str, Any] | None) -> pipelines.Pipeline:
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"pipeline_options={options!r:.60}: must be a dict")
    if isinstance(pipeline, str):
        return pipelines.build(pipeline, train, options)
    if not isinstance(pipeline, pipelines.Pipeline):
        raise ValueError(f"pipeline={pipeline!r:.40}: must be the name of a pipeline, or a Pipeline")
    if options:
        raise ValueError("pipeline_options are for a pipeline passed by name; this one is already constructed")
    if pipeline.train != train:
        raise ValueError(f"the pipeline was constructed with train={pipeline.train}, the loader with train={train}")
    return pipeline


def _rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError("pass both rank and world_size, or neither")
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


def _default_threads() -> int:
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
