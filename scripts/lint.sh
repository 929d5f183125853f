#!/usr/bin/env bash
# Check style, formatting, types, the import contract and import cycles. `pipelines/` is mapped to dali_mix.pipelines at
# installation, which static tools cannot follow, so they read a copy of the package laid out as it is installed:
# build/lint/dali_mix.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
rm -rf build/lint
mkdir -p build/lint
cp -r dali_mix build/lint/dali_mix
cp -r pipelines build/lint/dali_mix/pipelines
cd build/lint
mypy --config-file ../../pyproject.toml --cache-dir ../mypy_cache -p dali_mix
# Also type-check code that is not installed: the examples and the documentation's scripts, except
# docs/pipelines/pictures.py, since mypy accepts only one module named pictures.
MYPYPATH=.:../../docs mypy --config-file ../../pyproject.toml --cache-dir ../mypy_cache ../../examples \
    ../../docs/mixers/pictures.py ../../docs/site/hooks.py
PYTHONPATH=. lint-imports --config ../../pyproject.toml --no-cache
PYTHONPATH=. python ../../.ci/cycles.py
