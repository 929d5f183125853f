"""Backbones of multi-label models: shapes and alignment of their maps, and the weights they use."""

import numpy as np
import pytest
import torch

from dali_mix.models import build_model, build_multilabel, load_weights
from tests.models.released import images

SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("resnet101", 2048, 32),
        ("tresnet_m", 2048, 32),
        ("tresnet_l", 2432, 32),
        ("vit_base_patch16_224", 768, 16),
        ("vit_large_patch16_224", 1024, 16),
        ("swin_large_patch4_window12_384", 1536, 32),
        ("qwen3_vit_306m_enc", 1024, 16),  # an encoder without a classifier
        ("torchvision/resnet101", 2048, 32),
        ("torchvision/swin_t", 768, 32),
    ],
)
def test_map_shapes_of_published_backbones(name, channels, stride):
    with torch.device("meta"):
        model = build_multilabel(name, num_classes=4, image_size=(448, 320))
        maps = model.forward_features(torch.zeros(1, 3, 448, 320))
    assert maps.shape == (1, channels, 448 // stride, 320 // stride)
    assert model.head.in_channels == channels


# (name, options, stride) of each backbone.
BACKBONES = [
    ("timm/resnet10t", {}, 32),
    ("timm/vit_tiny_patch16_224", {"depth": 2}, 16),
    ("swin_tiny_patch4_window7_224", SMALL_SWIN, 32),
    ("timm/mobilenetv3_small_050", {}, 32),
    ("torchvision/resnet18", {}, 32),
    ("wrn-10-1", {}, 4),
]


@pytest.mark.parametrize(("name", "options", "stride"), BACKBONES)
def test_maps_are_aligned_with_pixels(name, options, stride):
    """Check map shapes for non-square images, and that a change at the lower left affects that part most."""
    torch.manual_seed(0)
    model = build_multilabel(name, "csra", num_classes=4, backbone_options=options).eval()
    changed = images()
    changed[:, :, 40:, :24] += 3
    with torch.no_grad():
        maps = model.forward_features(images())
        assert maps.shape == (2, model.head.in_channels, 64 // stride, 96 // stride)
        assert model.class_maps(images()).shape == (2, 4, 64 // stride, 96 // stride)
        assert model(images()).shape == (2, 4)
        difference = (model.forward_features(changed) - maps).abs().sum((0, 1))
    row, column = divmod(int(difference.argmax()), difference.shape[1])
    assert (row + 0.5) * stride >= 32 and (column + 0.5) * stride <= 48


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("timm/mobilenetv3_small_050", ("backbone.conv_head.",)),
        ("timm/convnext_atto", ("backbone.head.norm.",)),
        ("shakeshake26_2x4d", tuple(f"backbone.layer{i}.{j}.shortcut." for i in (1, 2, 3) for j in (1, 2, 3))),
    ],
)
def test_only_unused_weights_are_frozen(name, frozen):
    model = build_multilabel(name, "average", num_classes=4)
    model(images(32, 64)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), f"{key}: DDP waits for its gradient"
        assert parameter.requires_grad != key.startswith(frozen), key


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("timm/resnet10t", "fc"),
        ("torchvision/resnet18", "fc"),
        ("torchvision/regnet_y_400mf", "fc"),
        ("torchvision/densenet121", "classifier"),
        ("torchvision/mobilenet_v2", "classifier"),
        ("torchvision/swin_t", "head"),
        ("wrn-10-1", "linear"),
    ],
)
def test_pooled_maps_and_classifier_give_model_logits(tmp_path, name, classifier):
    torch.manual_seed(0)
    whole = build_model(name, 6).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    model = build_multilabel(name, "average", num_classes=3).eval()
    report = load_weights(model.backbone, tmp_path / "whole.pth")
    assert report.share == 1 and not report.fresh
    assert report.unexpected and all(key.startswith(f"{classifier}.") for key in report.unexpected)
    with torch.no_grad():
        pooled = model.forward_features(images()).mean((2, 3))
        torch.testing.assert_close(whole.get_submodule(classifier)(pooled), whole(images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "front"), [("timm/vit_tiny_patch16_224", 1), ("timm/deit_tiny_distilled_patch16_224", 2)]
)
def test_vit_maps_exclude_prefix_tokens(name, front):
    model = build_multilabel(name, num_classes=3, backbone_options={"depth": 1}).eval()
    tokens = model.backbone.forward_features(images())
    maps = model.forward_features(images())
    assert tokens.shape[1] == 4 * 6 + front
    for row, column in np.ndindex(4, 6):
        assert torch.equal(maps[:, :, row, column], tokens[:, front + 6 * row + column])


def test_torchvision_vit_maps_exclude_class_token():
    model = build_multilabel("torchvision/vit_b_16", num_classes=3, backbone_options={"image_size": 32}).eval()
    seen = []
    model.backbone.encoder.register_forward_hook(lambda module, args, out: seen.append(out))
    model.backbone(images(32, 32))
    maps = model.forward_features(images(32, 32))
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), seen[0][:, 1:])


def test_vit_fc_norm_is_applied_to_patches():
    name, options = "timm/vit_tiny_patch16_224", {"depth": 1, "global_pool": "avg"}
    model = build_multilabel(name, num_classes=3, backbone_options=options).eval()
    tokens = model.backbone.forward_features(images())[:, 1:]
    maps = model.forward_features(images())
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), model.backbone.fc_norm(tokens))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_vit_accepts_other_image_sizes(tmp_path):
    name, options = "timm/vit_tiny_patch16_224", {"depth": 1}
    whole = build_model(name, 6, **options)
    torch.save(whole.state_dict(), tmp_path / "224.pth")
    model = build_multilabel(name, num_classes=3, backbone_options=options, image_size=(96, 64))
    load_weights(model.backbone, tmp_path / "224.pth")
    assert model(images(96, 64)).shape == model(images(448, 224)).shape == (2, 3)
    assert torch.equal(model.backbone.pos_embed, whole.pos_embed)
    with pytest.raises(ValueError, match="does not take images of 96×64"):
        build_multilabel(
            name, num_classes=3, backbone_options={**options, "dynamic_img_size": False}, image_size=(96, 64)
        )
    table = build_multilabel(name, num_classes=3, backbone_options={**options, "img_size": 448})
    assert table.backbone.pos_embed.shape[1] == 28 * 28 + 1
