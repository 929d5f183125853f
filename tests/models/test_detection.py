"""Detectors compared with torchvision's on the same weights; backbones, freezing, weight files."""

import pytest
import torch
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign

from dali_mix.models import build_detector, build_model, load_weights

SIZES = [(64, 96), (61, 90)]
SMALL = {"channels": 32, "hidden": 64, "rois": 32}


def batch(sizes=SIZES, canvas=(64, 96)):
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(len(sizes), 3, *canvas)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    targets = [
        {"size": sizes[0], "boxes": torch.tensor([[5.0, 8, 60, 50], [40, 2, 80, 30]]), "labels": torch.tensor([0, 4])},
        {"size": sizes[1], "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


def perturbed(model, seed=1):
    """Perturb weights and statistics in place, because neutral values would hide a wrong order of layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand(value.shape, generator=generator))
                value.add_(0.003 * torch.randn(value.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=["torchvision/resnet18", "timm/resnet18"])
def pair(request):
    torch.manual_seed(0)
    ours = perturbed(build_detector(request.param, 20))
    # Disable normalization and resizing in torchvision's transform.
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    theirs = FasterRCNN(backbone, 21, min_size=64, max_size=96, image_mean=[0] * 3, image_std=[1] * 3)
    assert {key for key in theirs.state_dict() if "num_batches" not in key} == ours.state_dict().keys()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.transform.torch_choice = min  # avoids a random draw: there is only one size
    theirs.roi_heads.score_thresh = ours.roi_heads.score_thresh = 0.0
    return ours, theirs


def test_predictions_match_torchvision(pair):
    ours, theirs = (model.eval() for model in pair)
    images, targets = batch([(64, 96), (64, 90)])
    with torch.inference_mode():
        found = ours(images, targets)
        wanted = theirs([images[0], images[1, :, :, :90]])
    for one, other in zip(found, wanted, strict=True):
        assert len(one["boxes"]) > 20
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=0.05, rtol=1e-3)
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-3, rtol=1e-3)
        assert torch.equal(one["labels"] + 1, other["labels"])


def test_losses_match_torchvision(pair):
    ours, theirs = pair
    images, targets = batch([(64, 96), (64, 90)])
    ours.train()
    theirs.train()
    for module in theirs.modules():  # our statistics are frozen
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(3)
    found = ours(images, targets)
    torch.manual_seed(3)
    wanted = theirs(
        [images[0], images[1, :, :, :90]],
        [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets],
    )
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("neck", ["fpn", "c5"])
@pytest.mark.parametrize(
    "backbone", ["torchvision/resnet18", "timm/resnet18d", "timm/convnext_atto", "timm/mobilenetv3_small_050"]
)
def test_every_trained_parameter_gets_a_gradient(backbone, neck):
    model = build_detector(backbone, 5, neck=neck, freeze=("stem", "norm"), **SMALL).train()
    images, targets = batch()
    sum(model(images, targets).values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    found = model.eval()(images, targets)
    assert all(one["labels"].min() >= 0 and one["labels"].max() < 5 for one in found if len(one["labels"]))
    for one, (height, width) in zip(found, SIZES, strict=True):
        assert (one["boxes"][:, 2] <= width).all() and (one["boxes"][:, 3] <= height).all()


def test_losses_are_finite_without_boxes():
    model = build_detector("torchvision/resnet18", 5, **SMALL).train()
    images, targets = batch()
    losses = model(images, [targets[1], targets[1]])
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("neck", ["fpn", "c5"])
def test_predictions_do_not_depend_on_earlier_batches(neck):
    """torchvision's pooling keeps the scales inferred from its first batch, which here is mostly padding."""
    model = build_detector("torchvision/resnet18", 5, neck=neck, **SMALL).eval()
    images, targets = batch()
    one = model(images, targets)
    other = build_detector("torchvision/resnet18", 5, neck=neck, **SMALL).eval()
    other.load_state_dict(model.state_dict())
    other(images, [{"size": (20, 60)}, {"size": (10, 12)}])
    two = other(images, targets)
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first["boxes"], second["boxes"]) and torch.equal(first["scores"], second["scores"])


def test_boxes_are_float32_under_autocast():
    model = build_detector("torchvision/resnet18", 5, score_threshold=0.0, **SMALL)
    images, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.eval()(images, targets)
        losses = model.train()(images, targets)
    assert all(one["boxes"].dtype == torch.float32 and one["scores"].dtype == torch.float32 for one in found)
    for one, (height, width) in zip(found, SIZES, strict=True):
        assert (one["boxes"][:, 2] <= width).all() and (one["boxes"][:, 3] <= height).all()
        assert len(one["boxes"].flatten().unique()) > 100  # more values than bfloat16 can represent
    assert all(value.dtype == torch.float32 for value in losses.values())


@pytest.mark.parametrize(
    "name",
    [
        "backbone.body.layer4.1.conv2.weight",
        "backbone.fpn.layer_blocks.0.0.bias",
        "rpn.head.cls_logits.bias",
        "rpn.head.bbox_pred.bias",
        "roi_heads.box_head.fc6.bias",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.box_predictor.bbox_pred.bias",
    ],
)
def test_nonfinite_weights_are_reported(name):
    """In some of these cases torchvision drops all proposals, and the box head gets none."""
    model = build_detector("torchvision/resnet18", 5, **SMALL).eval()
    images, targets = batch()
    assert all(bool(one["finite"]) for one in model(images, targets))
    with torch.no_grad():
        model.get_parameter(name).view(-1)[2] = torch.nan
    assert not any(bool(one["finite"]) for one in model(images, targets))


def test_only_the_nonfinite_image_is_reported():
    model = build_detector("torchvision/resnet18", 5, **SMALL).eval()
    images, targets = batch()
    images[1, 0, 5, 5] = torch.nan
    assert [bool(one["finite"]) for one in model(images, targets)] == [True, False]


@pytest.mark.parametrize("backbone", ["timm/convnext_atto", "timm/mobilenetv3_small_050", "torchvision/resnet18"])
def test_default_freezes_stem_and_first_stage(backbone):
    model = build_detector(backbone, 5, **SMALL)
    frozen = {
        name.split(".")[2] + name.split(".")[3][:1] for name, p in model.named_parameters() if not p.requires_grad
    }
    trained = [name for name, p in model.named_parameters() if p.requires_grad and name.startswith("backbone.body")]
    assert (
        frozen
        and trained
        and not any(
            name.split(".", 2)[2].startswith(("stem", "conv1", "layer1.", "stages.0", "blocks.0"))
            for name in trained
            if not name.endswith(("bn1.weight", "bn1.bias"))
        )
    )


def test_freeze_selects_parameters():
    model = build_detector("torchvision/resnet18", 5, **SMALL)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    free = build_detector("torchvision/resnet18", 5, freeze=(), **SMALL)
    assert all(p.requires_grad for p in free.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in free.modules())
    text = build_detector("timm/resnet18", 5, freeze="stem,layer2.0", **SMALL)
    frozen = {".".join(name.split(".")[2:4]) for name, p in text.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1.weight", "bn1.weight", "bn1.bias", "layer2.0"}


@pytest.mark.parametrize(("pretrained", "backbone"), [("torchvision", "timm"), ("timm", "torchvision")])
def test_classifier_weights_load_into_body(tmp_path, pretrained, backbone):
    source = perturbed(build_model(f"{pretrained}/resnet18", 10))
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = build_detector(f"{backbone}/resnet18", 5, **SMALL)
    report = load_weights(model.get_submodule("backbone.body"), tmp_path / "weights.pth", min_match=0.95)
    assert report.share == 1.0 and set(report.unexpected) == {"fc.weight", "fc.bias"}
    body = model.state_dict()
    for name, value in source.state_dict().items():
        if name not in report.unexpected and "num_batches" not in name:
            assert torch.equal(body[f"backbone.body.{name}"], value)


@pytest.mark.parametrize("old", [False, True])
def test_torchvision_detection_weights_load(tmp_path, old):
    theirs = perturbed(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91))
    state = theirs.state_dict()
    if old:  # names in files from before version 0.13
        for part in (
            "rpn.head.conv.0.0",
            *(f"backbone.fpn.{kind}_blocks.{i}.0" for kind in ("inner", "layer") for i in range(4)),
        ):
            for kind in ("weight", "bias"):
                state[f"{part.removesuffix('.0.0' if 'rpn' in part else '.0')}.{kind}"] = state.pop(f"{part}.{kind}")
    torch.save(state, tmp_path / "weights.pth")
    model = build_detector("torchvision/resnet50", 20)
    report = load_weights(model, tmp_path / "weights.pth")
    assert report.share == 1.0 and {key.split(".")[1] for key in report.fresh} == {"box_predictor"}
    found = model.state_dict()
    assert torch.equal(
        found["backbone.fpn.inner_blocks.2.0.weight"], theirs.state_dict()["backbone.fpn.inner_blocks.2.0.weight"]
    )
    assert torch.equal(found["rpn.head.conv.0.0.bias"], theirs.state_dict()["rpn.head.conv.0.0.bias"])


def test_norm_eps_0_matches_torchvision_outputs():
    """For its detection weights, torchvision sets the epsilon of every frozen BatchNorm to 0."""
    theirs = FasterRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        21,
        min_size=64,
        max_size=96,
        image_mean=[0] * 3,
        image_std=[1] * 3,
        box_score_thresh=0.0,
    ).eval()
    perturbed(theirs)
    overwrite_eps(theirs, 0.0)
    state = theirs.state_dict()
    for name in [name for name in state if name.endswith("running_var")]:  # comparable to epsilon
        state[name].mul_(1e-4)
        state[name.replace("running_var", "weight")].mul_(1e-2)
    found, images = {}, torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for eps in (0.0, None):
        ours = build_detector("torchvision/resnet18", 20, norm_eps=eps, score_threshold=0.0).eval()
        ours.load_state_dict(theirs.state_dict())
        with torch.inference_mode():
            found[eps] = ours(images, [{"size": (64, 96)}] * 2)
    with torch.inference_mode():
        wanted = theirs(list(images))
    for one, other, default in zip(found[0.0], wanted, found[None], strict=True):
        assert len(one["boxes"]) > 20
        assert torch.equal(one["boxes"], other["boxes"]) and torch.equal(one["scores"], other["scores"])
        assert not torch.equal(one["scores"], default["scores"])


