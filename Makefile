# Two commands on a fresh machine: `make quickstart` and `make test`. Neither needs root.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Under this folder everything that quickstart makes: clips, database.
QUICKSTART ?= quickstart
OUT ?= experiments/results
# So many test files run at once; they wait more than they work. The long tests run alone: they look at the whole machine.
TEST_PROCESSES ?= 3

.PHONY: help install quickstart test test-long check format docs bench gpu-check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## create .venv and install autotune into it

quickstart: install ## make sample clips, tune their loader on this machine, print the winning flags
	@$(BIN)/autotune clips make $(QUICKSTART)/clips
	@$(BIN)/autotune launch experiments/quickstart.yaml --data-dir $(QUICKSTART)/clips --storage sqlite:///$(QUICKSTART)/autotune.db

test: install ## run the tests; the long ones are in test-long
	@$(BIN)/python -m pytest -q -m "not long" -n $(TEST_PROCESSES) --dist loadfile

test-long: install ## run the tests that take long: studies and nodes under faults
	@$(BIN)/python -m pytest -q -m long

check: install ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## regenerate the command line reference
	$(BIN)/python -m autotune.cli.reference docs/cli.md

bench: install ## compare spdl_video with decode alone, the published stages and a DataLoader
	$(BIN)/python -m experiments.benchmarks.loaders

# WHEELS=DIR: without a network, from the wheels in DIR (docs/gpu.md); torch is the machine's own.
ifdef WHEELS
gpu-check: $(VENV)/.wheels
else
gpu-check: install
endif
gpu-check: ## prove the NVDEC path on this machine; writes to $(OUT)
	OUT=$(OUT) $(BIN)/python -m experiments.benchmarks.gpu_check

$(VENV)/.wheels: $(wildcard $(WHEELS)/*.whl)
	@test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps $^
	@touch $@

clean: ## remove what quickstart and the tools made (not the environment)
	rm -rf $(QUICKSTART) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
