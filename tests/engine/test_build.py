"""Building a run's parts from its recipe: incompatible parts are named before the first step."""

from contextlib import closing

import numpy as np
import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.build import build_mixer, build_model, build_split, check_recipe, check_sets, weight_files
from dali_mix.engine.config.recipe_files import list_recipes, load_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.mixers import ResizeMixPlus
from dali_mix.models import build_multilabel

MULTILABEL = [name for name in list_recipes() if load_config(name).model["type"] == "multilabel"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["model.type=wrn-28"], "no model is called 'wrn-28'"),
        (["model.type=tests.engine.synthetic:Nothing"], "cannot be imported"),
        (["mixer.type=ResizeMic"], "did you mean ResizeMix"),
        (["loss.type=SoftCrossEntrop"], "did you mean SoftCrossEntropy"),
        (["loss.smoothing=1"], "did you mean label_smoothing"),
        (["pipeline.type=cifat"], "did you mean cifar"),
        (["pipeline.pading=1"], "did you mean padding"),
        (["optimizer.type=SDG"], "did you mean SGD"),
        (
            ["model={'type': 'detector', 'backbone': 'timm/resnet18', 'backbone_options': {}}"],
            "put.* into model.backbone,",
        ),
        (
            ["model={'type': 'multilabel', 'backbone': 'timm/resnet18', 'head': 'max', 'head_options': {}}"],
            "put.* into model.head,",
        ),
        (["optimizer={'type': 'LBFGS', 'lr': 0.1}"], "optimizer LBFGS cannot take a step"),
        (["optimizer={'type': 'SparseAdam', 'lr': 0.1}"], "optimizer SparseAdam cannot take a step"),
        (["optimizer.momentum=a"], "optimizer SGD: momentum='a': must be a number"),
        (["optimizer.weight_decay=-1"], "optimizer SGD: Invalid weight_decay"),
        (["optimizer.nesterov=x"], "nesterov='x': must be True or False"),
        (["loss.label_smoothing=x"], "loss SoftCrossEntropy: label_smoothing='x': must be a number"),
        (["mixer={'type': 'CutMix', 'alpha': 'x'}"], "mixer CutMix: .*alpha='x'"),
        (["mixer={'type': 'MixUp', 'per_batch': 'x'}"], "mixer MixUp: per_batch='x': must be True or False"),
        (["mixer={'type': 'MixChoice', 'mixers': 5}"], "mixer MixChoice: missing a required argument: 'probs'"),
        (["mixer={'type': 'MixChoice', 'mixers': [5], 'probs': [1]}"], "mixer MixChoice: 5"),
        (["mixer.scale=x"], "mixer ResizeMix: scale='x'"),
        (["paramwise.custom={'conv1': {'lr_mult': 'x'}}"], "lr_mult='x': must be a number"),
        (["mixer.scale=5"], "mixer ResizeMix: scale=5: needs two numbers"),
        (["paramwise.custom.linear=5"], r"paramwise\.custom\['linear'\] must be a dict, not 5"),
    ],
)
def test_check_recipe_names_invalid_part_or_option(options, match):
    with pytest.raises(ValueError, match=match):
        check_recipe(load_config("quickstart", options), 10)


def test_mixer_gets_normalization_of_pipeline():
    choice = build_mixer(load_config("cifar100/saliencymix:wrn28_10"), 100)
    assert (choice.mixers[0].mean, choice.mixers[0].std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    mixer = build_mixer(load_config("imagenet/saliencymix:resnet50", ["train_pipeline.mean=(.1,.2,.3)"]), 1000)
    assert (mixer.mean, mixer.std) == ((0.1, 0.2, 0.3), (0.229, 0.224, 0.225))
    own = load_config("tiny_imagenet/resnet50_saliencymix", ["mixer.mean=(.4,.4,.4)", "mixer.std=(.2,.2,.2)"])
    assert (build_mixer(own, 200).mean, build_mixer(own, 200).std) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["mixer={'type': 'SpliceMix'}"], "mixer SpliceMix makes by union"),
        (["loss={'type': 'torch.nn:NLLLoss'}"], "soft labels.*ResizeMix makes"),
        (["loss={'type': 'torch.nn:BCEWithLogitsLoss'}"], "BCEWithLogitsLoss takes multi-hot"),
        (["mixer=none", "loss={'type': 'torch.nn:MultiLabelSoftMarginLoss'}"], "classification set provides"),
    ],
)
def test_check_recipe_refuses_incompatible_mixer_or_loss(options, match):
    with pytest.raises(ValueError, match=match):
        check_recipe(load_config("quickstart", options), 10)