def test_norm_eps_applies_to_timm_frozen_norms():
    model = build_detector("timm/mobilenetv3_small_050", 5, norm_eps=1e-3, **SMALL)
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNormAct2d)]
    assert norms and all(module.eps == 1e-3 for module in norms)


def test_c5_layers_match_torchvision_faster_rcnn():
    model = build_detector("torchvision/resnet18", 5, neck="c5", freeze=(), **SMALL)
    backbone = nn.Sequential(*list(build_model("torchvision/resnet18", 1).children())[:-2])
    backbone.out_channels = 512
    theirs = FasterRCNN(
        backbone, 6, rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    )
    assert model.rpn.head.state_dict().keys() == theirs.rpn.head.state_dict().keys()
    assert model.rpn.head.cls_logits.weight.shape == theirs.rpn.head.cls_logits.weight.shape
    assert model.roi_heads.box_head.fc6.in_features == 512 * 49 == theirs.roi_heads.box_head.fc6.in_features


def test_c5_predictions_match_torchvision():
    """torchvision's pooling infers the scale of the single map; all other modules are shared."""
    anchors = ((16, 32, 64),)
    ours = build_detector("torchvision/resnet18", 5, neck="c5", anchors=anchors[0], score_threshold=0.0, **SMALL).eval()
    perturbed(ours)
    theirs = FasterRCNN(
        ours.backbone,
        None,
        min_size=64,
        max_size=96,
        image_mean=[0] * 3,
        image_std=[1] * 3,
        rpn_anchor_generator=AnchorGenerator(anchors, ((0.5, 1.0, 2.0),)),
        rpn_head=ours.rpn.head,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=ours.roi_heads.box_head,
        box_predictor=ours.roi_heads.box_predictor,
        box_score_thresh=0.0,
    ).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = ours(images, [{"size": (64, 96)}] * 2), theirs(list(images))
    for one, other in zip(found, wanted, strict=True):
        assert len(one["boxes"]) > 20
        assert torch.equal(one["boxes"], other["boxes"]) and torch.equal(one["scores"], other["scores"])


