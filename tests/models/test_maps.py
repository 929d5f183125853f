"""Class maps: they pool to the logits, and models without class maps are refused."""

import pytest
import torch

from dali_mix.models import build_model, build_multilabel
from dali_mix.models.maps import look

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("wrn-10-1", (16, 24)),
        ("shakeshake26_2x32d", (16, 24)),
        ("timm/resnet10t", (2, 3)),
        ("torchvision/resnet18", (2, 3)),
        ("torchvision/regnet_y_400mf", (2, 3)),
        ("timm/efficientnet_b0", (2, 3)),
    ],
)
def test_classifier_maps_average_to_logits(name, grid):
    model = build_model(name, 7).eval()
    with torch.inference_mode():
        found = look(model, IMAGES)
        torch.testing.assert_close(found.logits, model(IMAGES))
    assert found.class_maps.shape == (2, 7, *grid)
    assert found.attention is None
    torch.testing.assert_close(found.class_maps.mean((2, 3)), found.logits, atol=1e-4, rtol=1e-3)


def test_class_maps_apply_last_layer_per_position():
    model = build_model("wrn-10-1", 7).eval()
    with torch.inference_mode():
        maps, features = look(model, IMAGES).class_maps, model.forward_features(IMAGES)
        for top, left in ((0, 0), (3, 20), (15, 7)):
            torch.testing.assert_close(maps[:, :, top, left], model.linear(features[:, :, top, left]))


@pytest.mark.parametrize(("head", "pooled"), [("csra", "mean"), ("average", "mean"), ("sgre", "amax")])
def test_multilabel_maps_pool_to_logits(head, pooled):
    model = build_multilabel("resnet10t", head, num_classes=5).eval()
    with torch.inference_mode():
        found = look(model, IMAGES)
        torch.testing.assert_close(found.logits, model(IMAGES))
    assert found.class_maps.shape == (2, 5, 2, 3)
    torch.testing.assert_close(getattr(found.class_maps, pooled)((2, 3)), found.logits, atol=1e-5, rtol=1e-4)
    assert (found.attention is not None) == (head == "sgre")
    if found.attention is not None:
        torch.testing.assert_close(found.attention.sum((2, 3)), torch.ones(2, 5))


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/convnext_atto", "timm/mobilenetv3_small_050"])
def test_models_without_class_maps_are_refused(name):
    options = {"img_size": (64, 96)} if "vit" in name else {}
    with torch.inference_mode(), pytest.raises(ValueError, match="has no class maps"):
        look(build_model(name, 7, **options).eval(), IMAGES)


def test_unknown_module_has_no_class_maps():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 96, 7))
    with pytest.raises(ValueError, match="Sequential has no class maps"):
        look(model, IMAGES)
