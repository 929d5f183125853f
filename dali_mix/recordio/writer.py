"""Write the records of a set to .rec files, in order, then its index, table and manifest, and publish it atomically."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np

from dali_mix import tasks
from dali_mix._files import open_new
from dali_mix.recordio.block import Block, Entry
from dali_mix.recordio.header import Label
from dali_mix.recordio.image_headers.header import ImageHeader, read_image_header
from dali_mix.recordio.index import index_bytes
from dali_mix.recordio.manifest import (
    MAX_PARTS,
    RECORD_DTYPE,
    FileInfo,
    SetInfo,
    table_bytes,
)
from dali_mix.recordio.part import Part, write_errors
from dali_mix.recordio.publish import Publication, new_try

_LARGEST_SPARE = 1 << 23  # bytes; larger blocks are not kept for reuse
_ROWS = 1 << 12  # initial rows of the table if the number of records is unknown


class RecordWriter:
    """A context manager that writes records in order into the .rec files `paths`.

    Each file holds an equal share of the `total` positions. If `total` is None, the number of records is unknown and
    there must be one path. Only `spare_block` and the functions returned by `place` are thread-safe. Writing
    raises OSError, naming the file, if the disk is full.
    """

    def __init__(self, task: str, classes: Iterable[str], total: int | None, paths: Sequence[Path]) -> None:
        self.task = tasks.get(task)
        self.classes = tuple(classes)
        self._total, self._paths = total or 1, paths
        self._table = np.empty(_ROWS if total is None else total, RECORD_DTYPE)
        self._count = 0  # rows filled so far
        self._parts: list[Part] = []
        self._spare: list[Block] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        for part in self._parts:
            with suppress(OSError):  # a full disk; the file is removed anyway
                part.close()

    def write(self, block: Block) -> None:
        """Append the records of `block`. Their positions among the expected `total` must increase from call to call.

        The writer takes ownership of the block; `spare_block` returns it for reuse.
        """
        self.place(block)()

    def place(self, block: Block) -> Callable[[], None]:
        """Do the part of `write` that must run in order: assign offsets to the records and hash them.

        Return a function that writes the records. Call this function once, in any thread, before `end`. It may run
        concurrently with other such functions and with `place`.
        """
        view, start = block.view(), 0
        pieces: list[tuple[Part, memoryview, int]] = []
        rows: list[tuple[Any, ...]] = []
        for shard, entries in groupby(block.entries, self._shard):
            while len(self._parts) <= shard:
                if self._parts:
                    self._parts[-1].end()
                self._parts.append(Part(self._paths[len(self._parts)]))
            part, end = self._parts[-1], start
            for entry in entries:
                rows.append((part.size + end - start, *entry.row[:6], shard, *entry.row[6:]))
                end += entry.size
            pieces.append((part, view[start:end], part.place(view[start:end])))
            start = end
        while self._count + len(rows) > len(self._table):
            self._table = np.concatenate([self._table, np.empty_like(self._table)])
        self._table[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

        def store() -> None:
            for part, piece, offset in pieces:
                part.store(piece, offset)
            if block.capacity <= _LARGEST_SPARE:
                block.clear()
                self._spare.append(block)

        return store

    def _shard(self, entry: Entry) -> int:
        return entry.position * len(self._paths) // self._total if len(self._paths) > 1 else 0

    def spare_block(self) -> Block:
        """Return an empty block, if possible the last one used, which may still be in the CPU's cache. Thread-safe."""
        try:
            return self._spare.pop()
        except IndexError:
            return Block(self.task, len(self.classes))

    @property
    def table(self) -> np.ndarray:
        """Return the table rows of the records written so far, (n,) of RECORD_DTYPE."""
        return self._table[: self._count]

    def end(self) -> list[tuple[int, str]]:
        """End the last file and return a list of (size in bytes, sha256 in hex), one item per file.

        All functions returned by `place` must have been called. Files after the last record are neither created nor
        returned; earlier files without records are empty.
        """
        if self._parts:
            self._parts[-1].end()
        assert all(part.closed for part in self._parts), "what `place` returned was not called"
        return [(part.size, part.sha256) for part in self._parts]


