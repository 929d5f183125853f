"""Multi-label models: maps of every kind of backbone, layouts of released checkpoints, weights, refusals."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix.engine.train.optim import parameter_groups
from dali_mix.losses import BinaryCrossEntropy, SGRELoss, SpliceMixConsistencyLoss
from dali_mix.models import build_model, build_multilabel, load_weights
from dali_mix.models.heads import CSRAHead, MaxPoolHead

LAYOUTS = json.loads((Path(__file__).parent / "data" / "multilabel_layouts.json").read_text())
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
SMALL_SGRE = {"heads": 2, "feedforward": 16, "rank": 8}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Maps here are so small that threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def names_of_the_release(state):
    """Keys and shapes of a release's checkpoint as ours: all that a conversion has to do."""
    ours = {}
    heads = [key for key in state if key.startswith("classifier.multi_head.")]
    for key, shape in state.items():
        if key.startswith("module.backbone."):  # SGRE
            ours[key.removeprefix("module.")] = shape
        elif key.startswith("module."):
            ours[key.replace("module.", "head.", 1)] = shape
        elif key not in heads:  # MSL
            ours[f"backbone.{key}"] = shape
    if heads:
        ours["head.weight"] = [len(heads), *state[heads[0]][:2]]
    ours.pop("head.position_embedding.pe", None)  # computed here
    return ours


@pytest.mark.parametrize("release", LAYOUTS)
def test_layout_is_the_released_one(release):
    wanted = LAYOUTS[release]
    with torch.device("meta"):
        model = build_multilabel(**wanted["model"])
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == names_of_the_release(wanted["state_dict"])
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted["parameters"]


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("resnet101", 2048, 32),
        ("tresnet_m", 2048, 32),
        ("tresnet_l", 2432, 32),
        ("vit_base_patch16_224", 768, 16),
        ("vit_large_patch16_224", 1024, 16),
        ("swin_large_patch4_window12_384", 1536, 32),
        ("qwen3_vit_306m_enc", 1024, 16),  # an encoder alone, which never had a classifier
        ("torchvision/resnet101", 2048, 32),
        ("torchvision/swin_t", 768, 32),
    ],
)
def test_maps_of_the_published_backbones(name, channels, stride):
    with torch.device("meta"):
        model = build_multilabel(name, num_classes=4, image_size=(448, 320))
        maps = model.forward_features(torch.zeros(1, 3, 448, 320))
    assert maps.shape == (1, channels, 448 // stride, 320 // stride)
    assert model.head.in_channels == channels


# Name of the backbone, its options, its stride.
BACKBONES = [
    ("timm/resnet10t", {}, 32),
    ("timm/vit_tiny_patch16_224", {"depth": 2}, 16),
    ("swin_tiny_patch4_window7_224", SMALL_SWIN, 32),
    ("timm/mobilenetv3_small_050", {}, 32),
    ("torchvision/resnet18", {}, 32),
    ("wrn-10-1", {}, 4),
]


@pytest.mark.parametrize(("name", "options", "stride"), BACKBONES)
def test_maps_are_where_the_pixels_are(name, options, stride):
    """On images that are not square: shapes, and what changes in the lower left moves the map there the most."""
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
def test_every_weight_in_use_learns(name, frozen):
    model = build_multilabel(name, "average", num_classes=4)
    model(images(32, 64)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), f"{key}: DDP waits for what wants a gradient"
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
def test_maps_pooled_are_what_the_whole_model_classifies(tmp_path, name, classifier):
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


def test_patches_of_a_vit_without_the_tokens_in_front():
    for name, front in (("timm/vit_tiny_patch16_224", 1), ("timm/deit_tiny_distilled_patch16_224", 2)):
        model = build_multilabel(name, num_classes=3, backbone_options={"depth": 1}).eval()
        tokens = model.backbone.forward_features(images())
        maps = model.forward_features(images())
        assert tokens.shape[1] == 4 * 6 + front
        for row, column in np.ndindex(4, 6):
            assert torch.equal(maps[:, :, row, column], tokens[:, front + 6 * row + column])
    model = build_multilabel("torchvision/vit_b_16", num_classes=3, backbone_options={"image_size": 32}).eval()
    seen = []
    model.backbone.encoder.register_forward_hook(lambda module, args, out: seen.append(out))
    model.backbone(images(32, 32))
    maps = model.forward_features(images(32, 32))
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), seen[0][:, 1:])


