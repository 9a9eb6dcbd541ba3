# make demo   the whole job on a CPU: a concept from one picture, its sheet, an embedding and a LoRA
#             FAMILY=sdxl: on the miniature of SDXL
# make test   the tests, in two processes; WORKERS=1: in one
# make check  what CI runs: linter, type checker, tests
# make test-browser   the pages in headless chromium (apt-get install chromium chromium-driver); CI does not run it
# make test-ray       a batch on a local Ray cluster, which it installs; CI does not run it
#
# PYTHON=python3.12 make ...   another interpreter (3.11 or newer)
# PIP_ARGS="..."               more for pip, such as --extra-index-url

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# PyPI's torch for Linux brings 3 GB of CUDA with it; without an NVIDIA card, PyTorch's own CPU build is taken
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi)$(filter-out Linux,$(shell uname -s)),,https://download.pytorch.org/whl/cpu)

# offline is set before any import, or a model name that is not a folder costs 47 seconds of retries
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-browser test-ray check lint clean

FAMILY ?= sd
DEMO := output/demo$(if $(filter-out sd,$(FAMILY)),-$(FAMILY))

demo: $(VENV)/.run
	@# a finished demo is made anew, an interrupted one goes on
	test ! -e $(DEMO)/mexyz.safetensors || rm -rf $(DEMO)
	$(BIN)/python train_singleinsert.py --preset mini$(filter +sdxl,+$(FAMILY)) \
	    --pretrained_model_name_or_path mini-$(FAMILY) \
	    --image examples/portrait.png --output_dir $(DEMO) --output_name mexyz --resume_from_checkpoint latest

# each process takes one thread (tests/conftest.py) and up to 3 GB; a file's tests stay together, since they share runs
WORKERS ?= 2

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-browser: $(VENV)/.dev
	$(PIP) $(PIP_ARGS) -r requirements-ui.txt selenium
	$(BIN)/python -m pytest tests/test_mask_guard.py
	$(BIN)/python -m pytest -m browser

test-ray: $(VENV)/.dev
	$(PIP) $(PIP_ARGS) -r requirements-ray.txt
	$(BIN)/python -m pytest -m ray

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

$(VENV)/.run: requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --no-deps --retries 0 --timeout 10 --index-url $(TORCH_INDEX) torch \
	    || echo "PyTorch's CPU builds were not reached: the next step takes the build with CUDA")
	$(PIP) $(PIP_ARGS) -r requirements.txt
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(PIP) $(PIP_ARGS) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
