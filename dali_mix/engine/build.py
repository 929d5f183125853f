"""Build the objects of a run from a checked `RunConfig`.

More than 300 lines: one function per object, and checks of sets, model, mixer and loss against each other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from dali_mix import _factories, losses, mixers, models, pipelines, tasks
from dali_mix._text import differ_in_form
from dali_mix.engine.compatibility import check_targets
from dali_mix.engine.config.groups import ServiceOptions
from dali_mix.engine.config.objects import check_present, class_name, is_object
from dali_mix.engine.config.schema import DEFAULT_LOSS, RunConfig, call_with, check_kinds
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.scores import SCORES, Scores
from dali_mix.engine.train.objectives import OBJECTIVES, Objective
from dali_mix.engine.train.optim import build_optimizer
from dali_mix.engine.train.seeding import INIT, derive_seed
from dali_mix.engine.user_objects import check_loader, check_share, user_loss, user_mixer, user_model
from dali_mix.loading import Batch, build_loader
from dali_mix.loading.loader import Dataset
from dali_mix.options import check_keys, choice, did_you_mean
from dali_mix.recordio import RecordSet
from dali_mix.tasks import CLASSIFICATION, Task, trainable


class Loader(Protocol):
    """The loader interface that the engine needs. Loaders from `dali_mix.build_loader` implement it.

    Batches must not share memory, since in-place mixers modify them.

    Attributes:
        epoch: number of the current epoch, from 0; increased when the last batch of an epoch is yielded.
        global_size: planned number of records in the last batch yielded, summed over ranks.
        global_batch_size: number of records in a full batch, summed over ranks.
        dataset: has `len()` and a dict `metainfo` with the "classes" and, optionally, "task" and "fingerprint".
    """

    @property
    def epoch(self) -> int: ...
    @property
    def global_size(self) -> int: ...
    @property
    def global_batch_size(self) -> int: ...
    @property
    def dataset(self) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None: ...
    def close(self) -> None: ...


@dataclass
class Parts:
    """The objects of a run on this rank, and the task and class names of its training set."""

    model: nn.Module
    loss: nn.Module | None
    objective: Objective  # contains model and loss
    optimizer: torch.optim.Optimizer
    mixer: mixers.Mixer | None
    train_loader: Loader
    val_loader: Loader | None
    weights: tuple[models.MatchReport, ...] = ()  # one report for each weight file of the recipe
    task: Task = CLASSIFICATION
    classes: tuple[str, ...] = ()

    def group_names(self) -> list[list[str]]:
        """Return the parameter names of each optimizer group, in the order of the optimizer's state."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizer.param_groups]

    def trained_on(self) -> dict[str, Any]:
        """Return the training set's {"task": name, "classes": list of names}, stored in checkpoints for prediction."""
        return {"task": self.task.name, "classes": list(self.classes)}


def open_sets(config: RunConfig, *, train: bool = True) -> dict[str, Dataset]:
    """Open the sets of a recipe, with cheap checks only, and return them by name.

    The keys are "train_set" and "val_set", the latter only if the recipe has one.

    Args:
        config: the run's settings.
        train: also open the training set; evaluation needs only the `val_set`.

    Raises:
        FileNotFoundError: a set does not exist.
        ValueError: a set is damaged, or a user's loader lacks attributes that a run needs.
    """
    sets = {"train_set": open_set(config, train=True)} if train else {}
    return sets if config.val_set is None else {**sets, "val_set": open_set(config, train=False)}


def check_sets(config: RunConfig, sets: Mapping[str, Dataset]) -> tuple[Task, int]:
    """Return the task and the number of classes of `sets`, a result of `open_sets`.

    Raise ValueError if there are no sets, if a set is empty or has a task that cannot be trained, if the sets differ in
    task or classes, or if the recipe's `num_classes` differs from theirs.
    """
    found = {}
    for name, dataset in sets.items():
        found[name] = dict(dataset.metainfo)
        where = f"{name} {getattr(dataset, 'prefix', class_name(dataset))}"
        task = found[name].setdefault("task", CLASSIFICATION.name)
        if task not in trainable():
            raise ValueError(f"{where}: is a set for {task}; the trainer supports {' and '.join(trainable())}")
        if not len(dataset):
            raise ValueError(f"{where}: has no records")
    if not found:
        raise ValueError("this recipe has no val_set: set one with --cfg-options val_set=PREFIX")
    classes, names = ([metainfo[key] for metainfo in found.values()] for key in ("classes", "task"))
    if len(set(names)) > 1:
        raise ValueError(
            f"{config.train_set} and {config.val_set} have different tasks, {' and '.join(names)}: choose two sets of"
            " one task, or pack the images again (`dali-mix pack --task`)"
        )
    if tuple(classes[0]) != tuple(classes[-1]):
        raise ValueError(
            f"{config.train_set} and {config.val_set} have {_class_difference(*classes)}: pack both with the same"
            " file of names, one per line (`dali-mix pack --classes`)"
        )
    return tasks.get(names[0]), class_count(config, classes[0])


