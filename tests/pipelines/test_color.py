import numpy as np
import pytest
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.color import GREY, PCA_VALUES, PCA_VECTORS, YIQ, Color


def naive(pixels, values, order, lighting):
    """Apply torchvision's ColorJitter (with hue in YIQ) and then lighting to one float image (H, W, 3), 0..255."""
    for kind in order:
        grey = (pixels @ GREY)[:, :, None]
        if kind == 0:
            pixels = pixels * values[0]
        elif kind == 1:
            pixels = values[1] * pixels + (1 - values[1]) * grey.mean()
        elif kind == 2:
            pixels = values[2] * pixels + (1 - values[2]) * grey
        else:
            yiq = pixels @ YIQ.T
            turned = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(2j * np.pi * values[3])
            pixels = np.stack([yiq[..., 0], turned.real, turned.imag], axis=-1) @ np.linalg.inv(YIQ).T
    return pixels + 255 * PCA_VECTORS @ (lighting * PCA_VALUES)


def test_affine_map_equals_sequential_jitter():
    ids, strengths = np.arange(40), np.array([0.4, 0.5, 0.6, 0.2])
    drawn = Color(tuple(strengths), 0.1).draw(np.zeros((40, 2)), SampleRandom(1, 2, ids))
    random = SampleRandom(1, 2, ids)
    u, lighting = random.uniform(8), random.normal(3) * 0.1
    pixels = np.random.default_rng(0).uniform(0, 255, (40, 5, 7, 3))
    orders = set()
    for i in ids:
        values = np.append(1 - strengths[:3], -strengths[3]) + 2 * strengths * u[i, :4]
        order = np.argsort(u[i, 4:])
        orders.add(tuple(order))
        expected = naive(pixels[i], values, order, lighting[i])
        shift = drawn["mean"][i] @ pixels[i].mean(axis=(0, 1)) + drawn["offset"][i]
        assert np.allclose(pixels[i] @ drawn["matrix"][i].T + shift, expected, atol=1e-2)
    assert len(orders) > 12


def test_zero_strength_is_identity():
    drawn = Color(None, 0.0).draw(np.zeros((3, 2)), SampleRandom(0, 0, np.arange(3)))
    assert np.allclose(drawn["matrix"], np.eye(3), atol=1e-6)
    assert np.allclose(drawn["mean"], 0, atol=1e-6) and not drawn["offset"].any()
    assert not Color(None, 0.0).active and Color(0.1, 0.0).active and Color(None, 0.1).active


@pytest.mark.parametrize("jitter", [-1, (0.4, 0.4), (0.4, 0.4, 0.4, 0.6), (0.1, 0.1, 0.1, "x")])
def test_invalid_strengths_are_refused(jitter):
    with pytest.raises(ValueError, match="color_jitter"):
        Color(jitter, 0.0)
    with pytest.raises(ValueError, match="pca_lighting"):
        Color(None, -0.1)
