"""ResizeMix+ and SpliceMix, mixers that return more images than they receive, in the trainer."""

import pytest
import torch
from torch import nn

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.run import train
from dali_mix.engine.train.seeding import MIXER, derive_seed
from dali_mix.mixers import ResizeMixPlus
from tests.engine.processes import assert_same_run, newest_state, output_of, records, run
from tests.engine.synthetic import PLAIN, TinyNet, make_loaders, recipe

PLUS = {"type": "ResizeMixPlus", "mean": (0.5,) * 3, "std": (0.5,) * 3}


def test_step_on_enlarged_batch_equals_plain_step(tmp_path):
    """The trainer's step equals a plain step on the mean loss over both views."""
    changes = {"mixer": PLUS, "max_steps": 1, "schedule": {"type": "constant"}, "ema": None, "log_interval": 1}
    config = make_config(recipe(model=PLAIN, **changes))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    torch.manual_seed(derive_seed(1, 0))
    model = TinyNet(4, norm=False, dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    batch = next(iter(make_loaders(config, Ranks(0, 1, torch.device("cpu")))[0]))
    mixer = ResizeMixPlus(4, mean=(0.5,) * 3, std=(0.5,) * 3)
    generator = torch.Generator().manual_seed(derive_seed(MIXER, 0, 0, 0, 0))
    images, targets = mixer(batch.images, batch.targets, generator)
    assert len(images) == 18
    loss = nn.functional.cross_entropy(model(images), targets)
    loss.backward()
    optimizer.step()
    for name, value in newest_state(tmp_path / "run")["model"].items():
        assert torch.equal(value, model.state_dict()[name]), name
    logged = next(r for r in records(tmp_path / "run") if r["kind"] == "train")
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_with_varying_batch_sizes_is_exact_and_resumes(tmp_path, ranks):
    """The choice doubles some batches and not others, so the batch size varies from step to step."""
    choice = {"type": "MixChoice", "mixers": [PLUS, {"type": "CutMix"}], "probs": [0.6, 0.2]}
    values = recipe(mixer=choice, batch_size=10, epochs=2)
    assert run(values, tmp_path / "uninterrupted", ranks=ranks) == [0] * ranks, output_of(tmp_path / "uninterrupted")
    train_losses = [r["loss"] for r in records(tmp_path / "uninterrupted") if r["kind"] == "train"]
    assert all(0 < loss < 3 for loss in train_losses) and train_losses[-1] < train_losses[0]
    ids = [
        i
        for rank in range(ranks)
        for r in records(tmp_path / "uninterrupted", f"ids-rank{rank}.jsonl")
        for i in r["ids"]
    ]
    assert sorted(ids) == sorted([*range(40)] * 2), "each record once per epoch, for any number of views"
    if ranks == 1:
        assert run(values, tmp_path / "killed", kill_at=3) == [-9]
        assert run(values, tmp_path / "killed", resume="must") == [0], output_of(tmp_path / "killed")
        assert_same_run(tmp_path / "uninterrupted", tmp_path / "killed")


def test_splicemix_trains_with_multilabel_loss(tmp_path):
    values = recipe(mixer={"type": "SpliceMix"}, loss={"type": "torch.nn:BCEWithLogitsLoss"}, val_set=None, epochs=4)
    loaders = lambda config, ranks: (make_loaders(config, ranks)[0], None)  # noqa: E731
    assert train(make_config(values), tmp_path / "run", make_loaders=loaders) == "finished"
    curve = [r["loss"] for r in records(tmp_path / "run") if r["kind"] == "train"]
    assert curve[-1] < curve[0] < 2