def open_set(config: RunConfig, *, train: bool) -> Dataset:
    """Return the recipe's `train_set` or, if `train` is False, its `val_set`, which must not be None.

    It is opened by the worker pool if the recipe sets `service`. For a user's loader, return the loader's dataset.

    Raise FileNotFoundError or ValueError if the set cannot be opened.
    """
    prefix = config.train_set if train else config.val_set
    assert prefix is not None
    name = "train_loader" if train else "val_loader"
    check_present(name, prefix)
    if is_object(prefix):
        check_loader(name, prefix, train)
        return prefix.dataset
    if config.pool is None:
        return RecordSet(prefix)
    name, options = config.pipeline_options(train)
    return build_loader(
        name,
        prefix,
        batch_size=1,
        train=train,
        device="cpu",
        rank=0,
        world_size=1,
        pipeline_options=options,
        workers=_connected(config.pool),
    ).dataset


def _connected(options: ServiceOptions) -> Any:
    from dali_mix import service  # imports Ray, an optional dependency, only if a run needs it

    return service.connect(options.address, fallback=options.fallback)


def _class_difference(ours: tuple[str, ...], others: tuple[str, ...]) -> str:
    if sorted(ours) == sorted(others):
        number = next(number for number, (a, b) in enumerate(zip(ours, others, strict=True)) if a != b)
        return f"the same classes in another order (class {number} is {ours[number]!r} and {others[number]!r})"
    only = [name for name in ours if name not in others] or [name for name in others if name not in ours]
    form = next((note for name in others if (note := differ_in_form(only[0], name))), "")
    return f"different classes ({len(ours)} and {len(others)}; {only[0]!r} is in one only{form})"


def class_count(config: RunConfig, classes: tuple[str, ...] | list[str]) -> int:
    """Return the number of `classes`. Raise ValueError if the recipe sets `num_classes` to another number."""
    if config.num_classes not in (None, len(classes)):
        raise ValueError(
            f"num_classes={config.num_classes}, but {config.train_set} has {len(classes)} classes: "
            f"change one of them, or omit num_classes"
        )
    return len(classes)


def check_recipe(config: RunConfig, num_classes: int, task: Task = CLASSIFICATION) -> None:
    """Build the pipelines, mixer, loss, scores, model, objective and optimizer of a run to find mistakes early.

    The model and the optimizer are built on the meta device, and all objects are discarded. A user's optimizer is not
    checked, since the function that returns it is called only once, for the run.

    Args:
        config: the run's settings.
        num_classes: number of classes of the sets.
        task: task of the training set.

    Raises:
        ValueError: an unknown name or option, a rule of `paramwise` that matches no parameter, a `checkpoint.best` that
            is not measured, or a mixer, loss or objective that does not fit the targets or the model.
    """
    for train in (True, False):
        build_pipeline(config, train)
    mixer, loss = build_mixer(config, num_classes), build_loss(config)
    # Check this first: a recipe for another task would cause other errors too.
    check_targets(task, mixer, loss, evaluates=config.val_set is not None)
    if config.mixer_until is not None and config.objective["type"] == "SpliceMixConsistency":
        raise ValueError("mixer_until: objective SpliceMixConsistency needs cells in every batch; omit it")
    best = config.best_score(task)
    measured = build_scores(config, task, num_classes, torch.device("cpu")).names or task.measured
    if best and best.removeprefix("ema_") not in measured:
        raise ValueError(
            f"checkpoint.best={best!r} is not measured with metrics={config.metrics}: choose one of"
            f" {', '.join(measured)}"
        )
    with torch.device("meta"):
        model = build_model(config, num_classes)
    build_objective(config, model, loss, mixer)
    if not is_object(config.optimizer["type"]):  # a user's function is called only once, for the run
        build_optimizer(model, config.optimizer, config.paramwise, torch.device("meta"))


def build_scores(config: RunConfig, task: Task, num_classes: int, device: torch.device) -> Scores:
    """Return the `Scores` for an evaluation on a set of `task`, built with the options in the recipe's `metrics`.

    Raise ValueError for an unknown or invalid option.
    """
    what = f"metrics of a set for {task.name}"
    return call_with(functools.partial(SCORES[task.metrics], num_classes, device), what, config.metrics)


def build_pipeline(config: RunConfig, train: bool) -> pipelines.Pipeline:
    """Return the recipe's pipeline for training or evaluation, without a loader."""
    name, options = config.pipeline_options(train)
    return pipelines.build(name, train, options)


