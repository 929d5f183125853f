"""Multi-label recipes hold all values stated in the papers and their released code."""

import re

import pytest

from dali_mix.engine.build import build_pipeline
from dali_mix.engine.config.recipe_files import list_recipes, load_config

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


@pytest.mark.parametrize("name", [name for name in list_recipes() if NAMES.fullmatch(name.replace(":", "_"))])
def test_recipe_matches_paper(name):
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
