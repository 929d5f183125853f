#!/usr/bin/env bash
# Train a recipe with several processes: one per GPU, or CPU processes if there is no GPU.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/train_dist.sh RECIPE NPROC [options of `dali-mix train`]

  scripts/train_dist.sh cifar10/wrn28_10:resizemix 2 --work-dir work_dirs/run [--resume] [--cfg-options k=v ...]

RECIPE  a bundled recipe (`dali-mix recipes`) or a .py file
NPROC   processes on this machine; the recipe's global batch_size must be divisible by the total number of processes

Several machines: start the same command on each, with
  NNODES        number of machines                    (default 1)
  NODE_RANK     0 to NNODES-1, different on each      (needed when NNODES > 1)
  MASTER_ADDR   address of the machine with rank 0    (needed when NNODES > 1)
  MASTER_PORT   a free port of that machine           (default 29500)
The --work-dir must then be on a shared disk. If ranks are missing after DALI_MIX_JOIN_SECONDS (default 35), the run ends
with a message that names them.

OMP_NUM_THREADS defaults to this machine's cores divided by NPROC. PYTHON is the interpreter (default python).

Exit status: 0 if all processes finish. If one fails, the others end too, the error is shown once, and the status is not 0.
SIGTERM is forwarded: every process finishes its step, one saves, the status is 75, and --resume continues from there.
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
    echo "train_dist.sh: NPROC must be an integer of at least 1, not '$processes'" >&2
    exit 2
fi
exec "${PYTHON:-python}" -m dali_mix.cli.launch --nproc "$processes" -- train "$recipe" "$@"
