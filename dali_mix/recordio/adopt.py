"""Turn .rec files written by mxnet, im2rec or other tools into a set.

This adds a table, a manifest and, if it is missing, an index.
"""

from __future__ import annotations

import dataclasses
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix import tasks
from dali_mix._keywords import keywords
from dali_mix._labels import count_targets, report_targets
from dali_mix.recordio import framing
from dali_mix.recordio.header import unpack_record
from dali_mix.recordio.image_headers.header import read_image_header
from dali_mix.recordio.index import index_bytes, joint_offsets, read_index
from dali_mix.recordio.manifest import (
    ENCODINGS,
    FLAG_SPLIT,
    RECORD_DTYPE,
    SUFFIXES,
    FileInfo,
    SetInfo,
    file_sha256,
    manifest_path,
    open_table,
    read_info,
    set_prefix,
    table_bytes,
)
from dali_mix.recordio.publish import Publication
from dali_mix.recordio.reader import map_file
from dali_mix.recordio.writer import check_ids
from dali_mix.tasks import Task


@keywords
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
    """Write the manifest and table for the .rec files `recs`, in this order, and PREFIX.idx if it is missing.

    Return the manifest. The .rec files are never modified.

    Args:
        prefix: prefix of the set, in the folder of the .rec files; by default the path of a single .rec file without
            its suffix.
        task: name of the task; None: determined from the labels. Labels with flag 0 or one float mean classification, a
            fixed number of values 1, 0 and -1 means multi-label, and mxnet's box layout means detection. With
            "classification", the class is the first float of each label, as in insightface's sets.
        classes: class names; None: use the class indices as names.
        reindex: replace an existing index. If the set has a manifest and `force` is not set, the records are not
            scanned. Only an .idx that does not match the manifest is rewritten, if necessary together with its entry in
            the manifest. In this case, `recs` may also be the prefix.
        renumber: use row numbers as ids, for files whose ids are not unique.
        skip_bad: skip records whose header or image cannot be read; the manifest's report lists them.
        force: replace an existing set.
        progress: called with the number of records processed since the last call.

    Raises:
        ValueError: an invalid record, label or index, duplicate ids, or options that do not fit the files.
        FileNotFoundError: a .rec file does not exist.
        FileExistsError: the set exists, and `force` is not set.
        OSError: the set cannot be written.
    """
    paths = [Path(rec) for rec in recs]
    if reindex and not force and (prefix is not None or len(paths) == 1):
        existing = set_prefix(paths[0] if prefix is None else prefix)
        if manifest_path(existing).exists():
            return _reindexed(existing, paths)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; pass the .rec files")
    base = set_prefix(prefix) if prefix is not None else _default_prefix(paths)
    for path in paths:
        if path.resolve().parent != base.parent.resolve():
            raise ValueError(f"{path}: not in the folder of {base}; the manifest must be next to its .rec files")
    asked = tasks.get(task) if task else None
    names = [base.name + suffix for suffix in (".idx", ".npy", ".json")]
    with Publication(base, force=force) as files:
        files.check_free(names[1:])
        scan = _Scan(paths, skip_bad=skip_bad, progress=progress)
        kind = asked or tasks.guess(scan.labels, scan.where)
        table = scan.table(kind)
        if renumber:
            table["id"] = np.arange(len(table))
        else:
            check_ids(table["id"], str(base), "; --renumber numbers them in the order of the file")
        parts = tuple(FileInfo(path.name, path.stat().st_size, file_sha256(path)) for path in paths)
        index = index_bytes(table, [part.size for part in parts])
        if (base.parent / names[0]).exists() and not reindex:
            index = _kept_index(base.parent / names[0], table, parts)
        label_names = tuple(classes) if classes is not None else tuple(map(str, range(kind.count_classes(scan.labels))))
        info = SetInfo(
            task=kind.name,
            classes=label_names,
            label_width=scan.label_width(kind),
            count=len(table),
            parts=parts,
            index=files.write(names[0], index),
            table=files.write(names[1], table_bytes(table)),
            source="adopted",
            options={"renumber": True} if renumber else {},
            report=scan.report(kind, label_names, guessed=task is None),
        )
        for row, label in enumerate(scan.labels):
            try:
                kind.check_stored(label, info)
            except ValueError as error:
                advice = "specify the labels with --task and --classes, or correct them and write the file again"
                if kind.boxes:
                    advice += "; boxes are clipped or dropped only by `dali-mix pack --bad-boxes`, from the image files"
                raise ValueError(f"{scan.where(row)}: {error}; {advice}") from None
        files.write(names[2], info.to_json().encode())
        files.publish(names, remove_old=False)  # keep .rec files of an older set: they belong to the user
        return info


