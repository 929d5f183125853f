import gc
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import encode, picture, png_set

HTML = b"<html><body>404 not found</body></html>"
GOOD = [encode(picture(40 + i, 50), "JPEG") for i in range(12)]


def broken_set(prefix, bad):
    """Write 12 images, those in `bad` (record number → bytes) with other content, as after a failed download.

    The table has the sizes of the original images.
    """
    samples = [(bad.get(i, GOOD[i]), i % 3, 40 + i, 50, "jpeg") for i in range(12)]
    write_set(prefix, samples, classes="abc")
    return prefix


def loader(prefix, name="imagenet", **more):
    options = {
        "batch_size": 4,
        "train": True,
        "device": "cpu",
        "num_threads": 1,
        "pipeline_options": {"image_size": 32},
    }
    return build_loader(name, prefix, **(options | more))


@pytest.mark.parametrize("options", [{}, {"preset": "parity"}], ids=["window", "image"])
def test_bad_headers_in_large_batches_do_not_crash_process(tmp_path, options):
    """The loader runs in a subprocess, because DALI's decoder alone crashes most processes that decode this set."""
    samples = [(HTML if i % 30 == 7 else GOOD[i % 12], 0, 40 + i % 12, 50, "jpeg") for i in range(300)]
    write_set(tmp_path / "set", samples, classes="a")
    program = f"""
import dali_mix
for seed in range(10):
    loader = dali_mix.build_loader("imagenet", {str(tmp_path / "set")!r}, batch_size=64, train=True, seed=seed,
        device="cpu", num_threads=1, on_bad_record="skip", pipeline_options={{"image_size": 32}} | {options})
    print(sum(len(batch.ids) for batch in loader), len(loader.skipped))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "290 10\n" * 10), done.stderr[-2000:]


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
@pytest.mark.parametrize(
    "bad", [HTML, GOOD[5][:120], b"GIF89a\x01\x00\x01\x00\x80\x00\x00", b""], ids=["html", "cut", "gif", "empty"]
)
def test_undecodable_record_is_named_or_skipped(tmp_path, name, bad):
    prefix = broken_set(tmp_path / "set", {5: bad})
    with pytest.raises(
        ValueError, match=r"set\.rec: record 5: .*dali-mix verify .*on_bad_record='skip' \(in a recipe loader"
    ):
        list(loader(prefix, name))
    skipping = loader(prefix, name, on_bad_record="skip")
    for _ in range(2):
        batches = list(skipping)
        ids = sorted(i for batch in batches for i in batch.ids.tolist())
        assert ids == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert all(len(batch.images) == len(batch.targets) == len(batch.ids) > 0 for batch in batches)
    assert [number for number, _ in skipping.skipped] == [5]
    assert "set.rec: record 5:" in skipping.skipped[0][1]


def test_skipping_does_not_change_other_records(tmp_path):
    whole, holed = (
        loader(broken_set(tmp_path / "a", {})),
        loader(broken_set(tmp_path / "b", {2: HTML, 9: HTML}), on_bad_record="skip"),
    )
    ours = {i: image for batch in holed for i, image in zip(batch.ids.tolist(), batch.images.numpy(), strict=True)}
    theirs = {i: image for batch in whole for i, image in zip(batch.ids.tolist(), batch.images.numpy(), strict=True)}
    assert set(theirs) - set(ours) == {2, 9}
    assert all(np.array_equal(ours[i], theirs[i]) for i in ours)


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
def test_step_with_only_bad_records_is_omitted(tmp_path, name):
    prefix = broken_set(tmp_path / "set", dict.fromkeys(range(4, 8), HTML))
    skipping = loader(prefix, name, train=False, on_bad_record="skip")
    for _ in range(2):
        assert [batch.ids.tolist() for batch in skipping] == [[0, 1, 2, 3], [8, 9, 10, 11]]
    last = loader(
        broken_set(tmp_path / "last", dict.fromkeys(range(8, 12), HTML)), name, train=False, on_bad_record="skip"
    )
    for epoch in range(2):
        assert [batch.ids.tolist() for batch in last] == [[0, 1, 2, 3], [4, 5, 6, 7]] and last.epoch == epoch + 1
    alone = loader(prefix, name, train=False, on_bad_record="skip", batch_size=2, rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"all 2 records of a step of rank 0 are bad \(\[4, 5\]"):
        list(alone)


def test_set_without_readable_records_raises(tmp_path):
    prefix = broken_set(tmp_path / "set", dict.fromkeys(range(12), HTML))
    with pytest.raises(ValueError, match="none of its records can be read"):
        for _ in range(3):
            list(loader(prefix, on_bad_record="skip"))


def test_zeroed_bytes_are_found_by_crc(tmp_path):
    prefix = png_set(tmp_path / "set", 10)
    table, path = RecordSet(prefix).table, tmp_path / "set.rec"
    middle = int(table["offset"][7]) + 8 + int(table["length"][7]) // 2
    damaged = bytearray(path.read_bytes())
    damaged[middle : middle + 40] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"set\.rec: record 7: crc32 is"):
        list(loader(prefix))
    skipping = loader(prefix, on_bad_record="skip")
    assert sorted(i for batch in skipping for i in batch.ids.tolist()) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [number for number, _ in skipping.skipped] == [7]


def test_damaged_framing_is_named(tmp_path):
    prefix = png_set(tmp_path / "set", 10)
    path, offset = tmp_path / "set.rec", int(RecordSet(prefix).table["offset"][3])
    damaged = bytearray(path.read_bytes())
    damaged[offset + 4 : offset + 8] = (2**29 - 1).to_bytes(4, "little")
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"set\.rec: record 3:"):
        list(loader(prefix))


def test_wrong_size_in_manifest_is_named(tmp_path):
    small = encode(picture(20, 20), "JPEG")
    samples = [(small, 0, 400, 400, "jpeg") if i == 1 else (GOOD[i], 0, 40 + i, 50, "jpeg") for i in range(6)]
    write_set(tmp_path / "set", samples, classes="a")
    with pytest.raises(ValueError, match="record 1: the image is 20×20 pixels, the manifest says 400×400"):
        list(loader(tmp_path / "set"))


def test_loader_can_be_reused_or_deleted_after_error(tmp_path):
    prefix = broken_set(tmp_path / "set", {11: HTML})
    one = loader(prefix, train=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="record 11"):
            list(one)
        one.set_epoch(1)
        one.set_epoch(0)
        assert next(iter(one)).ids.tolist() == [0, 1, 2, 3]
        one.set_epoch(1)
        one.set_epoch(0)
    del one
    gc.collect()
    shutil.rmtree(tmp_path)
