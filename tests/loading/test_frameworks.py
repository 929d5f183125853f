"""Lightning, Accelerate and torchdata see each record once per epoch, and the code in docs/loops.md runs."""

import os
import subprocess
import sys

import pytest

from tests.loading.frameworks import COUNT, ROOT, VALIDATION, network, package_folder, run_page
from tests.loading.sets import png_set


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frameworks")
    return str(png_set(folder / "train", COUNT)), str(png_set(folder / "val", VALIDATION))


@pytest.mark.parametrize("name", ["lightning", "accelerate", "torchdata"])
def test_framework_sees_each_record_once_per_epoch(sets, tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-m", "tests.loading.frameworks", name, *sets, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(package_folder()), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_plain_loop_in_docs_runs(sets):
    run_page("A plain loop that resumes", train_set=sets[0], val_set=sets[1], model=network())
