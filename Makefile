# Two commands do everything: `make quickstart` and `make test`. Both bootstrap what they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/literary-alpaca
UV_VERSION := 0.13.9
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# triton is of no use without a GPU, and has a gigabyte.
SYNC := $(UV) sync --frozen --quiet --compile-bytecode --no-install-package triton
# Tests train matrices that gain nothing from a second thread, and run side by side.
export OMP_NUM_THREADS ?= 1

IMAGE_PREFIX ?= registry.invalid/literary-alpaca
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILDER ?= $(firstword $(notdir $(shell command -v docker podman buildah 2>/dev/null)) docker)
PYTEST_ARGS ?=
WORKERS ?= 2

.PHONY: help quickstart run test test-programs lint unit benchmarks drills cluster-test generate golden verify images cluster-up cluster-down install deploy undeploy

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

quickstart: $(VENV)/.train ## From vocabulary to 4 bits on a tiny Llama, offline, on a CPU, in minutes; and what was gained
	@$(RUN) -m examples.quickstart

run: $(VENV)/.all ## Run the operator on this machine against the cluster of your KUBECONFIG
	@$(RUN) -m alpaca_operator

test: verify test-programs unit benchmarks cluster-test ## Everything: formatting, types, drift, unit tests, real training, a real Kubernetes node

# What tests run on is built before them: a test has a limit of time, a build takes as long as the machine is busy.
BUILDS := built-control-plane built-pages built-node built-docker built-peer
NODE := $(if $(ALPACA_TEST_CLUSTER),,built-node)
DOCKER := $(if $(ALPACA_TEST_CLUSTER),,built-docker)
.PHONY: $(BUILDS)

test-programs: built-control-plane built-pages $(NODE) ## What the tests run on, built once: Kubernetes, a browser, the images (10 minutes on two cores)

$(BUILDS): built-%: $(VENV)/.all
	@echo "== what tests run on: $*"
	@$(RUN) -m tests.cluster.bed build $*

unit: built-control-plane built-pages ## The tier that needs no node and no root
	@echo "== tests without a node"
	@$(RUN) -m pytest -m "not cluster and not drill" --ignore tests/benchmarks -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

benchmarks: built-control-plane ## The figures, each a ratio to a baseline of the same run; nothing runs beside them
	@echo "== benchmarks"
	@$(RUN) -m pytest tests/benchmarks -m "not drill" -s $(PYTEST_ARGS)

drills: built-peer $(NODE) $(DOCKER) ## What takes longer: several nodes that lose each other; the peers, in one run with ours (root; an hour, and more to build)
	@echo "== drills: several nodes, the peers, and what is large"
	@$(RUN) -m pytest -m drill -s $(PYTEST_ARGS)

cluster-test: $(NODE) $(VENV)/.all ## The tests on a real node (root), or on yours with ALPACA_TEST_CLUSTER=existing
	@echo "== tests on a real node"
	@$(RUN) -m pytest -m "cluster and not drill" $(PYTEST_ARGS)

lint: $(VENV)/.all ## Formatting, types and import contracts
	@echo "== ruff, mypy, import-linter"
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check . || { echo "run: $(VENV)/bin/ruff format ."; exit 1; }
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache | tail -n 8

generate: $(VENV)/.all ## Write manifests/crd and docs/api.md from the typed models
	@$(RUN) -m alpaca_operator.api.crd manifests/crd
	@$(RUN) -m alpaca_operator.api.docs docs/api.md

golden: $(VENV)/.all ## Write tests/golden anew; read the diff before you commit it
	@$(RUN) -m tests.golden

verify: lint ## Generated files are what the models say, the lock is what pyproject says
	@echo "== generated files"
	@scratch=$$(mktemp -d); trap 'rm -rf $$scratch' EXIT; \
	$(RUN) -m alpaca_operator.api.crd $$scratch; $(RUN) -m alpaca_operator.api.docs $$scratch/api.md; \
	diff -r -x api.md $$scratch manifests/crd && diff $$scratch/api.md docs/api.md \
	|| { echo "generated files have drifted from operator/alpaca_operator/api: run make generate and commit"; exit 1; }

images: ## Build the container images (BUILDER=docker|podman|buildah, BASE=…, IMAGE_PREFIX=…, IMAGE_TAG=…)
	@for image in operator train quantize chat; do \
	  $(BUILDER) build $(if $(BASE),--build-arg BASE=$(BASE)) -t $(IMAGE_PREFIX)/$$image:$(IMAGE_TAG) -f images/$$image/Containerfile .; done

cluster-up: $(VENV)/.all ## Bring up a real Kubernetes node in namespaces of its own (root), and print its KUBECONFIG
	@$(RUN) -m tests.cluster.bed up

cluster-down: $(VENV)/.all ## Take that node down; nothing is left behind
	@$(RUN) -m tests.cluster.bed down

install: ## Install the CRDs into the cluster of your KUBECONFIG
	kubectl apply --server-side -f manifests/crd

deploy: ## Install CRDs, RBAC and the operator into the cluster of your KUBECONFIG
	kubectl apply --server-side -k manifests/default

undeploy: ## Remove the operator, its RBAC and the CRDs, and with them every job
	kubectl delete --ignore-not-found -k manifests/default

$(UV):
	@echo "== uv $(UV_VERSION) into $(CACHE)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION) 2>/dev/null || { rm -rf $(CACHE)/uv-$(UV_VERSION); $(PYTHON) -m venv --without-pip $(CACHE)/uv-$(UV_VERSION); }
	@if [ -x $(CACHE)/uv-$(UV_VERSION)/bin/pip ]; then $(CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	else $(PYTHON) -m pip install --quiet --disable-pip-version-check --prefix $(CACHE)/uv-$(UV_VERSION) uv==$(UV_VERSION); fi

$(VENV)/.train: pyproject.toml uv.lock | $(UV)
	@echo "== packages for training (about 3 GB the first time)"
	@$(SYNC) --inexact --no-default-groups --extra quantize --extra corpus
	@touch $@

$(VENV)/.all: pyproject.toml uv.lock | $(UV)
	@echo "== packages for training, operator and tests (about 3 GB the first time)"
	@$(SYNC) --extra operator --extra quantize --extra corpus --extra serve --extra chat --group models
	@touch $@ $(VENV)/.train
