"""Mixers by name, for recipes and the command line."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dali_mix.mixers.base import Mixer
from dali_mix.mixers.choice import MixChoice
from dali_mix.mixers.cutmix import CutMix
from dali_mix.mixers.cutout import Cutout
from dali_mix.mixers.mixup import MixUp
from dali_mix.mixers.resizemix import ResizeMix
from dali_mix.mixers.resizemix_plus import ResizeMixPlus
from dali_mix.mixers.saliencymix import SaliencyMix
from dali_mix.mixers.splicemix import SpliceMix
from dali_mix.options import did_you_mean

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
        MixChoice,
    )
}


def build(
    name: str,
    *,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> Mixer[Any]:
    """Makes the mixer called `name` (a key of `MIXERS`; case does not matter).

    Args:
        num_classes, mean, std: of the data set, and what its images are normalized with (three numbers each, 0..1
            units): handed on to every mixer that takes them, also inside a MixChoice.
        options: the constructor's other arguments. MixChoice's `mixers` may be given as dicts of a `type` and options.

    Raises:
        ValueError: unknown name, unknown or missing option, or an option out of range.
    """
    by_name = {known.lower(): known for known in MIXERS}
    if name.lower() not in by_name:
        raise ValueError(f"no mixer is called {name!r}{did_you_mean(name, MIXERS)}; there are {', '.join(MIXERS)}")
    mixer_class = MIXERS[by_name[name.lower()]]
    data = {"num_classes": num_classes, "mean": mean, "std": std}
    if mixer_class is MixChoice and "mixers" in options:
        if not isinstance(options["mixers"], (list, tuple)):
            raise ValueError(f"mixer MixChoice: mixers={options['mixers']!r}: must be a list of mixers")
        options["mixers"] = [_member(member, data) for member in options["mixers"]]
    signature = inspect.signature(mixer_class)
    # A whole run's mean and std are offered to every mixer; what someone asks for by name has to be known.
    options |= {option: value for option, value in data.items() if option in signature.parameters}
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise ValueError(f"mixer {mixer_class.__name__}: {error}; it takes {takes}") from None
    for option, value in options.items():
        if isinstance(signature.parameters[option].default, bool) and not isinstance(value, bool):
            raise ValueError(f"mixer {mixer_class.__name__}: {option}={value!r}: must be True or False")
    try:
        return mixer_class(**options)
    except ValueError as error:
        raise ValueError(f"mixer {mixer_class.__name__}: {error}") from None
    except TypeError as error:  # text or a list where a number belongs
        given = ", ".join(f"{option}={value!r}" for option, value in options.items() if option not in data)
        raise ValueError(f"mixer {mixer_class.__name__}: a value of the wrong kind in {given} ({error})") from None


def _member(member: Mixer[Any] | Mapping[str, Any], data: Mapping[str, Any]) -> Mixer[Any]:
    if isinstance(member, Mixer):
        return member
    if not isinstance(member, Mapping):
        raise ValueError(f"mixer MixChoice: {member!r} in mixers is no dict of a type and options")
    options = {**data, **member}
    if "type" not in options:
        raise ValueError(f"a mixer of MixChoice has no type: {dict(member)}")
    return build(options.pop("type"), **options)
