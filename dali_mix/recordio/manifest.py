"""The manifest and the table: PREFIX.json describes a set, PREFIX.npy locates each record.

The manifest is written last; without it the set does not exist.

Neither file can execute code: the JSON is read by the standard library, and the .npy must have exactly the header that
our writer produces for this number of records.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import io
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix._text import printable
from dali_mix.options import as_path, choice, whole
from dali_mix.tasks import TASKS

VERSION = 1
FORMAT = "dali_mix record set"
ENCODINGS = ("other", "jpeg", "png", "webp", "bmp", "pnm", "tiff", "gif")
"""Formats of stored images. The field `encoding` of `RECORD_DTYPE` is an index into this tuple."""
FLAG_SPLIT = 1
_SHARD = re.compile(r"(.+)-\d{5}\.rec")
SUFFIXES = (".rec", ".idx", ".npy", ".json")  # of a set's files, after its prefix
MAX_PARTS = 1 << 16  # "part" below has two bytes
_BLOCK = 1 << 18  # bytes of a file that are hashed at a time

RECORD_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # of the record's magic in its own .rec file, bytes
        ("length", "<u4"),  # of the payload, split records joined, bytes
        ("crc32", "<u4"),  # of the payload
        ("height", "<u4"),  # pixels, after rotation by EXIF
        ("width", "<u4"),
        ("id", "<u8"),  # the IRHeader's id
        ("label", "<f4"),  # the class, for classification; else nan
        ("part", "<u2"),  # index of the .rec file
        ("encoding", "u1"),  # index into ENCODINGS
        ("flags", "u1"),  # FLAG_SPLIT: the record is split, since its payload contains the magic
    ]
)
"""A row of the table of records, `PREFIX.npy`."""


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """A file of the set: its name (in the manifest's folder), size in bytes, and sha256 in hex."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, content: bytes) -> FileInfo:
        """Return the `FileInfo` of a file with this name and content."""
        return cls(name, len(content), hashlib.sha256(content).hexdigest())


def file_sha256(path: Path, stop: threading.Event | None = None) -> str:
    """Return the sha256 of a file, in hex. Raise InterruptedError once `stop` is set."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
            if stop is not None and stop.is_set():
                raise InterruptedError(f"{path}: hashing was stopped")
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class SetInfo:
    """The manifest of a set: the content of PREFIX.json.

    Control characters in `classes`, `source` and `split` are replaced by escapes such as \\x1b.

    Attributes:
        task: name of the task.
        classes: class names, in the order of the class indices.
        label_width: floats per label. Multi-label: K. Detection, and labels of different lengths: 0. Otherwise 1, or
            more in an adopted set whose labels continue after the class.
        count: number of records.
        parts: the .rec files.
        index, table: the .idx and the .npy file.
        source, split: the origin of the records, such as the name of the layout, and the name of the split.
        options: the options of packing.
        report: what packing skipped, clipped or re-encoded.
        version: version of the format.
    """

    task: str
    classes: tuple[str, ...]
    label_width: int
    count: int
    parts: tuple[FileInfo, ...]
    index: FileInfo
    table: FileInfo
    source: str = ""
    split: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(printable, self.classes)))
        for name in ("source", "split"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def num_classes(self) -> int:
        """Return the number of classes, K."""
        return len(self.classes)

    @property
    def fingerprint(self) -> str:
        """Return the sha256 (hex) of the fields that affect a training run.

        These are version, task, classes, label width and count, the sizes and hashes of the .rec files, and the hash of
        the table. Two sets with the same fingerprint have the same records, whatever the files are called.
        """
        files = [[part.size, part.sha256] for part in self.parts]
        content = [self.version, self.task, self.classes, self.label_width, self.count, files, self.table.sha256]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of PREFIX.json, which is deterministic. Its last field is the sha256 of the other fields."""
        content = json.loads(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, allow_nan=False))
        content["sha256"] = _content_sha256(content)
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def set_prefix(path: str | os.PathLike[str]) -> Path:
    """Return the prefix of a set from the prefix itself or the path of one of its files.

    The files are PREFIX.json, .rec, .idx, .npy and, for shards, PREFIX-NNNNN.rec. A prefix that has a manifest is
    returned unchanged, whatever its suffix. If no manifest is found, return `path` without a suffix of `SUFFIXES`.

    Raise ValueError if `path` is not a string or a path.
    """
    found = as_path("prefix", path)
    if found.suffix not in SUFFIXES:
        return found
    plain, shard = found.with_suffix(""), _SHARD.fullmatch(found.name)
    candidates = [found, plain, *([found.with_name(shard[1])] if shard else [])]
    return next((prefix for prefix in candidates if manifest_path(prefix).exists()), plain)


def manifest_path(prefix: Path) -> Path:
    """Return the path PREFIX.json, without replacing a suffix of the prefix."""
    return prefix.with_name(prefix.name + ".json")


