"""Checkpoints are whole or absent."""

import fcntl
import hashlib
import json
import os
import pickle
import resource
import signal
import zipfile

import pytest
import torch

from dali_mix.engine.checkpoint import files
from dali_mix.engine.checkpoint.files import CheckpointFolder, damage, is_checkpoint, load_checkpoint, save_checkpoint
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import evaluate_checkpoint, train
from tests.engine.processes import assert_same_run, records, run, said
from tests.engine.synthetic import make_loaders, recipe

STATE = {"model": {"w": torch.arange(2000.0)}, "step": 3, "window": {"loss": 0.5}, "note": None}


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def folder(tmp_path, warnings):
    return CheckpointFolder(tmp_path / "checkpoints", 2, warnings.append)


def test_round_trip_and_what_others_read(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    assert damage(path) is None
    assert is_checkpoint(path)
    for state in (
        load_checkpoint(path),
        torch.load(path, weights_only=True),
        torch.load(path, weights_only=True, mmap=True),
    ):
        assert torch.equal(state["model"]["w"], STATE["model"]["w"])
        assert state["window"] == {"loss": 0.5}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        body = path.read_bytes()[: -len(archive.comment)]
        assert archive.comment == b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    assert list(tmp_path.iterdir()) == [path]


def test_every_flipped_bit_is_seen(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(8.0)}})
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 150)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        path.write_bytes(bad)
        assert damage(path), f"bit flip at byte {place} of {len(good)}"
        with pytest.raises(ValueError, match=r"a\.pt"):
            load_checkpoint(path)
    for size in (0, 1, 21, 22, 80, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        assert damage(path)


def test_pruned_only_when_the_new_one_is_there(folder):
    for step in (1, 2, 3, 4):
        folder.save(step, {**STATE, "step": step})
    assert folder.steps() == [4, 3]
    assert (folder.path / "latest").read_text() == "step-00000004.pt\n"
    folder.save_best(STATE)
    folder.save(5, STATE)
    assert folder.steps() == [5, 4]
    assert (folder.path / "best.pt").is_file()


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_damaged_newest_falls_back_loudly(folder, warnings, harm):
    for step in (1, 2):
        folder.save(step, STATE)
    path = folder.file(2)
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[harm])
    assert folder.newest() == 1
    assert any("step-00000002.pt" in text for text in warnings)
    folder.keep = 1
    folder.save(2, STATE)  # written again: the damaged one must not push it out
    assert folder.steps() == [2]
    assert folder.newest() == 2


@pytest.mark.parametrize("pointer", [None, "", "step-00000099.pt\n", "../../etc/passwd\n", "\xff\x00"])
def test_pointer_is_a_hint_only(folder, warnings, pointer):
    for step in (1, 2):
        folder.save(step, STATE)
    latest = folder.path / "latest"
    if pointer is None:
        latest.unlink()
    else:
        latest.write_text(pointer, encoding="latin-1")
    assert folder.newest() == 2
    assert any("latest" in text for text in warnings)


def test_nothing_whole_is_an_error_never_step_0(folder):
    assert folder.newest() is None  # has never held one
    folder.save(1, STATE)
    folder.file(1).write_bytes(b"x" * 500)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        folder.newest()
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        folder.newest()  # the pointer alone is left


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("signed", [True, False], ids=["with our checksum", "plain"])
def test_code_in_a_checkpoint_is_refused(tmp_path, signed):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    if signed:
        save_checkpoint(path, {"model": {}, "evil": Evil(str(marker))})
    else:
        path.write_bytes(pickle.dumps({"model": Evil(str(marker))}))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load_checkpoint(path)
    assert not marker.exists()


