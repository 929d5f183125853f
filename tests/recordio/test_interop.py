"""Interoperability: mxnet 1.9.1 and DALI read our files byte for byte, and we adopt files written by mxnet."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import nvidia.dali.fn as fn
import pytest
from nvidia.dali import Pipeline

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet, unpack_record, write_set
from dali_mix.recordio.adopt import adopt
from dali_mix.recordio.framing import MAGIC_BYTES
from dali_mix.recordio.verify import verify_set
from tests.recordio.mxnet_env import mxnet_python
from tests.recordio.samples import encoded, image_folder, jpeg_with_magic

# Reads a set with mxnet and prints the header and image of every record, in hex. argv: files, and an index or "".
MXNET_READS = """
import json, sys
import mxnet as mx
*recs, idx = sys.argv[1:]
found = []
def add(item):
    header, image = mx.recordio.unpack(item)
    label = [float(x) for x in header.label] if header.flag else [float(header.label)]
    found.append([header.flag, label, header.id, image.hex()])
if idx:
    record = mx.recordio.MXIndexedRecordIO(idx, recs[0], "r")
    for key in record.keys:
        add(record.read_idx(key))
else:
    for rec in recs:
        record = mx.recordio.MXRecordIO(rec, "r")
        while (item := record.read()) is not None:
            add(item)
print(json.dumps(found))
"""
# Writes records with mxnet. argv: file, index or "", JSON file of [label or list of labels, id, image in hex].
MXNET_WRITES = """
import json, sys
import mxnet as mx
rec, idx, content = sys.argv[1:]
record = mx.recordio.MXIndexedRecordIO(idx, rec, "w") if idx else mx.recordio.MXRecordIO(rec, "w")
for label, number, image in json.loads(open(content).read()):
    item = mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), bytes.fromhex(image))
    record.write_idx(number, item) if idx else record.write(item)
