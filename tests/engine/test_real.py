"""The command line on real images through the real loader: killed and resumed, on two processes, and given nonsense."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from dali_mix.cli.commands import doctor
from dali_mix.cli.main import main
from dali_mix.recordio import write_set
from tests.engine.processes import assert_same_run, context, finish, records
from tests.engine.sets import pack_digits, pack_photos
from tests.recordio.samples import encoded

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    train, val = pack_digits(folder)
    return {"digits": train, "digits_val": val, "photos": pack_photos(folder / "photos", 48)}


def cli(arguments, out):
    """Body of a process that is `dali-mix ARGUMENTS`, its output in a file."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(out).open("a", buffering=1)  # noqa: SIM115  # open to the end of the process
    os._exit(main(arguments))


def start(arguments, out):
    process = context().Process(target=cli, args=([str(a) for a in arguments], str(out)))
    process.start()
    return process


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not Path(path).exists():
        assert process.exitcode is None, f"ended with {process.exitcode} before {path} was there"
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.005)


@pytest.mark.parametrize(("sign", "model"), [(signal.SIGKILL, "torchvision/resnet18"), (signal.SIGTERM, "wrn-10-1")])
def test_photos_stopped_half_way_and_resumed(sets, tmp_path, sign, model):
    """One epoch of ResNet-18 with random crops and ResizeMix: the same final weights as without the stop."""
    options = [f"train_set={sets['photos']}", "batch_size=4", "visualizer=[]", "log_ids=true", "loader.num_threads=1"]
    options += [f"model.type={model}", "checkpoint.interval_steps=4"]
    command = ["train", "imagenet/resnet18_sample", "--cfg-options", *options, "--work-dir"]
    assert finish([start([*command, tmp_path / "one"], tmp_path / "one.txt")]) == [0], (
        tmp_path / "one.txt"
    ).read_text()
    two = tmp_path / "two"
    process = start([*command, two], tmp_path / "two.txt")
    wait_for(two / "checkpoints" / "step-00000004.pt", process)
    os.kill(process.pid, sign)
    assert finish([process]) == [KILLED if sign == signal.SIGKILL else 75]
    assert not (two / "checkpoints" / "step-00000012.pt").exists()
    assert finish([start([*command, two, "--resume"], tmp_path / "two.txt")]) == [0], (tmp_path / "two.txt").read_text()
    assert "resumed from step-" in (tmp_path / "two.txt").read_text()
    assert_same_run(tmp_path / "one", two)


def test_digits_train_evaluate_and_another_set_is_refused(sets, tmp_path, capsys):
    options = [f"train_set={sets['digits']}", f"val_set={sets['digits_val']}", "epochs=1", "visualizer=[]", "ema=0.9"]
    work_dir = tmp_path / "run"
    train = ["train", "quickstart", "--work-dir", work_dir, "--cfg-options", *options]
    assert finish([start(train, tmp_path / "out.txt")]) == [0], (tmp_path / "out.txt").read_text()
    last = [r for r in records(work_dir) if r["kind"] == "val"][-1]
    assert main([str(a) for a in train]) == 1
    assert "--resume" in capsys.readouterr().err
    command = ["evaluate", "quickstart", work_dir / "checkpoints" / "best.pt", "--json", tmp_path / "metrics.json"]
    assert finish([start([*command, "--cfg-options", *options], tmp_path / "out.txt")]) == [0]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["top1"] == last["top1"]
    assert found["loss"] == pytest.approx(last["loss"], abs=1e-6)
    again = ["train", "quickstart", "--work-dir", work_dir, "--resume"]
    assert finish([start(again, tmp_path / "out.txt")]) == [0]  # with the options of before
    assert last == [r for r in records(work_dir) if r["kind"] == "val"][-1]
    again += ["--cfg-options", f"train_set={sets['digits_val']}"]
    assert finish([start(again, tmp_path / "out.txt")]) == [1]
    said = f"on {sets['digits']}, this run has train_set={sets['digits_val']}; "
    assert f"{said}--cfg-options resume_strict=False resumes anyway" in (tmp_path / "out.txt").read_text()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["train_set=/nowhere/digits"], "/nowhere/digits"),
        (["val_set={photos}"], "different classes"),
        (["num_classes=7"], "num_classes=7"),
        (["model.type=wrn-17-1"], "17"),
        (["weights=/nowhere.pt"], "/nowhere.pt"),
        (["device=cuda"], "no GPU"),
        (["mixer.scale=[0.8,0.1]"], "scale"),
        (["visualizer=[wandb]"], "did you mean wandb"),
        (["visualizer=['wandb']"], "pip install wandb"),
    ],
)
def test_mistakes_end_before_anything_starts(sets, tmp_path, capsys, monkeypatch, options, match):
    if options == ["device=cuda"]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = [option.format(**sets) for option in options]
    base = [f"train_set={sets['digits']}", f"val_set={sets['digits_val']}", "visualizer=[]"]
    work_dir = tmp_path / "run"
    assert main(["train", "quickstart", "--work-dir", str(work_dir), "--cfg-options", *base, *given]) == 1
    error = capsys.readouterr().err
    assert match in error
    assert len(error.strip().splitlines()) == 1
    assert not work_dir.exists()