def build_loaders(config: RunConfig, ranks: Ranks) -> tuple[Loader, Loader | None]:
    """Return (training loader, evaluation loader). The second is None if the recipe names no `val_set`.

    A user's loader is returned unchanged. Raise the errors of `build_split`.
    """
    train_loader = build_split(config, ranks, train=True)
    return train_loader, build_split(config, ranks, train=False) if config.val_set is not None else None


def build_split(config: RunConfig, ranks: Ranks, *, train: bool) -> Loader:
    """Return the loader of the recipe's `train_set` or, if `train` is False, of its `val_set`.

    An evaluation loader never drops an incomplete last batch.

    A user's loader is returned unchanged. Raise ValueError if it does not fit the run (see `check_share`).
    """
    given: Any = config.train_set if train else config.val_set
    if is_object(given):
        check_share("train_loader" if train else "val_loader", given, config, ranks, train)
        return given
    name, options = config.pipeline_options(train)
    settings, prefix, batch_size = dict(config.loader), config.train_set, config.batch_size // config.accumulate
    if not train:
        assert config.val_set is not None
        prefix, batch_size = config.val_set, config.val_batch_size or config.batch_size
        settings.update(drop_last=False)
    return build_loader(
        name,
        prefix,
        batch_size=max(1, batch_size // ranks.world_size),
        train=train,
        seed=config.seed,
        device=ranks.device.type,
        rank=ranks.rank,
        world_size=ranks.world_size,
        pipeline_options=options,
        workers=None if config.pool is None else _connected(config.pool),
        **settings,
    )


def build_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Seed torch's default generators, and return the recipe's model on the CPU. A user's module is returned unchanged.

    Initial weights are the same on every rank, since the seed is derived from the recipe's `seed` alone. Raise
    ValueError for an unknown name or option, and for a user's object that is not a module.
    """
    torch.manual_seed(derive_seed(INIT, config.seed))
    options = dict(config.model)
    model = options.pop("type")
    check_present("model", model)
    if is_object(model):
        check_keys("model", options, ())
        return user_model(model)
    if ":" in model:
        return call_with(_factories.resolve(model, "model"), f"model {model}", {"num_classes": num_classes, **options})
    if model == "multilabel":
        options = {"image_size": build_pipeline(config, True).image_size, **_parts(options, "backbone", "head")}
        return call_with(models.build_multilabel, "model multilabel", {"num_classes": num_classes, **options})
    if model == "detector":
        options = {"num_classes": num_classes, **_parts(options, "backbone")}
        return call_with(models.build_detector, "model detector", options)
    return models.build_model(model, num_classes, **options)


def _parts(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a recipe's model options as keywords for `models.build_multilabel` or `models.build_detector`.

    Each part in `names`, a backbone or head, is a name or a dict with a "type" and options. Two keywords replace it:
    PART for the type, and PART_options for a dict of the options. The backbone's `weights` are omitted, since
    `load_files` loads them. Raise ValueError for a part without a type, or if `options` already contain PART_options.
    """
    found = {name: value for name, value in options.items() if name not in names}
    for part in names:
        if f"{part}_options" in options:
            raise ValueError(f"model.{part}_options: put options into model.{part}, a dict with a 'type'")
        given = options.get(part)
        inner = {"type": given} if isinstance(given, str) else dict(given) if isinstance(given, dict) else {}
        if not isinstance(inner.get("type"), str):
            raise ValueError(f"model.{part} must be a name, or a dict with a 'type', not {given!r}")
        found |= {part: inner.pop("type"), f"{part}_options": inner}
    found["backbone_options"].pop("weights", None)
    return found


def weight_files(config: RunConfig) -> dict[str, str]:
    """Return a dict from parts of the model to the weight files that a recipe names for them.

    The parts are "" (the full model) and "backbone". Parts without a file are omitted.
    """
    backbone = config.model.get("backbone")
    inner = backbone.get("weights") if isinstance(backbone, dict) else None
    return {part: path for part, path in (("", config.weights), ("backbone", inner)) if path}


def build_objective(
    config: RunConfig, model: nn.Module, loss: nn.Module | None, mixer: mixers.Mixer | None
) -> Objective:
    """Return the recipe's objective, built with `model` and `loss`.

    Raise ValueError for an unknown name or option, or if the objective is incompatible with `model`, `loss` or `mixer`.
    """
    options = dict(config.objective)
    kind = choice("objective.type", options.pop("type"), OBJECTIVES)
    if kind == "MaskedSupervision":
        pipeline = build_pipeline(config, True)
        black = [-mean / std for mean, std in zip(pipeline.mean, pipeline.std, strict=True)]
        options.setdefault("fill", black)
    objective = call_with(OBJECTIVES[kind], f"objective {kind}", {"model": model, "loss": loss, **options})
    objective.check(mixer)
    return objective


def build_loss(config: RunConfig) -> nn.Module | None:
    """Return the recipe's loss: (logits, targets) → mean or sum over the batch.

    Return None for objective Detection, for which the model computes its own losses. Raise ValueError for a loss that
    is unknown or cannot be built.
    """
    if config.objective["type"] == "Detection":
        if config.loss != DEFAULT_LOSS:
            raise ValueError(f"loss={config.loss!r}: objective Detection sums the losses of the model; omit loss")
        return None
    options = dict(config.loss)
    kind = options.pop("type")
    check_present("loss", kind)
    if is_object(kind):
        return user_loss(kind)
    # Losses with more arguments than logits and targets are used only by objectives.
    known = {n: c for n in losses.__all__ if len(inspect.signature((c := getattr(losses, n)).forward).parameters) == 3}
    if ":" not in kind and kind not in known:
        raise ValueError(
            f"loss type {kind!r} is unknown{did_you_mean(kind, known)}; choose from {', '.join(known)}, "
            "or module:name, such as torch.nn:BCEWithLogitsLoss"
        )
    if kind in known:
        check_kinds(inspect.signature(known[kind]).parameters, f"loss {kind}", options)
    return call_with(known.get(kind) or _factories.resolve(kind, "loss"), f"loss {kind}", options)


def build_mixer(config: RunConfig, num_classes: int) -> mixers.Mixer | None:
    """Return the recipe's mixer, or None if it has none.

    The mixer is built with the number of classes and the pipeline's mean and std. A user's mixer is returned unchanged.
    Raise ValueError if the mixer cannot be built.
    """
    if config.mixer is None:
        return None
    options = dict(config.mixer)
    kind = options.pop("type")
    check_present("mixer", kind)
    if is_object(kind):
        return user_mixer(kind, num_classes)
    mixers.check_named(kind, options)
    pipeline = build_pipeline(config, True)
    data = {"num_classes": num_classes, "mean": pipeline.mean, "std": pipeline.std}
    return call_with(mixers.build, f"mixer {kind}", {"name": kind, **data, **options})


def place_model(model: nn.Module, config: RunConfig, ranks: Ranks) -> nn.Module:
    """Move `model` to the rank's device, apply the recipe's `sync_bn`, `channels_last` and `compile`, and return it.

    `channels_last` is applied on a GPU only, and `sync_bn` only with several ranks.

    Raises:
        ValueError: sync_bn with several ranks on a CPU, which torch does not support.
    """
    if config.sync_bn and ranks.world_size > 1:
        if ranks.device.type != "cuda":
            raise ValueError("sync_bn=True needs GPUs: torch has no SyncBatchNorm on a CPU")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(ranks.device)
    if config.channels_last and ranks.device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return model


def build_parts(
    config: RunConfig, ranks: Ranks, train_loader: Loader, val_loader: Loader | None, *, pretrained: bool = True
) -> Parts:
    """Build the model, loss, optimizer and mixer of a run. Raise ValueError if one of them cannot be built.

    Args:
        config: the run's settings.
        ranks: the ranks of the run.
        train_loader, val_loader: the loaders to use in the run.
        pretrained: load the recipe's weight files; False if a checkpoint will be loaded into the model.
    """
    metainfo = train_loader.dataset.metainfo
    num_classes = class_count(config, metainfo["classes"])
    model = build_model(config, num_classes)
    weights = load_files(model, config) if pretrained else ()
    model = place_model(model, config, ranks)
    mixer, loss = build_mixer(config, num_classes), build_loss(config)
    if loss is not None:
        loss = loss.to(ranks.device)
    return Parts(
        model=model,
        loss=loss,
        objective=build_objective(config, model, loss, mixer).to(ranks.device),
        optimizer=build_optimizer(model, config.optimizer, config.paramwise, ranks.device),
        mixer=mixer,
        train_loader=train_loader,
        val_loader=val_loader,
        weights=weights,
        task=tasks.get(metainfo.get("task", "classification")),
        classes=tuple(map(str, metainfo["classes"])),
    )


def load_files(model: nn.Module, config: RunConfig) -> tuple[models.MatchReport, ...]:
    """Load the weight files named in the recipe into `model`, and return their reports.

    A file for the full model must contain all tensors of the model, except those of a head for a different number of
    classes. A file for the backbone must contain at least 95% of the backbone's tensors. Raise the errors
    of `load_weights`.
    """
    found = []
    for part, path in weight_files(config).items():
        name = "backbone.body" if part and isinstance(model, models.Detector) else part
        try:
            found.append(models.load_weights(model.get_submodule(name), path, min_match=0.95 if part else 1.0))
        except ValueError as error:
            if part or "backbone" not in config.model:
                raise
            advice = "If the file contains only a backbone, set it as model.backbone.weights"
            raise ValueError(f"{error}. {advice}") from error
    return tuple(found)
