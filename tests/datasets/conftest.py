"""Fixtures for the dataset tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recordio.samples import encoded


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with four images, sub/0.jpg to sub/3.jpg, for list files."""
    folder = tmp_path / "root" / "sub"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(encoded("JPEG", 20, 40, seed=number))
    return tmp_path / "root"
