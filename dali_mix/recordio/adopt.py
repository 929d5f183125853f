"""Takes a .rec that mxnet, im2rec or anything else wrote as a set: walks it, builds table and manifest, and the index
when missing."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix import tasks
from dali_mix._files import open_new
from dali_mix._labels import count_targets, report_targets
from dali_mix.recordio import framing
from dali_mix.recordio.header import unpack_record
from dali_mix.recordio.image_headers.header import read_image_header
from dali_mix.recordio.index import index_bytes, read_index
from dali_mix.recordio.manifest import (
    ENCODINGS,
    FLAG_SPLIT,
    RECORD_DTYPE,
    SUFFIXES,
    FileInfo,
    SetInfo,
    read_info,
    set_prefix,
    table_header,
)
from dali_mix.recordio.part import write_errors
from dali_mix.recordio.publish import Publication
from dali_mix.recordio.reader import file_sha256, map_file
from dali_mix.recordio.reindex import reindex as write_index
from dali_mix.recordio.writer import bytes_info, check_ids
from dali_mix.tasks import Task


def adopt(
    recs: Sequence[str | os.PathLike[str]],
    prefix: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    reindex: bool = False,
    renumber: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    progress: Callable[[int], object] | None = None,
) -> SetInfo:
    """Writes manifest and table for the .rec files `recs`, in this order, and PREFIX.idx when it is missing (or with
    `reindex`). With `reindex` and without `force`, a manifest that is there stays: only its .idx is written anew; the
    prefix itself then does for a set's .rec files.

    `prefix` (default: the .rec without its suffix) must lie in their folder. `task` and `classes` are taken from the
    labels when None: flag 0 or one float is a class, equal numbers of 1, 0, -1 are multi-label, mxnet's layout of boxes
    is detection. With `task` "classification" the class is the first float of each label, as in insightface's sets.
    `renumber` gives the rows their numbers as ids where those in the file repeat. `skip_bad` passes over
    records without a readable image and lists them in the manifest's report. The .rec files are never written to.
    Raises ValueError or FileNotFoundError naming file and record.
    """
    paths = [Path(rec) for rec in recs]
    if reindex and not force and (existing := _existing_set(paths, prefix)):
        return _reindexed(existing, paths)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; name the .rec files")
    base = set_prefix(prefix) if prefix is not None else _default_prefix(paths)
    for path in paths:
        if path.resolve().parent != base.parent.resolve():
            raise ValueError(f"{path}: not in the folder of {base}; the manifest lies beside its .rec files")
    asked = None if task is None else tasks.get(task)
    names = [base.name + suffix for suffix in (".idx", ".npy", ".json")]
    with Publication(base, force=force) as files:
        files.check_free(names[1:])
        scan = _Scan(paths, skip_bad=skip_bad, progress=progress)
        kind = asked or tasks.guess(scan.labels)
        table = scan.table(kind)
        if renumber:
            table["id"] = np.arange(len(table))
        else:
            try:
                check_ids(table["id"], str(base))
            except ValueError as error:
                raise ValueError(f"{error}; --renumber numbers them by their place") from None
        parts = tuple(FileInfo(path.name, path.stat().st_size, file_sha256(path)) for path in paths)
        index = index_bytes(table, [part.size for part in parts])
        if (base.parent / names[0]).exists() and not reindex:
            index = _kept_index(base.parent / names[0], table, parts)
        label_names = tuple(classes) if classes is not None else tuple(map(str, range(kind.count_classes(scan.labels))))
        content = table_header(len(table)) + table.tobytes()
        info = SetInfo(
            task=kind.name,
            classes=label_names,
            label_width=scan.label_width(kind),
            count=len(table),
            parts=parts,
            index=bytes_info(names[0], index),
            table=bytes_info(names[1], content),
            source="adopted",
            options={"renumber": True} if renumber else {},
            report=scan.report(kind, label_names, guessed=task is None),
        )
        for row, label in enumerate(scan.labels):
            where = f"{paths[table['part'][row]]}: record {row}"
            try:
                kind.check_stored(label, info, "label")
            except ValueError as error:
                raise ValueError(f"{where}: {error}; say what the labels are with --task and --classes") from None
        for name, data in zip(names, (index, content, info.to_json().encode()), strict=True):
            with write_errors(files.partial(name)), open_new(files.partial(name)) as file:
                file.write(data)
        files.publish(names, remove_old=False)  # the older set's records are not ours to remove
        return info


class _Scan:
    """All records of some .rec files: rows, labels as stored, and those without a readable image."""

    def __init__(self, paths: Sequence[Path], *, skip_bad: bool, progress: Callable[[int], object] | None) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.labels: list[np.ndarray] = []
        self.bad: list[dict[str, Any]] = []
        for part, path in enumerate(paths):
            number = 0
            try:
                for payload, record in _framed(path):
                    self._add(payload, record, part, skip_bad)
                    number += 1
                    if progress and number % 256 == 0:
                        progress(256)
            except ValueError as error:
                raise ValueError(f"{path}: record {number}: {error}") from None
        if not self.rows:
            raise ValueError(f"{paths[0]}: no record in it")

    def _add(self, payload: memoryview, record: framing.Record, part: int, skip_bad: bool) -> None:
        try:
            unpacked = unpack_record(payload)
            header = read_image_header(unpacked.encoded.tobytes())
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{error} (--skip-bad passes over such records)") from None
            self.bad.append({"part": part, "offset": record.offset, "reason": str(error)})
            return
        flags = FLAG_SPLIT if record.split else 0
        encoding = ENCODINGS.index(header.encoding)
        size = header.height, header.width
        crc = zlib.crc32(payload)
        self.rows.append((record.offset, record.length, crc, *size, unpacked.id, math.nan, part, encoding, flags))
        self.labels.append(unpacked.label.copy())

    def label_width(self, task: Task) -> int:
        """Floats a label, 0 where it varies."""
        widths = {label.size for label in self.labels}
        return widths.pop() if len(widths) == 1 and not task.boxes else 0

    def report(self, task: Task, classes: Sequence[str], *, guessed: bool) -> dict[str, Any]:
        """What the manifest keeps, and notices for the user."""
        report: dict[str, Any] = {"passed_over": self.bad} if self.bad else {}
        if task.ignores and all(label.size == len(classes) for label in self.labels):
            report |= report_targets(count_targets(np.stack(self.labels)), classes)
            if guessed:
                notice = f"labels of {len(classes)} floats read as multi-label targets; if the first is the class, pass"
                report["notices"] = [f"{notice} --task classification", *report.get("notices", ())]
        return report

    def table(self, task: Task) -> np.ndarray:
        table = np.array(self.rows, dtype=RECORD_DTYPE)
        table["label"] = [task.scalar(label) for label in self.labels]
        return table


def _framed(path: Path) -> Iterator[tuple[memoryview, framing.Record]]:
    """The records of a file. Raises ValueError, saying what to do, where the framing breaks."""
    buffer = map_file(path)
    try:
        yield from framing.walk(buffer)
    except ValueError as error:
        if bytes(buffer[:4]) != framing.MAGIC_BYTES:
            raise ValueError(_FOREIGN.format(error)) from None
        raise ValueError(
            f"{error}: the file is cut short or damaged; copy it again, or write it again with what made it"
        ) from None


def _kept_index(path: Path, table: np.ndarray, parts: Sequence[FileInfo]) -> bytes:
    """The index that is there, when it lists the records; else ValueError."""
    offsets = read_index(path, sum(part.size for part in parts))
    starts = np.concatenate([[0], np.cumsum([part.size for part in parts])]).astype(np.uint64)
    if not np.array_equal(offsets, np.sort(table["offset"] + starts[table["part"]])):
        raise ValueError(
            f"{path}: {len(offsets)} lines that are not the {len(table)} records; --reindex"
            " replaces it, or keep it for the program that wrote it and name the set otherwise with --out PREFIX"
        )
    return path.read_bytes()


def _existing_set(paths: Sequence[Path], prefix: str | os.PathLike[str] | None) -> Path | None:
    """The prefix of the set that is to get a new index; None when it has no manifest yet."""
    if prefix is None and len(paths) != 1:
        return None
    base = set_prefix(paths[0] if prefix is None else prefix)
    return base if base.with_name(base.name + ".json").exists() else None


def _reindexed(base: Path, paths: Sequence[Path]) -> SetInfo:
    manifest = base.with_name(base.name + ".json")
    listed = [part.name for part in read_info(manifest).parts]
    given = [path.name for path in paths]
    if given not in (listed, *([base.name + suffix] for suffix in ("", *SUFFIXES))):
        raise ValueError(
            f"{manifest}: is of {', '.join(listed[:3])}{' …' if listed[3:] else ''}, not of {', '.join(given[:3])};"
            f" run `dali-mix adopt --reindex {base}` for its index, or give --force to replace the manifest"
        )
    return write_index(base)


def _default_prefix(paths: Sequence[Path]) -> Path:
    if len(paths) == 1 and paths[0].suffix != ".rec" and bytes(map_file(paths[0])[:4]) != framing.MAGIC_BYTES:
        raise ValueError(f"{paths[0]}: {_FOREIGN.format('its first bytes are not the magic of a record')}")
    if len(paths) != 1 or paths[0].suffix != ".rec":
        raise ValueError("give --out PREFIX for several files, or for one that does not end in .rec")
    return paths[0].with_suffix("")


_FOREIGN = "not a RecordIO file: {0}; give the .rec that mxnet, im2rec or DALI reads"
