"""Conversion of published checkpoints: round trips of every layout, and equal logits."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import VisionTransformer

from dali_mix.models import build_model, build_multilabel
from dali_mix.models.heads import CSRAHead, MaxPoolHead, SGREHead
from dali_mix.models.heads.tokens import sine_positions
from dali_mix.models.weights.convert import _names, to_ours, to_theirs, without_head
from dali_mix.models.weights.layouts import LAYOUTS
from tests.models import released
from tests.models.released import (
    LISTED,
    converted_model,
    filled,
    images,
    norm,
    resnet_map,
    same,
    sgre_state,
    small,
)

DATA = Path(__file__).parent / "data"

CSRA, SPLICED, SGRE = (np.load(DATA / f"{name}.npz") for name in ("csra_head", "splicemix_cl", "sgre_head"))

OURS = {  # the model for each released checkpoint
    "resizemix/wrn28_10_cifar10": ("wrn-28-10", 10),
    "resizemix/shakeshake26_2x96d_cifar10": ("shakeshake26_2x96d", 10),
    "resizemix/resnet50_imagenet": ("torchvision/resnet50", 1000),
    "resizemix/resnet101_imagenet": ("timm/resnet101", 1000),
    "saliencymix_replication/resnet50_cifar10": ("cifar_resnet50", 10),
    "saliencymix_replication/wrn28_10_cifar10": ("wrn-28-10", 10),
    "saliencymix_replication/resnet50_imagenet": ("timm/resnet50", 1000),
    "splicemix/resnet101_coco": ("resnet101", "max", 80, {}),
    "splicemix/splicemix_cl_coco": ("resnet101", "max", 80, {}),
    "msl/resnet101_csra_voc07_heads1": ("resnet101", "csra", 20, {"num_heads": 1}),
    "msl/resnet101_csra_coco_heads6": ("resnet101", "csra", 80, {"num_heads": 6}),
    "msl/vit_b16_224_csra_wider_heads1": ("vit_base_patch16_224", "csra", 14, {"num_heads": 1}),
    "sgre/mlic_resnet101_mscoco_random_embed": ("resnet101", "sgre", 80, {}),
}

WRAPPERS = {
    "saliencymix_replication/resnet50_cifar10": "model_state_dict",
    "saliencymix_replication/resnet50_imagenet": "state_dict",
    "splicemix/resnet101_coco": "model_state_dict",
    "splicemix/splicemix_cl_coco": "model_state_dict",
}


@pytest.mark.parametrize("release", OURS)
def test_released_layouts_convert_and_round_trip(release):
    """Compare names, shapes and values. Each tensor is filled with a distinct number and expanded to save memory."""
    name = release.split("/")[0].removesuffix("_replication")
    given = {
        key: torch.full((), float(i)).expand(shape) for i, (key, shape) in enumerate(released.shapes(release).items())
    }
    if name == "sgre":
        given["position_embedding.pe"] = sine_positions(2048, 14, 14).T.reshape(1, 2048, 14, 14)
    converted = to_ours(given, name)
    with torch.device("meta"):
        if isinstance(OURS[release][1], int):
            model = build_model(*OURS[release])
        else:
            backbone, head, classes, options = OURS[release]
            model = build_multilabel(backbone, head, num_classes=classes, head_options=options)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in converted.state.items()} == wanted
    assert converted.model.num_classes == OURS[release][-1 if isinstance(OURS[release][-1], int) else 2]
    back = to_theirs(converted.state, name)
    assert same(back.state, given)
    assert (back.layout.wrapper, back.layout.prefix) == (
        WRAPPERS.get(release, ""),
        released.LAYOUTS[release]["prefix"],
    )


@pytest.mark.parametrize("release", ["msl", "csra"])
def test_resnet_csra_matches_reference_logits(release):
    given = filled(released.resnet18_shapes()) | filled(
        {f"classifier.multi_head.{i}.head.weight": (5, 512, 1, 1) for i in range(4)}
    )
    options = {"num_heads": 4, "lam": 0.4}
    model, converted = converted_model(
        given, release, lambda: build_multilabel("resnet18", "csra", num_classes=5, head_options=options)
    )
    assert str(converted.model) == "resnet18, 5 classes, head csra (num_heads=4)"
    wanted = released.csra_logits(given, resnet_map(given, images()), 0.4)
    torch.testing.assert_close(model(images()), wanted, rtol=1e-4, atol=1e-4)
    assert same(to_theirs(converted.state, release).state, given)


def test_bottlenecks_match_reference_logits():
    given = filled(released.shapes("resizemix/resnet50_imagenet"))
    model, converted = converted_model(given, "resizemix", lambda: build_model("torchvision/resnet50", 1000))
    wanted = resnet_map(given, images()).mean((2, 3)) @ given["fc.weight"].T + given["fc.bias"]
    torch.testing.assert_close(model(images()), wanted, rtol=1e-4, atol=1e-4)
    timm = build_model("timm/resnet50", 1000).eval()
    timm.load_state_dict(converted.state, strict=True)
    torch.testing.assert_close(timm(images()), wanted, rtol=1e-4, atol=1e-4)


def test_splicemix_matches_reference_logits():
    given = filled(released.resnet18_shapes("backbone.", LISTED) | {"cls.weight": (5, 512), "cls.bias": (5,)})
    model, converted = converted_model(given, "splicemix", lambda: build_multilabel("resnet18", "max", num_classes=5))
    maps = resnet_map(given, images(), "backbone.", LISTED)
    torch.testing.assert_close(model(images()), maps.amax((2, 3)) @ given["cls.weight"].T + given["cls.bias"])
    assert same(to_theirs(converted.state, "splicemix").state, given)


def test_vit_csra_matches_reference_logits():
    given = filled(released.vit_shapes()) | filled({"classifier.multi_head.0.head.weight": (5, 192, 1, 1)})
    options = {"num_heads": 1, "lam": 0.3}
    model, converted = converted_model(
        given, "msl", lambda: build_multilabel("vit_tiny_patch16_224", "csra", num_classes=5, head_options=options)
    )
    x = images(224, 224)
    wanted = released.csra_logits(given, released.vit_patches(given, x), 0.3)
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-4)
    assert same(to_theirs(converted.state, "msl").state, given)


def test_vit_image_size_is_inferred_from_positions():
    given = filled(released.vit_shapes(side=28)) | filled({"classifier.multi_head.0.head.weight": (5, 192, 1, 1)})
    converted = to_ours(given, "csra")
    assert converted.model.options == {"img_size": 448}
    assert same(to_theirs(converted.state, "csra").state, given)


@pytest.mark.parametrize("old", [False, True])
def test_torchvision_vit_converts_to_timm(old):
    torch.manual_seed(0)
    published = VisionTransformer(224, 16, 12, 3, 192, 768, num_classes=7).eval()
    torch.nn.init.normal_(published.heads.head.weight)
    given = published.state_dict()
    if old:  # as in the first version of the published files
        given = {
            key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
            for key, value in given.items()
        }
    model, converted = converted_model(given, "torchvision", lambda: build_model("timm/vit_tiny_patch16_224", 7))
    with torch.no_grad():
        torch.testing.assert_close(model(images(224, 224)), published(images(224, 224)), rtol=1e-4, atol=1e-4)
    assert same(to_theirs(converted.state, "torchvision").state, published.state_dict())


def sgre_logits(w, maps, heads=8):
    """Compute SGRE's logits with plain formulas from the released keys."""
    positions = w["position_embedding.pe"].flatten(2).mT
    x = maps.flatten(2).mT

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def net(x, name):
        x = F.conv1d(x.mT, w[f"{name}.0.weight"])
        return F.relu(norm(w, x, f"{name}.1")).mT

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[2:], w[f"{name}.weight"], w[f"{name}.bias"])

    layer = "encoder.layers.0"
    weights, biases = (w[f"{layer}.self_attn.in_proj_{kind}"].chunk(3) for kind in ("weight", "bias"))
    placed = x + positions
    q, k, v = (part @ a.T + b for part, a, b in zip((placed, placed, x), weights, biases, strict=True))
    found = []
    for q1, k1, v1 in zip(*(part.chunk(heads, 2) for part in (q, k, v)), strict=True):
        found.append((q1 @ k1.mT * q1.shape[2] ** -0.5).softmax(2) @ v1)
    x = layer_norm(x + linear(torch.cat(found, 2), f"{layer}.self_attn.out_proj"), f"{layer}.norm1")
    x = layer_norm(x + linear(F.relu(linear(x, f"{layer}.linear1")), f"{layer}.linear2"), f"{layer}.norm2")
    per_class = []
    for embedding in w["embeddings"]:
        joint = torch.tanh((x @ w["attention.linear1.weight"].T) * (w["attention.linear2.weight"] @ embedding))
        shares = linear(linear(joint, "attention.hidden_linear"), "attention.target_linear").softmax(1)
        per_class.append((shares * x).sum(1))
    f = torch.stack(per_class, 1)
    back = (net(x, "net1") @ net(f, "net2").mT).softmax(2) @ net(f, "net3")
    joined = torch.cat([x, net(back, "net4")], 2)
    return linear(F.relu(linear(joined, "fc2.0")), "fc2.3").amax(1)


