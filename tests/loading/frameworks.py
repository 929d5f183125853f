"""Check loaders in Lightning, Accelerate and torchdata.

This is a script because these packages are installed in a separate folder.
`python -m tests.loading.frameworks NAME TRAIN_SET VAL_SET FOLDER` raises an error unless every epoch has each record
exactly once.
"""

from __future__ import annotations

import fcntl
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from dali_mix import build_loader

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "lightning==2.6.6",
    "pytorch-lightning==2.6.6",
    "lightning-utilities==0.15.3",
    "torchmetrics==1.9.0",
    "accelerate==1.15.0",
    "psutil==7.2.2",
    "torchdata==0.11.0",
)
COUNT, VALIDATION, STEPS = 40, 22, 7  # 6 records per step


def package_folder() -> Path:
    """Return build/frameworks, a folder with only these packages, and install them if necessary.

    Raise RuntimeError with pip's output if they cannot be installed.
    """
    folder = ROOT / "build" / "frameworks"
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", str(folder)]
            command = [sys.executable, "-m", "pip", "install", *options, *PACKAGES]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"cannot install {' '.join(PACKAGES)}: {done.stderr[-2000:]}")
            (folder / "ready").touch()
    return folder


def make_loader(prefix: str, train: bool, **options):
    shape = {"image_size": 32}
    return build_loader("cifar", prefix, batch_size=6, train=train, device="cpu", pipeline_options=shape, **options)


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))


def ids(batches) -> list[int]:
    return [number for batch in batches for number in batch.ids.tolist()]


def expected_epochs(prefix: str, count: int) -> list[list[int]]:
    one = make_loader(prefix, True)
    return [ids(one) for _ in range(count)]


