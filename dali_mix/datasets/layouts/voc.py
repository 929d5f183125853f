"""Layout `voc`: multi-label targets or boxes from PASCAL VOC's devkit, or from any set in the same format.

The files are organized in one of these ways:

- the devkit: VOCdevkit/VOC<year>/ with Annotations/ID.xml, ImageSets/Main/SPLIT.txt and JPEGImages/ID.jpg. Several
  years are packed into one set (`--years 2007,2012`)
- a Roboflow export: SPLIT/ID.jpg and SPLIT/ID.xml
- a CVAT export: the folder of one year, with a labelmap.txt
- a single split without lists: Annotations/ with JPEGImages/, annotations/ with images/ (Kaggle), or one folder with
  ID.jpg and ID.xml

A multi-label target is 1 if the image has an object of the class that is not difficult, and 0 if it has no object of
the class. If all objects of the class in the image are difficult, the target is 0 in a training split and -1 (ignore)
in others.

Corners in VOC's files are 1-based and inclusive: a box that spans all 500 pixels of a row has x from 1 to 500, which is
stored as 0.0 to 1.0. CVAT writes 0 to 500 for such a box.

More than 300 lines: the folders and the content of the XML are interpreted together.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from dali_mix._labels import bad_box_text, bad_boxes, label_of
from dali_mix._text import composed, counted, printable
from dali_mix.datasets.annotations import (
    OR_TREAT,
    against_published,
    choose_task,
    image_size,
    labelled,
    read_xml,
    report_bad_boxes,
    treat_boxes,
    xml_number,
)
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import TRAINING_SPLITS, Listing, Options, join_reports, listed_paths, numbered_lines
from dali_mix.datasets.mistakes import Mistakes, also
from dali_mix.datasets.trees import Tree, check_name
from dali_mix.datasets.val_share import of_share, shared_split
from dali_mix.tasks import DETECTION, MULTILABEL

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# Images per split, from the challenge's statistics: host.robots.ox.ac.uk/pascal/VOC/voc2007/dbstats.html and voc2012.
PUBLISHED = {
    ("2007", "train"): 2501, ("2007", "val"): 2510, ("2007", "trainval"): 5011, ("2007", "test"): 4952,
    ("2012", "train"): 5717, ("2012", "val"): 5823, ("2012", "trainval"): 11540,
}  # fmt: skip
_LABEL_MAP = "labelmap.txt"  # written by CVAT


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels, 0-based, x2 and y2 exclusive
    difficult: bool
    where: str


class _Image(NamedTuple):
    name: str
    listed: str  # file and line that list the image, or its annotation
    annotation: str
    size: tuple[int, int] | None  # height, width; None if not annotated
    objects: list[_Object]
    filename: str  # the image's name in the annotation
    first: int  # coordinate of the first pixel in the annotation: 1, or 0 for CVAT


def voc(root: Path, split: str, options: Options) -> Listing:
    """List split "train", "val", "trainval", "test" or any other list in ImageSets/Main.

    `--task` is multilabel (default) or detection. All years in `--years` are listed; without this option, the set must
    have only one year. A set without lists is one split of any name, or two with `--val-share`.

    Classes are the standard 20, or those of labelmap.txt in a CVAT export, unless `--classes FILE` is set. With
    `--classes auto`, they are the sorted names in all annotations of these years, so that every split has the same
    classes. This is the default for a Roboflow export and for a set without lists.

    Raise FileNotFoundError or ValueError naming file and object if anything is missing, malformed or of an unknown
    class.
    """
    task = choose_task("voc", options, MULTILABEL, DETECTION)
    mistakes = options.mistakes
    tree = open_tree(root, options.follow_links)
    listed = shared_split(options, split)
    unlisted = None if options.years else _unlisted(tree)
    exported = [] if options.years or unlisted else _exported(tree)
    years = [] if exported or unlisted else _years(tree, options.years)
    bases = [base for _, base in years]
    if unlisted:
        images, exported = _paired(tree, *unlisted, mistakes), [unlisted[1]]
    elif exported:
        images = _beside(tree, listed, exported, mistakes)
    else:
        images = [image for base in bases for image in _images(tree, base, listed, mistakes)]
    if options.classes_file == Path("auto") or (exported and options.classes_file is None):
        classes = _classes_there(tree, exported or [f"{base}Annotations" for base in bases], mistakes)
    else:
        classes = options.class_names() or _mapped_classes(tree, bases) or VOC_CLASSES
    number_of = {name: number for number, name in enumerate(classes)}
    unknown: dict[str, list[str]] = {}
    for item in (item for image in images for item in image.objects):
        if item.name not in number_of:
            unknown.setdefault(item.name, []).append(item.where)
    for name, (first, *others) in unknown.items():
        known = f"{len(classes)} classes{' of PASCAL VOC' * (classes is VOC_CLASSES)}"
        wrong = f"{first}: class {name!r} is not among the {known}{also(len(others), 'object')}"
        advice = "correct it, or name the classes with --classes FILE, or --classes auto"
        mistakes.add(ValueError(f"{wrong}; {advice}"))
    labels: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    names, places = [], []
    counts: Counter[str] = Counter()
    for image in images:
        with mistakes:
            if task.boxes:
                sizes.append(image.size or image_size(tree, image.name, options.exif == "ignore"))
            names.append(image.name)
            places.append(image.listed)
            if task.boxes:
                labels.append(_boxes(image, sizes[-1], number_of, options, counts))
            else:
                for item in filter(_is_turned, image.objects):
                    mistakes.add(ValueError(_turned_text(item, image.first)))
    mistakes.settle(tree, names, places)
    report = {}
    if classes == VOC_CLASSES and years and all((year, split) in PUBLISHED for year, _ in years):
        what = f"VOC{'+'.join(year for year, _ in years)} {split}"
        report = against_published(len(images), sum(PUBLISHED[year, split] for year, _ in years), what)
    report = join_reports(report, _doubtful(images, task.boxes), report_bad_boxes(counts))
    if unlisted and options.val_share is None:
        notice = f"no list of splits: all {len(images):,} images are split {split}; --val-share 0.2 makes train and val"
        report = join_reports(report, {"notices": [notice]})
    if not task.boxes:
        labels = [_targets(image, number_of, -1 if split not in TRAINING_SPLITS else 0) for image in images]
    listing = Listing(
        tree, names, labels, classes, "voc", split, task.name, places=places, sizes=sizes or None, report=report
    )
    return of_share(labelled(listing, options, keep=True), options)


def _years(tree: Tree, asked: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return a list of (year, folder with a final "/" unless it is the root), one for each year to read.

    If `asked` is empty and there is a folder Annotations instead of VOC<year>, the list has one item with the year "".

    Raise FileNotFoundError if a year in `asked` is missing, or if the tree has neither VOC<year> nor Annotations. Raise
    ValueError if `asked` is empty and there are several years.
    """
    for devkit in ("VOCdevkit/", "") if tree.exists("VOCdevkit") else ("",):
        folders = tree.folders(devkit.rstrip("/"))
        there = [name[3:] for name in folders if name.startswith("VOC") and name[3:].isdigit()]
        if there or tree.exists(f"{devkit}Annotations"):
            break
    if not there:
        if tree.exists(f"{devkit}Annotations") and not asked:
            return [("", devkit)]  # the root is the folder of one year
        raise FileNotFoundError(
            f"{tree.root}: no VOCdevkit/VOC2007 or the like in it; --root must contain VOCdevkit, the folders train"
            " and valid of a Roboflow export, Annotations and JPEGImages, or images with an .xml file next to each"
        )
    for year in asked:
        if year not in there:
            folder = f"{tree.where(devkit)}VOC{year}"
            raise FileNotFoundError(f"{folder}: no such folder; choose --years among {', '.join(there)}")
    if not asked and len(there) > 1:
        raise ValueError(f"{tree.root}: there are years {', '.join(there)}: choose, e.g. --years {','.join(there)}")
    return [(year, f"{devkit}VOC{year}/") for year in asked or there]


