"""`Writer`: accepted images and labels, the bytes it writes, and its state after an exception."""

import inspect
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from dali_mix._keywords import naming_keywords
from dali_mix.datasets import Writer, pack
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

CLASSES = ["cat", "dog", "bird"]
SUFFIXES = (".rec", ".idx", ".npy")


def pixels(seed, height=9, width=14):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(records, row):
    return np.array(Image.open(io.BytesIO(records.encoded(row).tobytes())).convert("RGB"))


def folder(root, count=40):
    """Write images of two classes, more than fit in one block."""
    for number in range(count):
        name = root / ("a", "b")[number % 2] / f"{number:02d}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(encoded("JPEG", 10 + number, 20, seed=number))
    return root


def bytes_of(prefix):
    return [prefix.with_name(prefix.name + suffix).read_bytes() for suffix in SUFFIXES]


def test_files_give_same_bytes_as_pack(tmp_path):
    root = folder(tmp_path / "images")
    pack("imagefolder", root=root, out=tmp_path / "packed", split="val", shuffle=False)
    with Writer(tmp_path / "written", classes=["a", "b"], split="val") as writer:
        for name in sorted(root.rglob("*.jpg")):
            writer.write(name, name.parent.name)
    assert bytes_of(tmp_path / "written") == bytes_of(tmp_path / "packed")
    assert writer.count == writer.info.count == 40
    info = Writer.from_dataset(ImageFolder(root), tmp_path / "dataset")
    assert bytes_of(tmp_path / "dataset") == bytes_of(tmp_path / "packed")
    assert info.classes == ("a", "b")


@pytest.mark.parametrize("options", [{"resize": 8}, {"encoding": "jpeg", "quality": 60}])
def test_options_give_same_bytes_as_pack(tmp_path, options):
    root = folder(tmp_path / "images", 4)
    pack("imagefolder", root=root, out=tmp_path / "packed", split="val", **options)
    Writer.from_dataset(ImageFolder(root), tmp_path / "written", **options)
    assert bytes_of(tmp_path / "written") == bytes_of(tmp_path / "packed")


def test_pixels_are_stored_losslessly(tmp_path):
    image = pixels(0)
    gray = image[:, :, 0]
    kinds = [
        image,
        Image.fromarray(image),
        torch.from_numpy(image).permute(2, 0, 1),
        tv_tensors.Image(image.transpose(2, 0, 1)),
    ]
    grays = [gray, gray[:, :, None], Image.fromarray(gray), torch.from_numpy(gray)[None]]
    with Writer(tmp_path / "set", classes=CLASSES) as writer:
        for one in (*kinds, *grays):
            writer.write(one, 1)
        writer.write(encoded("PNG", 9, 14), "bird", id=70)
    records = RecordSet(tmp_path / "set")
    assert all((decoded(records, row) == image).all() for row in range(4))
    assert all((decoded(records, row) == gray[:, :, None]).all() for row in range(4, 8))
    assert records.encoded(8).tobytes() == encoded("PNG", 9, 14)
    assert records.table["label"].tolist() == [1] * 8 + [2]
    assert records.table["id"].tolist() == [*range(8), 70]
    assert {*map(int, records.table["height"])} == {9}


def test_from_dataset_writes_transformed_images(tmp_path):
    root = folder(tmp_path / "images", 4)
    dataset = ImageFolder(root, transform=lambda image: pil_to_tensor(image.resize((6, 5))))
    Writer.from_dataset(dataset, tmp_path / "set")
    records = RecordSet(tmp_path / "set")
    assert torch.equal(torch.from_numpy(decoded(records, 3)).permute(2, 0, 1), dataset[3][0])
    done = []
    fake = FakeData(3, (3, 4, 5), 2)
    info = Writer.from_dataset(fake, tmp_path / "fake", classes=["a", "b"], each=lambda *n: done.append(n))
    assert info.count == 3 and done == [(1, 3), (2, 3), (3, 3)]
    fake.classes = [("great white", "white shark"), "hen"]
    assert Writer.from_dataset(fake, tmp_path / "words").classes == ("great white, white shark", "hen")
    with pytest.raises(ValueError, match="FakeData names no classes: give them"):
        Writer.from_dataset(FakeData(3), tmp_path / "other")