def test_options_reach_torchvision_modules():
    options = {"rois": 7, "proposals": (30, 20), "score_threshold": 0.1, "nms_threshold": 0.4, "detections": 9}
    model = build_detector("torchvision/resnet18", 5, channels=16, hidden=24, **options)
    heads = model.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.1, 0.4, 9)
    assert heads.fg_bg_sampler.batch_size_per_image == 7
    assert (heads.box_head.fc7.out_features, model.backbone.out_channels) == (24, 16)
    for training, count in ((True, 30), (False, 20)):
        model.train(training)
        assert model.rpn.pre_nms_top_n() == model.rpn.post_nms_top_n() == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck": "c4"}, "neck='c4': must be one of fpn, c5"),
        ({"anchors": (32, 64)}, "a pyramid has 5 levels"),
        (
            {"freeze": "layer9"},
            "freeze='layer9': backbone 'torchvision/resnet18' has no such part; it has norm, stem, stage1, conv1",
        ),
        ({"norm_eps": 0.0, "freeze": "stem"}, "norm_eps=0.0: only for frozen BatchNorms"),
        ({"norm_eps": -1.0}, "norm_eps=-1.0"),
        ({"channels": 0}, "channels=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"backbone": {"weights": "a.pt"}}, "backbone=None: must be a name, or a dict with a 'type'"),
        ({"backbone": {"type": "torchvision/resnet18", "groupz": 2}}, "has no option 'groupz'"),
        ({"backbone": "resnet18"}, "'resnet18' .did you mean timm/resnet18 or torchvision/resnet18"),
        ({"proposals": (100,)}, r"proposals=\(100,\): must be a list of 2 integers"),
        ({"proposals": 500}, "proposals=500: must be a list of 2 integers"),
        ({"anchors": 128}, "anchors=128: must be a list of integers"),
        ({"score_threshold": "high"}, "score_threshold='high'"),
        ({"nms_threshold": 5}, "nms_threshold=5"),
        ({"backbone": "timm/vit_tiny_patch16_224"}, r"strides \(16, 16, 16, 16\)"),
        ({"backbone": "wrn-16-2"}, "needs a torchvision ResNet"),
        ({"backbone": "torchvision/vgg11"}, "needs a torchvision ResNet"),
        ({"backbone": "torchvision/resnet81"}, "no model is called"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_detector(**{"backbone": "torchvision/resnet18", "num_classes": 5, **SMALL, **options})


def test_backbone_dict_loads_weights(tmp_path):
    """The dict may name a weight file, which must fit at least 95% of the model's weights."""
    classifier = perturbed(build_model("torchvision/resnet18", 7))
    torch.save(classifier.state_dict(), tmp_path / "r18.pth")
    backbone = {"type": "torchvision/resnet18", "weights": tmp_path / "r18.pth"}
    body = build_detector(backbone, 5, **SMALL).backbone.body
    assert body.state_dict()["layer4.1.conv2.weight"].equal(classifier.state_dict()["layer4.1.conv2.weight"])
    assert backbone["type"] and not body.get_parameter("layer1.0.conv1.weight").requires_grad
    with pytest.raises(ValueError, match="of the model's weights fit, 95% must"):
        build_detector({**backbone, "type": "torchvision/resnet34"}, 5, **SMALL)
    with pytest.raises(FileNotFoundError, match="none"):
        build_detector({**backbone, "weights": tmp_path / "none.pth"}, 5, **SMALL)


def test_targets_are_required_in_training_only():
    model = build_detector("torchvision/resnet18", 5, **SMALL).eval()
    images, _ = batch()
    with torch.inference_mode():
        found, wanted = model(images), model(images, [{"size": (64, 96)}] * 2)
    assert all(one["boxes"].equal(other["boxes"]) for one, other in zip(found, wanted, strict=True))
    with pytest.raises(ValueError, match="training needs targets"):
        model.train()(images)
    with pytest.raises(ValueError, match="images is a list: must be a padded tensor"):
        model(list(images))
