"""Weights from a file into a model, key by key, with a report. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class MatchReport:
    """What of a weight file fitted a model; each entry is a key of the model (`unexpected`: of the file).

    matched: loaded. missing: not in the file. misshaped: "key: file shape, model shape". fresh: keys of the head that
    were left as they were because the file's head has another number of classes. unexpected: in the file only.
    """

    path: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshaped: tuple[str, ...]
    fresh: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of the model's tensors that were found, not counting a head left fresh."""
        wanted = len(self.matched) + len(self.missing) + len(self.misshaped)
        return len(self.matched) / wanted if wanted else 0.0

    def __str__(self) -> str:
        counts = f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.misshaped)} mis-shaped"
        lines = [f"{self.path}: {counts}, {len(self.fresh)} left fresh, {len(self.unexpected)} unexpected"]
        named = {
            "missing": self.missing,
            "mis-shaped": self.misshaped,
            "fresh": self.fresh,
            "unexpected": self.unexpected,
        }
        return "\n".join(lines + [f"  {name}: {_listed(keys)}" for name, keys in named.items() if keys])


def load_weights(
    model: nn.Module, path: str | Path, *, strict_head: bool = False, min_match: float = 1.0
) -> MatchReport:
    """Loads weights from `path` into `model`, in place; on an error the model is unchanged.

    Args:
        model: any module; values are copied to its dtypes and devices.
        path: a safetensors file, or a torch file that `weights_only` loading accepts: a state dict, also under one of
            the keys state_dict, model_state_dict, model, and with prefixes module. and _orig_mod.
        strict_head: an error also where only the last layer's number of classes differs; otherwise that layer is left
            as it was, and reported.
        min_match: the share of the model's tensors (head aside) that must be found. Below 1 for a backbone out of a
            larger model; what is mis-shaped is an error always.

    Returns:
        what was matched, and what not.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weight file, one that would run code, or one that does not fit; the keys are listed.
    """
    found = read_state_dict(path)
    wanted = model.state_dict()
    head = head_name(model)
    matched, missing, misshaped, fresh = [], [], [], []
    for key, value in wanted.items():
        if key not in found:
            # Files older than BatchNorm's step counter lack it, and nothing depends on it.
            if not key.endswith("num_batches_tracked"):
                missing.append(key)
        elif found[key].shape == value.shape:
            matched.append(key)
        elif not strict_head and head is not None and _other_classes(key, head, found[key], value):
            fresh.append(key)
        else:
            misshaped.append(f"{key}: {tuple(found[key].shape)} in the file, {tuple(value.shape)} in the model")
    if fresh:  # a head is loaded whole or not at all
        fresh = [key for key in wanted if head is not None and key.startswith(f"{head}.")]
        matched = [key for key in matched if key not in fresh]
    unexpected = tuple(key for key in found if key not in wanted)
    report = MatchReport(str(path), tuple(matched), tuple(missing), tuple(misshaped), tuple(fresh), unexpected)
    if misshaped or not matched or report.share < min_match:
        kinds = {"missing": missing, "mis-shaped": misshaped, "unexpected": unexpected}
        raise ValueError(
            f"{path}: {report.share:.1%} of the model's weights fit, {min_match:.0%} must; {_brief(kinds)}"
        )
    model.load_state_dict({key: found[key] for key in matched}, strict=False)
    return report


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What keeps the state dict `found` from fitting `wanted` key by key, in one line; "" when nothing does."""
    misshaped = [
        f"{key}: {tuple(found[key].shape)} in the file, {tuple(value.shape)} in the model"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    missing, unexpected = [key for key in wanted if key not in found], [key for key in found if key not in wanted]
    return _brief({"missing": missing, "mis-shaped": misshaped, "unexpected": unexpected})


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a weight file as `load_weights` does: key → tensor on the CPU, wrappers and prefixes taken off.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    content: Any = _read(path)
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict (key → tensor)")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            continue
        bare = key
        while prefix := next((prefix for prefix in PREFIXES if bare.startswith(prefix)), None):
            bare = bare.removeprefix(prefix)
        if bare in state:
            raise ValueError(f"{path}: two entries are called {bare} once prefixes are taken off; the second is {key}")
        state[bare] = value
    if not state:
        raise ValueError(f"{path} holds no tensors under {', '.join(WRAPPERS)} or at the top")
    return state


def head_name(model: nn.Module) -> str | None:
    """The name of what gives the class scores: the model's own or timm's word for it, else the last linear layer."""
    modules = dict(model.named_modules())
    own = getattr(model, "classifier_name", None)
    if isinstance(own, str) and own in modules:
        return own
    named = getattr(model, "pretrained_cfg", None) or {}
    classifier = named.get("classifier") if isinstance(named, Mapping) else None
    if isinstance(classifier, str) and isinstance(modules.get(classifier), nn.Linear | nn.Conv2d):
        return classifier
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _other_classes(key: str, head: str, found: Tensor, wanted: Tensor) -> bool:
    """Whether only the number of classes differs: the first dimension, or the second of CSRA's (heads, K, C)."""
    if not key.startswith(f"{head}.") or found.ndim != wanted.ndim:
        return False
    differs = [i for i, (one, other) in enumerate(zip(found.shape, wanted.shape, strict=True)) if one != other]
    return differs == [0] or (differs == [1] and wanted.ndim == 3)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    try:
        # A safetensors file opens with the length of its JSON header, 8 bytes.
        if start[8:] == b"{":
            return load_file(path)
        if not start.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle of protocol 2 or later
            raise ValueError(f"{path} is not a weight file: neither safetensors nor what torch.save writes")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} was refused: it is no plain file of tensors, and reading it could run code"
            f"{f' ({code[1]})' if code else ''}. If you trust it, write its state dict anew with safetensors"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, IndexError, AttributeError, TypeError):
        raise ValueError(f"{path} is a damaged weight file, cut short or changed: copy it again") from None


def _brief(kinds: Mapping[str, Sequence[str]]) -> str:
    """Counts of the kinds that have any, and the first few of each."""
    return "; ".join(f"{len(keys)} {kind}: {_listed(tuple(keys), 3)}" for kind, keys in kinds.items() if keys)


def _listed(keys: tuple[str, ...], most: int = 20) -> str:
    rest = f" … and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
