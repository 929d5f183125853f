#!/usr/bin/env bash
# Trains a recipe on one or several Slurm nodes; one torchrun a node, one process a GPU.
#SBATCH --job-name=dali_mix
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

usage() {
    cat <<'END'
Usage: sbatch [sbatch options] scripts/train_slurm.sh RECIPE --work-dir DIR [options of `dali-mix train`]

  sbatch --nodes=2 --gpus-per-node=8 scripts/train_slurm.sh imagenet/resnet50_resizemix --work-dir work_dirs/r50

Run it from the repository's root, with DIR on a disk all nodes share. Options of sbatch override those in the file.
--resume=auto is added: a job that Slurm requeues goes on from its newest checkpoint. 180 s before the time limit Slurm
sends SIGTERM: every process finishes its step, one saves. With REQUEUE=1 in the environment the job then puts itself
back into the queue.
PYTHON names the interpreter (default python); NPROC the processes a node (default: its GPUs).
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

processes=${NPROC:-${SLURM_GPUS_ON_NODE:-1}}
NNODES=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Jobs on one machine get ports of their own.
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export NNODES MASTER_ADDR MASTER_PORT
# Since Slurm 22.05 srun does not take --cpus-per-task over from sbatch: every node would run on one core.
if [[ -n ${SLURM_CPUS_PER_TASK-} ]]; then
    export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}
fi

recipe=$1
shift
status=0
started=$SECONDS
# NODE_RANK is known only inside of the task that srun starts on each node. --kill-on-bad-exit: a crash ends all nodes.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec scripts/train_dist.sh "$@"' train_dist \
    "$recipe" "$processes" --resume=auto "$@" || status=$?

# Short runs that fail are broken, not preempted: they are not put back.
if ((status != 0 && SECONDS - started > 600)) && [[ ${REQUEUE-0} == 1 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
