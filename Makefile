# The index of everything one can do here: `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9

CONFIG    ?= configs/default.yaml
WORKSPACE ?= workspace
OVERLAY   ?= kind
UI_PORT   ?= 2746
# The first Python of these that is 3.11 or 3.12.
PYTHON    ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

VENV     := .venv
READY    := $(VENV)/.ready
PIPELINE := $(VENV)/bin/python -m mlpipeline
OPTIONS  := --config $(CONFIG) --workspace $(WORKSPACE)

##@ Use

.PHONY: run
run: $(READY) ## Run the whole pipeline: ingest, train, select, serve, verify, report. CONFIG= WORKSPACE=
	@$(PIPELINE) run $(OPTIONS)

.PHONY: serve
serve: $(READY) ## Serve the current model on 127.0.0.1:8080 until Ctrl-C. PORT=
	@$(PIPELINE) serve $(OPTIONS) $(if $(PORT),--port $(PORT))

.PHONY: predict
predict: $(READY) ## Say what the current model sees in an image. IMAGE=some.png
	@$(PIPELINE) predict $(OPTIONS) '$(IMAGE)'

.PHONY: clean
clean: ## Remove all artifacts of the workspace.
	rm -rf $(WORKSPACE)

##@ Kubernetes

.PHONY: cluster
cluster: ## Create a kind cluster of three nodes on this machine, if there is none.
	@mkdir -p workspace-kind && chmod 0777 workspace-kind # pods are not root: uid 1000
	@kind get clusters 2>/dev/null | grep -qx mlpipeline || kind create cluster --config kind-config.yaml
	@kubectl --context kind-mlpipeline wait nodes --all --for condition=Ready --timeout 180s

.PHONY: cluster-down
cluster-down: ## Delete the kind cluster. What pods wrote stays in workspace-kind/.
	kind delete cluster --name mlpipeline

.PHONY: deploy
deploy: ## Install Argo, the training operator, KServe and our namespace. OVERLAY=kind|gpu|cloud
	@manifests/deploy deploy $(OVERLAY)

.PHONY: undeploy
undeploy: ## Remove all of that from the cluster.
	@manifests/deploy undeploy

.PHONY: status
status: ## Say what runs in the cluster, and why something waits.
	@manifests/status show

.PHONY: logs
logs: ## Show the logs of the newest workflow and of its workers.
	@manifests/status logs

.PHONY: ui
ui: ## Open Argo's web page on 127.0.0.1 until Ctrl-C. UI_PORT=
	@manifests/status ui $(UI_PORT)

##@ Develop

.PHONY: check
check: $(READY) ## Lint, check types and the directions of imports.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: test
test: test-unit test-integration ## Run all tests.

.PHONY: test-unit
test-unit: $(READY) ## Run the quick, hermetic tests.
	$(VENV)/bin/pytest tests/unit

.PHONY: test-integration
test-integration: $(READY) ## Run the tests that start real processes.
	$(VENV)/bin/pytest tests/integration

.PHONY: bench
bench: $(READY) ## Measure what README states: trains configs/best.yaml too, so allow an hour.
	$(VENV)/bin/python -m benchmarks

##@ Environment

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11 or 3.12; name one: make PYTHON=..."; exit 1; }
	@if command -v uv >/dev/null; then uv venv --quiet --clear --python $(PYTHON) $(VENV); else \
		$(PYTHON) -m venv --clear $(VENV) && $(VENV)/bin/pip install --quiet uv==$(UV_VERSION); fi
	@uv=$$(command -v uv || echo $(VENV)/bin/uv); export VIRTUAL_ENV=$(VENV); \
		$$uv pip install --require-hashes -r requirements.lock; \
		$$uv pip install --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: $(READY) ## Resolve the dependencies anew.
	$$(command -v uv || echo $(VENV)/bin/uv) pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
