"""Objectives: losses equal the published formulas, and each part of a batch is used as intended."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_mix.engine.build import build_objective, build_pipeline
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.train.objectives import Detection, MaskedSupervision, Objective, SpliceMixConsistency, is_summed
from dali_mix.losses import AsymmetricLoss, BinaryCrossEntropy, SpliceMixConsistencyLoss
from dali_mix.mixers import CutMix, SpliceMix
from dali_mix.mixers.masks import mask_out
from dali_mix.models import build_detector


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(4, 3, 30, 44, generator=generator())
TARGETS = (torch.rand(4, 5, generator=generator()) < 0.5).float()


class Pooled(nn.Module):
    """Model that computes logits from mean colors, in half precision under autocast, and records its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 5)
        self.calls = []

    def forward(self, images, grid=None):
        self.calls.append((images, grid))
        logits = self.linear(images.mean((2, 3)))
        if grid is None:
            return logits
        count, rows, cols = grid
        return logits, logits[:1].expand(count * rows * cols, 5).reshape(count, rows * cols, 5)


def test_detection_loss_ignores_difficult_objects():
    """VOC's difficult objects and COCO's crowds add nothing to the loss. The batch's own targets stay unchanged."""
    model = build_detector("torchvision/resnet18", 5, channels=16, hidden=16, rois=16).train()
    objective = Detection(model)
    boxes, labels = torch.tensor([[4.0, 4, 30, 24], [8, 2, 40, 28]]), torch.tensor([1, 3])
    target = {"boxes": boxes, "labels": labels, "difficult": torch.tensor([False, True]), "size": (30, 44)}
    easy = {"boxes": boxes[:1], "labels": labels[:1], "size": (30, 44)}
    losses = []
    for one in (target, easy):
        torch.manual_seed(0)
        losses.append(objective(IMAGES[:1], objective.prepare([one], torch.device("cpu"))))
    assert torch.equal(*losses)
    torch.testing.assert_close(sum(objective.parts.values()), losses[1].detach())
    assert len(target["boxes"]) == 2, "the batch's own targets changed"


def test_masked_supervision_equals_published_formula():
    model, fill = Pooled(), [-1.0, 0.5, 2.0]
    objective = MaskedSupervision(model, BinaryCrossEntropy(), fill=fill)
    drawn = objective.draw(IMAGES, generator(5))
    assert (drawn.height, drawn.width) == (30, 44)
    again = objective.draw(IMAGES, generator(5))
    assert torch.equal(drawn.strokes, again.strokes), "the strokes depend on more than the generator"
    loss = objective(IMAGES, TARGETS, None, drawn)
    masked = mask_out(IMAGES, objective.masks.masks(drawn), fill)
    assert not torch.equal(masked, IMAGES)
    whole_z, masked_z = model(IMAGES), model(masked)
    bce = F.binary_cross_entropy_with_logits
    wanted = (
        0.3 * bce(whole_z, TARGETS)
        + 0.2 * bce(masked_z, TARGETS)
        + 0.5 * F.mse_loss(whole_z.sigmoid(), masked_z.sigmoid())
    )
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("normalization", ["imagenet", "half", "none"])
def test_masked_pixels_are_black_for_any_normalization(normalization):
    config = load_config("multilabel/digit_scenes:msl", [f"pipeline.normalization={normalization}"])
    pipeline, objective = build_pipeline(config, True), build_objective(config, Pooled(), BinaryCrossEntropy(), None)
    assert [fill * std + mean for fill, mean, std in zip(objective.fill, pipeline.mean, pipeline.std, strict=True)] == (
        pytest.approx([0, 0, 0], abs=1e-12)
    )


@pytest.mark.parametrize("detach", [True, False])
def test_splicemix_consistency_equals_loss_on_grid_cells(detach):
    model, mixer = Pooled(), SpliceMix(["2x3-2"], [2])
    objective = SpliceMixConsistency(model, BinaryCrossEntropy(), detach)
    drawn = mixer.sample(4, 30, 44, generator(1))
    images, targets = mixer.apply(IMAGES, TARGETS, drawn)
    loss = objective(images, targets, drawn)
    assert model.calls[0][1] == (2, drawn.rows, drawn.cols) and drawn.rows != drawn.cols
    logits, cells = model(images, (2, drawn.rows, drawn.cols))
    wanted = SpliceMixConsistencyLoss(detach)(logits, cells, targets, drawn.sources, drawn.dropped)
    torch.testing.assert_close(loss, wanted)
    assert objective.minimised.detach is detach


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (CutMix(5), "must be SpliceMix"),
        (None, "must be SpliceMix"),
        (SpliceMix(["2x2"], [1]), "one grid per batch"),
        (SpliceMix("mini"), "head 'max'"),
    ],
)
def test_splicemix_consistency_refuses_other_mixers_and_heads(mixer, message):
    with pytest.raises(ValueError, match=message):
        SpliceMixConsistency(Pooled(), BinaryCrossEntropy()).check(mixer)


def test_model_runs_under_autocast_and_loss_in_float32():
    seen = []

    class Loss(nn.Module):
        def forward(self, outputs, targets):
            seen.extend(outputs if isinstance(outputs, tuple) else [outputs])
            return seen[-1].sum()

    objective = Objective(Pooled(), Loss())
    objective.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    objective(IMAGES, TARGETS)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], seen[0].bfloat16().float()), "logits of bfloat16"


def test_masked_supervision_runs_under_autocast():
    objective = MaskedSupervision(Pooled(), BinaryCrossEntropy())
    objective.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    seen = []
    objective.minimised.register_forward_pre_hook(lambda module, given: seen.extend(given[:2]))
    objective(IMAGES, TARGETS, None, objective.draw(IMAGES, generator()))
    for logits in seen:
        assert logits.dtype == torch.float32
        assert torch.equal(logits, logits.bfloat16().float()), "logits of bfloat16"


def test_is_summed_follows_minimized_loss():
    summed = AsymmetricLoss(reduction="sum")
    assert is_summed(Objective(Pooled(), summed).minimised)
    assert not is_summed(Objective(Pooled(), BinaryCrossEntropy()).minimised)
    # These minimize a mean of their own; `loss` only scores evaluations.
    assert not is_summed(MaskedSupervision(Pooled(), summed).minimised)
    assert not is_summed(SpliceMixConsistency(Pooled(), summed).minimised)