def test_disk_full_leaves_the_previous_one(folder):
    """A file-size limit stands in for a full disk: the same failing write."""
    folder.keep = 1
    folder.save(1, STATE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match="earlier ones are untouched"):
            folder.save(2, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.newest() == 1
    assert sorted(p.name for p in folder.path.iterdir()) == ["latest", "step-00000001.pt"]


@pytest.mark.parametrize("syncs", [3, 4, 5, 6, 7])
def test_killed_while_writing(tmp_path, syncs):
    """Each save syncs file, folder and pointer: killed at every one of them in turn, with keep = 1."""
    values = recipe(checkpoint={"interval_steps": 2, "keep": 1})
    assert run(values, tmp_path / "straight") == [0]
    work_dir = tmp_path / "run"
    assert run(values, work_dir, kill_in_save=syncs) == [-signal.SIGKILL]
    assert run(values, work_dir, resume="must") == [0], said(work_dir)
    assert_same_run(tmp_path / "straight", work_dir)
    assert not list((work_dir / "checkpoints").glob(".*"))


def test_run_goes_on_from_before_the_damage(tmp_path):
    assert run(recipe(), tmp_path / "straight") == [0]
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=9) == [-signal.SIGKILL]
    newest = work_dir / "checkpoints" / "step-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert run(recipe(), work_dir, resume="must") == [0]
    assert "step-00000008.pt: cut short" in said(work_dir)
    assert_same_run(tmp_path / "straight", work_dir)


def test_best_is_kept_apart(tmp_path):
    assert run(recipe(), tmp_path / "run") == [0]
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    scores = [r for r in records(tmp_path / "run") if r["kind"] == "val"]
    first_of_the_best = max(scores, key=lambda r: r["top1"])
    assert best["metrics"] == {k: v for k, v in first_of_the_best.items() if k != "kind"}
    assert best["model"].keys() == best["ema"]["model"].keys()


def test_config_is_saved_as_json_and_never_read_back_as_code(tmp_path):
    assert run(recipe(), tmp_path / "run") == [0]
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["optimizer"]["lr"] == 0.05
    assert saved["checkpoint"] == {"interval_steps": 2, "keep": 3}
    source = "".join(p.read_text() for p in files.Path(files.__file__).parent.glob("*.py"))
    for word in ("weights_only=False", "fromstring", "exec(", " eval(", "import yaml", "import pickle", "fromfile"):
        assert word not in source, word


@pytest.mark.parametrize("cut", [1, 20, 50, 80, 120])
def test_a_cut_checkpoint_is_not_taken_for_plain_weights(tmp_path, cut):
    config = make_config(recipe())
    assert train(config, tmp_path / "run", make_loaders=make_loaders) == "finished"
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    assert evaluate_checkpoint(config, path, make_loaders=make_loaders).values["top1"] > 0
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"best\.pt: (cut short|damaged)|best\.pt is a damaged weight file"):
        evaluate_checkpoint(config, path, make_loaders=make_loaders)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"a folder; give a checkpoint in it: checkpoints/best\.pt"):
        evaluate_checkpoint(make_config(recipe()), tmp_path, make_loaders=make_loaders)


def test_one_run_in_a_folder(tmp_path):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another run is writing here"):
            train(make_config(recipe()), tmp_path / "run", make_loaders=make_loaders)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert train(make_config(recipe()), tmp_path / "run", make_loaders=make_loaders) == "finished"


def test_a_work_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file is a file; choose another folder"):
        train(make_config(recipe()), tmp_path / "file" / "run", make_loaders=make_loaders)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 90}, "batch_size=90 is more than the 40 records"),
        ({"epochs": 1}, "warmup_epochs=1 of 1: the warm-up does not end"),
    ],
)
def test_odd_settings_are_pointed_out(tmp_path, capsys, changes, said):
    train(make_config(recipe(**changes)), tmp_path / "run", make_loaders=make_loaders)
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


@pytest.mark.parametrize(("prints", "noted"), [(("a", "a"), True), (("a", "b"), False), ((None, None), False)])
def test_validation_on_the_training_set_is_pointed_out(tmp_path, capsys, prints, noted):
    def loaders(config, ranks):
        made = make_loaders(config, ranks)
        for loader, fingerprint in zip(made, prints, strict=True):
            if fingerprint is not None:
                loader.dataset.metainfo = {**loader.dataset.metainfo, "fingerprint": fingerprint}
        return made

    train(make_config(recipe(epochs=1)), tmp_path / "run", make_loaders=loaders)
    captured = capsys.readouterr()
    assert ("val_set holds the records of train_set" in captured.out + captured.err) == noted
