"""`dali_mix.train` and `dali_mix.evaluate` with objects in place of a recipe's names."""

import json
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.datasets import FakeData

import dali_mix
from dali_mix.cli.main import main
from dali_mix.engine import Callback
from dali_mix.engine.checkpoint.files import load_checkpoint
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.train.seeding import INIT, derive_seed
from dali_mix.losses import SoftCrossEntropy
from dali_mix.mixers import CutMix, MixUp
from dali_mix.reports import attention
from tests.engine.processes import newest_state
from tests.engine.sets import pack_digits
from tests.engine.synthetic import SyntheticLoader, TinyNet, recipe, train_synthetic

LOAD = {"batch_size": 1, "train": True}
POOL = SimpleNamespace(open=print)


@pytest.mark.parametrize("wrong", [None, 3, {"epochs": 1}, b"run"])
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda wrong: dali_mix.train(wrong, "run"), "recipe={}: must be a name (`dali-mix recipes` lists them) or"),
        (lambda wrong: dali_mix.evaluate(wrong, "run"), "recipe={}: must be a name"),
        (lambda wrong: dali_mix.load_config(wrong), "recipe={}: must be a name"),
        (lambda wrong: dali_mix.train("imagenet/resnet50", wrong), "work_dir={}: must be a path, as a string or"),
        (lambda wrong: dali_mix.evaluate("imagenet/resnet50", wrong), "checkpoint={}: must be a path"),
        (lambda wrong: dali_mix.Predictor("imagenet/resnet50", wrong), "checkpoint={}: must be a path"),
        (lambda wrong: dali_mix.Writer(wrong, classes=["a"]), "prefix={}: must be a path"),
        (lambda wrong: dali_mix.build_loader("imagenet", wrong, **LOAD), "prefix={}: must be a path"),
        (lambda wrong: dali_mix.build_loader("imagenet", wrong, workers=POOL, **LOAD), "prefix={}: must be a path"),
        (lambda wrong: dali_mix.build_loader(wrong, "set", **LOAD), "pipeline={}: must be the name"),
        (lambda wrong: dali_mix.pack("imagefolder", root="photos", out=wrong), "out={}: must be a path"),
        (lambda wrong: dali_mix.pack(wrong, root="photos", out="set"), "layout={}: must be the name of a layout"),
    ],
)
def test_arguments_of_wrong_type_are_named(wrong, call, words):
    with pytest.raises(ValueError, match="^" + re.escape(words.format(repr(wrong)))):
        call(wrong)


class OtherNet(TinyNet):
    pass


