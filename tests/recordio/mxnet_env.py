"""mxnet 1.9.1 in a separate environment, build/mxnet, because it does not work with current numpy versions.

`python -m tests.recordio.mxnet_env` creates it. The interop tests also create it if it is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.environments import environment

REQUIREMENTS = ("mxnet==1.9.1", "numpy==1.23.5", "opencv-python-headless==4.11.0.86")


def find_python() -> str | None:
    """Return the path of a Python 3.8 to 3.11 with venv, or None."""
    for name in (sys.executable, "python3.11", "python3.10", "python3.9", "python3.8"):
        path = shutil.which(name)
        code = "import ensurepip, sys, venv; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))"
        if path and subprocess.run([path, "-c", code], capture_output=True).returncode == 0:
            return path
    return None


def mxnet_python() -> Path | None:
    """Return the environment's interpreter, or None if no suitable Python is installed.

    If the environment is missing, it is created, which takes about half a minute.

    Raise RuntimeError with pip's output if the packages cannot be installed.
    """
    return environment("mxnet", REQUIREMENTS, find_python)


if __name__ == "__main__":
    print(mxnet_python() or "no Python 3.8 to 3.11 found")
