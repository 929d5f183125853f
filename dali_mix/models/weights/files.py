"""Read weight files without executing code in them, and write them atomically."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dali_mix._files import replacing
from dali_mix._text import first_of
from dali_mix.options import did_you_mean

WRAPPERS = ("state_dict", "model_state_dict", "model")
# Parts that torch's wrappers insert into keys (torch.compile, FSDP, activation checkpointing), and DDP's prefix.
_INSERTED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DDP = "module."
SAFETENSORS, TORCH = ".safetensors", (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class WeightFile:
    """Content of a weight file.

    Attributes:
        state: key → tensor on the CPU, without prefixes of torch's wrappers.
        path: the file that was read; for `latest`, the checkpoint it names.
        wrapper: the keys under which the state dict was stored, joined by dots.
        prefix: the prefix removed from the first key that had one; "" if none had.
        others: names of entries that are not weights of this state dict.
        unread: those of `others` that are sets of weights of a similar size, such as averages.
        names: key → name in the file.
    """

    state: dict[str, Tensor]
    path: Path
    wrapper: str
    prefix: str
    others: tuple[str, ...]
    unread: tuple[str, ...]
    names: dict[str, str]


def follow_pointer(path: str | Path) -> Path:
    """Return the path of the checkpoint that is named in `path`, if `path` is the file `latest` of a run.

    Any other path is returned unchanged. The checkpoint may not exist.
    """
    path = Path(path)
    if path.name != "latest" or not path.is_file() or path.stat().st_size > 255:
        return path
    named = path.read_text(encoding="utf-8", errors="replace").strip()
    return path.with_name(named) if named and Path(named).name == named else path


def find_weights(path: str | Path) -> Path:
    """Return `path`, or the checkpoint it points to if it is a run's `latest`.

    Raise FileNotFoundError if `path` does not exist or is a folder. The message suggests similar names or, for a
    folder, the weight files in it, newest first.
    """
    path = follow_pointer(path)
    if path.is_dir():
        found = [file for file in (*path.iterdir(), *path.glob("checkpoints/*.pt")) if _is_weights(file.name)]
        found.sort(key=lambda file: (-file.stat().st_mtime, file.name))
        names = [file.relative_to(path).as_posix() for file in found]
        shown = first_of(names) or "there is none"
        raise FileNotFoundError(f"{path}: a folder; pass a weight file or checkpoint in it: {shown}")
    if not path.is_file():
        folder = path.parent
        there = [file.name for file in folder.iterdir() if _is_weights(file.name)] if folder.is_dir() else []
        advice = "pass a weight file, or a checkpoint of a run"
        raise FileNotFoundError(f"{path}: no such file{did_you_mean(path.name, there)}; {advice}")
    return path


def _is_weights(name: str) -> bool:
    return name.endswith((SAFETENSORS, *TORCH))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a weight file, key → tensor on the CPU, without torch's wrappers in the keys.

    The path is as for `load_weights`.

    Raises:
        FileNotFoundError, ValueError: as for `read_weight_file`.
    """
    return read_weight_file(path).state


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a safetensors file, a `torch.save` file of plain tensors, or the checkpoint that `latest` points to.

    Raises:
        FileNotFoundError: no such file, or a folder.
        ValueError: not a weight file, a damaged one, one that would execute code, one without tensors, one in which it
            is unclear which weights to use, or one with two keys that differ only in prefixes of torch's wrappers.
    """
    path = find_weights(path)
    content: Any = _read(path)
    wrapper: list[str] = []
    others: list[str] = []
    unread: list[str] = []
    while isinstance(content, Mapping):
        name, rivals = _inner(content, path)
        if name is None:
            break
        wrapper.append(name)
        others += [str(key) for key in content if key != name]
        unread += rivals
        content = content[name]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} contains a {type(content).__name__}, not a state dict (key → tensor)")
    state: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            others.append(str(key))
            continue
        bare = _INSERTED.sub("", key)
        while bare.startswith(_DDP):
            bare = bare.removeprefix(_DDP)
        if bare in state:
            raise ValueError(f"{path}: two entries are called {bare} once prefixes are removed; the second is {key}")
        state[bare], names[bare] = value, key
    if not state:
        raise ValueError(f"{path} has no tensors under {', '.join(WRAPPERS)} or at the top level")
    prefix = next((key.removesuffix(bare) for bare, key in names.items() if key != bare and key.endswith(bare)), "")
    return WeightFile(state, path, ".".join(wrapper), prefix, tuple(others), tuple(unread), names)


def _inner(content: Mapping[Any, Any], path: Path) -> tuple[str | None, list[str]]:
    """Return the key under which `content` holds the weights, and the keys of its rivals.

    The key is one of `WRAPPERS` or, if `content` has a mapping under none of them, that of the mapping with the most
    tensors. It is None, with no rivals, if `content` itself holds at least as many tensors as that mapping, or contains
    no mapping. A rival is another mapping with at least half as many tensors. Raise ValueError if there are rivals and
    the key is not one of `WRAPPERS`.
    """
    sizes = {key: _tensors(value) for key, value in content.items() if isinstance(value, Mapping)}
    named = next((key for key in WRAPPERS if key in sizes), None)
    name = named or max(sizes, key=lambda key: sizes[key], default=None)
    if name is None or (named is None and sizes[name] <= _tensors(content, depth=1)):
        return None, []
    rivals = [str(key) for key in sizes if key != name and sizes[key] and 2 * sizes[key] >= sizes[name]]
    if rivals and named is None:
        both = " and ".join([str(name), *rivals])
        advice = f"save the one you want to a separate file with torch.save(checkpoint[{name!r}], PATH)"
        raise ValueError(f"{path} contains weights under {both}, and it is unclear which to use: {advice}")
    return name, rivals


def _tensors(content: Any, depth: int = 3) -> int:
    """Return the largest number of named tensors in `content` or a mapping inside it, down to `depth` levels.

    Tensors with numeric keys, as in optimizer states, do not count.
    """
    if not isinstance(content, Mapping) or not depth:
        return 0
    named = [value for key, value in content.items() if isinstance(key, str)]
    return max(sum(isinstance(value, Tensor) for value in named), *(_tensors(value, depth - 1) for value in named), 0)


def write_weight_file(path: Path, state: Mapping[str, Tensor], wrapper: str = "") -> None:
    """Write `state` to `path`, bit for bit. On an error, an existing file is left unchanged.

    Args:
        path: ends in `.safetensors`, or in `.pth`, `.pt` or `.bin` for `torch.save`.
        wrapper: for `torch.save`, the key under which the state dict is stored; "" for none.

    Raises:
        ValueError: any other suffix.
        OSError: the file cannot be written.
    """
    check_suffix(path)
    # Copy: safetensors refuses tensors that share memory, and torch.save would write all of a view's storage.
    plain = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    try:
        with replacing(path) as aside:
            mode = aside.stat().st_mode
            if path.suffix == SAFETENSORS:
                save_file(plain, aside, metadata={"format": "pt"})
                aside.chmod(mode)  # safetensors creates files that only their owner can read
            else:
                torch.save({wrapper: plain} if wrapper else plain, aside)
    except (RuntimeError, SafetensorError) as error:  # torch's zip writer raises RuntimeError
        raise OSError(f"could not write {path}: {error}") from error


def check_suffix(path: Path) -> None:
    """Raise ValueError unless `path` has the suffix of a weight file."""
    if path.suffix not in (SAFETENSORS, *TORCH):
        raise ValueError(f"{path}: name it *{SAFETENSORS}, or {', '.join(f'*{end}' for end in TORCH)} for torch.save")


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    safe = start[8:] == b"{"  # a safetensors file starts with the length of its JSON header, 8 bytes
    if not safe and not start.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle of protocol 2 or later
        raise ValueError(f"{path} is not a weight file: neither safetensors nor written by torch.save")
    try:
        if safe:
            return load_file(path)
        with warnings.catch_warnings():  # warnings about pickle protocols; errors are reported below
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it is not a plain file of tensors, and reading it could run code{f' ({code[1]})' if code else ''}"
        advice = "If you trust it, save its state dict again with safetensors"
        raise ValueError(f"{path} was refused: {why}. {advice}") from None
    except MemoryError:
        raise
    except Exception:  # torch raises many types of errors for damaged files
        raise ValueError(f"{path} is a damaged weight file, cut short or changed: copy it again") from None
