"""Writing a set: records in order into .rec files, then index, table and manifest, published all together."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np

from dali_mix import tasks
from dali_mix._files import open_new
from dali_mix.recordio.block import Block, Entry
from dali_mix.recordio.header import Label
from dali_mix.recordio.image_headers.header import read_image_header
from dali_mix.recordio.index import index_bytes
from dali_mix.recordio.manifest import (
    MAX_PARTS,
    RECORD_DTYPE,
    FileInfo,
    SetInfo,
    table_header,
)
from dali_mix.recordio.part import Part, write_errors
from dali_mix.recordio.publish import Publication

_LARGEST_SPARE = 1 << 23  # bytes; a block of huge images is not kept


class SetWriter:
    """Writes records one after another; `finish` publishes them. Use it as a context manager: leaving early publishes
    nothing.

    `total`: how many records are meant to come, which says where one shard ends and the next begins. Several threads
    may share the work of writing (`place`); the rest is for one at a time. Raises FileExistsError when the set exists
    and `force` is not given; OSError naming the file when the disk is full.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        *,
        task: str,
        classes: Iterable[str],
        total: int,
        label_width: int | None = None,
        shards: int = 1,
        source: str = "",
        split: str = "",
        options: dict[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        self.task = tasks.get(task)
        most = max(1, min(total, MAX_PARTS))
        if not 1 <= shards <= most:
            raise ValueError(f"{shards} shards for {total} records: every shard needs one (--shards 1 to {most})")
        self.classes = tuple(classes)
        self._label_width = self.task.width(len(self.classes)) if label_width is None else label_width
        self._facts = {"source": source, "split": split, "options": dict(options or {})}
        self._total, self._shards = total, shards
        self._files = Publication(prefix, force=force)
        name = self._files.prefix.name
        self._names = [f"{name}.rec"] if shards == 1 else [f"{name}-{shard:05d}.rec" for shard in range(shards)]
        self._tail = [f"{name}.idx", f"{name}.npy", f"{name}.json"]
        self._rows: list[tuple[Any, ...]] = []
        self._blocks: list[np.ndarray] = []
        self._parts: list[Part] = []
        self._spare: list[Block] = []

    def __enter__(self) -> SetWriter:
        self._files.__enter__()
        try:
            self._files.check_free([*self._names, *self._tail])
        except BaseException:
            self._files.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            for part in self._parts:
                with suppress(OSError):  # of a full disk; the file goes anyway
                    part.close()
        finally:
            self._files.__exit__(*error)

    def write(self, block: Block) -> None:
        """Appends the records of `block`, whose positions (0 to total - 1, rising) are those among all that are meant
        to come. It is the writer's from then on; `spare_block` hands it out again.
        """
        self.place(block)()

    def place(self, block: Block) -> Callable[[], None]:
        """The part of `write` that has to be done in order: gives the records their places and hashes them.

        Returns the rest, which writes them: to be called once before `finish`, in any thread, also while others do the
        same or `place` further blocks.
        """
        view, start = block.view(), 0
        pieces: list[tuple[Part, memoryview, int]] = []
        for shard, entries in groupby(block.entries, self._shard_of):
            while len(self._parts) <= shard:
                self._open()
            part, end = self._parts[-1], start
            for entry in entries:
                self._rows.append((part.size + end - start, *entry.row[:6], shard, *entry.row[6:]))
                end += entry.size
            pieces.append((part, view[start:end], part.place(view[start:end])))
            start = end
        if len(self._rows) >= 1 << 16:
            self._settle()

        def store() -> None:
            for part, piece, at in pieces:
                part.store(piece, at)
            self._recycle(block)

        return store

    def spare_block(self) -> Block:
        """An empty block, in memory used before where there is some: the last used, which a cache still holds. Safe to
        call from any thread.
        """
        try:
            return self._spare.pop()
        except IndexError:
            return Block(self.task, len(self.classes))

    def finish(self, report: dict[str, Any] | None = None) -> SetInfo:
        """Writes index, table and manifest, then publishes the set. Raises ValueError when there is no record, or a
        shard has none.
        """
        self._settle()
        table = np.concatenate(self._blocks) if self._blocks else np.empty(0, RECORD_DTYPE)
        if not len(table):
            raise ValueError(f"{self._files.prefix}: no record to write: every image was skipped, or there was none")
        if self._parts:
            self._parts[-1].end()
        assert all(part.closed for part in self._parts), "what `place` returned was not called"
        if len(self._parts) < self._shards or any(part.size == 0 for part in self._parts):
            raise ValueError(f"{self._files.prefix}: a shard would be empty after skipping; use fewer --shards")
        check_ids(table["id"], str(self._files.prefix))
        parts = tuple(
            FileInfo(name, part.size, part.sha256) for name, part in zip(self._names, self._parts, strict=True)
        )
        info = SetInfo(
            task=self.task.name,
            classes=self.classes,
            label_width=self._label_width,
            count=len(table),
            parts=parts,
            index=self._save(self._tail[0], index_bytes(table, [part.size for part in parts])),
            table=self._save(self._tail[1], table_header(len(table)) + table.tobytes()),
            report=report or {},
            **self._facts,  # type: ignore[arg-type]  # source, split, options, each of its own type
        )
        self._save(self._tail[2], info.to_json().encode())
        with write_errors(self._files.prefix):
            self._files.publish([*self._names, *self._tail])
        return info

    def _shard_of(self, entry: Entry) -> int:
        return entry.position * self._shards // max(1, self._total)

    def _open(self) -> None:
        if self._parts:
            self._parts[-1].end()
        self._parts.append(Part(self._files.partial(self._names[len(self._parts)])))

    def _recycle(self, block: Block) -> None:
        if block.capacity <= _LARGEST_SPARE:
            block.clear()
            self._spare.append(block)

    def _settle(self) -> None:
        if self._rows:
            self._blocks.append(np.array(self._rows, dtype=RECORD_DTYPE))
            self._rows = []

    def _save(self, name: str, content: bytes) -> FileInfo:
        path = self._files.partial(name)
        with write_errors(path), open_new(path) as file:
            file.write(content)
        return bytes_info(name, content)


def bytes_info(name: str, content: bytes) -> FileInfo:
    """Describes a file of this name and content."""
    return FileInfo(name, len(content), hashlib.sha256(content).hexdigest())


def check_ids(ids: np.ndarray, where: str) -> None:
    """Raises ValueError when two records share an id."""
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if twice.size:
        double = ordered[twice[0]]
        rows = np.flatnonzero(ids == double)[:2].tolist()
        raise ValueError(f"{where}: records {rows[0]} and {rows[1]} have the same id {double}; ids must be unique")


@dataclasses.dataclass(frozen=True)
class Sample:
    """An encoded image and its label. Height, width (pixels, after EXIF turning) and encoding are read from its header
    when None; `id` is the position when None.
    """

    encoded: bytes
    label: Label
    height: int | None = None
    width: int | None = None
    encoding: str | None = None
    id: int | None = None


def write_set(
    prefix: str | os.PathLike[str],
    samples: Iterable[Sample | tuple[Any, ...]],
    *,
    task: str = "classification",
    classes: Iterable[str],
    shards: int = 1,
    source: str = "",
    split: str = "",
    options: dict[str, Any] | None = None,
    force: bool = False,
) -> SetInfo:
    """Writes `samples` (`Sample`, or tuples of its fields: encoded, label[, height, width]) as the set `prefix`, from
    memory.

    For tests and small sets; `dali_mix.datasets` packs folders in parallel. Raises ValueError naming the sample that is
    wrong.
    """
    listed = [sample if isinstance(sample, Sample) else Sample(*sample) for sample in samples]
    with SetWriter(
        prefix,
        task=task,
        classes=classes,
        total=len(listed),
        shards=shards,
        source=source,
        split=split,
        options=options,
        force=force,
    ) as writer:
        block = writer.spare_block()
        for position, sample in enumerate(listed):
            try:
                height, width, encoding = sample.height, sample.width, sample.encoding
                if height is None or width is None or encoding is None:
                    header = read_image_header(sample.encoded)
                    height, width = height or header.height, width or header.width
                    encoding = encoding or header.encoding
                number = position if sample.id is None else sample.id
                block.add(position, sample.encoded, sample.label, number, height=height, width=width, encoding=encoding)
            except ValueError as error:
                raise ValueError(f"sample {position}: {error}") from None
            if block.full:
                writer.write(block)
                block = writer.spare_block()
        writer.write(block)
        return writer.finish()
