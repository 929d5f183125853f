"""Files for prediction: decoded a few at a time, in order, and shown as packing would store them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.inference import image_files
from dali_mix.engine.inference.image_files import Unreadable, load_images
from tests.loading.sets import encode, picture
from tests.recordio.odd_images import ODD, PLAIN, REFUSED

CONFIG = RunConfig(
    train_set="none",
    val_set=None,
    pipeline={"type": "multilabel", "image_size": 32},
    model={"type": "multilabel"},
    loss={"type": "BinaryCrossEntropy"},
    optimizer={"type": "SGD", "lr": 0.1},
    epochs=1,
    batch_size=16,
)


def seen(paths: list[Path]) -> tuple[list[Path], np.ndarray, list[list[tuple[int, int]]], list[Unreadable]]:
    """Paths, images and the sizes of each batch."""
    unreadable: list[Unreadable] = []
    batches = list(load_images(CONFIG, paths, torch.device("cpu"), unreadable))
    sizes = [[(int(row["height"]), int(row["width"])) for row in batch.rows] for batch in batches]
    images = np.concatenate([batch.images.numpy() for batch in batches])
    return [path for batch in batches for path in batch.paths], images, sizes, unreadable


SIDES = {
    "small ones": [20] * 20,
    "large ones": [90, 100, 90],
    "a large one among small ones": [20] * 9 + [100] + [20] * 30,
    "in turn": [20, 100] * 8,
    "growing": [*range(10, 100, 3)],
}


@pytest.mark.parametrize("name", SIDES)
def test_large_pictures_are_decoded_a_few_at_a_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number, side in enumerate(SIDES[name]):
        paths.append(tmp_path / f"{number:02d}.png")
        paths[-1].write_bytes(encode(picture(side, side, number)))
    expected = seen(paths)
    assert expected[0] == paths and not expected[3]
    monkeypatch.setattr(image_files, "DECODED_PIXELS", 8000)
    found = seen(paths)
    assert found[0] == paths and np.array_equal(found[1], expected[1])
    for batch in found[2]:
        assert len(batch) == 1 or sum(height * width for height, width in batch) <= 8000
    if name != "in turn":  # and not by one where they are small
        assert len(found[2]) <= 1 + sum(side > 40 for side in SIDES[name]) + len(paths) // 8


def test_odd_files_are_seen_as_they_would_be_packed(tmp_path: Path) -> None:
    files = {name: data for name, (data, _) in [*ODD.items(), *PLAIN.items()]}
    paths = []
    for number, data in enumerate([*files.values(), *(data for data, _ in REFUSED.values())]):
        paths.append(tmp_path / f"{number:02d}.img")
        paths[-1].write_bytes(data)
    good = paths[: len(files)]
    found, _, sizes, unreadable = seen(paths)
    turned = [(20, 12) if turn >= 5 else (12, 20) for _, turn in [*ODD.values(), *PLAIN.values()]]
    assert found == good and [size for batch in sizes for size in batch] == turned
    assert [one.path for one in unreadable] == paths[len(files) :]