class SetWriter(RecordWriter):
    """A `RecordWriter` for a set: `finish` adds index, table and manifest, and publishes the set.

    Leaving the `with` block before `finish` publishes nothing. The expected number of records, `total`, determines the
    boundaries of shards. It may be None (unknown) for a single shard. Raise ValueError unless `shards` is from 1 to
    `total` and at most 2^16. On entering the block, raise FileExistsError if the set exists and `force` is not set, and
    the errors of `Publication`.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        *,
        task: str,
        classes: Iterable[str],
        total: int | None,
        shards: int = 1,
        source: str = "",
        split: str = "",
        options: dict[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        most = max(1, min(total or 1, MAX_PARTS))
        if not 1 <= shards <= most:
            raise ValueError(f"{shards} shards for {total} records: every shard needs one (--shards 1 to {most})")
        self._source, self._split, self._options = source, split, dict(options or {})
        self._files = Publication(prefix, force=force)
        name = self._files.prefix.name
        self._names = [f"{name}.rec"] if shards == 1 else [f"{name}-{shard:05d}.rec" for shard in range(shards)]
        self._tail = [f"{name}.idx", f"{name}.npy", f"{name}.json"]
        self._added: list[tuple[int, str]] = []  # size and sha256 of files written by others
        super().__init__(task, classes, total, [self._files.partial(name) for name in self._names])

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self._files)
            self._files.check_free([*self._names, *self._tail])
            undo.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._files.__exit__(*error)

    def partial(self, shard: int) -> Path:
        """Return the temporary path of the .rec file with index `shard`.

        Another machine writes to a path that `publish.new_try` derives from it. `add` renames that file to this path.
        """
        return self._paths[shard]

    def mark_folder(self) -> Path:
        """Create a file whose presence shows other machines that they see this folder, and return its path.

        The file is removed with the partial files.
        """
        path = new_try(self._files.partial(self._tail[-1]))
        with write_errors(path):
            open_new(path).close()
        return path

    def add(self, path: Path, size: int, sha256: str, table: np.ndarray) -> None:
        """Add the next shard, which another machine wrote: rename its .rec file `path`, and append its rows `table`.

        `size` is in bytes, `sha256` in hex. If `table` is empty, `size` is 0 and there is no file at `path`.
        """
        shard = len(self._added)
        if size:
            with write_errors(path):
                path.replace(self._paths[shard])
        rows = self._table[self._count : self._count + len(table)]
        rows[:] = table
        rows["part"] = shard
        self._count += len(table)
        self._added.append((size, sha256))

    def finish(self, report: dict[str, Any] | None = None) -> SetInfo:
        """Write index, table and manifest, publish the set, and return its manifest, in which `report` is stored.

        Raise ValueError if the set or a shard has no records, or if two records have the same id.
        """
        table = self.table
        if not len(table):
            raise ValueError(f"{self._files.prefix}: no record to write: there were no images, or all were skipped")
        written = [*self._added, *self.end()]
        if len(written) < len(self._names) or any(size == 0 for size, _ in written):
            raise ValueError(f"{self._files.prefix}: a shard would be empty after skipping; use fewer --shards")
        check_ids(table["id"], str(self._files.prefix))
        parts = tuple(FileInfo(name, *file) for name, file in zip(self._names, written, strict=True))
        info = SetInfo(
            task=self.task.name,
            classes=self.classes,
            label_width=self.task.width(len(self.classes)),
            count=len(table),
            parts=parts,
            index=self._files.write(self._tail[0], index_bytes(table, [part.size for part in parts])),
            table=self._files.write(self._tail[1], table_bytes(table)),
            source=self._source,
            split=self._split,
            options=self._options,
            report=report or {},
        )
        self._files.write(self._tail[2], info.to_json().encode())
        with write_errors(self._files.prefix):
            self._files.publish([*self._names, *self._tail])
        return info


def check_ids(ids: np.ndarray, where: str, advice: str = "") -> None:
    """Raise ValueError if two records have the same id. The message begins with `where` and ends with `advice`."""
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if twice.size:
        double = ordered[twice[0]]
        rows = np.flatnonzero(ids == double)[:2].tolist()
        raise ValueError(
            f"{where}: records {rows[0]} and {rows[1]} have the same id {double}; ids must be unique{advice}"
        )


@dataclasses.dataclass(frozen=True)
class Sample:
    """An encoded image and its label.

    `height` and `width` (pixels, after EXIF rotation) and `encoding` are read from the image unless all three are set.
    """

    encoded: bytes
    label: Label
    height: int | None = None
    width: int | None = None
    encoding: str | None = None
    id: int | None = None  # None: the position


def write_set(
    prefix: str | os.PathLike[str],
    samples: Iterable[Sample | tuple[Any, ...]],
    *,
    task: str = "classification",
    classes: Iterable[str],
    shards: int = 1,
    split: str = "",
    force: bool = False,
) -> SetInfo:
    """Write `samples` (`Sample`, or tuples of its first fields, such as (encoded, label)) as the set `prefix`.

    Return the set's manifest. Raise ValueError naming an invalid sample, FileExistsError if the set exists and `force`
    is not set.

    This function is for tests and small sets in memory. `dali_mix.datasets` packs folders in parallel.
    """
    listed = [sample if isinstance(sample, Sample) else Sample(*sample) for sample in samples]
    total = len(listed)
    with SetWriter(prefix, task=task, classes=classes, total=total, shards=shards, split=split, force=force) as writer:
        block = writer.spare_block()
        for position, sample in enumerate(listed):
            try:
                number = position if sample.id is None else sample.id
                if sample.height is None or sample.width is None or sample.encoding is None:
                    header = read_image_header(sample.encoded)
                else:
                    header = ImageHeader(sample.encoding, sample.height, sample.width)
                block.add(position, sample.encoded, sample.label, number, header)
            except ValueError as error:
                raise ValueError(f"sample {position}: {error}") from None
            if block.full:
                writer.write(block)
                block = writer.spare_block()
        writer.write(block)
        return writer.finish()
