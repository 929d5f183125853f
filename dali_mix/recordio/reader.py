"""`RecordSet`: a memory-mapped packed set, read by row number."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix.recordio import framing
from dali_mix.recordio.header import Unpacked, unpack_record
from dali_mix.recordio.image_headers.webp_bmp_pnm import PNM_MAXIMA, pnm_numbers
from dali_mix.recordio.index import reindex_advice
from dali_mix.recordio.manifest import ENCODINGS, SetInfo, file_sha256, manifest_path, open_table, read_info, set_prefix
from dali_mix.tasks import TASKS, Task

_MAP_FIXED = 0x10  # Linux's MAP_FIXED, which the module mmap lacks
_MMAP = ctypes.CDLL(None, use_errno=True).mmap
_MMAP.restype = ctypes.c_void_p
_MMAP.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

_PNM = ENCODINGS.index("pnm")
HASH_INDEX_BELOW = 8 << 20  # opening hashes an index up to this size: at most ~10 ms


class RecordSet:
    """A packed set opened for reading: `PREFIX.json`, `.npy`, `.idx` and its .rec files.

    Rows are record numbers, 0 to len - 1, in file order. `payload` and `encoded` return read-only views of the mapped
    file, or of a joined copy if the record is split. A `RecordSet` can be used after a fork, and it can be pickled: the
    other process opens the files again.

    Opening makes only cheap checks: all files exist and have the sizes in the manifest, and an index of up to 8 MiB has
    the sha256 in the manifest. If a check fails, FileNotFoundError or ValueError names the file and says what to do.
    `dali_mix.recordio.verify` checks every byte.

    Attributes:
        prefix: prefix of the set.
        info: the manifest.
        task: the task.
        table: one row of `RECORD_DTYPE` per record, mapped from PREFIX.npy.
        rec_paths, idx_path: the .rec files and the index.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = set_prefix(prefix)
        self.info: SetInfo = read_info(manifest_path(self.prefix))
        self.task: Task = TASKS[self.info.task]
        check_names(self.prefix, self.info)
        folder = self.prefix.parent
        self.rec_paths: tuple[Path, ...] = tuple(folder / part.name for part in self.info.parts)
        self.idx_path: Path = folder / self.info.index.name
        for path, part in zip(self.rec_paths, self.info.parts, strict=True):
            check_size(path, part.size)
        check_size(self.idx_path, self.info.index.size, reindex_advice(self.idx_path))
        if self.info.index.size <= HASH_INDEX_BELOW and file_sha256(self.idx_path) != self.info.index.sha256:
            raise ValueError(
                f"{self.idx_path}: changed since the set was packed (sha256 differs); {reindex_advice(self.idx_path)}"
            )
        self.table: np.memmap = open_table(folder / self.info.table.name, self.info.count)
        self._buffers = [map_file(path) for path in self.rec_paths]

    def __len__(self) -> int:
        return self.info.count

    def __repr__(self) -> str:
        return (
            f"RecordSet({str(self.prefix)!r}: {len(self):,} records, {self.info.task}, {self.info.num_classes} classes)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordSet, (str(self.prefix),)

    @property
    def fingerprint(self) -> str:
        """Return the sha256 (hex) that identifies the set's content, independent of file names."""
        return self.info.fingerprint

    @property
    def metainfo(self) -> dict[str, Any]:
        """Return a dict with "classes" (tuple of names), "num_classes", "task" (name) and "fingerprint"."""
        classes = tuple(self.info.classes)
        return {
            "classes": classes,
            "num_classes": len(classes),
            "task": self.info.task,
            "fingerprint": self.fingerprint,
        }

    @property
    def taller(self) -> np.ndarray:
        """Return a mask (count,) bool of the images that are taller than wide."""
        return np.asarray(self.table["height"]) > self.table["width"]

    def where(self, row: int) -> str:
        """Return "FILE: record N" for a row, for error messages."""
        return f"{self.rec_paths[int(self.table['part'][row])]}: record {row}"

    def payload(self, row: int) -> memoryview:
        """Return a record's payload: header, label floats and image.

        Raise IndexError if there is no record `row`, ValueError naming file and record if its framing is damaged or
        does not match the table.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.prefix}: record {row} of a set of {len(self)}")
        entry = self.table[row]
        if entry["part"] >= len(self._buffers):
            raise self._damaged(row, f"the table refers to part {entry['part']} of {len(self._buffers)}")
        try:
            payload, record = framing.read_record(self._buffers[entry["part"]], int(entry["offset"]))
        except ValueError as error:
            raise self._damaged(row, error) from None
        if record.length != entry["length"]:
            raise self._damaged(row, f"it has {record.length} bytes, the manifest says {entry['length']}")
        return payload

    def checked_payload(self, row: int) -> memoryview:
        """Return `payload(row)`. Also raise ValueError if its crc32 differs from that in the table."""
        payload = self.payload(row)
        found, expected = zlib.crc32(payload), int(self.table["crc32"][row])
        if found != expected:
            raise self._damaged(row, f"crc32 is {found:08x}, not {expected:08x}: its bytes changed")
        return payload

    def encoded(self, row: int) -> np.ndarray:
        """Return the encoded image, (n,) uint8. Raise the errors of `payload`, and ValueError for a damaged header."""
        return self._unpacked(row).encoded

    @functools.cached_property
    def unencoded(self) -> bool:
        """Return True if a CPU pipeline should call `pixels` instead of a decoder.

        This is the case if all images are binary PNMs, unless the first one is an 8-bit grey image: for such images, a
        decoder is faster than `pixels`, which repeats each value three times. An image counts as 8-bit grey if the
        payload of its record has fewer than two bytes per pixel.
        """
        if not len(self) or self.table["encoding"][0] != _PNM:
            return False  # without reading the rest of the table
        height, width, length = (int(self.table[name][0]) for name in ("height", "width", "length"))
        if length < 2 * height * width:
            return False
        return bool((self.table["encoding"] == _PNM).all())

    def pixels(self, row: int) -> np.ndarray:
        """Return the pixels of an image that is stored as PNM, (H, W, 3) uint8 RGB.

        They are a view of `encoded` unless the image is grey or has 16 bits. Raise the errors of `encoded`, and
        ValueError if the image is not a PNM of the size in the table.
        """
        encoded, entry = self.encoded(row), self.table[row]
        height, width = int(entry["height"]), int(entry["width"])
        try:
            *size, maximum, end = pnm_numbers(encoded.data)
        except ValueError as error:
            raise self._damaged(row, error) from None
        channels, bytes_each = {b"P5": 1, b"P6": 3}.get(encoded[:2].tobytes(), 0), 1 + (maximum > 255)
        if not channels or maximum not in PNM_MAXIMA:
            raise self._damaged(row, "the image is not a PNM of 8 or 16 bits, as the manifest says")
        if size != [width, height]:
            raise self._damaged(row, f"the image is {size[1]}×{size[0]} pixels, the manifest says {height}×{width}")
        pixels = encoded[end + 1 : end + 1 + height * width * channels * bytes_each]
        if len(pixels) < height * width * channels * bytes_each:
            raise self._damaged(row, f"its image of {height}×{width} pixels is cut short")
        if bytes_each == 2:
            pixels = ((pixels.view(">u2").astype(np.int32) + 128) // 257).astype(np.uint8)  # rounded, as DALI does
        return (pixels if channels == 3 else pixels.repeat(3)).reshape(height, width, 3)

    def label(self, row: int) -> np.ndarray:
        """Return the floats of a record's label as stored, (n,) float32; n is 1 for a class with flag 0.

        Raise the errors of `encoded`.
        """
        return self._unpacked(row).label

    def labels(self, rows: np.ndarray) -> Any:
        """Return the labels of `rows` (B,), in a format that depends on the task.

        - classification: (B,) int64
        - multilabel: (B, K) float32 of 1, 0 and -1 (ignore)
        - detection: a list of B arrays (n, 6) float32: class, x1, y1, x2, y2 (0..1 of width and height), difficult

        Raise ValueError for a class that is out of range (classification), or a label whose length or layout does not
        fit the task. Other values are not checked.
        """
        return self.task.targets(self, np.asarray(rows, dtype=np.int64))

    def _unpacked(self, row: int) -> Unpacked:
        payload = self.payload(row)
        try:
            return unpack_record(payload)
        except ValueError as error:
            raise self._damaged(row, error) from None

    def _damaged(self, row: int, reason: object) -> ValueError:
        part = self.table["part"][row]
        path = self.rec_paths[part] if part < len(self.rec_paths) else self.prefix
        advice = f"run `dali-mix verify {self.prefix}`; copy the set again, or pack it again"
        return ValueError(f"{path}: record {row}: {reason}; {advice}")


def check_names(prefix: Path, info: SetInfo) -> None:
    """Raise FileNotFoundError if the manifest of `prefix` names an index that is not PREFIX.idx and does not exist.

    The files of the set were then renamed after packing, which the message says.
    """
    index = prefix.parent / info.index.name
    if info.index.name != f"{prefix.name}.idx" and not index.exists():
        packed = info.index.name.removesuffix(".idx")
        raise FileNotFoundError(
            f"{manifest_path(prefix)}: is the manifest of {packed!r}, and {index} is missing: the files of a set"
            f" keep the names they were packed with; rename them back to {packed}.*, or pack the set as {prefix.name!r}"
        )


def check_size(path: Path, size: int, advice: str = "copy it again, or pack the set again") -> None:
    """Raise FileNotFoundError or ValueError unless the file has `size` bytes. The message ends with `advice`."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: a file of the set is missing; {advice}") from None
    if found != size:
        how = "cut short" if found < size else "longer than it was written"
        raise ValueError(f"{path}: {how}: {found:,} bytes, the manifest says {size:,}; {advice}")


def map_file(path: Path) -> memoryview:
    """Memory-map a file read-only and return a view of it. No file descriptor stays open. Raise OSError on failure."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return memoryview(b"")
        # A set may have more shards than a process may have open files, and mmap.mmap keeps a duplicate of the
        # descriptor until the file is unmapped (trackfd=False needs Python 3.13). Therefore reserve the addresses with
        # an anonymous mapping, which needs no descriptor, and map the file over it. Freeing the mapping unmaps both.
        reserved = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
        address = np.frombuffer(reserved, np.uint8).ctypes.data
        if _MMAP(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, file.fileno(), 0) != address:
            raise OSError(ctypes.get_errno(), f"cannot be mapped: {os.strerror(ctypes.get_errno())}", str(path))
    return memoryview(reserved)
