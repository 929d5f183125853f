"""OpenCV's saliency maps, computed by opencv-contrib in a separate environment, build/opencv_contrib.

The environment is separate because opencv-contrib overwrites files of opencv-python, a dependency of dali_mix.

`python -m tests.mixers.opencv_env` creates the environment and writes data/opencv_saliency.npz, the maps of the drawn
pictures in `pictures.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.environments import environment
from tests.mixers.pictures import drawn_pictures

DATA = Path(__file__).parent / "data" / "opencv_saliency.npz"
REQUIREMENTS = ("opencv-contrib-python-headless==4.11.0.86",)
# argv: npz file of RGB images (H,W,3) uint8; npz file to which their maps (H,W) uint8 are written.
MAPS = """
import sys
import cv2, numpy as np
images = np.load(sys.argv[1])
saliency = cv2.saliency.StaticSaliencyFineGrained_create()
maps = {}
for name in images:
    done, found = saliency.computeSaliency(np.ascontiguousarray(images[name][:, :, ::-1]))
    assert done and found.shape == images[name].shape[:2], name
    # The Python binding returns the map divided by 255.
    maps[name] = np.rint(found * 255).astype(np.uint8) if found.dtype != np.uint8 else found
np.savez(sys.argv[2], **maps)
"""


def find_python() -> str | None:
    """Return the path of a Python with venv, or None."""
    for name in (sys.executable, "python3"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return path
    return None


def opencv_python() -> Path | None:
    """Return the environment's interpreter, or None if no Python with venv is installed.

    If the environment is missing, it is created.

    Raise RuntimeError with pip's output if the package cannot be installed.
    """
    return environment("opencv_contrib", REQUIREMENTS, find_python)


def opencv_maps(python: Path, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return name → OpenCV's saliency map (H,W) uint8 of RGB images (H,W,3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "images.npz"), Path(folder, "maps.npz")
        np.savez(given, **images)  # type: ignore[arg-type]
        done = subprocess.run([str(python), "-c", MAPS, str(given), str(made)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"OpenCV's saliency failed: {done.stderr[-2000:]}")
        with np.load(made) as maps:
            return {name: maps[name] for name in maps}


if __name__ == "__main__":
    interpreter = opencv_python()
    if interpreter is None:
        raise SystemExit("no Python with venv found")
    DATA.parent.mkdir(exist_ok=True)
    np.savez_compressed(DATA, **opencv_maps(interpreter, drawn_pictures()))  # type: ignore[arg-type]
    print(f"wrote {DATA}")