def test_multilabel_labels_by_name_or_vector(tmp_path):
    labels = [{"cat", "bird"}, [], "dog", [1, -1, 0], torch.tensor([0, 0, 1])]
    with Writer(tmp_path / "set", classes=CLASSES, task="multilabel") as writer:
        for label in labels:
            writer.write(pixels(1), label)
    rows = [RecordSet(tmp_path / "set").label(row).tolist() for row in range(5)]
    assert rows == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, -1, 0], [0, 0, 1]]
    assert writer.info.report["targets"] == {"1 (positive)": 5, "0 (negative)": 9, "-1 (ignored)": 1}


def test_boxes_are_in_pixels_of_displayed_image(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # rotated by 90 degrees: displayed 20 wide and 40 high
    turned = io.BytesIO()
    Image.new("RGB", (40, 20)).save(turned, "JPEG", exif=exif)
    boxes = torch.tensor([[5.0, 10.0, 20.5, 40.0], [0.0, 0.0, 1.0, 1.0]])
    with Writer(tmp_path / "set", classes=CLASSES, task="detection", resize=10) as writer:
        writer.write(turned.getvalue(), {"boxes": boxes, "labels": ["dog", "cat"], "iscrowd": [0, 1], "area": [1, 2]})
        writer.write(pixels(2), {"boxes": torch.zeros(0), "labels": torch.zeros(0)})
        empty = tv_tensors.BoundingBoxes([[0, 0, 7, 9]], format="XYXY", canvas_size=(9, 14))
        writer.write(pixels(2), {"boxes": empty, "labels": torch.tensor([2])})
    first, none, last = RecordSet(tmp_path / "set").labels(np.arange(3))
    assert np.allclose(first, [[1, 0.25, 0.25, 1, 1, 0], [0, 0, 0, 0.05, 0.025, 1]])
    assert none.shape == (0, 6) and np.allclose(last, [[2, 0, 0, 0.5, 1, 0]])
    assert writer.info.report["clipped_boxes"] == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_no_files(tmp_path, error):
    with pytest.raises(error), Writer(tmp_path / "set", classes=CLASSES) as writer:
        for number in range(40):
            writer.write(pixels(number), 0)
        raise error
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no record to write"), Writer(tmp_path / "set", classes=CLASSES):
        pass
    assert list(tmp_path.iterdir()) == []


def test_old_set_is_kept_until_replaced(tmp_path):
    for force in (False, True):
        with Writer(tmp_path / "set", classes=CLASSES, force=force) as writer:
            writer.write(pixels(1), 0)
    before = bytes_of(tmp_path / "set")
    with (
        pytest.raises(FileExistsError, match="exists; pass force=True to replace"),
        Writer(tmp_path / "set", classes=CLASSES),
    ):
        pass
    with pytest.raises(ZeroDivisionError), Writer(tmp_path / "set", classes=CLASSES, force=True) as writer:
        writer.write(pixels(2), 0)
        writer.write(pixels(2), 1 // 0)
    assert bytes_of(tmp_path / "set") == before


def test_writer_continues_after_refused_image(tmp_path):
    with Writer(tmp_path / "set", classes=CLASSES) as writer:
        for wrong, message in (
            (pixels(0).transpose(2, 0, 1), r"image 0: the array has shape \(3, 9, 14\), not \(H, W, 3\)"),
            (torch.zeros(9, 14, 3, dtype=torch.uint8), r"image 0: the tensor has shape \(9, 14, 3\), not \(3, H, W\)"),
            (torch.zeros(3, 9, 14), "the tensor is float32, not uint8 from 0 to 255: leave out ToTensor"),
            (Image.new("I;16", (3, 3)), "mode I;16 has more than 8 bits"),
            (tmp_path / "no.jpg", r"no\.jpg: no such image"),
            (b"GIF89a", "image 0: a GIF"),
            (encoded("JPEG")[:-20], "image 0: .*cut"),
            (None, "a NoneType is not an image"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                writer.write(wrong, 0)
        for label, message in (
            (3, "label 3 is out of range"),
            ("dgo", r"did you mean dog\?"),
            ([0, 1], "one class"),
            (10**400, "image 0: int too large"),
        ):
            with pytest.raises(ValueError, match=message):
                writer.write(pixels(0), label)
        for id in (-1, 1.5, "7", True, 2**64):
            with pytest.raises(ValueError, match=r"image 0: id=.*must be an integer from 0 to"):
                writer.write(pixels(0), 0, id=id)
        writer.write(pixels(0), 0)
    assert writer.info.count == 1
    with pytest.raises(ValueError, match=r"is a context: with dali_mix\.Writer"):
        writer.write(pixels(0), 0)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (1, "is a dict of 'boxes'"),
        ({"boxes": [[0, 0, 5, 5]], "labels": []}, "do not belong together"),
        ({"boxes": [[5, 0, 5, 5]], "labels": [0]}, "object 1: the box 5, 0, 5, 5 is empty or has swapped corners"),
        ({"boxes": [[8, 1, 5.5, 5]], "labels": [0]}, "the box 8, 1, 5.5, 5 is .* in pixels with x1 < x2 and y1 < y2"),
        ({"boxes": [[0, 0, 50, 5]], "labels": [0]}, "leaves the 14x9 image"),
        (
            {"boxes": tv_tensors.BoundingBoxes([[0, 0, 5, 5]], format="XYWH", canvas_size=(9, 14)), "labels": [0]},
            "in the format XYWH: convert them",
        ),
    ],
)
def test_invalid_boxes_are_refused(tmp_path, label, message):
    with (
        pytest.raises(ValueError, match=message),
        Writer(tmp_path / "set", classes=CLASSES, task="detection") as writer,
    ):
        writer.write(pixels(0), label)


@pytest.mark.parametrize("classes", ["cat", [], ["cat", "cat"], None, 2])
def test_invalid_classes_are_refused(tmp_path, classes):
    with pytest.raises(ValueError, match="classes: 1 is a int, not a name"):
        Writer(tmp_path / "set", classes=["cat", 1])
    with pytest.raises(ValueError, match="give the names of all classes"):
        Writer(tmp_path / "set", classes=classes)


def test_writer_buffers_do_not_grow_with_set(tmp_path):
    with Writer(tmp_path / "set", classes=CLASSES) as writer:
        held = []
        for number in range(4200):  # more than the table's initial rows
            writer.write(PNG, number % 3)
            held.append(writer._block.capacity + sum(block.capacity for block in writer._set._spare))
    assert max(held) == held[20]
    records = RecordSet(tmp_path / "set")
    assert (records.table["label"] == np.arange(4200) % 3).all()
    assert (records.table["id"] == np.arange(4200)).all()


PNG = encoded("PNG", 4, 5)


IMAGE = pixels(0)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "photos/val",
            r"'photos/val' is a path, not a dataset: pack a folder with dali_mix\.pack\(\"imagefolder\", root=",
        ),
        (
            ((IMAGE, 0) for _ in range(2)),
            r"a generator without len\(\) and dataset\[index\]: write its pairs one by one",
        ),
        ([(IMAGE, 0, 1)], r"item 0 of the dataset has 3 parts, not two, \(image, label\)"),
        ([IMAGE], r"item 0 of the dataset is a ndarray, not \(image, label\)"),
    ],
)
def test_from_dataset_refuses_other_datasets(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message) as refused:
        Writer.from_dataset(dataset, tmp_path / "set", classes=CLASSES)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


