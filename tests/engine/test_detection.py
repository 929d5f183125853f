"""Detection in the engine: digit scenes are trained, killed and resumed, run on ranks, evaluated and predicted."""

import json
import signal

import numpy as np
import pytest
import torch
from dali_mix.pipelines import Step
from PIL import Image

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.inference.predict import Predictor
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.models import build_model
from dali_mix.recordio import RecordSet, Sample, write_set
from dali_mix.reports.evaluation import evaluation_report
from tests.engine.processes import assert_same_run, finish, output_of, records, run, start
from tests.engine.scenes import cli, pack_scenes

KILLED = -signal.SIGKILL
pytestmark = pytest.mark.timeout(900)  # a detector's step takes half a second on a busy machine
MODEL = {
    "type": "detector",
    "backbone": {"type": "timm/resnet10t"},
    "freeze": "",
    "anchors": (16, 24, 32, 48, 64),
    "channels": 64,
    "hidden": 128,
    "rois": 32,
    "proposals": (128, 96),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    pack_scenes(folder, "detection", train=1200, val=60)
    return folder


def recipe(folder, **changes):
    return {
        "train_set": str(folder / "train"),
        "val_set": str(folder / "val"),
        "pipeline": {"type": "detection", "shorter": 96, "longest": 128, "flip": 0.0},
        "batch_size": 8,
        "epochs": 1,
        "model": MODEL,
        "objective": {"type": "Detection"},
        "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-2},
        "device": "cpu",
        "log_interval": 2,
        "log_ids": True,
        "checkpoint": {"interval_steps": 2, "keep": 3},
        **changes,
    }


@pytest.fixture(scope="module")
def trained(scenes):
    """Train a run that detects digits; return its config and work directory."""
    values = recipe(scenes, schedule={"type": "onecycle", "pct_start": 0.2}, checkpoint={"interval_epochs": 1})
    assert finish(start(values, scenes / "run", packed=True), 800) == [0], output_of(scenes / "run")
    return make_config(values), scenes / "run"


def test_detector_learns_digits(trained):
    _, work_dir = trained
    train_lines = [record for record in records(work_dir) if record["kind"] == "train"]
    parts = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
    assert all(set(parts) <= record.keys() for record in train_lines)
    scores = [record for record in records(work_dir) if record["kind"] == "val"]
    assert "loss" not in scores[-1]
    assert scores[-1]["AP50"] > 25


def test_evaluation_report_and_prediction_agree(trained, tmp_path):
    config, work_dir = trained
    found = evaluate_checkpoint(config, work_dir / "checkpoints" / "latest")
    last = [record for record in records(work_dir) if record["kind"] == "val"][-1]
    assert found.values["AP50"] == pytest.approx(last["AP50"], abs=1e-9)
    names = [path.name for path in evaluation_report(found, tmp_path / "report")]
    assert names == ["per_class.csv", "per_class.png", "pr_curves.png", "boxes.png"]
    # Predict the same images as files, one at a time, with boxes in pixels of the file.
    val = RecordSet(config.val_set)
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / "files" / f"{number:02}.png").write_bytes(val.encoded(number).tobytes())
    predicted = Predictor(config, work_dir / "checkpoints" / "latest").detect([tmp_path / "files"], threshold=0.1)
    assert sum(map(len, predicted.boxes)) > 10
    assert len(predicted.paths) == 20
    for number, (boxes, scores) in enumerate(zip(predicted.boxes, predicted.scores, strict=True)):
        table = found.scores.metrics._tables()[0]
        own = table[(table[:, 0] == number) & (table[:, 5] > 0.1)]
        assert len(own) == len(boxes)
        np.testing.assert_allclose(boxes, own[:, 1:5], atol=0.02)
        np.testing.assert_allclose(scores, own[:, 5], atol=1e-4)


def test_file_with_nan_output_is_reported_as_unreadable(trained, tmp_path, monkeypatch):
    config, work_dir = trained
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(RecordSet(config.val_set).encoded(number).tobytes())
    predictor = Predictor(config, work_dir / "checkpoints" / "latest")
    load = predictor.load

    def spoiled(paths, unreadable):
        for seen in load(paths, unreadable):
            images = seen.images.clone()
            images[1, 0, 5, 5] = torch.nan
            yield seen._replace(images=images)

    monkeypatch.setattr(predictor, "load", spoiled)
    found = predictor.detect([tmp_path])
    assert [path.name for path in found.paths] == ["0.png"] and len(found.boxes) == 1
    assert [(one.path.name, one.reason) for one in found.unreadable] == [("1.png", "the model returns NaN for it")]


def most_confident_scene(config, work_dir):
    """Return the encoded validation image with the highest-scoring box."""
    table = evaluate_checkpoint(config, work_dir / "checkpoints" / "latest").scores.metrics._tables()[0]
    return RecordSet(config.val_set).encoded(int(table[table[:, 5].argmax(), 0])).tobytes()