def test_patches_are_normalized_where_the_vit_does_it_after_pooling():
    name, options = "timm/vit_tiny_patch16_224", {"depth": 1, "global_pool": "avg"}
    model = build_multilabel(name, num_classes=3, backbone_options=options).eval()
    tokens = model.backbone.forward_features(images())[:, 1:]
    maps = model.forward_features(images())
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), model.backbone.fc_norm(tokens))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_vit_takes_other_sizes_and_the_weights_of_its_own(tmp_path):
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


HEADS = [("average", {}), ("csra", {"num_heads": 4}), ("max", {}), ("sgre", SMALL_SGRE)]


@pytest.mark.parametrize(("head", "options"), HEADS)
def test_whole_models_load_and_other_classes_leave_the_head_fresh(tmp_path, head, options):
    def make(classes, seed):
        torch.manual_seed(seed)
        return build_multilabel("wrn-10-1", head, num_classes=classes, head_options=options)

    saved, same, other = make(3, 0), make(3, 1), make(5, 2)
    torch.save(saved.state_dict(), tmp_path / "saved.pth")
    assert len(load_weights(same, tmp_path / "saved.pth").matched) == len(saved.state_dict())
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in saved.state_dict().items())
    before = copy.deepcopy(other.state_dict())
    report = load_weights(other, tmp_path / "saved.pth")
    assert report.fresh == tuple(key for key in before if key.startswith("head."))
    for key, value in other.state_dict().items():
        assert torch.equal(value, before[key] if key in report.fresh else saved.state_dict()[key])
    with pytest.raises(ValueError, match="in the file"):
        load_weights(other, tmp_path / "saved.pth", strict_head=True)


@pytest.mark.parametrize(("head", "options"), HEADS)
def test_groups_give_the_head_its_own_rate(head, options):
    model = build_multilabel("wrn-10-1", head, num_classes=3, head_options=options)
    groups = parameter_groups(model, lr=0.01, weight_decay=1e-4, custom={"head": {"lr_mult": 10}})
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert all(key.startswith(("backbone.", "head.")) for key, _ in model.named_parameters())
    for key, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 if key.startswith("head.") else 0.01)


