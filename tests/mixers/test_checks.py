"""Validation of the mean and std of mixers."""

import pytest
import torch

from dali_mix.mixers.checks import mean_and_std


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda values: torch.tensor(values).numpy()])
def test_mean_and_std_from_lists_arrays_and_tensors(kind):
    means, stds = mean_and_std(kind([0.5, 0.4, 0.3]), kind([0.2, 0.3, 0.4]))
    assert means == pytest.approx((0.5, 0.4, 0.3)) and stds == pytest.approx((0.2, 0.3, 0.4))


def test_single_mean_and_std_apply_to_all_channels():
    assert mean_and_std([0.13], [0.31]) == ((0.13,) * 3, (0.31,) * 3)
    assert mean_and_std(None, None) == (None, None)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123, 116, 103), (58, 57, 57), "divide both by 255"),
        ((0.5, 0.5, 0.5), (0.2, 0.0, 0.2), "above 0"),
        ((0.5, 0.5), None, "pass both"),
        (None, (0.5, 0.5, 0.5), "pass both"),
        (0.5, 0.5, "three numbers"),
        ((0.5,) * 3, (0.2, 0.2), "std=.*three numbers"),
        ((float("nan"),) * 3, (0.2,) * 3, "mean=nan: must be a finite number"),
        (("a", "b", "c"), (0.2,) * 3, "mean='a': must be a number"),
    ],
)
def test_mean_and_std_refuses_invalid_values(mean, std, message):
    with pytest.raises(ValueError, match=message):
        mean_and_std(mean, std)
