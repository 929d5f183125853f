"""Messages that give advice: a command that prints each message, and a command that follows the advice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.datasets.files import archived, write_jpegs
from tests.datasets.images.test_orientation import write_dataset
from tests.datasets.test_coco_sizes import coco
from tests.datasets.test_nus_wide import nus_wide
from tests.recordio.samples import encoded, image_folder, small_set
from tests.recordio.test_adopt import classes, foreign


class Case(NamedTuple):
    """A message that gives advice.

    `make(folder)` creates the files. `command` prints a message that contains `advice`. `follow` says how to change
    the command: "+ OPTIONS" appends options, "- OPTIONS" removes them, "= TEXT" writes the file of --classes, and
    anything else is a new command.
    """

    advice: str
    make: Callable[[Path], object]
    command: str
    follow: str


def images(root: Path) -> Path:
    return image_folder(root / "in", 2, 3)


def empty_class(root: Path) -> None:
    for file in (images(root) / "class1").iterdir():
        file.unlink()
    (root / "names").write_text("class0\nclass1\n")


def image_list(name: str, text: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        images(root)
        (root / "in" / name).write_text(text)

    return make


def extra_image(name: str, data: bytes) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        images(root)
        (root / "in" / "class0" / name).write_bytes(data)

    return make


def voc(root: Path, *years: str) -> None:
    for year in years:
        base = root / "in" / "VOCdevkit" / f"VOC{year}"
        write_dataset(base, "voc", [1, 1], (48, 64))


def unlisted_voc(root: Path) -> None:
    base = root / "in"
    write_dataset(base, "voc", [1] * 4, (48, 64))
    shutil.rmtree(base / "ImageSets")


def empty_voc(root: Path) -> None:
    voc(root, "2007")
    for file in root.rglob("*.xml"):
        file.write_text("<annotation></annotation>")


def vg500(root: Path) -> None:
    for name in ("in", "part"):
        write_jpegs(root / name, "ssgrl_partition/x")
        (root / name / "ssgrl_partition" / "test_list_500.txt").write_text("1.jpg\n")
        (root / name / "vg_category_500_labels_index.json").write_text('{"1.jpg": [3]}')
    write_jpegs(root / "in", "VG_100K/1.jpg")


def flat_imagenet_val(root: Path) -> None:
    write_jpegs(root / "in", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
    (root / "labels.txt").write_text("ILSVRC2012_val_00000001.JPEG n01000000\nILSVRC2012_val_00000002.JPEG n02000000\n")
    (root / "in" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")


def tiny_imagenet(root: Path) -> None:
    for name in ("tiny-imagenet-200", "tiny-imagenet-copy"):
        base = root / "more" / name
        write_jpegs(base, "train/n01/images/0.JPEG", "train/n02/images/0.JPEG")
        (base / "wnids.txt").write_text("n01\nn02\n")
        (root / "in").mkdir(exist_ok=True)
        archived(root / "more" / name, root / "in" / f"{name}.zip")


def unlabelled_coco(root: Path) -> None:
    coco(root / "in", "multilabel")
    file = root / "in" / "annotations" / "instances_val.json"
    text = file.read_text()
    file.write_text(text[: text.index('"annotations"')] + '"annotations": []}')


def linked_classes(root: Path) -> None:
    images(root).rename(root / "away")
    (root / "in").mkdir()
    for label in range(2):
        (root / "in" / f"class{label}").symlink_to(root / "away" / f"class{label}")


def box_beyond_image(root: Path) -> None:
    image_list("a.json", '[{"path": "class0/0.jpeg", "boxes": [[0, 0, 0, 1, 1.5]]}]')(root)


def splits_or_classes(root: Path) -> None:
    images(root)
    write_jpegs(root / "in", "train/a/0.jpg", "train/b/0.jpg")


def incomplete_set(root: Path, *, keep: str) -> None:
    """Create a set and delete its files whose names do not match the pattern `keep`."""
    small_set(root / "set", 6, shards=2 if "-" in keep else 1)
    for path in root.glob("set*"):
        if not re.fullmatch(keep, path.name):
            path.unlink()


def damaged(suffix: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        small_set(root / "set", 6)
        path = root / f"set{suffix}"
        data = bytearray(path.read_bytes())
        data[4] ^= 255
        path.write_bytes(data)

    return make


def vector_labels(root: Path) -> None:
    foreign(root / "set.rec", [([float(number), 0.5], number, encoded("JPEG", seed=number)) for number in range(3)])


def repeated_ids(root: Path) -> None:
    foreign(root / "set.rec", [(0, 0, encoded("JPEG"))] * 2)


def with_index(text: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        foreign(root / "set.rec", classes(3))
        (root / "set.idx").write_text(text)

    return make


def coco_val(root: Path) -> None:
    coco(root / "in", "multilabel")


def voc_2007(root: Path) -> None:
    voc(root, "2007")


def three_splits(root: Path) -> None:
    splits_or_classes(root)
    write_jpegs(root / "in", "val/a/0.jpg")


def class_named_nan(root: Path) -> None:
    image_list("train.txt", "class0/0.jpeg\tnan\nclass0/1.jpeg\t1\n")(root)
    (root / "names").write_text("1\nnan\n")


def three_class_names(root: Path) -> None:
    foreign(root / "set.rec", classes(3))
    (root / "names").write_text("a\nb\nc\n")


def two_recs(root: Path) -> None:
    small_set(root / "set")
    foreign(root / "b.rec", classes(2))


def yolo(root: Path) -> None:
    write_jpegs(root / "in", "train/a.jpg")
    (root / "in" / "train" / "a.txt").write_text("1 0.5 0.5 1 1\n")
    (root / "names.txt").write_text("cat\ndog\n")


COCO, VOC = "pack coco --root in --split val --out set", "pack voc --root in --split val --out set"


FOLDER = "pack imagefolder --root in --out set"


LIST = "pack list --root in --out set"


GIF, TIFF, PGM = encoded("GIF"), encoded("TIFF"), b"P2\n2 2\n255\n1 2 3 4\n"


CASES = [
    Case("--split-folders no", lambda root: write_jpegs(root / "in", "train/0.jpg", "val/0.jpg"), FOLDER,
         "+ --split-folders no"),
    Case("--split-folders yes", splits_or_classes, FOLDER, "+ --split-folders yes --force"),
    Case("if all are classes, pass --split-folders no", three_splits, FOLDER,
         "+ --split-folders no --force"),
    Case("if they are splits, pass --split ",
         lambda root: write_jpegs(root / "in", "p_x/a/0.jpg", "p_x/b/0.jpg", "p_y/a/0.jpg",
         "p_y/b/0.jpg"), FOLDER, "+ --split p_x --force"),
    Case("choose --split", lambda root: write_jpegs(root / "in", "val/a/0.jpg", "val/b/0.jpg"), FOLDER,
         "+ --split val"),
    Case("the folders are class0, class1: choose --split", images, FOLDER + " --split-folders yes",
         "- --split-folders yes"),
    Case("did you mean --split train", images, FOLDER + " --split tarin", "+ --split train"),
    Case("if it is not a class, correct --root or --split",
         lambda root: (images(root), write_jpegs(root / "one", "a/0.jpg")),
         "pack imagefolder --root one --out set", "+ --root in --force"),
    Case("pass --classes FILE with the names in that order, one per line",
         lambda root: (write_jpegs(root / "in", "1/0.jpg",
         "2/0.jpg", "10/0.jpg"), (root / "names").write_text("1\n2\n10\n")), FOLDER, "+ --classes names --force"),
    Case("of --classes; correct one", image_list("names", "class0\nx\n"), FOLDER + " --classes in/names",
         "= class0\nclass1\n"),
    Case("check --root", images, "pack imagefolder --root inn --out set", "+ --root in"),
    Case("pass --classes FILE with the numbers that are classes", lambda root: (
        image_list("a.txt", "class0/0.jpeg\t0\nclass1/0.jpeg\t2\n")(root), (root / "numbers.txt").write_text("0\n2\n")),
        LIST + " --list in/a.txt", "+ --classes numbers.txt --force"),
    Case("check --list", image_list("a.txt", "class0/0.jpeg\ta\n"), LIST + " --list in/b.txt", "+ --list in/a.txt"),
    Case("check --classes", images, FOLDER + " --classes in/none", "- --classes in/none"),
    Case("--follow-links is for folders: leave it out", lambda root: archived(images(root), root / "in.zip"),
         "pack imagefolder --root in.zip --out set --follow-links", "- --follow-links"),
    Case("--follow-links if its target is intended", linked_classes, FOLDER, "+ --follow-links"),
    Case("--skip-bad leaves such images out", extra_image("bad.jpg", b"<html>"), FOLDER, "+ --skip-bad"),
    Case("--bad-boxes clips or drops such boxes", box_beyond_image, LIST + " --list in/a.json", "+ --bad-boxes clip"),
    Case("by `dali-mix pack --bad-boxes`", lambda root: (box_beyond_image(root),
         foreign(root / "own.rec", [([2.0, 6.0, 0.0, 0.0, 0.0, 1.0, 1.5, 0.0], 0, encoded("JPEG"))])), "adopt own.rec",
         LIST + " --list in/a.json --bad-boxes clip"),
    Case("--bad-boxes is for boxes, and multilabel labels have none: leave it out", coco_val,
         COCO + " --bad-boxes drop", "- --bad-boxes drop"),
    Case("pack with --encoding png", extra_image("a.gif", GIF), FOLDER, "+ --encoding png"),
    Case("BMP and PNM; pack with --encoding png", extra_image("a.tif", TIFF), FOLDER, "+ --encoding png"),
    Case("binary PGM and PPM; pack with --encoding png", extra_image("a.pgm", PGM), FOLDER, "+ --encoding png"),
    Case("convert it, or pack with --encoding png", extra_image("a.pgm", b"P5\n2 2\n99\n1234"), FOLDER,
         "+ --encoding png"),
    Case("more than --max-pixels", images, FOLDER + " --max-pixels 10", "+ --max-pixels 10000"),
    Case("--shards 1 to 6", images, FOLDER + " --shards 7", "+ --shards 6"),
    Case("use fewer --shards", extra_image("9.jpg", b"<html>"), FOLDER + " --no-shuffle --skip-bad --shards 7",
         "+ --shards 2"),
    Case("pass --force to replace it", lambda root: (images(root), small_set(root / "set")), FOLDER, "+ --force"),
    Case("is a folder; remove it, or choose another prefix", lambda root: (images(root), (root / "set.rec").mkdir()),
         FOLDER, "+ --out other"),
    Case("a folder, not the prefix of a set; write for example set/train", lambda root: (images(root),
         (root / "set").mkdir()), FOLDER, "+ --out set/train"),
    Case("say which file with --list FILE", image_list("a.txt", "class0/0.jpeg\ta\n"), LIST, "+ --list in/a.txt"),
    Case("(--task multilabel?)", image_list("train.txt", "class0/0.jpeg\t1\t0\n"), LIST + " --task classification",
         "+ --task multilabel"),
    Case("list all names with --classes FILE", class_named_nan, LIST, "+ --classes names"),
    Case("name them with --classes FILE if so", lambda root: (image_list("train.txt", "class0/0.jpeg\t100000\n")(root),
         (root / "names").write_text("".join(f"{number}\n" for number in range(100_001)))), LIST, "+ --classes names"),
    Case("is not among the classes of --classes", image_list("train.csv", "path,a,b\nclass0/0.jpeg,1,0\n"),
         LIST + " --classes names", "= a\nb\n"),
    Case("of --classes has no column", lambda root: (image_list("train.csv", "path,a,b\nclass0/0.jpeg,1,0\n")(root),
         (root / "names").write_text("a\nb\nc\n")), LIST + " --classes names", "= a\nb\n"),
    Case("choose --split train or val", images, FOLDER + " --val-share 0.5 --split test", "+ --split val"),
    Case("0.1 makes a tenth the split val", images, FOLDER + " --val-share 10", "+ --val-share 0.1"),
    Case("leave --val-share out", lambda root: write_jpegs(root / "in", "train/a/0.jpg", "val/a/0.jpg"),
         FOLDER + " --val-share 0.1", "- --val-share 0.1"),
    Case("is for --task multilabel or detection", coco_val,
         COCO + " --task classification", "+ --task multilabel"),
    Case("--classes does not apply", lambda root: (nus_wide(root / "in"), (root / "names").write_text("a\n")),
         "pack nus-wide --root in --out set --classes names", "- --classes names"),
    Case("name the classes with --classes FILE if only this split has none of it", empty_class, FOLDER,
         "+ --classes names"),
    Case("choose --split among val", coco_val, "pack coco --root in --out set",
         "+ --split val"),
    Case("--root must contain annotations/", coco_val,
         "pack coco --root in/val --split val --out set", "+ --root in"),
    Case("--task multilabel needs none", coco_val,
         COCO + " --task detection", "+ --task multilabel"),
    Case("keep them all with --unlabelled keep", unlabelled_coco, COCO,
         "+ --unlabelled keep"),
    Case("pack with --exif ", lambda root: write_dataset(root / "in", "coco", [6], (48, 64)),
         "pack coco --root in --split val --task detection --out set", "+ --exif ignore"),
    Case("pack with --exif ignore, else with --exif apply",
         lambda root: write_dataset(root / "in", "coco", [3], (48, 64)),
         "pack coco --root in --split val --task detection --out set", "+ --exif apply --force"),
    Case("--exif is for boxes, and multilabel labels have none: leave it out", coco_val,
         COCO + " --exif apply", "- --exif apply"),
    Case("no object in it, so --classes auto finds no class", empty_voc,
         "pack voc --root in --split val --classes auto --out set", "- --classes auto"),
    Case("fetch it, or correct --root", vg500, "pack vg500 --root in/VG_100K --split val --out set", "+ --root in"),
    Case("--root must contain them", vg500, "pack vg500 --root part --split val --out set", "+ --root in"),
    Case("pack one with `dali-mix pack`, or check the prefix", lambda root: small_set(root / "set"), "inspect sett",
         "inspect set"),
    Case("pass --classes FILE", lambda root: (yolo(root), (root / "in" / "data.yaml").write_text("train: train\n")),
         "pack yolo --root in --out set", "+ --classes names.txt"),
    Case("or name the classes with --classes FILE", yolo, "pack yolo --root in --out set", "+ --classes names.txt"),
    Case("--val-share 0.2 makes train and val", unlisted_voc, VOC, "+ --val-share 0.2 --force"),
    Case("or --classes auto", voc_2007, VOC, "+ --classes auto"),
    Case("choose, e.g. --years ", lambda root: voc(root, "2007", "2012"),
         "pack voc --root in --split val --classes auto --out set", "+ --years 2007,2012"),
    Case("no such folder; choose --years among 2007", voc_2007, VOC + " --years 2010", "+ --classes auto --years 2007"),
    Case("no such file; choose --split among val", voc_2007,
         "pack voc --root in --split train --classes auto --out set", "+ --split val"),
    Case("--root must contain VOCdevkit", voc_2007,
         "pack voc --root in/VOCdevkit/VOC2007/JPEGImages --split val --classes auto --out set", "+ --root in"),
    Case("or give a list of `file wnid` with --list", flat_imagenet_val,
         "pack imagenet-val --root in --split val --out set",
         "+ --list labels.txt"),
    Case("give the labels with --list FILE", lambda root: (flat_imagenet_val(root),
         (root / "in" / "ILSVRC2012_validation_ground_truth.txt").unlink()),
         "pack imagenet-val --root in --split val --out set", "+ --list labels.txt"),
    Case("pass one of them as --root", tiny_imagenet, "pack tiny-imagenet --root in --out set",
         "+ --root in/tiny-imagenet-copy.zip"),
    Case("--root is the folder tiny-imagenet-200",
         lambda root: (tiny_imagenet(root), shutil.move(root / "in", root / "away"),
         (root / "in").mkdir()), "pack tiny-imagenet --root in --out set", "+ --root more/tiny-imagenet-200"),
    Case("`dali-mix adopt --reindex set`", lambda root: incomplete_set(root, keep=r"set\.(rec|npy|json)"),
         "inspect set",
         "adopt --reindex set"),
    Case("adopt --reindex", damaged(".idx"), "verify set", "adopt --reindex set"),
    Case("`dali-mix adopt set.rec --force`", lambda root: incomplete_set(root, keep=r"set\.rec"), "inspect set",
         "adopt set.rec --force"),
    Case("`dali-mix adopt set.rec --force`", lambda root: incomplete_set(root, keep=r"set\.(rec|idx|npy)"),
         "inspect set.rec",
         "adopt set.rec --force"),
    Case("`dali-mix adopt set-00000.rec set-00001.rec --out set --force`",
         lambda root: incomplete_set(root, keep=r"set-.*rec"),
         "inspect set", "adopt set-00000.rec set-00001.rec --out set --force"),
    Case("`dali-mix adopt set.rec --force`", damaged(".json"), "verify set", "adopt set.rec --force"),
    Case("`dali-mix adopt set.rec --force`", damaged(".npy"), "inspect set", "adopt set.rec --force"),
    Case("--renumber numbers them in the order of the file", repeated_ids, "adopt set.rec", "+ --renumber"),
    Case("pass --task classification", vector_labels, "adopt set.rec", "+ --task classification"),
    Case("as in insightface's sets, pass --task classification", vector_labels, "adopt set.rec",
         "+ --task classification"),
    Case("labels of 2 floats read as multi-label targets; if the first is the class, pass --task classification",
         lambda root: foreign(root / "set.rec", [([1.0, 0.0], 0, encoded("JPEG"))]), "adopt set.rec",
         "+ --task classification --force"),
    Case("specify the labels with --task and --classes", three_class_names,
         "adopt set.rec --task multilabel", "+ --task classification --classes names"),
    Case("--skip-bad skips such records", lambda root: foreign(root / "set.rec", [*classes(2), (0, 7, b"x")]),
         "adopt set.rec", "+ --skip-bad"),
    Case("--reindex replaces it", with_index("0\t0\n"), "adopt set.rec", "+ --reindex"),
    Case("choose another name with --out PREFIX", with_index("0\t0\n"), "adopt set.rec", "+ --out other"),
    Case("or pass --force to replace the manifest", two_recs,
         "adopt b.rec --out set --reindex", "+ --force"),
    Case("pass --out PREFIX for several files", lambda root: (foreign(root / "a.rec", classes(2)),
         foreign(root / "b.rec", classes(2, 9))), "adopt a.rec b.rec", "+ --out set"),
    Case("pass the .rec files", lambda root: foreign(root / "set.rec", classes(2)), "adopt .", "adopt set.rec"),
]  # fmt: skip
