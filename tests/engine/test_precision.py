"""Mixed precision and loss scaling."""

import pytest
import torch

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import train
from dali_mix.engine.train.finite import NonFinite
from tests.engine.processes import newest_state, records
from tests.engine.synthetic import make_loaders, recipe


def losses(work_dir):
    return torch.tensor([r["loss"] for r in records(work_dir) if r["kind"] == "train"], dtype=torch.float64)


BROKEN = "tests.engine.broken:Broken"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, amp):
    config = make_config(recipe(amp=amp, clip_grad_norm=1.0, log_interval=5))
    assert train(config, tmp_path / amp, make_loaders=make_loaders) == "finished"
    curve = losses(tmp_path / amp)
    assert curve[-1] < curve[0]
    state = newest_state(tmp_path / amp)
    assert (state["scaler"] is not None) == (amp == "fp16")
    assert all(v.dtype in (torch.float32, torch.int64) for v in state["model"].values())


def test_a_scaler_that_leaves_out_every_step_ends_the_run(tmp_path):
    always = {"type": BROKEN, "how": "infinite gradient", "always": True}
    config = make_config(recipe(model=always, mixer=None, amp="fp16", epochs=9, evaluate_epochs=9))
    with pytest.raises(NonFinite, match=r"infinite even at a loss scale of 0\.5, so no step can be taken"):
        train(config, tmp_path / "long", make_loaders=make_loaders)
    config = make_config(recipe(model=always, mixer=None, amp="fp16", max_steps=3))
    with pytest.raises(NonFinite, match="all 3 steps were left out"):
        train(config, tmp_path / "short", make_loaders=make_loaders)


def test_a_scaler_that_leaves_out_one_step_goes_on(tmp_path):
    config = make_config(recipe(model={"type": BROKEN, "how": "infinite gradient", "at": 3}, mixer=None, amp="fp16"))
    assert train(config, tmp_path / "run", make_loaders=make_loaders) == "finished"
    assert newest_state(tmp_path / "run")["scaler"]["scale"] == 2.0**15