def _exported(tree: Tree) -> list[str]:
    """Return the splits of a Roboflow export, which are the top-level folders with annotations.

    Return [] for a devkit, or if the root has a folder Annotations.
    """
    folders = tree.folders()
    if any(name in ("VOCdevkit", "Annotations") or (name[:3] == "VOC" and name[3:].isdigit()) for name in folders):
        return []
    return [folder for folder in folders if _holds_xml(tree, folder)]


def _beside(tree: Tree, split: str, exported: list[str], mistakes: Mistakes) -> list[_Image]:
    """Return the images of a Roboflow export's split, each with the annotation in the same folder.

    Raise FileNotFoundError if the split does not exist.
    """
    if split not in exported:
        there = ", ".join(exported)
        raise FileNotFoundError(f"{tree.where(split)}: no annotations there; choose --split among {there}")
    return _paired(tree, split, split, mistakes)


def _unlisted(tree: Tree) -> tuple[str, str] | None:
    """Return (image folder, annotation folder) of a set without split lists; both are "" if all files are in the root.

    Return None if the root has a folder of the devkit (VOCdevkit, VOC<year> or ImageSets), or no annotations.
    """
    folders = {name.lower(): name for name in tree.folders()}
    if any(name in ("vocdevkit", "imagesets") or (name[:3] == "voc" and name[3:].isdigit()) for name in folders):
        return None
    images = next((folders[name] for name in ("jpegimages", "images") if name in folders), None)
    annotations = folders.get("annotations")
    if annotations is not None and images is not None:
        return (images, annotations) if _holds_xml(tree, annotations) else None
    return ("", "") if any("/" not in name and name.endswith(".xml") for name in tree.walk()) else None


