"""scripts/train_slurm.sh, with stand-ins for Slurm's programs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {  # stand-ins for Slurm's programs, and for Python; they print what would run, and on how many cores
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
    """Run a copy of scripts/train_slurm.sh with stand-ins, as sbatch does; return (exit status, output lines)."""
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
def test_slurm_starts_one_launcher_per_node(tmp_path, variables, processes):
    status, lines = slurm(tmp_path, "w", "--cfg-options", "seed=1", status=3, **variables)
    assert status == 3
    assert lines == [
        f"cores {variables.get('CPUS_PER_TASK', '')}",
        f"1 of 2 at node7:20123: -m dali_mix.cli.launch --nproc {processes} -- train quickstart --resume=auto "
        "--work-dir w --cfg-options seed=1",
    ]


def test_slurm_with_several_tasks_per_node_runs_task_as_rank(tmp_path):
    _, lines = slurm(tmp_path, "w", NTASKS="4", GPUS_ON_NODE="2")
    assert lines[1:] == [" of 2 at node7:20123: -m dali_mix train quickstart --resume=auto --work-dir w"]


@pytest.mark.parametrize("written", ["runs/$SLURM_ARRAY_TASK_ID/$SLURM_JOB_ID", "runs/${SLURM_ARRAY_TASK_ID}/40123"])
def test_slurm_expands_job_variables_in_work_dir(tmp_path, written):
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
def test_slurm_requeues_only_after_status_75(tmp_path, status, options, requeued):
    found, lines = slurm(tmp_path, "w", status=status, **options)
    assert found == status
    assert (lines[-1] == "requeue 40123") == requeued


@pytest.mark.parametrize(
    ("python", "task", "script"), [(1, 201, 1), (2, 202, 2), (3, 3, 3), (75, 75, 75), (143, 75, 75)]
)
def test_slurm_error_status_outranks_75(tmp_path, python, task, script):
    """srun ends with the highest status of its tasks, so a task adds 200 to status 1 or 2, and the script subtracts it.

    Status 143 means that SIGTERM arrived while Python itself was starting.
    """
    assert slurm(tmp_path, "w", status=python)[0] == script
    assert (tmp_path / "ended").read_text() == f"{task}\n"


def test_slurm_sigterm_to_script_ends_step_and_requeues(tmp_path):
    status, lines = slurm(tmp_path, "w", more={"TERM_SCRIPT": "1"})
    assert status == 75
    assert "--signal=TERM 40123" in lines
    assert lines[-1] == "requeue 40123"


@pytest.mark.parametrize("answers", [True, False])
def test_service_script_waits_for_pool(tmp_path, answers):
    """The script in docs/service.md, run with stand-ins, starts training only after the pool has answered."""
    text = (ROOT / "docs/service.md").read_text(encoding="utf-8")
    script = text[text.index("#!/bin/bash\n#SBATCH") :].partition("```")[0]
    assert "timeout 120 " in script
    asked = "test $(wc -l <asked) -ge 3" if answers else "false"
    programs = {
        "hostname": "echo 10.0.0.7 172.17.0.1",
        "dali-mix": f'if [[ $2 == --status ]]; then echo "$3" >>asked; {asked}; else echo "$@" >>log; fi',
        "srun": 'echo "srun $@" >>log',
        "sleep": "exec /bin/sleep 0.01",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/train_dist.sh").write_text('#!/usr/bin/env bash\necho "train $@" >>log\n')
    (tmp_path / "scripts/train_dist.sh").chmod(0o755)
    script = script if answers else script.replace("timeout 120 ", "timeout 1 ")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{script}\nwait"], cwd=tmp_path, env=env, timeout=20, check=False)
    assert done.returncode == (0 if answers else 1)
    log = (tmp_path / "log").read_text().splitlines()
    assert log[0] == "serve --listen 10.0.0.7 --workers 28"
    assert sorted(line.split()[0] for line in log[1:]) == (["srun", "train"] if answers else [])
    assert {*(tmp_path / "asked").read_text().split()} == {"10.0.0.7:6379"}
