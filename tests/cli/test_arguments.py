"""For a misspelled command, option, value or name, the error suggests the intended one."""

from __future__ import annotations

import argparse
import importlib

import pytest

from dali_mix import pipelines
from dali_mix.cli.arguments import Parser
from dali_mix.cli.main import COMMANDS, main, parse
from dali_mix.engine.build import build_loss
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.logging import visualizer_names
from dali_mix.models.multilabel import build_multilabel
from dali_mix.options import did_you_mean


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("trian quickstart", "'trian' is unknown (did you mean train?)"),
        ("evalute", "did you mean evaluate?"),
        ("recipe", "did you mean recipes?"),
        ("embed_labels", "did you mean embed-labels?"),
        ("--versoin", "did you mean --version?"),
        ("train quickstart --workdir d", "--workdir is unknown (did you mean --work-dir?)"),
        ("train quickstart --work_dir=d", "--work_dir is unknown (did you mean --work-dir?)"),
        ("train quickstart -work-dir d", "-work-dir is unknown (did you mean --work-dir?)"),
        ("train quickstart --work-dir d --cfg-option lr=1", "did you mean --cfg-options?"),
        ("train quickstart --work-dir d --epochs 1", "--epochs is unknown (did you mean --cfg-options epochs=…?)"),
        ("train quickstart --work-dir d --batch-size=8", "(did you mean --cfg-options batch_size=…?)"),
        ("train quickstart --work-dir d optimizer.lr=1", "(did you mean --cfg-options optimizer.lr=1?)"),
        ("train quickstart --work-dir d --resume=atuo", "'atuo' is unknown (did you mean auto?)"),
        ("predict quickstart best.pt a.png --topk 3 --thresold .3", "did you mean --threshold?"),
        ("pack image-folder --root r --out p", "'image-folder' is unknown (did you mean imagefolder?)"),
        ("pack cifar --root r --out p", "did you mean cifar10"),
        ("pack list --root r --out p --encoding jpg", "did you mean jpeg"),
        ("convert --from tim a b", "did you mean timm?"),
        ("gallery p --out g.png --mixer cutmix", "did you mean --mixers?"),
    ],
)
def test_usage_error_suggests_intended_word(command, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(command.split())
    assert ended.value.code == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "frobnicate",
        "train quickstart --work-dir d --xyzzy",
        "pack zzz --out p",
        "predict quickstart best.pt --top-k x -- --thresold",  # a file name, not an option
    ],
)
def test_usage_error_without_similar_word_suggests_nothing(command, capsys):
    with pytest.raises(SystemExit):
        parse(command.split())
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_argument_and_names_its_default(command):
    parser = Parser()
    importlib.import_module(COMMANDS[command][0]).configure(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert all(inner.description.endswith(".") for inner in action.choices.values())
            continue
        assert action.help, action.dest
        if action.option_strings and action.default not in (None, "", False, argparse.SUPPRESS, [], (), "no"):
            assert "default" in action.help, action.help


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("recipes", "doctor")])
def test_unknown_option_error_is_one_line_and_names_help(command, capsys):
    with pytest.raises(SystemExit):
        parse([command, "--helpp"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dali-mix {command}: error: ") and "did you mean --help?" in line
    assert line.endswith(f"(see dali-mix {command} --help)")


def test_pack_suggests_root_for_folder_in_place_of_layout(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["pack", str(tmp_path), "--out", "p"])
    assert f"is unknown (did you mean --root {tmp_path}?); choose from cifar10, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["pack", "x" * 300, "--out", "p"])  # longer than a file's name can be
    assert "did you mean" not in capsys.readouterr().err
    with pytest.raises(SystemExit):  # only the layout is confused with the root
        parse(["pack", "imagefolder", "--task", str(tmp_path), "--out", "p"])
    assert "did you mean" not in capsys.readouterr().err


def test_values_that_look_like_options_are_accepted():
    args = parse(["predict", "quickstart", "best.pt", "--threshold", "-0.5", "--", "--workdir.png"])
    assert args.threshold == -0.5 and [str(image) for image in args.images] == ["--workdir.png"]


def test_misspelled_recipe_gets_suggestion(tmp_path, capsys):
    assert main(["train", "imagenet/resnet50_resizmix", "--work-dir", str(tmp_path / "run")]) == 1
    assert "did you mean imagenet/resnet50:resizemix" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_config("quickstart", ["epocs=3"]), r"'epocs' \(did you mean epochs\?\)"),
        (lambda: build_loss(_quickstart_with(loss={"type": "SoftCrossEntropi"})), r"\(did you mean SoftCrossEntropy"),
        (lambda: visualizer_names(["tensorbord"]), r"\(did you mean tensorboard\?\)"),
        (lambda: build_multilabel("resnet18", "cssra", num_classes=3), r"\(did you mean csra"),
        (lambda: pipelines.build("imagnet", True), r"\(did you mean imagenet\?\)"),
        (lambda: pipelines.build("imagenet", True, {"image_sise": 8}), r"\(did you mean image_size"),
    ],
)
def test_misspelled_name_in_recipe_gets_suggestion(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _quickstart_with(**values):
    config = load_config("quickstart", [])
    return make_config({**config.__dict__, **values})


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("Trian", ("train", "recipes"), " (did you mean train?)"),
        ("--work_dir", ("--work-dir", "--resume"), " (did you mean --work-dir?)"),
        ("zzz", ("train",), ""),
        ("", ("train",), ""),
        ("cutmix", ("CutMix", "MixUp"), " (did you mean CutMix?)"),
        ("a", (), ""),
    ],
)
def test_did_you_mean(word, known, hint):
    assert did_you_mean(word, known) == hint
