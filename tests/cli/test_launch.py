"""The launcher on one machine: how it starts ranks, and the exit status it derives from theirs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dali_mix.cli import launch
from dali_mix.cli.launch import outcome
from dali_mix.cli.rank import Ended
from tests.engine.processes import records
from tests.engine.sets import pack_digits, pack_photos

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    train, val = pack_digits(folder)
    return {"digits": train, "digits_val": val, "photos": pack_photos(folder / "photos", 48)}


def workers(launcher):
    """Return the ids of the rank processes that the launcher started."""
    found = []
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):  # the process has ended
            if "dali_mix" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
    return found


@pytest.mark.parametrize(
    ("reports", "ended", "asked", "status", "message"),
    [
        ({0: (1, "error of 0"), 1: (1, "error of 1")}, {1: 1}, None, 1, "error of 0"),
        ({1: (1, "error of 1")}, {0: -signal.SIGTERM, 1: 1}, None, 1, "error of 1"),
        ({0: (75, ""), 1: (1, "error of 1")}, {1: 1}, None, 1, "error of 1"),
        ({0: (75, ""), 1: (75, "")}, {0: 75, 1: 75}, None, 75, ""),
        ({0: (75, "")}, {0: 75}, None, 75, ""),
        ({0: (75, ""), 1: (75, "")}, {}, signal.SIGTERM, 75, ""),
        ({}, {0: -signal.SIGTERM}, signal.SIGTERM, 75, "nothing to save; start it again"),
        ({}, {0: 75, 1: -signal.SIGTERM}, signal.SIGTERM, 75, "nothing to save; start it again"),
        ({1: (3, "ended: rank 0 failed")}, {1: 3}, signal.SIGTERM, 75, "nothing to save; start it again"),
        ({0: (75, ""), 1: (3, "ended: rank 0 failed")}, {1: 3}, signal.SIGTERM, 75, ""),
        ({0: (75, ""), 1: (3, "ended: rank 0 failed")}, {1: 3}, None, 75, ""),
        ({1: (1, "error of 1")}, {0: 75}, signal.SIGTERM, 1, "error of 1"),
        ({}, {0: 75, 1: 3}, signal.SIGTERM, 1, "rank 1 with status 3"),
        ({}, {0: -signal.SIGINT}, signal.SIGINT, 130, "before it could save"),
        ({0: (1, "connection lost")}, {1: -signal.SIGKILL}, None, 1, "rank 1 was ended by SIGKILL; out of memory"),
        ({0: (130, "interrupted")}, {}, signal.SIGINT, 130, "interrupted"),
        ({}, {2: 3}, None, 1, "rank 2 with status 3"),
        ({0: (0, ""), 1: (0, "")}, {}, None, 0, ""),
        ({0: (0, ""), 1: (0, "")}, {}, signal.SIGTERM, 0, ""),
        ({0: (3, "ended: rank 1 failed"), 1: (1, "error of 1")}, {0: 3, 1: 1}, None, 1, "error of 1"),
        ({0: (3, "ended: rank 3 failed"), 1: (3, "ended")}, {0: 3}, None, 3, "ended: rank 3 failed"),
        ({0: (3, "lost")}, {1: -signal.SIGSEGV}, None, 1, "rank 1 was ended by SIGSEGV"),
        ({}, {0: -signal.SIGTERM}, None, 75, "nothing to save; start it again"),
        ({1: (3, "ended: rank 0 failed")}, {0: -signal.SIGTERM}, None, 75, "nothing to save; start it again"),
        ({}, {0: 130, 1: -signal.SIGINT}, signal.SIGINT, 130, "before it could save"),
        ({1: (3, "ended: rank 0 failed")}, {0: 130}, signal.SIGINT, 130, "before it could save"),
    ],
)
def test_outcome_combines_rank_statuses(reports, ended, asked, status, message):
    found = outcome({number: Ended(*report) for number, report in reports.items()}, ended, asked)
    assert found[0] == status
    assert message in found[1]
    assert bool(message) == bool(found[1])
    assert "\n" not in found[1]


def test_outcome_suggests_restart_only_for_training():
    status, message = outcome({}, {0: -signal.SIGTERM}, signal.SIGTERM, "evaluate")
    assert status == 143 and "start it again" not in message


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NNODES": "x"}, "NNODES must be an integer of at least 1, not 'x'"),
        ({"NNODES": "0"}, "NNODES must be"),
        ({"NNODES": "2"}, "set NODE_RANK and MASTER_ADDR as well"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "set MASTER_ADDR as well"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK is 2, but NNODES is 2: must be from 0 to 1"),
        ({"NNODES": "2", "NODE_RANK": "-1", "MASTER_ADDR": "a"}, "NODE_RANK must be"),
    ],
)
def test_invalid_node_variables_are_refused(monkeypatch, capsys, variables, message):
    for name in ("NNODES", "NODE_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.main(["--nproc", "2", "--", "train", "quickstart", "--work-dir", "w"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_first_rank_of_node_follows_previous_nodes(monkeypatch):
    for name, value in {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "node0", "RANK": "9"}.items():
        monkeypatch.setenv(name, value)
    shared, first = launch._shared_environment(4)
    assert first == 8
    found = [shared[name] for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]
    assert found == ["12", "4", "node0", "29500"]


def test_ctrl_c_while_ranks_start_prints_one_line(tmp_path):
    """The signal arrives before a rank's interpreter has imported anything."""
    program = "import signal, sys\nfrom dali_mix.cli import launch\nstart = launch._Ranks.start\n"
    program += "def interrupted(self, *args):\n    start(self, *args)\n    self.pass_on(signal.SIGINT, None)\n"
    program += "launch._Ranks.start = interrupted\nsys.exit(launch.main(sys.argv[1:]))\n"
    command = ["--nproc", "2", "--", "train", "quickstart", "--work-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (130, "dali-mix train: interrupted\n")


def test_rank_ends_when_launcher_is_killed():
    rank = "import os, time; from dali_mix.cli import rank; rank.end_with_parent(os.getppid()); "
    rank += "print(os.getpid(), flush=True); time.sleep(100)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}], start_new_session=True)"
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    status = Path(f"/proc/{int(process.stdout.readline())}/stat")
    assert status.exists()
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    with contextlib.suppress(OSError):  # raised once the process has ended
        while status.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < end
            time.sleep(0.02)


def test_missing_file_is_reported_before_port_in_use(tmp_path):
    with socket.socket() as used:
        used.bind(("0.0.0.0", 0))
        used.listen()
        env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(used.getsockname()[1])}
        command = [sys.executable, "-m", "dali_mix", "evaluate", "quickstart", str(tmp_path / "no.pt")]
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no.pt: no such file" in done.stderr  # a rank checks its files before it connects to others


