"""`dali-mix profile` on a packed set, and with wrong arguments."""

import json

import pytest

from dali_mix.cli.main import main
from tests.engine.sets import pack_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return pack_photos(tmp_path_factory.mktemp("photos") / "photos", 24)


def test_profile_writes_json_and_chart(photos, tmp_path, capsys):
    options = ["--batch-size", "4", "--num-threads", "1", "--seconds", "0.5", "--pipeline-options", "image_size=64"]
    files = ["--json", str(tmp_path / "found.json"), "--out", str(tmp_path / "found.png")]
    assert main(["profile", photos, "--device", "cpu", *options, *files]) == 0
    shown, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert found["what"] == f"{photos}, imagenet for training, batches of 4 on cpu"
    assert found["milliseconds"]["dali"] > 0 and found["images_per_second"] > 0
    assert f"images per second; limited by {found['limit']}" in shown
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    assert main(["profile", photos, "--device", "cpu", *options, "--evaluate"]) == 0
    assert "imagenet for evaluation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/set"], "/nowhere/set.json: no such set"),
        (["{folder}"], "profile.json does not exist: train with --cfg-options profile.first=10"),
        (["{photos}", "--seconds", "0"], "--seconds=0.0: must be a finite number"),
        (["{photos}", "--batch-size", "0"], "--batch-size=0: must be an integer"),
        (["{photos}", "--pipeline-options", "image_size"], "--pipeline-options takes KEY=VALUE"),
        (["{photos}", "--pipeline-options", "size=3"], "has no option 'size'"),
        (["{photos}", "--pipeline", "imagnet"], "did you mean imagenet?"),
        (["{photos}", "--out", "found.jpg"], "ends in .png"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(photos, tmp_path, capsys, arguments, message):
    arguments = [argument.format(photos=photos, folder=tmp_path) for argument in arguments]
    assert main(["profile", *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
