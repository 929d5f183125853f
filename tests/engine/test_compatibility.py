"""Set, mixer and loss must fit together; combinations that do not are refused with advice."""

import pytest
from torch import nn

from dali_mix import losses
from dali_mix.engine.compatibility import check_targets
from dali_mix.losses import AsymmetricLoss, BinaryCrossEntropy, SoftCrossEntropy
from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, ResizeMix, ResizeMixPlus, SpliceMix
from dali_mix.mixers.ops.targets import mixed_kind
from dali_mix.tasks import CLASSIFICATION, TASKS

BY_AREA = [CutMix(4), ResizeMix(4), MixUp(4), ResizeMixPlus(4), MixChoice([CutMix(4), Cutout(2)], [0.5, 0.5])]
LEFT_ALONE = [None, Cutout(2), MixChoice([Cutout(2)], [0.5])]
UNION = [SpliceMix(num_classes=4), MixChoice([SpliceMix(num_classes=4)], [0.5])]
SINGLE = [SoftCrossEntropy(), nn.CrossEntropyLoss()]
CLASSES_ONLY = [nn.NLLLoss(), nn.MultiMarginLoss()]
MULTI = [nn.BCEWithLogitsLoss(), nn.MultiLabelSoftMarginLoss(), BinaryCrossEntropy(), AsymmetricLoss()]


class Strict(nn.Module):
    """A multi-label loss that takes multi-hot targets only."""

    accepts = frozenset({"multi-hot"})


class Both(nn.Module):
    accepts = frozenset({"class", "multi-hot"})


FITTING = {
    ("classification", "alone"): [*SINGLE, *CLASSES_ONLY, Both()],
    ("classification", "area"): SINGLE,
    ("classification", "union"): [Both()],
    ("multilabel", "alone"): [*MULTI, Strict(), Both()],
    ("multilabel", "area"): MULTI,
    ("multilabel", "union"): [*MULTI, Strict(), Both()],
}


@pytest.mark.parametrize(
    "loss", [*SINGLE, *CLASSES_ONLY, *MULTI, Strict(), Both()], ids=lambda loss: type(loss).__name__
)
@pytest.mark.parametrize("mixer", [*LEFT_ALONE, *BY_AREA, *UNION], ids=repr)
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_check_targets_follows_documented_table(task, mixer, loss):
    """Check the table in docs/mixers.md row by row."""
    kind = "alone" if mixer in LEFT_ALONE else "area" if mixer in BY_AREA else "union"
    if type(loss) in map(type, FITTING[task, kind]):
        check_targets(TASKS[task], mixer, loss)
        return
    single = task == "multilabel" and type(loss) in map(type, [*SINGLE, *CLASSES_ONLY])
    message = "is for one class per record" if single else "takes .*(not the|not)"
    with pytest.raises(ValueError, match=f"loss {type(loss).__name__} {message}"):
        check_targets(TASKS[task], mixer, loss)


@pytest.mark.parametrize(
    ("task", "mixer", "loss", "message"),
    [
        (
            "classification", SpliceMix(num_classes=4), SoftCrossEntropy(),
            r"not the multi-hot .* mixer SpliceMix makes by union from the targets of a classification set\. .*by area",
        ),
        (
            "classification", CutMix(4), nn.NLLLoss(),
            r"takes class indices \(B,\), not the soft labels .* CutMix makes by area.*Choose SoftCrossEntropy",
        ),
        ("multilabel", None, SoftCrossEntropy(), r"SoftCrossEntropy is for one class per record, but"),
        ("multilabel", Cutout(2), SoftCrossEntropy(), r"the records of a multilabel set have several labels: choose"),
        ("multilabel", CutMix(4), nn.NLLLoss(), r"NLLLoss is for one class .*: choose a multi-label recipe, or a "),
        ("multilabel", CutMix(4), Strict(), r"not the multi-hot rows .* weighted by area.*CutMix makes by area"),
        ("classification", None, nn.BCEWithLogitsLoss(), r"class indices \(B,\) that the classification set provides"),
        (
            "classification", SpliceMix(num_classes=4), nn.BCEWithLogitsLoss(),
            r"which mixer SpliceMix returns, but not the class indices .* for evaluation",
        ),
        ("detection", None, SoftCrossEntropy(), r"a set for detection is trained with objective Detection"),
    ],
)  # fmt: skip
def test_check_targets_names_mismatch_and_advice(task, mixer, loss, message):
    with pytest.raises(ValueError, match=message):
        check_targets(TASKS[task], mixer, loss)


def test_check_targets_without_evaluation_checks_training_only():
    check_targets(CLASSIFICATION, SpliceMix(num_classes=4), nn.BCEWithLogitsLoss(), evaluates=False)


def test_undeclared_loss_is_unchecked_and_unknown_kind_refused():
    class Mine(nn.Module):
        pass

    check_targets(CLASSIFICATION, SpliceMix(num_classes=4), Mine())
    Mine.accepts = frozenset({"labels"})
    with pytest.raises(ValueError, match=r"Mine accepts \['labels'\]"):
        check_targets(CLASSIFICATION, None, Mine())


@pytest.mark.parametrize("name", losses.__all__)
def test_every_loss_declares_accepts(name):
    assert getattr(losses, name).accepts


@pytest.mark.parametrize(
    ("kind", "mixed"),
    [
        ("class", ("class", "soft", "multi-hot")),
        ("soft", ("soft", "soft", "soft multi-hot")),
        ("multi-hot", ("multi-hot", "soft multi-hot", "multi-hot")),
        ("soft multi-hot", ("soft multi-hot", "soft multi-hot", "soft multi-hot")),
    ],
)
def test_mixed_kind(kind, mixed):
    assert tuple(mixed_kind(kind, combine) for combine in (None, "area", "union")) == mixed
