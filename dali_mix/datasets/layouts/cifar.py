"""Layouts `cifar10` and `cifar100`: the Python pickles, the binary version, or image folders; as folders or archives.

Arrays are stored as PNG, without loss. The pickles are read without running anything in them, see `safe_pickle`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dali_mix.datasets.base import Listing, Options, find_archive, tree_of
from dali_mix.datasets.class_folders import class_folders, split_base
from dali_mix.datasets.images import encode
from dali_mix.datasets.safe_pickle import load_plain
from dali_mix.datasets.trees import MemoryTree, Tree

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32


def cifar10(root: Path, split: str, options: Options) -> Listing:
    """Lists CIFAR-10: split "train" (50,000) or "test" (10,000; also called "val")."""
    return _cifar(root, split, options, "cifar10")


def cifar100(root: Path, split: str, options: Options) -> Listing:
    """Lists CIFAR-100 with its 100 fine classes: split "train" (50,000) or "test" (10,000; also called "val")."""
    return _cifar(root, split, options, "cifar100")


def _cifar(root: Path, split: str, options: Options, layout: str) -> Listing:
    if split not in ("train", "test", "val"):
        raise ValueError(f"{layout} has the splits train and test (val is the same), not {split!r}")
    if options.classes_file is not None:
        raise ValueError(f"{layout} knows its classes: --classes does not apply")
    part = "train" if split == "train" else "test"
    tree = tree_of(root, options)
    listing = _in_tree(tree, part, split, layout)
    if listing is None:
        number = layout.removeprefix("cifar")
        named = (("cifar", number, part), (f"cifar-{number}-python",), (f"cifar-{number}-binary",), (layout,))
        for words in named:
            archive = find_archive(root, words)
            if archive is not None and (
                words[0] != "cifar" or f"cifar{number}_" in archive.name.replace("-", "").lower()
            ):
                listing = _in_tree(tree_of(archive), part, split, layout)
                if listing is not None:
                    break
    if listing is None:
        raise FileNotFoundError(
            f"{root}: no {layout} in it for split {split!r}: neither the Python nor the binary version, nor"
            f" {part}/CLASS/IMAGE, nor an archive of them; --download fetches it"
        )
    return listing


def _in_tree(tree: Tree, part: str, split: str, layout: str) -> Listing | None:
    for base in ("", *(f"{folder}/" for folder in tree.folders())):
        for read, files in _versions(layout, part):
            if all(tree.exists(base + file) for file in files):
                images, labels, classes = read(tree, base, files)
                return _from_arrays(tree, images, labels, classes, layout, split)
    folders = tree.folders()
    if part in folders or (len(folders) == 1 and part in tree.folders(folders[0])):
        base, _ = split_base(tree, part, "yes")
        known = CIFAR10_CLASSES if layout == "cifar10" else None
        names, labels, classes, report = class_folders(tree, base, known)
        if len(classes) != int(layout.removeprefix("cifar")):
            raise ValueError(
                f"{tree.where(base)}: {len(classes)} class folders, {layout} has {layout.removeprefix('cifar')}"
            )
        return Listing(tree, names, labels, classes, layout, split, report=report)
    return None


Arrays = tuple[np.ndarray, list[int], tuple[str, ...]]
Reader = Callable[[Tree, str, list[str]], Arrays]


def _versions(layout: str, part: str) -> list[tuple[Reader, list[str]]]:
    if layout == "cifar10":
        stems = [f"data_batch_{number}" for number in range(1, 6)] if part == "train" else ["test_batch"]
        return [(_python10, [*stems, "batches.meta"]), (_binary10, [f"{stem}.bin" for stem in stems])]
    return [(_python100, [part, "meta"]), (_binary100, [f"{part}.bin"])]


def _from_arrays(
    tree: Tree, images: np.ndarray, labels: list[int], classes: tuple[str, ...], layout: str, split: str
) -> Listing:
    names = [f"{split}/{number:05d}.png" for number in range(len(images))]

    def read(name: str) -> bytes:
        return encode(np.ascontiguousarray(images[int(name[-9:-4])].transpose(1, 2, 0)), "png")

    return Listing(MemoryTree(tree.root, names, read), names, labels, classes, layout, split)


def _python10(tree: Tree, base: str, files: list[str]) -> Arrays:
    batches = [_batch(tree, base + file, "labels") for file in files[:-1]]
    classes = _class_names(tree, base + files[-1], "label_names")
    return (
        np.concatenate([images for images, _ in batches]),
        [label for _, labels in batches for label in labels],
        classes,
    )


def _python100(tree: Tree, base: str, files: list[str]) -> Arrays:
    images, labels = _batch(tree, base + files[0], "fine_labels")
    return images, labels, _class_names(tree, base + files[1], "fine_label_names")


def _batch(tree: Tree, name: str, key: str) -> tuple[np.ndarray, list[int]]:
    where = tree.where(name)
    batch = _texts(load_plain(tree.read(name), where), where)
    images, labels = batch.get("data"), batch.get(key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise ValueError(f"{where}: its 'data' is not an array (N, {_PIXELS}) of uint8; fetch it again")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise ValueError(f"{where}: its {key!r} are not {len(images)} whole numbers; fetch it again")
    return images.reshape(-1, 3, 32, 32), labels


def _class_names(tree: Tree, name: str, key: str) -> tuple[str, ...]:
    where = tree.where(name)
    names = _texts(load_plain(tree.read(name), where), where).get(key)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where}: no {key!r} in it; fetch it again")
    return tuple(item.decode("latin-1") if isinstance(item, bytes) else str(item) for item in names)


def _texts(content: object, where: str) -> dict[str, object]:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: not one of CIFAR's pickles: it holds a {type(content).__name__}")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _binary10(tree: Tree, base: str, files: list[str]) -> Arrays:
    rows = np.concatenate([_rows(tree, base + file, 1) for file in files])
    names = _text_names(tree, f"{base}batches.meta.txt") or CIFAR10_CLASSES
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].tolist(), names


def _binary100(tree: Tree, base: str, files: list[str]) -> Arrays:
    rows = _rows(tree, base + files[0], 2)
    names = _text_names(tree, f"{base}fine_label_names.txt") or tuple(str(number) for number in range(100))
    return rows[:, 2:].reshape(-1, 3, 32, 32), rows[:, 1].tolist(), names


def _rows(tree: Tree, name: str, label_bytes: int) -> np.ndarray:
    data = tree.read(name)
    size = label_bytes + _PIXELS
    if not data or len(data) % size:
        raise ValueError(
            f"{tree.where(name)}: {len(data):,} bytes are not whole records of {size}: cut short? fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)


def _text_names(tree: Tree, name: str) -> tuple[str, ...]:
    if not tree.exists(name):
        return ()
    return tuple(line.strip() for line in tree.read(name).decode("latin-1").splitlines() if line.strip())