record.close()
"""


@pytest.fixture(scope="session")
def mxnet() -> Path:
    python = mxnet_python()
    if python is None:
        pytest.skip("mxnet 1.9.1 needs a Python 3.8 to 3.11 with venv on the PATH; there is none")
    return python


def run(python: Path, code: str, *args: object) -> str:
    done = subprocess.run([str(python), "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


IMAGES = [
    encoded("JPEG", 8, 9),
    jpeg_with_magic("start"),
    jpeg_with_magic("one", "two", "three"),
    jpeg_with_magic("unaligned"),
    encoded("PNG", 5, 4),
    MAGIC_BYTES + b"the magic begins the image",
    b"in the middle " * 2 + MAGIC_BYTES + b" of it",
    b"the end!" + MAGIC_BYTES,
    MAGIC_BYTES * 3,
    b"\1",
]
BARE = range(5, 10)  # valid payloads, but not images


def our_samples(images: list[bytes]) -> list[tuple[object, ...]]:
    return [(data, number % 3, 8, 9, "jpeg") for number, data in enumerate(images)]


def dali_reads(recs: list[Path], idx: Path, count: int) -> list[tuple[bytes, list[float]]]:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        images, labels = fn.readers.mxnet(path=[str(path) for path in recs], index_path=[str(idx)])
        pipeline.set_outputs(images, labels)
    pipeline.build()
    found = []
    for _ in range(count):
        images, labels = pipeline.run()
        found.append((np.asarray(images[0]).tobytes(), np.asarray(labels[0]).tolist()))
    return found


@pytest.mark.parametrize("shards", [1, 3])
def test_mxnet_and_dali_read_our_sets(tmp_path: Path, mxnet: Path, shards: int) -> None:
    write_set(tmp_path / "set", our_samples(IMAGES), classes="abc", shards=shards)
    records = RecordSet(tmp_path / "set")
    expected = [[0, [float(number % 3)], number, data.hex()] for number, data in enumerate(IMAGES)]
    assert [records.encoded(row).tobytes() for row in range(len(IMAGES))] == IMAGES
    assert records.table["flags"].tolist() == [0, 1, 1, 0, 0, 1, 1, 1, 1, 0]
    index = records.idx_path if shards == 1 else ""
    assert json.loads(run(mxnet, MXNET_READS, *records.rec_paths, index)) == expected
    if shards == 1:
        assert json.loads(run(mxnet, MXNET_READS, *records.rec_paths, "")) == expected
    by_dali = dali_reads(list(records.rec_paths), records.idx_path, len(IMAGES))
    assert by_dali == [(data, [float(number % 3)]) for number, data in enumerate(IMAGES)]


def test_mxnet_and_dali_read_our_vector_labels(tmp_path: Path, mxnet: Path) -> None:
    many = [[1, 0, -1, 0], [0, 0, 1, 1]]
    boxes = [[2, 6, 1, 0.25, 0.5, 0.75, 1, 0], [2, 6]]
    images = [jpeg_with_magic("split"), encoded("JPEG")]
    for name, task, labels in (("many", "multilabel", many), ("boxes", "detection", boxes)):
        write_set(tmp_path / name, list(zip(images, labels, strict=True)), task=task, classes="abcd")
        records = RecordSet(tmp_path / name)
        found = json.loads(run(mxnet, MXNET_READS, records.rec_paths[0], records.idx_path))
        assert found == [[len(label), label, row, images[row].hex()] for row, label in enumerate(labels)]
        by_dali = dali_reads(list(records.rec_paths), records.idx_path, 2)
        assert by_dali == [(images[row], label) for row, label in enumerate(labels)]


@pytest.mark.parametrize("indexed", [True, False])
def test_adopt_reads_mxnet_output(tmp_path: Path, mxnet: Path, indexed: bool) -> None:
    images = [data for number, data in enumerate(IMAGES) if number not in BARE]
    content = [[number % 2, number * 3, data.hex()] for number, data in enumerate(images)]
    (tmp_path / "content.json").write_text(json.dumps(content))
    rec, idx = tmp_path / "theirs.rec", tmp_path / "theirs.idx"
    run(mxnet, MXNET_WRITES, rec, idx if indexed else "", tmp_path / "content.json")
    before = rec.read_bytes(), idx.read_bytes() if indexed else b""
    assert main(["adopt", str(rec), "--quiet"]) == 0
    records = RecordSet(tmp_path / "theirs")
    assert rec.read_bytes() == before[0]
    assert [line.split() for line in idx.read_text().splitlines()] == [
        [str(number * 3), str(records.table["offset"][number])] for number in range(len(images))
    ]
    assert [records.encoded(row).tobytes() for row in range(len(images))] == images
    assert records.labels(np.arange(len(images))).tolist() == [number % 2 for number in range(len(images))]
    assert records.table["flags"].tolist() == [0, 1, 1, 0, 0]
    assert list(verify_set(tmp_path / "theirs")) == []
    # Our writer produces the same bytes.
    ours = [(data, number % 2, None, None, None, number * 3) for number, data in enumerate(images)]
    write_set(tmp_path / "ours", ours, classes="01")
    assert (tmp_path / "ours.rec").read_bytes() == before[0]


def test_adopt_reads_mxnet_vector_labels(tmp_path: Path, mxnet: Path) -> None:
    image = encoded("JPEG")
    cases = {
        "one": ([[1.0], [0.0]], "classification"),
        "many": ([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], "multilabel"),
        "boxes": ([[2, 6, 1, 0.25, 0.25, 0.5, 0.5, 1], [2, 6, 0, 0, 0, 1, 1, 0, 1, 0.5, 0.5, 1, 1, 0]], "detection"),
        "five": ([[4, 5, 640, 480, 1, 0.25, 0.25, 0.5, 0.5], [4, 5, 640, 480, 0, 0, 0, 1, 1]], "detection"),
    }
    for name, (labels, task) in cases.items():
        (tmp_path / "content.json").write_text(
            json.dumps([[label, row, image.hex()] for row, label in enumerate(labels)])
        )
        rec = tmp_path / f"{name}.rec"
        run(mxnet, MXNET_WRITES, rec, rec.with_suffix(".idx"), tmp_path / "content.json")
        assert adopt([rec]).task == task
        records = RecordSet(tmp_path / name)
        assert list(verify_set(tmp_path / name)) == []
        found = records.labels(np.arange(2))
        if task == "detection":
            assert found[0].tolist() == [[1, 0.25, 0.25, 0.5, 0.5, 1.0 if name == "boxes" else 0.0]]
        elif task == "multilabel":
            assert found.tolist() == labels
        else:
            assert found.tolist() == [1, 0]


def test_adopt_reads_im2rec_output(tmp_path: Path, mxnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adopted sets of im2rec have the same images and labels as sets that we pack."""
    root = image_folder(tmp_path / "images")
    tool = [str(mxnet), "-c", "import mxnet, runpy, sys; sys.argv[0] = mxnet.__path__[0] + '/tools/im2rec.py'; "]
    tool[-1] += "runpy.run_path(sys.argv[0], run_name='__main__')"
    for options in (["--list", "--recursive", "--no-shuffle"], ["--pass-through", "--num-thread", "1"]):
        done = subprocess.run([*tool, str(tmp_path / "theirs"), str(root), *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert main(["adopt", str(tmp_path / "theirs.rec"), "--quiet"]) == 0
    pack = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "ours"), "--no-shuffle", "--quiet"]
    assert main(pack) == 0
    theirs, ours = RecordSet(tmp_path / "theirs"), RecordSet(tmp_path / "ours")
    assert len(theirs) == len(ours) == 12
    assert theirs.labels(np.arange(12)).tolist() == ours.labels(np.arange(12)).tolist()
    for row in range(12):
        assert theirs.encoded(row).tobytes() == ours.encoded(row).tobytes()
    capsys.readouterr()
    # Packing from the list written by im2rec also works.
    pack = [
        "pack",
        "list",
        "--root",
        str(root),
        "--list",
        str(tmp_path / "theirs.lst"),
        "--out",
        str(tmp_path / "listed"),
    ]
    assert main([*pack, "--no-shuffle", "--quiet"]) == 0
    assert (tmp_path / "listed.rec").read_bytes() == (tmp_path / "theirs.rec").read_bytes()


