"""`dali-mix convert`: bit-exact round trips, checkpoints as backbones, and refused arguments."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dali_mix.cli.main import main
from dali_mix.engine.build import load_files
from dali_mix.engine.checkpoint.files import CheckpointFolder
from dali_mix.models import build_model, build_multilabel, load_weights
from dali_mix.models.weights import files
from tests.models import released
from tests.models.released import LISTED, filled

RESNET = {"fc.weight": (5, 512), "fc.bias": (5,)}
CASES = {  # release: (its state without prefix, its wrapper, its prefix)
    "msl": (released.resnet18_shapes() | {"classifier.multi_head.0.head.weight": (5, 512, 1, 1)}, "", ""),
    "csra": (released.resnet18_shapes() | {"classifier.multi_head.0.head.weight": (5, 512, 1, 1)}, "", ""),
    "splicemix": (
        released.resnet18_shapes("backbone.", LISTED) | {"cls.weight": (5, 512), "cls.bias": (5,)},
        "model_state_dict",
        "",
    ),
    "resizemix": (released.resnet18_shapes() | RESNET, "", ""),
    "saliencymix": (released.resnet18_shapes() | RESNET, "state_dict", "module."),
    "torchvision": (released.resnet18_shapes() | RESNET, "", ""),
    "timm": (released.vit_shapes() | {"head.weight": (5, 192), "head.bias": (5,)}, "", ""),
}


def identical(state, other):
    return state.keys() == other.keys() and all(
        value.dtype == other[key].dtype and torch.equal(value, other[key]) for key, value in state.items()
    )


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.mark.parametrize(
    ("release", "dtype"), [*((name, torch.float32) for name in CASES), ("msl", torch.float16), ("timm", torch.bfloat16)]
)
def test_round_trip_is_bit_exact(tmp_path, capsys, release, dtype):
    shapes, wrapper, prefix = CASES[release]
    state = {
        prefix + key: value.to(dtype) if value.is_floating_point() else value for key, value in filled(shapes).items()
    }
    content = {wrapper: state, "epoch": 3, "optimizer": {"lr": torch.ones(1)}} if wrapper else state
    torch.save(content, tmp_path / "in.pth")
    assert convert("--from", release, tmp_path / "in.pth", tmp_path / "ours.safetensors") == 0
    said = capsys.readouterr().out
    assert "5 classes" in said and ("resnet18" in said or "vit_tiny_patch16_224" in said)
    assert ("left out: epoch, optimizer" in said) == bool(wrapper)
    assert convert("--to", release, tmp_path / "ours.safetensors", tmp_path / "back.pth") == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert identical(back[wrapper] if wrapper else back, state)
    assert convert("--to", release, tmp_path / "ours.safetensors", tmp_path / "back.safetensors") == 0
    assert identical(load_file(tmp_path / "back.safetensors"), state)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back.pth",
        "back.safetensors",
        "in.pth",
        "ours.safetensors",
    ]


def test_detectors_are_not_converted(tmp_path, capsys):
    torch.save(
        {"backbone.body.conv1.weight": torch.ones(2), "roi_heads.box_head.fc6.bias": torch.ones(2)}, tmp_path / "d"
    )
    for options in (["--from", "torchvision"], ["--to", "torchvision"]):
        assert main(["convert", *options, str(tmp_path / "d"), str(tmp_path / "out.pth")]) == 1
        assert "a detector's weights, which are not converted: torchvision's Faster R-CNN" in capsys.readouterr().err


def test_convert_between_releases(tmp_path):
    state = filled(CASES["saliencymix"][0])
    save_file(state, tmp_path / "in.safetensors")
    assert convert("--from", "torchvision", "--to", "saliencymix", tmp_path / "in.safetensors", tmp_path / "o.pth") == 0
    written = torch.load(tmp_path / "o.pth", weights_only=True)
    assert identical(written["state_dict"], {f"module.{key}": value for key, value in state.items()})


def test_sgre_round_trip_with_embeddings_and_grid(tmp_path, capsys):
    torch.manual_seed(0)
    options = {"embeddings": torch.randn(4, 6), "rank": 8, "feedforward": 16}
    model = build_multilabel("resnet18", "sgre", num_classes=4, head_options=options)
    np.save(tmp_path / "e.npy", options["embeddings"].numpy())
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    extra = ["--embeddings", tmp_path / "e.npy"]
    assert convert("--to", "sgre", "--grid", "3x2", *extra, tmp_path / "ours.safetensors", tmp_path / "theirs.pth") == 0
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert theirs["module.position_embedding.pe"].shape == (1, 512, 3, 2) and "module.embeddings" not in theirs
    assert convert("--from", "sgre", tmp_path / "theirs.pth", tmp_path / "again.safetensors") == 1
    assert "--embeddings" in capsys.readouterr().err
    assert convert("--from", "sgre", *extra, tmp_path / "theirs.pth", tmp_path / "again.safetensors") == 0
    assert identical(load_file(tmp_path / "again.safetensors"), model.state_dict())


def save_run(tmp_path, model, average=None):
    """Save weights as the trainer does; return the folder of checkpoints."""
    folder = CheckpointFolder(tmp_path / "checkpoints", 1, pytest.fail)
    ema = {"updates": 3, "model": average.state_dict()} if average else None
    folder.save(4, {"format": 1, "model": model.state_dict(), "ema": ema, "step": 4})
    folder.save_best({"model": model.state_dict(), **({"ema": ema} if ema else {}), "metrics": {"top1": 1.0}})
    return folder.path


@pytest.mark.parametrize("name", ["best.pt", "latest", "step-00000004.pt"])
def test_checkpoint_converts_to_backbone(tmp_path, capsys, name):
    model, average = build_model("torchvision/resnet18", 5), build_model("torchvision/resnet18", 5)
    folder = save_run(tmp_path, model, average)
    out = tmp_path / "out.safetensors"
    assert convert("--from", "dali_mix", folder / name, out) == 0
    assert identical(load_file(out), model.state_dict())
    assert "resnet18, 5 classes" in capsys.readouterr().out
    assert convert("--from", "dali_mix", "--ema", "--drop-head", "--force", folder / name, out) == 0
    wanted = {key: value for key, value in average.state_dict().items() if not key.startswith("fc.")}
    assert identical(load_file(out), wanted)
    for head in ("csra", "max"):
        multilabel = build_multilabel("timm/resnet18", head, num_classes=3)
        report = load_weights(multilabel.backbone, out)
        assert report.share == 1 and not report.unexpected
        assert identical(multilabel.backbone.state_dict(), wanted)


@pytest.mark.parametrize("name", ["best.pt", "latest"])
@pytest.mark.parametrize("kind", ["torchvision/resnet18", "timm/resnet18", "multi-label"])
def test_recipe_loads_checkpoint_of_other_run_as_backbone(tmp_path, kind, name):
    source = build_multilabel("resnet18", "csra", num_classes=5) if kind == "multi-label" else build_model(kind, 5)
    folder = save_run(tmp_path, source)
    model = build_multilabel("resnet18", "max", num_classes=3)
    before = {key: value.clone() for key, value in model.head.state_dict().items()}
    recipe = SimpleNamespace(model={"backbone": {"weights": str(folder / name)}}, weights=None)
    (report,) = load_files(model, recipe)
    assert report.share == 1 and report.path.endswith("best.pt" if name == "best.pt" else "step-00000004.pt")
    assert report.unexpected and all(key.startswith(("fc.", "head.")) for key in report.unexpected)
    body = source.backbone if kind == "multi-label" else source
    assert all(torch.equal(value, body.state_dict()[key]) for key, value in model.backbone.state_dict().items())
    assert identical(model.head.state_dict(), before)


def test_unconverted_backbone_is_refused_with_hint(tmp_path):
    save_file(filled(released.resnet18_shapes("backbone.", LISTED)), tmp_path / "splicemix.safetensors")
    model = build_multilabel("resnet18", "max", num_classes=3)
    with pytest.raises(ValueError, match=r"0\.0% of the model's weights fit.*dali-mix convert"):
        load_weights(model.backbone, tmp_path / "splicemix.safetensors", min_match=0.95)


def test_unrecognized_model_needs_model_option(tmp_path, capsys):
    model = build_model("timm/resnet10t", 5)
    folder = save_run(tmp_path, model)
    out = tmp_path / "out.safetensors"
    assert convert("--from", "dali_mix", folder / "best.pt", out) == 0
    assert "keys are unchanged" in capsys.readouterr().out and identical(load_file(out), model.state_dict())
    arguments = ["--from", "dali_mix", "--drop-head", "--force", folder / "best.pt", out]
    assert convert(*arguments) == 1
    assert "--model NAME" in capsys.readouterr().err
    assert convert("--model", "timm/resnet10t", *arguments) == 0
    assert not any(key.startswith("fc.") for key in load_file(out))
    assert convert("--to", "timm", "--model", "timm/resnet10t", folder / "best.pt", tmp_path / "timm.pth") == 0
    assert identical(torch.load(tmp_path / "timm.pth", weights_only=True), model.state_dict())
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    assert convert("--from", "dali_mix", tmp_path / "plain.safetensors", tmp_path / "no.safetensors") == 1
    assert not (tmp_path / "no.safetensors").exists()


@pytest.fixture
def weights_folder(tmp_path):
    save_file(filled(CASES["splicemix"][0]), tmp_path / "in.safetensors")
    (tmp_path / "there.pth").write_bytes(b"precious")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.safetensors", "out.pth"], "pass --from or --to"),
        (["--from", "splicemix", "in.safetensors", "there.pth"], "there.pth exists; --force"),
        (["--from", "splicemix", "--force", "in.safetensors", "in.safetensors"], "is IN itself"),
        (["--from", "splicemix", "--force", "in.safetensors", "link.safetensors"], "is IN itself"),
        (["--from", "splicemix", "in.safetensors", "out.txt"], r"name it *.safetensors, or *.pth"),
        (["--from", "splicemix", "in.safetensors", "nowhere/out.pth"], "its folder does not exist"),
        (["--from", "splicemix", "absent.pth", "out.pth"], "absent.pth: no such file"),
        (["--from", "dali_mix", "--ema", "absent.pth", "out.safetensors"], "absent.pth: no such file"),
        (["--from", "msl", "in.safetensors", "out.pth"], "--from splicemix"),
        (["--from", "dali_mix", "in.safetensors", "out.pth"], "--from splicemix"),
        (["--to", "msl", "in.safetensors", "out.pth"], "--from splicemix"),
        (["--from", "splicemix", "--to", "msl", "in.safetensors", "out.pth"], "msl has no layout for resnet18"),
        (["--from", "splicemix", "--ema", "in.safetensors", "out.pth"], "--ema is for checkpoints of runs"),
        (["--from", "splicemix", "--to", "splicemix", "--drop-head", "in.safetensors", "o.pth"], "--drop-head is for"),
        (["--from", "splicemix", "--embeddings", "e.npy", "in.safetensors", "out.pth"], "--embeddings is for"),
        (["--to", "sgre", "--grid", "14", "in.safetensors", "out.pth"], "--grid 14: must be rows and columns"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(weights_folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(weights_folder)
    Path("link.safetensors").symlink_to("in.safetensors")
    before = Path("in.safetensors").read_bytes()
    assert convert(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert Path("in.safetensors").read_bytes() == before and Path("there.pth").read_bytes() == b"precious"
    assert sorted(path.name for path in Path().iterdir()) == ["in.safetensors", "link.safetensors", "there.pth"]


def test_checkpoint_without_average_or_damaged_is_refused(tmp_path, capsys):
    folder = save_run(tmp_path, build_model("wrn-10-1", 3))
    assert convert("--from", "dali_mix", "--ema", folder / "best.pt", tmp_path / "out.pth") == 1
    assert "contains no averaged weights" in capsys.readouterr().err
    content = bytearray((folder / "best.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "best.pt").write_bytes(content)
    assert convert("--from", "dali_mix", folder / "best.pt", tmp_path / "out.pth") == 1
    assert "does not match its sha256" in capsys.readouterr().err


class Marker:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("origin", ["splicemix", "dali_mix"])
@pytest.mark.parametrize("kind", ["zip", "bare"])
def test_files_that_would_run_code_are_refused(tmp_path, capsys, origin, kind):
    content = {"model_state_dict": filled(CASES["splicemix"][0]), "payload": Marker(tmp_path / "marker")}
    if kind == "zip":
        torch.save(content, tmp_path / "in.pth")
    else:
        (tmp_path / "in.pth").write_bytes(pickle.dumps(content, protocol=2))
    assert convert("--from", origin, tmp_path / "in.pth", tmp_path / "out.pth") == 1
    assert "was refused" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists() and not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_failed_write_keeps_existing_file(weights_folder, monkeypatch, capsys, suffix):
    out = weights_folder / f"out.{suffix}"
    out.write_bytes(b"precious")

    def broken(*args, **kwargs):
        Path(args[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", broken)
        patch.setattr(torch, "save", broken)
        assert convert("--from", "splicemix", "--force", weights_folder / "in.safetensors", out) == 1
    assert "No space left" in capsys.readouterr().err and out.read_bytes() == b"precious"
    assert not list(weights_folder.glob(".*"))
    assert convert("--from", "splicemix", "--force", weights_folder / "in.safetensors", out) == 0
    assert "head.fc.weight" in files.read_state_dict(out)
