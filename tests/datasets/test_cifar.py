"""Layouts `cifar10` and `cifar100`: pickles, the binary version, image folders."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


def pack(layout: str, root: Path, out: Path, *options: str) -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def decoded(records: RecordSet, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes())))


def cifar_arrays(count: int, classes: int, seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, classes, count).tolist()


def python_version(root: Path, which: str, protocol: int) -> tuple[np.ndarray, list[int]]:
    """Write a small CIFAR dataset in the Python version and return its training images and labels."""

    def write(name: str, content: dict[bytes, object]) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content, protocol))

    if which == "cifar10":
        batches = [cifar_arrays(4, 10, seed) for seed in range(6)]
        for number, (images, labels) in enumerate(batches[:5], 1):
            write(f"cifar-10-batches-py/data_batch_{number}", {b"data": images, b"labels": labels})
        write("cifar-10-batches-py/test_batch", {b"data": batches[5][0], b"labels": batches[5][1]})
        write("cifar-10-batches-py/batches.meta", {b"label_names": [f"kind{n}".encode() for n in range(10)]})
        return np.concatenate([images for images, _ in batches[:5]]), [x for _, labels in batches[:5] for x in labels]
    images, labels = cifar_arrays(20, 100, 0)
    content = {b"data": images, b"fine_labels": labels, b"coarse_labels": [0] * 20}
    write("cifar-100-python/train", content)
    write("cifar-100-python/test", content)
    write("cifar-100-python/meta", {b"fine_label_names": [f"kind{n}".encode() for n in range(100)]})
    return images, labels


@pytest.mark.parametrize("which", ["cifar10", "cifar100"])
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("archived", [False, True])
def test_python_version_is_packed_losslessly(tmp_path: Path, which: str, protocol: int, archived: bool) -> None:
    images, labels = python_version(tmp_path / "data", which, protocol)
    if archived:
        (folder,) = (tmp_path / "data").iterdir()
        name = "cifar-10-python.tar.gz" if which == "cifar10" else "cifar-100-python.tar.gz"
        with tarfile.open(tmp_path / "data" / name, "w:gz") as archive:
            archive.add(folder, folder.name)
        shutil.rmtree(folder)
    assert pack(which, tmp_path / "data", tmp_path / "set", "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(20)).tolist() == labels
    assert records.info.classes[:2] == ("kind0", "kind1")
    for row in range(20):  # lossless
        assert np.array_equal(decoded(records, row), images[row].reshape(3, 32, 32).transpose(1, 2, 0))
    assert pack(which, tmp_path / "data", tmp_path / "test", "--split", "test") == 0


@pytest.mark.parametrize("which", ["cifar10", "cifar100"])
def test_binary_version_is_packed_losslessly(tmp_path: Path, capsys: Capture, which: str) -> None:
    images, labels = cifar_arrays(10, 10, 0)
    folder = tmp_path / "binary"
    folder.mkdir()
    coarse = [[7]] * 10 if which == "cifar100" else [[]] * 10
    rows = [bytes([*coarse[row], labels[row]]) + images[row].tobytes() for row in range(10)]
    stems = [f"data_batch_{number}" for number in range(1, 6)] if which == "cifar10" else ["train"]
    for number, stem in enumerate(stems):
        (folder / f"{stem}.bin").write_bytes(b"".join(rows[number * 2 : number * 2 + 2] if len(stems) > 1 else rows))
    assert pack(which, tmp_path, tmp_path / "set", "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(10)).tolist() == labels
    assert np.array_equal(decoded(records, 9), images[9].reshape(3, 32, 32).transpose(1, 2, 0))
    path = folder / f"{stems[-1]}.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert pack(which, tmp_path, tmp_path / "more") == 1
    assert f"{path}: " in capsys.readouterr().err


def test_archived_image_folders_are_packed(tmp_path: Path) -> None:
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for seed, split in enumerate(("train", "test")):  # other images in the test archive, which must not be read
        with zipfile.ZipFile(tmp_path / f"cifar10_{split}.zip", "w") as archive:
            for name in names:
                archive.writestr(f"train/{name}/0000.jpg", encoded("JPEG", 32, 32, seed=seed))
    assert pack("cifar10", tmp_path, tmp_path / "set", "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(10)).tolist() == list(range(10)) and records.info.num_classes == 10
    assert pack("cifar10", tmp_path / "cifar10_train.zip", tmp_path / "direct", "--no-shuffle") == 0
    assert (tmp_path / "direct.rec").read_bytes() == (tmp_path / "set.rec").read_bytes()


def test_missing_files_or_split_are_refused(tmp_path: Path, capsys: Capture) -> None:
    assert pack("cifar10", tmp_path, tmp_path / "set") == 1
    assert "--download" in capsys.readouterr().err
    python_version(tmp_path / "data", "cifar10", 2)
    assert pack("cifar10", tmp_path / "data", tmp_path / "set", "--split", "nonsense") == 1
    assert "cifar10 has the splits train and test" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"garbage",
        lambda data: data[:-50],
        lambda data: pickle.dumps([1]),
        lambda data: pickle.dumps({b"data": 1}),
    ],
    ids=["empty", "garbage", "cut", "a list", "no array"],
)
def test_damaged_batch_is_named(tmp_path: Path, capsys: Capture, damage: Callable[[bytes], bytes]) -> None:
    python_version(tmp_path / "data", "cifar10", 2)
    batch = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(damage(batch.read_bytes()))
    assert pack("cifar10", tmp_path / "data", tmp_path / "set") == 1
    assert f"{batch}: " in capsys.readouterr().err