def test_predicted_boxes_are_in_pixels_of_upright_image(trained, tmp_path):
    """The second file is enlarged twofold and stored rotated, with an EXIF orientation that undoes the rotation."""
    config, work_dir = trained
    (tmp_path / "small.png").write_bytes(most_confident_scene(config, work_dir))
    small = Image.open(tmp_path / "small.png")
    exif = Image.Exif()
    exif[274] = 6
    turned = small.resize((256, 192)).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.jpg", quality=98, subsampling=0, exif=exif)
    one, other = (
        Predictor(config, work_dir / "checkpoints" / "latest").detect([tmp_path / name], threshold=0.1)
        for name in ("small.png", "turned.jpg")
    )
    assert len(one.boxes[0]) and one.labels[0][0] == other.labels[0][0]
    np.testing.assert_allclose(2 * one.boxes[0][0], other.boxes[0][0], atol=4)


@pytest.fixture(scope="module")
def uninterrupted(scenes, tmp_path_factory):
    """Train an uninterrupted run of 8 steps with all randomness enabled; return its values and work directory."""
    model = {**MODEL, "channels": 16, "hidden": 32, "rois": 16, "proposals": (32, 32)}
    values = recipe(scenes, max_steps=8, mixer={"type": "BoxResizeMix"}, ema=0.9, model=model)
    values["pipeline"] = {"type": "detection", "shorter": (48, 56), "longest": 80, "iou_crop": 0.5, "photometric": 0.5}
    work_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(values, work_dir, packed=True) == [0], output_of(work_dir)
    return values, work_dir


@pytest.mark.parametrize("step", [3, 4, 7])
def test_killed_and_resumed_run_is_bit_identical(uninterrupted, tmp_path, step):
    values, one = uninterrupted
    assert run(values, tmp_path / "run", packed=True, kill_at=step) == [KILLED]
    assert run(values, tmp_path / "run", packed=True, resume="must") == [0], output_of(tmp_path / "run")
    assert_same_run(one, tmp_path / "run")


def test_two_ranks_killed_and_resumed_are_bit_identical(uninterrupted, tmp_path):
    values, _ = uninterrupted
    for name, options in (("uninterrupted", [{}]), ("killed", [{"kill_at": 5}, {"resume": "must"}])):
        for number, option in enumerate(options):
            codes = run(values, tmp_path / name, ranks=2, packed=True, **option)
            assert codes == ([KILLED] * 2 if number < len(options) - 1 else [0, 0]), output_of(tmp_path / name)
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "killed")


def test_two_ranks_evaluate_like_one_process(trained, tmp_path):
    """With one image per batch, its padding is the same on one rank and on two."""
    config, work_dir = trained
    values = {**config.resolved(), "weights": str(work_dir / "checkpoints" / "best.pt"), "max_steps": 1}
    values |= {"val_batch_size": 2, "optimizer": {"type": "SGD", "lr": 1e-12}, "schedule": {"type": "constant"}}
    assert run(values, tmp_path / "two", ranks=2, packed=True) == [0, 0], output_of(tmp_path / "two")
    (found,) = [record for record in records(tmp_path / "two") if record["kind"] == "val"]
    alone = evaluate_checkpoint(
        make_config({**values, "val_batch_size": 1}), tmp_path / "two" / "checkpoints" / "latest"
    )
    assert found["AP50"] == pytest.approx(alone.values["AP50"], abs=1e-6)


