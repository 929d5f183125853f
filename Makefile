# make quickstart   sets up, packs, trains with a mixer, evaluates, draws pictures   (DATASET=cifar10 for CIFAR-10)
# make test         sets up, then runs lint, type checks, the import contract, the site build and all tests that need no GPU
# make test-lowest  the tests that need no GPU, with the lowest versions that setup.py allows, in build/lowest
# make test-gpu     the tests that need a GPU
# make bench        the benchmarks, compared with other libraries that are installed
# make docs         the site, in build/site
# make pictures     the pictures of docs/mixers and docs/pipelines
PYTHON  ?= python3
unexport PYTHON # in scripts/, PYTHON is the interpreter that has dali_mix installed
VENV    ?= .venv
DATASET ?= digits
EXTRAS  ?= vis,service,dev,docs
BIN      = $(VENV)/bin
# Building an editable install prints a warning that looks like a failure.
PIP      = PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check
INSTALL  = PYTHONWARNINGS=ignore $(BIN)/python scripts/pip_install.py

.PHONY: setup quickstart test test-lowest test-gpu lint docs format bench pictures clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py .ci/constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else f"dali_mix needs Python 3.11 to 3.14, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	@echo "Installing into $(VENV): 3.8 GB to download, 7.7 GB on disk, three to ten minutes"
	$(INSTALL) -c .ci/constraints.txt -e ".[vis]"
	$(call cv2,.ci/constraints.txt)
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(INSTALL) -c .ci/constraints.txt -e ".[$(EXTRAS)]"
	touch $@

# Without libGL, cv2 cannot be imported: install OpenCV's headless build over it.
define cv2
$(BIN)/python -c 'import cv2' 2>/dev/null || $(PIP) install --quiet --force-reinstall --no-deps -c $(1) opencv-python-headless
endef

quickstart: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" scripts/quickstart.sh $(DATASET)

lint: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/lint.sh

# Fails on a broken link, a page outside the navigation, a public name without a docstring. Needs no network.
# Not --quiet: it hides the warnings that --strict counts.
docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Test files run in parallel, one per core and at most four at a time.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: export GOMP_SPINCOUNT ?= 1000
# GOMP_SPINCOUNT as set by dali-mix: idle threads of torch leave the cores to other processes. The service's tests run
# separately, since importing Ray disturbs tests that fork; without Ray (`EXTRAS=vis,dev,docs` in a new environment) they
# are skipped.
test: lint docs
	$(PYTEST) -m "not gpu" --ignore tests/service
	$(PYTEST) -m "not gpu" tests/service

# Tests with the lowest versions, in a separate environment. test_fake_gpu.py is left out: with torch 2.9, its simulated
# GPU needs an NVIDIA driver.
test-lowest: export GOMP_SPINCOUNT ?= 1000
test-lowest: VENV = build/lowest
test-lowest:
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) .ci/floors.py > $(VENV)/floors.txt
	$(INSTALL) -c $(VENV)/floors.txt -e ".[vis,bert,dev]"
	$(call cv2,$(VENV)/floors.txt)
	$(PYTEST) -m "not gpu" --ignore tests/mixers/test_fake_gpu.py --ignore tests/service

test-gpu: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/bench.sh

pictures: $(VENV)/.ready-dev
	$(BIN)/python docs/mixers/pictures.py
	$(BIN)/python docs/pipelines/pictures.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
