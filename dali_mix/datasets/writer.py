"""Write a set image by image from Python, in constant memory (`Writer`).

More than 300 lines: one class, and the conversion of the kinds of images and labels it accepts.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dali_mix._keywords import keywords, naming_keywords
from dali_mix._labels import clip_boxes, count_targets, label_of, report_targets
from dali_mix.datasets.images.decoding import converted_header, needs_conversion
from dali_mix.datasets.images.transform import AS_ASKED, Transform, encode
from dali_mix.datasets.packer import PackOptions
from dali_mix.options import did_you_mean, whole
from dali_mix.recordio import SetInfo, SetWriter, read_image_header
from dali_mix.tasks import Task

_DEEP = ("I", "F")  # prefixes of PIL modes with more than 8 bits


class Writer:
    """A context manager that writes a set image by image.

        with Writer(prefix, classes=["cat", "dog"]) as writer:
            writer.write(image, label)

    Leaving the block publishes the set. If it is left by an exception, nothing is published and an existing set is
    unchanged. By default, files and encoded bytes are stored unchanged unless decoders disagree on them, and pixels are
    stored as PNG. The options work as in `dali-mix pack`.

    Args:
        prefix: prefix of the set; PREFIX.rec, .idx, .npy and .json are written.
        classes: class names, in the order of the class indices.
        task: "classification", "multilabel" or "detection".
        split: name of the split, recorded in the manifest.
        encoding: "keep", "jpeg", "png" or "raw".
        quality: JPEG quality, for images that are encoded.
        resize, max_side: limits in pixels for the shorter and for the longer side; larger images are shrunk.
        max_pixels: images with more pixels are rejected.
        force: replace an existing set.

    Attributes:
        count: number of images written.
        info: the manifest, set when the block ends.

    Raises:
        ValueError: an invalid image or label, named in the message. That image is not written; the next one can be.
        FileExistsError: the set exists, and `force` is not set.
        OSError: the set cannot be written.
    """

    info: SetInfo

    @keywords
    def __init__(
        self,
        prefix: str | os.PathLike[str],
        *,
        classes: Iterable[str],
        task: str = "classification",
        split: str = "",
        encoding: str = "keep",
        quality: int = Transform.quality,
        resize: int | None = None,
        max_side: int | None = None,
        max_pixels: int = Transform.max_pixels,
        force: bool = False,
    ) -> None:
        if isinstance(classes, str) or not isinstance(classes, Iterable):
            raise ValueError(f'classes={classes!r:.80}: give the names of all classes, as a list: ["cat", "dog"]')
        classes = tuple(classes)
        if wrong := [name for name in classes if not isinstance(name, str)]:
            raise ValueError(f"classes: {wrong[0]!r:.40} is a {type(wrong[0]).__name__}, not a name")
        self._transform = Transform(resize, max_side, quality, encoding, max_pixels)
        # For pixels, which have no encoding to keep.
        self._encoding = dataclasses.replace(self._transform, encoding="png" if encoding == "keep" else encoding)
        kept = PackOptions(self._transform, force=force).recorded()
        self._set = SetWriter(prefix, task=task, classes=classes, total=None, split=split, options=kept, force=force)
        self._numbers = {name: number for number, name in enumerate(self._set.classes)}
        if not self._numbers or len(self._numbers) < len(self._set.classes):
            raise ValueError(f"classes={list(self._set.classes)!r:.80}: give the names of all classes, each once")
        self._where = os.fspath(prefix)
        self._block = self._set.spare_block()
        self._open = False
        self._counts: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._targets = np.zeros((3, len(self._numbers)), dtype=np.int64)
        self.count = 0

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        prefix: str | os.PathLike[str],
        *,
        classes: Iterable[str] | None = None,
        each: Callable[[int, int], object] | None = None,
        **options: Any,
    ) -> SetInfo:
        """Write a dataset of (image, label) pairs, torchvision's or your own, and return the manifest.

        For torchvision's `ImageFolder` and `DatasetFolder` with torchvision's own loader and no transforms, the files
        in `samples` are stored as by `dali-mix pack imagefolder`: by default byte for byte.

        Args:
            dataset: a dataset with `len()` and `dataset[index]`.
            prefix: prefix of the set, as for `Writer`.
            classes: class names, by default `dataset.classes`.
            each: called as each(done, total) with numbers of images.
            options: keyword arguments of `Writer`.

        Raises:
            ValueError: `dataset` has no `len()` or no `dataset[index]`, an item is not a pair, or there are no class
                names. Also the errors of `Writer`.
        """
        if isinstance(dataset, (str, os.PathLike)):
            raise ValueError(
                f"{os.fspath(dataset)!r} is a path, not a dataset: pack a folder with"
                f' dali_mix.pack("imagefolder", root={os.fspath(dataset)!r}, out=PREFIX)'
            )
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise ValueError(
                f"dataset is a {type(dataset).__name__} without len() and dataset[index]: write its pairs one by one,"
                " with dali_mix.Writer(PREFIX, classes=[…]) as writer: writer.write(image, label)"
            )
        names = getattr(dataset, "classes", None) if classes is None else classes
        if names is None:
            raise ValueError(f"{type(dataset).__name__} names no classes: give them, Writer.from_dataset(…, classes=…)")
        if classes is None:  # torchvision's ImageNet has several names per class
            names = [name if isinstance(name, str) else ", ".join(name) for name in names]
        pairs = dataset.samples if _lists_files(dataset) else dataset
        with cls(prefix, classes=names, **options) as writer:
            for index in range(total := len(pairs)):
                pair = pairs[index]
                if not isinstance(pair, (tuple, list)):
                    raise ValueError(f"item {index} of the dataset is a {type(pair).__name__}, not (image, label)")
                if len(pair) != 2:
                    raise ValueError(f"item {index} of the dataset has {len(pair)} parts, not two, (image, label)")
                writer.write(*pair)
                if each is not None:
                    each(index + 1, total)
        return writer.info

    _naming = naming_keywords(inspect.signature(__init__).parameters)  # errors name the keywords of `__init__`

    @_naming
    def __enter__(self) -> Writer:
        self._set.__enter__()
        self._open = True
        return self

    @_naming
    def __exit__(self, *error: Any) -> None:
        self._open = False
        try:
            if error[0] is None:
                self._set.write(self._block)
                self.info = self._set.finish(self._report())
        finally:
            self._set.__exit__(*error)

    @_naming
    def write(self, image: Any, label: Any, *, id: int | None = None) -> None:
        """Append an image and its label.

        Args:
            image: a file path; encoded bytes; a PIL image; or uint8 pixels in RGB, as a numpy array (H, W, 3),
                (H, W, 1) or (H, W), or as a torch tensor (3, H, W) or (1, H, W).
            label: for classification, the index or the name of a class. For multi-label, the names of the positive
                classes, or 1, 0 or -1 (ignore) for each class. For detection, a dict in torchvision's format: `boxes`
                (n, 4) are x1, y1, x2, y2 in pixels after EXIF rotation; `labels` (n,) are indices from 0 or names;
                `difficult` or `iscrowd` (n,) is optional.
            id: a unique record id; by default the index of the record.

        Raises:
            ValueError, FileNotFoundError: an invalid image or label, or a `Writer` that is not used as a context
                manager.
            OSError: the set cannot be written.
        """
        if not self._open:
            raise ValueError(f"{self._where}: a Writer is a context: with dali_mix.Writer(…) as writer: …")
        where = f"image {self.count}"
        try:
            if isinstance(image, (str, os.PathLike)):
                where = os.fspath(image)
                image = Path(image).read_bytes()
            encoded = isinstance(image, (bytes, bytearray, memoryview))
            data = bytes(image) if encoded else encode(_rgb(image), "pnm")
            content, header, why = (self._transform if encoded else self._encoding)(data)
            stored = self._label(label, data)
            if self._set.task.boxes:
                stored, clipped = clip_boxes(stored, header.height, header.width)
            number = self.count if id is None else whole("id", id, 0, 2**64 - 1)
            self._block.add(self.count, bytes(content), stored, number, header)
        except FileNotFoundError:
            raise FileNotFoundError(f"{where}: no such image") from None
        except OSError as error:
            raise ValueError(f"{where}: cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{where}: {error}") from None
        self.count += 1
        if encoded and why:
            self._counts["reencoded"] += 1
            self._odd[why] += why != AS_ASKED
        if self._set.task.boxes:
            self._counts["clipped_boxes"] += clipped
        if self._set.task.ignores:
            self._targets += count_targets(stored[None])
        if self._block.full:
            self._set.write(self._block)
            self._block = self._set.spare_block()

    def _label(self, label: Any, data: bytes) -> Any:
        """Return the stored form of a label passed to `write`. Boxes are divided by the size of the image `data`.

        Raise ValueError for an unknown class name, a multi-label or detection label in none of the accepted formats, or
        an empty box. Other invalid labels are returned, and `Block.add` rejects them.
        """
        task: Task = self._set.task
        if task.boxes:
            return self._boxes(label, data)
        if task.ignores:
            names = {label} if isinstance(label, str) else label
            if isinstance(names, (set, frozenset, list, tuple)) and all(isinstance(name, str) for name in names):
                row = np.zeros(len(self._numbers), dtype=np.float32)
                row[[self._number(name) for name in names]] = 1
                return row
            try:
                return _array(label, np.float32)
            except (TypeError, ValueError):
                raise ValueError(f"{label!r:.60} is neither names of classes, nor 1, 0 or -1 for each class") from None
        if isinstance(label, str):
            return self._number(label)
        value = _array(label, None)
        return value.item() if value.size == 1 and value.dtype.kind in "iuf" else label

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            raise ValueError(f"{name!r} is not one of the classes{did_you_mean(name, self._numbers)}")
        return self._numbers[name]

    def _boxes(self, label: Any, data: bytes) -> np.ndarray:
        if not isinstance(label, Mapping) or not {"boxes", "labels"} <= label.keys():
            raise ValueError(
                "the label of a detection set is a dict of 'boxes' (n, 4), x1, y1, x2, y2 in pixels, and 'labels' (n,)"
            )
        spelled = getattr(getattr(label["boxes"], "format", None), "name", "XYXY")  # torchvision's BoundingBoxes
        if spelled != "XYXY":
            raise ValueError(f"boxes are in the format {spelled}: convert them to XYXY, corners in pixels")
        boxes = _array(label["boxes"], np.float64)
        boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
        kinds = [self._number(kind) if isinstance(kind, str) else kind for kind in _listed(label["labels"])]
        difficult = _listed(label.get("difficult", label.get("iscrowd", [0] * len(boxes))))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) == len(kinds) == len(difficult):
            raise ValueError(
                f"boxes {boxes.shape}, {len(kinds)} labels and {len(difficult)} 'difficult' do not belong together:"
                " give (n, 4), (n,) and (n,)"
            )
        for number, (x1, y1, x2, y2) in enumerate(boxes.tolist(), start=1):
            if x2 <= x1 or y2 <= y1:
                raise ValueError(
                    f"object {number}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} is empty or has swapped corners: give"
                    " x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2, not width and height"
                )
        header = converted_header(data) if needs_conversion(data) else read_image_header(data, plain=False)
        sides = np.array([header.width, header.height] * 2)
        return label_of(np.column_stack([np.asarray(kinds, np.float64), boxes / sides, difficult]))

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = report_targets(self._targets, self._set.classes) if self._set.task.ignores else {}
        report |= {"skipped": [], **{name: self._counts[name] for name in ("reencoded", "clipped_boxes")}}
        return report | ({"normalized": dict(sorted(self._odd.items()))} if +self._odd else {})


def _lists_files(dataset: Any) -> bool:
    """Return True for a torchvision `DatasetFolder` whose files can be stored without decoding them.

    It must have no transforms, and use torchvision's own `__getitem__` and loader.
    """
    changed = any(getattr(dataset, name, None) for name in ("transform", "transforms", "target_transform"))
    by = (type(dataset).__getitem__, getattr(dataset, "loader", None))
    theirs = all(getattr(part, "__module__", "") == "torchvision.datasets.folder" for part in by)
    return theirs and not changed


def _array(values: Any, dtype: Any) -> np.ndarray:
    """Convert a number, list, array or tensor (on any device) to an array."""
    return np.asarray(values.detach().cpu() if _is_tensor(values) else values, dtype=dtype)


def _listed(values: Any) -> list[Any]:
    return _array(values, None).tolist()


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # if torch is not imported, there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def _rgb(image: Any) -> np.ndarray:
    """Return the pixels of a PIL image, array or tensor, (H, W, 3) uint8 RGB.

    Raise ValueError for an object of another type, a PIL image of more than 8 bits per channel, or an array or tensor
    that is not uint8 or has none of the shapes listed in `Writer.write`.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(_DEEP):
            raise ValueError(f"a PIL image of mode {image.mode} has more than 8 bits: scale it and convert it to 'L'")
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) and not _is_tensor(image):
        raise ValueError(
            f"a {type(image).__name__} is not an image: give a path, encoded bytes, a PIL image, an array or a tensor"
        )
    tensor = not isinstance(image, np.ndarray)
    pixels = _array(image, None)
    kind, wanted = ("tensor", "(3, H, W) or (1, H, W)") if tensor else ("array", "(H, W, 3), (H, W, 1) or (H, W)")
    if pixels.dtype != np.uint8:
        raise ValueError(f"the {kind} is {pixels.dtype}, not uint8 from 0 to 255: leave out ToTensor and Normalize")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif tensor and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise ValueError(f"the {kind} has shape {tuple(image.shape)}, not {wanted}")
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