def test_written_bytes_match_mxnet_writer(tmp_path: Path, mxnet: Path) -> None:
    """mxnet's writer and ours produce identical bytes from the same payloads."""
    content = [[float(number), number, data.hex()] for number, data in enumerate(IMAGES)]
    (tmp_path / "content.json").write_text(json.dumps(content))
    run(mxnet, MXNET_WRITES, tmp_path / "theirs.rec", tmp_path / "theirs.idx", tmp_path / "content.json")
    samples = [(data, number, 1, 1, "jpeg") for number, data in enumerate(IMAGES)]
    write_set(tmp_path / "ours", samples, classes="0123456789")
    assert (tmp_path / "ours.rec").read_bytes() == (tmp_path / "theirs.rec").read_bytes()
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()
    payload = RecordSet(tmp_path / "ours").payload(3)
    assert struct.unpack_from("<IfQQ", payload) == (0, 3.0, 3, 0)
    assert unpack_record(payload).encoded.tobytes() == IMAGES[3]


IMAGE_DET_ITER = """
import sys, mxnet as mx
prefix = sys.argv[1]
images = mx.image.ImageDetIter(
    batch_size=1, data_shape=(3, 48, 64), path_imgrec=prefix + ".rec", path_imgidx=prefix + ".idx"
)
print(sum(len(batch.data[0]) for batch in images))
"""


def test_image_det_iter_needs_sets_without_unlabelled_images(tmp_path: Path, mxnet: Path) -> None:
    """As docs/packing.md states, mxnet's ImageDetIter fails on images without boxes; `--unlabelled drop` omits them."""
    for number in range(2):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / f"{number}.jpg").write_bytes(encoded("JPEG", 48, 64, seed=number))
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in range(2)]
    note = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [5, 6, 20, 10], "iscrowd": 0}
    content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [note]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    command = ["pack", "coco", "--root", str(tmp_path), "--split", "val", "--task", "detection", "--quiet"]
    for way, count in (("drop", 1), ("keep", 2)):
        assert main([*command, "--out", str(tmp_path / way), "--unlabelled", way]) == 0
        records = RecordSet(tmp_path / way)
        assert len(records) == len(dali_reads(list(records.rec_paths), records.idx_path, count)) == count
    assert run(mxnet, IMAGE_DET_ITER, tmp_path / "drop").strip() == "1"
    with pytest.raises(AssertionError, match=r"[Ll]abel"):
        run(mxnet, IMAGE_DET_ITER, tmp_path / "keep")
