"""Values of a recipe: mistakes are named, defaults are not shared."""

import pytest
from torch import nn

from dali_mix.engine.config import schema as configs
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.config.schema import call_with, make_config
from tests.engine.synthetic import recipe


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ("epocs=3", "did you mean epochs"),
        ("schedule.warmup=3", "did you mean .*warmup_epochs"),
        ("loader.num_thread=3", "did you mean num_threads"),
        ("checkpoint.intervall_steps=3", "did you mean interval_steps"),
        ("paramwise.norm=0", "unknown key 'norm'; known: .*norm_decay"),
        ("paramwise.norm_decay=x", "paramwise.norm_decay='x': must be a number"),
        ("loader.source=x", "unknown key 'source'"),
        ("loader.on_bad_record=drop", "raise, skip"),
        ("loader.drop_last=x", "loader.drop_last='x': must be True or False"),
        ("checkpoint.best=top2", "top1, top5, loss"),
        ("checkpoint.best=ema_top1", "top1, top5, loss"),
        ("checkpoint.best=[1]", "top1, top5, loss"),
        ("metrics.protocoll=wider", "did you mean protocol"),
        ("schedule.type=cosin", "did you mean cosine"),
        ("epochs=0", "epochs=0: must be an integer of at least 1"),
        ("batch_size=2.5", "batch_size=2.5: must be an integer"),
        ("amp=int8", "amp='int8': must be one of auto, bf16"),
        ("optimizer.lr=-1", "optimizer.lr=-1: must be a number above 0"),
        ("ema=1.5", "ema is a decay in .*, not 1.5"),
        ("mixer=ResizeMix", "dict with a 'type'"),
        ("visualizer=5", "a name or a list of names"),
        ("visualizer=none", r"\[\] for none"),
        ("visualizer=['tensorboard', 5]", "a name or a list of names"),
        ("early_stopping.patience=0", "patience=0: must be an integer of at least 1"),
        ("early_stopping=5", "early_stopping must be a dict, not 5"),
        ("early_stopping.patience=x", "patience='x': must be an integer"),
        ("ema=high", "ema is a decay in .*, not 'high'"),
        ("clip_grad_norm=[1]", r"clip_grad_norm=\[1\]: must be a number above 0"),
        ("checkpoint.interval_steps=true", "interval_steps=True: must be an integer"),
        ("schedule.min_lr=low", "min_lr='low': must be a number"),
        ("schedule.warmup_epochs=-1", "warmup_epochs=-1: must be a finite number of at least 0"),
        ("schedule={'type': 'step', 'milestones': ['a']}", "schedule.milestones='a': must be a number"),
        ("schedule={'type': 'onecycle', 'div_factor': 0}", "schedule.div_factor=0: must be a finite number"),
        ("loader.prefetch=none", "prefetch=None: must be an integer from 1 to 64"),
        ("seed=9223372036854775808", "2\\^63"),
        ("train_set=none", "train_set must be a path, not None"),
        ("model.num_classes=10", "at the top level of the recipe"),
        ("epochs", "KEY=VALUE"),
        ("seed.x=1", "cannot set"),
    ],
)
def test_invalid_values_are_named(option, match):
    with pytest.raises(ValueError, match=match):
        load_config("quickstart", [option])


def test_batch_size_must_be_divisible():
    config = make_config(recipe(batch_size=12, accumulate=2))
    assert config.per_rank(3) == 2
    with pytest.raises(ValueError, match="multiple of 8"):
        config.per_rank(4)


def test_defaults_are_not_shared():
    one, two = make_config(recipe()), make_config(recipe())
    one.loss["x"] = 1
    assert "x" not in two.loss
    assert configs.FIELDS["loss"].default_factory() == {"type": "SoftCrossEntropy"}


def test_call_with_accepts_only_options_of_module():
    with pytest.raises(ValueError, match="loss Tanh: unknown key 'width'; known: none"):
        call_with(nn.Tanh, "loss Tanh", {"width": 3})

    def __init__(self, width):
        nn.Module.__init__(self)
        self.width = width

    __init__.__qualname__ = "Module.__init__"  # as for `class Module(nn.Module)` in a package
    assert call_with(type("Module", (nn.Module,), {"__init__": __init__}), "model", {"width": 3}).width == 3


@pytest.mark.parametrize("name", ["sets/p.json", "sets/p.rec", "./sets/p", "sets//p.idx", "sets/p"])
def test_set_prefix_is_normalized(name):
    config = make_config(recipe(train_set=name, val_set=name))
    assert (config.train_set, config.val_set) == ("sets/p", "sets/p")
    assert make_config(recipe(val_set=None)).val_set is None
