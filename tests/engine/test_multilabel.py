"""Multi-label runs: the five systems learn, ranks agree, a killed run goes on equal, and what does not fit is told."""

import re

import numpy as np
import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.build import build_model, build_pipeline
from dali_mix.engine.config.recipe_files import list_recipes, load_config
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.evaluate import evaluate
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.engine.scores import MultiLabelScores
from dali_mix.engine.train.objectives import is_summed
from dali_mix.engine.train.optim import build_optimizer
from dali_mix.engine.train.seeding import INIT, MIXER, derive_seed
from dali_mix.losses import AsymmetricLoss, BinaryCrossEntropy, MultiLabelSoftMargin, SGRELoss
from dali_mix.mixers import SpliceMix
from tests.engine.processes import assert_same_run, newest_state, records, run, said
from tests.engine.sets import pack_digits
from tests.engine.synthetic import Batch, TinyNet, make_loaders, recipe

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
    config = load_config(f"multilabel/digit_scenes:{system}", given)
    torch.save(build_model(config, 10).state_dict(), tmp_path / "untrained.pth")
    before = evaluate_checkpoint(config, tmp_path / "untrained.pth").values
    assert train(config, tmp_path / "run") == "finished"
    after = next(r for r in records(tmp_path / "run") if r["kind"] == "val")
    assert after["mAP"] > before["mAP"] + 2, (before["mAP"], after["mAP"])
    assert after["loss"] < before["loss"]
    again = evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "best.pt").values
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
    "changes",
    [
        {"loss": {"type": "BinaryCrossEntropy"}},
        {"loss": {"type": "MultiLabelSoftMargin"}},
        {"loss": {"type": "AsymmetricLoss", "reduction": "mean", "clip": 0.0}},
    ],
    ids=lambda changes: changes["loss"]["type"],
)
def test_unknown_entries_count_for_nothing_however_a_step_is_cut(tmp_path, changes):
    """One process, two ranks and two micro-batches take the same steps, though each part knows another number."""
    rates = {"optimizer": {"type": "SGD", "lr": 0.05}, "schedule": {"type": "constant"}}
    given = values(model=PLAIN, batch_size=6, ema=None, max_steps=8, log_interval=1, **rates, **changes)
    for name, ranks, more in (("one", 1, {}), ("ranks", 2, {}), ("parts", 1, {"accumulate": 2})):
        assert run({**given, **more}, tmp_path / name, ranks=ranks) == [0] * ranks, said(tmp_path / name)
    one, *others = (newest_state(tmp_path / name)["model"] for name in ("one", "ranks", "parts"))
    torch.manual_seed(derive_seed(INIT, 0))
    start = TinyNet(4, norm=False, dropout=0.0).state_dict()
    for name, value in one.items():
        moved = (value - start[name]).abs().max()
        for other in others:
            assert moved > 1e-3 and (value - other[name]).abs().max() < 1e-4 * moved, name
    losses = [[r["loss"] for r in records(tmp_path / n) if r["kind"] == "train"] for n in ("one", "ranks", "parts")]
    for other in losses[1:]:
        assert losses[0] == pytest.approx(other, rel=1e-5)


def test_parts_of_a_step_weigh_what_is_known_of_the_mixed_batch(tmp_path):
    cut = {"batch_size": 10, "accumulate": 2, "max_steps": 1, "log_interval": 1, "seed": 3}
    given = values(model=PLAIN, loss={"type": "BinaryCrossEntropy"}, mixer={"type": "SpliceMix"}, ema=None, **cut)
    assert run(given, tmp_path / "run") == [0], said(tmp_path / "run")
    torch.manual_seed(derive_seed(INIT, 3))
    model, parts = TinyNet(4, norm=False, dropout=0.0), []
    batches = iter(make_loaders(make_config(given), Ranks(0, 1, torch.device("cpu")))[0])
    for micro in range(2):
        batch, seed = next(batches), derive_seed(MIXER, 3, 0, 0, micro)
        drawn = SpliceMix().sample(5, 32, 32, torch.Generator().manual_seed(seed))
        images, targets = SpliceMix().apply(batch.images, batch.targets, drawn)
        parts.append((model(images), targets))
    assert len({int((targets < 0).sum()) for _, targets in parts}) == 2
    logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    found = next(r for r in records(tmp_path / "run") if r["kind"] == "train")
    assert found["loss"] == pytest.approx(BinaryCrossEntropy()(logits, targets).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), MultiLabelSoftMargin(), SGRELoss(), AsymmetricLoss()])
