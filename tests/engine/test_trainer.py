"""The trainer's arithmetic: global means over ranks and micro-batches, schedules, averages, precision, bad losses."""

import contextlib
import re
from unittest import mock

import pytest
import torch
from torch import nn

from dali_mix.engine.checkpoint.files import save_checkpoint
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed import process_group
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.engine.scores import ClassificationScores
from dali_mix.engine.train.ema import ModelEma
from dali_mix.engine.train.loss_monitor import LossMonitor
from dali_mix.engine.train.lr_schedules import build_schedule
from dali_mix.engine.train.optim import build_optimizer, parameter_groups
from dali_mix.engine.train.progress import Best
from dali_mix.engine.train.seeding import derive_seed
from dali_mix.mixers import CutMix
from tests.engine.processes import newest_state, records, run, said
from tests.engine.synthetic import TinyNet, make_loaders, recipe

CPU = torch.device("cpu")
PLAIN = {"type": "tests.engine.synthetic:TinyNet", "norm": False, "dropout": 0.0}


def losses(work_dir):
    return torch.tensor([r["loss"] for r in records(work_dir) if r["kind"] == "train"], dtype=torch.float64)


def test_ranks_and_accumulation_follow_one_process(tmp_path):
    """Without BatchNorm and mixing, 2 ranks, or 3 micro-batches, give one process's curve to 1e-5."""
    values = recipe(model=PLAIN, mixer=None, batch_size=12, log_interval=1, ema=None)
    assert run(values, tmp_path / "one") == [0]
    one = losses(tmp_path / "one")
    assert len(one) == 12
    for name, changes, ranks in [("two", {}, 2), ("micro", {"accumulate": 3}, 1), ("both", {"accumulate": 2}, 2)]:
        assert run({**values, **changes}, tmp_path / name, ranks=ranks) == [0] * ranks, said(tmp_path / name)
        torch.testing.assert_close(losses(tmp_path / name), one, rtol=0, atol=1e-5)
        assert records(tmp_path / name)[-1]["top1"] == records(tmp_path / "one")[-1]["top1"]


def test_step_is_the_plain_step(tmp_path):
    """A step of the trainer changes the weights as the same step written out does."""
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


def test_a_step_mixes_in_place_where_the_mixer_can(tmp_path, monkeypatch):
    mixed, apply = [], CutMix.apply

    def noted(self, images, targets, params, **options):
        made = apply(self, images, targets, params, **options)
        mixed.append((made[0].data_ptr() == images.data_ptr(), made[0].clone()))
        return made

    monkeypatch.setattr(CutMix, "apply", noted)
    config = make_config(recipe(model=PLAIN, mixer={"type": "CutMix"}, max_steps=3, ema=None))
    for in_place in (True, False):
        monkeypatch.setattr(CutMix, "in_place", in_place)
        train(config, tmp_path / str(in_place), make_loaders=make_loaders)
    assert [where for where, _ in mixed] == [True] * 3 + [False] * 3
    for (_, ours), (_, copied) in zip(mixed[:3], mixed[3:], strict=True):
        assert torch.equal(ours, copied)


def test_skipped_records_weigh_nothing(tmp_path):
    """With `on_bad_record="skip"` the gradient is the mean over the records that came: of one process as of several."""
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
    for name, changes, ranks in [("two", {}, 2), ("micro", {"accumulate": 3}, 1), ("both", {"accumulate": 2}, 2)]:
        assert run({**values, **changes}, tmp_path / name, ranks=ranks, bad=bad) == [0] * ranks, said(tmp_path / name)
        torch.testing.assert_close(losses(tmp_path / name), wanted, rtol=0, atol=1e-5)
        for key, value in newest_state(tmp_path / name)["model"].items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_nan_loss_stops_before_the_step(tmp_path, ranks):
    """Every rank stops at the same step, the records of all are named, weights stay."""
    work_dir = tmp_path / "run"
    values = recipe(batch_size=10, checkpoint={"interval_steps": 1})
    assert run(values, work_dir, ranks=ranks, nan_at=(17,)) == [1] * ranks
    texts = [said(work_dir, rank) for rank in range(ranks)]
    named = [text for text in texts if "NonFiniteLoss: the loss is nan at step" in text]
    assert named  # one of two may only say that the other failed
    assert all("17" in re.findall(r"\d+", text.rpartition("Records in it: ")[2]) for text in named)
    step = int(named[0].rpartition("at step ")[2].partition(";")[0])
    assert newest_state(work_dir)["step"] == step - 1
    assert all(v.isfinite().all() for v in newest_state(work_dir)["model"].values())