def workers(launcher):
    """Processes that torchrun started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if "dali_mix" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_launcher_two_processes(sets, tmp_path):
    """Every record once an epoch; SIGTERM saves; a killed process ends the run within a minute."""
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


def test_launcher_tells_an_error_once(tmp_path):
    command = [str(ROOT / "scripts" / "train_dist.sh"), "quickstart", "2", "--work-dir", str(tmp_path / "run")]
    env = {**os.environ, "PYTHON": sys.executable}
    for more, status in ((["--cfg-options", "train_set=/nowhere/x"], 1), (["--nonsense"], 2)):
        done = subprocess.run([*command, *more], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status
        assert done.stderr.count("error:") == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1 or status == 2


@pytest.mark.parametrize("script", ["train_dist.sh", "train_slurm.sh"])
def test_launchers_help_and_usage(script):
    path = str(ROOT / "scripts" / script)
    shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert shown.startswith("Usage: ")
    assert subprocess.run([path], capture_output=True, timeout=20).returncode == 2


PROGRAMS = {  # stand-ins for those of Slurm, and for Python: what would be run, and on how many cores
    "scontrol": 'case "$1 $2" in "show hostnames") echo node7; echo node8;; "show job") echo "   JobState=$STATE x";; '
    '*) echo "$@";; esac',
    "srun": 'echo "cores ${SRUN_CPUS_PER_TASK-}"; while [[ $1 == --* ]]; do shift; done; SLURM_NODEID=1 "$@" & '
    "echo $! >step; [[ -z $TERM_SCRIPT ]] || kill -TERM $PPID; wait $!; echo $? >ended; exit $(cat ended)",
    "scancel": 'echo "$@"; kill -TERM $(cat step)',
    "python": 'echo "$NODE_RANK of $NNODES at $MASTER_ADDR:$MASTER_PORT: $@"; '
    "[[ -z $TERM_SCRIPT ]] || exec /bin/sleep 9; exit $STATUS",
    "sleep": "exec /bin/sleep 0.1",
}
JOB = {"JOB_ID": "40123", "JOB_NUM_NODES": "2", "JOB_NODELIST": "node[7-8]", "NTASKS": "2"}


def slurm(tmp_path, *arguments, status=0, state="RUNNING", more=(), **variables):
    """(exit status, lines) of scripts/train_slurm.sh with stand-ins, from another folder as sbatch's copy is."""
    for name, body in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = shutil.copy(ROOT / "scripts" / "train_slurm.sh", tmp_path / "slurm_script")
    env = {f"SLURM_{name}": value for name, value in {**JOB, **variables}.items()}
    env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NODE_RANK": "", "STATUS": str(status), "STATE": state}
    env |= {"TERM_SCRIPT": ""}
    done = subprocess.run(
        [script, "quickstart", "--work-dir", *arguments],
        cwd=tmp_path, env={**env, **dict(more)}, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("variables", "processes"),
    [({"GPUS_ON_NODE": "4", "CPUS_PER_TASK": "96"}, 4), ({"GPUS_ON_NODE": "2"}, 2), ({}, 1)],
)
def test_slurm_starts_one_launcher_a_node(tmp_path, variables, processes):
    status, lines = slurm(tmp_path, "w", "--cfg-options", "seed=1", status=3, **variables)
    assert status == 3
    assert lines == [
        f"cores {variables.get('CPUS_PER_TASK', '')}",
        f"1 of 2 at node7:20123: -m dali_mix.cli.launch --nproc {processes} -- train quickstart --resume=auto "
        "--work-dir w --cfg-options seed=1",
    ]


