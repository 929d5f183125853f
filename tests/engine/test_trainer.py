"""The trainer's arithmetic: a step equals a plain step, and means are global over ranks and micro-batches."""

import re

import pytest
import torch
from torch import nn

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.run import train
from dali_mix.engine.train.seeding import derive_seed
from dali_mix.mixers import CutMix
from tests.engine.processes import losses, newest_state, output_of, records, run
from tests.engine.synthetic import PLAIN, TinyNet, make_loaders, recipe, train_synthetic

CPU = torch.device("cpu")


def test_ranks_and_accumulation_match_one_process(tmp_path):
    """Without BatchNorm and mixing, ranks and micro-batches reproduce one process's losses to 1e-5."""
    values = recipe(model=PLAIN, mixer=None, batch_size=12, log_interval=1, ema=None)
    assert run(values, tmp_path / "one") == [0]
    one = losses(tmp_path / "one")
    assert len(one) == 12
    for name, changes, ranks in [("two", {}, 2), ("micro", {"accumulate": 3}, 1), ("both", {"accumulate": 2}, 2)]:
        assert run({**values, **changes}, tmp_path / name, ranks=ranks) == [0] * ranks, output_of(tmp_path / name)
        torch.testing.assert_close(losses(tmp_path / name), one, rtol=0, atol=1e-5)
        assert records(tmp_path / name)[-1]["top1"] == records(tmp_path / "one")[-1]["top1"]


def test_step_equals_plain_pytorch_step(tmp_path):
    """A step of the trainer changes the weights exactly as the same step in plain PyTorch does."""
    config = make_config(recipe(model=PLAIN, mixer=None, max_steps=1, schedule={"type": "constant"}, ema=None))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    torch.manual_seed(derive_seed(1, 0))
    model = TinyNet(4, norm=False, dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    batch = next(iter(make_loaders(config, Ranks(0, 1, CPU))[0]))
    nn.functional.cross_entropy(model(batch.images), batch.targets).backward()
    optimizer.step()
    for name, value in newest_state(tmp_path / "run")["model"].items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize(("until", "count"), [(0.4, 6), (0.0, 0), (1.0, 15), (None, 15)])
def test_mixer_until_stops_mixing(tmp_path, monkeypatch, until, count):
    """A resumed run stops mixing at the same step. Unmixed targets have the same form as mixed ones."""
    calls, apply = [], CutMix.apply
    monkeypatch.setattr(CutMix, "apply", lambda *args, **options: calls.append(1) or apply(*args, **options))
    values = recipe(model=PLAIN, mixer_until=until, ema=None)
    with pytest.raises(KeyboardInterrupt):
        train_synthetic(values, tmp_path / "run", callbacks=[stop_at(5)])
    train_synthetic(values, tmp_path / "run", resume="must")
    assert len(calls) == count + min(1, max(0, count - 4))  # step 5 is repeated: the checkpoint is of step 4


def stop_at(step):
    def stop(trainer):
        if trainer.step == step:
            raise KeyboardInterrupt

    return stop


def test_step_mixes_in_place_if_mixer_supports_it(tmp_path, monkeypatch):
    mixed, apply = [], CutMix.apply

    def noted(self, images, targets, params, **options):
        made = apply(self, images, targets, params, **options)
        mixed.append((made[0].data_ptr() == images.data_ptr(), made[0].clone()))
        return made

    monkeypatch.setattr(CutMix, "apply", noted)
    for in_place in (True, False):
        monkeypatch.setattr(CutMix, "in_place", in_place)
        train_synthetic(recipe(model=PLAIN, mixer={"type": "CutMix"}, max_steps=3, ema=None), tmp_path / str(in_place))
    assert [where for where, _ in mixed] == [True] * 3 + [False] * 3
    for (_, ours), (_, copied) in zip(mixed[:3], mixed[3:], strict=True):
        assert torch.equal(ours, copied)


def test_skipped_records_have_no_weight(tmp_path):
    """With `on_bad_record="skip"`, the gradient is the mean over the records loaded, on any number of ranks."""
    bad = (1, 4, 5, 9, 17, 18, 21, 22, 30, 33)
    values = recipe(
        model=PLAIN, mixer=None, batch_size=12, log_interval=1, ema=None, loader={"on_bad_record": "skip"}, epochs=2,
        schedule={"type": "constant"}, checkpoint={"interval_steps": 1, "keep": 100},
    )  # fmt: skip
    assert run(values, tmp_path / "one", bad=bad) == [0]
    torch.manual_seed(derive_seed(1, 0))
    model = TinyNet(4, norm=False, dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    loader = make_loaders(make_config(values), Ranks(0, 1, CPU), bad=bad)[0]
    expected = []
    for _ in range(2):
        for batch in loader:
            loss = nn.functional.cross_entropy(model(batch.images), batch.targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            expected.append((len(batch.ids), loss.item()))
    sizes, wanted = zip(*expected, strict=True)
    assert min(sizes) < 12 and sum(sizes) == 2 * (40 - len(bad))
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(losses(tmp_path / "one"), wanted, rtol=0, atol=1e-5)
    others = [("two", {}, 2), ("micro", {"accumulate": 3}, 1), ("both", {"accumulate": 2}, 2)]
    others += [("given", {"loader": {}}, 2)]  # only the loader itself knows that it skips
    for name, changes, ranks in others:
        given = {"ranks": ranks, "bad": bad, "given": name == "given"}
        assert run({**values, **changes}, tmp_path / name, **given) == [0] * ranks, output_of(tmp_path / name)
        torch.testing.assert_close(losses(tmp_path / name), wanted, rtol=0, atol=1e-5)
        for key, value in newest_state(tmp_path / name)["model"].items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_nan_loss_stops_before_step(tmp_path, ranks):
    """All ranks stop at the same step, the error names the records of all of them, and the weights stay unchanged."""
    work_dir = tmp_path / "run"
    values = recipe(batch_size=10, checkpoint={"interval_steps": 1})
    assert run(values, work_dir, ranks=ranks, nan_at=(17,)) == [1] * ranks
    texts = [output_of(work_dir, rank) for rank in range(ranks)]
    named = [text for text in texts if "NonFiniteLoss: the loss is nan at step" in text]
    assert named  # one of two ranks may only report that the other failed
    assert all("17" in re.findall(r"\d+", text.rpartition("Records in it: ")[2]) for text in named)
    step = int(named[0].rpartition("at step ")[2].partition(";")[0])
    assert newest_state(work_dir)["step"] == step - 1
    assert all(v.isfinite().all() for v in newest_state(work_dir)["model"].values())


def test_last_log_line_names_step_best_and_checkpoint(tmp_path, capsys):
    trained = train_synthetic(recipe(epochs=1), tmp_path / "run")
    log = (tmp_path / "run" / "train.log").read_text()
    val = next(r for r in records(tmp_path / "run") if r["kind"] == "val")
    folder = tmp_path / "run" / "checkpoints"
    assert trained == "finished"
    assert log.splitlines()[-1].endswith(
        f"finished: step 5, best top1 {val['top1']:.4g} at step 5 ({folder}/best.pt), last checkpoint {folder}/latest"
    )
    assert "building tests.engine.synthetic:TinyNet on cpu" in capsys.readouterr().out.splitlines()[0]
