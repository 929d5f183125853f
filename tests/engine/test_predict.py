"""`dali-mix predict` on a small multi-label model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.engine.build import build_split
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.inference import image_files
from dali_mix.engine.inference.predict import Predictor, choose, predict
from dali_mix.metrics import MultiLabelMetrics
from dali_mix.tasks import CLASSIFICATION, MULTILABEL
from tests.engine.scenes import DIGITS, RECIPE, cli, table
from tests.recordio.samples import with_checksums


def test_predicted_scores_equal_evaluation_scores(digit_scenes, best, capsys, monkeypatch):
    monkeypatch.setattr(image_files, "CHUNK", 13)  # several chunks
    out = digit_scenes / "found"
    command = [
        "predict",
        digit_scenes / "recipe.py",
        best,
        digit_scenes / "scenes",
        "--json",
        f"{out}.json",
        "--csv",
        f"{out}.csv",
    ]
    assert cli(*command, "--threshold", 0.2) == 0
    printed = capsys.readouterr().out.splitlines()
    found = json.loads(Path(f"{out}.json").read_text())
    assert found["classes"] == list(DIGITS)
    assert found["task"] == "multilabel"

    config = load_config(str(digit_scenes / "recipe.py"))
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
    assert cli("evaluate", digit_scenes / "recipe.py", best, "--json", f"{out}.json") == 0
    assert json.loads(Path(f"{out}.json").read_text())["mAP"] == pytest.approx(100 * metrics.compute()["mAP"])


def test_top_k_and_threshold(digit_scenes, best, capsys):
    image = digit_scenes / "scenes" / "00.png"
    scores = predict(load_config(str(digit_scenes / "recipe.py")), best, [image]).scores[0]
    order = [DIGITS[place] for place in scores.argsort(descending=True).tolist()]

    def names(*options):
        assert cli("predict", digit_scenes / "recipe.py", best, image, *options) == 0
        return capsys.readouterr().out.split("prediction: ")[1].split("  ")[0].split(",")

    assert names("--top-k", 4) == order[:4]
    assert names("--threshold", 0) == order
    assert names("--threshold", 0, "--top-k", 2) == order[:2]
    between = float(scores.sort(descending=True).values[2:4].mean())
    assert names("--threshold", between, "--top-k", 9) == order[:3]


def test_choose_uses_default_of_task():
    scores = torch.tensor([0.1, 0.9, 0.2, 0.6, 0.3, 0.5])
    assert [name for name, _ in choose(scores, "abcdef", MULTILABEL)] == ["b", "d"]
    assert [name for name, _ in choose(scores, "abcdef", CLASSIFICATION)] == ["b", "d", "f", "e", "c"]


def test_image_formats_are_decoded_as_displayed(digit_scenes, best, tmp_path):
    upright = Image.open(digit_scenes / "scenes" / "03.png").convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown rotated by 90° clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    for name in ("copy.png", "copy.bmp", "copy.tif", "copy.ppm"):
        upright.save(tmp_path / name)
    upright.save(tmp_path / "copy.webp", lossless=True)
    upright.convert("L").save(tmp_path / "grey.png")
    upright.convert("L").convert("RGB").save(tmp_path / "grey_rgb.png")
    upright.save(tmp_path / "rgb.jpg", quality=95)
    upright.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    found = predict(load_config(str(digit_scenes / "recipe.py")), best, [digit_scenes / "scenes" / "03.png", tmp_path])
    assert not found.unreadable
    scores = {path.name: score for path, score in zip(found.paths, found.scores, strict=True)}
    expected = scores["03.png"]
    for name in ("turned.png", "copy.png", "copy.bmp", "copy.tif", "copy.ppm", "copy.webp"):
        torch.testing.assert_close(scores[name], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores["grey.png"], scores["grey_rgb.png"], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores["rgb.jpg"], expected, atol=0.1, rtol=0)
    torch.testing.assert_close(scores["cmyk.jpg"], scores["rgb.jpg"], atol=0.1, rtol=0)


def test_unreadable_files_are_named_and_skipped(digit_scenes, best, tmp_path, capsys):
    good = (digit_scenes / "scenes" / "05.png").read_bytes()
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "cut.png").write_bytes(good[:5000])
    (tmp_path / "damaged.png").write_bytes(good[:3000] + bytes(100) + good[3100:])
    (tmp_path / "torn.png").write_bytes(with_checksums(good[:3000] + bytes(100) + good[3100:]))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image, and not called like one")
    (tmp_path / "z.png").write_bytes(good)
    out = tmp_path / "found.json"
    assert cli("predict", digit_scenes / "recipe.py", best, tmp_path, "--json", out) == 1
    said = capsys.readouterr()
    assert [line.split(" prediction")[0] for line in said.out.splitlines()] == [
        str(tmp_path / name) for name in ("a.png", "z.png")
    ]
    reasons = {"cut": "cut short", "damaged": "checksum", "torn": "cannot be decoded"}
    for name, reason in (*((f"{name}.png", reason) for name, reason in reasons.items()), ("empty.jpg", "empty")):
        assert any(f"skipped {tmp_path / name}: " in line and reason in line for line in said.err.splitlines())
    assert "notes.txt" not in said.err
    found = json.loads(out.read_text())
    assert sorted(Path(one["image"]).name for one in found["left_out"]) == [
        "cut.png",
        "damaged.png",
        "empty.jpg",
        "torn.png",
    ]
    assert len(found["images"]) == 2

    for bad in ("damaged.png", "empty.jpg"):  # each as the only file
        assert cli("predict", digit_scenes / "recipe.py", best, tmp_path / bad) == 1
        said = capsys.readouterr()
        assert bad in said.err
        assert not said.out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict {recipe} {best} {here}/empty", "no image in it"),
        ("predict {recipe} {best} {here}/none.png", "none.png: no such image or folder"),
        ("predict {recipe} {here}/none.pt {image}", "none.pt: no such file"),
        ("predict {recipe} {here}/text.pt {image}", "text.pt"),
        ("predict {here}/other.py {best} {image}", "for a different model from the recipe's"),
        ("predict {here}/none.py {best} {image}", "no such recipe"),
        ("predict {recipe} {best} {image} --ema", "contains no averaged weights"),
        ("predict {recipe} {best} {image} --top-k 0", "top_k=0"),
        ("predict {recipe} {best} {image} --threshold 50", "threshold=50"),
        ("predict {recipe} {best} {image} --json {here}/no/a.json", "its folder does not exist"),
        ("predict {recipe} {best} {image} --csv {here}/no/a.csv", "its folder does not exist"),
        ("predict {recipe} {best} {image} --json {here}/empty", "--json {here}/empty: is a folder"),
        ("predict {recipe} {best} {image} --json {here}/a --csv {here}/empty/../a", "--json and --csv both write"),
        ("predict {recipe} {best} {image} --classes {here}/none.txt", "none.txt: no such file"),
        (
            "attention {recipe} {best} {image} --out {here}/out --classes 7,dog",
            "has no class 'dog'; its 10 start with 0",
        ),
        ("attention {recipe} {best} {image} --out {here}/out --top-k 0", "top_k=0"),
        ("attention {recipe} {best} {here}/empty --out {here}/out", "no image in it"),
        ("attention {recipe} {best} {image} --out {here}/file", "{here}/file is a file; choose another folder"),
        ("attention {recipe} {best} {image} --out {here}/file/below", "{here}/file is a file; choose another folder"),
        ("evaluate {recipe} {best} --report {here}/file", "is a file"),
    ],
)
def test_invalid_commands_are_refused(digit_scenes, best, tmp_path, capsys, command, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "other.py").write_text(RECIPE.format(folder=digit_scenes, head='"max"'))
    paths = {"recipe": digit_scenes / "recipe.py", "best": best, "image": digit_scenes / "scenes" / "00.png"}
    assert cli(*command.format(**paths, here=tmp_path).split()) == 1
    said = capsys.readouterr()
    assert message.format(here=tmp_path) in said.err
    assert "used with different values" not in said.err  # the error is enough
    assert "prediction" not in said.out


def test_predict_ignores_rank_without_world_size(digit_scenes, best, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert cli("predict", digit_scenes / "recipe.py", best, digit_scenes / "scenes" / "00.png") == 0
    assert "using the run's values from " in capsys.readouterr().err


def test_predict_refuses_empty_list(digit_scenes, best):
    with pytest.raises(ValueError, match="no images"):
        predict(load_config(str(digit_scenes / "recipe.py")), best, [])
