# Two commands matter: `make demo` and `make test`. Both set everything up, once.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-vllm slow-working slow-waiting prepare-tests prepare-nodes check bench bench-control bench-settled bench-retune bench-tuning bench-tasks bench-serving images lock audit sbom clean e2e soak cluster-up cluster-down mutate gpu-check

PYTHON ?= python3
BIN := .venv/bin
# Tests at once.
PROCESSES ?= 3
at-once = $(if $(filter-out 1,$(1)),-n $(1) --dist loadscope --no-loadscope-reorder)
# Others are not even collected: what they import takes each process half a minute.
WITH_SLOW_TESTS = $(sort $(shell grep -rl 'mark\.slow' tests --include="test_*.py"))
SOURCES := flows tasks serving demo tests requirements

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## Install uv into .tools and the locked packages into .venv (nothing to do when unchanged)
	@command -v $(PYTHON) >/dev/null || { echo "setup needs Python 3.9 or newer; there is no $(PYTHON) on PATH; install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) requirements/install.py

demo: setup ## Tune and serve a small model on this machine, from one Workspace file
	@$(BIN)/python -m demo.docstrings build/demo/python-docstrings.parquet --rows 320
	@$(BIN)/kaitoflow run deployments/examples/quickstart.yaml

test: check prepare-tests ## Run every check and every test, but those of make test-slow and make e2e
	$(BIN)/python -m pytest -m "not slow and not e2e" $(call at-once,$(PROCESSES))

test-slow: setup prepare-tests ## Run the tests that take long: kills, outages, whole runs
	@$(MAKE) --no-print-directory --jobs=2 slow-working slow-waiting

slow-working:
	$(BIN)/python -m pytest -m "slow and not e2e and not waits" $(call at-once,2) $(WITH_SLOW_TESTS)

# They mostly wait for deadlines, and leave the cores to those above meanwhile.
slow-waiting:
	$(BIN)/python -m pytest -m "slow and not e2e and waits" $(call at-once,2) $(WITH_SLOW_TESTS)

test-vllm: setup prepare-tests ## Run what holds for both engines against a real vLLM on the CPU (6 GB into build/vllm)
	@vllm="$$($(BIN)/python -m tests.serving.real_vllm)" && \
		KAITOFLOW_TEST_VLLM="$$vllm" $(BIN)/python -m pytest -m both_engines tests/serving

prepare-tests: setup ## Build what tests run against, once: a registry, Kubernetes, a small model, a browser
	@$(BIN)/python tests/cluster/build.py
	@$(BIN)/python -m tests.models
	@$(BIN)/python -m tests.browser

prepare-nodes: prepare-tests
	@$(BIN)/python tests/cluster/build.py coredns kubelet kube-proxy pause

e2e: prepare-nodes ## Run the tests that need a whole Kubernetes cluster, with nodes: as root, on Debian
	$(BIN)/python -m pytest -m e2e

check: setup ## Formatting, lint, types, import contracts and fresh locks
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python requirements/lock.py --check

bench: prepare-tests ## Run every benchmark of tests/bench
	@for bench in tests/bench/bench_*.py; do echo "== $$bench"; $(BIN)/python "$$bench"; done

bench-control: prepare-tests ## Run the control side's benchmark alone: 200 Workspaces on a real control plane
	@$(BIN)/python tests/bench/bench_control.py

bench-settled: prepare-tests ## Measure what 200 kept Workspaces cost, how soon what is deleted is told and back; fails out of bounds
	@$(BIN)/python tests/bench/bench_settled.py

bench-tuning: prepare-tests ## Measure the trainer beside TRL, well set and as it comes, and as KAITO runs it
	@$(BIN)/python tests/bench/bench_tuning.py

bench-retune: setup ## Measure from changed data to the answer of a promoted adapter, beside the demo's first run
	@$(BIN)/python tests/bench/bench_retune.py

bench-tasks: setup ## Tune on short labels and on conversations with the defaults; ask before and after
	@$(BIN)/python tests/bench/bench_tasks.py

bench-serving: setup ## Stand our server beside vLLM's, transformers' and llama.cpp's, in half an hour; QUICK=1 in five minutes
	@$(BIN)/python -m tests.models
	@$(BIN)/python tests/bench/bench_serving.py $(if $(QUICK),--quick)

soak: prepare-tests ## Let things happen to Workspaces for long; make soak MINUTES=30 WORKSPACES=50 KILLS=20 SEED=1
	@SOAK_MINUTES=$(or $(MINUTES),30) SOAK_WORKSPACES=$(or $(WORKSPACES),50) SOAK_KILLS=$(or $(KILLS),20) SOAK_SEED=$(or $(SEED),$$RANDOM) \
		$(BIN)/python -m pytest -q -s tests/flows/soak/test_soak.py

mutate: setup ## Break modules and see which breaks tests notice; make mutate MODULES="tasks/plan/*.py" N=10
	@$(BIN)/python -m tests.mutation.mutate --mutants $(or $(N),10) $(or $(MODULES),"tasks/plan/*.py")

gpu-check: setup ## Prove on this machine's GPU what only one can, in under 8 minutes; make gpu-check DRY=1 in small on a CPU
	@$(BIN)/python -m tests.gpu.check $(if $(DRY),--dry)

cluster-up: prepare-$(if $(NODE),nodes,tests) ## Start a Kubernetes control plane in the background; make cluster-up NODE=1 with nodes
	@$(BIN)/python -m tests.cluster.background up $(if $(NODE),--nodes)

cluster-down: ## Stop it and remove what it kept
	@$(BIN)/python -m tests.cluster.background down

images: ## Build the images by docker, podman or buildah; make images PUSH=REGISTRY sends them there
	@IMAGES="$(IMAGES)" PUSH="$(PUSH)" ENGINE="$(ENGINE)" BUILD_ARGS="$(BUILD_ARGS)" deployments/images/build.sh

lock: setup ## Write the locks anew; make lock UPGRADE=1 takes newer versions
	$(BIN)/python requirements/lock.py .tools/bin/uv $(if $(UPGRADE),--upgrade)

audit: setup ## Ask which locked packages have known vulnerabilities
	@$(BIN)/python requirements/audit.py

sbom: setup ## Write what is in the images into build/, as CycloneDX
	@$(BIN)/python requirements/sbom.py build

clean: ## Remove what was installed, built or cached in this checkout
	rm -rf .tools .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