def test_late_pulse_keeps_weights_from_the_bad_step_on():
    """What happens on a GPU, on a CPU: the loss is read one step late, the fused optimizer is held by a device flag."""
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    monitor = LossMonitor(Ranks(0, 1, CPU), late=True)
    optimizer.found_inf = monitor.bad
    numbers = []
    for step in range(1, 5):
        before = [p.detach().clone() for p in model.parameters()]
        loss = model(torch.ones(3, 4)).square().mean() * (float("nan") if step == 3 else 1.0)
        loss.backward()
        numbers.append(monitor.exchange(step, loss, False))
        optimizer.step()
        optimizer.zero_grad()
        changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert changed == (step < 3)
    assert numbers[0] is None
    assert [b.step for b in numbers[1:]] == [1, 2, 3]
    assert [b.finite for b in numbers[1:]] == [True, True, False]
    assert monitor.flush().step == 4
    assert monitor.flush() is None


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, amp):
    config = make_config(recipe(amp=amp, clip_grad_norm=1.0, log_interval=5))
    assert train(config, tmp_path / amp, make_loaders=make_loaders) == "finished"
    curve = losses(tmp_path / amp)
    assert curve[-1] < curve[0]
    state = newest_state(tmp_path / amp)
    assert (state["scaler"] is not None) == (amp == "fp16")
    assert all(v.dtype in (torch.float32, torch.int64) for v in state["model"].values())


def test_evaluate_checkpoint(tmp_path):
    config = make_config(recipe())
    train(config, tmp_path / "run", make_loaders=make_loaders)
    path = tmp_path / "run" / "checkpoints" / "step-00000015.pt"
    last = [r for r in records(tmp_path / "run") if r["kind"] == "val"][-1]
    scores = evaluate_checkpoint(config, path, make_loaders=make_loaders).values
    assert scores == {k: last[k] for k in ("top1", "top5", "loss")}
    averaged = evaluate_checkpoint(config, path, ema=True, make_loaders=make_loaders).values
    assert averaged == {k: last[f"ema_{k}"] for k in ("top1", "top5", "loss")}
    assert evaluate_checkpoint(config, path.with_name("latest"), make_loaders=make_loaders).values == scores
    other = make_config(recipe(model=PLAIN))
    with pytest.raises(ValueError, match=r"another model than the recipe's: 1 missing: conv\.bias; 5 unexpected"):
        evaluate_checkpoint(other, path, make_loaders=make_loaders)
    plain = tmp_path / "weights.pt"
    torch.save(newest_state(tmp_path / "run")["model"], plain)
    assert evaluate_checkpoint(config, plain, make_loaders=make_loaders).values == scores
    with pytest.raises(ValueError, match="plain weights"):
        evaluate_checkpoint(config, plain, ema=True, make_loaders=make_loaders)


def test_ranks_evaluate_the_weights_and_statistics_that_are_saved(tmp_path):
    """BatchNorm's statistics are each rank's own until they are shared."""
    values = recipe(epochs=1, batch_size=8)
    assert run(values, tmp_path / "run", ranks=2) == [0, 0]
    last = next(r for r in records(tmp_path / "run") if r["kind"] == "val")
    for ema, prefix in ((False, ""), (True, "ema_")):
        latest = tmp_path / "run" / "checkpoints" / "latest"
        found = evaluate_checkpoint(make_config(values), latest, ema=ema, make_loaders=make_loaders).values
        assert found["loss"] == pytest.approx(last[f"{prefix}loss"], rel=1e-5), prefix


def test_existing_run_is_not_overwritten(tmp_path):
    config = make_config(recipe(epochs=1))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        train(config, tmp_path / "run", make_loaders=make_loaders)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_tensorboard_through_mmengine(tmp_path):
    config = make_config(recipe(epochs=1, visualizer=["tensorboard"]))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    events = list((tmp_path / "run" / "tensorboard").rglob("events*"))
    assert events
    assert b"train/loss" in events[0].read_bytes()


