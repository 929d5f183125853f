"""Multi-label runs: the five systems learn, ranks agree, a killed run goes on equal, and what does not fit is told."""

import numpy as np
import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.build import build_model
from dali_mix.engine.optim import build_optimizer
from dali_mix.engine.recipe_files import load_config
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.engine.seeding import INIT, derive_seed
from tests.engine.processes import assert_same_run, newest_state, records, run, said
from tests.engine.sets import pack_digits
from tests.engine.synthetic import TinyNet, recipe

SYSTEMS = ["csra", "msl", "splicemix", "splicemix_cl", "sgre"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", "160"), ("val", "60")):
        command = ["pack", "digit-scenes", "--split", split, "--scenes", count, "--out", str(folder / split), "--quiet"]
        assert main(command) == 0
    return {"train_set": str(folder / "train"), "val_set": str(folder / "val"), "digits": pack_digits(folder, 40)[0]}


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_epoch_beats_the_untrained_model(sets, tmp_path, system):
    """Half the images' size and batches of 8, to be quick; all else as in the recipe."""
    given = [f"{name}={sets[name]}" for name in ("train_set", "val_set")]
    given += ["epochs=1", "batch_size=8", "pipeline.image_size=(36,48)", "visualizer=[]", "loader.num_threads=1"]
    config = load_config(f"multilabel/digit_scenes_{system}", given)
    torch.save(build_model(config, 10).state_dict(), tmp_path / "untrained.pth")
    before = evaluate_checkpoint(config, tmp_path / "untrained.pth")
    assert train(config, tmp_path / "run") == "finished"
    after = next(r for r in records(tmp_path / "run") if r["kind"] == "val")
    assert after["mAP"] > before["mAP"] + 2, (before["mAP"], after["mAP"])
    assert after["loss"] < before["loss"]
    again = evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "best.pt")
    assert again["mAP"] == after["mAP"]


NET = {"type": "multilabel", "backbone": "wrn-10-1"}
PLAIN = {"type": "tests.engine.synthetic:TinyNet", "norm": False, "dropout": 0.0}


def values(**changes):
    """A run over made-up images of 32 pixels with several labels."""
    base = {"pipeline": {"type": "multilabel", "image_size": 32}, "loss": {"type": "BinaryCrossEntropy"}, "mixer": None}
    return recipe(**{**base, "epochs": 2, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {**NET, "head": "csra"}, "objective": {"type": "MaskedSupervision"}},
        {
            "model": {**NET, "head": "max"},
            "mixer": {"type": "SpliceMix"},
            "objective": {"type": "SpliceMixConsistency", "detach": False},
        },
    ],
    ids=["masked supervision", "SpliceMix-CL"],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_is_equal(tmp_path, changes, ranks):
    batch = {"batch_size": 8 * ranks}
    assert run(values(**changes, **batch), tmp_path / "straight", ranks=ranks) == [0] * ranks, said(
        tmp_path / "straight"
    )
    killed = run(values(**changes, **batch), tmp_path / "killed", ranks=ranks, kill_at=3)
    assert killed == [-9] * ranks
    resumed = run(values(**changes, **batch), tmp_path / "killed", ranks=ranks, resume="must")
    assert resumed == [0] * ranks, said(tmp_path / "killed")
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_two_ranks_evaluate_as_one_process(tmp_path):
    """Every score to the last digit, of 22 records that 2 ranks × 4 do not divide evenly, some of them unknown."""
    still = {"model": PLAIN, "max_steps": 1, "ema": None, "optimizer": {"type": "SGD", "lr": 1e-20}, "batch_size": 8}
    for ranks in (1, 2):
        assert run(values(**still), tmp_path / str(ranks), ranks=ranks) == [0] * ranks, said(tmp_path / str(ranks))
    one, two = (next(r for r in records(tmp_path / n) if r["kind"] == "val") for n in ("1", "2"))
    assert 0 < one["mAP"] < 100
    assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-6)
    assert one == two


