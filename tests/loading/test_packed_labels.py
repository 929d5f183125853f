"""Packed labels arrive in the batches of a loader: multi-label targets of VOC and WIDER, including -1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix import build_loader
from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from tests.datasets.test_voc import DOG, HARD_CAT, HARD_PERSON, PERSON, devkit
from tests.datasets.test_wider import wider

VOC = {f"{number:06d}": items for number, items in enumerate([[DOG, HARD_CAT], [HARD_PERSON, PERSON], [HARD_CAT]] * 3)}


def pack(layout: str, root: Path, out: Path) -> RecordSet:
    assert main(["pack", layout, "--root", str(root), "--out", str(out), "--split", "test", "--quiet"]) == 0
    return RecordSet(out)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("pipeline", "options"),
    [("imagenet", {"image_size": (32, 48)}), ("multilabel", {"image_size": (32, 48)}), ("cifar", {})],
)
def test_voc_labels_arrive_through_every_pipeline(
    tmp_path: Path, pipeline: str, options: dict[str, object], train: bool
) -> None:
    devkit(tmp_path, "2007", "test", VOC)
    records = pack("voc", tmp_path, tmp_path / "set")
    expected = records.labels(np.arange(9))
    assert set(np.unique(expected).tolist()) == {-1, 0, 1}
    loader = build_loader(
        pipeline, records, batch_size=4, train=train, device="cpu", num_threads=1, pipeline_options=options
    )
    seen: list[int] = []
    try:
        for images, targets, ids in loader:
            assert targets.dtype == torch.float32 and targets.shape == (len(images), 20)
            assert np.array_equal(targets.numpy(), expected[ids.numpy()])
            seen += ids.tolist()
    finally:
        loader.close()
    assert sorted(seen) == list(range(9))


def test_wider_labels_arrive_in_batch(tmp_path: Path) -> None:
    records = pack("wider", wider(tmp_path / "wider"), tmp_path / "set")
    loader = build_loader(
        "multilabel", records, batch_size=2, train=False, device="cpu", pipeline_options={"image_size": 32}
    )
    try:
        ((images, targets, _),) = list(loader)
    finally:
        loader.close()
    assert images.shape == (1, 3, 32, 32) and targets.tolist() == [[1, 0, -1, *[0] * 10, 1]]
