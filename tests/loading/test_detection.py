"""Loading sets with boxes: grouped order on several ranks, resuming, large images, and moving boxes to a device."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix import build_loader
from dali_mix.loading import Batch
from dali_mix.loading.batch import boxes_to
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import boxed_set, encode, picture

SMALL = {"shorter": (48, 64), "longest": 96, "iou_crop": 0.5, "zoom_out": 0.3}


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    return RecordSet(boxed_set(tmp_path_factory.mktemp("boxed") / "set", 41, 200))


def loader(records, *, batch_size=4, rank=0, world_size=1, train=True, **more):
    options = {"pipeline_options": SMALL, "num_threads": 1, "device": "cpu", **more}
    return build_loader(
        "detection", records, batch_size=batch_size, rank=rank, world_size=world_size, train=train, **options
    )


def by_record(batches):
    """Return a dict record → (pixels without padding, boxes)."""
    found = {}
    for images, targets, ids in batches:
        for image, target, number in zip(images, targets, ids.tolist(), strict=True):
            assert number not in found
            found[number] = image[:, : target["size"][0], : target["size"][1]].clone(), target["boxes"]
    return found


def same(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(a, b) for number in one for a, b in zip(one[number], two[number], strict=True))


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 8), (2, 4), (4, 2), (3, 5)])
def test_each_record_once_and_identical_on_any_ranks(boxed, world_size, batch_size):
    ranks = [loader(boxed, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    made = [list(one) for one in ranks]
    found = by_record(itertools.chain(*made))
    assert found.keys() == set(range(41))
    assert same(found, by_record(loader(boxed, batch_size=1)))
    taller = np.asarray(boxed.table["height"]) > boxed.table["width"]
    steps = [set(taller[torch.cat([batch.ids for batch in step]).numpy()]) for step in zip(*made, strict=True)]
    assert all(len(step) == 1 for step in steps[:-2])


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_epoch_resumes_on_other_ranks(boxed, stop):
    full = list(loader(boxed, batch_size=8))
    stopped = loader(boxed, batch_size=8)
    list(itertools.islice(stopped, stop))
    state = stopped.state_dict()
    assert state["group_step"] == 8
    ranks = [loader(boxed, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    for one in ranks:
        one.load_state_dict(state)
    assert same(by_record(itertools.chain(*(list(one) for one in ranks))), by_record(full[stop:]))


def test_resume_with_other_batch_size_repeats_no_record(boxed):
    stopped = loader(boxed, batch_size=8)
    taken = list(itertools.islice(stopped, 2))
    other = loader(boxed, batch_size=5)
    next(iter(other))  # the batches it prefetched have another order
    with pytest.raises(ValueError, match="global_batch_size 8"):
        other.load_state_dict(stopped.state_dict())
    other.load_state_dict(stopped.state_dict(), strict=False)
    left = by_record(other)
    assert sorted([*by_record(taken), *left]) == list(range(41))
    assert same(left, {number: value for number, value in by_record(loader(boxed)).items() if number in left})
    again = list(other)  # the next epoch uses its own blocks
    assert sorted(by_record(again)) == list(range(41)) and other.state_dict()["group_step"] == 5
    taller = np.asarray(boxed.table["height"]) > boxed.table["width"]
    assert all(len(set(taller[batch.ids.numpy()].tolist())) == 1 for batch in again[:-3])


def test_state_keeps_group_step_across_resumes(boxed):
    """The trainer may split its global batch into other micro-batches, and an epoch may be stopped repeatedly."""
    stopped = loader(boxed, batch_size=8)
    taken = by_record(itertools.islice(stopped, 2))
    other = loader(boxed, batch_size=4)
    other.load_state_dict({**stopped.state_dict(), "global_batch_size": 4})
    taken |= by_record(itertools.islice(other, 2))
    state = other.state_dict()
    assert (state["group_step"], state["global_batch_size"], state["samples_seen"]) == (8, 4, 24)
    third = loader(boxed, batch_size=4)
    third.load_state_dict(state)
    left = by_record(third)
    assert sorted([*taken, *left]) == list(range(41))
    assert left.keys() == by_record(itertools.islice(loader(boxed, batch_size=8), 3, None)).keys()


@pytest.mark.parametrize("steps", [None, 6])
def test_state_at_epoch_start_uses_group_step_of_loader(boxed, steps):
    """The loader uses its own blocks even if the state of the finished epoch has other blocks."""
    stopped = loader(boxed, batch_size=8)
    list(itertools.islice(stopped, steps))
    other = loader(boxed, batch_size=4)
    other.load_state_dict({**stopped.state_dict(), "global_batch_size": 4})
    assert (other.epoch, other.samples_seen, other.state_dict()["group_step"]) == (1, 0, 4)
    wanted = loader(boxed, batch_size=4)
    wanted.set_epoch(1)
    assert [batch.ids.tolist() for batch in other] == [batch.ids.tolist() for batch in wanted]


def test_state_of_other_order_is_refused(boxed):
    grouped, plain = loader(boxed), build_loader("multilabel", boxed, batch_size=4, train=True, device="cpu")
    for one, other, message in (
        (grouped, plain, "without batches of one orien"),
        (plain, grouped, "taken with batches"),
    ):
        with pytest.raises(ValueError, match=message):
            one.load_state_dict(other.state_dict())


def test_large_image_keeps_all_boxes(tmp_path):
    random = np.random.default_rng(0)
    low = random.uniform(0, 0.98, (574, 2))
    boxes = np.column_stack([np.zeros(574), low, low + 0.015, np.zeros(574)])
    border = [1, 0.0, 0.0, 1.0, 1.0, 0]
    samples = [
        (encode(picture(2299, 2472), "JPEG"), [2, 6, *boxes.ravel()]),
        (encode(picture(60, 40)), [2, 6, *border]),
        (encode(picture(40, 60)), [2, 6]),
    ]
    write_set(tmp_path / "set", samples, task="detection", classes=("tree", "all"))
    made = build_loader(
        "detection", tmp_path / "set", batch_size=3, train=False, device="cpu", pipeline_options={"shorter": 320}
    )
    ((images, targets, _),) = made
    assert images.shape == (3, 3, 480, 480)
    assert [len(target["boxes"]) for target in targets] == [574, 1, 0] and not made.dropped_boxes
    assert targets[1]["boxes"].tolist() == [[0, 0, 320, 480]]
    assert targets[2]["boxes"].shape == (0, 4) and targets[2]["labels"].dtype == torch.int64


def test_batch_to_moves_boxes_and_keeps_types(boxed):
    batch = next(iter(loader(boxed)))
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    for before, after in zip(batch.targets, moved.targets, strict=True):
        assert before.keys() == after.keys() and before["size"] == after["size"]
        for name in ("boxes", "labels", "difficult"):
            assert after[name].device.type == "meta"
            assert (after[name].shape, after[name].dtype) == (before[name].shape, before[name].dtype)
    back = batch.to("cpu")
    for before, after in zip(batch.targets, back.targets, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in ("boxes", "labels", "difficult"))


def test_boxes_to_moves_masks_without_difficult():
    boxes, labels = torch.rand(3, 4), torch.tensor([2, 0, 1])
    target = {"boxes": boxes, "labels": labels, "masks": torch.ones(3, 8, 8, dtype=torch.bool), "size": (8, 8)}
    empty = {"boxes": boxes[:0], "labels": labels[:0], "masks": torch.ones(0, 8, 8, dtype=torch.bool), "size": (8, 8)}
    moved = boxes_to([target, empty], "meta")
    for before, after in zip([target, empty], moved, strict=True):
        assert before.keys() == after.keys() and after["size"] == (8, 8)
        for name in ("boxes", "labels", "masks"):
            assert after[name].device.type == "meta"
            assert (after[name].shape, after[name].dtype) == (before[name].shape, before[name].dtype)
    assert boxes_to([{"masks": target["masks"]}], "meta")[0]["masks"].device.type == "meta"
    assert target["boxes"] is boxes and target["masks"].device.type == "cpu"


def test_boxes_to_keeps_values(monkeypatch):
    targets = [
        {"boxes": torch.rand(n, 4), "labels": torch.arange(n), "difficult": torch.arange(n) % 2 > 0} for n in (2, 0, 3)
    ]

    def stay(value, to, **_):  # moving to "meta" would discard the values
        return value.type(to) if isinstance(to, torch.dtype) else value

    monkeypatch.setattr(torch.Tensor, "to", stay)
    for before, after in zip(targets, boxes_to(targets, "meta"), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(before[name].dtype == after[name].dtype for name in before)


def test_docs_loop_for_torchvision_detectors_runs(tmp_path, monkeypatch):
    """Labels start at 1, images have no padding, and nothing is normalized or resized twice."""
    text = Path(__file__).parents[2].joinpath("docs/detection.md").read_text(encoding="utf-8")
    block = next(code for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "fasterrcnn" in code)
    (tmp_path / "data").mkdir()
    boxed_set(tmp_path / "data" / "mine_train", 4, 120)
    monkeypatch.chdir(tmp_path)
    given = {}
    exec(block.replace("600", "64").replace("1000", "96"), given)
    batch, model = given["batch"], given["model"]
    assert [target["labels"].tolist() for target in given["targets"]] == [[2]] * 4
    assert {number.item() for target in batch.targets for number in target["labels"]} == {1}
    seen, _ = model.transform(given["images"])
    assert seen.image_sizes == [target["size"] for target in batch.targets]
    for image, own, size in zip(seen.tensors, given["images"], seen.image_sizes, strict=True):
        torch.testing.assert_close(image[:, : size[0], : size[1]], own, atol=1e-4, rtol=0)
    assert all(loss.isfinite() for loss in given["losses"].values())
