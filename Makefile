# serve_app: `make run` serves a real model, `make test` runs every test. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

DEVICE ?= auto
# The first of these that runs and is new enough makes .venv; after that .venv's own is used.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV_PYTHON := .venv/bin/python
BIN := .venv/bin
PORT ?=
HAPROXY ?= 1
VERBOSE ?=
CONFIG ?=
PYTEST_ARGS ?=
MINUTES ?= 60
WORKERS ?= 2
TORCH_INDEX_URL ?=
export TORCH_INDEX_URL
export MAKE_TARGET := $(firstword $(MAKECMDGOALS))
# Ours are the only imports; a PYTHONPATH from outside would mix packages of two environments.
unexport PYTHONPATH

SETUP = $(if $(PYTHON),$(PYTHON),$(error Python 3.11 or newer is needed and was not found; name it: make $@ PYTHON=/path/to/python3)) tools/setup_env.py --device $(DEVICE)
RUN = $(VENV_PYTHON) -m tools.run $(if $(PORT),--port $(PORT)) $(if $(filter 0 no off false,$(HAPROXY)),--no-haproxy) $(if $(VERBOSE),--verbose)
CHECKED := serve_app tools tests $(wildcard benchmarks)

##@ Use
.PHONY: help setup run serve-simulated
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-zA-Z_-]+:.*## / {printf "  make %-26s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nSettings: DEVICE=cpu|gpu  PORT=8001  HAPROXY=0  VERBOSE=1  CONFIG=configs/app.yaml  PYTEST_ARGS="-k name"  WORKERS=0\n'

setup: ## Make .venv with the pinned requirements for this machine (CPU or GPU)
	@$(SETUP)

run: setup ## Serve a real model at http://127.0.0.1:8000, everything included
	@$(RUN) $(CONFIG)

serve-simulated: setup ## Serve the simulated engine: no model, no GPU, hardly any CPU
	@$(RUN) configs/simulated.yaml

##@ Develop
.PHONY: setup-dev models system-packages node-packages test test-all test-unit lint format check lock proto screenshots pre-commit
setup-dev:
	@$(SETUP) --dev

models: setup ## Make the demo model and the tiny test model in models/
	@$(VENV_PYTHON) -m tools.demo_model
	@$(VENV_PYTHON) -m tools.tiny_model

system-packages: setup-dev ## Install nginx and Chromium, which tests of proxies and web page need (Debian, as root)
	@$(VENV_PYTHON) -m tools.system_packages

node-packages: setup-dev ## Install workerd, in which tests run the Cloudflare Worker
	@$(VENV_PYTHON) -m tools.node_packages

test: setup-dev models system-packages node-packages ## Run the tests, those with the real engine included
	@$(BIN)/pytest -n $(WORKERS) -m 'not nightly' $(PYTEST_ARGS)

test-all: setup-dev models system-packages node-packages ## Run every test: also what waits for a minute and more
	@$(BIN)/pytest -n $(WORKERS) $(PYTEST_ARGS)

test-unit: setup-dev ## Run the tests that start neither Ray nor an engine
	@$(BIN)/pytest -n $(WORKERS) -m 'not integration and not slow and not nightly' tests/unit tests/architecture tests/simulation $(PYTEST_ARGS)

lint: setup-dev ## Check style, types, import layers and module sizes
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy $(CHECKED)
	$(BIN)/lint-imports
	$(VENV_PYTHON) -m tools.module_sizes $(CHECKED)

format: setup-dev ## Format the code and apply the safe fixes
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

check: lint test ## What a change must pass: lint and test

lock: setup-dev ## Resolve pyproject.toml anew into requirements/*.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(VENV_PYTHON) -m tools.lock

proto: setup-dev ## Generate the Python code of serve_app/ingress/grpc/proto/*.proto anew
	@$(VENV_PYTHON) -m tools.proto

screenshots: setup-dev ## Take the pictures of the chat page in docs/images anew, from a server that runs
	@$(VENV_PYTHON) -m tools.page_screenshots $(if $(PORT),--url http://127.0.0.1:$(PORT)/)

pre-commit: setup-dev ## Run `make lint` before each commit from now on
	$(BIN)/pre-commit install

##@ Measure
.PHONY: bench bench-overhead bench-overhead-simulated bench-overload bench-overload-peers bench-slow-reader bench-stream-memory \
	bench-hostile soak
bench: bench-overhead-simulated bench-overhead ## Run all benchmarks

bench-overhead: setup-dev models ## CPU per streamed token beside vllm serve and Ray Serve LLM (real engine, tiny model)
	@$(VENV_PYTHON) -m benchmarks.overhead

bench-overhead-simulated: setup-dev ## CPU per streamed token on the simulated engine, under a minute
	@$(VENV_PYTHON) -m benchmarks.overhead_simulated

bench-overload: setup-dev ## Overload, cold start and failure in virtual time, beside baselines and an oracle
	@$(VENV_PYTHON) -m benchmarks.overload

bench-overload-peers: setup-dev models ## A step to twice the capacity beside vllm serve and Ray Serve LLM (real engine)
	@$(VENV_PYTHON) -m benchmarks.overload_peers

bench-slow-reader: setup-dev ## What a client that reads one byte a second costs 50 others
	@$(VENV_PYTHON) -m benchmarks.slow_reader

bench-stream-memory: setup-dev ## Memory of the router for each of 2,000 open streams
	@$(VENV_PYTHON) -m benchmarks.stream_memory

bench-hostile: setup-dev ## What a client that sends all that it should not costs 50 others, 5 minutes
	@$(VENV_PYTHON) -m benchmarks.hostile

soak: setup-dev ## An hour (MINUTES=60) of every protocol at 70 % load with kills: does anything grow or get lost?
	@$(VENV_PYTHON) -m benchmarks.soak --minutes $(MINUTES)

##@ Clean
.PHONY: clean distclean
clean: ## Remove caches and build output
	rm -rf build dist .bench .run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find serve_app tools tests benchmarks configs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## Remove .venv and models too
	rm -rf .venv models