def test_slurm_takes_a_task_for_a_rank_where_there_are_several_a_node(tmp_path):
    _, lines = slurm(tmp_path, "w", NTASKS="4", GPUS_ON_NODE="2")
    assert lines[1:] == [" of 2 at node7:20123: -m dali_mix train quickstart --resume=auto --work-dir w"]


@pytest.mark.parametrize("written", ["runs/$SLURM_ARRAY_TASK_ID/$SLURM_JOB_ID", "runs/${SLURM_ARRAY_TASK_ID}/40123"])
def test_slurm_arrays(tmp_path, written):
    _, lines = slurm(tmp_path, written, ARRAY_TASK_ID="7")
    assert lines[1].endswith(" --work-dir runs/7/40123")


@pytest.mark.parametrize(
    ("status", "options", "requeued"),
    [
        (75, {}, True),
        (75, {"RESTART_COUNT": "99"}, True),
        (75, {"RESTART_COUNT": "100"}, False),
        (75, {"more": {"MAX_RESTARTS": "0"}}, False),
        (75, {"state": "COMPLETING Reason=None"}, False),
        (75, {"state": "COMPLETING Reason=TimeLimit"}, True),
        *((status, {}, False) for status in (0, 1, 2, 3, 130)),
    ],
)
def test_slurm_requeues_after_saving_alone(tmp_path, status, options, requeued):
    found, lines = slurm(tmp_path, "w", status=status, **options)
    assert found == status
    assert (lines[-1] == "requeue 40123") == requeued


@pytest.mark.parametrize(
    ("python", "task", "script"), [(1, 201, 1), (2, 202, 2), (3, 3, 3), (75, 75, 75), (143, 75, 75)]
)
def test_slurm_an_error_of_one_task_is_above_75_of_the_others(tmp_path, python, task, script):
    """srun ends with the highest status of its tasks. 143: SIGTERM while Python itself starts."""
    assert slurm(tmp_path, "w", status=python)[0] == script
    assert (tmp_path / "ended").read_text() == f"{task}\n"


def test_slurm_sigterm_for_the_script_alone_ends_the_step_and_requeues(tmp_path):
    status, lines = slurm(tmp_path, "w", more={"TERM_SCRIPT": "1"})
    assert status == 75
    assert "--signal=TERM 40123" in lines
    assert lines[-1] == "requeue 40123"


def test_doctor(sets, capsys):
    assert main(["doctor", sets["digits_val"]]) == 0
    shown = capsys.readouterr().out
    for word in ("torch", "DALI", "disk", "one batch", "359 records"):
        assert word in shown
    assert main(["doctor", "/nowhere/set"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_doctor_on_sets_of_other_tasks(tmp_path, capsys):
    box = [1, 0.4, 0.4, 0.6, 0.6, 0]  # in the middle, so that no crop loses it
    cases = {
        "detection": ([[2, 6, *box, *box], [2, 6], [2, 6, *box]], "3 boxes carried along"),
        "multilabel": ([[1, 1], [0, -1], [0, 1]], "3 positive labels"),
    }
    for task, (labels, found) in cases.items():
        prefix = str(tmp_path / task)
        write_set(prefix, [(encoded("JPEG", 30, 50), label) for label in labels], task=task, classes="ab")
        findings = doctor.Findings()
        findings.guard(prefix, lambda checked, prefix=prefix: doctor.check_set(checked, prefix))
        assert findings.broken == 0
        assert f"3 records, 2 classes, {task}; a batch (3, 3, 224, 224) with {found}" in capsys.readouterr().out