def test_two_ranks_save_on_sigterm_and_end_after_sigkill(sets, tmp_path):
    """Each epoch has every record once, SIGTERM saves, and a killed process ends the run within a minute."""
    options = [f"train_set={sets['digits']}", f"val_set={sets['digits_val']}", "log_ids=true", "visualizer=[]"]
    work_dir, port = tmp_path / "run", {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [ROOT / "scripts" / "train_dist.sh", "quickstart", "2", "--work-dir", work_dir]
    command += ["--cfg-options", *options, "checkpoint.interval_epochs=1"]

    def launch(*more):
        with (tmp_path / "out.txt").open("a") as out:
            return subprocess.Popen([*map(str, command), *more], env={**os.environ, **port}, stdout=out, stderr=out)

    def until_epoch(number, process):
        end = time.monotonic() + 90
        while (
            len(
                lines := [r for r in records(work_dir) if r["kind"] == "val"]
                if (work_dir / "metrics.jsonl").exists()
                else []
            )
            < number
        ):
            assert process.poll() is None, (tmp_path / "out.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        return lines

    process = launch()
    until_epoch(1, process)
    process.terminate()
    assert process.wait(60) == 75
    assert "Traceback" not in (tmp_path / "out.txt").read_text()
    assert "SIGTERM: saved at step" in (work_dir / "train.log").read_text()
    ids = [(r["step"], i) for rank in range(2) for r in records(work_dir, f"ids-rank{rank}.jsonl") for i in r["ids"]]
    assert sorted(i for step, i in ids if step <= 23) == list(range(1438))
    assert max(Counter(i for step, i in ids if 23 < step <= 46).values()) == 1

    process = launch("--resume")
    try:
        until_epoch(2, process)
        pids = workers(process.pid)
        assert len(pids) == 2
        os.kill(pids[1], signal.SIGKILL)
        assert process.wait(60) == 1
        said = (tmp_path / "out.txt").read_text()
        assert "rank 1 was ended by SIGKILL" in said
        assert "Traceback" not in said
    finally:
        process.kill()


def test_launcher_prints_error_once(tmp_path):
    command = [str(ROOT / "scripts" / "train_dist.sh"), "quickstart", "2", "--work-dir", str(tmp_path / "run")]
    env = {**os.environ, "PYTHON": sys.executable}
    for more, status in ((["--cfg-options", "train_set=/nowhere/x"], 1), (["--nonsense"], 2)):
        done = subprocess.run([*command, *more], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status
        assert done.stderr.count("error:") == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("script", ["train_dist.sh", "train_slurm.sh"])
def test_launch_scripts_print_help_and_usage(script):
    path = str(ROOT / "scripts" / script)
    shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert shown.startswith("Usage: ")
    assert subprocess.run([path], capture_output=True, timeout=20).returncode == 2
