#!/usr/bin/env bash
# Run every benchmark. Libraries to compare with are skipped if they are not installed. Tables are printed, and JSON is
# written to docs/benchmarks/, except by cifar.py, which writes it only with --json. gpu_train.py is not run: it needs a
# packed set.
set -euo pipefail
cd "$(dirname "$0")/.."
for benchmark in benchmarks/[a-z]*.py; do
    if [ "$benchmark" = benchmarks/gpu_train.py ]; then continue; fi
    printf '\n== %s\n' "$benchmark"
    python "$benchmark"
done