def test_sgre_gives_two_logits_in_training_and_learns():
    torch.manual_seed(0)
    model = build_multilabel("wrn-10-1", "sgre", num_classes=3, head_options=SMALL_SGRE)
    targets = torch.tensor([[1.0, 0, -1], [0, 1, 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = SGRELoss()(model(images(16, 24)), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval()
    assert model(images(16, 24)).shape == (2, 3)
    assert model.head.attention_maps(model.forward_features(images(16, 24))).shape == (2, 3, 4, 6)


def test_embeddings_from_a_file_and_random_ones(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    np.save(tmp_path / "e.npy", values)

    def make(**options):
        return build_multilabel("wrn-10-1", "sgre", num_classes=3, head_options={**SMALL_SGRE, **options}).head

    for given in (tmp_path / "e.npy", str(tmp_path / "e.npy"), torch.from_numpy(values)):
        head = make(embeddings=given)
        assert np.array_equal(head.embeddings.numpy(), values) and not head.embeddings.requires_grad
    assert make(embeddings=given, learn_embeddings=True).embeddings.requires_grad
    assert make().embeddings.shape == (3, 768) and make().embeddings.requires_grad
    np.save(tmp_path / "objects.npy", np.array([{}] * 3), allow_pickle=True)
    np.save(tmp_path / "four.npy", np.zeros((4, 5), np.float32))
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((3, 5), np.int64))
    np.save(tmp_path / "nan.npy", np.where(values == values[1, 2], np.nan, values))
    np.save(tmp_path / "swapped.npy", values.astype(">f4"))
    assert np.array_equal(make(embeddings=tmp_path / "swapped.npy").embeddings.numpy(), values)
    (tmp_path / "text.npy").write_text("no numbers")
    np.save(tmp_path / "number.npy", np.float32(1))
    for name, message in [
        ("objects.npy", r"objects\.npy is no \.npy file of numbers"),
        ("text.npy", r"text\.npy is no \.npy file"),
        ("flat.npy", r"flat\.npy: float32 \(3,\); label embeddings are a table"),
        ("number.npy", r"number\.npy: float32 \(\)"),
        ("whole.npy", r"whole\.npy: int64 \(3, 5\)"),
        ("nan.npy", r"nan\.npy: row 1 holds a number that is NaN"),
        ("four.npy", r"four\.npy: 4 label embeddings for 3 classes"),
    ]:
        with pytest.raises(ValueError, match=message) as told:
            make(embeddings=tmp_path / name)
        assert "allow_pickle" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        make(embeddings=tmp_path / "absent.npy")


def test_spliced_images_give_the_logits_of_their_cells():
    torch.manual_seed(0)
    model = build_multilabel("wrn-10-1", "max", num_classes=3)
    batch = torch.randn(5, 3, 16, 24)
    logits, cells = model(batch, spliced=(1, 2, 3))
    assert isinstance(model.head, MaxPoolHead)
    features = model.forward_features(batch)
    torch.testing.assert_close(logits, model(batch))
    torch.testing.assert_close(cells, model.head.cells(features[4:], 2, 3))
    targets = torch.randint(2, (5, 3)).float()
    sources, dropped = torch.tensor([[0, 1, 2, 3, 0, 1]]), torch.zeros(1, 6, dtype=torch.bool)
    SpliceMixConsistencyLoss()(logits, cells, targets, sources, dropped).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    logits, cells = model(batch, spliced=(0, 2, 3))
    assert cells.shape == (0, 6, 3)
    none = (torch.zeros(0, 6, dtype=torch.int64), torch.zeros(0, 6, dtype=torch.bool))
    loss = SpliceMixConsistencyLoss()(logits, cells, targets, *none)
    torch.testing.assert_close(loss, BinaryCrossEntropy()(logits, targets))
    for wrong in ((6, 1, 2), (-1, 1, 2)):
        with pytest.raises(ValueError, match="of 5 images cannot be spliced"):
            model(batch, spliced=wrong)
    with pytest.raises(ValueError, match="CSRAHead gives no logits of cells"):
        build_multilabel("wrn-10-1", num_classes=3)(batch, spliced=(1, 2, 3))


def test_trying_out_changes_nothing():
    model = build_multilabel("wrn-10-1", num_classes=3)
    assert model.training and isinstance(model.head, CSRAHead)
    assert all(value.device.type == "cpu" and value.grad is None for value in model.parameters())
    assert model.backbone.bn1.num_batches_tracked == 0
    copied = copy.deepcopy(model).eval()
    model.eval()
    assert torch.equal(copied(images(16, 16)), model(images(16, 16)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet1O1"}, r"no model is called 'resnet1O1'.*did you mean .*resnet101"),
        ({"backbone": "timm/resnet1O1"}, r"no model is called 'timm/resnet1O1'.*timm/resnet101"),
        ({"head": "scra"}, r"head='scra': must be one of average, max, csra, sgre \(did you mean csra\?\)"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"head_options": {"heads": 2}}, "head 'csra' has no option 'heads'; it has num_heads, lam$"),
        ({"head_options": {"num_heads": 5}}, "num_heads=5"),
        ({"head": "sgre", "head_options": {"num_heads": 5}}, "head 'sgre' has no option 'num_heads'; it has emb"),
        ({"backbone_options": {"nonsense": 1}}, "nonsense"),
        ({"backbone_options": {"pretrained": True}}, "not downloaded"),
        ({"backbone": "torchvision/squeezenet1_0"}, "where its last map is, is not known here"),
        ({"backbone": "crossvit_9_240"}, "'timm/crossvit_9_240'.* 2 results where one map is needed"),
        ({"backbone": "vit_tiny_patch16_224", "image_size": 100}, "does not take images of 100×100: .*16"),
        (
            {"backbone": "mixer_s16_224", "image_size": (448, 224)},
            "'timm/mixer_s16_224' does not take images of 448×224",
        ),
    ],
)
def test_refusals_say_why(options, message):
    with pytest.raises(ValueError, match=message):
        build_multilabel(**{"backbone": "resnet10t", "num_classes": 3, **options})