def test_the_loss_of_an_evaluation_is_that_of_all_records_at_once(loss):
    logits = 3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(-1, 2, (9, 4), generator=torch.Generator().manual_seed(1)).float()
    targets[4:6] = -1
    ids, ranks = torch.arange(9), Ranks(0, 1, torch.device("cpu"))
    whole = loss(logits, targets).item() / (9 if is_summed(loss) else 1)
    for sizes in ((9,), (4, 2, 3), (1, 5, 1, 2)):
        batches = [Batch(*parts) for parts in zip(*(x.split(sizes) for x in (logits, targets, ids)), strict=True)]
        scores = MultiLabelScores(4, ranks.device)
        found = evaluate(torch.nn.Identity(), batches, loss, ranks, scores=scores)
        assert found["loss"] == pytest.approx(whole, rel=1e-6), sizes


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
        ("sgre", ["loss.type=BinaryCrossEntropy"], "loss BinaryCrossEntropy: unknown key 'lam'; known: none"),
        ("csra", ["loss={'type': 'SGRELoss'}"], "loss SGRELoss is for head 'sgre'"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(sets, tmp_path, capsys, name, options, match):
    given = [f"train_set={sets['train_set']}", f"val_set={sets['val_set']}", "visualizer=[]", "max_steps=1"]
    given += [option.replace("{digits}", sets["digits"]) for option in options]
    command = ["train", f"multilabel/digit_scenes:{name}", "--work-dir", str(tmp_path / "run"), "--cfg-options", *given]
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


SETS = {
    "voc2007": ("data/voc2007_trainval", "data/voc2007_test"),
    "coco": ("data/coco2014_train", "data/coco2014_val"),
    "wider": ("data/wider_trainval", "data/wider_test"),
    "nus_wide": ("data/nus_wide_train", "data/nus_wide_test"),
    "vg500": ("data/vg500_train", "data/vg500_test"),
}
BACKBONES = {
    "resnet101": ("resnet101", "resnet101.pth"),
    "resnet101_cutmix": ("resnet101", "resnet101_cutmix.pth"),
    "vit_b16": ("vit_base_patch16_224", "vit_base_patch16_224.safetensors"),
    "vit_l16": ("vit_large_patch16_224", "vit_large_patch16_224.safetensors"),
    "swin_l_384": ("swin_large_patch4_window12_384", "swin_large_384.safetensors"),
    **{f"tresnet_{size}": (f"tresnet_{size}", f"tresnet_{size}.safetensors") for size in ("m", "l", "xl")},
}
NAMES = re.compile(rf"multilabel/({'|'.join(SETS)})_(csra|msl|splicemix_cl|splicemix|sgre)_({'|'.join(BACKBONES)})")
NONE, HALF = ((0, 0, 0), (1, 1, 1)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", [name for name in list_recipes() if NAMES.fullmatch(name.replace(":", "_"))])
def test_protocols_of_the_papers(name):
    """Every value that the papers and their released code give."""
    data, system, backbone = NAMES.fullmatch(name.replace(":", "_")).groups()
    config = load_config(name)
    pipeline = build_pipeline(config, True)
    kind, file = BACKBONES[backbone]
    assert (config.train_set, config.val_set) == SETS[data]
    assert config.model["backbone"] == {"type": kind, "weights": f"weights/{file}"}
    steps = {type(step).__name__: step for step in pipeline.steps}
    assert (config.accumulate, steps["Flip"].prob) == (1, 0.5)
    crops = {"RandomResizedCrop": "random-resized", "MultiScaleCrop": "multi-scale", "Crop": "none"}
    seen = {
        "size": pipeline.image_size[0],
        "crop": crops[type(pipeline.steps[0]).__name__],
        "normalization": (pipeline.mean, pipeline.std),
    }
    found = {"head": config.model["head"], "loss": config.loss, "mixer": config.mixer, "objective": config.objective}
    found |= {"optimizer": config.optimizer, "rates": config.paramwise.get("custom"), "schedule": config.schedule}
    found |= {"batch": config.batch_size, "epochs": config.epochs, "ema": config.ema, "metrics": config.metrics}
    wanted = {"csra": csra, "msl": msl, "splicemix": splicemix, "splicemix_cl": splicemix_cl, "sgre": sgre}[system]
    assert seen | found == wanted(data, backbone)
    voc_splice = data == "voc2007" and system.startswith("splicemix")
    assert (config.amp, config.clip_grad_norm) == (("off", 10.0) if voc_splice else ("auto", None))
    assert set(steps) - {*crops, "Resize", "Flip"} == ({"Cutout", "AutoAugment"} if system == "sgre" else set())
    if system == "sgre":
        augment = steps["AutoAugment"]
        assert (steps["Cutout"].share, augment.kind, augment.count, augment.magnitude) == (0.5, "randaugment", 2, 9)
    assert getattr(pipeline.steps[0], "scale", (0.7, 1.0)) == (0.7, 1.0)


def csra(data, backbone):
    heads, lam = {"voc2007": (1, 0.1), "wider": (1, 0.3), "coco": (8, 1.0) if "vit" in backbone else (6, 0.4)}[data]
    drops = list(range(4, 30, 4)) if data == "voc2007" else [5, 10, 15, 20, 25]
    wider = data == "wider"
    return {
        "size": 224 if wider else 448,
        "crop": "none" if wider else "random-resized",
        "normalization": HALF if wider else NONE,
        "head": {"type": "csra", "num_heads": heads, "lam": lam},
        "loss": {"type": "BinaryCrossEntropy"},
        "mixer": None,
        "objective": {"type": "Plain"},
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
        "rates": {"head": {"lr_mult": 10}},
        "schedule": {"type": "step", "milestones": drops, "gamma": 0.1, "warmup_epochs": 2},
        "batch": 16,
        "epochs": 30,
        "ema": None,
        "metrics": {"protocol": "wider" if wider else "plain"},
    }


def msl(data, backbone):
    weights = {"whole": 0.3, "masked": 0.2, "agreement": 0.5}
    own = {"objective": {"type": "MaskedSupervision", "masks": "free-form", **weights}, "batch": 10}
    return csra(data, backbone) | own


def splicemix(data, backbone):
    coco = data == "coco"
    return {
        "size": 448,
        "crop": "multi-scale",
        "normalization": IMAGENET,
        "head": "max",
        "loss": {"type": "MultiLabelSoftMargin"},
        "mixer": {"type": "SpliceMix", "grids": "default"},
        "objective": {"type": "Plain"},
        "optimizer": {"type": "SGD", "lr": 0.05 if coco else 0.01, "momentum": 0.9, "weight_decay": 1e-4},
        "rates": {"backbone": {"lr_mult": 0.1}},
        "schedule": {"type": "step", "milestones": [40, 60], "gamma": 0.1} | ({"warmup_epochs": 3} if coco else {}),
        "batch": 32 if coco else 16,
        "epochs": 80,
        "ema": None,
        "metrics": {"protocol": "plain"},
    }


def splicemix_cl(data, backbone):
    return splicemix(data, backbone) | {"objective": {"type": "SpliceMixConsistency", "detach": data != "voc2007"}}


def sgre(data, backbone):
    return {
        "size": 384 if "384" in backbone else 448,
        "crop": "none",
        "normalization": NONE if "tresnet" in backbone else IMAGENET,
        "head": {"type": "sgre", "embeddings": f"data/{data}_bert.npy"},
        "loss": {"type": "SGRELoss", "lam": {"voc2007": 0.1, "nus_wide": 0.05}.get(data, 0.4)},
        "mixer": None,
        "objective": {"type": "Plain"},
        "optimizer": {"type": "AdamW", "lr": 9e-5, "weight_decay": 1e-4},
        "rates": None,
        "schedule": {"type": "onecycle", "pct_start": 0.2},
        "batch": 128,
        "epochs": 60,
        "ema": 0.9983 if data == "voc2007" else 0.9997,
        "metrics": {"protocol": "voc12"},
    }


def test_what_digit_scenes_positions_see_lies_where_it_is_drawn():
    torch.manual_seed(0)
    model = build_model(load_config("multilabel/digit_scenes:csra"), 10).eval()
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
    config = load_config("multilabel/digit_scenes:sgre", [f"model.head.embeddings={tmp_path / 'e.npy'}"])
    head = build_model(config, 10).head
    assert torch.equal(head.embeddings, torch.from_numpy(rows)) and "embeddings" not in dict(head.named_parameters())
