#!/usr/bin/env bash
# Run every benchmark. Libraries to compare with are skipped if they are not installed. Tables are printed, and JSON is
# written to docs/benchmarks/, except by cifar.py and gpu_train.py, which need --json or --out for it.
set -euo pipefail
cd "$(dirname "$0")/.."
for benchmark in benchmarks/[a-z]*.py; do
    printf '\n== %s\n' "$benchmark"
    python "$benchmark"
done