NUMBERS = ("shuffle", "shards", "workers", "max_pixels", "resize", "max_side", "quality")
FLAGS = ("follow_links", "download", "skip_bad", "force")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TypeError, {"skipbad": True}, r"pack\(\) has no keyword 'skipbad' \(did you mean skip_bad\?\)"),
        (ValueError, {"val_share": "10%"}, "val_share='10%': must be a number"),
        (ValueError, {"val_share": 2}, "val_share=2 is not between 0 and 1"),
        (ValueError, {"val_share": 1}, "val_share=1 is not between 0 and 1"),
        (ValueError, {"root": None}, "layout imagefolder needs root$"),
        (ValueError, {"root": 5}, "^root=5: must be a path"),
        (ValueError, {"task": "detection"}, "is for task='classification', not detection"),
        (ValueError, {"workers": 0}, "^workers=0: must be an integer from 1 to 4096$"),
        (ValueError, {"workers": 2**70}, "^workers=1180591620717411303424: must be an integer from 1 to 4096$"),
        *((ValueError, {name: "4"}, f"^{name}='4': must be an integer") for name in NUMBERS),
        *((ValueError, {name: 1.5}, rf"^{name}=1\.5: must be an integer") for name in NUMBERS),
        *((ValueError, {name: True}, f"^{name}=True: must be an integer") for name in NUMBERS),
        *((ValueError, {name: "no"}, f"^{name}='no': must be True or False$") for name in FLAGS),
        (ValueError, {"max_pixels": None}, "^max_pixels=None: must be an integer of at least 1$"),
        (ValueError, {"check": "all"}, "^check='all': must be one of header, decode$"),
        (ValueError, {"split_folders": "maybe"}, "^split_folders='maybe': must be one of auto, yes, no$"),
        (ValueError, {"split": 1}, "^split=1: must be the name of a split$"),
        (ValueError, {"classes": 5}, "^classes=5: give names, each once, or the file"),
        (ValueError, {"scenes": 3}, "scenes is for digit-scenes, not imagefolder"),
        (FileExistsError, {}, r"exists; pass force=True to replace it"),
    ],
)
def test_pack_errors_name_python_keywords(tmp_path, kind, values, message):
    root = folder(tmp_path / "images", 4)
    given = {"root": root, "out": tmp_path / "set"}
    pack("imagefolder", **given)
    with pytest.raises(kind, match=message):
        pack("imagefolder", **given | values)


