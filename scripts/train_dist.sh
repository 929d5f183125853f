#!/usr/bin/env bash
# Trains a recipe on several processes by torchrun, one a GPU (or CPU processes where there is none).
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/train_dist.sh RECIPE NPROC [options of `dali-mix train`]

  scripts/train_dist.sh cifar10/wrn28_10_resizemix 2 --work-dir work_dirs/run [--resume] [--cfg-options k=v ...]

RECIPE  a bundled recipe (`dali-mix recipes`) or a .py file
NPROC   processes on this machine; the recipe's batch_size is global and must divide by all processes

Several machines: start the same command on each, with
  NNODES        number of machines                    (default 1)
  NODE_RANK     0 to NNODES-1, another on each        (needed when NNODES > 1)
  MASTER_ADDR   address of the machine with rank 0    (needed when NNODES > 1)
  MASTER_PORT   a free port there                     (default 29500)
The --work-dir must then be on a disk they share.

OMP_NUM_THREADS, unless set, is this machine's cores divided by NPROC. PYTHON names the interpreter (default python).
TORCH_ELASTIC_SHUTDOWN_TIMEOUT (default 50): seconds from SIGTERM until torchrun kills what has not ended; the last step
and its checkpoint must fit in (torch versions that do not know the variable wait 30).

Exit status: 0 when all processes are done; not 0 as soon as one has failed: torchrun then ends the others, and the
error is told once for all. SIGTERM is handed on: every process finishes its step, one saves, the status is 75, and
--resume goes on from there.
END
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
    usage
    exit 0
fi
if (($# < 2)); then
    usage >&2
    exit 2
fi

recipe=$1
processes=$2
shift 2
if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
    echo "train_dist.sh: NPROC must be a whole number of at least 1, not '$processes'" >&2
    exit 2
fi

python=${PYTHON:-python}
nodes=${NNODES:-1}
if [[ $nodes == 1 ]]; then
    # A free port of its own for every run, so that two runs on one machine do not meet.
    where=(--standalone)
else
    : "${NODE_RANK:?train_dist.sh: NNODES is $nodes, set NODE_RANK to 0 ... $((nodes - 1))}"
    : "${MASTER_ADDR:?train_dist.sh: NNODES is $nodes, set MASTER_ADDR to the address of node 0}"
    where=(--nnodes "$nodes" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi

if [[ -z ${OMP_NUM_THREADS-} ]]; then
    cores=$(nproc)
    export OMP_NUM_THREADS=$((cores > processes ? cores / processes : 1))
fi

# How long torchrun waits after SIGTERM before it kills: for the step and the checkpoint, but under a minute after a crash.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-50}

exec "$python" -m dali_mix.cli.launch "${where[@]}" --nproc-per-node "$processes" --max-restarts 0 \
    -- train "$recipe" "$@"
