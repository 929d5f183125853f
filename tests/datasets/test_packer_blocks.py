"""Images read directly into record blocks: large files, files that change while being read, full disks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dali_mix.datasets import PackOptions
from dali_mix.datasets.base import Listing
from dali_mix.datasets.images.transform import Transform
from dali_mix.datasets.packer import pack_listing
from dali_mix.datasets.trees import FolderTree
from dali_mix.recordio import Block, RecordSet, Sample, SetWriter, write_set
from dali_mix.recordio.verify import verify_set
from dali_mix.tasks import CLASSIFICATION
from tests.recordio.samples import encoded, jpeg_with_magic


def folder_of(root: Path, images: list[bytes], **changes: object) -> Listing:
    """Write `images` and return their listing, with labels 0, 1, 0, 1, … unless `changes` has others."""
    root.mkdir()
    names = [f"{number:03}.jpg" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        (root / name).write_bytes(image)
    labels = [number % 2 for number in range(len(images))]
    values = {"labels": labels, "classes": ("ant", "bee"), "source": "list", "split": "val"} | changes
    return Listing(FolderTree(root), names, **values)  # type: ignore[arg-type]  # values of several types


@pytest.mark.parametrize("shards", [1, 3])
def test_blocks_equal_records_framed_one_by_one(tmp_path: Path, shards: int) -> None:
    """The .rec files are the same even if blocks grow, are reused, or reach their byte limit."""
    trailers = [0, 700_000, 0, 2_200_000, 4_300_000, 90_000]
    images = [
        jpeg_with_magic(*["aligned"] * (number % 3)) + bytes([number]) * (trailers[number % 6] + number % 5)
        for number in range(24)
    ]
    images = [image + b"\xff\xd9" for image in images]
    listing = folder_of(tmp_path / "images", images)
    pack_listing(listing, tmp_path / "set", PackOptions(workers=3, shards=shards))
    assert list(verify_set(tmp_path / "set")) == []
    records = RecordSet(tmp_path / "set")
    assert [records.encoded(row).tobytes() == image for row, image in enumerate(images)] == [True] * 24
    write_set(tmp_path / "wanted", list(zip(images, listing.labels, strict=True)), classes="ab", shards=shards)
    for ours, wanted in zip(records.rec_paths, RecordSet(tmp_path / "wanted").rec_paths, strict=True):
        assert ours.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize(("found", "kept"), [(-40, 160), (0, 200), (40, 200)])
def test_read_handles_file_size_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int, kept: int) -> None:
    content = bytes(range(200))
    (tmp_path / "image").write_bytes(content)
    real = os.fstat

    def before(descriptor: int) -> os.stat_result:
        values = list(real(descriptor))
        values[6] += found  # st_size before the file changed
        return os.stat_result(values)

    monkeypatch.setattr("dali_mix.datasets.trees.os.fstat", before)
    assert FolderTree(tmp_path).read("image") == content[:kept]


def test_oversized_file_is_refused_without_reading(tmp_path: Path) -> None:
    listing = folder_of(tmp_path / "images", [encoded("JPEG"), b"", b"\xff\xd8\xff", encoded("JPEG", seed=1)])
    os.truncate(tmp_path / "images" / "002.jpg", 1 << 40)  # a sparse file, with no bytes on disk
    with pytest.raises(ValueError, match=r"001\.jpg: empty"):
        pack_listing(listing, tmp_path / "set", PackOptions())
    info = pack_listing(listing, tmp_path / "set", PackOptions(skip_bad=True))
    assert info.count == 2
    reasons = {entry["file"]: entry["reason"] for entry in info.report["skipped"]}
    assert "0 bytes" in reasons["001.jpg"] and "does not fit RecordIO" in reasons["002.jpg"]


def test_large_originals_do_not_grow_blocks_of_resized_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [encoded("JPEG", 40, 60, seed=number) + bytes(9_000_000) + b"\xff\xd9" for number in range(4)]
    capacities = []
    place = SetWriter.place
    monkeypatch.setattr(SetWriter, "place", lambda self, block: capacities.append(block.capacity) or place(self, block))
    pack_listing(folder_of(tmp_path / "images", images), tmp_path / "set", PackOptions(Transform(resize=20)))
    assert capacities == [Block(CLASSIFICATION, 1).capacity]
    assert list(verify_set(tmp_path / "set")) == []


def test_boxes_are_clipped_for_images_read_into_blocks(tmp_path: Path) -> None:
    images = [jpeg_with_magic("aligned"), encoded("JPEG", 12, 20), encoded("JPEG", 12, 20, seed=3)]
    labels = [[2, 6, 0, -0.04, 0.1, 0.5, 1.05, 0], [2, 6], [2, 6, 1, 0.1, 0.2, 0.3, 0.4, 1, 0, 0, 0, 1.04, 1, 0]]
    listing = folder_of(tmp_path / "images", images, labels=labels, task="detection")
    info = pack_listing(listing, tmp_path / "set", PackOptions())
    assert info.report["clipped_boxes"] == 2
    assert list(verify_set(tmp_path / "set")) == []
    records = RecordSet(tmp_path / "set")
    assert [records.encoded(row).tobytes() for row in range(3)] == images
    first, none, two = records.labels(np.arange(3))
    assert np.allclose(first, [[0, 0, 0.1, 0.5, 1, 0]]) and none.shape == (0, 6)
    assert np.allclose(two, [[1, 0.1, 0.2, 0.3, 0.4, 1], [0, 0, 0, 1, 1, 0]])


def test_full_disk_between_blocks_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample(encoded("JPEG", seed=row), 0) for row in range(100)]
    real, left = os.pwrite, [sum(len(sample.encoded) for sample in samples) // 2]

    def small_disk(descriptor: int, data: memoryview, at: int) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        written = real(descriptor, data[: left[0]], at)  # the last write is cut short
        left[0] -= written
        return written

    monkeypatch.setattr("dali_mix.recordio.writer.os.pwrite", small_disk)
    with pytest.raises(OSError, match=r"set-00001\.rec\.partial: cannot write: No space left on device"):
        write_set(tmp_path / "set", samples, classes="a", shards=3)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_reported_on_close_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems report errors on close. No file is left, and the first error is raised."""
    close = os.close

    def full(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        close(descriptor)
        if name.endswith(".rec.partial"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("dali_mix.recordio.writer.os.close", full)
    images = [encoded("JPEG", seed=row) for row in range(40)]
    with pytest.raises(OSError, match=r"set-00000\.rec\.partial: cannot write: No space left on device"):
        pack_listing(folder_of(tmp_path / "images", images), tmp_path / "out" / "set", PackOptions(shards=2, workers=2))
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ValueError, match=r"039\.jpg"):
        pack_listing(folder_of(tmp_path / "bad", [*images[:39], b"no image"]), tmp_path / "out" / "set", PackOptions())
    assert list((tmp_path / "out").iterdir()) == []