def run_page(heading: str, **given) -> None:
    """Run the code below a heading of docs/loops.md with the variables `given` and batches of 6."""
    text = (ROOT / "docs/loops.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(block.replace("batch_size=64", "batch_size=6"), given)  # the sets here are small


def check_lightning(train_set: str, val_set: str, folder: Path) -> None:
    import lightning

    class RecordingModule(lightning.LightningModule):
        """A module that records the ids seen in each epoch and each validation."""

        def __init__(self, stop_at=None):
            super().__init__()
            self.network, self.stop_at = network(), stop_at
            self.trained, self.validated = {}, []

        def training_step(self, batch, index):
            self.trained.setdefault(self.current_epoch, []).extend(batch.ids.tolist())
            return torch.nn.functional.cross_entropy(self.network(batch.images), batch.targets)

        def on_validation_epoch_start(self):
            self.validated.append([])

        def validation_step(self, batch, index):
            self.validated[-1] += batch.ids.tolist()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

        def on_train_batch_end(self, outputs, batch, index):
            if self.global_step == self.stop_at:
                self.trainer.save_checkpoint(folder / "stopped.ckpt")
                raise KeyboardInterrupt

    def fit(module, train=None, val=None, ckpt_path=None, **options):
        options = {"max_epochs": 4, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"} | options
        trainer = lightning.Trainer(enable_progress_bar=False, enable_model_summary=False, **options)
        loaders = train or make_loader(train_set, True), val or make_loader(val_set, False)
        try:
            trainer.fit(module, *loaders, ckpt_path=ckpt_path)
        except (KeyboardInterrupt, SystemExit):
            assert module.stop_at
        return module, trainer

    expected, everything = expected_epochs(train_set, 4), list(range(VALIDATION))
    # Four epochs with a sanity check and a validation after each epoch; then two validations per epoch.
    module, trainer = fit(RecordingModule())
    assert [module.trained[epoch] for epoch in range(4)] == expected and trainer.global_step == 4 * STEPS
    assert module.validated == [everything[:12]] + [everything] * 4
    module, _ = fit(RecordingModule(), val_check_interval=0.5)
    assert [module.trained[epoch] for epoch in range(4)] == expected and module.validated[1:] == [everything] * 8
    # With limited batches per epoch. Afterwards the same loaders yield complete epochs in a second fit.
    train, val = make_loader(train_set, True), make_loader(val_set, False)
    module, trainer = fit(RecordingModule(), train, val, limit_train_batches=3, limit_val_batches=2)
    assert [module.trained[epoch] for epoch in range(4)] == [expected[0][:18]] * 4
    assert module.validated[1:] == [everything[:12]] * 4
    assert fit(RecordingModule(), train, val, max_epochs=2)[0].trained == {0: expected[0], 1: expected[1]}
    assert fit(RecordingModule(), overfit_batches=2, max_epochs=2)[0].trained == {
        0: expected[0][:12],
        1: expected[0][:12],
    }
    # Resuming from Lightning's checkpoint: within an epoch, after its last batch, before a validation.
    for stop_at, val_interval in ((STEPS + 3, 1.0), (2 * STEPS, 1.0), (3, 0.5), (STEPS + 5, 0.5)):
        before, _ = fit(RecordingModule(stop_at), val_check_interval=val_interval)
        after, trainer = fit(RecordingModule(), ckpt_path=folder / "stopped.ckpt", val_check_interval=val_interval)
        both = [before.trained.get(epoch, []) + after.trained.get(epoch, []) for epoch in range(4)]
        assert both == expected, (stop_at, val_interval)
        assert trainer.global_step == 4 * STEPS
    # The advice in docs/loops.md for limited batches per epoch, including resuming within an epoch.

    class SetsEpoch(RecordingModule):
        def on_train_epoch_start(self):
            self.trainer.train_dataloader.set_epoch(self.current_epoch)

    before, _ = fit(SetsEpoch(stop_at=7), limit_train_batches=3)
    after, _ = fit(SetsEpoch(), limit_train_batches=3, ckpt_path=folder / "stopped.ckpt")
    both = [before.trained.get(epoch, []) + after.trained.get(epoch, []) for epoch in range(4)]
    assert both == [epoch[:18] for epoch in expected]
    # Two loaders together: the shorter one restarts.
    pair = lightning.pytorch.utilities.CombinedLoader(
        [make_loader(train_set, True), make_loader(val_set, True)], "max_size_cycle"
    )
    shown = [[], []]
    for _ in range(2):
        for batches, _, _ in pair:
            for part, batch in zip(shown, batches, strict=True):
                part.append(batch)
    assert ids(shown[0]) == expected[0] + expected[1] and len(shown[1]) == 2 * STEPS
    run_page("Lightning", train_set=train_set, val_set=val_set, model=network())


def check_accelerate(train_set: str, val_set: str, folder: Path) -> None:
    import accelerate

    expected = expected_epochs(train_set, 4)
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    loader, val, model, optimizer = accelerator.prepare(
        make_loader(train_set, True), make_loader(val_set, False), model, torch.optim.SGD(model.parameters(), lr=1e-3)
    )
    accelerator.register_for_checkpointing(loader)

    def train(batches):
        shown = []
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.cross_entropy(model(batch.images), batch.targets))
                optimizer.step()
                optimizer.zero_grad()
            shown += batch.ids.tolist()
            assert ids(val) == list(range(VALIDATION)) and len(next(iter(val)).ids) == 6
        return shown

    assert [train(loader) for _ in range(2)] == expected[:2]
    begun = []
    for batch in loader:
        begun += batch.ids.tolist()
        if len(begun) == 18:
            accelerator.save_state(str(folder / "state"))
            break
    assert train(loader) == expected[2] and loader.epoch == 3
    accelerator.load_state(str(folder / "state"))
    assert begun + train(loader) == expected[2] and train(loader) == expected[3]
    accelerator.save_state(str(folder / "state"))
    other = make_loader(train_set, True)
    other.load_state_dict(torch.load(folder / "state" / "custom_checkpoint_0.pkl", weights_only=True))
    assert (other.epoch, other.samples_seen) == (4, 0)
    run_page("Accelerate", train_set=train_set, model=network(), folder=str(folder / "page"))


def check_torchdata(train_set: str, val_set: str, folder: Path) -> None:
    from torch.utils.data import IterableDataset
    from torchdata.stateful_dataloader import StatefulDataLoader

    class Stateful(IterableDataset):
        def __init__(self):
            self.loader = make_loader(train_set, True)

        def __iter__(self):
            return iter(self.loader)

        def state_dict(self):
            return self.loader.state_dict()

        def load_state_dict(self, state):
            self.loader.load_state_dict(state)

    def stateful():
        return StatefulDataLoader(Stateful(), batch_size=None, num_workers=0)

    expected = expected_epochs(train_set, 4)
    for taken in (0, 1, 4, STEPS - 1):
        one, begun = stateful(), []
        assert ids(one) == expected[0]
        state = one.state_dict()  # at the end of the epoch, so the next epoch follows
        other = stateful()
        other.load_state_dict(state)
        assert ids(other) == expected[1]
        if taken == 0:
            iter(one)
        for batch in one if taken else ():
            begun += batch.ids.tolist()
            if len(begun) == 6 * taken:
                break
        state = one.state_dict()
        for other in (stateful(), one):
            other.load_state_dict(state)
            assert begun + ids(other) == expected[1] and ids(other) == expected[2]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    checks = {"lightning": check_lightning, "accelerate": check_accelerate, "torchdata": check_torchdata}
    checks[sys.argv[1]](sys.argv[2], sys.argv[3], Path(sys.argv[4]))