class _Scan:
    """The records of .rec files: table rows, labels as stored, and records that were skipped.

    Raise ValueError naming file and record for invalid framing or, without `skip_bad`, for a record whose header or
    image cannot be read. Raise ValueError naming the first file if no record is left.
    """

    def __init__(self, paths: Sequence[Path], *, skip_bad: bool, progress: Callable[[int], object] | None) -> None:
        self._paths = paths
        self.rows: list[tuple[Any, ...]] = []
        self.labels: list[np.ndarray] = []
        self._records: list[tuple[int, int]] = []  # each row's file index and record number; `skip_bad` leaves gaps
        self.bad: list[dict[str, Any]] = []
        for part, path in enumerate(paths):
            number = 0
            try:
                for payload, record in _framed(path):
                    self._add(payload, record, part, number, skip_bad)
                    number += 1
                    if progress and number % 256 == 0:
                        progress(256)
            except ValueError as error:
                raise ValueError(f"{path}: record {number}: {error}") from None
        if not self.rows:
            raise ValueError(f"{paths[0]}: no record in it")

    def _add(self, payload: memoryview, record: framing.Record, part: int, number: int, skip_bad: bool) -> None:
        try:
            unpacked = unpack_record(payload)
            header = read_image_header(unpacked.encoded.tobytes())
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{error} (--skip-bad skips such records)") from None
            self.bad.append({"part": part, "offset": record.offset, "reason": str(error)})
            return
        flags = FLAG_SPLIT if record.split else 0
        encoding = ENCODINGS.index(header.encoding)
        size = header.height, header.width
        crc = zlib.crc32(payload)
        self.rows.append((record.offset, record.length, crc, *size, unpacked.id, math.nan, part, encoding, flags))
        self.labels.append(unpacked.label.copy())
        self._records.append((part, number))

    def where(self, row: int) -> str:
        """Return a row's file and record, for messages."""
        part, number = self._records[row]
        return f"{self._paths[part]}: record {number}"

    def label_width(self, task: Task) -> int:
        """Return the number of floats per label, or 0 for a detection set or labels of different lengths."""
        widths = {label.size for label in self.labels}
        return widths.pop() if len(widths) == 1 and not task.boxes else 0

    def report(self, task: Task, classes: Sequence[str], *, guessed: bool) -> dict[str, Any]:
        """Return the manifest's report: skipped records and, if the task is multi-label, counts of the targets.

        Targets are counted only if all labels have one value per class. If the task was `guessed` from the labels, a
        notice names the option for labels that begin with a class.
        """
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
    """Yield (payload, Record) for each record of a file. Raise ValueError with advice if the framing is invalid."""
    buffer = map_file(path)
    try:
        yield from framing.walk(buffer)
    except ValueError as error:
        if bytes(buffer[:4]) != framing.MAGIC_BYTES:
            raise ValueError(_FOREIGN.format(error)) from None
        raise ValueError(f"{error}: the file is truncated or damaged; copy it again, or recreate it") from None


def _kept_index(path: Path, table: np.ndarray, parts: Sequence[FileInfo]) -> bytes:
    """Return the content of the index `path`. Raise ValueError unless its offsets are those of the records in `table`.

    The order and the keys of the index are not checked, since other programs choose their own.
    """
    sizes = [part.size for part in parts]
    advice = "--reindex replaces it, or keep it for the program that wrote it and choose another name with --out PREFIX"
    offsets = read_index(path, sum(sizes), advice)
    if not np.array_equal(offsets, np.sort(joint_offsets(table, sizes))):
        raise ValueError(f"{path}: {len(offsets)} lines that do not match the {len(table)} records; {advice}")
    return path.read_bytes()


def _reindexed(base: Path, paths: Sequence[Path]) -> SetInfo:
    """Replace the .idx of the set `base` unless it matches the manifest. Return the manifest.

    The new index equals the original byte for byte, unless the set was adopted with the index of another program. The
    keys and order of such an index are stored nowhere else, so the new index has the records' ids in file order, and
    the manifest is updated.

    Raise ValueError unless the names of `paths` are those of the set's .rec files, in order, or `paths` has one item:
    the prefix, or the prefix with a suffix of `SUFFIXES`. Also raise it if the table has changed and the index made
    from it differs from the original.
    """
    manifest = manifest_path(base)
    info = read_info(manifest)
    listed = [part.name for part in info.parts]
    names = [path.name for path in paths]
    if names not in (listed, *([base.name + suffix] for suffix in ("", *SUFFIXES))):
        raise ValueError(
            f"{manifest}: describes {', '.join(listed[:3])}{' …' if listed[3:] else ''}, not {', '.join(names[:3])};"
            f" run `dali-mix adopt --reindex {base}` for its index, or pass --force to replace the manifest"
        )
    path, table_path = base.parent / info.index.name, base.parent / info.table.name
    table = open_table(table_path, info.count)
    with Publication(base, force=True) as files:
        content = index_bytes(table, [part.size for part in info.parts])
        index = FileInfo.of(path.name, content)
        if index != info.index and file_sha256(table_path) != info.table.sha256:
            raise ValueError(f"{table_path}: changed, so the index cannot be made from it; copy it again or pack again")
        if path.is_file() and file_sha256(path) == info.index.sha256:
            return info  # the index is intact; another program's keys are kept
        files.replace(path.name, content)
        if index != info.index:
            info = dataclasses.replace(info, index=index)
            files.replace(manifest.name, info.to_json().encode())
    return info


def _default_prefix(paths: Sequence[Path]) -> Path:
    if len(paths) == 1 and paths[0].suffix != ".rec" and bytes(map_file(paths[0])[:4]) != framing.MAGIC_BYTES:
        raise ValueError(f"{paths[0]}: {_FOREIGN.format('its first bytes are not the magic of a record')}")
    if len(paths) != 1 or paths[0].suffix != ".rec":
        raise ValueError("pass --out PREFIX for several files, or for one that does not end in .rec")
    return paths[0].with_suffix("")


_FOREIGN = "not a RecordIO file: {0}; pass the .rec that mxnet, im2rec or DALI reads"
