"""The exponential moving average of the weights."""

import torch
from torch import nn

from dali_mix.engine.train.ema import ModelEma


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