def test_backbone_loads_classifier_weights(scenes, tmp_path, capsys):
    torch.save(build_model("timm/resnet10t", 7).state_dict(), tmp_path / "backbone.pth")
    model = {**MODEL, "backbone": {"type": "timm/resnet10t", "weights": str(tmp_path / "backbone.pth")}}
    train(make_config(recipe(scenes, model=model, max_steps=1, val_set=None)), tmp_path / "run")
    log = (tmp_path / "run" / "train.log").read_text()
    assert "backbone.pth: " in log and " 0 missing, 0 mis-shaped" in log
    with pytest.raises(ValueError, match=r"set it as model\.backbone\.weights$"):
        values = recipe(scenes, weights=str(tmp_path / "backbone.pth"), max_steps=1, val_set=None)
        train(make_config(values), tmp_path / "third")
    torch.save(build_model("timm/resnet18", 7).state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match="of the model's weights fit, 95% must"):
        train(make_config(recipe(scenes, model=model, max_steps=1, val_set=None)), tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"type": "BinaryCrossEntropy"}}, "sums the losses of the model; omit loss"),
        ({"objective": {"type": "Plain"}}, "a set for detection is trained with objective Detection"),
        ({"mixer": {"type": "CutMix"}}, "CutMix does not support boxes: choose one of BoxResizeMix, BoxSpliceMix"),
        ({"metrics": {"protocol": "coca"}}, "protocol='coca': must be one of voc, coco"),
        ({"metrics": {"ties": "random"}}, "metrics of a set for detection: unknown key 'ties'"),
        ({"model": {"type": "torchvision/resnet18"}}, "objective Detection needs model detector, not ResNet"),
        ({"checkpoint": {"best": "AP"}}, "checkpoint.best='AP' is not measured with metrics={}: choose one of AP50"),
        ({"model": {**MODEL, "neck": "fpm"}}, "neck='fpm': must be one of fpn, c5"),
        ({"model": {**MODEL, "backbon": 1}}, "did you mean backbone"),
        (
            {"pipeline": {"type": "imagenet", "auto_augment": "randaugment"}},
            "would rotate and shift images but not their boxes",
        ),
    ],
)
def test_invalid_detection_recipe_is_refused(scenes, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(make_config(recipe(scenes, **changes)), tmp_path / "run")


def test_set_without_boxes_is_refused(scene_sets, scenes, tmp_path):
    values = recipe(scenes, train_set=scene_sets["train_set"], val_set=None)
    with pytest.raises(ValueError, match="objective Detection is for sets with boxes; this is a set for multilabel"):
        train(make_config(values), tmp_path / "run")


def test_detect_command_predicts_draws_and_evaluates(trained, tmp_path, capsys):
    config, work_dir = trained
    image = tmp_path / "scene.png"
    image.write_bytes(most_confident_scene(config, work_dir))
    best = work_dir / "checkpoints" / "best.pt"
    (tmp_path / "recipe.py").write_text("\n".join(f"{name} = {value!r}" for name, value in config.resolved().items()))
    outs = ("--json", tmp_path / "p.json", "--csv", tmp_path / "p.csv", "--draw", tmp_path / "drawn")
    assert cli("detect", "predict", tmp_path / "recipe.py", best, image, image, "--threshold", 0.1, *outs) == 0
    assert "scene.png boxes: " in capsys.readouterr().out
    listed = json.loads((tmp_path / "p.json").read_text())["images"]
    assert len(listed) == 2 and listed[0] == listed[1] and listed[0]["boxes"]
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + 2 * len(listed[0]["boxes"])
    assert cli("predict", tmp_path / "recipe.py", best, image, "--draw", tmp_path) == 1
    assert "images are read from this folder; choose another one" in capsys.readouterr().err
    assert (tmp_path / "p.csv").read_text().startswith("image,class,score,x1,y1,x2,y2\n")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["scene-2.png", "scene.png"]
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "scene.png"))
    assert (drawn != np.asarray(Image.open(image))).any() and drawn.shape == (96, 128, 3)
    assert cli("detect", "evaluate", tmp_path / "recipe.py", best) == 0
    assert "AP50 " in capsys.readouterr().out
    assert cli("predict", tmp_path / "recipe.py", best, image, "--top-k", 3) == 1
    assert "use --threshold for boxes" in capsys.readouterr().err


class ShiftRight(Step):
    """Step that moves most boxes out of the image."""

    def graph(self, images, draws, device):
        return images

    def map_boxes(self, boxes, size, draws):
        return boxes + np.array([size[1] * 0.8, 0, size[1] * 0.8, 0])


@pytest.mark.parametrize("freeze", [None, "", "norm"])
def test_frozen_random_backbone_is_warned_about(scenes, tmp_path, freeze):
    model = {key: value for key, value in MODEL.items() if key != "freeze"}
    model |= {} if freeze is None else {"freeze": freeze}
    train(make_config(recipe(scenes, model=model, max_steps=1, val_set=None, checkpoint={})), tmp_path / "run")
    warned = "freezes parts of a backbone that has random weights" in (tmp_path / "run" / "train.log").read_text()
    assert warned == (freeze != "")


@pytest.mark.parametrize("objects", [True, False])
def test_run_logs_dropped_or_missing_boxes(scenes, tmp_path, objects):
    train_set = scenes / "train"
    records = RecordSet(train_set)
    rows = [row for row in range(40) if len(records.labels(np.arange(row, row + 1))[0])][:4]
    empty = np.array([2, 6], np.float32)
    samples = [
        Sample(
            records.encoded(row).tobytes(),
            records.label(row) if objects else empty,
            int(records.table[row]["height"]),
            int(records.table[row]["width"]),
            "png",
        )
        for row in rows
    ]
    write_set(tmp_path / "few", samples, classes=records.info.classes, task="detection")
    values = recipe(scenes, train_set=str(tmp_path / "few"), val_set=None, batch_size=2, checkpoint={})
    if objects:
        values["train_pipeline"] = {"steps": [{"type": f"{__name__}:ShiftRight"}]}
    train(make_config(values), tmp_path / "run")
    log = (tmp_path / "run" / "train.log").read_text()
    if objects:
        assert "epoch 1/1  steps and crops dropped " in log
    else:
        assert "has an object, so a detector cannot learn from it" in log
        assert "epoch 1/1  none of the 4 images has a box" in log
