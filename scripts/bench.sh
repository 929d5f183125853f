#!/usr/bin/env bash
# Run every benchmark. Libraries to compare with that are not installed are skipped and named. Tables are printed, and
# JSON is written to docs/benchmarks/.
set -euo pipefail
cd "$(dirname "$0")/.."
for benchmark in benchmarks/[a-z]*.py; do
    printf '\n== %s\n' "$benchmark"
    python "$benchmark"
done
