"""SIGTERM before the first step ends `dali-mix train` with status 75, so schedulers start it again."""

import os
import subprocess
import sys

import pytest

MESSAGE = "dali-mix train: SIGTERM while no step was under way: nothing to save; start it again (with --resume=auto)\n"
# SIGTERM arrives at one of these points: torch is imported, the recipe is read, or the training set is opened.
PROGRAM = """
import os, signal, sys
from unittest import mock
from dali_mix.cli.main import main

def stop(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError("SIGTERM was ignored")

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            stop()

if sys.argv.pop(1) == "import":
    sys.meta_path.insert(0, Finder())
    sys.exit(main())
with mock.patch(sys.argv.pop(1), stop):
    sys.exit(main())
"""


@pytest.mark.parametrize(
    ("point", "environment", "message"),
    [
        (["import"], {}, MESSAGE),
        (["patch", "dali_mix.engine.config.recipe_files.load_config"], {}, MESSAGE),
        (["patch", "dali_mix.engine.run.open_sets"], {}, MESSAGE),
        (["import"], {"LOCAL_RANK": "0"}, MESSAGE),
        (["import"], {"LOCAL_RANK": "1"}, ""),  # one message per machine
        (["import"], {"DALI_MIX_RANKS": "folder"}, ""),  # the launcher prints it
    ],
)
def test_sigterm_before_first_step_ends_with_status_75(tmp_path, point, environment, message):
    command = [sys.executable, "-c", PROGRAM, *point, "train", "quickstart", "--work-dir", str(tmp_path / "run")]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (75, message)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("return 75", 75, ""),
        ("raise ValueError('no such set')", 1, "dali-mix train: error: no such set\n"),
        ("raise Lost('rank 1 failed')", 3, "dali-mix train: ended: rank 1 failed\n"),
    ],
)
def test_sigterm_after_run_keeps_status_and_message(tmp_path, body, status, message):
    """SIGTERM arrives after the run was saved or has failed, while the process ends."""
    program = f"""
import os, signal, sys
from unittest import mock
from dali_mix.cli.main import main

class Lost(ConnectionError):
    lost = True

def train(args):
    {body}

def tell(message, *, lost=False):
    os.kill(os.getpid(), signal.SIGTERM)
    print(message, file=sys.stderr)

with mock.patch("dali_mix.cli.commands.train._train", train):
    status = main(tell=tell)
os.kill(os.getpid(), signal.SIGTERM)
sys.exit(status)
"""
    command = [sys.executable, "-c", program, "train", "quickstart", "--work-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (status, message)
