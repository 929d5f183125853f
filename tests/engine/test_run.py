"""Runs (one per folder, never overwritten, with warnings about unusual settings) and evaluation of checkpoints."""

import fcntl
import json

import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.recordio import RecordSet
from tests.engine.processes import newest_state, records, run
from tests.engine.sets import pack_digits
from tests.engine.synthetic import PLAIN, make_loaders, recipe, train_synthetic


def test_evaluate_checkpoint(tmp_path):
    config = make_config(recipe())
    train(config, tmp_path / "run", make_loaders=make_loaders)
    path = tmp_path / "run" / "checkpoints" / "step-00000015.pt"
    last = [r for r in records(tmp_path / "run") if r["kind"] == "val"][-1]
    scores = evaluate_checkpoint(config, path, make_loaders=make_loaders).values
    assert scores == {k: last[k] for k in ("top1", "loss")}
    averaged = evaluate_checkpoint(config, path, ema=True, make_loaders=make_loaders).values
    assert averaged == {k: last[f"ema_{k}"] for k in ("top1", "loss")}
    assert evaluate_checkpoint(config, path.with_name("latest"), make_loaders=make_loaders).values == scores
    other = make_config(recipe(model=PLAIN))
    with pytest.raises(ValueError, match=r"a different model from the recipe's: 1 missing: conv\.bias; 5 unexpected"):
        evaluate_checkpoint(other, path, make_loaders=make_loaders)
    plain = tmp_path / "weights.pt"
    torch.save(newest_state(tmp_path / "run")["model"], plain)
    assert evaluate_checkpoint(config, plain, make_loaders=make_loaders).values == scores
    with pytest.raises(ValueError, match="plain weights"):
        evaluate_checkpoint(config, plain, ema=True, make_loaders=make_loaders)


def test_ranks_evaluate_saved_weights_and_statistics(tmp_path):
    """BatchNorm's statistics differ between ranks until they are shared."""
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


def test_weights_are_logged_and_not_needed_to_evaluate(tmp_path):
    train_synthetic(recipe(max_steps=1), tmp_path / "first")
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


def test_unused_weights_are_warned_about(tmp_path):
    train_synthetic(recipe(max_steps=1), tmp_path / "first")
    weights = tmp_path / "weights.pt"
    torch.save(newest_state(tmp_path / "first")["model"] | {"conv.1.weight": torch.ones(100, 100)}, weights)
    train(make_config(recipe(max_steps=1, weights=str(weights))), tmp_path / "second", make_loaders=make_loaders)
    log = (tmp_path / "second" / "train.log").read_text()
    assert f"WARNING: {weights}: only 89% of the weights (8 of 9 tensors) are used" in log


def test_weights_are_not_needed_to_resume(tmp_path):
    train_synthetic(recipe(max_steps=1), tmp_path / "first")
    weights = tmp_path / "weights.pt"
    torch.save(newest_state(tmp_path / "first")["model"], weights)
    train_synthetic(recipe(max_steps=2, weights=str(weights)), tmp_path / "cut")
    config = make_config(recipe(max_steps=3, weights=str(weights)))
    weights.unlink()
    for resume in ("no", "auto"):
        with pytest.raises(
            FileNotFoundError, match=r"^weights: .*weights\.pt: no such file; pass a weight file, or a check"
        ):
            train(config, tmp_path / "new", resume=resume, make_loaders=make_loaders)
    assert train(config, tmp_path / "cut", resume="must", make_loaders=make_loaders) == "finished"
    assert newest_state(tmp_path / "cut")["step"] == 3
    log = (tmp_path / "cut" / "train.log").read_text()
    assert log.count("weights from") == 1  # by the first start only


def test_second_run_in_same_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another run is writing here"):
            train_synthetic(recipe(), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert train_synthetic(recipe(), tmp_path / "run") == "finished"


def test_work_dir_below_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file is a file; choose another folder"):
        train_synthetic(recipe(), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 90}, "batch_size=90 is more than the 40 records"),
        (
            {"epochs": 1},
            "warmup_epochs (1) is not shorter than the run (1 epoch): the learning rate never reaches its full value",
        ),
    ],
)
def test_unusual_settings_are_warned_about(tmp_path, capsys, changes, said):
    train_synthetic(recipe(**changes), tmp_path / "run")
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


@pytest.mark.parametrize(("prints", "noted"), [(("a", "a"), True), (("a", "b"), False), ((None, None), False)])
def test_validation_on_training_set_is_warned_about(tmp_path, capsys, prints, noted):
    def loaders(config, ranks):
        made = make_loaders(config, ranks)
        for loader, fingerprint in zip(made, prints, strict=True):
            if fingerprint is not None:
                loader.dataset.metainfo = {**loader.dataset.metainfo, "fingerprint": fingerprint}
        return made

    train(make_config(recipe(epochs=1)), tmp_path / "run", make_loaders=loaders)
    captured = capsys.readouterr()
    assert ("val_set has the records of train_set" in captured.out + captured.err) == noted


def test_sets_are_opened_once_to_check_and_once_to_load(tmp_path, monkeypatch):
    """With a pool, each opening transfers the set's table."""
    train_set, val_set = pack_digits(tmp_path / "digits", 60)
    pipeline = {"type": "imagenet", "image_size": 32}
    config = make_config(
        recipe(train_set=train_set, val_set=val_set, pipeline=pipeline, max_steps=1, batch_size=8, device="cpu")
    )
    opened, init = [], RecordSet.__init__
    monkeypatch.setattr(
        RecordSet,
        "__init__",
        lambda self, prefix, *more, **options: opened.append(str(prefix)) or init(self, prefix, *more, **options),
    )
    train(config, tmp_path / "run")
    assert sorted(opened) == sorted([str(train_set), str(val_set)] * 2)
    opened.clear()
    evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "latest")
    assert opened == [str(val_set)] * 2


def test_skipped_records_are_named(tmp_path, capsys):
    prefix = tmp_path / "set"
    assert main(["pack", "digits", "--split", "val", "--out", str(prefix), "--quiet"]) == 0
    records = RecordSet(prefix)
    path, payload = records.rec_paths[0], bytes(records.encoded(11))
    del records
    content = bytearray(path.read_bytes())
    content[content.index(payload) + len(payload) // 2] ^= 1
    path.write_bytes(content)
    options = [f"train_set={prefix}", f"val_set={prefix}", "loader.on_bad_record=skip", "device=cpu", "visualizer=[]"]
    short = ["model.type=wrn-10-1", "batch_size=64", "epochs=1"]
    run = ["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--cfg-options", *options, *short]
    assert main(run) == 0
    said = capsys.readouterr().err
    assert said.count("WARNING: skipped: ") == 2 and said.count("record 11: crc32") == 2  # in training, in evaluation
    assert "skipped: " in (tmp_path / "run" / "train.log").read_text()
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    out = tmp_path / "scores.json"
    assert main(["evaluate", "quickstart", best, "--json", str(out), "--cfg-options", *options, *short]) == 0
    assert json.loads(out.read_text())["skipped"] == 1
    assert "record 11: crc32" in capsys.readouterr().err
