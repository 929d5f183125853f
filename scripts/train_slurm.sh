#!/usr/bin/env bash
# Trains a recipe on what a Slurm job got: any number of nodes, with or without GPUs.
#SBATCH --job-name=dali_mix
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

usage() {
    cat <<'END'
Usage: sbatch [sbatch options] scripts/train_slurm.sh RECIPE --work-dir DIR [options of `dali-mix train`]

  sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=24:00:00 \
      scripts/train_slurm.sh imagenet/resnet50:resizemix --work-dir work_dirs/r50

Submit it from any folder; relative paths are relative to that folder, and DIR must be on a disk that all nodes share.
One task a node (the default): one process a GPU of the node (--gres=gpu:2, --gpus-per-node=2, --gpus=2), one where there is
none. Several tasks a node (--ntasks-per-node=2 --gpus-per-task=1): every task is one process.

$SLURM_ARRAY_TASK_ID, $SLURM_ARRAY_JOB_ID and $SLURM_JOB_ID in single quotes are replaced in the job:
  sbatch --array=0-4 scripts/train_slurm.sh quickstart --work-dir 'runs/$SLURM_ARRAY_TASK_ID' \
      --cfg-options 'seed=$SLURM_ARRAY_TASK_ID'

--resume=auto is added. 180 s before the time limit Slurm sends SIGTERM: every process finishes its step, one saves, and the
job puts itself back into the queue and goes on from there, as it does after any other SIGTERM that was not a scancel. Other
errors never requeue. In the environment of sbatch:
  MAX_RESTARTS  how often the job may be requeued     (default 100; 0: never)
  NPROC         processes a node, with one task each  (default: its GPUs, or 1)
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
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # not into `head`: a broken pipe would end the script
export MASTER_ADDR=${MASTER_ADDR:-${hosts%%$'\n'*}}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))} # jobs on one machine get ports of their own
# Since Slurm 22.05 srun does not inherit --cpus-per-task from sbatch: every task would run on one core.
if [[ -n ${SLURM_CPUS_PER_TASK-} ]]; then
    export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}
fi

# --kill-on-bad-exit: an error ends all nodes.
if ((${SLURM_NTASKS:-$NNODES} > NNODES)); then # a task is a rank
    srun --kill-on-bad-exit=1 "$PYTHON" -m dali_mix "${command[@]}" &
else # a task starts the ranks of its node; the number of GPUs and NODE_RANK are known only in it
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=1 --nodes="$NNODES" --ntasks="$NNODES" --ntasks-per-node=1 --cpu-bind=none bash -c '
        export NODE_RANK=$SLURM_NODEID
        exec "$PYTHON" -m dali_mix.cli.launch --nproc "${NPROC:-${SLURM_GPUS_ON_NODE:-1}}" -- "$@"' \
        launch "${command[@]}" &
fi
step=$!
# Slurm may send SIGTERM to this script as well, or alone (--signal=B:TERM@180): the ranks get it (not srun, which would
# kill them), and are waited for.
trap 'scancel --signal=TERM "$SLURM_JOB_ID" 2>/dev/null || true' TERM
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # interrupted by the signal
    status=0
    wait "$step" || status=$?
done

if ((status == 75)); then # stopped by SIGTERM, after saving or before the first step
    job=$(scontrol show job "$SLURM_JOB_ID")
    if [[ $job != *JobState=RUNNING* && $job != *Reason=TimeLimit* ]]; then # scancel, or requeued already
        echo "train_slurm.sh: stopped; Slurm has ended the job, so it is not requeued from here"
    elif ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-100})); then
        echo "train_slurm.sh: stopped; requeued ${SLURM_RESTART_COUNT:-0} times, the most that MAX_RESTARTS allows" >&2
    else
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
