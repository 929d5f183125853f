"""Heat maps: the colour at each position, and the shape of a pipeline's output."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from dali_mix import pipelines
from dali_mix.recordio import RECORD_DTYPE
from dali_mix.reports.attention import COLORS, STRENGTH, aspects, overlaid


def test_heat_map_is_blended_over_grey_image():
    heat = torch.tensor([[-3.0, 1.0, 5.0], [1.0, -3.0, 1.0]])
    picture = torch.randint(0, 256, (3, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = overlaid(picture, heat)
    for y in range(2):
        for x in range(3):
            red, green, blue = picture[:, y, x].tolist()
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            color = np.array(colormaps[COLORS]((float(heat[y, x]) + 3) / 8)[:3]) * 255
            expected = STRENGTH * color + (1 - STRENGTH) * grey
            np.testing.assert_allclose(found[:, y, x].numpy(), expected, atol=0.51)


def test_brightest_pixel_is_at_map_maximum():
    heat = torch.zeros(4, 6)
    heat[1, 4] = 1
    found = overlaid(torch.zeros(3, 40, 60, dtype=torch.uint8), heat).float().sum(0)
    top, left = divmod(int(found.argmax()), 60)
    assert (top // 10, left // 10) == (1, 4)


def test_cell_center_has_color_of_cell():
    """Cell (i, j) of a map covers the pixels i·stride … (i+1)·stride, j·stride … (j+1)·stride, up to the borders."""
    heat = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    found = overlaid(torch.zeros(3, 3 * 9, 5 * 7, dtype=torch.uint8), heat)
    middles = found[:, 4::9, 3::7].permute(1, 2, 0).numpy()
    scaled = (heat - heat.min()) / (heat.max() - heat.min())
    np.testing.assert_allclose(middles, STRENGTH * colormaps[COLORS](scaled.numpy())[..., :3] * 255, atol=2)


def test_constant_map_is_dark():
    found = overlaid(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((2, 2), 4.0))
    assert int(found.max()) < 10


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("multilabel", {"image_size": (48, 96)}, [500 / 375, 375 / 500]),  # the complete picture, stretched
        ("imagenet", {"image_size": 224}, [1, 1]),  # a central square
        ("imagenet", {"image_size": (128, 192)}, [1.5, 1.5]),
        ("cifar", {"image_size": (16, 32)}, [2, 2]),
    ],
)
def test_aspects_of_pipeline_output(name, options, expected):
    rows = np.zeros(2, RECORD_DTYPE)
    rows["height"], rows["width"] = (375, 500), (500, 375)
    assert aspects(pipelines.build(name, False, options), rows) == pytest.approx(expected, rel=0.01)
