"""Layouts `cifar10` and `cifar100`: Python pickles, binary version or image folders, in a folder or an archive.

Arrays are stored losslessly as PNG. The pickles are read without executing them (see `safe_pickle`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dali_mix.datasets.base import Listing, Options, numbered_classes, trees_of
from dali_mix.datasets.class_folders import class_folders, split_base
from dali_mix.datasets.images.transform import encode
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.safe_pickle import as_text, load_plain
from dali_mix.datasets.trees import MemoryTree, Tree

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32


def cifar10(root: Path, split: str, options: Options) -> Listing:
    """List CIFAR-10: split "train" (50,000 images) or "test" (10,000 images; also called "val").

    Raise FileNotFoundError if the split is not in `root`, ValueError for damaged files, another split or `--classes`.
    """
    return _cifar(root, split, options, "cifar10")


def cifar100(root: Path, split: str, options: Options) -> Listing:
    """List CIFAR-100 with its 100 fine classes. The splits and errors are those of `cifar10`."""
    return _cifar(root, split, options, "cifar100")


def _cifar(root: Path, split: str, options: Options, layout: str) -> Listing:
    if split not in ("train", "test", "val"):
        raise ValueError(f"{layout} has the splits train and test (val is the same), not {split!r}")
    if options.classes_file is not None:
        raise ValueError(f"{layout} has fixed classes: --classes does not apply")
    part = "train" if split == "train" else "test"
    number = layout.removeprefix("cifar")
    called = (rf"^(?=.*{part}).*cifar-?{number}_", f"cifar-{number}-python", f"cifar-{number}-binary", layout)
    for tree in trees_of(root, options, *called):
        if listing := _in_tree(tree, part, split, layout, options.mistakes):
            return listing
    raise FileNotFoundError(
        f"{root}: no {layout} in it for split {split!r}: neither the Python nor the binary version, nor"
        f" {part}/CLASS/IMAGE, nor an archive of them; --download fetches it"
    )


def _in_tree(tree: Tree, part: str, split: str, layout: str, mistakes: Mistakes) -> Listing | None:
    if layout == "cifar10":
        stems = [f"data_batch_{number}" for number in range(1, 6)] if part == "train" else ["test_batch"]
        meta, class_list, label, label_bytes = "batches.meta", "batches.meta.txt", "label", 1
        known: tuple[str, ...] = CIFAR10_CLASSES
    else:
        stems = [part]
        meta, class_list, label, label_bytes = "meta", "fine_label_names.txt", "fine_label", 2
        known = numbered_classes(99, layout)
    for base in ("", *(f"{folder}/" for folder in tree.folders())):
        files = [base + stem for stem in stems]
        if all(tree.exists(file) for file in (*files, base + meta)):
            batches = [_python_batch(tree, file, f"{label}s") for file in files]
            classes = _class_names(tree, base + meta, f"{label}_names")
        elif all(tree.exists(f"{file}.bin") for file in files):
            batches = [_binary_batch(tree, f"{file}.bin", label_bytes) for file in files]
            classes = _text_names(tree, base + class_list) or known
        else:
            continue
        images = np.concatenate([pixels for pixels, _ in batches])
        return _from_arrays(tree, images, [label for _, labels in batches for label in labels], classes, layout, split)
    folders = tree.folders()
    if part in folders or (len(folders) == 1 and part in tree.folders(folders[0])):
        base, _ = split_base(tree, part, "yes")
        names, labels, classes, report = class_folders(tree, base, known if layout == "cifar10" else None, mistakes)
        if len(classes) != len(known):
            raise ValueError(f"{tree.where(base)}: {len(classes)} class folders, {layout} has {len(known)}")
        return Listing(tree, names, labels, classes, layout, split, report=report)
    return None


def _from_arrays(
    tree: Tree, images: np.ndarray, labels: list[int], classes: tuple[str, ...], layout: str, split: str
) -> Listing:
    names = [f"{split}/{number:05d}.png" for number in range(len(images))]

    def read(name: str) -> bytes:
        return encode(np.ascontiguousarray(images[int(name[-9:-4])].transpose(1, 2, 0)), "png")

    return Listing(MemoryTree(tree.root, read), names, labels, classes, layout, split)


def _python_batch(tree: Tree, name: str, key: str) -> tuple[np.ndarray, list[int]]:
    where = tree.where(name)
    batch = _unpickled(tree, name)
    images, labels = batch.get("data"), batch.get(key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise ValueError(f"{where}: its 'data' is not an array (N, {_PIXELS}) of uint8; fetch it again")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise ValueError(f"{where}: its {key!r} are not {len(images)} integers; fetch it again")
    return images.reshape(-1, 3, 32, 32), labels


def _class_names(tree: Tree, name: str, key: str) -> tuple[str, ...]:
    names = _unpickled(tree, name).get(key)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{tree.where(name)}: no {key!r} in it; fetch it again")
    return tuple(map(as_text, names))


def _unpickled(tree: Tree, name: str) -> dict[str, Any]:
    content = load_plain(tree.read(name), tree.where(name))
    if not isinstance(content, dict):
        raise ValueError(f"{tree.where(name)}: not one of CIFAR's pickles: it holds a {type(content).__name__}")
    return {as_text(key): value for key, value in content.items()}


def _binary_batch(tree: Tree, name: str, label_bytes: int) -> tuple[np.ndarray, list[int]]:
    data = tree.read(name)
    size = label_bytes + _PIXELS
    if not data or len(data) % size:
        raise ValueError(
            f"{tree.where(name)}: {len(data):,} bytes are not a multiple of the record size {size}: cut short? fetch it"
            " again"
        )
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1].tolist()


def _text_names(tree: Tree, name: str) -> tuple[str, ...]:
    if not tree.exists(name):
        return ()
    return tuple(line.strip() for line in tree.read(name).decode("latin-1").splitlines() if line.strip())
