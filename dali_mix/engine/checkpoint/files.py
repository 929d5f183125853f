"""Checkpoints that are whole or absent: written aside, synced, renamed; checked by sha256; read without running code.

A checkpoint is what `torch.save` writes, a zip archive, with a standard zip comment "sha256:<hex>" over every byte
before the comment. So it is one file, moved into place by one rename, and `torch.load` and `unzip` read it as any.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dali_mix._files import open_new

_STEP = re.compile(r"step-(\d{8,})\.pt")
_TAG = b"sha256:"
_COMMENT = len(_TAG) + 64
_CHUNK = 1 << 22


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) under `path`, or raises and leaves what was there untouched.

    Raises:
        OSError: the file could not be written (disk full, quota, permissions).
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_new(aside, "w+b") as file:
            torch.save(state, file)
            _append_digest(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        aside.unlink(missing_ok=True)
        why = error.strerror if isinstance(error, OSError) and error.strerror else "the disk did not take all of it"
        held = any(_STEP.fullmatch(other.name) for other in path.parent.iterdir())
        then = (
            "earlier ones are untouched: start again with --resume" if held else "there is no earlier one: begin anew"
        )
        raise OSError(f"could not write the checkpoint {path}: {why}. Free disk space; {then}") from error
    _sync_folder(path.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state under `path`, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not one of ours, it is damaged, or it holds more than tensors and plain values.
    """
    if reason := damage(path):
        raise ValueError(f"{path}: {reason}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names many; each means that the content is not what we write
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: refused, it holds more than tensors and plain values, or damage ({first})"
        ) from error
    if not isinstance(state, dict) or not _is_state_dict(state.get("model")):
        raise ValueError(f"{path}: not a checkpoint of dali_mix: it holds no 'model' of tensors by name")
    average = state.get("ema")
    if average is not None and not (
        isinstance(average, dict)
        and _is_state_dict(average.get("model"))
        and isinstance(average.get("updates", 0), int)
    ):
        raise ValueError(f"{path}: not a checkpoint of dali_mix: its 'ema' holds no 'model' of tensors by name")
    return state


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())


def is_checkpoint(path: Path) -> bool:
    """True when the file ends in our checksum, right, wrong or cut short, so that `load_checkpoint` is to read it."""
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _COMMENT - 22, 0))
        end = file.read()
    # A zip archive's end record, of 22 bytes, says how long the comment after it is: other writers leave none.
    record = end.rfind(b"PK\x05\x06")
    announced = end[record + 20 : record + 22] if record >= 0 else b""
    return _TAG in end or announced == struct.pack("<H", _COMMENT)


def damage(path: Path) -> str | None:
    """What is wrong with the file under `path`, or None when every byte is as it was written."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        body = os.fstat(file.fileno()).st_size - _COMMENT
        if body < 22:
            return "cut short, or not a checkpoint of dali_mix"
        file.seek(body)
        comment = file.read()
        if not comment.startswith(_TAG):
            return "cut short, or not a checkpoint of dali_mix (it does not end in a checksum)"
        if _digest(file, body) != comment[len(_TAG) :]:
            return "damaged: its content does not match its sha256"
    return None


def _append_digest(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(end - 22)  # the zip archive's end record without a comment
    record = file.read(22)
    if record[:4] != b"PK\x05\x06" or record[-2:] != b"\0\0":
        raise RuntimeError("torch.save did not end its file in a plain zip end record")
    file.seek(end - 2)
    file.write(struct.pack("<H", _COMMENT))
    file.flush()
    digest = _digest(file, end)
    file.seek(end)
    file.write(_TAG + digest)


def _digest(file: Any, size: int) -> bytes:
    file.seek(0)
    sha = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        sha.update(chunk)
        size -= len(chunk)
    return sha.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON that every reader takes: NaN and infinity, which JSON lacks, are null."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: plain(item) for key, item in inner.items()}
        if isinstance(inner, (list, tuple)):
            return [plain(item) for item in inner]
        return None if isinstance(inner, float) and not math.isfinite(inner) else inner

    return json.dumps(plain(value), indent=indent, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Puts a small text file in place in one rename, or raises OSError naming it and leaves what was there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_new(aside, "w", "utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise type(error)(f"could not write {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raises OSError naming `folder` where no file can be made in it; a folder that is missing is looked for above."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{folder}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: cannot be written to ({there} is read-only); choose another folder")


def check_out(option: str, out: Path) -> None:
    """Raises OSError naming `option` where no file can be put at `out`: before the work, not after it."""
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{option} {out}: its folder is not there")
    if out.is_dir():
        raise IsADirectoryError(f"{option} {out}: is a folder; give the name of a file")
    try:
        check_writable(out.absolute().parent)
    except OSError as error:
        raise type(error)(f"{option} {error}") from None


class CheckpointFolder:
    """The checkpoints of one run: `step-00000100.pt` …, `best.pt`, and `latest`, the name of the newest.

    Args:
        path: the folder; made when first written to.
        keep: how many of the newest to keep (`best.pt` is kept besides).
        warn: called with what a user must hear.
    """

    def __init__(self, path: Path, keep: int, warn: Callable[[str], None]) -> None:
        self.path = path
        self.keep = keep
        self.warn = warn

    def steps(self) -> list[int]:
        """Steps there is a file for, newest first."""
        if not self.path.is_dir():
            return []
        return sorted((int(m[1]) for p in self.path.iterdir() if (m := _STEP.fullmatch(p.name))), reverse=True)

    def file(self, step: int) -> Path:
        """Where the checkpoint of `step` belongs."""
        return self.path / f"step-{step:08d}.pt"

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes the checkpoint of `step`; only when it is safely there are older ones removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.file(step)
        save_checkpoint(path, state)
        write_text(self.path / "latest", path.name + "\n")
        for old in self.steps()[self.keep :]:
            self.file(old).unlink(missing_ok=True)
        for left in self.path.glob(".*.tmp"):  # of processes killed while writing
            left.unlink(missing_ok=True)
        return path

    def save_best(self, state: dict[str, Any]) -> None:
        """Writes `best.pt`."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.path / "best.pt", state)

    def newest(self) -> int | None:
        """The step of the newest checkpoint that is whole; None when the folder has never held one.

        Damaged ones that are newer are reported and set aside as `*.damaged`, so that pruning never prefers them. The
        pointer `latest` is for people and programs; an empty, missing or dangling one is reported and not needed.

        Raises:
            ValueError: there are checkpoints, but not one is whole.
        """
        steps, pointer = self.steps(), self.path / "latest"
        named = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
        if not steps and not pointer.exists():
            return None
        if not named:
            self.warn(f"{pointer} is missing or empty; looking at the checkpoints themselves")
        elif Path(named).name != named or not (self.path / named).is_file():
            self.warn(f"{pointer} names {named!r}, which is not there; looking at the checkpoints themselves")
        reasons = []
        for step in steps:
            path = self.file(step)
            reason = damage(path)
            if reason is None:
                return step
            reasons.append(f"{path.name}: {reason}")
            aside = path.with_name(path.name + ".damaged")
            path.replace(aside)
            self.warn(f"{path}: {reason}; kept as {aside.name}, going back to the checkpoint before it")
        raise ValueError(
            f"{self.path}: no checkpoint to resume from ({'; '.join(reasons) or 'only a pointer is left'}). "
            f"To begin anew choose another --work-dir"
        )
