"""Fixtures: packed sets of small pictures."""

import numpy as np
import pytest

from dali_mix.recordio import write_set
from tests.reports.pictures import COLORS, encode


@pytest.fixture
def two_colors(tmp_path):
    """Pack ten images of a single colour, alternately red and blue; return the prefix."""
    samples = []
    for i in range(10):
        flat = np.full((40, 48, 3), list(COLORS.values())[i % 2], dtype=np.uint8)
        samples.append((encode(flat), i % 2))
    write_set(tmp_path / "two", samples, classes=["red", "blue"])
    return tmp_path / "two"


@pytest.fixture
def dots(tmp_path):
    """Pack twelve dark pictures of 40×40 pixels with one bright dot each; return the prefix."""
    samples = []
    for i in range(12):
        picture = np.full((40, 40, 3), 40, dtype=np.uint8)
        y, x = [(8, 30), (30, 9), (20, 20), (31, 31)][i % 4]
        picture[y - 1 : y + 2, x - 1 : x + 2] = 250
        samples.append((encode(picture), i % 4))
    write_set(tmp_path / "dots", samples, classes=["a", "b", "c", "d"])
    return tmp_path / "dots"
