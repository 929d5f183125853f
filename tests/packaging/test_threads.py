"""The command line sets how long torch's idle threads spin, before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from dali_mix.cli.main import main
assert "torch" not in sys.modules  # OpenMP's library reads its settings when it is loaded
main(["recipes"])
print(os.environ.get("GOMP_SPINCOUNT"), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("own", "count"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_spin_count_is_set_unless_user_chose(own: dict[str, str], count: str) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=plain | own, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[-1] == count