def read_info(path: Path) -> SetInfo:
    """Read and check PREFIX.json.

    Raise FileNotFoundError if it does not exist. Raise ValueError if it is not a manifest of this format version, has
    an invalid field, or was changed after it was written.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if _records(path):
            raise FileNotFoundError(f"{path}: no manifest next to the records: {again(path)}") from None
        raise FileNotFoundError(f"{path}: no such set; pack one with `dali-mix pack`, or check the prefix") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a manifest: {error}; {again(path)}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path}: not a manifest: the field 'format' is not {FORMAT!r}; {again(path)}")
    if data.get("version") != VERSION:
        raise ValueError(
            f"{path}: field 'version' is {data.get('version')!r}, this dali_mix reads {VERSION}: update it, or"
            " pack again"
        )
    try:
        return _checked(data)
    except (KeyError, TypeError, ValueError) as error:
        what = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: damaged manifest: {what}; {again(path)}") from None


def _content_sha256(data: dict[str, Any]) -> str:
    """Return the sha256 (hex) of the manifest's fields except `sha256`. Their order and spacing do not matter."""
    content = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _records(manifest: Path) -> list[Path]:
    """Return the existing .rec files of the set that `manifest` belongs to, found by name."""
    name = manifest.name.removesuffix(".json")
    single = manifest.with_name(f"{name}.rec")
    shards = f"{glob.escape(name)}-{'[0-9]' * 5}.rec"
    return [single] if single.exists() else sorted(manifest.parent.glob(shards))


def again(manifest: Path) -> str:
    """Return advice on replacing a lost or damaged manifest or table, for the end of a message."""
    recs = _records(manifest)
    if not recs:
        return "pack the set again"
    named = " ".join(str(rec) for rec in recs[:2]) + " …" * (len(recs) > 2)
    out = f" --out {manifest.with_name(manifest.name.removesuffix('.json'))}" if len(recs) > 1 else ""
    return f"run `dali-mix adopt {named}{out} --force` (with --classes for class names), or pack the set again"


def _checked(data: dict[str, Any]) -> SetInfo:
    def text(value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise ValueError(f"the field {field!r} is {value!r}, not a string")
        return value

    def file(value: Any, field: str) -> FileInfo:
        name = text(value["name"], field + ".name")
        if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
            raise ValueError(f"the field '{field}.name' is {name!r}, not a plain file name in the manifest's folder")
        return FileInfo(name, whole(f"{field}.size", value["size"], 0), text(value["sha256"], field + ".sha256"))

    for names, kind in ((("classes", "parts"), list), (("options", "report"), dict)):
        for name in names:
            if not isinstance(data[name], kind):
                raise ValueError(f"the field {name!r} is not {'a list' if kind is list else 'an object'}")
    whole("the number of parts", len(data["parts"]), 1, MAX_PARTS)
    if data.get("sha256", found := _content_sha256(data)) != found:  # older manifests have no such field
        raise ValueError(
            f"its content has sha256 {found}, its field 'sha256' says {data['sha256']!r}: it changed since it was"
            " written; copy it again, or remove that field if you changed it on purpose"
        )
    return SetInfo(
        task=choice("task", data["task"], TASKS),
        classes=tuple(text(name, "classes") for name in data["classes"]),
        label_width=whole("label_width", data["label_width"], 0, 1 << 20),
        count=whole("count", data["count"], 1, 1 << 40),
        parts=tuple(file(part, "parts") for part in data["parts"]),
        index=file(data["index"], "index"),
        table=file(data["table"], "table"),
        source=text(data["source"], "source"),
        split=text(data["split"], "split"),
        options=data["options"],
        report=data["report"],
    )


def table_header(count: int) -> bytes:
    """Return the header of the .npy file that holds a table of `count` records."""
    head = io.BytesIO()
    description = np.lib.format.dtype_to_descr(RECORD_DTYPE)
    np.lib.format.write_array_header_1_0(head, {"descr": description, "fortran_order": False, "shape": (count,)})
    return head.getvalue()


def table_bytes(table: np.ndarray) -> bytes:
    """Return the .npy file that holds a table."""
    return table_header(len(table)) + table.tobytes()


def open_table(path: Path, count: int) -> np.memmap:
    """Return the memory-mapped, read-only table (count,) of RECORD_DTYPE.

    Raise FileNotFoundError if it is missing, ValueError for a file that is not a table of `count` records.
    """
    header = table_header(count)
    expected = len(header) + count * RECORD_DTYPE.itemsize
    try:
        with path.open("rb") as file:
            found = file.read(len(header))
        size = path.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: the set's record table is missing: copy it too, or {again(path.with_suffix('.json'))}"
        ) from None
    if found != header:
        raise ValueError(
            f"{path}: not the table of {count} records stated in the manifest (its header differs);"
            f" {again(path.with_suffix('.json'))}"
        )
    if size != expected:
        raise ValueError(
            f"{path}: has {size} bytes, not the {expected} of a table of {count} records; copy it again or pack again"
        )
    return np.memmap(path, dtype=RECORD_DTYPE, mode="r", offset=len(header), shape=(count,))
