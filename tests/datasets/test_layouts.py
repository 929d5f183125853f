"""Each layout finds the right files with the right labels, and says what is wrong where it cannot."""

from __future__ import annotations

import io
import pickle
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded, image_folder

Capture = pytest.CaptureFixture[str]


def pack(layout: str, root: Path, out: Path, *options: str) -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def decoded(records: RecordSet, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes())))


# imagefolder


def test_splits_are_found(tmp_path: Path, capsys: Capture) -> None:
    image_folder(tmp_path / "train", 2, 3)
    image_folder(tmp_path / "val", 2, 2)
    assert len(LAYOUTS["imagefolder"](tmp_path, "train", Options()).names) == 6
    assert len(LAYOUTS["imagefolder"](tmp_path, "val", Options()).names) == 4
    assert len(LAYOUTS["imagefolder"](tmp_path / "val", "val", Options()).names) == 4
    assert pack("imagefolder", tmp_path, tmp_path / "set", "--split", "test") == 1
    assert "no folder 'test'; there is train, val" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "meant"), [("vla", "val"), ("tran", "train"), ("Train", "train"), ("tets", "test")])
def test_a_mistyped_split(tmp_path: Path, capsys: Capture, split: str, meant: str) -> None:
    root = image_folder(tmp_path / "flat")
    assert pack("imagefolder", root, tmp_path / "set", "--split", split) == 1
    assert f"{root}: no folder '{split}'; did you mean --split {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["all", "eval", "tiny", "val2", "vid", "dev", "testing", "valid", "night"])
def test_a_split_of_a_free_name(tmp_path: Path, split: str) -> None:
    assert pack("imagefolder", image_folder(tmp_path / "flat"), tmp_path / "set", "--split", split) == 0


def test_options_are_not_abbreviated(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        pack("digits", tmp_path, tmp_path / "set", "--shard", "2")
    assert "unrecognized arguments: --shard 2" in capsys.readouterr().err


def test_digits_takes_no_root(tmp_path: Path, capsys: Capture) -> None:
    assert pack("digits", tmp_path, tmp_path / "set") == 1
    assert "leave --root out" in capsys.readouterr().err


def test_the_only_class_folder_is_empty(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "flat" / "cats").mkdir(parents=True)
    assert pack("imagefolder", tmp_path / "flat", tmp_path / "set") == 1
    assert f"{tmp_path}/flat/cats: a class folder without images" in capsys.readouterr().err


def test_other_files_are_counted(tmp_path: Path) -> None:
    image_folder(tmp_path, 2, 3)
    (tmp_path / "class0" / "notes.txt").write_text("x")
    (tmp_path / "class0" / ".hidden.jpg").write_text("x")
    (tmp_path / "README").write_text("x")
    listing = LAYOUTS["imagefolder"](tmp_path, "train", Options())
    assert len(listing.names) == 6
    assert listing.report == {"other_files": {".txt": 1}}
    assert listing.tree.count_left_out() == {".*": 1}


def test_classes_in_a_given_order(tmp_path: Path, capsys: Capture) -> None:
    image_folder(tmp_path / "images", 2, 1)
    names = tmp_path / "names.txt"
    names.write_text("class1\nunseen\nclass0\n")
    assert pack("imagefolder", tmp_path / "images", tmp_path / "set", "--classes", str(names), "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == ("class1", "unseen", "class0")
    assert records.labels(np.arange(2)).tolist() == [2, 0]
    for text, reason in (
        ("class1\n", "class0: not among"),
        ("class1\n\n", "line 2 is empty"),
        ("a\na\n", "line 2: 'a'"),
    ):
        names.write_text(text)
        assert pack("imagefolder", tmp_path / "images", tmp_path / "more", "--classes", str(names)) == 1
        assert reason in capsys.readouterr().err


def test_a_class_that_a_split_lacks(tmp_path: Path, capsys: Capture) -> None:
    """huggingface/pytorch-image-models#957: an empty folder keeps its number where the classes are named."""
    image_folder(tmp_path / "val", 3, 2)
    for file in (tmp_path / "val" / "class1").iterdir():
        file.unlink()
    (tmp_path / "names").write_text("class0\nclass1\nclass2\n")
    arguments = ("--split", "val", "--classes", str(tmp_path / "names"))
    for left in ((), ("notes.txt",), (".DS_Store", "notes.txt")):
        for name in left:
            (tmp_path / "val" / "class1" / name).write_text("x")
        assert pack("imagefolder", tmp_path, tmp_path / "set", "--split", "val") == 1
        assert "or name the classes with --classes FILE" in capsys.readouterr().err
        assert pack("imagefolder", tmp_path, tmp_path / "set", *arguments, "--force") == 0
        assert f"note: {tmp_path}/val: no image in the class folders class1" in capsys.readouterr().err
        assert RecordSet(tmp_path / "set").labels(np.arange(4)).tolist() == [0, 0, 2, 2]


def test_folders_that_hold_nothing(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "images").mkdir()
    assert pack("imagefolder", tmp_path / "images", tmp_path / "set") == 1
    assert "no class folders" in capsys.readouterr().err
    image_folder(tmp_path / "images", 2, 1)
    (tmp_path / "images" / "empty").mkdir()
    assert pack("imagefolder", tmp_path / "images", tmp_path / "set") == 1
    assert "empty: a class folder without images" in capsys.readouterr().err
    assert pack("imagefolder", tmp_path / "none", tmp_path / "set") == 1
    assert "none: no such folder" in capsys.readouterr().err


# imagenet-val

WNIDS = {1: "n02000000", 2: "n01000000", 3: "n03000000"}  # by ILSVRC2012_ID: not the sorted order


def imagenet_val(root: Path) -> Path:
    (root / "val").mkdir(parents=True)
    for number in range(1, 6):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(encoded("JPEG", seed=number))
    return root


TRUTH = [2, 1, 3, 3, 1]  # ILSVRC2012_IDs
LABELS = [0, 1, 2, 2, 1]  # the same in the order of sorted wnids


def ground_truth(root: Path) -> None:
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(number, wnid, 0) for number, wnid in WNIDS.items()] + [(4, "n00000001", 3)]
    savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=kind)})