def test_sgre_matches_reference_logits():
    given = sgre_state()
    options = {"embeddings": torch.zeros(5, 6), "rank": 16, "feedforward": 24}
    model, converted = converted_model(
        given, "sgre", lambda: build_multilabel("resnet18", "sgre", num_classes=5, head_options=options)
    )
    x = images(96, 64)
    wanted = sgre_logits(given, resnet_map(given, x, "backbone."))
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-4)
    assert "--grid 3x2" in converted.notes[0]
    back = to_theirs(converted.state, "sgre", grid=(3, 2)).state
    torch.testing.assert_close(back.pop("position_embedding.pe"), given.pop("position_embedding.pe"))
    assert same(back, given)


def test_sgre_external_embeddings_must_match_checkpoint():
    given = sgre_state()
    embeddings = given.pop("embeddings")
    with pytest.raises(ValueError, match=r"no label embeddings.*--embeddings"):
        to_ours(given, "sgre")
    with pytest.raises(ValueError, match=r"embeddings: \(4, 6\) in the file, \(5, 6\) in the model"):
        to_ours(given, "sgre", embeddings=embeddings[:4])
    ours = to_ours(given, "sgre", embeddings=embeddings).state
    assert torch.equal(ours["head.embeddings"], embeddings)
    back = to_theirs(ours, "sgre", grid=(3, 2), embeddings=embeddings).state
    assert back.keys() == given.keys()
    with pytest.raises(ValueError, match="differ from those of the checkpoint"):
        to_theirs(ours, "sgre", embeddings=embeddings + 1)
    with pytest.raises(ValueError, match="contains label embeddings"):
        to_ours(sgre_state(), "sgre", embeddings=embeddings)


