# Everything a newcomer or CI calls. `make` alone prints this file's targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
# A machine that has a torch of its own (CUDA, Python 3.12): make install VENV_ARGS=--system-site-packages
VENV_ARGS ?=
# Another build of torch: make install TORCH=torch==2.11.0 PIP_ARGS='--index-url ...'
TORCH ?= $(shell grep -m1 '^torch==' constraints-torch.txt)
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt constraints-torch.txt

.PHONY: help install install-dev demo test test-all test-containers lint format ui clean distclean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-15s %s\n", $$1, $$2 }'

install: $(VENV)/.installed ## environment in .venv with all that the demo needs

install-dev: $(VENV)/.installed-dev ## the same with what the tests and linters need

demo: install ## data to promoted student on real speech, then a table of results
	$(BIN)/mvqkd demo

test: install-dev lint ## linters and the default tests
	$(BIN)/python -m pytest -m "not slow" --durations=15 $(PYTEST_ARGS)

test-all: install-dev lint ## linters and every test: the slow ones, and those in containers
	$(BIN)/python -m pytest --durations=30 --ignore-glob='*/test_containers*' $(PYTEST_ARGS)
	$(BIN)/python -m tests.containers

test-containers: install-dev ## build the images (podman, root or MVQKD_BASE_IMAGE) and run the pipeline in them
	$(BIN)/python -m tests.containers

lint: install-dev ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install ## MLflow pages of runs and registered versions, on loopback
	$(BIN)/mvqkd ui

clean: ## remove artifacts and the record of them; keeps the registry and the environment
	rm -rf artifacts dvc.lock .dvc/cache .dvc/tmp build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean ## also remove the registry, its runs and the environment
	rm -rf mlflow.db* mlruns mlartifacts $(VENV)

# A stamp is newer than its inputs once pip has succeeded, so that a second `make install` does nothing.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV_ARGS) $(VENV)

# torch goes in first and alone: left to its dependents, pip may take a CUDA build of several gigabytes. A torch that
# the environment has already, and that is new enough, is kept.
$(VENV)/.torch: constraints-torch.txt | $(VENV)/bin/python
	@if $(BIN)/python -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' 2>/dev/null; \
	then echo "torch $$($(BIN)/python -c 'import torch; print(torch.__version__)') is here already: kept"; \
	else $(PIP) install $(PIP_ARGS) -c constraints.txt '$(TORCH)'; fi
	@touch $@

$(VENV)/.installed: $(INPUTS) $(VENV)/.torch
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[pipeline]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@