def names_and_wnids(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{row:08d}.JPEG {WNIDS[number]}\n" for row, number in enumerate(TRUTH, 1)]
    (root / "val.txt").write_text("".join(reversed(lines)))


def names_and_labels(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{row:08d}.JPEG {label}\n" for row, label in enumerate(LABELS, 1)]
    (root / "val.txt").write_text("".join(lines))


def kaggle(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{row:08d},{WNIDS[number]} 1 2 3 4\n" for row, number in enumerate(TRUTH, 1)]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))


@pytest.mark.parametrize("write", [ground_truth, names_and_wnids, names_and_labels, kaggle])
def test_imagenet_val(tmp_path: Path, write: object) -> None:
    root = imagenet_val(tmp_path / "imagenet")
    write(root)  # type: ignore[operator]  # one of the functions above
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(5)).tolist() == LABELS
    assert records.encoded(2).tobytes() == encoded("JPEG", seed=3)
    if write is not names_and_labels:
        assert records.info.classes == tuple(sorted(WNIDS.values()))


def test_imagenet_val_with_lists_that_do_not_fit(tmp_path: Path, capsys: Capture) -> None:
    root = imagenet_val(tmp_path / "imagenet")
    cases = {
        "n01000000\n" * 4: "4 labels for 5 images",
        "1\n" * 5: "a column of numbers alone",
        "a.JPEG n01000000\n" * 2: "listed twice",
        "a.JPEG n01000000\n": "no label for val/ILSVRC2012_val_00000001.JPEG",
        "": "no labels in it",
        "wnid\n" * 5: "not a wnid",
    }
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert "give the labels with --list" in capsys.readouterr().err
    for text, reason in cases.items():
        (root / "val.txt").write_text(text)
        assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
        assert reason in capsys.readouterr().err
    (root / "val.txt").unlink()
    ground_truth(root)
    (root / "meta.mat").unlink()
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert "ILSVRC2012_devkit_t12" in capsys.readouterr().err
    (root / "meta.mat").write_bytes(b"not a mat file at all")
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    error = capsys.readouterr().err
    assert "meta.mat: not the development kit's" in error and error.endswith("with --list\n") and error.count("\n") == 1


def test_a_meta_mat_that_crashes_its_reader(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet_val(tmp_path / "images")
    ground_truth(root)
    monkeypatch.setattr(
        sys.modules["dali_mix.datasets.layouts.imagenet_val"], "_READ_META", "import os; os.kill(os.getpid(), 11)"
    )
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert "meta.mat: not the development kit's meta.mat: scipy was stopped by signal 11; " in capsys.readouterr().err


# tiny-imagenet


def tiny_imagenet(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    for wnid in ("n01", "n02"):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
        for number in range(3):
            (root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").write_bytes(encoded("JPEG"))
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number, wnid in enumerate(["n02", "n01", "n01", "n02"]):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(encoded("JPEG", seed=number))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_tiny_imagenet(tmp_path: Path, capsys: Capture, zipped: bool) -> None:
    root = tiny_imagenet(tmp_path / "data" / "tiny-imagenet-200")
    if zipped:
        shutil.make_archive(str(root), "zip", tmp_path / "data", root.name)
        shutil.rmtree(root)
        root = root.parent
    assert pack("tiny-imagenet", root, tmp_path / "val", "--split", "val") == 0
    assert RecordSet(tmp_path / "val").labels(np.arange(4)).tolist() == [1, 0, 0, 1]
    assert pack("tiny-imagenet", root, tmp_path / "train", "--no-shuffle") == 0
    assert RecordSet(tmp_path / "train").labels(np.arange(6)).tolist() == [0, 0, 0, 1, 1, 1]
    assert RecordSet(tmp_path / "train").info.classes == ("n01", "n02")
    assert pack("tiny-imagenet", root, tmp_path / "test", "--split", "test") == 1
    assert "labelled splits train and val" in capsys.readouterr().err


def test_tiny_imagenet_with_a_bad_annotation(tmp_path: Path, capsys: Capture) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_9.JPEG\tn99\n")
    assert pack("tiny-imagenet", root, tmp_path / "val", "--split", "val") == 1
    assert "val_annotations.txt: line 5 is" in capsys.readouterr().err


# cifar


def cifar_arrays(count: int, classes: int, seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, classes, count).tolist()


def python_version(root: Path, which: str, protocol: int) -> tuple[np.ndarray, list[int]]:
    """Writes CIFAR's Python version in small and returns its training images and labels."""

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
def test_cifar_s_pickles(tmp_path: Path, which: str, protocol: int, archived: bool) -> None:
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
def test_cifar_s_binary_version(tmp_path: Path, capsys: Capture, which: str) -> None:
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


def test_cifar_as_image_folders_in_an_archive(tmp_path: Path) -> None:
    names = [f"kind{number}" for number in range(10)]
    with zipfile.ZipFile(tmp_path / "cifar10_train.zip", "w") as archive:
        for name in ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]:
            archive.writestr(f"train/{name}/0000.jpg", encoded("JPEG", 32, 32))
    shutil.copy(
        tmp_path / "cifar10_train.zip", tmp_path / "cifar10_test.zip"
    )  # must not be taken for the training split
    assert pack("cifar10", tmp_path, tmp_path / "set", "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(10)).tolist() == list(range(10)) and len(names) == records.info.num_classes
    assert pack("cifar10", tmp_path / "cifar10_train.zip", tmp_path / "direct", "--no-shuffle") == 0
    assert (tmp_path / "direct.rec").read_bytes() == (tmp_path / "set.rec").read_bytes()


def test_cifar_that_is_not_there_or_damaged(tmp_path: Path, capsys: Capture) -> None:
    assert pack("cifar10", tmp_path, tmp_path / "set") == 1
    assert "--download" in capsys.readouterr().err
    python_version(tmp_path / "data", "cifar10", 2)
    batch = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3"
    for content in (b"", b"garbage", batch.read_bytes()[:-50], pickle.dumps([1]), pickle.dumps({b"data": 1})):
        batch.write_bytes(content)
        assert pack("cifar10", tmp_path / "data", tmp_path / "set") == 1
        assert f"{batch}: " in capsys.readouterr().err
    assert pack("cifar10", tmp_path / "data", tmp_path / "set", "--split", "nonsense") == 1


# digits


def test_digits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        assert main(["pack", "digits", "--split", split, "--out", str(tmp_path / split), "--quiet"]) == 0
    train, val = RecordSet(tmp_path / "train"), RecordSet(tmp_path / "val")
    assert len(train) + len(val) == 1797 and len(val) == 359
    assert not set(train.table["id"].tolist()) & set(val.table["id"].tolist())
    counts = np.bincount(val.labels(np.arange(len(val))))
    assert counts.min() >= 34 and counts.max() <= 37  # by class
    images, labels = load_digits(return_X_y=True)
    for records in (train, val):
        ids = records.table["id"]
        assert records.labels(np.arange(len(records))).tolist() == labels[ids].tolist()
        assert set(records.table["height"].tolist()) == set(records.table["width"].tolist()) == {32}
        small = np.asarray(Image.fromarray(decoded(records, 5)).resize((8, 8), Image.Resampling.BOX))[:, :, 0]
        original = images[ids[5]].reshape(8, 8) * (255 / 16)
        assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.98
