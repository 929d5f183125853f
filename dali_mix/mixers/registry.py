"""Mixers by name, for recipes and the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dali_mix import _factories
from dali_mix.mixers.base import Mixer
from dali_mix.mixers.boxes import BoxResizeMix, BoxSpliceMix
from dali_mix.mixers.choice import MixChoice
from dali_mix.mixers.cutmix import CutMix
from dali_mix.mixers.cutout import Cutout
from dali_mix.mixers.mixup import MixUp
from dali_mix.mixers.resizemix import ResizeMix
from dali_mix.mixers.resizemix_plus import ResizeMixPlus
from dali_mix.mixers.saliencymix import SaliencyMix
from dali_mix.mixers.splicemix import SpliceMix
from dali_mix.options import did_you_mean, flag

MIXERS: dict[str, type[Mixer[Any]]] = {
    mixer.__name__: mixer
    for mixer in (
        CutMix,
        ResizeMix,
        MixUp,
        Cutout,
        SaliencyMix,
        ResizeMixPlus,
        SpliceMix,
        BoxResizeMix,
        BoxSpliceMix,
        MixChoice,
    )
}
"""The bundled mixers by name."""


def find(name: str) -> Callable[..., Mixer[Any]]:
    """Return the mixer class `name` of `MIXERS` (case-insensitive), or import the class or function "module:name".

    Raises:
        ValueError: a name that is not a string or is unknown (similar names are suggested), or a module:name that
            cannot be imported.
    """
    by_name = {known.lower(): known for known in MIXERS}
    if not isinstance(name, str):
        raise ValueError(f"the type of a mixer is {name!r}: must be a name, one of {', '.join(MIXERS)} or module:name")
    if name.lower() in by_name:
        return MIXERS[by_name[name.lower()]]
    if ":" in name:
        return _factories.resolve(name, "mixer")
    known = f"choose from {', '.join(MIXERS)}, or your own as module:name"
    raise ValueError(f"no mixer is called {name!r}{did_you_mean(name, MIXERS)}; {known}")


def check_named(name: str, options: Iterable[str]) -> None:
    """Raise ValueError if a user sets num_classes, mean or std for a mixer that does not accept them.

    `options` are the names of the options that the user sets. `build` itself raises no error for these three, since it
    also gets them from the dataset, and omits them if the mixer does not accept them.
    """
    known = _factories.parameters(find(name))
    for option in options:
        if option in ("num_classes", "mean", "std") and option not in known:
            raise ValueError(f"mixer {name}: has no option {option!r}; it takes {', '.join(known)}")


def build(
    name: str,
    *,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> Mixer[Any]:
    """Build the mixer `name`: a key of `MIXERS` (case-insensitive), or "module:name", your own class or function.

    Args:
        num_classes, mean, std: number of classes of the dataset, and normalization of its images (three numbers each,
            0..1 units). They are passed to every mixer that accepts arguments of these names, including mixers that a
            MixChoice contains as dicts.
        options: the constructor's other arguments, and `prob`, which is accepted for every mixer. The `mixers` of a
            MixChoice may be mixers, or dicts with a `type` and options.

    Raises:
        ValueError: an unknown name, an unknown or missing option, an option out of range, or a module:name that cannot
            be imported or does not return a `Mixer`.
    """
    factory = find(name)
    label = getattr(factory, "__name__", name)
    data = {"num_classes": num_classes, "mean": mean, "std": std}
    if factory is MixChoice and isinstance(options.get("mixers"), (list, tuple)):
        options["mixers"] = [_member(member, data) for member in options["mixers"]]
    known = _factories.parameters(factory)
    prob = 1.0 if "prob" in known else options.pop("prob", 1.0)
    options |= {option: value for option, value in data.items() if option in known}
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ValueError(f"mixer {label}: {error}; it takes {', '.join(known)}") from None
    try:
        for option, value in options.items():
            if option in known and isinstance(known[option].default, bool):
                flag(option, value)
        mixer = factory(**options)
        if prob != 1 and isinstance(mixer, Mixer):
            mixer.set_prob(prob)
    except ValueError as error:
        raise ValueError(f"mixer {label}: {error}") from None
    except TypeError as error:  # such as a string or a list instead of a number
        values = ", ".join(f"{option}={value!r}" for option, value in options.items() if option not in data)
        raise ValueError(f"mixer {label}: a value of the wrong kind in {values} ({error})") from None
    if not isinstance(mixer, Mixer):
        raise ValueError(f"mixer {name}: returned a {type(mixer).__name__}; derive it from dali_mix.mixers.Mixer")
    if type(mixer).sample is Mixer.sample and type(mixer).draw is Mixer.draw:
        raise ValueError(f"mixer {name}: {type(mixer).__name__} has neither a method sample nor draw")
    return mixer


def _member(member: Mixer[Any] | Mapping[str, Any], data: Mapping[str, Any]) -> Mixer[Any]:
    if isinstance(member, Mixer):
        return member
    if not isinstance(member, Mapping):
        raise ValueError(f"mixer MixChoice: {member!r} in mixers is not a dict of a type and options")
    options = {**data, **member}
    if "type" not in options:
        raise ValueError(f"a mixer of MixChoice has no type: {dict(member)}")
    check_named(options["type"], member)
    return build(options.pop("type"), **options)
