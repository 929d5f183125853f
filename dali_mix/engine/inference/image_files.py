"""Load image files through a recipe's evaluation pipeline, by packing them into temporary sets for the loader."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dali_mix.datasets.class_folders import unread_images
from dali_mix.datasets.images.decoding import has_alpha, needs_conversion
from dali_mix.datasets.images.transform import AS_ASKED, Transform
from dali_mix.datasets.no_data import no_data
from dali_mix.datasets.trees import IMAGE_SUFFIXES, is_image, suffix_of
from dali_mix.engine.config.objects import class_name
from dali_mix.engine.config.schema import RunConfig
from dali_mix.loading import build_loader
from dali_mix.pipelines import SampleRandom
from dali_mix.recordio import RecordSet, Sample, write_set

_log = logging.getLogger(__name__)

CHUNK, CHUNK_BYTES = 1024, 256 << 20  # a temporary set is complete once it has this many files or bytes
DECODED_PIXELS = 50_000_000  # maximum per batch of two or more images; large images are decoded in smaller batches


class Seen(NamedTuple):
    """A batch of image files, decoded and preprocessed.

    Attributes:
        paths: B files.
        images: (B,3,H,W) float32, the model's input.
        rows: (B,) of RECORD_DTYPE, one row per file. Its height and width are those of the file in pixels.
        sizes: (B,2), height and width of each image in `images`, without padding.
    """

    paths: list[Path]
    images: Tensor
    rows: np.ndarray
    sizes: np.ndarray


class Unreadable(NamedTuple):
    """An image file that was skipped, and the reason."""

    path: Path
    reason: str


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the files in `paths` in order; a folder is replaced by the image files below it, sorted.

    Raises:
        FileNotFoundError: a path does not exist.
        PermissionError: a folder cannot be read.
        TypeError: not a path, for instance an image in memory.
        ValueError: no paths, or a folder without images.
    """
    found: list[Path] = []
    alone = isinstance(paths, (str, os.PathLike)) or hasattr(paths, "shape") or not isinstance(paths, Iterable)
    listed: Any = [paths] if alone else paths
    for path in map(_path, listed):
        if path.is_dir():
            found += _images_in(path)
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such image or folder")
    if not found:
        raise ValueError("no images: pass files or folders")
    return found


def _path(given: Any) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(
            f"an image must be a path, not {class_name(given)}: pass image files or folders; save pixels to a file"
            " first, e.g. with PIL's image.save(PATH)"
        )
    return Path(given)


def _images_in(folder: Path) -> list[Path]:
    """Return the image files in `folder` and its subfolders, sorted.

    Files and subfolders that `no_data` recognizes are omitted. Log a warning with the number of image files of
    unsupported formats.

    Raise ValueError if no image file is found, and OSError if a folder cannot be read.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not no_data(name)]
        for name in files:
            path = Path(parent, name)
            if no_data(name):
                continue
            if is_image(name) and (path.is_file() or path.is_symlink()):
                found.append(path)
            else:
                others[suffix_of(name)] += 1
    notices = unread_images(others)
    if not found:
        seen = f"; {notices[0]}" if notices else ""
        raise ValueError(f"{folder}: no image in it (looked for {', '.join(sorted(IMAGE_SUFFIXES))}){seen}")
    for notice in notices:
        _log.warning("%s: %s", folder, notice)
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error


def load_images(
    config: RunConfig, paths: Sequence[Path], device: torch.device, unreadable: list[Unreadable]
) -> Iterator[Seen]:
    """Yield batches of the files, in order, decoded and preprocessed as in an evaluation of the recipe.

    The pixels may differ slightly from those of a set packed with `--resize`, which stores smaller images. At the end,
    log warnings with the numbers of files that have transparency or that decoders read differently (multi-image files,
    for example).

    Args:
        config: the recipe's config, which determines the pipeline and the batch size.
        paths: the files.
        device: device of the batches.
        unreadable: files that cannot be read are skipped and appended to this list.
    """
    noted: Counter[str] = Counter()
    chunk: list[tuple[Path, Sample]] = []
    bytes_held, batch = 0, _batch_size(config, 1)
    for path in paths:
        try:
            sample, pixels = _sample(path, noted)
        except ValueError as error:
            unreadable.append(Unreadable(path, str(error)))
            continue
        alone = _batch_size(config, pixels)
        differs = max(alone, batch) >= 2 * min(alone, batch)  # large images must not shrink the batches of small ones
        if len(chunk) >= CHUNK or bytes_held >= CHUNK_BYTES or (differs and len(chunk) >= min(alone, batch)):
            yield from _load_chunk(config, chunk, batch, device, unreadable)
            chunk, bytes_held, batch = [], 0, alone
        chunk.append((path, sample))
        bytes_held += len(sample.encoded)
        batch = min(alone, batch)
    if chunk:
        yield from _load_chunk(config, chunk, batch, device, unreadable)
    for what, count in sorted(noted.items()):
        _log.warning("%s: %s", f"{count:,} image{'s' * (count > 1)}", what)


def _batch_size(config: RunConfig, pixels: int) -> int:
    """Return the recipe's batch size for evaluation, or a smaller one for large images.

    `DECODED_PIXELS` is the limit for a batch of images of `pixels` pixels each. The result is at least 1.
    """
    return max(1, min(config.val_batch_size or config.batch_size, DECODED_PIXELS // pixels))


def _sample(path: Path, noted: Counter[str]) -> tuple[Sample, int]:
    """Return the record of the image file `path`, with label 0, and its number of pixels.

    `noted` maps the text of a warning to a number of files. Add 1 if decoders disagree on this file, and 1 if the file
    has transparency. Raise ValueError if the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    encoded, header, why = Transform(encoding="png" if needs_conversion(data) else "keep")(data)
    if why not in ("", AS_ASKED):
        noted[f"decoders differ on {why}"] += 1
    if has_alpha(data):
        noted["transparency is dropped: transparent pixels show the colours stored under them"] += 1
    sample = Sample(bytes(encoded), 0, header.height, header.width, header.encoding)
    return sample, header.height * header.width


def _load_chunk(
    config: RunConfig,
    chunk: list[tuple[Path, Sample]],
    batch_size: int,
    device: torch.device,
    unreadable: list[Unreadable],
) -> Iterator[Seen]:
    name, options = config.pipeline_options(train=False)
    with tempfile.TemporaryDirectory(prefix="dali_mix-") as folder:
        write_set(Path(folder, "images"), [sample for _, sample in chunk], classes=["none"])
        records = RecordSet(Path(folder, "images"))
        loader = build_loader(
            name,
            records,
            batch_size=min(batch_size, len(chunk)),
            train=False,
            device=device,
            rank=0,
            world_size=1,
            on_bad_record="skip",
            num_threads=config.loading.num_threads,
            prefetch=config.loading.prefetch,
            decode=config.loading.decode,
            pipeline_options=options,
        )
        with closing(loader):
            try:
                for images, _, ids in loader:
                    numbers = ids.numpy()
                    rows = np.asarray(records.table[numbers])
                    draws = loader.pipeline.draw(rows, SampleRandom(0, 0, numbers))  # evaluation is not random
                    sizes = loader.pipeline.sizes(rows, draws)
                    yield Seen([chunk[number][0] for number in numbers], images, rows, sizes)
            except ValueError:
                if len(loader.skipped) < len(chunk):  # else every record was skipped, which is not an error here
                    raise
        for number, reason in loader.skipped:
            what = reason.partition(f": record {number}: ")[2] or reason
            unreadable.append(Unreadable(chunk[number][0], what))
