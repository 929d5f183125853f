"""`dali-mix predict`, `attention` and `evaluate --report`, as users call them, on a small multi-label model."""

import csv
import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.engine.build import build_model, build_split
from dali_mix.engine.checkpoint.files import load_checkpoint, save_checkpoint
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.inference import image_files
from dali_mix.engine.inference.predict import Predictor, choose, predict
from dali_mix.metrics import MultiLabelMetrics
from dali_mix.recordio import RecordSet
from dali_mix.reports.sheet import CELL, GAP, MARGIN
from dali_mix.reports.style import DPI
from dali_mix.tasks import CLASSIFICATION, MULTILABEL
from tests.engine.processes import context, finish
from tests.engine.sets import pack_digits
from tests.recordio.samples import with_checksums

RECIPE = """
train_set = "{folder}/train"
val_set = "{folder}/val"
pipeline = dict(type="multilabel", image_size=(48, 64), flip=0.0)
model = dict(type="multilabel", backbone=dict(type="timm/resnet10t", output_stride=8), head={head})
loss = dict(type="BinaryCrossEntropy")
optimizer = dict(type="AdamW", lr=2e-3)
batch_size = 10
epochs = 2
visualizer = []
device = "cpu"
"""
CSRA = 'dict(type="csra", num_heads=1, lam=0.1)'
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with packed scenes, a recipe, a run of it, and the validation scenes as files in scenes/."""
    folder = tmp_path_factory.mktemp("multilabel")
    for split, count in (("train", 100), ("val", 30)):
        pack = ["pack", "digit-scenes", "--scenes", str(count), "--split", split, "--out", str(folder / split)]
        assert main(pack) == 0
    (folder / "recipe.py").write_text(RECIPE.format(folder=folder, head=CSRA))
    assert main(["train", str(folder / "recipe.py"), "--work-dir", str(folder / "run")]) == 0
    records = RecordSet(folder / "val")
    (folder / "scenes").mkdir()
    for row in range(len(records)):
        (folder / "scenes" / f"{row:02d}.png").write_bytes(records.encoded(row).tobytes())
    return folder


@pytest.fixture(scope="module")
def best(made):
    return made / "run" / "checkpoints" / "best.pt"


@pytest.fixture(scope="module")
def bare(made):
    """(recipe, checkpoint) that lie in no run, of sets that are not there."""
    away = made / "away"
    away.mkdir()
    (away / "recipe.py").write_text(RECIPE.format(folder="/nowhere", head=CSRA))
    (away / "best.pt").write_bytes((made / "run" / "checkpoints" / "best.pt").read_bytes())
    return away / "recipe.py", away / "best.pt"


def old_checkpoint(best, path):
    """As they were before they said what they were trained on."""
    state = load_checkpoint(best)
    save_checkpoint(path, {name: value for name, value in state.items() if name not in ("classes", "task")})
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_of_files_are_those_of_the_evaluation(made, best, capsys, monkeypatch):
    monkeypatch.setattr(image_files, "CHUNK", 13)  # so that it takes several
    out = made / "found"
    command = ["predict", made / "recipe.py", best, made / "scenes", "--json", f"{out}.json", "--csv", f"{out}.csv"]
    assert run(*command, "--threshold", 0.2) == 0
    printed = capsys.readouterr().out.splitlines()
    found = json.loads(Path(f"{out}.json").read_text())
    assert found["classes"] == list(DIGITS)
    assert found["task"] == "multilabel"

    config = load_config(str(made / "recipe.py"))
    predictor = Predictor(config, best)
    loader = build_split(config, Ranks(0, 1, torch.device("cpu")), train=False)
    with torch.inference_mode():
        batches = [(predictor.model(batch.images).sigmoid(), batch.targets) for batch in loader]
    loader.close()
    scores, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    assert scores.std() > 0.01
    np.testing.assert_allclose([image["scores"] for image in found["images"]], scores.numpy(), atol=2e-6)
    rows = table(f"{out}.csv")
    np.testing.assert_allclose([[float(row[name]) for name in DIGITS] for row in rows], scores.numpy(), atol=2e-6)

    for image, row, line, score in zip(found["images"], rows, printed, scores, strict=True):
        order = sorted(range(10), key=lambda place: -score[place])
        names = [DIGITS[place] for place in order if score[place] > 0.2]
        assert image["prediction"] == names
        assert row["prediction"] == ",".join(names)
        start = f"{image['image']} prediction: "
        probabilities = ", ".join(f"{score[int(name)]:.3f}" for name in names)
        assert line == start + (f"{','.join(names)}  ({probabilities})" if names else "no class above the threshold")

    metrics = MultiLabelMetrics(10)
    metrics.update(scores, targets)
    assert run("evaluate", made / "recipe.py", best, "--json", f"{out}.json") == 0
    assert json.loads(Path(f"{out}.json").read_text())["mAP"] == pytest.approx(100 * metrics.compute()["mAP"])


def test_top_k_and_threshold(made, best, capsys):
    image = made / "scenes" / "00.png"
    scores = predict(load_config(str(made / "recipe.py")), best, [image]).scores[0]
    order = [DIGITS[place] for place in scores.argsort(descending=True).tolist()]

    def names(*options):
        assert run("predict", made / "recipe.py", best, image, *options) == 0
        return capsys.readouterr().out.split("prediction: ")[1].split("  ")[0].split(",")

    assert names("--top-k", 4) == order[:4]
    assert names("--threshold", 0) == order
    assert names("--threshold", 0, "--top-k", 2) == order[:2]
    between = float(scores.sort(descending=True).values[2:4].mean())
    assert names("--threshold", between, "--top-k", 9) == order[:3]


def test_defaults_of_the_tasks():
    scores = torch.tensor([0.1, 0.9, 0.2, 0.6, 0.3, 0.5])
    assert [name for name, _ in choose(scores, "abcdef", MULTILABEL)] == ["b", "d"]
    assert [name for name, _ in choose(scores, "abcdef", CLASSIFICATION)] == ["b", "d", "f", "e", "c"]


def test_every_format_is_decoded_as_it_looks(made, best, tmp_path):
    upright = Image.open(made / "scenes" / "03.png").convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter, clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    for name in ("copy.png", "copy.bmp", "copy.tif", "copy.ppm"):
        upright.save(tmp_path / name)
    upright.save(tmp_path / "copy.webp", lossless=True)
    upright.convert("L").save(tmp_path / "grey.png")
    upright.convert("L").convert("RGB").save(tmp_path / "grey_rgb.png")
    upright.save(tmp_path / "rgb.jpg", quality=95)
    upright.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    found = predict(load_config(str(made / "recipe.py")), best, [made / "scenes" / "03.png", tmp_path])
    assert not found.unreadable
    scores = {path.name: score for path, score in zip(found.paths, found.scores, strict=True)}
    expected = scores["03.png"]
    for name in ("turned.png", "copy.png", "copy.bmp", "copy.tif", "copy.ppm", "copy.webp"):
        torch.testing.assert_close(scores[name], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores["grey.png"], scores["grey_rgb.png"], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores["rgb.jpg"], expected, atol=0.1, rtol=0)
    torch.testing.assert_close(scores["cmyk.jpg"], scores["rgb.jpg"], atol=0.1, rtol=0)


def test_checkpoints_name_their_classes(made, bare, capsys):
    recipe, checkpoint = bare
    assert run("predict", recipe, checkpoint, made / "scenes" / "00.png", "--top-k", 10) == 0
    assert set(capsys.readouterr().out.split("prediction: ")[1].split("  ")[0].split(",")) == set(DIGITS)
    for name in ("best.pt", "latest"):
        folder = made / "run" / "checkpoints"
        state = load_checkpoint(folder / (name if name == "best.pt" else (folder / name).read_text().strip()))
        assert (state["classes"], state["task"]) == (list(DIGITS), "multilabel")


def test_older_checkpoints_take_the_names_from_the_sets_or_a_file(made, best, bare, tmp_path, capsys):
    old, image = old_checkpoint(best, tmp_path / "old.pt"), made / "scenes" / "00.png"
    assert run("predict", made / "recipe.py", best, image) == run("predict", made / "recipe.py", old, image) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one == two
    assert run("predict", bare[0], old, image) == 1
    assert "give the names, one a line, with --classes FILE" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {name}\n" for name in DIGITS))
    assert run("predict", bare[0], old, image, "--classes", names) == 0
    where, predicted, rest = one.partition("prediction: ")
    named, gap, scores = rest.partition("  (")
    renamed = ",".join(f"digit {name}" for name in named.split(","))
    assert named and capsys.readouterr().out.strip() == where + predicted + renamed + gap + scores
    names.write_text("one\ntwo\n")
    assert run("predict", made / "recipe.py", best, image, "--classes", names) == 1
    assert "2 class names for a model of 10 classes" in capsys.readouterr().err
    assert run("predict", bare[0], old, image, "--classes", names) == 1
    assert "of another model than the recipe's" in capsys.readouterr().err


def test_classes_in_another_order_are_not_evaluated(made, best, tmp_path, capsys):
    state = load_checkpoint(best)
    for classes, said in (
        (DIGITS[::-1], ": class 0 is '0', not '9'"),
        (DIGITS[:-1], "knows 9 classes, others than the 10"),
    ):
        save_checkpoint(tmp_path / "other.pt", {**state, "classes": list(classes)})
        assert run("evaluate", made / "recipe.py", tmp_path / "other.pt") == 1
        found = capsys.readouterr()
        assert "other.pt knows" in found.err and said in found.err
        assert "mAP" not in found.out


def test_a_run_goes_on_from_an_older_checkpoint(made, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    before = made / "run" / "checkpoints"
    name = (before / "latest").read_text().strip()
    old_checkpoint(before / name, checkpoints / name)
    (checkpoints / "latest").write_text(name + "\n")
    more = ["--resume", "--cfg-options", "epochs=3"]
    assert run("train", made / "recipe.py", "--work-dir", tmp_path / "run", *more) == 0
    assert load_checkpoint(checkpoints / (checkpoints / "latest").read_text().strip())["classes"] == list(DIGITS)


def test_evaluation_on_other_classes_is_refused(made, best, tmp_path, capsys):
    lines = ["\t".join([f"{row:02d}.png", *map(str, np.eye(10, dtype=int)[row])]) + "\n" for row in range(10)]
    (tmp_path / "list.txt").write_text("".join(lines))
    (tmp_path / "names.txt").write_text("\n".join((*DIGITS[:9], "ten")))
    pack = ["pack", "list", "--root", made / "scenes", "--list", tmp_path / "list.txt", "--task", "multilabel"]
    assert run(*pack, "--classes", tmp_path / "names.txt", "--out", tmp_path / "other") == 0
    capsys.readouterr()
    assert run("evaluate", made / "recipe.py", best, "--cfg-options", f"val_set={tmp_path / 'other'}") == 1
    said = capsys.readouterr().err
    assert f"of val_set {tmp_path / 'other'}: class 9 is 'ten', not '9'" in said


def test_evaluation_on_another_task_is_refused(made, best, tmp_path, capsys):
    assert run("pack", "digits", "--split", "val", "--out", tmp_path / "digits", "--quiet") == 0
    capsys.readouterr()
    assert run("evaluate", made / "recipe.py", best, "--cfg-options", f"val_set={tmp_path / 'digits'}") == 1
    assert f"trained on a multilabel set, and val_set {tmp_path / 'digits'} holds class" in capsys.readouterr().err


def test_unreadable_files_are_named_and_left_out(made, best, tmp_path, capsys):
    good = (made / "scenes" / "05.png").read_bytes()
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "cut.png").write_bytes(good[:5000])
    (tmp_path / "damaged.png").write_bytes(good[:3000] + bytes(100) + good[3100:])
    (tmp_path / "torn.png").write_bytes(with_checksums(good[:3000] + bytes(100) + good[3100:]))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image, and not called like one")
    (tmp_path / "z.png").write_bytes(good)
    out = tmp_path / "found.json"
    assert run("predict", made / "recipe.py", best, tmp_path, "--json", out) == 1
    said = capsys.readouterr()
    assert [line.split(" prediction")[0] for line in said.out.splitlines()] == [
        str(tmp_path / name) for name in ("a.png", "z.png")
    ]
    reasons = {"cut": "cut short", "damaged": "checksum", "torn": "cannot be decoded"}
    for name, reason in (*((f"{name}.png", reason) for name, reason in reasons.items()), ("empty.jpg", "empty")):
        assert any(f"left out {tmp_path / name}: " in line and reason in line for line in said.err.splitlines())
    assert "notes.txt" not in said.err
    found = json.loads(out.read_text())
    assert sorted(Path(one["image"]).name for one in found["left_out"]) == [
        "cut.png",
        "damaged.png",
        "empty.jpg",
        "torn.png",
    ]
    assert len(found["images"]) == 2

    for bad in ("damaged.png", "empty.jpg"):  # nothing else
        assert run("predict", made / "recipe.py", best, tmp_path / bad) == 1
        said = capsys.readouterr()
        assert bad in said.err
        assert not said.out


def test_what_cannot_be(made, best, bare, tmp_path, capsys):
    image, recipe = made / "scenes" / "00.png", made / "recipe.py"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "other.py").write_text(RECIPE.format(folder=made, head='"max"'))
    cases = [
        ((recipe, best, tmp_path / "empty"), "no image in it"),
        ((recipe, best, tmp_path / "none.png"), "none.png: no such image or folder"),
        ((recipe, tmp_path / "none.pt", image), "no such checkpoint"),
        ((recipe, tmp_path / "text.pt", image), "text.pt"),
        ((tmp_path / "other.py", best, image), "of another model than the recipe's"),
        ((tmp_path / "none.py", best, image), "no such recipe"),
        ((recipe, best, image, "--ema"), "holds no averaged weights"),
        ((recipe, best, image, "--top-k", 0), "top_k=0"),
        ((recipe, best, image, "--threshold", 50), "threshold=50"),
        ((recipe, best, image, "--json", tmp_path / "no" / "a.json"), "its folder is not there"),
        ((recipe, best, image, "--csv", tmp_path / "no" / "a.csv"), "its folder is not there"),
        ((recipe, best, image, "--json", tmp_path / "empty"), f"--json {tmp_path / 'empty'}: is a folder"),
        ((recipe, best, image, "--classes", tmp_path / "none.txt"), "none.txt: no such file"),
    ]
    for arguments, message in cases:
        assert run("predict", *arguments) == 1
        said = capsys.readouterr()
        assert message in said.err, said.err
        assert "prediction" not in said.out
    out = ["--out", tmp_path / "sheets"]
    (tmp_path / "file").write_text("")
    for arguments, message in [
        ((image, *out, "--classes", "7,dog"), "the model has no class 'dog'; its 10 begin with 0, 1"),
        ((image, *out, "--top-k", 0), "top_k=0"),
        ((tmp_path / "empty", *out), "no image in it"),
        ((image, "--out", tmp_path / "file"), "file"),
        ((image, "--out", tmp_path / "file" / "below"), "file"),
    ]:
        assert run("attention", recipe, best, *arguments) == 1
        assert message in capsys.readouterr().err
    assert run("evaluate", recipe, best, "--report", tmp_path / "file") == 1
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no images"):
        predict(load_config(str(recipe)), best, [])


def size_of(png):
    with Image.open(png) as image:
        return image.size


def columns_of(png):
    """How many pictures stand beside one another on a sheet."""
    return round((size_of(png)[0] / DPI - 2 * MARGIN + GAP) / (CELL + GAP))


def test_attention_sheets(made, best, tmp_path, capsys):
    scenes = made / "scenes"
    again = tmp_path / "00.jpg"
    Image.open(scenes / "00.png").rotate(90, expand=True).save(again)
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "00-2.png").write_bytes((scenes / "00.png").read_bytes())  # called as the sheet of the second would be
    images = [scenes / "00.png", again, scenes / "01.png", tmp_path / "00-2.png"]
    assert run("attention", made / "recipe.py", best, *images, "--out", tmp_path / "a" / "b") == 0
    names = ["00.png", "00-2.png", "01.png", "00-2-2.png"]
    sheets = [tmp_path / "a" / "b" / name for name in names]
    assert capsys.readouterr().out.splitlines() == [f"wrote {sheet}" for sheet in sheets]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(names)
    assert [columns_of(sheet) for sheet in sheets] == [4, 4, 4, 4]
    heights = [size_of(sheet)[1] for sheet in sheets]
    assert heights[0] == heights[2] == pytest.approx(heights[1] - CELL * DPI / 4, abs=2)  # 128×96 pixels, and upright
    options = ["--classes", "7, 1", "--out", tmp_path]
    assert run("attention", made / "recipe.py", best, images[2], tmp_path / "bad.png", *options) == 1
    assert columns_of(tmp_path / "01.png") == 3
    assert "bad.png" in capsys.readouterr().err


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """(recipe, weights, folder) of a small classification model: plain weights, and sets that are there."""
    folder = tmp_path_factory.mktemp("classes")
    train, val = pack_digits(folder, 200)
    text = (
        f"train_set, val_set = {train!r}, {val!r}\n"
        "pipeline = dict(type='cifar', image_size=(16, 12))\nmodel = dict(type='wrn-10-1')\n"
        "optimizer = dict(type='SGD', lr=0.1)\nbatch_size = 32\nepochs = 1\ndevice = 'cpu'\n"
    )
    (folder / "recipe.py").write_text(text)
    torch.manual_seed(3)
    model = build_model(load_config(str(folder / "recipe.py")), 10)
    torch.nn.init.normal_(model.linear.weight)
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "recipe.py", folder / "weights.pt", folder


def test_classification(classifier, made, tmp_path, capsys):
    recipe, weights, _ = classifier
    image = made / "scenes" / "00.png"
    assert run("predict", recipe, weights, image, "--json", tmp_path / "a.json") == 0
    names, scores = capsys.readouterr().out.split("prediction: ")[1].strip().split("  ")
    assert len(names.split(",")) == len(scores.split(",")) == 5
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["task"] == "classification"
    assert sum(found["images"][0]["scores"]) == pytest.approx(1, abs=1e-5)
    assert found["images"][0]["prediction"] == names.split(",")
    assert run("attention", recipe, weights, image, "--out", tmp_path, "--top-k", 2) == 0
    assert columns_of(tmp_path / "00.png") == 3
    other = ["--cfg-options", "model.type=timm/convnext_atto", "pipeline.image_size=32"]
    torch.save(build_model(load_config(str(recipe), other[1:]), 10).state_dict(), tmp_path / "other.pt")
    capsys.readouterr()
    assert run("attention", recipe, tmp_path / "other.pt", image, "--out", tmp_path / "other", *other) == 1
    assert "ConvNeXt has no class maps" in capsys.readouterr().err


def test_report_of_a_classifier(classifier, capsys):
    recipe, weights, folder = classifier
    assert run("evaluate", recipe, weights, "--report", folder / "report") == 0
    values = dict(zip(*[iter(capsys.readouterr().out.splitlines()[0].split())] * 2, strict=True))
    rows = table(folder / "report" / "per_class.csv")
    assert [row["class"] for row in rows] == list(DIGITS)
    right = sum(float(row["accuracy"]) * int(row["samples"]) for row in rows)
    assert right / sum(int(row["samples"]) for row in rows) == pytest.approx(float(values["top1"]), abs=1e-3)
    assert sorted(path.name for path in (folder / "report").iterdir()) == ["per_class.csv", "per_class.png"]


def one_rank(arguments, rank, port, out):
    """Body of a process that is `dali-mix ARGUMENTS` as one rank of two."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(f"{out}-{rank}").open("a", buffering=1)  # noqa: SIM115  # to the end of the process
    os._exit(main(arguments))


