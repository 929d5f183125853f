"""Multi-label models: layouts of released checkpoints, weights, training, invalid input."""

import copy
import json
from pathlib import Path

import pytest
import torch

from dali_mix.engine.train.optim import parameter_groups
from dali_mix.losses import BinaryCrossEntropy, SGRELoss, SpliceMixConsistencyLoss
from dali_mix.models import build_multilabel, load_weights
from dali_mix.models.heads import CSRAHead, MaxPoolHead
from tests.models.released import images

LAYOUTS = json.loads((Path(__file__).parent / "data" / "multilabel_layouts.json").read_text())

SMALL_SGRE = {"heads": 2, "feedforward": 16, "rank": 8}


def released_shapes(state):
    """Return the keys and shapes that a conversion of a released checkpoint must produce."""
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
    ours.pop("head.position_embedding.pe", None)  # computed by our head
    return ours


@pytest.mark.parametrize("release", LAYOUTS)
def test_state_dict_layout_matches_release(release):
    wanted = LAYOUTS[release]
    with torch.device("meta"):
        model = build_multilabel(**wanted["model"])
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == released_shapes(wanted["state_dict"])
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted["parameters"]


HEADS = [("average", {}), ("csra", {"num_heads": 4}), ("max", {}), ("sgre", SMALL_SGRE)]


@pytest.mark.parametrize(("head", "options"), HEADS)
def test_checkpoint_loads_and_other_classes_leave_head_fresh(tmp_path, head, options):
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
def test_parameter_groups_set_head_learning_rate(head, options):
    model = build_multilabel("wrn-10-1", head, num_classes=3, head_options=options)
    groups = parameter_groups(model, lr=0.01, weight_decay=1e-4, custom={"head": {"lr_mult": 10}})
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert all(key.startswith(("backbone.", "head.")) for key, _ in model.named_parameters())
    for key, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 if key.startswith("head.") else 0.01)


def test_sgre_training_reduces_loss():
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


def test_spliced_images_return_cell_logits():
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


@pytest.mark.parametrize(
    ("head", "spliced", "message"),
    [
        ("max", (6, 1, 2), "6 of 5 images cannot be spliced"),
        ("max", (-1, 1, 2), "-1 of 5 images cannot be spliced"),
        ("csra", (1, 2, 3), "CSRAHead returns no logits of cells"),
    ],
)
def test_invalid_spliced_argument_is_refused(head, spliced, message):
    with pytest.raises(ValueError, match=message):
        build_multilabel("wrn-10-1", head, num_classes=3)(torch.randn(5, 3, 16, 24), spliced=spliced)


def test_shape_probe_leaves_model_unchanged():
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
        ({"backbone": "torchvision/squeezenet1_0"}, "not known which layer returns its last map"),
        ({"backbone": "crossvit_9_240"}, "'timm/crossvit_9_240'.* 2 results instead of one map"),
        ({"backbone": "vit_tiny_patch16_224", "image_size": 100}, "does not take images of 100×100: .*16"),
        (
            {"backbone": "mixer_s16_224", "image_size": (448, 224)},
            "'timm/mixer_s16_224' does not take images of 448×224",
        ),
    ],
)
def test_build_multilabel_refuses_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        build_multilabel(**{"backbone": "resnet10t", "num_classes": 3, **options})