@pytest.mark.parametrize("option", ["capturable", "fused"])
def test_check_recipe_accepts_gpu_optimizer_options(option):
    check_recipe(load_config("quickstart", ["optimizer={'type': 'AdamW', 'lr': 0.1}", f"optimizer.{option}=True"]), 10)


def test_resizemix_plus_gets_pipeline_statistics():
    config = load_config("cifar100/wrn28_10:resizemix_plus")
    mixer = build_mixer(config, 100)
    assert isinstance(mixer, ResizeMixPlus)
    assert (mixer.mean, mixer.std) == (config.pipeline["mean"], config.pipeline["std"])
    assert (mixer.num_ops, mixer.magnitude, mixer.views, mixer.per_batch) == (2, 14, 2, True)


class Stub(list):
    def __init__(self, task, *classes):
        super().__init__([0])
        self.metainfo = {"task": task, "classes": classes}


def test_check_sets_compares_tasks_before_classes():
    sets = {"train_set": Stub("classification", "cat", "dog"), "val_set": Stub("detection", "cell")}
    with pytest.raises(ValueError, match="have different tasks, classification and detection: choose two sets of one"):
        check_sets(load_config("quickstart"), sets)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("splicemix_cl", ["mixer=none"], "the mixer must be SpliceMix"),
        ("splicemix_cl", ["mixer={'type': 'CutMix'}"], "the mixer must be SpliceMix"),
        ("splicemix_cl", ["mixer={'type': 'SpliceMix', 'grids': ['2x2'], 'counts': [2]}"], "one grid per batch"),
        ("splicemix_cl", ["model.head={'type': 'csra'}"], "needs model multilabel with head 'max'"),
        ("csra", ["train_set={digits}", "val_set=none"], "'mAP' is not measured in classification"),
        ("csra", ["train_set={digits}"], "have different tasks, classification and multilabel: choose"),
        ("csra", ["val_set={digits}"], "have different tasks, multilabel and classification: choose"),
        (
            "csra",
            ["train_set={digits}", "val_set={digits}"],
            "is for multi-label sets, this one has one class per record",
        ),
        ("csra", ["metrics.protocol=voc08"], "protocol='voc08': must be one of"),
        ("csra", ["metrics.protokol=voc07"], "did you mean protocol"),
        ("csra", ["checkpoint.best=top1"], "not measured in multilabel"),
        ("csra", ["loss={'type': 'SoftCrossEntropy'}"], "choose a multi-label recipe, or a multi-label loss"),
        ("csra", ["loss={'type': 'MaskedSupervisionLoss'}"], "loss type 'MaskedSupervisionLoss' is unknown"),
        ("csra", ["model.head={'type': 'csra', 'num_heads': 3}"], "num_heads=3: must be one of"),
        ("csra", ["model.head={'type': 'cssra'}"], "head='cssra': must be one of"),
        (
            "csra",
            ["model.backbone.weights=nowhere.pth"],
            "model.backbone.weights: nowhere.pth: no such file; pass a weight file",
        ),
        ("msl", ["objective.masks=nowhere"], "nowhere: no such folder of masks"),
        ("msl", ["objective.whole=-1"], "whole=-1: must be a finite number"),
        ("sgre", ["model.head.embeddings=nowhere.npy"], "no label embeddings at nowhere.npy"),
        ("sgre", ["loss={'type': 'BinaryCrossEntropy'}"], "use loss SGRELoss"),
        ("sgre", ["loss.type=BinaryCrossEntropy"], "loss BinaryCrossEntropy: unknown key 'lam'; known: none"),
        ("csra", ["loss={'type': 'SGRELoss'}"], "loss SGRELoss is for head 'sgre'"),
    ],
)
def test_incompatible_multilabel_options_are_refused(scene_sets, tmp_path, capsys, name, options, match):
    given = [f"train_set={scene_sets['train_set']}", f"val_set={scene_sets['val_set']}", "visualizer=[]", "max_steps=1"]
    given += [option.replace("{digits}", scene_sets["digits"]) for option in options]
    command = ["train", f"multilabel/digit_scenes:{name}", "--work-dir", str(tmp_path / "run"), "--cfg-options", *given]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert match in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("train", "val", "options", "message"),
    [
        ("train_set", "val_set", [], "choose a multi-label recipe, or a multi-label loss"),
        ("train_set", "val_set", ["metrics.protocol=wider"], "multi-label loss"),
        ("digits", "digits", ["metrics.protocol=voc12"], "classification has no protocol"),
    ],
)
def test_loss_or_protocol_of_other_task_is_refused(scene_sets, tmp_path, capsys, train, val, options, message):
    given = [f"train_set={scene_sets[train]}", f"val_set={scene_sets[val]}", "visualizer=[]", *options]
    assert main(["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--cfg-options", *given]) == 1
    assert message in capsys.readouterr().err