class TestSchedules:
    def build(self, total=100, per_epoch=10, lr=0.2, **settings):
        return build_schedule(settings, lr=lr, steps_per_epoch=per_epoch, total_steps=total)

    def test_cosine_with_warmup(self):
        factor = self.build(type="cosine", warmup_epochs=1, min_lr=0.002)
        assert [factor(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
        assert factor(10) == 1.0
        assert factor(55) == pytest.approx((1 + 0.01) / 2)
        assert factor(100) == pytest.approx(0.01)
        assert all(factor(s) >= factor(s + 1) for s in range(10, 120))

    def test_cosine_is_torchs(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=1e-3)
        factor = self.build(type="cosine", min_lr=1e-3)
        for step in range(100):
            assert factor(step) * 0.2 == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()

    def test_one_cycle_is_torchs(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=100, pct_start=0.2)
        factor = self.build(type="onecycle", pct_start=0.2)
        for step in range(100):
            assert factor(step) * 0.2 == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            if step < 99:
                theirs.step()

    def test_steps_count_epochs_of_the_whole_run(self):
        factor = self.build(type="step", milestones=[3, 6], gamma=0.2, warmup_epochs=2)
        assert [factor(s) for s in (20, 29, 30, 59, 60)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])

    def test_constant(self):
        assert {self.build(type="constant")(s) for s in range(5)} == {1.0}


def test_ema_warms_up_and_averages_statistics():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ModelEma(model, 0.9)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    for update in range(1, 200):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean):
                tensor.add_(0.1)
            model[1].num_batches_tracked += 1
        ema.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        for key, value in model.state_dict().items():
            expected[key] = value if value.dtype == torch.int64 else expected[key] * decay + value * (1 - decay)
        for key, value in ema.module.state_dict().items():
            torch.testing.assert_close(value, expected[key])
    again = ModelEma(model, 0.9)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 199


class TestOptimizer:
    def test_groups(self):
        model = nn.ModuleDict(
            {"backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "head": nn.Linear(4, 2)}
        )
        groups = parameter_groups(
            model, lr=1.0, weight_decay=0.1, norm_decay=0.0, bias_decay=0.01, custom={"backbone": {"lr_mult": 0.1}}
        )
        found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
        named = {name: found[id(p)] for name, p in model.named_parameters()}
        assert named["backbone.0.weight"] == named["backbone.1.bias"] == (0.1, 0.1)
        assert named["head.weight"] == (1.0, 0.1)
        assert named["head.bias"] == (1.0, 0.01)
        groups = parameter_groups(model, lr=1.0, weight_decay=0.1, norm_decay=0.0, bias_decay=0.01)
        found = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
        decays = [found[id(p)] for p in model.parameters()]
        assert decays == [0.1, 0.01, 0.0, 0.0, 0.1, 0.01]

    @pytest.mark.parametrize(
        ("settings", "paramwise", "match"),
        [
            ({"type": "SGDD", "lr": 1}, {}, "SGD"),
            ({"type": "SGD", "lr": 1, "momentun": 1}, {}, "momentun"),
            ({"type": "SGD", "lr": 1}, {"custom": {"hed": {"lr_mult": 1}}}, "head"),
            ({"type": "SGD", "lr": 1}, {"custom": {"head": {"lr": 1}}}, "lr_mult"),
        ],
    )
    def test_errors(self, settings, paramwise, match):
        with pytest.raises(ValueError, match=match):
            build_optimizer(TinyNet(4), settings, paramwise, CPU)


def test_seeds_do_not_collide():
    seeds = {derive_seed(a, b, c) for a in range(3) for b in range(40) for c in range(40)}
    assert len(seeds) == 3 * 40 * 40
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)


def test_ranks_leave_the_group_only_where_all_went_well(monkeypatch):
    """NCCL's orderly end waits for ranks that wait for this one: after an error the process just ends."""
    calls = []
    store = mock.MagicMock()
    store.reporting = contextlib.nullcontext
    monkeypatch.setattr(process_group, "environment", lambda: (1, 2, 1))
    monkeypatch.setattr(process_group, "address", lambda: ("127.0.0.1", 1))
    monkeypatch.setattr(process_group, "Rendezvous", lambda *place: store)
    monkeypatch.setattr(Ranks, "gather", lambda self, value: calls.append("wait"))
    for name in ("PrefixStore", "init_process_group", "destroy_process_group"):
        monkeypatch.setattr(process_group.dist, name, lambda *a, name=name, **k: calls.append(name))
    with pytest.raises(ValueError, match="bad record"), process_group.joined(lambda: (CPU, {})):
        raise ValueError("bad record")
    assert calls == ["PrefixStore", "init_process_group"]
    with process_group.joined(lambda: (CPU, {"seed": "1"})) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.device) == (1, 2, CPU)
    assert calls[2:] == ["PrefixStore", "init_process_group", "wait", "destroy_process_group"]
    store.compare.assert_called_with({"WORLD_SIZE": "2", "seed": "1"})


def test_a_nan_score_is_never_the_best():
    best = Best("loss", lower_is_better=True)
    for step, value in enumerate([float("nan"), 0.5, float("nan"), 0.4, 0.6]):
        assert bool(best.update({"loss": value}, step)) == (value in (0.5, 0.4))
    assert (best.value, best.step, best.since) == (0.4, 3, 1)