def _holds_xml(tree: Tree, folder: str) -> bool:
    return any(name.endswith(".xml") for name in tree.walk(folder))


def _paired(tree: Tree, image_folder: str, folder: str, mistakes: Mistakes) -> list[_Image]:
    """Return the images of `image_folder`, each with the annotation of the same name in `folder`.

    Images without an annotation, and annotations without an image, are mistakes.
    """
    there = "next to it" if folder == image_folder else f"of its name in {tree.where(folder)}"

    def key(name: str, base: str) -> str:
        return composed(name.removeprefix(f"{base}/").rpartition(".")[0])

    named = {key(name, folder): name for name in tree.walk(folder) if name.endswith(".xml")}
    images = []
    for name in tree.images(image_folder):
        with mistakes:
            annotation = named.pop(key(name, image_folder), None)
            if annotation is None:
                raise FileNotFoundError(
                    f"{tree.where(name)}: no .xml file {there}, or another image has it; fetch it, or remove the image"
                )
            images.append(_annotated(tree, name, tree.where(annotation), annotation, 1, mistakes))
    there = there.replace(folder, image_folder) if folder else there
    for lost in named.values():
        wrong = f"{tree.where(lost)}: no image {there}; fetch it, or remove the annotation"
        mistakes.add(FileNotFoundError(wrong))
    return images


def _images(tree: Tree, base: str, split: str, mistakes: Mistakes) -> list[_Image]:
    for folder in ("Annotations", "JPEGImages"):
        if not tree.exists(base + folder):
            raise FileNotFoundError(f"{tree.where(base + folder)}: no such folder; fetch the devkit again")
    listed = f"{base}ImageSets/Main/{check_name(split, 'ImageSets/Main', '--split')}.txt"
    if not tree.exists(listed):
        folder = f"{base}ImageSets/Main"
        if not tree.exists(folder):
            raise FileNotFoundError(f"{tree.where(folder)}: no such folder; fetch the devkit again")
        files = (name.rpartition("/")[2] for name in tree.walk(folder))
        there = ", ".join(name[:-4] for name in files if name.endswith(".txt") and "_" not in name)
        raise FileNotFoundError(f"{tree.where(listed)}: no such file; choose --split among {there or 'none'}")
    files_of: dict[str, list[str]] = {}
    for name in tree.images(f"{base}JPEGImages"):
        key = name.removeprefix(f"{base}JPEGImages/").rpartition(".")[0]
        files_of.setdefault(composed(key), []).append(name)
    images: list[_Image] = []
    first = 0 if tree.exists(base + _LABEL_MAP) else 1
    for key, spot in listed_paths(tree, listed, base, mistakes, may_be_empty=True).items():
        with mistakes:
            try:
                annotation = f"{base}Annotations/{key}.xml"
                name, *others = files_of.get(composed(key), [f"{base}JPEGImages/{key}.jpg"])
                if others:
                    raise ValueError(f"{spot}: {key} may be {name} or {others[0]}: remove one of them")
                images.append(_annotated(tree, name, spot, annotation, first, mistakes))
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{spot}: {error}; fetch it, or correct the list") from None
    return images


def _mapped_classes(tree: Tree, bases: list[str]) -> tuple[str, ...]:
    """Return the classes in the files labelmap.txt of the folders `bases`, or () if none of the folders has this file.

    CVAT writes it with lines `name:color:parts:actions`. The class "background" and duplicates are left out.
    """
    maps = [base + _LABEL_MAP for base in bases if tree.exists(base + _LABEL_MAP)]
    lines = [line for name in maps for _, line in numbered_lines(tree.read(name), tree.where(name))]
    names = [line.partition(":")[0].strip() for line in lines if not line.startswith("#")]
    return tuple(dict.fromkeys(name for name in names if name not in ("", "background")))


def _classes_there(tree: Tree, folders: list[str], mistakes: Mistakes) -> tuple[str, ...]:
    files = [name for folder in folders for name in tree.walk(folder) if name.endswith(".xml")]
    found: set[str] = set()
    for name in files:
        with mistakes:
            objects = read_xml(tree, name, "annotation").findall("object")
            found.update(item.findtext("name", "").strip() for item in objects)
    if not found - {""}:
        raise ValueError(f"{tree.where(folders[0])}: no object in it, so --classes auto finds no class")
    return tuple(sorted(found - {""}))


