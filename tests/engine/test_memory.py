"""Checks on the meta device before a run (BatchNorm, memory), and explanations of torch's errors."""

import pytest
import torch
from torch import nn

from dali_mix.engine import memory
from dali_mix.engine.build import build_model
from dali_mix.engine.config.recipe_files import list_recipes, load_config
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.memory import check_evaluation, check_step, explaining, free_memory, held_by_step
from dali_mix.engine.run import evaluate_checkpoint, train
from tests.engine.processes import newest_state, output_of, run
from tests.engine.sets import pack_digits
from tests.engine.synthetic import make_loaders, recipe, train_synthetic

CPU = torch.device("cpu")
POOLED = {"type": "tests.engine.broken:Pooled"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Pack 41 training digits and 41 held-out ones; return the recipe values that name them."""
    train_set, val_set = pack_digits(tmp_path_factory.mktemp("digits"), 41)
    return {"train_set": train_set, "val_set": val_set}


def values(**changes):
    pipeline = {"type": "cifar", "image_size": 8, "padding": 0, "flip": 0.0}
    return recipe(**{"pipeline": pipeline, "mixer": None, "epochs": 1, "log_ids": False, "ema": None, **changes})


class Reading(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.head(images.mean((2, 3)) * images.sum().item())


@pytest.mark.parametrize(
    ("records", "ranks", "changes", "advice"),
    [
        (41, 1, {"batch_size": 10}, "one record in the last step of an epoch .41 records.*set loader.drop_last=True"),
        (41, 1, {"batch_size": 20, "accumulate": 2}, "accumulate 2.*last step of an epoch.*set loader.drop_last=True"),
        (43, 2, {"batch_size": 20}, "2 processes.*last step of an epoch.*set loader.drop_last=True"),
        (41, 1, {"batch_size": 1}, "one record in every step.*choose a larger batch_size"),
        (40, 2, {"batch_size": 2}, "one record in every step.*choose a larger batch_size"),
        (40, 1, {"batch_size": 4, "accumulate": 4}, "one record in every step.*choose a larger batch_size"),
    ],
)
def test_one_record_step_with_batchnorm_is_refused(records, ranks, changes, advice):
    config = make_config(values(model=POOLED, **changes))
    with pytest.raises(ValueError, match=rf"batch_size={changes['batch_size']} .*{advice}"):
        check_step(config, 10, records, ranks, CPU)
    if "drop_last" in advice:
        check_step(make_config(values(model=POOLED, loader={"drop_last": True}, **changes)), 10, records, ranks, CPU)
    check_step(make_config(values(**changes)), 10, records, ranks, CPU)  # its feature maps are larger than one pixel


@pytest.mark.parametrize("records", [40, 42, 49])
def test_steps_of_several_records_with_batchnorm_are_accepted(records):
    check_step(make_config(values(model=POOLED, batch_size=10)), 10, records, 1, CPU)


def test_two_views_of_one_record_are_enough_for_batchnorm():
    changes = {"model": POOLED, "batch_size": 10, "mixer": {"type": "ResizeMixPlus", "views": 2}}
    check_step(make_config(values(**changes)), 10, 41, 1, CPU)


def test_one_record_step_is_refused_and_drop_last_fixes_it(digits, tmp_path):
    config = make_config(values(model=POOLED, batch_size=10, **digits))
    with pytest.raises(ValueError, match="one record in the last step"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    config = make_config(values(model=POOLED, batch_size=10, loader={"drop_last": True}, **digits))
    assert train(config, tmp_path / "run") == "finished"
    assert newest_state(tmp_path / "run")["step"] == 4


def test_bad_records_leaving_one_record_are_explained(tmp_path):
    """Checks before the run cannot foresee that all but one of the first step's 9 records are bad."""
    train_loader = make_loaders(make_config(values(batch_size=9)), Ranks(0, 1, CPU))[0]
    first = next(iter(train_loader)).ids.tolist()
    work_dir = tmp_path / "run"
    changes = {"model": POOLED, "batch_size": 9, "loader": {"on_bad_record": "skip"}}
    assert run(values(**changes), work_dir, bad=first[1:]) == [1]
    assert "a step gave a process one record" in output_of(work_dir)


def test_batch_beyond_memory_is_refused_with_valid_advice(monkeypatch):
    """ResNet-50 at 64 pixels keeps 7 MB of activations per record; accumulate=4 divides the total by four."""
    pipeline = {"type": "imagenet", "image_size": 64}
    changes = {"model": {"type": "torchvision/resnet50"}, "pipeline": pipeline, "batch_size": 96}
    monkeypatch.setattr(memory, "free_memory", lambda: 500_000_000)
    with pytest.raises(
        ValueError, match=r"a step of 96 records of 64×64 pixels .*0\.5 GB .*or accumulate=(\d+) or more"
    ) as error:
        check_step(make_config(values(**changes)), 10, 1000, 1, CPU)
    parts = int(str(error.value).rpartition("accumulate=")[2].partition(" ")[0])
    assert parts > 1 and 96 % parts == 0
    check_step(make_config(values(**changes, accumulate=parts)), 10, 1000, 1, CPU)
    with pytest.raises(ValueError, match="weights"):
        check_step(
            make_config(values(**changes, accumulate=max(n for n in range(1, parts) if 96 % n == 0))), 10, 1000, 1, CPU
        )
    monkeypatch.setattr(memory, "free_memory", lambda: 200_000_000)
    with pytest.raises(ValueError, match=r"The weights alone do not fit: choose a smaller model$"):
        check_step(make_config(values(**changes)), 10, 1000, 1, CPU)
    check_step(make_config(values(**changes)), 10, 1000, 1, torch.device("cuda"))  # the GPU itself reports it
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(memory, "free_memory", lambda: 900_000_000)
    with pytest.raises(ValueError, match="a step of 48 records"):
        check_step(make_config(values(**changes)), 10, 1000, 2, CPU)


@pytest.mark.parametrize(("objective", "passes"), [("Plain", 1), ("MaskedSupervision", 2)])
def test_memory_counts_every_pass_of_objective(monkeypatch, objective, passes):
    config = make_config(values(batch_size=10, objective={"type": objective}))
    with torch.device("meta"):
        model, images = build_model(config, 10), torch.zeros(10, 3, 8, 8)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    needed = passes * held_by_step(model, images) + 3 * weights  # weights, gradients and momentum
    monkeypatch.setattr(memory, "free_memory", lambda: needed)
    check_step(config, 10, 40, 1, CPU)
    monkeypatch.setattr(memory, "free_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match="a step of 10 records of 8×8 pixels needs at least"):
        check_step(config, 10, 40, 1, CPU)


def test_evaluation_batch_beyond_memory_is_refused(digits, monkeypatch, tmp_path):
    config = make_config(values(**digits, val_batch_size=100))
    assert train(config, tmp_path / "run") == "finished"
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000)
    with pytest.raises(ValueError, match=r"val_batch_size: an evaluation batch of 100 records .* Choose a smaller one"):
        evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "latest")
    with pytest.raises(ValueError, match="an evaluation batch"):
        train(config, tmp_path / "again")
    check_evaluation(make_config(values(**digits, val_batch_size=1)), 10, 1, torch.device("cuda"))