@pytest.mark.parametrize(("lower", "best"), [(True, 0.2), (False, 0.5)])
def test_a_score_says_whether_lower_is_better(lower, best, monkeypatch, tmp_path):
    """By itself, whatever it is called; also of the averaged weights."""
    found = Best("loss_like", lower_is_better=lower)
    for step, value in enumerate([0.3, 0.5, 0.2]):
        found.update({"loss_like": value}, step)
    assert found.value == best
    monkeypatch.setattr(ClassificationScores, "lower_is_better", ("top1",) if lower else ())
    directions = []
    config = make_config(recipe(max_steps=1, checkpoint={"best": "ema_top1"}))
    noted = [lambda trainer: directions.append(trainer.best.lower_is_better)]
    train(config, tmp_path / "run", make_loaders=make_loaders, observers=noted)
    assert directions == [lower]


def test_optimizer_state_goes_where_the_recipe_needs_it(tmp_path):
    """Saved by Adam's plain implementation (a CPU's), resumed with the fused one (a GPU's), picky about `step`."""
    adam = {"type": "Adam", "lr": 1e-3}
    train(make_config(recipe(optimizer=adam, max_steps=4)), tmp_path / "run", make_loaders=make_loaders)
    state = newest_state(tmp_path / "run")
    for moments in state["optimizer"]["state"].values():
        moments["step"] = moments["step"].double()  # stands for what the other device has
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000004.pt", state)
    seen = []

    def observer(trainer):
        moments = next(iter(trainer.parts.optimizer.state.values()))
        seen.append((trainer.parts.optimizer.param_groups[0]["fused"], moments["step"].item(), moments["step"].dtype))

    config = make_config(recipe(optimizer={**adam, "fused": True}, max_steps=6))
    train(config, tmp_path / "run", resume="must", make_loaders=make_loaders, observers=[observer])
    assert seen == [(True, 5.0, torch.float32), (True, 6.0, torch.float32)]


def test_weights_are_reported_and_not_needed_to_evaluate(tmp_path):
    config = make_config(recipe(max_steps=1))
    train(config, tmp_path / "first", make_loaders=make_loaders)
    weights = tmp_path / "weights.pt"
    torch.save(newest_state(tmp_path / "first")["model"], weights)
    config = make_config(recipe(max_steps=1, weights=str(weights), optimizer={"type": "SGD", "lr": 1e-12}))
    train(config, tmp_path / "second", make_loaders=make_loaders)
    started = newest_state(tmp_path / "second")["model"]
    torch.testing.assert_close(started["conv.weight"], newest_state(tmp_path / "first")["model"]["conv.weight"])
    assert f"weights from {weights}: 8 matched, 0 missing" in (tmp_path / "second" / "train.log").read_text()
    weights.unlink()
    path = tmp_path / "second" / "checkpoints" / "step-00000001.pt"
    assert evaluate_checkpoint(config, path, make_loaders=make_loaders).values["top1"] >= 0


def test_weights_are_not_needed_to_resume(tmp_path):
    config = make_config(recipe(max_steps=1))
    train(config, tmp_path / "first", make_loaders=make_loaders)
    weights = tmp_path / "weights.pt"
    torch.save(newest_state(tmp_path / "first")["model"], weights)
    train(make_config(recipe(max_steps=2, weights=str(weights))), tmp_path / "cut", make_loaders=make_loaders)
    config = make_config(recipe(max_steps=3, weights=str(weights)))
    weights.unlink()
    for resume in ("no", "auto"):
        with pytest.raises(FileNotFoundError, match=r"weights\.pt is not there"):
            train(config, tmp_path / "new", resume=resume, make_loaders=make_loaders)
    assert train(config, tmp_path / "cut", resume="must", make_loaders=make_loaders) == "finished"
    assert newest_state(tmp_path / "cut")["step"] == 3
    log = (tmp_path / "cut" / "train.log").read_text()
    assert log.count("weights from") == 1  # the first start


def test_best_without_anything_to_evaluate_is_said(tmp_path):
    def training_only(config, ranks):
        return make_loaders(config, ranks)[0], None

    config = make_config(recipe(val_set=None, max_steps=1, checkpoint={"best": "loss"}))
    train(config, tmp_path / "run", make_loaders=training_only)
    assert "there will be no best.pt by loss" in (tmp_path / "run" / "train.log").read_text()


def test_the_last_line_says_where_the_run_ended(tmp_path, capsys):
    trained = train(make_config(recipe(epochs=1)), tmp_path / "run", make_loaders=make_loaders)
    log = (tmp_path / "run" / "train.log").read_text()
    val = next(r for r in records(tmp_path / "run") if r["kind"] == "val")
    folder = tmp_path / "run" / "checkpoints"
    assert trained == "finished"
    assert log.splitlines()[-1].endswith(
        f"finished: step 5, best top1 {val['top1']:.4g} at step 5 ({folder}/best.pt), last checkpoint {folder}/latest"
    )
    assert "building tests.engine.synthetic:TinyNet on cpu" in capsys.readouterr().out.splitlines()[0]
