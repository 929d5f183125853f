"""Check every byte of a set against its manifest, and report problems."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from dali_mix._machines import Machines, Progress
from dali_mix._text import worded
from dali_mix.recordio import framing
from dali_mix.recordio.header import unpack_record
from dali_mix.recordio.image_headers.header import read_image_header
from dali_mix.recordio.index import joint_offsets, read_index, reindex_advice
from dali_mix.recordio.manifest import (
    ENCODINGS,
    FLAG_SPLIT,
    FileInfo,
    SetInfo,
    file_sha256,
    manifest_path,
    open_table,
    read_info,
    set_prefix,
)
from dali_mix.recordio.reader import check_names, check_size, map_file
from dali_mix.tasks import TASKS

Decode = Callable[[np.ndarray], tuple[int, int]]
_COPY = "copy the file again, or pack the set again"


def verify_set(
    prefix: str | os.PathLike[str],
    *,
    decode: Decode | None = None,
    progress: Progress | None = None,
    machines: Machines | None = None,
) -> Generator[str]:
    """Yield a message for each problem of the set `prefix`. A message names the file and record, and says what to do.

    These are checked:

    - the size and sha256 of all files
    - each line of the index
    - the framing, crc32, header and label of each record
    - that each image is complete according to its header, and has the dimensions in the table

    If the manifest or table cannot be read, nothing else is checked. If only the sha256 of the table is wrong, the size
    and sha256 of the other files are checked, but neither the lines of the index nor the records.

    Args:
        decode: a function that decodes an image, to check every image: encoded (n,) uint8 → height, width. It raises
            ValueError if the image cannot be decoded.
        progress: called with the number of records done since the last call.
        machines: machines that check the .rec files, each one file at a time; this machine checks index and table.
    """
    base = set_prefix(prefix)
    try:
        info = read_info(manifest_path(base))
        check_names(base, info)
        table = open_table(base.parent / info.table.name, info.count)
    except (OSError, ValueError) as error:
        yield worded(error)
        return
    folder, parts = base.parent, range(len(info.parts))
    stop = Event()  # set on exit, so that a caller that stops iterating does not wait for hashes
    with ThreadPoolExecutor(1) as pool, ExitStack() as opened:
        opened.callback(stop.set)
        opened.callback(pool.shutdown, wait=False, cancel_futures=True)

        def hashed(file: FileInfo) -> Callable[[], str]:
            return pool.submit(_check_file, folder, file, stop).result

        def there(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
            assert machines is not None
            sees = {manifest_path(base): str(manifest_path(base))}
            results = machines.map(work, len(parts), lambda part: (folder, info, part, *arguments), sees, progress)
            return opened.enter_context(closing(results))

        table_hashed, index_hashed = hashed(info.table), hashed(info.index)
        hashes = [hashed(file) for file in info.parts] if machines is None else []
        if problem := table_hashed():  # records cannot be compared with a changed table
            yield problem
            others = there(_hash_part) if machines is not None else (result() for result in hashes)
            yield from filter(None, (index_hashed(), *others))
            return
        if problem := _check_index(folder, info, table) or index_hashed():
            yield problem
        found: Iterator[Iterable[str]]
        if machines is None:
            found = (_check_part(folder, info, table, part, hashes[part], decode, progress) for part in parts)
        else:
            found = there(_check_part_there, decode)
        for problems in found:
            yield from problems
        beyond = np.flatnonzero(table["part"] >= len(info.parts))
        if beyond.size:
            first, path = beyond[0], base.parent / info.table.name
            yield f"{path}: record {first} is in part {table['part'][first]} of {len(info.parts)}; pack the set again"


def _hash_part(folder: Path, info: SetInfo, part: int, progress: Progress) -> str:
    """Return a message if the size or sha256 of .rec file `part` is wrong, or "". Runs on another machine.

    `progress` is not called, since no records are checked.
    """
    return _check_file(folder, info.parts[part])


def _check_part_there(folder: Path, info: SetInfo, part: int, decode: Decode | None, progress: Progress) -> list[str]:
    """Return a message for each problem of .rec file `part` and its records. Runs on another machine."""
    table = open_table(folder / info.table.name, info.count)
    hashed = partial(_check_file, folder, info.parts[part])
    return list(_check_part(folder, info, table, part, hashed, decode, progress))


def _check_file(folder: Path, file: FileInfo, stop: Event | None = None) -> str:
    path = folder / file.name
    advice = reindex_advice(path) if path.suffix == ".idx" else _COPY
    try:
        check_size(path, file.size, advice)
        found = file_sha256(path, stop)
    except (OSError, ValueError) as error:
        return worded(error)
    if found != file.sha256:
        return f"{path}: sha256 is {found}, the manifest says {file.sha256}: the file changed; {advice}"
    return ""


def _check_index(folder: Path, info: SetInfo, table: np.ndarray) -> str:
    path = folder / info.index.name
    sizes = [part.size for part in info.parts]
    try:
        offsets = read_index(path, sum(sizes))
    except (OSError, ValueError) as error:
        return worded(error)
    expected = np.sort(joint_offsets(table, sizes))
    if len(offsets) != len(expected):
        return f"{path}: has {len(offsets)} lines for {len(expected)} records: it is stale; {reindex_advice(path)}"
    wrong = np.flatnonzero(offsets != expected)
    if not wrong.size:
        return ""
    line = wrong[0]
    found = f"points at byte {offsets[line]}, the record is at {expected[line]}"
    return f"{path}: line {line + 1} (by offset) {found}: it is stale; {reindex_advice(path)}"


def _check_part(
    folder: Path,
    info: SetInfo,
    table: np.ndarray,
    part: int,
    hashed: Callable[[], str],
    decode: Decode | None,
    progress: Progress | None,
) -> Iterator[str]:
    found = False
    for problem in _check_records(folder, info, table, part, decode, progress):
        found = True
        yield problem
    if not found and (problem := hashed()):  # otherwise the records locate the damage
        yield problem


def _check_records(
    folder: Path, info: SetInfo, table: np.ndarray, part: int, decode: Decode | None, progress: Progress | None
) -> Iterator[str]:
    path = folder / info.parts[part].name
    try:
        buffer = map_file(path)
    except OSError:
        return  # _check_file reports it
    rows = np.flatnonzero(table["part"] == part)
    rows = rows[np.argsort(table["offset"][rows], kind="stable")]
    passed_over = {int(entry["offset"]) for entry in _passed_over(info) if entry.get("part") == part}
    following = iter(rows.tolist())
    row = next(following, None)
    done = 0
    try:
        for payload, record in framing.walk(buffer):
            if record.offset in passed_over:
                continue
            if row is None or table["offset"][row] != record.offset:
                expected = "the end of the set" if row is None else f"record {row} at byte {table['offset'][row]}"
                yield f"{path}: a record at byte {record.offset} where the manifest has {expected}; {_COPY}"
                return
            if problem := _record_problem(payload, record, table[row], info, decode):
                yield f"{path}: record {row}: {problem}"
                if record.length != table["length"][row]:
                    return  # the start of the next record is unknown
            done += 1
            if progress and done % 256 == 0:
                progress(256)
            row = next(following, None)
    except ValueError as error:
        yield f"{path}: {'after the last record' if row is None else f'record {row}'}: {error}; {_COPY}"
        return
    if progress:
        progress(done % 256)
    if row is not None:
        yield f"{path}: ends before record {row}, which the manifest has at byte {table['offset'][row]}; {_COPY}"


def _passed_over(info: SetInfo) -> list[dict[str, int]]:
    listed = info.report.get("passed_over", [])
    return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("offset"), int)]


def _record_problem(
    payload: memoryview, record: framing.Record, entry: np.void, info: SetInfo, decode: Decode | None
) -> str:
    """Return a text that describes the problem of a record, with advice, or "" if there is none.

    `entry` is the record's row in the table. If the crc32 of `payload` differs from that in `entry`, the text says so,
    and adds any other difference in parentheses.
    """
    found = _differs(payload, record, entry, info, decode)
    crc = zlib.crc32(payload)
    if crc == entry["crc32"]:
        return found if not found or "; " in found else f"{found}; pack the set again"
    changed = f"crc32 is {crc:08x}, the manifest says {entry['crc32']:08x}: its bytes changed"
    return f"{changed}{' (' + found.partition('; ')[0] + ')' if found else ''}; {_COPY}"


def _differs(payload: memoryview, record: framing.Record, entry: np.void, info: SetInfo, decode: Decode | None) -> str:
    if record.length != entry["length"] or record.split != bool(entry["flags"] & FLAG_SPLIT):
        return f"{record.length} bytes{', split' if record.split else ''}; the manifest says {entry['length']}"
    try:
        unpacked = unpack_record(payload)
        if unpacked.id != entry["id"] and not info.options.get("renumber"):
            return f"id is {unpacked.id}, the manifest says {entry['id']}"
        task = TASKS[info.task]
        task.check_stored(unpacked.label, info)
        scalar = task.scalar(unpacked.label)
        if not math.isnan(scalar) and scalar != entry["label"]:
            return f"label is {scalar:g}, the manifest says {entry['label']:g}"
        header = read_image_header(unpacked.encoded.tobytes())
        found = header.height, header.width
        if found != (entry["height"], entry["width"]) or ENCODINGS.index(header.encoding) != entry["encoding"]:
            stated = f"{entry['width']}x{entry['height']}"
            return f"a {header.encoding} of {found[1]}x{found[0]} pixels, the manifest says {stated}"
        if decode is not None:
            height, width = decode(unpacked.encoded)
            if (height, width) != found:
                return f"decodes to {width}x{height} pixels, its header says {found[1]}x{found[0]}"
    except ValueError as error:
        return str(error)
    return ""
