"""Output that fails changes neither what a command does nor its exit status."""

import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.engine.sets import pack_digits

PROGRAM = f"{sys.executable} -m dali_mix"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    train, val = pack_digits(folder)
    damaged = shutil.copytree(folder, folder / "damaged") / "digits_train"
    content = bytearray(damaged.with_suffix(".rec").read_bytes())
    content[len(content) // 2] ^= 1
    damaged.with_suffix(".rec").write_bytes(content)
    return {"set": train, "val": val, "damaged": damaged, "out": folder}


def shell(command, **env):
    """Run a bash pipeline; return (exit status of its first command, standard output, standard error)."""
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("verify {set}", 0), ("verify {damaged}", 1), ("recipes", 0), ("trian", 2)],
)
@pytest.mark.parametrize("where", ["| true", "2>&1 | true", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_closed_or_full_output_keeps_exit_status(sets, arguments, status, where):
    found, _, error = shell(f"{PROGRAM} {arguments.format(**sets)} {where}")
    assert found == status, error
    assert "Traceback" not in error and "Exception ignored" not in error and "BrokenPipe" not in error


def test_files_are_written_with_closed_streams(sets):
    out = sets["out"] / "again"
    assert shell(f"{PROGRAM} pack digits --split val --out {out} <&- >&- 2>&-")[0] == 0
    found, shown, _ = shell(f"{PROGRAM} verify {out}")
    assert (found, "359 records are intact" in shown) == (0, True)


def test_full_disk_is_reported_once(sets):
    status, _, error = shell(f"{PROGRAM} recipes >/dev/full")
    assert status == 0
    assert error == "dali-mix: standard output: No space left on device; the rest is not printed\n"


def test_unencodable_characters_are_escaped(sets):
    status, shown, error = shell(f"{PROGRAM} verify /no/größe 2>&1", PYTHONIOENCODING="ascii")
    assert (status, error) == (1, "")
    assert r"/no/gr\xf6\xdfe" in shown


def test_unhandled_exception_into_closed_pipe_keeps_status(sets):
    """A traceback into a closed pipe ends with status 1, not with the 120 of a failed flush."""
    code = "import sys; from dali_mix.cli import console; console.install(); print('x'); raise TypeError('bug')"
    assert shell(f'{sys.executable} -c "{code}" 2>&1 | true')[0] == 1


def test_slow_reader_of_non_blocking_pipe_gets_all_output(sets):
    code = "import os; from dali_mix.cli import console; os.set_blocking(1, False); console.install()"
    status, shown, error = shell(f"{sys.executable} -c \"{code}; print('x' * 300000)\" | (sleep 1; wc -c)")
    assert (status, shown.strip(), error) == (0, "300001", "")


def test_commands_finish_after_output_pipe_closes(sets, tmp_path):
    """Training continues and saves after `head -3` has ended; `evaluate` and `predict` still write their files."""
    options = f"train_set={sets['set']} val_set=None max_steps=12 log_interval=1 visualizer=[] batch_size=16"
    status, shown, error = shell(
        f"{PROGRAM} train quickstart --work-dir {tmp_path}/run --cfg-options {options} model.type=wrn-10-1 | head -3",
        OMP_NUM_THREADS="1",
    )
    assert status == 0, error
    assert len(shown.splitlines()) == 3
    assert (tmp_path / "run/checkpoints/step-00000012.pt").is_file()
    assert "finished: step 12" in (tmp_path / "run/train.log").read_text()
    rest = f"quickstart {tmp_path}/run/checkpoints/latest"
    out, picture = tmp_path / "found.json", tmp_path / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    for command in (f"evaluate {rest} --cfg-options val_set={sets['val']}", f"predict {rest} {picture} {picture}"):
        name, _, more = command.partition(" ")
        status, _, error = shell(f"{PROGRAM} {name} {more} --json {out} | true", OMP_NUM_THREADS="1")
        assert (status, out.is_file()) == (0, True), error
        out.unlink()
