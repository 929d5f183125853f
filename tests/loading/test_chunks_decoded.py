"""Batches cut out of chunks match those of a loader without workers: pixels, bad records and messages."""

import dataclasses
import functools
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix import build_loader, pipelines
from dali_mix.loading import chunks, remote
from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.chunks import POSITIONS, Question, cut, numbers_of, question
from dali_mix.loading.decoder import Decoder
from dali_mix.loading.order import Schedule
from dali_mix.loading.workers import Opened
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import encode, picture, png_set


class Inline:
    """A `Pool` that is also its own `Workers`: one decoder in this process, with read-only arrays."""

    def __init__(self):
        self.asked = []

    def open(self, spec):
        records = RecordSet(spec.prefix)
        self.decoder = decoder(records, spec.pipeline, spec.train, dict(spec.options), spec.seed)
        return Opened(records.prefix, len(records), records.metainfo, records.taller, self)

    def ask(self, question, avoid):
        self.asked.append(ticket := Ticket(question))
        return ticket

    def wait(self, timeout):
        answered, self.asked = self.asked, []
        return [(ticket, read_only(self.decoder.answer(ticket.question))) for ticket in answered]

    def drop(self, ticket):
        self.asked = [other for other in self.asked if other is not ticket]

    def close(self):
        self.asked = []


@dataclasses.dataclass(eq=False)
class Ticket:
    question: Question
    worker: str = "inline"


def read_only(chunk):
    """Make the arrays of a chunk read-only, like those from Ray's object store. Return the chunk."""
    for own in [chunk.images, chunk.rows, *(chunk.targets if isinstance(chunk.targets, list) else [chunk.targets])]:
        for array in own.values() if isinstance(own, dict) else [own]:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    return chunk


def decoder(records, name, train, options, seed=0):
    return Decoder(
        records, pipelines.build(name, train, options), seed, batch_size=POSITIONS, device=torch.device("cpu"),
        num_threads=1, prefetch=1, bad=BadRecords(records.prefix, skip=True), verify_crc=True,
    )  # fmt: skip


NAMES = {
    "imagenet": {"image_size": 32},
    "multilabel": {"image_size": 32},
    "detection": {"shorter": (48, 64), "longest": 96, "iou_crop": 0.5, "zoom_out": 0.3},
}


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks")
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (150, 4))
    samples = [(encode(picture(36 + row % 7, 33 + row % 11, row)), labels[row].tolist()) for row in range(150)]
    write_set(folder / "multilabel", samples, task="multilabel", classes="abcd")
    return {
        "imagenet": png_set(folder / "imagenet", 150),
        "multilabel": folder / "multilabel",
        "detection": corner_boxes_set(folder / "detection"),
    }


def corner_boxes_set(prefix):
    """Write 150 pictures of various shapes, each with up to four boxes in its corners, where a crop may remove them."""
    random, samples = np.random.default_rng(1), []
    for row in range(150):
        boxes = [[row % 2, x, y, x + 0.2, y + 0.2, 0] for x in (0.0, 0.8) for y in (0.0, 0.8)][: row % 5]
        pixels = picture(*random.integers(60, 120, 2).tolist(), row)
        samples.append((encode(pixels), [2, 6, *np.ravel(boxes).tolist()]))
    write_set(prefix, samples, task="detection", classes=("a", "b"))
    return prefix


def pair(prefix, name, **options):
    """Return two loaders: one without workers and one with."""
    options = {"seed": 4, "device": "cpu", "pipeline_options": NAMES[name], "train": True, **options}
    return build_loader(name, prefix, num_threads=1, **options), build_loader(name, prefix, workers=Inline(), **options)


