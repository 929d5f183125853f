"""Our own architectures: forward passes compared with plain formulas, draws of Shake-Shake, initial weights."""

import pytest
import torch
import torch.nn.functional as F

from dali_mix.models import build_model
from dali_mix.models.zoo.shakeshake import ShakeBlock, ShakeShake, _Mix
from tests.models import released
from tests.models.released import conv, converted_model, filled, images, norm

SMALL = ["wrn-10-1", "wrn-16-2", "cifar_resnet50", "shakeshake26_2x4d", "torchvision/resnet18", "timm/resnet10t"]


@pytest.mark.parametrize("name", SMALL[:4])
def test_forward_features_returns_maps_before_pooling(name):
    model = build_model(name, 5).eval()
    images = torch.randn(2, 3, 40, 24)
    features = model.forward_features(images)
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert features.shape[2:] == ((5, 3) if name == "cifar_resnet50" else (10, 6))
    torch.testing.assert_close(model(images), head(features.mean((2, 3))))


@pytest.mark.parametrize("name", ["wrn-16-1", "cifar_resnet50", "shakeshake26_2x4d"])
def test_initial_weights_preserve_activation_scale(name):
    torch.manual_seed(0)
    features = build_model(name, 10).train().forward_features(torch.randn(8, 3, 32, 32))
    assert 0.05 < features.std() < 30


def test_wide_resnet_matches_plain_formulas():
    torch.manual_seed(0)
    model = build_model("wrn-10-2", 3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    w = model.state_dict()
    images = torch.randn(2, 3, 12, 8)

    def norm(x, name):
        return F.batch_norm(x, *(w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    x = F.conv2d(images, w["conv1.weight"], w["conv1.bias"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        name = f"layer{stage}.0"
        out = F.conv2d(F.relu(norm(x, f"{name}.bn1")), w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"], padding=1)
        out = F.relu(norm(out, f"{name}.bn2"))
        out = F.conv2d(out, w[f"{name}.conv2.weight"], w[f"{name}.conv2.bias"], padding=1, stride=stride)
        x = out + F.conv2d(x, w[f"{name}.shortcut.0.weight"], w[f"{name}.shortcut.0.bias"], stride=stride)
    wanted = F.relu(norm(x, "bn1")).mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]
    torch.testing.assert_close(model(images), wanted)


def test_dropout_is_active_in_training_only():
    model = build_model("wrn-10-1", 3, dropout=0.5)
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["wrn-16-1", "cifar_resnet50", "shakeshake26_2x4d"])
def test_zero_init_residual_makes_block_the_identity(name):
    model = build_model(name, 3, zero_init_residual=True).eval()
    channels = {"wrn-16-1": 16, "cifar_resnet50": 256, "shakeshake26_2x4d": 4}[name]
    x = torch.randn(2, channels, 8, 8).relu()
    torch.testing.assert_close(model.layer1[1](x), x)


def test_shake_uses_separate_forward_and_backward_shares():
    first, second = (torch.randn(3, 2, 4, 4, requires_grad=True) for _ in range(2))
    forward, backward = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([0.5, 1.0, 0.25])
    out = _Mix.apply(first, second, forward.view(3, 1, 1, 1), backward.view(3, 1, 1, 1))
    torch.testing.assert_close(out[0], second[0])
    torch.testing.assert_close(out[1], 0.25 * first[1] + 0.75 * second[1])
    torch.testing.assert_close(out[2], first[2])
    out.sum().backward()
    for i, share in enumerate(backward.tolist()):
        torch.testing.assert_close(first.grad[i], torch.full_like(first[i], share))
        torch.testing.assert_close(second.grad[i], torch.full_like(first[i], 1 - share))


def test_shake_draws_one_share_per_image():
    # With branches that return the constants 1 and 0, the output equals the drawn share.
    block = ShakeBlock(4, 4, 1)
    for branch, value in ((block.branch1, 1.0), (block.branch2, 0.0)):
        torch.nn.init.zeros_(branch[5].weight)
        torch.nn.init.constant_(branch[5].bias, value)
    shares = block(torch.zeros(16, 4, 3, 3))
    assert torch.equal(shares, shares[:, :1, :1, :1].expand_as(shares))
    per_image = shares[:, 0, 0, 0]
    assert per_image.unique().numel() == 16
    assert per_image.min() >= 0 and per_image.max() <= 1
    assert torch.equal(block.eval()(torch.zeros(16, 4, 3, 3)), torch.full((16, 4, 3, 3), 0.5))


def test_shake_shake_freezes_only_unused_shortcuts():
    model = ShakeShake(4, 3)
    unused = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert unused and all(".shortcut." in key and ".0.shortcut" not in key for key in unused)


def test_shakeshake_matches_reference_logits():
    given = filled({key: tuple(v.shape) for key, v in build_model("shakeshake26_2x4d", 3).state_dict().items()})
    model, _ = converted_model(given, "resizemix", lambda: build_model("shakeshake26_2x4d", 3))
    x = conv(given, images(16, 24), "c_in")
    for stage in (1, 2, 3):
        for block in range(4):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and not block else 1
            branches = []
            for branch in (f"{name}.branch1", f"{name}.branch2"):
                y = F.relu(norm(given, conv(given, F.relu(x), f"{branch}.1", stride), f"{branch}.2"))
                branches.append(norm(given, conv(given, y, f"{branch}.4"), f"{branch}.5"))
            if not block:
                shifted = F.pad(F.relu(x)[:, :, 1:, 1:], (0, 1, 0, 1))
                halves = [conv(given, F.relu(x), f"{name}.shortcut.conv1", stride)]
                halves.append(conv(given, shifted, f"{name}.shortcut.conv2", stride))
                x = norm(given, torch.cat(halves, 1), f"{name}.shortcut.bn")
            x = x + sum(branches) / 2
    wanted = F.relu(x).mean((2, 3)) @ given["fc_out.weight"].T + given["fc_out.bias"]
    torch.testing.assert_close(model(images(16, 24)), wanted, rtol=1e-4, atol=1e-4)


def test_cifar_resnet_matches_reference_logits():
    given = filled(released.shapes("saliencymix_replication/resnet50_cifar10"))
    model, _ = converted_model(given, "saliencymix", lambda: build_model("cifar_resnet50", 10))
    x = F.relu(norm(given, conv(given, images(16, 24), "conv0"), "bn0"))
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            name, y = f"layer{stage}.{block}", x
            stride = 2 if stage > 1 and not block else 1
            for i in (1, 2, 3):
                y = norm(
                    given, conv(given, y, f"{name}.convBn{i}.conv", stride if i == 2 else 1), f"{name}.convBn{i}.bn"
                )
                y = F.relu(y) if i < 3 else y
            if not block:
                x = norm(given, conv(given, x, f"{name}.projection.convP", stride), f"{name}.projection.bnP")
            x = F.relu(x + y)
    wanted = x.mean((2, 3)) @ given["fc.weight"].T + given["fc.bias"]
    torch.testing.assert_close(model(images(16, 24)), wanted, rtol=1e-3, atol=1e-3)
