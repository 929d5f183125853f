"""Execute a run from its config: settings, sets and files are checked before any process group or pipeline starts.

All ranks run the same steps. A rank that fails reports it to the others, which then exit too:

    prepare   each rank checks what it can check alone: device, work directory, sets, recipe, weight files
    join      ranks connect and compare what determines the run: settings, versions, code, sets
    lock      rank 0 locks the work directory; all ranks check that they see this directory, and so its checkpoints
    build     rank 0 selects the newest undamaged checkpoint; all ranks build loaders, model and optimizer
    restore   all ranks load that checkpoint, or start from scratch; then they train

More than 300 lines: the file has these steps, for training and for evaluation, in the order in which they run.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_mix import tasks
from dali_mix._signals import handled
from dali_mix.engine.build import (
    Loader,
    build_loaders,
    build_loss,
    build_model,
    build_parts,
    build_pipeline,
    build_scores,
    build_split,
    check_recipe,
    check_sets,
    open_sets,
    place_model,
    weight_files,
)
from dali_mix.engine.checkpoint.files import CheckpointFolder, check_writable, json_text, load_checkpoint, write_text
from dali_mix.engine.checkpoint.trained import Trained, open_trained
from dali_mix.engine.config.objects import is_object
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.distributed import process_group
from dali_mix.engine.distributed.agreement import file_digest, run_values
from dali_mix.engine.distributed.environment import environment
from dali_mix.engine.distributed.process_group import Ranks, StopSignal
from dali_mix.engine.distributed.rendezvous import spans
from dali_mix.engine.evaluate import evaluate
from dali_mix.engine.logging import Report, visualizer_names
from dali_mix.engine.memory import check_evaluation, check_step, explaining
from dali_mix.engine.provenance import provenance
from dali_mix.engine.scores import Scores
from dali_mix.engine.train.callbacks import user_callbacks
from dali_mix.engine.train.precision import Precision
from dali_mix.engine.train.state import restore
from dali_mix.engine.train.trainer import Trainer
from dali_mix.engine.user_objects import user_model
from dali_mix.malloc import keep_freed_memory
from dali_mix.models.detection import DEFAULT_FREEZE
from dali_mix.models.weights.files import find_weights
from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet

MakeLoaders = Callable[[RunConfig, Ranks], tuple[Loader, Loader | None]]


def train(
    config: RunConfig,
    work_dir: str | Path,
    *,
    resume: str = "no",
    recipe: str | None = None,
    make_loaders: MakeLoaders | None = None,
    callbacks: Any = (),
) -> str:
    """Train the model of `config` and write the results to `work_dir`. Under torchrun, every rank calls this.

    Args:
        config: the run's settings.
        work_dir: folder for config.json, train.log, metrics.jsonl and checkpoints/. Several machines must share it.
        resume: "no" (start a new run); "must" (continue from the newest checkpoint, which must exist); "auto" (continue
            if there is one).
        recipe: the name of the recipe of `config`, recorded in config.json.
        make_loaders: called with `config` and the ranks; returns (training loader, evaluation loader or None), which
            replace the recipe's packed sets.
        callbacks: one callback or a list of callbacks, see `train.callbacks.Callback`.

    Returns:
        "finished", "stopped early", or, if stopped by a signal, "preempted" (SIGTERM) or "interrupted" (Ctrl-C). After
        a signal, a checkpoint is saved first, unless a step that accumulates gradients was interrupted while it waited
        for a worker pool.

    Raises:
        FileExistsError: `work_dir` contains checkpoints and `resume` is "no".
        FileNotFoundError: a set, a weight file or, with "must", the checkpoint to resume from is missing.
        ValueError: config, sets, checkpoint and machine are incompatible; or, as `NonFinite`, a loss, gradient or
            weight is not finite.
        OSError: a file could not be written, another run is writing to `work_dir`, or another rank failed.
    """
    callbacks = user_callbacks(callbacks)
    work_dir = Path(work_dir)
    kind = config.resolved()["model"]["type"]
    report = Report(work_dir, main=environment()[0] == 0, visualizer=visualizer_names(config.visualizer))
    folder = CheckpointFolder(work_dir / "checkpoints", config.checkpoints.keep, report.warn)

    def prepare() -> tuple[torch.device, dict[str, str]]:
        device = process_group.pick_device(config.device)
        config.per_rank(environment()[1])
        check_writable(work_dir)
        _check_work_dir(folder, resume)
        sets = open_sets(config) if make_loaders is None else {}
        if make_loaders is None:
            task, num_classes = check_sets(config, sets)
            check_recipe(config, num_classes, task)
            if isinstance(config.val_set, str):  # the batch size of a user's loader is unknown
                check_evaluation(config, num_classes, environment()[1], device)
        begun = resume != "no" and bool(folder.steps())  # if so, all weights come from the checkpoint
        for part, path in ({} if begun else weight_files(config)).items():
            try:
                find_weights(path)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{'weights' if not part else f'model.{part}.weights'}: {error}") from None
        _tune(device, config)
        report.line(f"building {kind} on {device.type}, and the pipelines of {config.resolved()['train_set']}")
        return device, {"resume": resume, **run_values(config, device, sets)}

    stop = StopSignal()
    with ExitStack() as until_all_left, process_group.joined(prepare) as ranks, _locked(work_dir, ranks):
        # Keep handling signals until all ranks have left, so that no rank exits while another is saving.
        until_all_left.enter_context(handled(stop.note, signal.SIGTERM, signal.SIGINT))
        with explaining(config), closing(report), ExitStack() as opened:
            step = ranks.gather(folder.newest() if ranks.main and resume != "no" else None)[0]
            loaders = (make_loaders or build_loaders)(config, ranks)
            for loader in loaders:
                if loader is not None and loader not in (config.train_set, config.val_set):  # those belong to the user
                    opened.enter_context(closing(loader))
            if make_loaders is None and isinstance(config.train_set, str):
                dataset = loaders[0].dataset
                classes = len(dataset.metainfo["classes"])
                check_step(config, classes, len(dataset), ranks.world_size, ranks.device)
            parts = build_parts(config, ranks, *loaders, pretrained=step is None)
            if is_object(config.optimizer["type"]):  # the optimizer itself, not the function that returned it
                config = dataclasses.replace(config, optimizer={"type": parts.optimizer})
            trainer = Trainer(config, parts, ranks, folder, report, stop, callbacks, recipe)
            _begin(trainer, step, resume, recipe)
            return trainer.fit()


@contextmanager
def _locked(work_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Lock `work_dir` on the main rank for the block, and check that all ranks see the same folder.

    The main rank creates the folder if it is missing, and locks the file `.lock` in it. On a file system without locks,
    it only writes the file.

    Raise BlockingIOError if another run has locked it, and ValueError if the ranks see different folders.
    """
    token = ""
    with ExitStack() as held:
        if ranks.main:
            work_dir.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((work_dir / ".lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(f"{work_dir}: another run is writing here; choose another --work-dir") from None
            except OSError:  # a file system without locks
                pass
            file.truncate(0)
            file.write(token := uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        _check_shared(work_dir, ranks, ranks.exchange("work_dir", token)[0])
        yield


def _check_shared(work_dir: Path, ranks: Ranks, token: str, seconds: float = 15.0) -> None:
    """Raise ValueError on all ranks if any rank does not find rank 0's `token` in the lock file within `seconds`."""
    lock, end = work_dir / ".lock", time.monotonic() + seconds
    while not (seen := lock.is_file() and lock.read_text(encoding="utf-8") == token) and time.monotonic() < end:
        time.sleep(0.2)
    blind = [rank for rank, answer in enumerate(ranks.exchange("sees work_dir", str(seen))) if answer != "True"]
    if blind:
        raise ValueError(
            f"--work-dir {work_dir} is not one folder for all ranks: {spans(blind)} did not find rank 0's file there; "
            f"use a folder that all machines share"
        )


def _check_work_dir(folder: CheckpointFolder, resume: str) -> None:
    if resume == "no" and folder.path.is_dir() and any(folder.path.iterdir()):
        raise FileExistsError(
            f"{folder.path} already contains checkpoints: continue with --resume, or choose another --work-dir"
        )
    if resume == "must" and not folder.steps() and not (folder.path / "latest").exists():
        raise FileNotFoundError(
            f"{folder.path}: nothing to resume from; to start a new run omit --resume, or choose another --work-dir"
        )


def _begin(trainer: Trainer, step: int | None, resume: str, recipe: str | None) -> None:
    """Restore the checkpoint of `step`, if any, open the log, write config.json, and log how the run starts.

    Args:
        trainer: the trainer, which is changed in place.
        step: step of the checkpoint to resume from; None to start a new run.
        resume: "no", "must" or "auto"; with "auto", a new run is noted in the log.
        recipe: the name of the recipe for config.json; None to omit it.

    Raises:
        ValueError: the checkpoint cannot be restored; or, as `NonFinite`, weights are not finite.
    """
    ranks, folder, report = trainer.ranks, trainer.folder, trainer.report
    changes = []
    if step is not None:
        path = folder.file(step)
        state = load_checkpoint(path)
        try:
            changes = restore(trainer, state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            first = (str(error).strip() or "?").splitlines()[0]
            raise ValueError(
                f"{path}: not a checkpoint of a run ({type(error).__name__}: {first}); delete it to "
                f"continue from the checkpoint before it"
            ) from error
    trainer.watch.check_start(report.path for report in trainer.parts.weights)
    report.open(step, logged=not trainer.window.steps)
    made = provenance()
    if ranks.main:
        name = {} if recipe is None else {"recipe": recipe}
        record = {**name, **trainer.config.resolved(), "made_by": made}
        write_text(report.work_dir / "config.json", json_text(record, indent=2) + "\n")
        for change in changes:
            report.warn(f"resumed with a changed recipe: {change}")
    parameters = sum(p.numel() for p in trainer.parts.model.parameters()) / 1e6
    kind = trainer.recipe()["model"]["type"]
    report.line(
        f"{kind}  {parameters:.2f} M parameters  on {ranks.world_size} × {ranks.device.type}  "
        f"amp {trainer.precision.name}  global batch {trainer.config.batch_size}  {trainer.total_steps} steps"
        f"{_fed(trainer)}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    report.line(f"{versions}; commit {made['commit'] or 'none'}; {made['command']}")
    for warning in _unusual_settings(trainer) if ranks.main else ():
        report.warn(warning)
    if trainer.parts.val_loader is None and trainer.config.checkpoint.get("best"):
        report.line(f"no val_set: no evaluation, and no best.pt by {trainer.best.name}")
    for match in trainer.parts.weights:
        report.line(f"weights from {match}")
    if step is not None:
        done = "" if step < trainer.total_steps else ": training is complete"
        report.line(f"resumed from {folder.file(step).name}, epoch {trainer.epoch + 1}, step {step}{done}")
    elif resume == "auto":
        report.line("--resume=auto: no checkpoint yet, starting at step 0")


def _fed(trainer: Trainer) -> str:
    """Return a text for the log with the shape of the model's input: "  batches (64, 3, 32, 32) of pipeline cifar".

    Return "" for a loader without a pipeline.
    """
    pipeline = getattr(trainer.parts.train_loader, "pipeline", None)
    if not isinstance(pipeline, Pipeline):
        return ""
    shape = (trainer.config.per_rank(trainer.ranks.world_size), 3, *(pipeline.image_size or ("height", "width")))
    return f"  batches ({', '.join(map(str, shape))}) of pipeline {pipeline.name}"


def _unusual_settings(trainer: Trainer) -> Iterator[str]:
    """Yield a warning for each setting that works but is probably a mistake."""
    config, parts = trainer.config, trainer.parts
    records = len(parts.train_loader.dataset)
    if config.batch_size > records:
        yield f"batch_size={config.batch_size} is more than the {records} records of the set: each epoch is one step"
    if parts.task.boxes and not _any_object(parts.train_loader.dataset):
        yield f"no image of {trainer.recipe()['train_set']} has an object, so a detector cannot learn from it"
    if config.paramwise and is_object(config.optimizer["type"]):
        yield f"paramwise={config.paramwise} has no effect: the optimizer was passed with its own groups"
    yield from _other_pipeline(trainer)
    frozen = config.model.get("freeze", DEFAULT_FREEZE) if config.model["type"] == "detector" else ""
    if frozen and not weight_files(config):
        frozen = frozen if isinstance(frozen, str) else ",".join(frozen)
        yield (
            f"model.freeze={frozen!r} freezes parts of a backbone that has random weights: set its file as"
            " model.backbone.weights, or train the full backbone with model.freeze=''"
        )
    if 0 < config.epochs <= config.schedule.get("warmup_epochs", 0):
        yield (
            f"warmup_epochs ({config.schedule['warmup_epochs']:g}) is not shorter than the run ({config.epochs}"
            f" epoch{'s' * (config.epochs != 1)}): the learning rate never reaches its full value; set"
            " schedule.warmup_epochs=0 or train longer"
        )
    if config.amp == "fp16" and trainer.ranks.device.type == "cpu":
        yield "amp='fp16' on a CPU is very slow: use amp='auto'"
    yield from (f"{match.path}: {match.warning}" for match in parts.weights if match.warning)
    val_set = None if parts.val_loader is None else parts.val_loader.dataset.metainfo.get("fingerprint")
    if val_set is not None and val_set == parts.train_loader.dataset.metainfo.get("fingerprint"):
        yield "val_set has the records of train_set, so its scores do not measure generalization"


def _other_pipeline(trainer: Trainer) -> Iterator[str]:
    """Yield a warning if the pipeline of a user's training loader differs from the recipe's in name, size, mean or std.

    The recipe's pipeline is still used by mixers, in prediction, and in the evaluation of the recipe's `val_set`.
    """
    given = getattr(trainer.parts.train_loader, "pipeline", None)
    if not is_object(trainer.config.train_set) or not isinstance(given, Pipeline):
        return
    own, others = (
        f"{one.name} ({' × '.join(map(str, one.image_size or ('any',)))} pixels,"
        f" mean {', '.join(f'{value:g}' for value in one.mean)}, std {', '.join(f'{value:g}' for value in one.std)})"
        for one in (given, build_pipeline(trainer.config, True))
    )
    if own != others:
        yield (
            f"train_loader has pipeline {own}; the recipe's is {others}, which evaluation, mixers and Predictor use:"
            " pass pipeline=… of the same values"
        )


def _any_object(records: Any) -> bool:
    """Return True if any record has a box, or if `records` is not a `RecordSet` and therefore not inspected."""
    if not isinstance(records, RecordSet):
        return True
    rows = np.arange(len(records))
    return any(len(label) for start in range(0, len(rows), 256) for label in records.labels(rows[start : start + 256]))


def _tune(device: torch.device, config: RunConfig) -> None:
    if device.type == "cuda":  # benchmark convolutions if shapes are fixed; TF32 matrix products if autocast is off
        torch.backends.cudnn.benchmark = config.objective["type"] != "Detection"
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation, identical on every rank except for `main`.

    Attributes:
        values: the scores in percent by name, and "loss" except for detectors.
        scores: the `Scores` object, for per-class scores.
        classes: class names.
        main: True on rank 0, which writes files.
        notes: remarks on the weight file (see `MatchReport.notes`), on classes without positive examples, and on
            skipped records.
        skipped: number of skipped records, over all ranks.
        val_set: prefix of the packed set that was evaluated; None if the loader's dataset has no `prefix`.
    """

    values: dict[str, float]
    scores: Scores
    classes: tuple[str, ...]
    main: bool
    notes: tuple[str, ...] = ()
    skipped: int = 0
    val_set: Path | None = None


def evaluate_checkpoint(
    config: RunConfig,
    checkpoint: str | Path,
    *,
    ema: bool = False,
    make_loaders: MakeLoaders | None = None,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> Evaluation:
    """Evaluate a checkpoint of a run, or a weight file, on the recipe's `val_set`.

    Args:
        config: the run's settings.
        checkpoint: a checkpoint of a run, its pointer `latest`, or a file that `dali_mix.models.load_weights` reads.
        ema: use the averaged weights of a checkpoint.
        make_loaders: as for `train`.
        each: called after each batch as each(done, total), with this rank's numbers of batches.

    Raises:
        FileNotFoundError, ValueError, OSError: as `train`; ValueError also for a checkpoint whose task or classes
            differ from the `val_set`'s, or that has no averaged weights although `ema` is set.
    """
    trained: Trained
    if is_object(model := config.model["type"]):
        user_model(model)

    def prepare() -> tuple[torch.device, dict[str, str]]:
        nonlocal trained
        trained = open_trained(checkpoint, ema=ema)
        device = process_group.pick_device(config.device)
        sets = open_sets(config, train=False) if make_loaders is None else {}
        if make_loaders is None:
            num_classes = check_sets(config, sets)[1]
            if isinstance(config.val_set, str):
                check_evaluation(config, num_classes, environment()[1], device)
        _tune(device, config)
        values = {"the checkpoint": file_digest(trained.path), "ema": str(ema)}
        return device, {**values, **run_values(config, device, sets)}

    with process_group.joined(prepare) as ranks, explaining(config):
        device = ranks.device
        loader = build_split(config, ranks, train=False) if make_loaders is None else make_loaders(config, ranks)[1]
        if loader is None:
            raise ValueError("the recipe has no val_set to evaluate on")
        with nullcontext() if loader is config.val_set else closing(loader):  # a user's loader is not closed
            metainfo = loader.dataset.metainfo
            classes, task = tuple(map(str, metainfo["classes"])), tasks.get(metainfo.get("task", "classification"))
            trained.check_set(task.name, classes, f"val_set {config.resolved()['val_set']}")
            model = build_model(config, len(classes))
            notes = trained.load_into(model, given=is_object(config.model["type"]))
            if ranks.main:
                trained.warn_of_values(config)
            scores = build_scores(config, task, len(classes), device)
            batches = len(loader)
            values = evaluate(
                place_model(model, config, ranks),
                loader,
                None if (loss := build_loss(config)) is None else loss.to(device),
                ranks,
                scores=scores,
                autocast=Precision(config.amp, device).autocast,
                each=lambda done: each(done, batches),
            )
            notes += scores.notes(classes)
            found = ranks.gather([reason for _, reason in getattr(loader, "skipped", ())])
            skipped = [f"skipped: {reason}" for reasons in found for reason in reasons]
            val_set = getattr(loader.dataset, "prefix", None)
            return Evaluation(values, scores, classes, ranks.main, (*notes, *skipped), len(skipped), val_set)