def _annotated(tree: Tree, name: str, listed: str, annotation: str, first: int, mistakes: Mistakes) -> _Image:
    where = tree.where(annotation)
    content = read_xml(tree, annotation, "annotation")
    items = enumerate(content.findall("object"), start=1)
    objects = mistakes.each(_object, ((item, f"{where}: object {number}", first) for number, item in items))
    height, width = (xml_number(content, f"size/{side}", where, missing=0) for side in ("height", "width"))
    for side, pixels in (("height", height), ("width", width)):
        if pixels >= 1 << 20:
            raise ValueError(f"{where}: field 'size/{side}' is {pixels:g}, not a number of pixels; correct it")
    filename = (content.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    known = height >= 1 and width >= 1  # some tools omit the size, or write 0
    size = (int(height), int(width)) if known else None
    return _Image(name, listed, annotation, size, objects, filename, first)


def _object(item: Element, spot: str, first: int) -> _Object:
    kind = (item.findtext("name") or "").strip()
    if not kind:
        raise ValueError(f"{spot}: field 'name' is missing or empty; correct it")
    difficult = xml_number(item, "difficult", spot, missing=0)
    if difficult not in (0, 1):
        raise ValueError(f"{spot}: field 'difficult' is {difficult:g}, expected 0 or 1")
    corners = [xml_number(item, f"bndbox/{corner}", spot) for corner in ("xmin", "ymin", "xmax", "ymax")]
    box = corners[0] - first, corners[1] - first, corners[2], corners[3]
    return _Object(kind, box, bool(difficult), spot)


def _is_turned(item: _Object) -> bool:
    return item.box[0] >= item.box[2] or item.box[1] >= item.box[3]


def _turned_text(item: _Object, first: int) -> str:
    corners = [item.box[0] + first, item.box[1] + first, *item.box[2:]]
    return (
        f"{item.where}: the box {corners} (xmin, ymin, xmax, ymax) is empty or has swapped corners: are the last two a"
        " width and a height? correct it"
    )


def _doubtful(images: list[_Image], boxed: bool) -> dict[str, Any]:
    """Return a report with notices about valid but unusual annotations; {} if there are none.

    `boxed` is True if the task has boxes, so that these are examined too.
    """
    notices = []
    others = [image for image in images if image.filename and not _same_name(image)]
    if others:
        own, other = others[0].annotation.rpartition("/")[2], printable(others[0].filename)
        notices.append(
            f"{counted(len(others), 'annotation names', 'annotations name')} another image in <filename> (first: {own}"
            f" says {other}); each is used for the image that has the annotation's own name"
        )
    boxes = [item.box for image in images if image.first for item in image.objects] if boxed else []
    if thin := sum(x2 - x1 == 1 or y2 - y1 == 1 for x1, y1, x2, y2 in boxes):
        notices.append(
            f"{counted(thin, 'box is', 'boxes are')} one pixel wide or high (xmin = xmax or ymin = ymax): VOC counts"
            " the last pixel"
        )
    return {"notices": notices} if notices else {}


def _same_name(image: _Image) -> bool:
    own = image.annotation.rpartition("/")[2].removesuffix(".xml")
    return own in (image.filename, image.filename.rpartition(".")[0])


def _targets(image: _Image, number_of: dict[str, int], only_difficult: int) -> np.ndarray:
    target = np.zeros(len(number_of), dtype=np.float32)
    target[[number_of[item.name] for item in image.objects if item.difficult]] = only_difficult
    target[[number_of[item.name] for item in image.objects if not item.difficult]] = 1
    return target


def _boxes(
    image: _Image, size: tuple[int, int], number_of: dict[str, int], options: Options, counts: Counter[str]
) -> np.ndarray:
    items = [item for item in image.objects if item.name in number_of]
    height, width = size
    boxes = np.array([item.box for item in items], dtype=np.float64).reshape(-1, 4) / (width, height, width, height)

    def wrong(row: int) -> str:
        if _is_turned(items[row]):
            return _turned_text(items[row], image.first) + OR_TREAT
        return f"{items[row].where}: {bad_box_text(boxes[row], *size)}; correct it{OR_TREAT}"

    stay = treat_boxes(boxes, bad_boxes(boxes, *size), wrong, options, counts)
    kinds, difficult = [number_of[item.name] for item in items], [item.difficult for item in items]
    return label_of(np.column_stack([kinds, boxes, difficult])[stay])
