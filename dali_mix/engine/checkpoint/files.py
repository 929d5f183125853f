"""Checkpoint files: written under a temporary name, synced and renamed, and checked by sha256.

A checkpoint is a zip archive as written by `torch.save`. Its zip comment is "sha256:<hex>", the digest of every byte
before the comment. `torch.load` and `unzip` can read the file. It is loaded with `weights_only=True`, so no code in it
is executed.
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

from dali_mix._files import replacing, sync

_STEP = re.compile(r"step-(\d{8,})\.pt")
_TAG = b"sha256:"
_COMMENT = len(_TAG) + 64
_CHUNK = 1 << 22


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`. On failure, raise OSError and leave an old file unchanged."""
    try:
        with replacing(path) as aside, aside.open("r+b") as file:
            torch.save(state, file)
            _append_digest(file)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError for a failed write
        why = getattr(error.__cause__, "strerror", None) or "the write was incomplete"
        held = any(_STEP.fullmatch(other.name) for other in path.parent.iterdir())
        then = "earlier checkpoints are unchanged: continue with --resume" if held else "there is no earlier checkpoint"
        raise OSError(f"could not write the checkpoint {path}: {why}. Free disk space; {then}") from error
    sync(path.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load the state in `path` onto the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is not a dali_mix checkpoint, or contains anything other than tensors and plain
            values.
    """
    if reason := damage(path):
        raise ValueError(f"{path}: {reason}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a file it cannot read
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: refused: it is damaged, or contains more than tensors and plain values ({first})"
        ) from error
    if not _has_model(state):
        raise ValueError(f"{path}: not a checkpoint of dali_mix: it holds no 'model' of tensors by name")
    average = state.get("ema")
    if average is not None and not (_has_model(average) and isinstance(average.get("updates", 0), int)):
        raise ValueError(f"{path}: not a checkpoint of dali_mix: its 'ema' holds no 'model' of tensors by name")
    return state


def _has_model(state: object) -> bool:
    model = state.get("model") if isinstance(state, dict) else None
    return isinstance(model, dict) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in model.items())


def is_checkpoint(path: Path) -> bool:
    """Return True if the file `path` is a checkpoint of dali_mix, even if it is damaged.

    Its end must contain "sha256:", or a zip end record that declares a comment as long as a checkpoint's (see the
    module's docstring). The checksum is not verified; `load_checkpoint` reports damage.
    """
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _COMMENT - 22, 0))
        end = file.read()
    # A zip archive's end record of 22 bytes contains the length of the comment after it. Other writers add no comment.
    record = end.rfind(b"PK\x05\x06")
    announced = end[record + 20 : record + 22] if record >= 0 else b""
    return _TAG in end or announced == struct.pack("<H", _COMMENT)


def damage(path: Path) -> str | None:
    """Return a description of the damage to the file `path`, or None if its checksum matches.

    Raise FileNotFoundError if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        body = os.fstat(file.fileno()).st_size - _COMMENT
        if body < 22:
            return "cut short, or not a checkpoint of dali_mix"
        file.seek(body)
        comment = file.read()
        if not comment.startswith(_TAG):
            return "cut short, or not a checkpoint of dali_mix (no checksum at its end)"
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


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as standard JSON, with null for NaN and infinity."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: plain(item) for key, item in inner.items()}
        if isinstance(inner, (list, tuple)):
            return [plain(item) for item in inner]
        return None if isinstance(inner, float) and not math.isfinite(inner) else inner

    return json.dumps(plain(value), indent=indent, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path`. On failure, raise OSError naming `path` and leave an old file unchanged."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def check_writable(folder: Path) -> None:
    """Raise OSError, naming `folder`, if no file can be created in it, or if it is missing and cannot be created.

    Only types and permissions of existing files are checked; nothing is written.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{folder}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: cannot be written to ({there} is read-only); choose another folder")


def check_out(option: str, out: Path) -> None:
    """Check that the file `out` can be written, before the work that produces it. Messages begin with `option`.

    Raise ValueError if `out` is "-", and OSError if it is a folder, or if its folder is missing or not writable.
    """
    if str(out) == "-":
        raise ValueError(f"{option} -: cannot write to the standard output; pass a file name")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{option} {out}: its folder does not exist")
    if out.is_dir():
        raise IsADirectoryError(f"{option} {out}: is a folder; pass a file name")
    try:
        check_writable(out.absolute().parent)
    except OSError as error:
        raise type(error)(f"{option} {error}") from None


class CheckpointFolder:
    """The folder with a run's checkpoints `step-00000100.pt`, … and `best.pt`. Its text file `latest` names the newest.

    Args:
        path: the folder; created on the first write.
        keep: number of newest checkpoints to keep, in addition to `best.pt`.
        warn: called with the text of each warning.
    """

    def __init__(self, path: Path, keep: int, warn: Callable[[str], None]) -> None:
        self.path = path
        self.keep = keep
        self.warn = warn

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, newest first."""
        if not self.path.is_dir():
            return []
        return sorted((int(m[1]) for p in self.path.iterdir() if (m := _STEP.fullmatch(p.name))), reverse=True)

    def file(self, step: int) -> Path:
        """Return the path of the checkpoint of `step`."""
        return self.path / f"step-{step:08d}.pt"

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of `step` and point `latest` to it. Raise OSError if a file could not be written.

        Then remove all but the `keep` newest checkpoints, and temporary files that killed processes left.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.file(step)
        save_checkpoint(path, state)
        write_text(self.path / "latest", path.name + "\n")
        for old in self.steps()[self.keep :]:
            self.file(old).unlink(missing_ok=True)
        for left in self.path.glob(".*.tmp"):  # left by processes that were killed while writing
            left.unlink(missing_ok=True)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write `best.pt`. Raise OSError if it could not be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.path / "best.pt", state)

    def newest(self) -> int | None:
        """Return the step of the newest undamaged checkpoint; None if there are neither checkpoints nor `latest`.

        Damaged checkpoints that are newer than it are renamed to *.damaged, with a warning. `latest` is not used, but a
        warning is issued if it names no file in the folder.

        Raises:
            ValueError: all checkpoints are damaged (and have been renamed), or only `latest` exists.
        """
        # Checkpoints are found by name and checked by sha256. `latest` is for people and other programs. If it is
        # missing or empty, or names no file, this causes only a warning. Damaged files are renamed to *.damaged, since
        # `save` would otherwise keep them instead of readable ones. If checkpoints exist and none can be read, raise an
        # error instead of silently starting at step 0.
        steps, pointer = self.steps(), self.path / "latest"
        named = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
        if not steps and not pointer.exists():
            return None
        if not named:
            self.warn(f"{pointer} is missing or empty; searching the folder for checkpoints")
        elif Path(named).name != named or not (self.path / named).is_file():
            self.warn(f"{pointer} names {named!r}, which does not exist; searching the folder for checkpoints")
        reasons = []
        for step in steps:
            path = self.file(step)
            reason = damage(path)
            if reason is None:
                return step
            reasons.append(f"{path.name}: {reason}")
            damaged = path.with_name(path.name + ".damaged")
            path.replace(damaged)
            self.warn(f"{path}: {reason}; renamed to {damaged.name}, using the checkpoint before it")
        raise ValueError(
            f"{self.path}: no checkpoint to resume from ({'; '.join(reasons) or 'only the pointer exists'}). "
            f"To start over choose another --work-dir"
        )
