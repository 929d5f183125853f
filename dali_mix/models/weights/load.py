"""Load weights from a file into a model, key by key, with a report. Code in a file is never executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dali_mix.models.weights.files import read_weight_file
from dali_mix.models.weights.prefixes import best_prefix, without_prefix


@dataclass(frozen=True)
class MatchReport:
    """The result of loading a weight file.

    Attributes:
        path: the file.
        matched: keys of the model that were loaded.
        missing: keys of the model that are not in the file, except step counters (`num_batches_tracked`).
        misshaped: keys whose shape in the file differs from that in the model, each with both shapes.
        fresh: keys of the head that were not loaded because the file's head has a different number of classes.
        unexpected: keys only in the file, except step counters (`num_batches_tracked`) of BatchNorms frozen in the
            model.
        wrapper: the keys under which the state dict was stored, joined by dots.
        prefix: the prefix removed from the file's keys.
        unread: other sets of weights in the file, such as averages.
        beyond: the keys in `unexpected` that belong to modules of the model, without the prefix; empty if their tensors
            hold at most 5% of the file's values.
    """

    path: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshaped: tuple[str, ...]
    fresh: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrapper: str = ""
    prefix: str = ""
    unread: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Return the share (0 to 1) of the model's tensors that were loaded, not counting the keys in `fresh`."""
        wanted = len(self.matched) + len(self.missing) + len(self.misshaped)
        return len(self.matched) / wanted if wanted else 0.0

    @property
    def notes(self) -> list[str]:
        """Return remarks for the user, if any: on a removed prefix, on other sets of weights in the file, `warning`."""
        prefix = [f"prefix {self.prefix!r} removed from the file's keys"] if self.prefix else []
        unread = [f"read from {self.wrapper!r}; not read: {_listed(self.unread)}"] if self.unread else []
        return prefix + unread + ([self.warning] if self.warning else [])

    @property
    def warning(self) -> str:
        """Return a warning if the file belongs to a larger architecture than the model; else ""."""
        if not self.beyond:
            return ""
        used, both = len(self.matched), len(self.matched) + len(self.beyond)
        return (
            f"only {used / both:.0%} of the weights ({used} of {both} tensors) are used: the file is from a larger"
            f" architecture, with {_listed(self.beyond, 3)}"
        )

    def __str__(self) -> str:
        counts = f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.misshaped)} mis-shaped"
        lines = [f"{self.path}: {counts}, {len(self.fresh)} left fresh, {len(self.unexpected)} unexpected"]
        lines += [f"  {note}" for note in self.notes]
        kinds = _kinds(self.missing, self.misshaped, self.unexpected) | {"fresh": self.fresh}
        return "\n".join(lines + [f"  {kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys])


def load_weights(
    model: nn.Module, path: str | Path, *, strict_head: bool = False, min_match: float = 1.0
) -> MatchReport:
    """Load weights from `path` into `model`, in place, and return a report. An error leaves the model unchanged.

    Args:
        model: any module; values are converted to its dtypes and devices.
        path: a safetensors file, or a torch file that `weights_only` loading accepts. The state dict may be stored
            under a key (state_dict, model, model_ema …). A prefix of its keys (`model.` of Lightning, `module.` of DDP,
            `_orig_mod.` of torch.compile, …) is removed and reported. A checkpoint of a run, or its pointer
            `latest`, can be read too. For a backbone, this may be the checkpoint of a multi-label model.
        strict_head: raise an error even if only the last layer's number of classes differs. By default, that layer is
            left unchanged, and reported.
        min_match: the share of the model's tensors that must be found, not counting a head that is left unchanged. Use
            less than 1 if the file may lack some tensors. A wrong shape outside such a head is always an error.

    Raises:
        FileNotFoundError: no such file, or a folder.
        ValueError: the file is not a weight file, would execute code, contains two sets of weights that fit, or does
            not match; the message counts the keys that do not match and names some.
    """
    file = read_weight_file(path)
    path, wanted = file.path, model.state_dict()
    try:
        prefix = best_prefix(file.state, wanted)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found, others = without_prefix(file.state, prefix)
    if renamed := getattr(model, "renamed", None):
        found = {renamed(key): value for key, value in found.items()}
    # Keys without the prefix may still belong to the model, such as those of a classifier outside the wrapped part.
    outside = [key for key in others if key in wanted and key not in found and others[key].shape == wanted[key].shape]
    found |= {key: others.pop(key) for key in outside}
    head = head_name(model)
    matched, missing, misshaped, fresh = [], [], [], []
    for key, value in wanted.items():
        if key not in found:
            # Old files lack BatchNorm's step counter, and no output depends on it.
            if not key.endswith("num_batches_tracked"):
                missing.append(key)
        elif found[key].shape == value.shape:
            matched.append(key)
        elif not strict_head and head is not None and _other_classes(key, head, found[key], value):
            fresh.append(key)
        else:
            misshaped.append(_misshaped(key, found[key], value))
    if fresh:  # load all of a head or none of it
        fresh = [key for key in wanted if key.startswith(f"{head}.")]
        matched = [key for key in matched if key not in fresh]
    left = [key for key in found if key not in wanted and not _is_counter_of_frozen(key, wanted)]
    unexpected = (*(f"{prefix}{key}" for key in left), *others)
    in_file = {key: file.names.get(f"{prefix}{key}", key) for key in matched}
    removed = next((name.removesuffix(key) for key, name in in_file.items() if name.endswith(key)), prefix)
    keys = tuple(matched), tuple(missing), tuple(misshaped), tuple(fresh), unexpected
    report = MatchReport(str(path), *keys, file.wrapper, removed, file.unread, _beyond(left, found, wanted))
    if misshaped or not matched or report.share < min_match:
        brief = _brief(_kinds(missing, misshaped, unexpected))
        hint = "" if matched else ". Convert checkpoints of published code with `dali-mix convert`"
        raise ValueError(f"{path}: {report.share:.1%} of the model's weights fit, {min_match:.0%} must; {brief}{hint}")
    model.load_state_dict({key: found[key] for key in matched}, strict=False)
    return report


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], most: int = 3) -> str:
    """Describe in one line how the keys and shapes of `found` differ from those of `wanted`; "" if they do not.

    Values are not compared. Keys are missing, unexpected or mis-shaped, and at most `most` keys of each kind are named.
    """
    both = [key for key in wanted if key in found]
    misshaped = [_misshaped(key, found[key], wanted[key]) for key in both if found[key].shape != wanted[key].shape]
    missing, unexpected = [key for key in wanted if key not in found], [key for key in found if key not in wanted]
    return _brief(_kinds(missing, misshaped, unexpected), most)