def test_sgre_positions_must_match_sine_table():
    given = sgre_state()
    given["position_embedding.pe"] = given["position_embedding.pe"].transpose(2, 3).contiguous() + 0.01
    with pytest.raises(ValueError, match=r"position_embedding\.pe differs by [\d.]+ from the sine table"):
        to_ours(given, "sgre")


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
def test_csra_head_matches_released_logits(heads):
    weights = torch.from_numpy(CSRA[f"heads{heads}_weights"])
    given = {f"classifier.multi_head.{i}.head.weight": w[:, :, None, None] for i, w in enumerate(weights)}
    ours = _names(given, LAYOUTS["csra"][0], back=False)
    for lam in (0.1, 0.4):
        head = CSRAHead(32, 11, heads, lam)
        head.load_state_dict({key.removeprefix("head."): value for key, value in ours.items()})
        wanted = torch.from_numpy(CSRA[f"heads{heads}_lam{lam}_logits"])
        torch.testing.assert_close(head(torch.from_numpy(CSRA["features"])), wanted, rtol=1e-4, atol=1e-4)
    assert same(_names(ours, LAYOUTS["csra"][0], back=True), given)


def test_sgre_head_matches_released_logits():
    given = {key.removeprefix("state."): torch.from_numpy(SGRE[key]) for key in SGRE.files if key.startswith("state.")}
    # The file contains only the product of the two consecutive linear layers.
    given["attention.target_linear.weight"] = torch.from_numpy(SGRE["attention_vector"])[None]
    given |= {"attention.target_linear.bias": torch.zeros(1), "attention.hidden_linear.weight": torch.eye(1024)}
    given["attention.hidden_linear.bias"] = torch.zeros(1024)
    for i in (1, 2, 3, 4):
        given[f"net{i}.1.num_batches_tracked"] = torch.tensor(i)
    layout = LAYOUTS["sgre"][0]
    ours = _names(given, layout, back=False)
    head = SGREHead(64, torch.zeros(6, 6)).eval()
    head.load_state_dict({key.removeprefix("head."): value for key, value in ours.items()}, strict=True)
    logits = head(torch.from_numpy(SGRE["tokens"]))
    torch.testing.assert_close(logits, torch.from_numpy(SGRE["logits"]), rtol=1e-4, atol=1e-4)
    back = _names(ours, layout, back=True, grid=(4, 4))
    torch.testing.assert_close(back.pop("position_embedding.pe"), given.pop("position_embedding.pe"))
    assert same(back, given)


