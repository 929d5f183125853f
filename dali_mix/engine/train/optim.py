"""Optimizers, with per-parameter learning rates and weight decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dali_mix.engine.config.groups import Multipliers, make
from dali_mix.engine.config.objects import check_call, check_object, check_present, is_object
from dali_mix.engine.config.schema import check_kinds
from dali_mix.options import check_keys, choice, did_you_mean

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)
OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
_FUNCTION = "pass a function, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
_ADVICE = "Change its options, or use SGD with momentum or AdamW"


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    norm_decay: float | None = None,
    bias_decay: float | None = None,
    custom: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of `model`, grouped by learning rate and weight decay.

    Args:
        lr, weight_decay: values for parameters that no rule below matches.
        norm_decay: weight decay of the scales and shifts of normalization layers; None for `weight_decay`.
        bias_decay: weight decay of every other parameter named `bias`; None for `weight_decay`.
        custom: part of a parameter's dotted name (complete components: "backbone", "layer4.0") → {"lr_mult": …,
            "decay_mult": …}. The longest matching key wins, and takes precedence over the two rules above.

    Returns:
        groups with "params", "lr", "base_lr" (which the schedule scales) and "weight_decay", in order of first
        appearance.

    Raises:
        ValueError: a key of `custom` that matches no parameter, or an unknown multiplier.
    """
    rules = {}
    for key, rule in (custom or {}).items():
        where = f"paramwise.custom[{key!r}]"
        rules[key] = make(Multipliers, rule, where, f"{where}.")
    of_norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(False)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    fitted: set[str] = set()
    for name, parameter in model.named_parameters():
        rate, decay = lr, weight_decay
        keys = sorted((key for key in rules if f".{key}." in f".{name}."), key=len)
        fitted.update(keys)
        if keys:
            fitting = rules[keys[-1]]
            rate, decay = lr * fitting.lr_mult, weight_decay * fitting.decay_mult
        elif id(parameter) in of_norms:
            decay = weight_decay if norm_decay is None else norm_decay
        elif name.rpartition(".")[2] == "bias":
            decay = weight_decay if bias_decay is None else bias_decay
        if parameter.requires_grad:
            groups.setdefault((rate, decay), []).append(parameter)
    for key in set(rules) - fitted:
        parts = sorted({part for name, _ in model.named_parameters() for part in name.split(".")})
        raise ValueError(
            f"paramwise.custom names {key!r}{did_you_mean(key, parts)}, which is not part of any parameter's name; "
            f"parts are {', '.join(parts[:8])}{', …' if len(parts) > 8 else ''}"
        )
    return [
        {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def build_optimizer(
    model: nn.Module, settings: dict[str, Any], paramwise: dict[str, Any], device: torch.device
) -> torch.optim.Optimizer:
    """Return the torch optimizer that a recipe names, with groups from `parameter_groups`, or the user's own optimizer.

    On a GPU, torch's fused implementation is used if the optimizer has one, unless `settings` contain "fused" or
    "foreach". It is faster, and a flag on the device can keep it from changing weights. The trainer can thus skip a
    step without waiting for the GPU (see `loss_monitor`).

    Args:
        model: the model to train.
        settings: a recipe's `optimizer`. Its "type" is the name of a class of torch.optim, whose options are the other
            entries, or an object, the user's optimizer or function.
        paramwise: a recipe's `paramwise`, not used for the user's optimizer.
        device: the model's device, on which a step on small parameters is tried; on the CPU for "meta".

    Raises:
        ValueError: an unknown type or option, an optimizer that cannot take a step with these options, a user's
            optimizer that does not fit the model, or a model without parameters to train.
    """
    options = dict(settings)
    kind = options.pop("type")
    check_present("optimizer", kind)
    if is_object(kind):
        check_keys("optimizer", options, ())
        return _given_optimizer(model, kind)
    cls = OPTIMIZERS[choice("optimizer.type", kind, OPTIMIZERS)]
    known = inspect.signature(cls).parameters
    check_keys(f"optimizer {kind}", options, set(known) - {"params"})
    check_kinds(known, f"optimizer {kind}", options)
    groups = parameter_groups(model, lr=options["lr"], weight_decay=options.get("weight_decay", 0.0), **paramwise)
    if not groups:
        raise ValueError("the model has no parameters to train: all are frozen")
    if device.type == "cuda" and "fused" in known and not {"fused", "foreach"} & set(options):
        options["fused"] = True
    try:
        optimizer = cls(groups, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {kind}: {error}. {_ADVICE}") from error
    if device.type == "meta":  # take the step on the CPU, which may not support these two options
        settings = {name: value for name, value in settings.items() if name not in ("capturable", "fused")}
        device = torch.device("cpu")
    kept_by(settings, device)
    return optimizer


def _given_optimizer(model: nn.Module, given: Any) -> torch.optim.Optimizer:
    """Return the user's optimizer, or the optimizer that the user's function returns for the parameters to train.

    Each group gets a "base_lr", by default its "lr". Raise ValueError if the optimizer lacks a trainable parameter of
    the model, has a parameter that is not the model's, has a group without "lr", or evaluates the loss in its step.
    Also raise ValueError if `given` is neither an optimizer nor a function, or the function fails or returns another
    type.
    """
    if not (isinstance(given, type) and issubclass(given, torch.optim.Optimizer)):  # a class is a function too
        wanted = "a torch.optim.Optimizer or a function that returns one"
        check_object("optimizer", given, (torch.optim.Optimizer, Callable), wanted)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    made = given
    if not isinstance(given, torch.optim.Optimizer):
        check_call("optimizer", given, "parameters")
        try:
            made = given(training)
        except (AttributeError, TypeError, ValueError) as error:
            first = (str(error).strip() or "?").splitlines()[0]
            raise ValueError(
                f"optimizer is called with the list of parameters to train, but raises {type(error).__name__}: {first};"
                f" {_FUNCTION}"
            ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"the optimizer function returns a {type(made).__name__}, not a torch.optim.Optimizer")
    kind = type(made).__name__
    held = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if others := held - names.keys():
        raise ValueError(
            f"optimizer {kind} has {len(others)} parameters that are not the model's: build it with the model's, or"
            f" {_FUNCTION}"
        )
    if missing := [names[id(parameter)] for parameter in training if id(parameter) not in held]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"optimizer {kind} lacks {', '.join(missing[:3])}{more} of the model: add them, or freeze them"
            " (requires_grad_(False))"
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(f"optimizer {kind} evaluates the loss in its step, which is not supported. {_ADVICE}")
    for group in made.param_groups:
        if "lr" not in group:
            raise ValueError(f"optimizer {kind} has a group of parameters without 'lr', which the schedule needs")
        group["base_lr"] = float(group.get("base_lr", group["lr"]))
    return made


def kept_by(settings: dict[str, Any], device: torch.device) -> dict[bool, set[str]]:
    """Return the names of the state entries that an optimizer stores for each parameter, such as "exp_avg".

    The result has two keys: True for parameters of more than one dimension, False for the others. The names are found
    by a step on a parameter of shape (2, 2) and one on a parameter of shape (2,).

    Args:
        settings: type and options of a torch optimizer, as for `build_optimizer`.
        device: device on which the steps are taken.

    Raises:
        ValueError: a step fails, because of an option or because of the optimizer: LBFGS (which evaluates the loss
            several times per step), SparseAdam and Muon (for matrices only) always fail. The message includes the
            optimizer's error.
    """
    options = dict(settings)
    kind = options.pop("type")
    names: dict[bool, set[str]] = {}
    for several, shape in ((True, (2, 2)), (False, (2,))):
        parameter = torch.nn.Parameter(torch.ones(shape, device=device))
        parameter.grad = torch.ones_like(parameter)
        try:
            optimizer = OPTIMIZERS[kind]([parameter], **options)
            optimizer.step()
        except Exception as error:  # optimizers raise errors of different types
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"optimizer {kind} cannot take a step with {options}: {first}. {_ADVICE}") from error
        names[several] = set(optimizer.state[parameter])
    return names