def head_name(model: nn.Module) -> str | None:
    """Return the name of the classifier layer: as stated by the model or by timm, else the last linear layer.

    Return None if the model has no such layer.
    """
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
    """Return True if `key` belongs to the layer `head` and its shapes differ only in the number of classes.

    `found` is the file's tensor and `wanted` the model's. The number of classes is the first dimension or, in a tensor
    of three dimensions such as CSRA's weights (heads, K, C), also the second.
    """
    if not key.startswith(f"{head}.") or found.ndim != wanted.ndim:
        return False
    differs = [i for i, (one, other) in enumerate(zip(found.shape, wanted.shape, strict=True)) if one != other]
    return differs == [0] or (differs == [1] and wanted.ndim == 3)


def _beyond(left: Sequence[str], found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the keys in `left` that show that the file is from a larger architecture than the model.

    `left` are the keys of `found`, the file, that the model lacks. Return those whose top-level module the model has,
    or () if they hold at most 5% of the file's values. This excludes a classifier or wrapper around a backbone, because
    the model lacks their modules, and buffers of other library versions, because they are small.
    """
    modules = {key.partition(".")[0] for key in wanted}
    beyond = [key for key in left if key.partition(".")[0] in modules]
    numbers = sum(found[key].numel() for key in beyond)
    return tuple(beyond) if numbers > 0.05 * sum(value.numel() for value in found.values()) else ()


def _is_counter_of_frozen(key: str, wanted: Mapping[str, Tensor]) -> bool:
    layer, dot, name = key.rpartition(".")
    return name == "num_batches_tracked" and f"{layer}{dot}running_mean" in wanted


def _misshaped(key: str, found: Tensor, wanted: Tensor) -> str:
    return f"{key}: {tuple(found.shape)} in the file, {tuple(wanted.shape)} in the model"


def _kinds(missing: Sequence[str], misshaped: Sequence[str], unexpected: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"missing": missing, "mis-shaped": misshaped, "unexpected": unexpected}


def _brief(kinds: Mapping[str, Sequence[str]], most: int = 3) -> str:
    """Return the number of keys of each kind of mismatch, and the first `most` of them, in one line."""
    return "; ".join(f"{len(keys)} {kind}: {_listed(keys, most)}" for kind, keys in kinds.items() if keys)


def _listed(keys: Sequence[str], most: int = 20) -> str:
    rest = f" … and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