def test_receptive_field_is_centered_on_drawn_position():
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


def test_head_loads_label_embeddings(tmp_path):
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tmp_path / "e.npy", rows)
    config = load_config("multilabel/digit_scenes:sgre", [f"model.head.embeddings={tmp_path / 'e.npy'}"])
    head = build_model(config, 10).head
    assert torch.equal(head.embeddings, torch.from_numpy(rows)) and "embeddings" not in dict(head.named_parameters())


@pytest.mark.parametrize("name", MULTILABEL)
def test_backbone_weights_option_keeps_other_options(name):
    """A recipe may give the backbone as a name only. The other options of a backbone are kept."""
    before, config = load_config(name), load_config(name, ["model.backbone.weights=mine.pth"])
    assert weight_files(config) == {"backbone": "mine.pth"}
    backbone = before.model["backbone"]
    given = {"type": backbone} if isinstance(backbone, str) else backbone
    assert config.model == {**before.model, "backbone": {**given, "weights": "mine.pth"}}
    assert weight_files(load_config(name, ["model.backbone.weights=none"])) == {}


def test_backbone_given_by_name_loads_weights(tmp_path):
    """The recipe's header promises that the weights file of a classifier can be loaded into the backbone."""
    torch.manual_seed(1)  # the recipe's seed is 0
    donor = build_multilabel("resnet18", "max", num_classes=3).backbone
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in donor.state_dict().items()}}, tmp_path / "w.ckpt"
    )
    config = load_config("multilabel/voc_style_csra_resnet18", [f"model.backbone.weights={tmp_path / 'w.ckpt'}"])
    from dali_mix.engine.build import load_files

    model = build_model(config, 4)
    assert not torch.equal(model.backbone.conv1.weight, donor.conv1.weight)
    (report,) = load_files(model, config)
    assert torch.equal(model.backbone.conv1.weight, donor.conv1.weight) and report.share == 1
    assert "model." in str(report)


@pytest.mark.parametrize(("train", "records"), [(True, 32), (False, 40)])
def test_drop_last_applies_to_training_only(scene_sets, train, records):
    """40 digits in batches of 16 leave a short last batch of 8."""
    digits = scene_sets["digits"]
    options = [f"train_set={digits}", f"val_set={digits}", "batch_size=16", "loader.drop_last=True"]
    config = load_config("quickstart", [*options, "loader.num_threads=1"])
    with closing(build_split(config, Ranks(0, 1, torch.device("cpu")), train=train)) as loader:
        assert sum(len(batch.ids) for batch in loader) == records
