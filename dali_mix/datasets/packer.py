"""The parallel packer: each thread reads, checks, encodes, hashes and writes its own images.

The output bytes do not depend on the number of threads.

A job is up to 16 images. A thread runs all steps of its job, so that the images stay in one core's cache. Only the
middle step, which assigns offsets and updates the file's sha256, runs in the order of the jobs:

    thread 1   make job 0 ──── place 0 ─ store 0 ── make job 2 ──── place 2 ─ store 2
    thread 2   make job 1 ─────────────── place 1 ─ store 1 ── make job 3 ──────────── …

Invariant of the ordering: between job n and job n + 1 there is a queue that receives exactly one item. The item is True
once job n has been placed, or False if it cannot be placed because it or an earlier job failed. Therefore no job is
placed after one that could not be placed, and a waiting thread is always woken.

With several machines, each shard is packed by `_pack_shard`, which writes a .rec file and returns its table rows:

    machine 1, 2, …   _pack_shard  →  .NAME-0000n.rec.HEX.partial, size, sha256, rows of the table
    this machine      SetWriter.add, in the shards' order  →  finish

Threads suffice, since reading, decoding, resizing, encoding, crc32 and sha256 all release the GIL. There are no worker
processes that could die unnoticed: killing the packer stops everything. Before publishing, no file has its final name.

More than 300 lines: packing on one machine and on several share the code that runs a job.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import cv2
import numpy as np

from dali_mix import tasks
from dali_mix._files import sync
from dali_mix._labels import HEADER_WIDTH, clip_boxes, count_targets, objects_of, report_targets
from dali_mix._machines import Machines, Progress
from dali_mix._text import printable
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, join_reports
from dali_mix.datasets.images.orientation import CHOICES, turn_boxes, turned_notice
from dali_mix.datasets.images.transform import AS_ASKED, Transform
from dali_mix.datasets.mistakes import beginning, unusable
from dali_mix.datasets.trees import Tree
from dali_mix.malloc import keep_freed_memory
from dali_mix.options import choice, flag, set_whole
from dali_mix.recordio import Block, SetInfo, SetWriter
from dali_mix.recordio.framing import check_length
from dali_mix.recordio.header import Label
from dali_mix.recordio.image_headers.header import ImageHeader
from dali_mix.recordio.part import write_errors
from dali_mix.recordio.publish import new_try
from dali_mix.recordio.writer import RecordWriter

_CHUNK = 16  # images per job
_MOST_THREADS = 4096

_Turn = SimpleQueue[bool]


@dataclass(frozen=True)
class PackOptions:
    """Options for `pack_listing`.

    Attributes:
        transform: how images are stored.
        shuffle: seed of the order; None keeps the order of the listing.
        shards: number of .rec files.
        workers: number of threads; None: one per core or, if other machines pack the shards, one per shard.
        skip_bad: skip images that cannot be read and list them in the manifest.
        force: replace an existing set.
        exif: what boxes and crops refer to: the rotated image ("apply") or the stored pixels ("ignore"); None: "apply".
    """

    transform: Transform = field(default_factory=Transform)
    shuffle: int | None = None
    shards: int = 1
    workers: int | None = None
    skip_bad: bool = False
    force: bool = False
    exif: str | None = None

    def __post_init__(self) -> None:
        set_whole(self, "shuffle", 0, optional=True)
        set_whole(self, "shards", 1)
        set_whole(self, "workers", 1, _MOST_THREADS, optional=True)
        flag("skip_bad", self.skip_bad)
        flag("force", self.force)
        if self.exif is not None:
            choice("exif", self.exif, CHOICES)

    def recorded(self) -> dict[str, Any]:
        """Return the options to record in the manifest, with those of `transform` in the same dict.

        `workers` and `force` are omitted, since they do not affect the bytes, and so is `exif` if it is not set.
        """
        kept = {"shuffle": self.shuffle, "shards": self.shards, "skip_bad": self.skip_bad}
        return asdict(self.transform) | kept | ({"exif": self.exif} if self.exif else {})


@dataclass
class _Done:
    """Result of a job. Also the sum of several results, which has no blocks."""

    blocks: list[Block] = field(default_factory=list)
    images: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # "reencoded", "clipped_boxes", "turned" (rotated by EXIF)
    odd: Counter[str] = field(default_factory=Counter)  # reason why decoders may differ → number of images
    targets: np.ndarray | int = 0  # (3, K), see `count_targets`; multi-label sets only

    def add(self, other: _Done) -> None:
        """Add the results of `other`, except its blocks."""
        self.images += other.images
        self.skipped += other.skipped
        self.counts += other.counts
        self.odd += other.odd
        self.targets = self.targets + other.targets


@dataclass
class _Shard:
    """A .rec file written by `_pack_shard`.

    If all images of the shard were skipped, there is no file at `path`, `size` is 0 and `sha256` is "".
    """

    path: Path
    size: int
    sha256: str
    table: np.ndarray
    done: _Done


def pack_listing(
    listing: Listing,
    prefix: str | os.PathLike[str],
    options: PackOptions,
    progress: Progress | None = None,
    machines: Machines | None = None,
) -> SetInfo:
    """Pack `listing` as the set `prefix` and return the set's manifest.

    `progress` is called with the number of images done since the last call. If `machines` is set, these other machines
    pack each shard as a separate job with `options.workers` threads (None: one). The resulting bytes are the same.

    Nothing is published if an exception is raised.

    Raises:
        ValueError, FileNotFoundError: an invalid image or label, with the image named in the message, or options that
            do not fit the listing. With `skip_bad`, images that cannot be read are listed in the manifest's report
            instead.
        FileExistsError: the set exists, and `force` is not set.
        OSError: the set cannot be written.
    """
    count = len(listing.names)
    task = tasks.get(listing.task)
    if options.exif and not task.boxes and listing.crops is None:
        raise ValueError(f"--exif is for boxes, and {listing.task} labels have none: leave it out")
    if machines is not None:
        listing.tree.opening()  # before anything is written
    order = np.arange(count)
    if options.shuffle is not None:
        order = np.random.Generator(np.random.Philox(options.shuffle)).permutation(count)
    report: dict[str, Any] = dict(listing.report)
    done = _Done()
    with SetWriter(
        prefix,
        task=listing.task,
        classes=listing.classes,
        total=count,
        shards=options.shards,
        source=listing.source,
        split=listing.split,
        options=options.recorded(),
        force=options.force,
    ) as writer:
        if machines is None:
            made = _pack_here(writer, listing, options, order, progress)
        else:
            made = _pack_there(machines, writer, listing, options, order, progress)
        with closing(made):
            for some in made:
                done.add(some)
        if turned := done.counts["turned"]:
            notices = [] if options.exif else [turned_notice(turned)]
            report = join_reports(report, {"turned_by_exif": turned, "notices": notices})
        if task.ignores:
            targets = np.zeros((3, len(listing.classes)), dtype=np.int64) + done.targets
            report = join_reports(report, report_targets(targets, listing.classes))
        if left_out := listing.tree.count_left_out():
            report["left_out"] = left_out
        report["skipped"] = sorted(done.skipped, key=lambda entry: entry["file"])
        report |= {name: done.counts[name] for name in ("reencoded", "clipped_boxes")}
        if done.odd:
            report["normalized"] = dict(sorted(done.odd.items()))
        return writer.finish(report)


def _pack_here(
    writer: RecordWriter, listing: Listing, options: PackOptions, order: np.ndarray, progress: Progress | None
) -> Generator[_Done]:
    """Write the images of `listing` at the indices `order`, in this order, on threads. Yield a `_Done` per job.

    After the caller has processed a `_Done`, `progress` is called with its number of images. OpenCV is limited to one
    thread in the process until the generator ends. malloc keeps freed memory from then on (`keep_freed_memory`).
    """
    workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    jobs = ((writer, listing, options, at, order[at : at + _CHUNK].tolist()) for at in range(0, len(order), _CHUNK))
    keep_freed_memory()
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # images are already processed in parallel; OpenCV's threads would compete for the cores
    try:
        for done in _in_turn(_work, lambda done: [writer.place(block) for block in done.blocks], jobs, workers):
            yield done
            if progress:
                progress(done.images)
    finally:
        cv2.setNumThreads(threads_before)


def _pack_there(
    machines: Machines,
    writer: SetWriter,
    listing: Listing,
    options: PackOptions,
    order: np.ndarray,
    progress: Progress | None,
) -> Generator[_Done]:
    """Write the images of `listing` at the indices `order`, in this order, on `machines`. Yield a `_Done` per shard.

    Each shard is one call of `_pack_shard`, and its file is added to `writer`. A file made by `mark_folder` shows the
    machines whether they see the set's folder.
    """
    count, shards = len(order), options.shards
    opening, pack_id = listing.tree.opening(), secrets.token_hex(8)
    options = replace(options, workers=options.workers or 1)

    def arguments(shard: int) -> tuple[Any, ...]:
        first, end = (-(-number * count // shards) for number in (shard, shard + 1))
        rows = order[first:end].tolist()
        part = replace(listing.only(rows), ids=rows if listing.ids is None else [listing.ids[row] for row in rows])
        columns = {field.name: getattr(part, field.name) for field in fields(part)}
        del columns["tree"], columns["report"]
        return opening, pack_id, columns, options, writer.partial(shard)

    mark = writer.mark_folder()
    here = [path for path in (opening[0], opening[0] / listing.names[0]) if path.exists()]
    sees = {path: str(path) for path in here} | {mark: str(mark.parent)}
    with closing(machines.map(_pack_shard, shards, arguments, sees, progress)) as made:
        for shard in made:
            writer.add(shard.path, shard.size, shard.sha256, shard.table)
            yield shard.done


def _pack_shard(
    opening: tuple[Path, bool],
    pack_id: str,
    columns: dict[str, Any],
    options: PackOptions,
    partial_file: Path,
    progress: Progress,
) -> _Shard:
    """Write one .rec file of a set. Runs on one of several machines.

    The file is written to a path that `new_try(partial_file)` returns, since another machine may repeat the call.

    Args:
        opening: arguments of `open_tree`.
        pack_id: the same for all shards of the set (see `_open_once`).
        columns: fields of the shard's `Listing` except `tree` and `report`.
        options: `workers` must be set.
        partial_file: the shard's path from `SetWriter.partial`.
        progress: called with the number of images done since the last call.
    """
    listing = Listing(_open_once(*opening, pack_id), **columns)
    path, count, done = new_try(partial_file), len(listing.names), _Done()
    with RecordWriter(listing.task, listing.classes, count, [path]) as writer:
        for some in _pack_here(writer, listing, options, np.arange(count), progress):
            done.add(some)
        written = writer.end()
    size, sha256 = written[0] if written else (0, "")
    if written:
        with write_errors(path):
            sync(path)
    return _Shard(path, size, sha256, writer.table, done)


@lru_cache(maxsize=1)
def _open_once(root: Path, follow_links: bool, pack_id: str) -> Tree:
    """Return the tree of `root`, opened once per process for all shards of a set.

    Reading a .zip's directory is slow. A new `pack_id` opens the tree again.
    """
    return open_tree(root, follow_links)


def _in_turn(
    make: Callable[..., _Done],
    place: Callable[[_Done], list[Callable[[], None]]],
    jobs: Iterator[tuple[Any, ...]],
    workers: int,
) -> Iterator[_Done]:
    """Run each job on one of `workers` threads, and yield the results of `make` in the order of `jobs`.

    A job is a tuple of arguments. Its thread runs `make(*job)`, then `place` on the result, then the functions that
    `place` returns. `place` runs in the order of `jobs`, one call at a time. To limit memory use, at most 2 * `workers`
    + 2 jobs are queued, running, or waiting to be yielded.

    If a job fails, its error is raised instead of yielding its result. If `make` or `place` fails, no later job is
    placed. When the generator ends or is closed, queued jobs are dropped, and the threads are joined.
    """
    # Not an executor: Ctrl-C inside a future's Python code leaves the future's lock held, and shutting down the pool
    # deadlocks. Each operation of a SimpleQueue is a single call of C code.
    todo: SimpleQueue[tuple[tuple[Any, ...], _Turn, _Turn, SimpleQueue[_Done | BaseException]] | None] = SimpleQueue()
    pending: deque[SimpleQueue[_Done | BaseException]] = deque()
    turn: _Turn = SimpleQueue()
    turn.put(True)

    def run() -> None:
        while (item := todo.get()) is not None:
            job, turn, following, result = item
            outcome: _Done | BaseException
            placed: list[Callable[[], None]] = []
            going = False
            try:
                outcome = make(*job)
                if turn.get():  # False if an earlier job failed
                    placed = place(outcome)
                    going = True
            except BaseException as error:  # re-raised by the consumer
                outcome = error
            following.put(going)
            try:
                for store in placed:
                    store()
            except BaseException as error:
                outcome = error
            result.put(outcome)

    def first() -> _Done:
        done = pending.popleft().get()
        if isinstance(done, BaseException):
            raise done
        return done

    threads = [threading.Thread(target=run, name=f"pack_{number}", daemon=True) for number in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for job in jobs:
            following: _Turn = SimpleQueue()
            pending.append(SimpleQueue())
            todo.put((job, turn, following, pending[-1]))
            turn = following
            if len(pending) > 2 * workers + 1:
                yield first()
        while pending:
            yield first()
    finally:
        with suppress(Empty):
            while True:
                todo.get_nowait()  # not started
        for _ in threads:
            todo.put(None)
        for thread in threads:
            if thread.ident is not None:  # started
                thread.join()


def _work(writer: RecordWriter, listing: Listing, options: PackOptions, start: int, sources: list[int]) -> _Done:
    done = _Done([writer.spare_block()], images=len(sources))
    targets: list[Label] = []
    for position, source in enumerate(sources, start=start):
        name, label = listing.names[source], listing.labels[source]
        if done.blocks[-1].full:
            done.blocks.append(writer.spare_block())
        block = done.blocks[-1]
        try:
            crop = None if listing.crops is None else listing.crops[source]
            if options.transform.passes_through and crop is None:
                content = listing.tree.read_into(name, partial(block.room, label=label))
            else:  # do not grow the block to the size of a file that becomes smaller
                content = listing.tree.read(name)
            data, header, why = options.transform(content, crop, options.exif == "ignore")
            if listing.sizes is not None:
                _check_size(header, listing.sizes[source], options)
            check_length(len(data) + 64)
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
            where = listing.tree.where(name)
            if not options.skip_bad:
                raise unusable(error, where, None if listing.places is None else listing.places[source]) from None
            reason = message.removeprefix(where).removeprefix(": ")
            done.skipped.append({"file": printable(name), "reason": printable(reason)})
            continue
        try:
            if writer.task.boxes:
                if header.orientation != 1 and np.size(label) > HEADER_WIDTH:
                    done.counts["turned"] += 1
                    label = _turned(label, header.orientation) if options.exif == "ignore" else label
                label, clipped = clip_boxes(np.asarray(label, dtype=np.float32), header.height, header.width)
                done.counts["clipped_boxes"] += clipped
            number = source if listing.ids is None else listing.ids[source]
            block.add(position, data, label, number, header)
        except ValueError as error:
            raise ValueError(beginning(str(error), listing.tree.where(name))) from None
        if why:
            done.counts["reencoded"] += 1
            done.odd[why] += why != AS_ASKED
        done.counts["turned"] += crop is not None and header.orientation != 1
        if writer.task.ignores:
            targets.append(label)
    if targets:
        done.targets = count_targets(np.asarray(targets))
    return done


def _turned(label: Label, orientation: int) -> np.ndarray:
    """Convert a detection label from the stored pixels to the image rotated by EXIF `orientation`; return a copy."""
    turned = np.array(label, dtype=np.float32)
    boxes = objects_of(turned)[:, 1:5]
    boxes[:] = turn_boxes(boxes, orientation)
    return turned


def _check_size(header: ImageHeader, annotated: tuple[int, int], options: PackOptions) -> None:
    """Raise ValueError unless `header` has the size that `options.transform` makes of `annotated`.

    `header` is that of the bytes to store. `annotated` is (height, width) before the transform: of the stored pixels
    with `options.exif` "ignore", else of the rotated image.
    """
    if header.orientation >= 5 and options.exif == "ignore":
        annotated = annotated[::-1]
    height, width = options.transform.size(*annotated)
    if (height, width) == (header.height, header.width):
        return
    resized = (annotated != (height, width)) * f", so {width}x{height} here,"
    if header.orientation >= 5 and (width, height) == (header.height, header.width):
        drawn = "the rotated image" if options.exif == "ignore" else "the pixels as stored"
        choice = "apply" if options.exif == "ignore" else "ignore"
        reason = f"EXIF rotates it; if its boxes were drawn on {drawn}, pack with --exif {choice}"
    else:
        reason = "rotated or resized since? use the original image, or correct the annotation"
    raise ValueError(
        f"its annotation is for {annotated[1]}x{annotated[0]} pixels{resized} but it has"
        f" {header.width}x{header.height}: {reason}"
    )
