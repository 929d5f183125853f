"""Checks of the objects a user passes: loaders, model, loss and mixer. The optimizer is checked in `train.optim`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dali_mix.engine.config.objects import check_call, check_object, class_name
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.train.objectives import FunctionLoss, loss_name
from dali_mix.mixers import Mixer

_TO_TRAIN = ("epoch", "global_size", "global_batch_size", "state_dict", "load_state_dict")


def check_loader(name: str, loader: Any, train: bool) -> None:
    """Raise ValueError if a user's loader cannot be used in a run.

    Args:
        name: the argument that passed it, "train_loader" or "val_loader".
        loader: must have the methods and attributes that a run needs, including `dataset.metainfo["classes"]`. A
            dataset is not a loader. If the loader has an attribute `train`, it must equal the argument `train`.
        train: True for training, which needs the attributes `_TO_TRAIN` as well.
    """
    if hasattr(loader, "__getitem__") and not hasattr(loader, "dataset"):
        which, prefix = name.replace("loader", "set"), getattr(loader, "prefix", None)
        how = "pack it: dali_mix.Writer.from_dataset(dataset, PREFIX), then pass"
        raise ValueError(
            f"{which} is a {class_name(loader)}, not the prefix of a packed set: {how if prefix is None else 'pass'}"
            f" {which}={'PREFIX' if prefix is None else repr(str(prefix))}"
        )
    needed = ("__iter__", "__len__", "dataset", *(_TO_TRAIN if train else ()))
    missing = [part for part in needed if not hasattr(loader, part)]
    metainfo = getattr(getattr(loader, "dataset", None), "metainfo", None)
    if not isinstance(metainfo, Mapping) or "classes" not in metainfo:
        missing.append("dataset.metainfo (a dict with the 'classes' by name)")
    if missing:
        raise ValueError(
            f"{name} is a {class_name(loader)} without {', '.join(missing)}: use dali_mix.build_loader"
            " (dali_mix.Writer packs any dataset), or add what is missing"
        )
    if getattr(loader, "train", train) is not train:
        raise ValueError(f"{name} was built with train={loader.train}: build it with train={train}")


def check_share(name: str, loader: Any, config: RunConfig, ranks: Ranks, train: bool) -> None:
    """Raise ValueError if a user's loader was built for a world size or type of device other than the run's.

    For a training loader, also raise ValueError if its batch size times `accumulate` is not the run's batch size.
    """
    if (count := getattr(loader, "world_size", ranks.world_size)) != ranks.world_size:
        raise ValueError(
            f"{name} was built with world_size={count}, this run has {ranks.world_size}: build it with the rank"
            " and world_size of the environment (RANK, WORLD_SIZE)"
        )
    if train and loader.global_batch_size * config.accumulate != config.batch_size:
        raise ValueError(
            f"{name} yields {loader.global_batch_size} records at a time over all ranks, but batch_size="
            f"{config.batch_size} with accumulate={config.accumulate}: change one of them, or omit batch_size"
        )
    if (where := torch.device(getattr(loader, "device", ranks.device))).type != ranks.device.type:
        raise ValueError(
            f"{name} returns batches on {where.type}, the run is on {ranks.device.type}: build it with device="
            f"'{ranks.device.type}', or train with device='{where.type}'"
        )


def user_model(model: Any) -> nn.Module:
    """Return `model`. Raise ValueError if it is not a module, or is already wrapped in DataParallel or DDP."""
    check_object("model", model, nn.Module, "a torch.nn.Module")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(f"model is a {type(model).__name__}: pass the module inside, which the run wraps itself")
    return model


def user_loss(given: Any) -> nn.Module:
    """Return the user's loss as a module.

    Raise ValueError if it is not a function of outputs and targets, or has reduction "none". Also raise ValueError if
    it has trainable parameters, since a run would not train them.
    """
    check_object("loss", given, Callable, "a function of outputs and targets")
    loss = given if isinstance(given, nn.Module) else FunctionLoss(given)
    if any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError(
            f"loss {type(loss).__name__} has parameters, which a run does not train: make them part of the"
            " model, or freeze them (requires_grad_(False))"
        )
    check_call(loss_name(loss), given.forward if isinstance(given, nn.Module) else given, "outputs", "targets")
    if getattr(given, "reduction", None) == "none":
        raise ValueError(f"{loss_name(loss)} has reduction='none': use reduction='mean', one number per batch")
    return loss


def user_mixer(mixer: Any, num_classes: int) -> Mixer:
    """Return `mixer`. Raise ValueError if it is not a `Mixer`, or has an attribute `num_classes` of another value.

    A mixer whose `num_classes` is None fits any set.
    """
    check_object("mixer", mixer, Mixer, "a dali_mix.mixers.Mixer")
    if (count := getattr(mixer, "num_classes", num_classes)) not in (None, num_classes):
        raise ValueError(f"mixer {type(mixer).__name__} is for {count} classes, the set has {num_classes}")
    return mixer
