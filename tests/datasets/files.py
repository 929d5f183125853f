"""Files and archives shared by the dataset tests."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from tests.recordio.samples import encoded

JPEG = encoded("JPEG")


def write_jpegs(root: Path, *names: str) -> Path:
    """Write a JPEG to each of the paths `names` below `root`. Return `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)
    return root


def archived(root: Path, path: Path) -> Path:
    """Archive a folder as a .zip if `path` ends in .zip, otherwise as a .tar.gz. Return `path`."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(root))
    else:
        with tarfile.open(path, "w:gz") as archive:
            for file in files:
                archive.add(file, str(file.relative_to(root)))
    return path
