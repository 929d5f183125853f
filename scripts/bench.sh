#!/usr/bin/env bash
# Runs every benchmark; peers that are not installed are left out and named. Tables are printed, JSON goes to docs/benchmarks/.
set -euo pipefail
cd "$(dirname "$0")/.."
for benchmark in benchmarks/[a-z]*.py; do
    printf '\n== %s\n' "$benchmark"
    python "$benchmark"
done