class Centers(nn.Module):
    """A loss with state: the number of its calls in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs, targets):
        if torch.is_grad_enabled():
            self.calls += 1
        return SoftCrossEntropy()(outputs, targets)


class Recorder(Callback):
    """Callback that records its calls, counts steps, and calls `do` after step `at`."""

    def __init__(self, at=None, do=None):
        self.called, self.steps, self.at, self.do = [], 0, at, do

    def before_epoch(self, trainer):
        self.called.append(("before_epoch", trainer.epoch))

    def before_step(self, trainer):
        self.called.append(("before_step", trainer.step))

    def after_step(self, trainer):
        self.called.append(("after_step", trainer.step, trainer.loss.item() > 0))
        self.steps += 1
        if trainer.step == self.at:
            self.do()

    def after_epoch(self, trainer):
        self.called.append(("after_epoch", trainer.epoch, "ema_top1" in trainer.scores))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def objects(micro=9, **changes):
    """Return the objects that `tests.engine.synthetic.recipe` names, as keyword arguments of `dali_mix.train`."""
    torch.manual_seed(derive_seed(INIT, 0))
    return {
        "model": TinyNet(4),
        "optimizer": sgd,
        "loss": SoftCrossEntropy(),
        "mixer": CutMix(4),
        "train_loader": SyntheticLoader(40, micro, train=True),
        "val_loader": SyntheticLoader(22, 8, train=False),
        **changes,
    }


def config(**changes):
    return make_config(recipe(**changes))


def assert_equal(work_dir, other):
    state, wanted = newest_state(work_dir), newest_state(other)
    for part in ("model", "ema"):
        ours, theirs = (one[part].get("model", one[part]) for one in (state, wanted))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 3}, {"amp": "bf16"}])
def test_objects_train_like_named_parts(tmp_path, changes):
    values, accumulate = recipe(**changes), changes.get("accumulate", 1)
    train_synthetic(values, tmp_path / "names")
    given = objects(9 // accumulate)
    assert dali_mix.train(make_config(values), tmp_path / "objects", **given) == "finished"
    assert_equal(tmp_path / "objects", tmp_path / "names")
    trained = given["model"].state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in newest_state(tmp_path / "names")["model"].items())
    optimizer = torch.optim.SGD((model := objects()["model"]).parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    more = objects(9 // accumulate, model=model, optimizer=optimizer)
    dali_mix.train(make_config(values), tmp_path / "instance", **more)
    assert_equal(tmp_path / "instance", tmp_path / "names")
    written = json.loads((tmp_path / "objects" / "config.json").read_text())
    assert written["model"] == {"type": "object tests.engine.synthetic.TinyNet"}
    assert written["optimizer"] == {"type": "object torch.optim.sgd.SGD"}
    assert written["mixer"] == {"type": "object dali_mix.mixers.cutmix.CutMix"}
    assert written["train_set"] == "object tests.engine.synthetic.SyntheticLoader"


def stop():
    raise KeyboardInterrupt


def test_run_with_objects_resumes_their_states(tmp_path):
    whole, part = Recorder(), Recorder(at=5, do=stop)
    dali_mix.train(config(), tmp_path / "whole", **objects(loss=Centers()), callbacks=[whole])
    with pytest.raises(KeyboardInterrupt):
        dali_mix.train(config(), tmp_path / "run", **objects(loss=Centers()), callbacks=[part])
    again, loss = Recorder(), Centers()
    with pytest.raises(FileExistsError, match="already contains checkpoints"):
        dali_mix.train(config(), tmp_path / "run", **objects(), callbacks=[again])
    given = objects(loss=loss)
    nn.init.zeros_(given["model"].head.weight)  # the checkpoint's weights replace these
    assert dali_mix.train(config(), tmp_path / "run", resume=True, **given, callbacks=[again]) == "finished"
    assert_equal(tmp_path / "run", tmp_path / "whole")
    assert again.steps == whole.steps == 15 and loss.calls == 15
    assert newest_state(tmp_path / "run")["objects"].keys() == {"loss", "callback tests.engine.test_start.Recorder"}


def test_sigterm_saves_and_unused_callback_state_is_logged(tmp_path):
    callback = Recorder(at=3, do=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert dali_mix.train(config(), tmp_path / "run", **objects(), callbacks=[callback]) == "preempted"
    assert newest_state(tmp_path / "run")["step"] == 3
    assert dali_mix.train(config(), tmp_path / "run", resume="auto", **objects()) == "finished"
    assert (
        "callback tests.engine.test_start.Recorder: the checkpoint has its state, but it was not passed now"
        in (tmp_path / "run" / "train.log").read_text()
    )
    dali_mix.train(config(), tmp_path / "whole", **objects())
    assert_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": OtherNet(4)}, "trained with model object .*TinyNet, the recipe now says object .*OtherNet"),
        ({"optimizer": torch.optim.Adam}, "trained with optimizer object .*SGD.*now says object .*Adam"),
        ({"mixer": MixUp(4)}, "trained with mixer object .*CutMix, this one has object .*MixUp"),
        ({"mixer": None}, "trained with mixer object .*CutMix, this one has None"),
        (
            {"loss": nn.functional.cross_entropy},
            "with loss object .*SoftCrossEntropy, .* torch.nn.functional.cross_ent",
        ),
        ({"train_loader": SyntheticLoader(30, 9, train=True)}, "in training on other records"),
    ],
)
def test_resume_with_other_objects_is_refused(tmp_path, given, message):
    dali_mix.train(config(max_steps=2), tmp_path / "run", **objects())
    with pytest.raises(ValueError, match=message) as refused:
        dali_mix.train(config(max_steps=3), tmp_path / "run", resume=True, **objects(**given))
    assert "resume_strict=False" in str(refused.value)
    if "train_loader" not in given:
        ended = dali_mix.train(
            config(), tmp_path / "run", resume=True, **objects(**given), resume_strict=False, max_steps=3
        )
        assert ended == "finished"


class Plain(nn.Module):
    pass


MODEL = TinyNet(4)
HEAD = list(MODEL.head.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": TinyNet}, r"model is the class TinyNet: pass an instance, TinyNet\(…\)"),
        ({"model": len}, r"model is a builtins\.len, not a torch\.nn\.Module"),
        ({"model": nn.DataParallel(MODEL)}, "model is a DataParallel: pass the module inside"),
        ({"optimizer": sgd(TinyNet(4).parameters())}, "SGD has 5 parameters that are not the model's: build it with"),
        ({"model": MODEL, "optimizer": sgd(HEAD)}, r"SGD lacks conv\.weight, norm\.weight, norm\.bias of the model"),
        ({"optimizer": lambda parameters: parameters}, "returns a list, not a torch.optim.Optimizer"),
        ({"optimizer": TinyNet}, "optimizer is the class TinyNet: pass an instance"),
        ({"optimizer": torch.optim.LBFGS(MODEL.parameters()), "model": MODEL}, "LBFGS evaluates the loss in its step"),
        ({"optimizer": object()}, r"optimizer is a builtins\.object, not a torch\.optim\.Optimizer or a function"),
        ({"loss": nn.CrossEntropyLoss}, "loss is the class CrossEntropyLoss: pass an instance"),
        ({"loss": nn.NLLLoss()}, "loss NLLLoss takes class indices"),
        ({"loss": nn.Linear(4, 1)}, "loss Linear has parameters, which a run does not train"),
        ({"loss": 3}, "loss must be a dict with a 'type', not 3"),
        ({"mixer": nn.Identity()}, r"mixer is a .*Identity, not a dali_mix\.mixers\.Mixer"),
        ({"mixer": CutMix(3)}, "mixer CutMix is for 3 classes, the set has 4"),
        ({"train_loader": [1, 2]}, "train_loader is a list: pass a loader from dali_mix.build_loader"),
        (
            {"train_loader": torch.utils.data.DataLoader([1])},
            "train_loader is a .*DataLoader without epoch, global_size, .*: use dali_mix.build_loader",
        ),
        ({"val_loader": SyntheticLoader(9, 9, train=True)}, "val_loader was built with train=True: build it with"),
        (
            {"train_loader": SyntheticLoader(9, 9, train=True, world_size=2)},
            "built with world_size=2, this run has 1",
        ),
        ({"batch_size": 12}, "yields 9 records at a time over all ranks, but batch_size=12"),
        ({"modle": MODEL}, r"unknown key 'modle' \(did you mean model\?\)"),
        ({"resume": "yes"}, "resume='yes': must be one of"),
        ({"callbacks": [Recorder]}, "callback Recorder is a class"),
        ({"callbacks": [Plain]}, "callback Plain is a class"),
        ({"callbacks": [3]}, r"callback builtins\.int has none of the methods before_epoch"),
    ],
)
def test_invalid_object_is_refused_in_one_line(tmp_path, given, message):
    with pytest.raises(ValueError, match=message) as refused:
        dali_mix.train(config(), tmp_path / "run", **objects(**given))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_callbacks_from_generator_are_called(tmp_path):
    steps = []
    callbacks = (function for function in [lambda trainer: steps.append(trainer.step)])
    dali_mix.train(config(epochs=1), tmp_path / "run", **objects(), callbacks=callbacks)
    assert steps == [1, 2, 3, 4, 5]


def test_loader_device_may_be_string(tmp_path):
    given = objects()
    given["train_loader"].device = "cpu"
    assert dali_mix.train(config(epochs=1), tmp_path / "run", **given) == "finished"
    given["train_loader"].device = "cuda:0"
    with pytest.raises(ValueError, match="train_loader returns batches on cuda, the run is on cpu"):
        dali_mix.train(config(epochs=1), tmp_path / "other", **given)


def test_callbacks_are_called_around_steps_and_epochs(tmp_path):
    callback, steps = Recorder(), []
    dali_mix.train(
        config(epochs=1), tmp_path / "run", **objects(), callbacks=[callback, lambda t: steps.append(t.step)]
    )
    inner = [call for step in range(5) for call in (("before_step", step), ("after_step", step + 1, True))]
    assert callback.called == [("before_epoch", 0), *inner, ("after_epoch", 0, True)]
    assert steps == [1, 2, 3, 4, 5]


def test_error_in_callback_names_callback_and_line(tmp_path):
    callback = Recorder(at=2, do=lambda: {}["key"])
    with pytest.raises(KeyError) as raised:
        dali_mix.train(config(), tmp_path / "run", **objects(), callbacks=[callback])
    line = Recorder.after_step.__code__.co_firstlineno + 4
    note = f"raised in after_step of callback tests.engine.test_start.Recorder, {__file__}, line {line}"
    assert raised.value.__notes__ == [note]


def test_callback_state_with_unsupported_type_is_refused(tmp_path):
    callback = Recorder()
    callback.state_dict = lambda: {"a": [np.zeros(1)]}
    with pytest.raises(
        ValueError, match=r"Recorder: its state_dict\(\) has a numpy\.ndarray: checkpoints store tensors"
    ):
        dali_mix.train(config(), tmp_path / "run", **objects(), callbacks=[callback])


def test_evaluate_and_predict_with_model_object(tmp_path):
    dali_mix.train(config(), tmp_path / "run", **objects())
    latest = tmp_path / "run" / "checkpoints" / "latest"
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    val = objects()["val_loader"]
    found = dali_mix.evaluate(config(), latest, model=TinyNet(4), val_loader=val)
    averaged = dali_mix.evaluate(config(), latest, model=TinyNet(4), val_loader=val, ema=True)
    last = [record for record in records if record["kind"] == "val"][-1]
    assert (found.values["top1"], averaged.values["top1"]) == (last["top1"], last["ema_top1"])
    assert len(val) and found.val_set is None

    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture)
    predictor = dali_mix.Predictor(config(), latest, model=TinyNet(4))
    assert predictor([picture]).scores.sum().item() == pytest.approx(1)
    assert predictor.classes == tuple("abcd")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits"), 40)


def test_named_recipe_with_values_by_keyword(tmp_path, digits, caplog):
    train_set, val_set = digits
    loader = dali_mix.build_loader(
        "cifar", train_set, batch_size=8, train=True, device="cpu", pipeline_options={"image_size": 16}
    )
    values = {"val_set": val_set, "device": "cpu", "visualizer": []}
    common = {"model": TinyNet(10), "mixer": "CutMix", **values}
    dali_mix.train(
        "quickstart", tmp_path / "run", train_loader=loader, max_steps=2, options={"optimizer.lr": 0.01}, **common
    )
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["recipe"] == "quickstart" and written["train_set"] == train_set
    assert written["optimizer"]["lr"] == 0.01 and written["batch_size"] == 8
    assert written["mixer"] == {"type": "CutMix"} and written["model"]["type"].startswith("object ")
    assert next(iter(loader)).images.shape[0] == 8  # still open, because the user owns it

    checkpoint = tmp_path / "run" / "checkpoints" / "latest"
    with pytest.raises(ValueError, match=r"model: the run used an object .*TinyNet.*: pass it again as model=…$"):
        dali_mix.evaluate("quickstart", checkpoint)
    found = dali_mix.evaluate("quickstart", checkpoint, model=TinyNet(10))
    assert found.values["top1"] >= 0 and str(found.val_set) == val_set
    with pytest.raises(ValueError, match="model: the run used an object"):
        dali_mix.train("quickstart", tmp_path / "run", resume=True, max_steps=3)
    ended = dali_mix.train("quickstart", tmp_path / "run", resume=True, max_steps=3, model=TinyNet(10))
    assert ended == "finished"  # on the loader's set, with the options of the first start
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000003.pt")["train_set"] == train_set


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_set": "x"}, r"train_set has no effect with train_loader, which yields batches of its own: leave one"),
        ({"options": {"train_set": "x"}}, "train_set has no effect with train_loader"),
        ({"val_set": "x"}, "val_set has no effect with val_loader"),
        ({"val_set": None}, "val_set has no effect with val_loader"),
        ({"val_batch_size": 4}, "val_batch_size has no effect with val_loader"),
        ({"loader": {"drop_last": True}}, r"loader\.drop_last has no effect with train_loader"),
        ({"options": ["loader.drop_last=True"], "val_loader": None}, r"loader\.drop_last has no effect with train_lo"),
        ({"loader": {"num_threads": 2}}, r"loader has no effect on loaders that .*, and set its options in dali_mix"),
        ({"options": {"loader.prefetch": 3}}, r"loader\.prefetch has no effect on loaders"),
        ({"service": "auto"}, r"service has no effect on .*: leave it out, and build them with workers=dali_mix\.serv"),
        ({"service": "auto", "val_loader": None, "val_set": None}, "service has no effect on loaders"),
        ({"options": {"service.address": "auto"}}, r"service\.address has no effect on loaders"),
        ({"options": {"epochs": 3}, "epochs": 2}, r"options set epochs, and epochs=… replaces it: leave one of them"),
        ({"options": {"optimizer.lr": 0.1}}, r"options set optimizer\.lr, and optimizer=… replaces it"),
        ({"options": ["mixer.prob=0.5"]}, r"options set mixer\.prob, and mixer=… replaces it"),
    ],
)
def test_train_refuses_values_without_effect(tmp_path, given, message):
    with pytest.raises(ValueError, match=message) as refused:
        dali_mix.train(config(), tmp_path / "run", **objects(**given))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [{"val_set": "x"}, {"val_batch_size": 4}, {"service": "auto"}])
def test_evaluate_refuses_values_without_effect(tmp_path, given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name} has no effect"):
        dali_mix.evaluate(config(), tmp_path / "none", val_loader=objects()["val_loader"], **given)


def test_train_accepts_options_for_set_of_recipe(tmp_path, digits):
    train_set, val_set = digits
    loader = dali_mix.build_loader(
        "cifar", train_set, batch_size=8, train=True, device="cpu", pipeline_options={"image_size": 16}
    )
    values = {"val_set": val_set, "val_batch_size": 4, "device": "cpu", "visualizer": [], "max_steps": 1}
    for given in ({"options": {"loader.num_threads": 1}}, {"loader": {"num_threads": 1}}):
        folder = tmp_path / next(iter(given))
        dali_mix.train("quickstart", folder, model=TinyNet(10), train_loader=loader, **values, **given)
        log = (folder / "train.log").read_text()
        assert "top1" in log and "WARNING" not in log


def test_loader_with_other_pipeline_is_warned_about(tmp_path, digits):
    train_set, val_set = digits
    for options in ({"image_size": 24}, {"image_size": 16, "mean": [0.1, 0.2, 0.3]}):
        loader = dali_mix.build_loader(
            "cifar", train_set, batch_size=8, train=True, device="cpu", pipeline_options=options
        )
        values = {"val_set": val_set, "device": "cpu", "visualizer": [], "max_steps": 1, "model": TinyNet(10)}
        dali_mix.train("quickstart", tmp_path / str(len(options)), train_loader=loader, **values)
    first, second = ((tmp_path / name / "train.log").read_text() for name in "12")
    assert "train_loader has pipeline cifar (24 × 24 pixels, mean 0.4914" in first
    assert "the recipe's is cifar (16 × 16 pixels" in first and "mean 0.1, 0.2, 0.3" in second
    assert "which evaluation, mixers and Predictor use: pass pipeline=… of the same values" in first


def test_load_config_accepts_keywords_and_dotted_keys():
    config = dali_mix.load_config("quickstart", {"optimizer.lr": 0.5}, epochs=3, mixer=None)
    assert (config.optimizer["lr"], config.epochs, config.mixer) == (0.5, 3, None)
    assert config == dali_mix.load_config("quickstart", ["optimizer.lr=0.5", "epochs=3", "mixer=none"])
    message = r"unknown key 'lr' \(did you mean optimizer\.lr\?\): in Python options=\{'optimizer\.lr': …\}"
    with pytest.raises(ValueError, match=message):
        dali_mix.load_config("quickstart", lr=0.1)
    with pytest.raises(ValueError, match=r'^options=\'epochs=3\': must be a dict of keys and values, or a list of "K'):
        dali_mix.load_config("quickstart", "epochs=3")
    with pytest.raises(ValueError, match="unknown key 'epoch'"):
        dali_mix.load_config("quickstart", epoch=3)


def outputs_only(outputs):
    return outputs.sum()


class Pair(TinyNet):
    def forward(self, images):
        return super().forward(images), images


class Fixed(nn.Module):
    """A model for images of 16 × 16 pixels only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, 4)

    def forward(self, images):
        return self.head(images.flatten(1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"callbacks": 3}, r"callbacks is a builtins\.int: pass a function, a Callback, or a list of them"),
        ({"callbacks": "print"}, r"callbacks is a builtins\.str: pass"),
        ({"callbacks": Recorder}, "callback Recorder is a class"),
        ({"callbacks": [lambda: 1]}, r"callback .*<lambda> is called with \(trainer\), but takes \(\): too many"),
        ({"optimizer": lambda: 1}, r"optimizer is called with \(parameters\), but takes \(\): too many"),
        (
            {"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1)},
            "optimizer is called with the list of parameters to train, but raises AttributeError: 'list' object has no"
            " attribute 'parameters'; pass a function, optimizer=lambda parameters: ",
        ),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss CrossEntropyLoss has reduction='none': use"),
        ({"loss": lambda outputs, targets: 1.0}, r"loss .*<lambda> returns a builtins\.float, not a scalar tensor"),
        (
            {"loss": lambda outputs, targets: outputs},
            r"loss .*<lambda> returns a tensor of shape \(9, 4\), not a scalar",
        ),
        (
            {"loss": lambda outputs, targets: torch.ones(())},
            "loss .*<lambda> has no gradient: compute it from the outputs",
        ),
        ({"loss": outputs_only}, r"outputs_only is called with \(outputs, targets\), but takes \(outputs\): too many"),
        (
            {"model": Pair(4)},
            r"model Pair returns a tuple of 2, not a tensor of logits \(B, K\): return only logits",
        ),
        (
            {"train_set": FakeData(3), "train_loader": None},
            r"train_set is a torchvision\..*FakeData, not the prefix of a packed set: pack it: dali_mix\.Writer\."
            r"from_dataset\(dataset, PREFIX\), then pass train_set=PREFIX",
        ),
        (
            {"val_loader": torch.utils.data.DataLoader([1])},
            r"val_loader is a .*DataLoader without dataset\.metainfo \(.*\): use dali_mix\.build_loader",
        ),
        ({"keep": 3}, r"unknown key 'keep' \(did you mean checkpoint\.keep\?\)"),
        ({"num_threads": 3}, r"unknown key 'num_threads' \(did you mean loader\.num_threads\?\)"),
    ],
)
def test_misused_object_is_refused_in_one_line(tmp_path, given, message):
    with pytest.raises(ValueError, match=message) as refused:
        dali_mix.train(config(), tmp_path / "run", **objects(**given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("single", [True, False])
def test_single_callback_needs_no_list(tmp_path, single):
    steps, callback = [], Recorder()
    dali_mix.train(config(max_steps=2), tmp_path / "run", **objects(), callbacks=lambda t: steps.append(t.step))
    assert steps == [1, 2]
    given = callback if single else (one for one in [callback])
    dali_mix.train(config(max_steps=2), tmp_path / "other", **objects(), callbacks=given)
    assert callback.steps == 2


class CallableHook:
    """Callback that has hooks and can be called as a function."""

    def __init__(self):
        self.called = []

    def __call__(self, trainer):
        self.called.append("call")

    def after_epoch(self, trainer):
        self.called.append("after_epoch")


class CallableStepHook(CallableHook):
    def after_step(self, trainer):
        self.called.append("after_step")


@pytest.mark.parametrize(
    ("callback", "called"),
    [(CallableHook(), ["after_epoch"]), (CallableStepHook(), ["after_step"] * 2 + ["after_epoch"])],
)
def test_callback_with_hooks_is_not_called_as_function(tmp_path, callback, called):
    dali_mix.train(config(max_steps=2), tmp_path / "run", **objects(), callbacks=callback)
    assert callback.called == called


def test_error_in_first_forward_names_input(tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        dali_mix.train(config(), tmp_path / "run", **objects(model=Fixed()))
    assert raised.value.__notes__ == [
        "the input of model Fixed was a batch of images (9, 3, 8, 8) from the loader passed"
    ]


def test_first_log_line_names_batch_shape_and_pipeline(tmp_path, digits):
    train_set, _ = digits
    values = {"train_set": train_set, "val_set": None, "device": "cpu", "visualizer": [], "batch_size": 8, "epochs": 1}
    dali_mix.train("quickstart", tmp_path / "run", model=TinyNet(10), max_steps=1, checkpoint={"best": None}, **values)
    first = (tmp_path / "run" / "train.log").read_text().splitlines()[0]
    assert first.endswith("global batch 8  1 steps  batches (8, 3, 16, 16) of pipeline cifar")


def test_errors_name_keywords_in_python_and_options_in_cli(tmp_path, capsys):
    dali_mix.train(config(max_steps=1), tmp_path / "run", **objects())
    with pytest.raises(FileExistsError, match=r"with resume=True, or choose another work_dir$"):
        dali_mix.train(config(max_steps=1), tmp_path / "run", **objects())
    with pytest.raises(FileNotFoundError, match="omit resume=True, or choose another work_dir"):
        dali_mix.train(config(max_steps=1), tmp_path / "none", resume=True, **objects())
    assert main(["train", "quickstart", "--work-dir", str(tmp_path / "run")]) == 1
    assert "with --resume, or choose another --work-dir" in capsys.readouterr().err


def test_log_of_python_run_names_keywords(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["my_script.py"])  # the log names the command, and pytest's may contain "--"
    callback = Recorder(at=3, do=lambda: os.kill(os.getpid(), signal.SIGTERM))
    dali_mix.train(config(), tmp_path / "run", **objects(), resume="auto", callbacks=callback)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "resume='auto': no checkpoint yet" in log and "saved at step 3; continue with resume=True\n" in log
    assert "--" not in log and "--" not in capsys.readouterr().out


def test_log_of_command_names_options(tmp_path, digits, capsys):
    train_set, val_set = digits
    values = [f"train_set={train_set}", f"val_set={val_set}", "device=cpu", "visualizer=[]", "max_steps=1"]
    command = ["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--resume=auto"]
    assert main([*command, "--cfg-options", *values]) == 0
    assert "--resume=auto: no checkpoint yet" in capsys.readouterr().out


def test_load_config_and_predictor_errors_name_keywords(tmp_path):
    with pytest.raises(ValueError, match=r"^options takes KEY=VALUE, not 'x'$"):
        dali_mix.load_config("quickstart", ["x"])
    torch.save(TinyNet(4).state_dict(), tmp_path / "net.pth")
    with pytest.raises(FileNotFoundError, match=r"give the names, one per line, with classes=FILE$"):
        dali_mix.Predictor(config(), tmp_path / "net.pth", model=TinyNet(4))
    (tmp_path / "names").write_text("a\nb\nc\nd\n")
    predictor = dali_mix.Predictor(config(), tmp_path / "net.pth", model=TinyNet(4), classes=tmp_path / "names")
    assert predictor.classes == tuple("abcd")
    with pytest.raises(ValueError, match="omit ema=True"):
        dali_mix.Predictor(config(), tmp_path / "net.pth", model=TinyNet(4), ema=True)
    with pytest.raises(TypeError, match=r"Predictor\(\) has no keyword 'clases' \(did you mean classes\?\)"):
        dali_mix.Predictor(config(), tmp_path / "net.pth", clases=["a"])


def test_command_on_run_with_model_object_names_python_call(tmp_path, digits, capsys):
    train_set, val_set = digits
    values = {"train_set": train_set, "val_set": val_set, "device": "cpu", "visualizer": [], "max_steps": 1}
    dali_mix.train("quickstart", tmp_path / "run", model=TinyNet(10), **values)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    latest, image = str(tmp_path / "run" / "checkpoints" / "latest"), str(tmp_path / "a.png")
    for command, call in [
        (["evaluate", "quickstart", latest], "dali_mix.evaluate(RECIPE, CHECKPOINT, model=…)"),
        (["predict", "quickstart", latest, image], "dali_mix.Predictor(RECIPE, CHECKPOINT, model=…)"),
        (["detect", "predict", "quickstart", latest, image], "dali_mix.Predictor(RECIPE, CHECKPOINT, model=…)"),
        (
            ["attention", "quickstart", latest, image, "--out", str(tmp_path / "out")],
            "dali_mix.reports.attention(dali_mix.Predictor(RECIPE, CHECKPOINT, model=…), IMAGES, DIR)",
        ),
        (
            ["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--resume"],
            "dali_mix.train(RECIPE, DIR, resume=True, model=…)",
        ),
    ]:
        assert main(command) == 1
        assert f"pass it again as model=…, in Python: {call}\n" in capsys.readouterr().err


def test_predictor_refuses_other_model_and_wrong_types(tmp_path, caplog):
    dali_mix.train(config(max_steps=1), tmp_path / "run", **objects())
    latest = tmp_path / "run" / "checkpoints" / "latest"
    with pytest.raises(ValueError, match=r"from the Fixed passed as model: .*; pass the model that was"):
        dali_mix.Predictor(config(), latest, model=Fixed())
    caplog.clear()
    with pytest.raises(ValueError, match="model is the class Linear: pass an instance"):
        dali_mix.Predictor(config(), latest, model=nn.Linear)
    with pytest.raises(ValueError, match="model is the class Linear: pass an instance"):
        dali_mix.evaluate(config(), latest, model=nn.Linear, val_loader=objects()["val_loader"])
    assert not caplog.messages
    with pytest.raises(TypeError, match=r"an image must be a path, not PIL\.Image\.Image: pass image files"):
        dali_mix.Predictor(config(), latest, model=TinyNet(4))(Image.new("RGB", (8, 8)))


def test_attention_with_model_object(tmp_path):
    model = timm.create_model("resnet10t", num_classes=4)
    dali_mix.train(config(max_steps=1), tmp_path / "run", **objects(model=model))
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "a.png")
    predictor = dali_mix.Predictor(config(), tmp_path / "run" / "checkpoints" / "latest", model=model)
    sheets, unreadable = attention(predictor, [tmp_path / "a.png"], tmp_path / "out", top_k=1)
    assert [sheet.name for sheet in sheets] == ["a.png"] and not unreadable
