"""Simulate a training step or an evaluation batch on the meta device, which computes only shapes, before the run.

The simulation detects a batch that does not fit into a machine's memory, for which Linux would kill the process. It
also detects a step with a single record, which BatchNorm cannot normalize. A model that does not run on the meta device
is not checked.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.engine.build import build_mixer, build_model, build_pipeline
from dali_mix.engine.config.objects import is_object
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.train.objectives import OBJECTIVES
from dali_mix.engine.train.optim import kept_by
from dali_mix.loading.cached import available_memory
from dali_mix.loading.order import plan

_SINGLE = "more than 1 value per channel"  # part of torch's message if BatchNorm gets one value
_SMALL = {"step", "mu_product", "eta", "mu", "row_var", "col_var"}  # optimizer state that is smaller than the weights


def check_step(config: RunConfig, num_classes: int, records: int, world_size: int, device: torch.device) -> None:
    """Raise ValueError if a training step of the recipe would fail for one of two reasons.

    - A process gets a single record in a step, and the model cannot train on one record.
    - On a CPU and without `compile`, the processes of a machine need more memory for a step than is free.

    Args:
        records: number of records in the training set.
    """
    micro = config.per_rank(world_size)
    steps = plan(records, micro, world_size, train=True, drop_last=config.loading.drop_last)
    sizes = [*([steps.step_size] if steps.steps else []), *steps.tail]
    views = getattr(build_mixer(config, num_classes), "views", 1)
    if sizes and min(sizes) // world_size * views == 1 and _refuses_one(config, num_classes):
        where = "every step" if micro == 1 else f"the last step of an epoch ({records} records)"
        then = "choose a larger batch_size" if micro == 1 else "set loader.drop_last=True, or choose another batch_size"
        raise ValueError(
            f"batch_size={config.batch_size} ({world_size} processes × accumulate {config.accumulate}) gives a process "
            f"one record in {where}, and the model's BatchNorm cannot train on one record: {then}"
        )
    if device.type == "cpu" and not config.compile:  # compiled code keeps fewer activations
        _check_memory(config, num_classes, min(micro, records) * views, config.accumulate)


def check_evaluation(config: RunConfig, num_classes: int, world_size: int, device: torch.device) -> None:
    """Raise ValueError if, on a CPU, an evaluation batch needs more than the free memory."""
    if device.type == "cpu":
        batch = max(1, (config.val_batch_size or config.batch_size) // world_size)
        _check_memory(config, num_classes, batch, 0)


def _on_meta(config: RunConfig, num_classes: int, count: int, train: bool) -> tuple[nn.Module, Tensor]:
    """Return the recipe's model and `count` images, (count,3,H,W) zeros, on the meta device.

    The size is that of the pipeline's output. The model is in training mode if `train`, else in evaluation mode. A
    user's model is copied. An error of a model that does not run on the meta device is not caught.
    """
    height, width = build_pipeline(config, train).fixed_size
    if is_object(config.model["type"]):
        model = copy.deepcopy(build_model(config, num_classes)).to("meta")
    else:
        with torch.device("meta"):
            model = build_model(config, num_classes)
    return model.train(train), torch.zeros(count, 3, height, width, device="meta")


def _refuses_one(config: RunConfig, num_classes: int) -> bool:
    try:
        model, images = _on_meta(config, num_classes, 1, True)
        model(images)
    except Exception as error:  # raised by BatchNorm, or because the model does not run on the meta device
        return _SINGLE in str(error)
    return False


def held_by_step(model: nn.Module, images: Tensor) -> int:
    """Run `model` on `images`, and return the bytes that autograd keeps for the backward pass, excluding weights."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    held: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            held[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
    del output
    return sum(storage.nbytes() for storage in held.values())