@pytest.mark.parametrize("case", ["case0_2x2_drop0", "case2_2x3_drop2"])
def test_splicemix_head_matches_released_logits(case):
    array = {key: torch.from_numpy(SPLICED[f"{case}_{key}"]) for key in ("features", "cls_weight", "cls_bias")}
    ours = _names(
        {"cls.weight": array["cls_weight"], "cls.bias": array["cls_bias"]}, LAYOUTS["splicemix"][0], back=False
    )
    head = MaxPoolHead(16, len(array["cls_bias"]))
    head.load_state_dict({key.removeprefix("head."): value for key, value in ours.items()}, strict=True)
    rows, columns = map(int, re.findall(r"(\d)x(\d)", case)[0])
    torch.testing.assert_close(head(array["features"]), torch.from_numpy(SPLICED[f"{case}_logits"]))
    count = len(SPLICED[f"{case}_cell_logits"]) // (rows * columns)
    cells = head.cells(array["features"][-count:], rows, columns).flatten(0, 1)
    kept = SPLICED[f"{case}_drop"] == 0
    wanted = torch.from_numpy(SPLICED[f"{case}_cell_logits"])
    torch.testing.assert_close(cells[kept], wanted[kept], rtol=1e-4, atol=1e-4)


def test_file_without_batch_norm_counters_round_trips():
    given = {key: value for key, value in small("splicemix").items() if "num_batches" not in key}
    converted = to_ours(given, "splicemix")
    assert same(to_theirs(converted.state, "splicemix").state, given)


@pytest.mark.parametrize(
    ("release", "classifier"), [("torchvision", "fc."), ("resizemix", "linear."), ("timm", "head.")]
)
def test_without_head_removes_classifier(release, classifier):
    converted = to_ours(small(release), release)
    bare = without_head(converted.state, converted.model)
    assert bare.keys() == {key for key in converted.state if not key.startswith(classifier)}


def test_without_head_keeps_multilabel_backbone():
    converted = to_ours(small("splicemix"), "splicemix")
    assert without_head(converted.state, converted.model).keys() == released.resnet18_shapes().keys()
    with pytest.raises(ValueError, match="--model NAME"):
        without_head({"a.weight": torch.zeros(1)}, None)
