#!/usr/bin/env bash
# Train a recipe on the nodes of a Slurm job: any number of them, with or without GPUs.
#SBATCH --job-name=dali_mix
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
stopped=
trap stopped=1 TERM

usage() {
    cat <<'END'
Usage: sbatch [sbatch options] scripts/train_slurm.sh RECIPE --work-dir DIR [options of `dali-mix train`]

  sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=24:00:00 \
      scripts/train_slurm.sh imagenet/resnet50:resizemix --work-dir work_dirs/r50

Submit it from any folder; relative paths are relative to that folder, and DIR must be on a disk that all nodes share.
With one task per node (the default), each node runs one process per GPU (--gres=gpu:2, --gpus-per-node=2, --gpus=2), or one
if it has no GPUs. With several tasks per node (--ntasks-per-node=2 --gpus-per-task=1), every task is one process.

$SLURM_ARRAY_TASK_ID, $SLURM_ARRAY_JOB_ID and $SLURM_JOB_ID in single quotes are replaced in the job:
  sbatch --array=0-4 scripts/train_slurm.sh quickstart --work-dir 'runs/$SLURM_ARRAY_TASK_ID' \
      --cfg-options 'seed=$SLURM_ARRAY_TASK_ID'

--resume=auto is added. 180 s before the time limit, Slurm sends SIGTERM: every process finishes its step, one saves, and the
job requeues itself and continues from there. Any other SIGTERM has the same effect, except that of scancel. After an error
the job is never requeued. Variables in the environment of sbatch:
  MAX_RESTARTS  how often the job may be requeued     (default 100; 0: never)
  NPROC         processes per node with one task      (default: its GPUs, or 1)
  PYTHON        the interpreter that has dali_mix     (default python)
  MASTER_ADDR   the first node's address              (default: its name)
END
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
    usage
    exit 0
fi
if (($# < 1)); then
    usage >&2
    exit 2
fi
: "${SLURM_JOB_ID:?train_slurm.sh: start it with sbatch (see --help)}"

arguments=()
for argument in "$@"; do
    for name in SLURM_ARRAY_TASK_ID SLURM_ARRAY_JOB_ID SLURM_JOB_ID; do
        if [[ -n ${!name-} ]]; then
            argument=${argument//"\${$name}"/${!name}}
            argument=${argument//"\$$name"/${!name}}
        fi
    done
    arguments+=("$argument")
done
command=(train "${arguments[0]}" --resume=auto "${arguments[@]:1}")

export PYTHON=${PYTHON:-python}
export NNODES=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # not piped into `head`: a broken pipe would end the script
export MASTER_ADDR=${MASTER_ADDR:-${hosts%%$'\n'*}}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))} # jobs on one machine use different ports
# Since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch. Without this, every task would run on one core.
if [[ -n ${SLURM_CPUS_PER_TASK-} ]]; then
    export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}
fi

# Wait for the child PID and return its status. From the first SIGTERM on, run COMMAND every second until the child ends,
# because a single SIGTERM may arrive before the step, or Python, can handle it. Do not `wait` at once: bash 5.2 loses the
# child's status if it is interrupted while the child ends.
follow() { # PID COMMAND
    while kill -0 "$1"; do
        [[ -z $stopped ]] || "${@:2}" || true
        sleep 1
    done
    wait "$1"
} 2>/dev/null # hides the error of `kill -0` for an ended child, and bash's notes on children that SIGTERM ended

# Runs in the step, around each task's program. Python exits with 143 if SIGTERM arrives before its handler is installed;
# this becomes 75. srun returns the highest status of its tasks, so the statuses of errors, 1 and 2, become 201 and 202: above
# 75, and above 143 in case SIGTERM ends a task before its shell has started.
task() {
    stopped=
    trap stopped=1 TERM
    "$@" &
    local status=0
    follow $! kill -TERM $! || status=$?
    case $status in
        143) exit 75 ;;
        1 | 2) exit $((status + 200)) ;;
        *) exit "$status" ;;
    esac
}
# shellcheck disable=SC2016  # expanded in the step
if ((${SLURM_NTASKS:-$NNODES} > NNODES)); then # each task is a rank
    options=()
    program='task "$PYTHON" -m dali_mix "$@"'
else # each task starts the ranks of its node; the number of GPUs and NODE_RANK are known only inside it
    options=(--nodes="$NNODES" --ntasks="$NNODES" --ntasks-per-node=1 --cpu-bind=none)
    program='export NODE_RANK=$SLURM_NODEID
        task "$PYTHON" -m dali_mix.cli.launch --nproc "${NPROC:-${SLURM_GPUS_ON_NODE:-1}}" -- "$@"'
fi
# --kill-on-bad-exit: an error ends all nodes.
srun --kill-on-bad-exit=1 "${options[@]}" bash -c "$(declare -f follow task)
$program" task "${command[@]}" &
status=0
# SIGTERM may be sent only to this script (--signal=B:TERM@180). Forward it to the ranks, not to srun, which would kill them.
follow $! scancel --signal=TERM "$SLURM_JOB_ID" || status=$?
case $status in
    143) status=75 ;;
    201 | 202) status=$((status - 200)) ;;
esac

if ((status == 75)); then # stopped by SIGTERM, after saving or before the first step
    job=$(scontrol show job "$SLURM_JOB_ID")
    if [[ $job != *JobState=RUNNING* && $job != *Reason=TimeLimit* ]]; then # scancel, or requeued already
        echo "train_slurm.sh: stopped; Slurm has ended the job, so it is not requeued from here"
    elif ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-100})); then
        echo "train_slurm.sh: stopped; requeued ${SLURM_RESTART_COUNT:-0} times, the maximum set by MAX_RESTARTS" >&2
    else
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
