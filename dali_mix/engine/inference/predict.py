"""Predict the classes or boxes of image files with a trained model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dali_mix._keywords import keywords
from dali_mix.datasets.base import read_names
from dali_mix.engine.build import build_loss, build_model, place_model
from dali_mix.engine.checkpoint.trained import open_trained
from dali_mix.engine.compatibility import accepted
from dali_mix.engine.config.recipe_files import change
from dali_mix.engine.config.saved import load_evaluated
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.distributed import process_group
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.inference.image_files import Seen, Unreadable, find_images, load_images
from dali_mix.engine.train.objectives import logits_of
from dali_mix.engine.train.precision import Precision
from dali_mix.engine.user_objects import user_model
from dali_mix.options import as_path, number
from dali_mix.recordio import RecordSet
from dali_mix.recordio.manifest import set_prefix
from dali_mix.tasks import CLASSIFICATION, DETECTION, Task, trainable


@dataclass(frozen=True)
class Predictions:
    """Predictions for image files.

    Attributes:
        paths: N files.
        scores: (N,K) float32 on the CPU, probabilities.
        classes: K class names.
        task: the task of the model.
        unreadable: files that were skipped, including those with NaN outputs.
    """

    paths: list[Path]
    scores: Tensor
    classes: tuple[str, ...]
    task: Task
    unreadable: list[Unreadable]

    def chosen(self, row: int, threshold: float | None = None, top_k: int | None = None) -> list[tuple[str, float]]:
        """Return (class, score) pairs of file `row`, an index into `paths`, the highest score first.

        These are the `top_k` highest scores above `threshold`. If one of them is None, it sets no limit. If both are
        None, the threshold is 0.5 for a multi-label model, and `top_k` is 5 for a classification model.

        Raise ValueError for a threshold outside 0 … 1, or a `top_k` below 1.
        """
        return choose(self.scores[row], self.classes, self.task, threshold, top_k)


def choose(
    scores: Tensor, classes: Sequence[str], task: Task, threshold: float | None = None, top_k: int | None = None
) -> list[tuple[str, float]]:
    """Return the (class, score) pairs of one file, selected and sorted as by `Predictions.chosen`.

    Args:
        scores: (K,) probabilities.
        classes: K class names.
        task: the task of the model, which has the defaults if `threshold` and `top_k` are both None.
        threshold, top_k: as for `Predictions.chosen`, which raises the same errors.
    """
    if threshold is None and top_k is None:
        threshold, top_k = task.threshold, task.top_k
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: scores are probabilities, from 0 to 1")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: must be at least 1")
    values, order = scores.sort(descending=True, stable=True)
    ranked = list(zip((classes[index] for index in order.tolist()), values.tolist(), strict=True))
    return [pair for pair in ranked[:top_k] if threshold is None or pair[1] > threshold]


@dataclass(frozen=True)
class Detections:
    """Detections in image files. All tensors are on the CPU.

    Attributes:
        paths: N files.
        boxes: for each file (n,4) float32, x1, y1, x2, y2 in pixels of the file after EXIF rotation.
        scores: for each file (n,) float32, in descending order.
        labels: for each file (n,) int64, indices into `classes`.
        classes: K class names.
        unreadable: as in `Predictions`.
    """

    paths: list[Path]
    boxes: list[Tensor]
    scores: list[Tensor]
    labels: list[Tensor]
    classes: tuple[str, ...]
    unreadable: list[Unreadable]


class Predictor:
    """A trained model that predicts the classes or boxes of image files.

    Args:
        config: name or path of the recipe the model was trained with, or a config. With a name or path, the values of
            the run replace the recipe's, as in `dali-mix predict`. With a config, they are not used, and a warning is
            logged if those for model or evaluation pipeline differ from the config's.
        checkpoint: a checkpoint of a run, its pointer `latest`, or a file that `dali_mix.models.load_weights` reads.
        ema: use the averaged weights of a checkpoint.
        classes: names in the order of the logits, or a file with one name per line; by default the names in the
            checkpoint, or else those of the recipe's `val_set` or `train_set`, one of which must then exist.
        model: the model, if the run's model was passed as an object; replaces the recipe's model.

    Raises:
        FileNotFoundError: no such recipe, checkpoint or file of names, or no class names at all.
        ValueError: an invalid recipe, weights that do not fit the model or are not finite, a checkpoint without
            averaged weights although `ema` is set, a wrong number of class names, or a damaged file.
    """

    @keywords
    def __init__(
        self,
        config: RunConfig | str | Path,
        checkpoint: str | Path,
        *,
        ema: bool = False,
        classes: Sequence[str] | str | Path | None = None,
        model: nn.Module | None = None,
    ) -> None:
        if isinstance(classes, (str, os.PathLike)):
            classes = read_names(Path(classes))
        checkpoint = as_path("checkpoint", checkpoint)
        given = [] if model is None else [("model", {"type": user_model(model)})]
        if isinstance(config, RunConfig):
            config = change(config, given)
        else:
            config, _ = load_evaluated(config, checkpoint, given)
        trained = open_trained(checkpoint, ema=ema)
        self.config = config
        self.classes, task = tuple(classes or ()) or trained.classes, trained.task
        if not self.classes:
            self.classes, task = _of_sets(config, trained.path)
        if trained.classes and len(self.classes) != len(trained.classes):
            raise ValueError(f"{len(self.classes)} class names for a model of {len(trained.classes)} classes")
        self.task = trainable().get(task) or _task_of_loss(config)
        self.device = process_group.pick_device(config.device)
        built = build_model(config, len(self.classes))
        self.notes = trained.load_into(built, given=model is not None)
        trained.warn_of_values(config)
        self.model = place_model(built, config, Ranks(0, 1, self.device)).eval()
        self.autocast = Precision(config.amp, self.device).autocast

    def load(self, paths: Sequence[Path], unreadable: list[Unreadable]) -> Iterator[Seen]:
        """Yield batches of the image files `paths`, on the model's device.

        Files that cannot be read are skipped and appended to `unreadable`.
        """
        return load_images(self.config, paths, self.device, unreadable)

    def scores(self, logits: Tensor) -> Tensor:
        """Return the probabilities (B,K) float32 of logits (B,K): a softmax or, for multi-label models, sigmoids."""
        return self.task.probabilities(logits_of(self.model, logits))

    def __call__(
        self, images: Iterable[str | Path], each: Callable[[Path, Tensor], object] = lambda path, scores: None
    ) -> Predictions:
        """Predict the classes of image files.

        Args:
            images: files and folders, see `find_images`.
            each: called with each file that is not skipped and its scores (K,), as soon as they are computed.

        Raises:
            ValueError: the model is a detector.
            FileNotFoundError, PermissionError, TypeError, ValueError: as `find_images`.
        """
        if self.task.boxes:
            raise ValueError("this model is a detector: call predictor.detect(images)")
        unreadable: list[Unreadable] = []
        paths: list[Path] = []
        found = [torch.zeros(0, len(self.classes))]
        for seen in self.load(find_images(images), unreadable):
            with torch.inference_mode(), self.autocast():
                logits = self.model(seen.images)
            scores = self.scores(logits).cpu()
            for path, row in zip(seen.paths, scores, strict=True):
                if row.isnan().any():
                    unreadable.append(Unreadable(path, "the model returns NaN for it"))
                    continue
                each(path, row)
                paths.append(path)
                found.append(row[None])
        return Predictions(paths, torch.cat(found), self.classes, self.task, unreadable)

    def detect(
        self,
        images: Iterable[str | Path],
        threshold: float | None = None,
        each: Callable[[Path, Tensor, Tensor, Tensor], object] = lambda path, boxes, scores, labels: None,
    ) -> Detections:
        """Detect objects in image files. The model must be a detector.

        Args:
            images: files and folders, see `find_images`.
            threshold: return only boxes with a score above it; by default 0.5.
            each: called with each file that is not skipped and its boxes, scores and labels, as soon as they are
                computed.

        Raises:
            ValueError: the model is not a detector, or the threshold is outside 0 … 1.
            FileNotFoundError, PermissionError, TypeError, ValueError: as `find_images`.
        """
        if not self.task.boxes:
            raise ValueError(f"this model is for {self.task.name}, not a detector: call predictor(images)")
        least = number("threshold", self.task.threshold if threshold is None else threshold, 0.0, 1.0)
        result = Detections([], [], [], [], self.classes, [])
        for seen in self.load(find_images(images), result.unreadable):
            with torch.inference_mode(), self.autocast():
                found = self.model(seen.images, [{"size": size} for size in seen.sizes.tolist()])
            for path, row, size, one in zip(seen.paths, seen.rows, seen.sizes, found, strict=True):
                boxes, scores, labels = (one[name].cpu() for name in ("boxes", "scores", "labels"))
                if not one["finite"]:
                    result.unreadable.append(Unreadable(path, "the model returns NaN for it"))
                    continue
                kept = scores > least
                scale = torch.tensor([row["width"] / size[1], row["height"] / size[0]]).float().repeat(2)
                values = boxes[kept].float() * scale, scores[kept].float(), labels[kept]
                each(path, *values)
                result.paths.append(path)
                for part, value in zip((result.boxes, result.scores, result.labels), values, strict=True):
                    part.append(value)
        return result


def predict(
    config: RunConfig | str | Path,
    checkpoint: str | Path,
    images: Iterable[str | Path],
    *,
    ema: bool = False,
    classes: Sequence[str] | str | Path | None = None,
) -> Predictions:
    """Predict the classes of image files, decoded and preprocessed as in an evaluation.

    Use a `Predictor` to load the model only once for several calls, and for boxes (`Predictor.detect`).

    Args:
        config, checkpoint, ema, classes: as for `Predictor`.
        images: files (JPEG, PNG, WebP, BMP, PNM, GIF, TIFF) and folders of them.

    Raises:
        FileNotFoundError, PermissionError, TypeError, ValueError: as `Predictor` and `find_images`.
    """
    files = find_images(images)
    return Predictor(config, checkpoint, ema=ema, classes=classes)(files)


def _of_sets(config: RunConfig, path: Path) -> tuple[tuple[str, ...], str]:
    """Return (class names, task name) of the recipe's `val_set` or, if there is no such set, of its `train_set`.

    Raise FileNotFoundError if neither set has a manifest. The message says that the file `path` contains no names.
    """
    for prefix in (config.val_set, config.train_set):
        if isinstance(prefix, str) and Path(f"{set_prefix(prefix)}.json").is_file():
            info = RecordSet(prefix).info
            return tuple(info.classes), info.task
    raise FileNotFoundError(
        f"{path} does not name its classes, and the recipe's sets ({config.val_set}, {config.train_set}) are not "
        f"there: give the names, one per line, with --class-file FILE"
    )


def _task_of_loss(config: RunConfig) -> Task:
    """Return the task of a model whose file does not store its task, derived from the recipe's loss.

    It is a task whose targets the loss accepts, or any task if it is not known what the loss accepts. If several tasks
    qualify, the one that the recipe's type of model is made for is preferred. The task is detection if there is no
    loss, and classification if no task qualifies.
    """
    loss = build_loss(config)
    if loss is None:
        return DETECTION
    accepts = accepted(loss)
    of_model = sorted(trainable().values(), key=lambda task: config.model["type"] not in task.model_types)
    return next((task for task in of_model if accepts is None or task.target_kind in accepts), CLASSIFICATION)