def test_a_summed_loss_trains_alike_on_one_and_two_ranks(tmp_path):
    """A sum over records stays one: neither ranks nor an uneven last batch change the step."""
    rates = {"optimizer": {"type": "SGD", "lr": 0.002}, "schedule": {"type": "constant"}}
    given = values(model=PLAIN, loss={"type": "AsymmetricLoss", "reduction": "sum"}, batch_size=6, ema=None, **rates)
    for ranks in (1, 2):
        assert run(given, tmp_path / str(ranks), ranks=ranks) == [0] * ranks, said(tmp_path / str(ranks))
    one, two = (newest_state(tmp_path / n)["model"] for n in ("1", "2"))
    torch.manual_seed(derive_seed(INIT, 0))
    start = TinyNet(4, norm=False, dropout=0.0).state_dict()
    for name, value in one.items():
        moved = (value - start[name]).abs().max()
        assert moved > 1e-3 and (value - two[name]).abs().max() < 1e-3 * moved, name
    losses = [[r["loss"] for r in records(tmp_path / n) if r["kind"] == "train"] for n in ("1", "2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("splicemix_cl", ["mixer=none"], "the mixer must be SpliceMix"),
        ("splicemix_cl", ["mixer={'type': 'CutMix'}"], "the mixer must be SpliceMix"),
        ("splicemix_cl", ["mixer={'type': 'SpliceMix', 'grids': ['2x2'], 'counts': [2]}"], "one grid a batch"),
        ("splicemix_cl", ["model.head={'type': 'csra'}"], "needs model multilabel with head 'max'"),
        ("csra", ["train_set={digits}", "val_set=none"], "'mAP' is not measured in classification"),
        ("csra", ["train_set={digits}"], "hold different tasks: classification and multilabel"),
        ("csra", ["val_set={digits}"], "hold different tasks: multilabel and classification"),
        ("csra", ["train_set={digits}", "val_set={digits}"], "is for multi-label sets, this one has a class a record"),
        ("csra", ["metrics.protocol=voc08"], "voc08"),
        ("csra", ["metrics.protokol=voc07"], "protocol"),
        ("csra", ["checkpoint.best=top1"], "not measured in multilabel"),
        ("csra", ["loss={'type': 'SoftCrossEntropy'}"], "Choose a multi-label loss"),
        ("csra", ["loss={'type': 'MaskedSupervisionLoss'}"], "unknown"),
        ("csra", ["model.head={'type': 'csra', 'num_heads': 3}"], "num_heads=3"),
        ("csra", ["model.head={'type': 'cssra'}"], "cssra"),
        ("csra", ["model.backbone.weights=nowhere.pth"], "model.backbone.weights: nowhere.pth is not there"),
        ("msl", ["objective.masks=nowhere"], "nowhere"),
        ("msl", ["objective.whole=-1"], "whole=-1"),
        ("sgre", ["model.head.embeddings=nowhere.npy"], "no label embeddings at nowhere.npy"),
        ("sgre", ["loss={'type': 'BinaryCrossEntropy'}"], "SGRELoss"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(sets, tmp_path, capsys, name, options, match):
    given = [f"train_set={sets['train_set']}", f"val_set={sets['val_set']}", "visualizer=[]", "max_steps=1"]
    given += [option.replace("{digits}", sets["digits"]) for option in options]
    command = ["train", f"multilabel/digit_scenes_{name}", "--work-dir", str(tmp_path / "run"), "--cfg-options", *given]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert any(part in error for part in match.split("|")), error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_classification_recipe_on_a_multi_label_set_is_told(sets, tmp_path, capsys):
    for options, match in (([], "Choose a multi-label loss"), (["metrics.protocol=wider"], "multi-label loss")):
        given = [f"train_set={sets['train_set']}", f"val_set={sets['val_set']}", "visualizer=[]", *options]
        assert main(["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--cfg-options", *given]) == 1
        assert match in capsys.readouterr().err
    digits = [f"train_set={sets['digits']}", f"val_set={sets['digits']}", "metrics.protocol=voc12"]
    assert main(["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--cfg-options", *digits]) == 1
    assert "classification has no choice of protocol" in capsys.readouterr().err


def groups(name, num_classes):
    """(learning rate, weight decay) → names of the parameters, of a recipe's model without memory."""
    config = load_config(f"multilabel/{name}")
    with torch.device("meta"):
        model = build_model(config, num_classes)
    optimizer = build_optimizer(model, config.optimizer, config.paramwise, torch.device("meta"))
    names = {id(parameter): own for own, parameter in model.named_parameters()}
    made = {}
    for group in optimizer.param_groups:
        key = (group["lr"], group["weight_decay"])
        made.setdefault(key, set()).update(names[id(parameter)] for parameter in group["params"])
    return made, {own for own, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "num_classes", "backbone", "head", "decay"),
    [
        ("voc2007_csra_resnet101", 20, 0.01, 0.1, 1e-4),
        ("coco_csra_vit_l16", 80, 0.01, 0.1, 1e-4),
        ("wider_msl_tresnet_m", 14, 0.01, 0.1, 1e-4),
        ("coco_splicemix_resnet101", 80, 0.005, 0.05, 1e-4),
        ("voc2007_splicemix_cl_resnet101", 20, 0.001, 0.01, 1e-4),
    ],
)
def test_rates_of_backbone_and_head(name, num_classes, backbone, head, decay):
    made, trained = groups(name, num_classes)
    parts = {(round(lr, 12), wd): {own.partition(".")[0] for own in names} for (lr, wd), names in made.items()}
    assert parts == {(backbone, decay): {"backbone"}, (head, decay): {"head"}}
    assert set.union(*made.values()) == trained


def test_protocols_of_the_papers():
    voc, coco, wider = (load_config(f"multilabel/{n}") for n in (
        "voc2007_csra_resnet101", "coco_csra_resnet101_cutmix", "wider_csra_vit_b16",
    ))  # fmt: skip
    assert (voc.model["head"], coco.model["head"]) == (
        {"type": "csra", "num_heads": 1, "lam": 0.1},
        {"type": "csra", "num_heads": 6, "lam": 0.4},
    )
    assert voc.schedule["milestones"] == [4, 8, 12, 16, 20, 24, 28]
    assert coco.schedule == {"type": "step", "milestones": [5, 10, 15, 20, 25], "gamma": 0.1, "warmup_epochs": 2}
    assert (voc.pipeline["normalization"], wider.pipeline["normalization"]) == ("none", "half")
    assert (wider.pipeline["image_size"], wider.metrics) == (224, {"protocol": "wider"})
    msl = load_config("multilabel/voc2007_msl_resnet101_cutmix")
    weights = {"whole": 0.3, "masked": 0.2, "agreement": 0.5}
    assert msl.objective == {"type": "MaskedSupervision", "masks": "free-form", **weights}
    splice = load_config("multilabel/voc2007_splicemix_resnet101")
    assert (splice.batch_size, splice.amp, splice.clip_grad_norm, splice.epochs) == (16, "off", 10.0, 80)
    assert splice.schedule == {"type": "step", "milestones": [40, 60], "gamma": 0.1}
    for name, detach in (("coco", True), ("voc2007", False)):
        config = load_config(f"multilabel/{name}_splicemix_cl_resnet101")
        assert config.objective == {"type": "SpliceMixConsistency", "detach": detach}
    assert load_config("multilabel/coco_splicemix_cl_resnet101").schedule["warmup_epochs"] == 3
    lam = {"voc2007": (0.1, 0.9983), "coco": (0.4, 0.9997), "nus_wide": (0.05, 0.9997)}
    for name, (weight, ema) in lam.items():
        config = load_config(f"multilabel/{name}_sgre_resnet101")
        assert (config.loss, config.ema) == ({"type": "SGRELoss", "lam": weight}, ema)
        assert (config.batch_size, config.epochs, config.pipeline["cutout"]) == (128, 60, 0.5)
        assert config.optimizer == {"type": "AdamW", "lr": 9e-5, "weight_decay": 1e-4}
        assert config.schedule == {"type": "onecycle", "pct_start": 0.2}


def test_what_digit_scenes_positions_see_lies_where_it_is_drawn():
    torch.manual_seed(0)
    model = build_model(load_config("multilabel/digit_scenes_csra"), 10).eval()
    images = torch.randn(4, 3, 96, 128, requires_grad=True)
    features = model.forward_features(images)
    assert features.shape[2:] == (12, 16)
    features[:, :, 6, 8].square().sum().backward()
    seen = images.grad.abs().sum((0, 1))
    for axis, drawn in ((0, 6.5 * 8), (1, 8.5 * 8)):
        places = torch.arange(seen.shape[axis]) + 0.5
        centre = float((seen.sum(1 - axis) * places).sum() / seen.sum())
        assert abs(centre - drawn) < 5, (axis, centre, drawn)


def test_embeddings_reach_the_head(tmp_path):
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tmp_path / "e.npy", rows)
    config = load_config("multilabel/digit_scenes_sgre", [f"model.head.embeddings={tmp_path / 'e.npy'}"])
    head = build_model(config, 10).head
    assert torch.equal(head.embeddings, torch.from_numpy(rows)) and "embeddings" not in dict(head.named_parameters())