def test_report_of_a_multilabel_model_on_one_and_two_ranks(made, best, tmp_path, capsys):
    command = ["evaluate", str(made / "recipe.py"), str(best), "--report"]
    assert run(*command, tmp_path / "one") == 0
    values = dict(zip(*[iter(capsys.readouterr().out.splitlines()[0].split())] * 2, strict=True))
    rows = table(tmp_path / "one" / "per_class.csv")
    for column, name in (("AP", "mAP"), ("precision", "CP"), ("recall", "CR")):
        assert np.mean([float(row[column]) for row in rows]) == pytest.approx(float(values[name]), abs=1e-3)
    records = RecordSet(made / "val")
    positives = records.labels(np.arange(len(records))).sum(0)
    assert [int(row["positives"]) for row in rows] == positives.tolist()
    names = ["per_class.csv", "per_class.png", "pr_curves.png"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        context().Process(target=one_rank, args=([*command, str(tmp_path / "two")], rank, port, str(tmp_path / "said")))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    assert finish(ranks) == [0, 0], (tmp_path / "said-0").read_text() + (tmp_path / "said-1").read_text()
    assert "wrote" in (tmp_path / "said-0").read_text()
    assert "wrote" not in (tmp_path / "said-1").read_text()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for one, two in zip(rows, table(tmp_path / "two" / "per_class.csv"), strict=True):
        assert one == two
