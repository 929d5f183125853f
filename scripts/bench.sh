#!/usr/bin/env bash
# Runs every benchmark; other libraries that are not installed are skipped and listed. Tables are printed, JSON goes to docs/benchmarks/.
set -euo pipefail
cd "$(dirname "$0")/.."
for benchmark in benchmarks/[a-z]*.py; do
    printf '\n== %s\n' "$benchmark"
    python "$benchmark"
done
