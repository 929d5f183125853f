# make quickstart   sets up, packs, trains with a mixer, evaluates, leaves pictures   (DATASET=cifar10 for CIFAR-10)
# make test         sets up, then lint, types, import contract, the site and all tests that need no GPU
# make test-lowest  the tests without a GPU, with the lowest versions that setup.py allows, in build/lowest
# make test-gpu     the tests that need a GPU
# make bench        the benchmarks, against the peers that are installed
# make docs         the site, in build/site
# make pictures     the pictures of docs/mixers and docs/pipelines
PYTHON  ?= python3
unexport PYTHON # to scripts it names the interpreter that has dali_mix
VENV    ?= .venv
DATASET ?= digits
EXTRAS  ?= vis,service,dev,docs
BIN      = $(VENV)/bin
# Building an editable install warns about itself; that would look like a failure.
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

# Where libGL is missing, the build of OpenCV without windows.
define cv2
$(BIN)/python -c 'import cv2' 2>/dev/null || $(PIP) install --quiet --force-reinstall --no-deps -c $(1) opencv-python-headless
endef

quickstart: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" scripts/quickstart.sh $(DATASET)

lint: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/lint.sh

# Fails on a broken link, a page outside the navigation, a public name without a docstring. Needs no network.
# Not --quiet: it hides from --strict what --strict counts.
docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two files at a time where there are two cores. As dali-mix sets it: idle threads leave the cores to others.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: export GOMP_SPINCOUNT ?= 1000
# The service's tests run apart: Ray, once imported, is in the way of tests that fork. `make test EXTRAS=vis,dev` in a new
# environment goes without them.
test: lint docs
	$(PYTEST) -m "not gpu" --ignore tests/service
	$(PYTEST) -m "not gpu" tests/service

# The lowest versions, in an environment of their own. Left out: with torch 2.9 a faked GPU asks for a driver.
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