@pytest.mark.parametrize(
    ("layout", "values", "message"),
    [
        ("digit-scenes", {"scenes": "4"}, "scenes='4': must be an integer from 1 to 10000000"),
        ("digit-scenes", {"seed": 1.5}, "seed=1.5: must be an integer of at least 0"),
        ("yolo", {"unlabelled": "drp"}, "unlabelled='drp': must be one of keep, drop (did you mean drop?)"),
        ("list", {"list": 5}, "list=5: must be a path, as a string or pathlib.Path"),
        ("list", {"exif": "none"}, "exif='none': must be one of apply, ignore (did you mean ignore?)"),
    ],
)
def test_layout_options_are_checked_before_reading(tmp_path, layout, values, message):
    root = {} if layout == "digit-scenes" else {"root": tmp_path}
    with pytest.raises(ValueError) as refused:
        pack(layout, out=tmp_path / "set", **root, **values)
    assert str(refused.value) == message


def test_pack_accepts_numpy_integers(tmp_path):
    root = folder(tmp_path / "images", 4)
    numbers = {"shuffle": 3, "shards": 2, "workers": 2, "resize": 8, "quality": 90, "max_pixels": 10**6}
    for name, given in (("plain", numbers), ("numpy", {key: np.int64(value) for key, value in numbers.items()})):
        pack("imagefolder", root=root, out=tmp_path / name, **given)
    plain, other = (RecordSet(tmp_path / name).info for name in ("plain", "numpy"))
    assert plain.options == other.options and plain.fingerprint == other.fingerprint


def test_writer_refuses_non_bool_force(tmp_path):
    with pytest.raises(ValueError, match=r"^force='no': must be True or False$"):
        Writer(tmp_path / "set", classes=CLASSES, force="no")


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("pack both with the same --classes FILE", "pack both with the same classes=FILE"),
        ("(--task multilabel?)", "(task='multilabel'?)"),
        (
            "--skip-bad leaves it out; see `dali-mix pack --skip-bad`",
            "skip_bad=True leaves it out; see `dali-mix pack --skip-bad`",
        ),
        ("choose another --unknown", "choose another --unknown"),
        ("pack them without --cluster", "pack them without machines"),
        ("add a.type=m:C to --cfg-options", "add a.type=m:C to --cfg-options"),
        ("give it with --cfg-options out=PREFIX", "give it with out=PREFIX"),
        ("leave --no-shuffle out", "leave shuffle=False out"),
        ("/data/a--force/x.jpg: no image", "/data/a--force/x.jpg: no image"),
        ("/data/--force/x.jpg: no image", "/data/--force/x.jpg: no image"),
        ("class '--force' is listed twice", "class '--force' is listed twice"),
        ("bilder --shuffleö, --force_x", "bilder --shuffleö, --force_x"),
        ("see [--force] and `--force`", "see [force=True] and `force=True`"),
        ("pass --exif ignore, or --max-pixels 7", "pass exif='ignore', or max_pixels=7"),
        ("my --force: exists; pass --force", "my --force: exists; pass force=True"),
        ("my --force.rec: exists; omit --skip-bad.", "my --force.rec: exists; omit skip_bad=True."),
    ],
)
def test_naming_keywords_translates_options(message, wanted):
    known = inspect.signature(pack).parameters
    with pytest.raises(ValueError) as raised, naming_keywords(known):
        raise ValueError(message)
    assert str(raised.value) == wanted


def test_writer_errors_name_python_keywords(tmp_path):
    with pytest.raises(ValueError, match=r"task='multilabel'\?"), Writer(tmp_path / "set", classes=["a"]) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8), [1, 0])


def test_pack_notices_name_python_keywords(tmp_path, caplog):
    for name in ("1", "2", "10"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name / "a.png")
    notices = []
    for note in (None, notices.append):
        pack("imagefolder", root=tmp_path / "in", out=tmp_path / "set", note=note, force=True)
    assert "pass classes=FILE with the names in that order, one per line" in notices[0] and notices[0] in caplog.text