def same(one, two):
    assert torch.equal(one.ids, two.ids) and one.images.dtype == two.images.dtype
    assert torch.equal(one.images, two.images)
    if isinstance(one.targets, torch.Tensor):
        assert torch.equal(one.targets, two.targets) and one.targets.dtype == two.targets.dtype
        return
    for mine, theirs in zip(one.targets, two.targets, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_loader_with_workers_equals_loader_without(prefixes, name, train, dtype):
    local, apart = pair(prefixes[name], name, train=train, dtype=dtype, batch_size=11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns about read-only memory
        for _ in range(2 if train else 1):
            mine, theirs = list(apart), list(local)
            assert len(mine) == len(theirs) == len(local)
            for one, two in zip(mine, theirs, strict=True):
                same(one, two)
                one.images.zero_()
    assert local.state_dict() == apart.state_dict() and local.dropped_boxes == apart.dropped_boxes
    assert name != "detection" or not train or local.dropped_boxes


@functools.cache
def chunks_of(prefix, name, group_step):
    """Return the order of an epoch and its decoded chunks."""
    records = RecordSet(prefix)
    groups = None if group_step is None else records.taller.astype(np.int64)
    order = Schedule(len(records), 4, True, 1, 0, 1, groups=groups, group_step=group_step or 0).order(2)
    made = decoder(records, name, True, NAMES[name], seed=4)
    return order, [read_only(made.answer(question(order, 2, number))) for number in range(-(-len(order) // POSITIONS))]


@functools.cache
def decode_singly(prefix, name):
    """Decode each record in a batch of one. Return record → (image without padding, targets)."""
    records = RecordSet(prefix)
    made = decoder(records, name, True, NAMES[name], seed=4)
    found = {}
    for row in range(len(records)):
        chunk = made.answer(Question(2, np.array([row])))
        height, width = chunk.images.shape[2:] if chunk.sizes is None else chunk.sizes[0].tolist()
        found[row] = chunk.images.reshape(3, height, width), chunk.targets[0]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_ranks_equal_records_decoded_singly(prefixes, name):
    alone = decode_singly(prefixes[name], name)

    @given(st.integers(1, 90), st.integers(1, 5), st.integers(0, 149))
    @settings(max_examples=25, deadline=None)
    def check(batch_size, world_size, position):
        group_step = 8 if name == "detection" else None
        order, made = chunks_of(prefixes[name], name, group_step)
        seen = []
        for rank in range(world_size):
            schedule, at = Schedule(150, 4, True, batch_size, rank, world_size), position
            while schedule.steps_left(at):
                taken = schedule.step(order, 2, at)
                found = cut([made[number] for number in numbers_of(taken)], taken.rows)
                assert np.array_equal(found.rows, taken.rows)
                for index, row in enumerate(taken.rows.tolist()):
                    image, target = alone[row]
                    height, width = image.shape[1:]
                    assert np.array_equal(found.images[index, :, :height, :width], image)
                    mine = found.targets[index]
                    assert (
                        all(map(np.array_equal, mine.values(), target.values()))
                        if isinstance(mine, dict)
                        else (np.array_equal(mine, target))
                    )
                seen += taken.rows.tolist()
                at = taken.end
        assert len(seen) == len(set(seen)) and 150 - position - len(seen) < world_size

    check()


HTML = b"<html><body>404 not found</body></html>"
COUNT = 40  # in chunks of eight


@pytest.fixture
def small_chunks():
    with patch.object(chunks, "POSITIONS", 8), patch.object(remote, "POSITIONS", 8):
        yield


def damaged_set(prefix, bad):
    """Write COUNT JPEGs and damage the records in `bad`.

    Those with even numbers cannot be decoded, and those with odd numbers have a wrong checksum.
    """
    good = [encode(picture(40 + row % 12, 50, row), "JPEG") for row in range(COUNT)]
    samples = [
        (HTML if row in bad and row % 2 == 0 else good[row], row % 3, 40 + row % 12, 50, "jpeg") for row in range(COUNT)
    ]
    write_set(prefix, samples, classes="abc")
    table, path = RecordSet(prefix).table, prefix.with_suffix(".rec")
    data = bytearray(path.read_bytes())
    for row in bad:
        if row % 2:
            middle = int(table["offset"][row]) + 8 + int(table["length"][row]) // 2
            data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    return prefix


BAD = {
    "ends": {0, 7, 8, 15, 16, 39},
    "middle": {3, 4, 5, 12, 20},
    "chunk": set(range(8, 16)),
    "odd chunk": set(range(9, 16, 2)) | {1, 3},
    "unread chunk": {16, 18, 17, 19, 21, 23, 20, 22} | {30},
    "last": set(range(32, 40)),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("train", [True, False])
def test_workers_skip_same_bad_records_as_local_loader(tmp_path, small_chunks, bad, train):
    made = pair(damaged_set(tmp_path / "set", BAD[bad]), "imagenet", train=train, batch_size=3, on_bad_record="skip")
    for _ in range(2):
        theirs, mine = (list(loader) for loader in made)
        for one, two in zip(theirs, mine, strict=True):
            same(one, two)
    local, apart = made
    assert sorted(local.skipped) == sorted(apart.skipped) and len(apart.skipped) == len(BAD[bad])
    assert local.state_dict() == apart.state_dict()


@pytest.mark.parametrize("row", [0, 1, 7, 8, 39])
def test_workers_report_bad_record_like_local_loader(tmp_path, small_chunks, row):
    messages, taken = [], []
    for loader in pair(damaged_set(tmp_path / "set", {row}), "imagenet", train=False, batch_size=3):
        taken.append(0)
        with pytest.raises(ValueError, match=f"record {row}: ") as raised:
            for _ in loader:
                taken[-1] += 1
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert taken[0] <= taken[1] == row // 3  # the loader without workers finds it while prefetching


@pytest.mark.parametrize("bad", [range(0, COUNT, 1), [0, 1, 2]])
def test_set_without_readable_records_raises(tmp_path, small_chunks, bad):
    prefix = damaged_set(tmp_path / "set", set(bad))
    for loader in pair(prefix, "imagenet", batch_size=3, on_bad_record="skip"):
        if len(bad) < COUNT:
            assert sum(len(batch.ids) for batch in loader) == COUNT - len(bad)
            continue
        with pytest.raises(ValueError, match=r"set: none of its records can be read: .*record"):
            list(loader)


@pytest.mark.parametrize("odd", [0, 1])
def test_question_with_only_bad_records_is_repeatable(tmp_path, odd):
    """All bad records are listed in each answer, and later questions are still answered."""
    made = decoder(RecordSet(damaged_set(tmp_path / "set", set(range(8 + odd)) - {odd - 1})), "imagenet", True,
                   {"image_size": 32})  # fmt: skip
    rows = np.arange(odd, 8, 2)
    for _ in range(3):
        chunk = made.answer(Question(0, rows))
        assert not len(chunk.rows) and not len(chunk.images) and [row for row, _, _ in chunk.bad] == rows.tolist()
        assert all(decode == (odd == 0) for _, _, decode in chunk.bad)
        assert made.answer(Question(0, np.arange(20, 28))).rows.tolist() == list(range(20, 28))