def held_by_evaluation(model: nn.Module, images: Tensor) -> int:
    """Run `model` on `images` without gradients, and return the bytes of the largest inputs and output of one layer.

    A layer is a module without submodules. Its inputs and its output count together.
    """
    most = 0

    def measure(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal most
        tensors = [part for part in (*inputs, output) if isinstance(part, Tensor)]
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
        most = max(most, sum(storages.values()))

    hooks = [module.register_forward_hook(measure) for module in model.modules() if not any(module.children())]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return most


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that are available without swapping and within the cgroup's limit.

    Return None if the system reports neither the available memory nor a limit.
    """
    free = available_memory()
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((cgroup / name).read_text()) for name in (limit, used))
            statistics = dict(
                line.split() for line in (cgroup / limit).with_name("memory.stat").read_text().splitlines()
            )
        except (OSError, ValueError):  # no such file, or "max"
            continue
        left = most - now + int(statistics.get(cache, 0))
        free = left if free is None else min(free, left)
    return free


def _check_memory(config: RunConfig, num_classes: int, count: int, accumulate: int) -> None:
    """Raise ValueError if the processes of this machine need more than the free memory for a step or evaluation batch.

    Nothing is raised if the model does not run on the meta device, or if the free memory is unknown.

    Args:
        config: the run's settings.
        num_classes: number of classes of the sets.
        count: number of images in each process's micro-batch or evaluation batch.
        accumulate: number of micro-batches per step; 0 for an evaluation.
    """
    free, train = free_memory(), accumulate > 0
    try:
        model, images = _on_meta(config, num_classes, count, train)
        if train:
            activations = held_by_step(model, images) * OBJECTIVES[config.objective["type"]].passes
        else:
            activations = held_by_evaluation(model, images)
    except Exception:  # the model does not run on the meta device, so it is not measured
        return
    if config.amp in ("bf16", "fp16"):
        activations //= 2
    weights = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
    copies = 1
    if train:  # gradients, the optimizer's moments, the average
        given = is_object(config.optimizer["type"])
        moments = 0 if given else len(kept_by(config.optimizer, torch.device("cpu"))[True] - _SMALL)
        copies += 1 + moments + (config.ema is not None)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fixed = copies * weights * processes
    needed = fixed + activations * processes
    if free is None or needed <= free:
        return
    parts = -(-activations * processes // max(free - fixed, 1))
    fitting = next((n for n in range(parts, count + 1) if count % n == 0 and fixed < free), None)
    what = f"batch_size={config.batch_size}" if train or not config.val_batch_size else "val_batch_size"
    advice = "Choose a smaller one" if fixed < free else "The weights alone do not fit: choose a smaller model"
    if train and fitting:
        advice += f", or accumulate={accumulate * fitting} or more"
    raise ValueError(
        f"{what}: {'a step' if train else 'an evaluation batch'} of {count} records of {images.shape[2]}×"
        f"{images.shape[3]} pixels needs at least {needed / 1e9:.1f} GB ({activations * processes / 1e9:.1f} GB "
        f"between layers, {fixed / 1e9:.1f} GB weights), but only {free / 1e9:.1f} GB of memory are free. {advice}"
    )


@contextmanager
def explaining(config: RunConfig) -> Iterator[None]:
    """Raise certain errors in the block again as a ValueError that says which recipe setting avoids them.

    These are the RuntimeErrors and ValueErrors that `_explanation` recognizes. All other errors are unchanged.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not (explanation := _explanation(error, config)):
            raise
        raise ValueError(explanation) from error


def _explanation(error: Exception, config: RunConfig) -> str:
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return (
            f"the memory of the device is not enough for batch_size={config.batch_size} with accumulate="
            f"{config.accumulate}: {text.splitlines()[0]}. Choose a smaller batch_size (or val_batch_size), or "
            "a larger accumulate, which keeps the batch and computes it in smaller parts"
        )
    if _SINGLE in text:
        return (
            "a step gave a process one record, and the model's BatchNorm cannot train on one record: set "
            "loader.drop_last=True, or choose another batch_size"
        )
    if "without overflow" in text:
        return (
            f"a value of the optimizer's step (learning rate, decay, momentum) is too large for its weights: {text}. "
            "Choose a smaller optimizer.lr, a smaller schedule.gamma or min_lr, or smaller multipliers in paramwise"
        )
    if "finished reduction in the prior iteration" in text:
        return (
            "a parameter had no gradient in a step, and the other processes wait for it: freeze unused parameters "
            "(requires_grad_(False) in the model), or set find_unused_parameters=True"
        )
    return ""
