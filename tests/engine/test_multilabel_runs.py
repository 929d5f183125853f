"""Multi-label runs: the five systems learn, ranks agree, and a killed and resumed run equals an uninterrupted one."""

import pytest
import torch

from dali_mix.engine.build import build_model
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.engine.train.seeding import INIT, MIXER, derive_seed
from dali_mix.losses import BinaryCrossEntropy
from dali_mix.mixers import SpliceMix
from tests.engine.processes import assert_same_run, newest_state, output_of, records, run
from tests.engine.synthetic import PLAIN, TinyNet, make_loaders, recipe

SYSTEMS = ["csra", "msl", "splicemix", "splicemix_cl", "sgre"]
NET = {"type": "multilabel", "backbone": "wrn-10-1"}


def values(**changes):
    """Return the values of a run over synthetic multi-label images of 32 pixels."""
    base = {"pipeline": {"type": "multilabel", "image_size": 32}, "loss": {"type": "BinaryCrossEntropy"}, "mixer": None}
    return recipe(**{**base, "epochs": 2, **changes})


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_epoch_improves_map_and_loss(scene_sets, tmp_path, system):
    """For speed, the images are smaller than in the recipe, and one epoch is trained in batches of 8."""
    given = [f"{name}={scene_sets[name]}" for name in ("train_set", "val_set")]
    given += ["epochs=1", "batch_size=8", "pipeline.image_size=(36,48)", "visualizer=[]", "loader.num_threads=1"]
    config = load_config(f"multilabel/digit_scenes:{system}", given)
    torch.save(build_model(config, 10).state_dict(), tmp_path / "untrained.pth")
    before = evaluate_checkpoint(config, tmp_path / "untrained.pth").values
    assert train(config, tmp_path / "run") == "finished"
    after = next(r for r in records(tmp_path / "run") if r["kind"] == "val")
    assert after["mAP"] > before["mAP"] + 2, (before["mAP"], after["mAP"])
    assert after["loss"] < before["loss"]
    again = evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "best.pt").values
    assert again["mAP"] == after["mAP"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {**NET, "head": "csra"}, "objective": {"type": "MaskedSupervision"}},
        {
            "model": {**NET, "head": "max"},
            "mixer": {"type": "SpliceMix"},
            "objective": {"type": "SpliceMixConsistency", "detach": False},
        },
    ],
    ids=["masked supervision", "SpliceMix-CL"],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_run_is_bit_identical(tmp_path, changes, ranks):
    batch = {"batch_size": 8 * ranks}
    assert run(values(**changes, **batch), tmp_path / "uninterrupted", ranks=ranks) == [0] * ranks, output_of(
        tmp_path / "uninterrupted"
    )
    killed = run(values(**changes, **batch), tmp_path / "killed", ranks=ranks, kill_at=3)
    assert killed == [-9] * ranks
    resumed = run(values(**changes, **batch), tmp_path / "killed", ranks=ranks, resume="must")
    assert resumed == [0] * ranks, output_of(tmp_path / "killed")
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "killed")


def test_summed_loss_trains_equally_on_one_and_two_ranks(tmp_path):
    """A summed loss stays a sum over the records: neither ranks nor an uneven last batch change the step."""
    rates = {"optimizer": {"type": "SGD", "lr": 0.002}, "schedule": {"type": "constant"}}
    given = values(model=PLAIN, loss={"type": "AsymmetricLoss", "reduction": "sum"}, batch_size=6, ema=None, **rates)
    for ranks in (1, 2):
        assert run(given, tmp_path / str(ranks), ranks=ranks) == [0] * ranks, output_of(tmp_path / str(ranks))
    one, two = (newest_state(tmp_path / n)["model"] for n in ("1", "2"))
    torch.manual_seed(derive_seed(INIT, 0))
    start = TinyNet(4, norm=False, dropout=0.0).state_dict()
    for name, value in one.items():
        moved = (value - start[name]).abs().max()
        assert moved > 1e-3 and (value - two[name]).abs().max() < 1e-3 * moved, name
    losses = [[r["loss"] for r in records(tmp_path / n) if r["kind"] == "train"] for n in ("1", "2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"type": "BinaryCrossEntropy"}},
        {"loss": {"type": "MultiLabelSoftMargin"}},
        {"loss": {"type": "AsymmetricLoss", "reduction": "mean", "clip": 0.0}},
    ],
    ids=lambda changes: changes["loss"]["type"],
)
def test_unknown_labels_are_ignored_by_ranks_and_micro_batches(tmp_path, changes):
    """One process, two ranks and two micro-batches take the same steps, even if known entries are spread unevenly."""
    rates = {"optimizer": {"type": "SGD", "lr": 0.05}, "schedule": {"type": "constant"}}
    given = values(model=PLAIN, batch_size=6, ema=None, max_steps=8, log_interval=1, **rates, **changes)
    for name, ranks, more in (("one", 1, {}), ("ranks", 2, {}), ("parts", 1, {"accumulate": 2})):
        assert run({**given, **more}, tmp_path / name, ranks=ranks) == [0] * ranks, output_of(tmp_path / name)
    one, *others = (newest_state(tmp_path / name)["model"] for name in ("one", "ranks", "parts"))
    torch.manual_seed(derive_seed(INIT, 0))
    start = TinyNet(4, norm=False, dropout=0.0).state_dict()
    for name, value in one.items():
        moved = (value - start[name]).abs().max()
        for other in others:
            assert moved > 1e-3 and (value - other[name]).abs().max() < 1e-4 * moved, name
    losses = [[r["loss"] for r in records(tmp_path / n) if r["kind"] == "train"] for n in ("one", "ranks", "parts")]
    for other in losses[1:]:
        assert losses[0] == pytest.approx(other, rel=1e-5)


def test_micro_batches_are_weighted_by_known_mixed_labels(tmp_path):
    cut = {"batch_size": 10, "accumulate": 2, "max_steps": 1, "log_interval": 1, "seed": 3}
    given = values(model=PLAIN, loss={"type": "BinaryCrossEntropy"}, mixer={"type": "SpliceMix"}, ema=None, **cut)
    assert run(given, tmp_path / "run") == [0], output_of(tmp_path / "run")
    torch.manual_seed(derive_seed(INIT, 3))
    model, parts = TinyNet(4, norm=False, dropout=0.0), []
    batches = iter(make_loaders(make_config(given), Ranks(0, 1, torch.device("cpu")))[0])
    for micro in range(2):
        batch, seed = next(batches), derive_seed(MIXER, 3, 0, 0, micro)
        drawn = SpliceMix().sample(5, 32, 32, torch.Generator().manual_seed(seed))
        images, targets = SpliceMix().apply(batch.images, batch.targets, drawn)
        parts.append((model(images), targets))
    assert len({int((targets < 0).sum()) for _, targets in parts}) == 2
    logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    found = next(r for r in records(tmp_path / "run") if r["kind"] == "train")
    assert found["loss"] == pytest.approx(BinaryCrossEntropy()(logits, targets).item(), rel=1e-5)
