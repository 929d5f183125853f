"""mxnet 1.9.1 in an environment of its own, build/mxnet: it cannot be imported beside a numpy of this decade.

`python -m tests.recordio.mxnet_env` makes it; the interop tests do so when it is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.environments import environment

REQUIREMENTS = ("mxnet==1.9.1", "numpy==1.23.5", "opencv-python-headless==4.11.0.86")


def find_python() -> str | None:
    """A Python 3.8 to 3.11 with venv, or None."""
    for name in (sys.executable, "python3.11", "python3.10", "python3.9", "python3.8"):
        path = shutil.which(name)
        code = "import ensurepip, sys, venv; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))"
        if path and subprocess.run([path, "-c", code], capture_output=True).returncode == 0:
            return path
    return None


def mxnet_python() -> Path | None:
    """The interpreter of the environment, which is made when it is missing (about half a minute); None without a Python
    for it.

    Raises RuntimeError, with pip's words, when the packages cannot be installed.
    """
    return environment("mxnet", REQUIREMENTS, find_python)


if __name__ == "__main__":
    print(mxnet_python() or "no Python 3.8 to 3.11 found")