@pytest.mark.parametrize("name", ["quickstart", "cifar10/wrn28_10:resizemix", "multilabel/digit_scenes:csra"])
def test_recipes_known_to_fit_are_accepted(name, monkeypatch):
    """In 1.2 GB, quickstart and digit_scenes fit unchanged, and WRN-28-10 fits with batches of 8."""
    assert name in list_recipes()
    config = load_config(name, ["device=cpu", *(["batch_size=8"] if "wrn28" in name else [])])
    monkeypatch.setattr(memory, "free_memory", lambda: 1_200_000_000)
    check_step(config, 10, 1000, 1, CPU)


def test_model_that_fails_on_meta_device_is_not_checked(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1)
    check_step(make_config(values(model={"type": f"{__name__}:Reading"})), 10, 41, 1, CPU)


def test_held_by_step_counts_shared_tensor_once():
    """The ReLU's output is also the input of the next layer, but is counted once."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 20))
        images = torch.zeros(10, 100)
    assert held_by_step(model, images) == 4 * 10 * (100 + 50)


def test_free_memory_respects_cgroup_limit(tmp_path):
    found = free_memory(tmp_path)
    assert found is not None and found > 1 << 20
    files = {"memory.max": "3000000", "memory.current": "2500000", "memory.stat": "anon 5\ninactive_file 100000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == 600000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 1 << 20


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_out_of_memory_error_is_explained(error):
    with (
        pytest.raises(ValueError, match=r"batch_size=9.*Choose a smaller batch_size"),
        explaining(make_config(values())),
    ):
        raise error


def test_other_errors_are_not_changed():
    with pytest.raises(RuntimeError, match=r"^something else$"), explaining(make_config(values())):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"type": "step", "milestones": [1], "gamma": 1e300}},
        {"schedule": {"type": "cosine", "min_lr": 1e300}},
        {"paramwise": {"bias_decay": 1e39}},
        {"optimizer": {"type": "SGD", "lr": 1.0, "momentum": 0.9, "dampening": 1e300}},
    ],
)
def test_rate_beyond_float32_is_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=r"rate, decay, momentum\) is too large .* Choose a smaller optimizer\.lr"):
        train_synthetic(recipe(**changes), tmp_path / "run")
