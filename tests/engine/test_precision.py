"""Mixed precision and loss scaling."""

import pytest
import torch

from dali_mix.engine.train.finite import NonFinite
from tests.engine.processes import losses, newest_state
from tests.engine.synthetic import recipe, train_synthetic

BROKEN = "tests.engine.broken:Broken"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, amp):
    assert train_synthetic(recipe(amp=amp, clip_grad_norm=1.0, log_interval=5), tmp_path / amp) == "finished"
    curve = losses(tmp_path / amp)
    assert curve[-1] < curve[0]
    state = newest_state(tmp_path / amp)
    assert (state["scaler"] is not None) == (amp == "fp16")
    assert all(v.dtype in (torch.float32, torch.int64) for v in state["model"].values())


def test_scaler_that_skips_every_step_ends_run(tmp_path):
    always = {"type": BROKEN, "how": "infinite gradient", "always": True}
    with pytest.raises(NonFinite, match=r"infinite even at a loss scale of 0\.5, so no step can be taken"):
        train_synthetic(recipe(model=always, mixer=None, amp="fp16", epochs=9, evaluate_epochs=9), tmp_path / "long")
    with pytest.raises(NonFinite, match="all 3 steps were skipped"):
        train_synthetic(recipe(model=always, mixer=None, amp="fp16", max_steps=3), tmp_path / "short")


def test_run_continues_after_scaler_skips_one_step(tmp_path):
    values = recipe(model={"type": BROKEN, "how": "infinite gradient", "at": 3}, mixer=None, amp="fp16")
    assert train_synthetic(values, tmp_path / "run") == "finished"
    assert newest_state(tmp_path / "run")["scaler"]["scale"] == 2.0**15
