# The index of everything one can do here: `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What bytecode saves: TensorFlow's import takes a third of the time.
unexport PYTHONDONTWRITEBYTECODE

UV_VERSION := 0.13.9
ACTIONLINT_VERSION := 1.7.12

CONFIG    ?= configs/default.yaml
WORKSPACE ?= workspace
OUTPUT    ?= edge
KEEP_RUNS ?= 50
OVERLAY   ?= kind
# Where the pipeline is in a cluster, and its name there: of what has no namespace, such as its volume.
NAMESPACE ?= mlpipeline
RELEASE   ?= $(NAMESPACE)
export NAMESPACE RELEASE
UI_PORT   ?= 2746
RUNS_PORT ?= 5000
PROMETHEUS_PORT ?= 9090
TENSORBOARD_PORT ?= 6006
VARIANT   ?= cpu
# By content: a node that has an image by this name has this very one.
TAG       ?= $(shell find src configs docker -type f ! -name '*.pyc' | LC_ALL=C sort | xargs cat \
	| sha256sum | cut -c1-12)$(addprefix -,$(filter-out cpu,$(VARIANT)))
CONTAINER ?= $(addsuffix /,$(REGISTRY))mlpipeline:$(TAG)
PREDICTOR_CONTAINER ?= $(addsuffix /,$(REGISTRY))mlpipeline-predictor:$(TAG)
# What workflows/pipeline.yaml names, for those who submit that file as it is.
DEFAULT_CONTAINER := mlpipeline:0.2.0
DEFAULT_PREDICTOR := mlpipeline-predictor:0.2.0
TRACKING_CONTAINER = $(addsuffix /,$(REGISTRY))mlpipeline-tracking:$(shell sed -n 's/^mlflow==\([^ ]*\).*/\1/p' docker/tracking.in)
# The images that were built or pushed last are those that are submitted.
LAST_CONTAINER = $(shell cat .image 2>/dev/null || echo $(DEFAULT_CONTAINER))
LAST_PREDICTOR = $(shell cat .image-predictor 2>/dev/null || echo $(DEFAULT_PREDICTOR))
# The first Python of these that is 3.11 or 3.12.
PYTHON    ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

VENV     := .venv
TRACKING := .venv-tracking
READY    := $(VENV)/.ready
PIPELINE := $(VENV)/bin/python -m mlpipeline
# The value of a variable as one word for the shell, whatever is in it: spaces, quotes, dollars.
quoted    = '$(subst ','\'',$(value $(1)))'
OPTIONS   = --config $(call quoted,CONFIG) --workspace $(call quoted,WORKSPACE)
PATTERNS := $(patsubst %,tests/e2e/test_%.py,docs tutorial rights reach addresses operating search parameter_server asynchronous events sharded tracking scheduling canary drift)

##@ Use

.PHONY: run
run: $(READY) ## Run the whole pipeline: ingest, train, select, gate, serve, verify, report. CONFIG= WORKSPACE= MODE=asynchronous
	@$(PIPELINE) run $(OPTIONS) $(addprefix --,$(MODE))

.PHONY: serve
serve: $(READY) ## Serve the current model on 127.0.0.1:8080 until Ctrl-C. PORT= SHARDS=
	@$(PIPELINE) serve $(OPTIONS) $(if $(PORT),--port $(PORT)) $(if $(SHARDS),--shards $(SHARDS))

.PHONY: models
models: $(READY) ## List all versions of the models, which was current when, and why. WORKSPACE= IN=cluster: what is served there; with HISTORY=1 all
	@$(if $(filter cluster,$(IN)),HISTORY=$(HISTORY) scripts/models.sh,$(PIPELINE) models --workspace $(call quoted,WORKSPACE))

.PHONY: rollback
rollback: $(READY) ## Go back to another version of the model; by default to the one before. VERSION= WHY= FORCE=1 IN=cluster MODEL=
	@$(if $(filter cluster,$(IN)),\
		scripts/rollback.sh $(LAST_CONTAINER) $(LAST_PREDICTOR) $(foreach each,MODEL VERSION WHY FORCE,$(call quoted,$(each))),\
		$(PIPELINE) rollback $(OPTIONS) --why=$(call quoted,WHY) $(if $(FORCE),--force) -- $(if $(VERSION),$(call quoted,VERSION)))

.PHONY: gc
gc: $(READY) ## Remove what neither the newest runs nor versions that are kept need. KEEP_RUNS=50 DRY_RUN=1 WORKSPACE= IN=cluster
	@$(if $(filter cluster,$(IN)),\
		scripts/gc.sh $(LAST_CONTAINER) $(call quoted,KEEP_RUNS) $(if $(DRY_RUN),true,false),\
		$(PIPELINE) gc --keep-runs $(call quoted,KEEP_RUNS) $(if $(DRY_RUN),--dry-run) --workspace $(call quoted,WORKSPACE))

.PHONY: predict
predict: $(READY) ## Say what the current model sees in an image. IMAGE=some.png
	@$(PIPELINE) predict $(OPTIONS) -- $(call quoted,IMAGE)

.PHONY: edge
edge: $(READY) ## Write the current model into a folder for a Raspberry Pi, with a program that asks it. OUTPUT=edge
	@$(PIPELINE) edge $(OPTIONS) --output $(call quoted,OUTPUT)

.PHONY: watch
watch: $(READY) ## Do the events that are dropped into workspace/inbox, until Ctrl-C. WORKSPACE=
	@$(PIPELINE) watch --workspace $(call quoted,WORKSPACE)

.PHONY: site
site: $(READY) ## Write one page of all models and runs of the workspace, which leads to their reports. WORKSPACE=
	@$(PIPELINE) site --workspace $(call quoted,WORKSPACE)

.PHONY: runs
runs: $(READY) $(TRACKING)/.ready ## Compare the runs in MLflow's page on 127.0.0.1 until Ctrl-C. WORKSPACE= RUNS_PORT=
	@$(PIPELINE) track --workspace $(call quoted,WORKSPACE)
	@echo "MLflow's page: http://127.0.0.1:$(RUNS_PORT)/#/experiments/1/runs?workflowType=machine_learning   (Ctrl-C ends it)"
	@MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
		$(TRACKING)/bin/mlflow server --host 127.0.0.1 --port $(RUNS_PORT) --workers 1 \
		--backend-store-uri "sqlite:///$$(realpath -m -- $(call quoted,WORKSPACE))/mlflow.db"

.PHONY: clean
clean: ## Remove all artifacts of the workspace.
	rm -rf -- $(call quoted,WORKSPACE)

##@ Kubernetes

.PHONY: cluster
cluster: ## Create a kind cluster of three nodes on this machine, if there is none.
	@mkdir -p workspace-kind && chmod -R a+rwX workspace-kind # pods are not root: uid 1000
	@kind get clusters 2>/dev/null | grep -qx mlpipeline || kind create cluster --config kind-config.yaml
	@kubectl --context kind-mlpipeline wait nodes --all --for condition=Ready --timeout 180s

.PHONY: cluster-down
cluster-down: ## Delete the kind cluster. What pods wrote stays in workspace-kind/, and is yours.
	@docker exec mlpipeline-control-plane chown -R $$(id -u):$$(id -g) /workspace 2>/dev/null || true # no cluster
	kind delete cluster --name mlpipeline

.PHONY: image
image: image-predictor ## Build the images of steps and of replicas, and load them into kind where that runs. VARIANT=cpu|gpu|light
	DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --build-arg VARIANT=$(VARIANT) \
		--tag $(CONTAINER) --tag $(DEFAULT_CONTAINER) .
	@! kind get clusters 2>/dev/null | grep -qx mlpipeline || kind load docker-image --name mlpipeline \
		--nodes mlpipeline-worker,mlpipeline-worker2 $(CONTAINER) $(DEFAULT_CONTAINER)
	@echo $(CONTAINER) >.image

.PHONY: image-predictor
image-predictor: ## Build the image of replicas alone, without TensorFlow, and load it into kind.
	DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --target predictor \
		--tag $(PREDICTOR_CONTAINER) --tag $(DEFAULT_PREDICTOR) .
	@! kind get clusters 2>/dev/null | grep -qx mlpipeline || kind load docker-image --name mlpipeline \
		--nodes mlpipeline-worker,mlpipeline-worker2 $(PREDICTOR_CONTAINER) $(DEFAULT_PREDICTOR)
	@echo $(PREDICTOR_CONTAINER) >.image-predictor

.PHONY: image-tracking
image-tracking: ## Build the image of MLflow's server for OVERLAY=tracking, and load it into kind.
	DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --target tracking --tag $(TRACKING_CONTAINER) .
	@! kind get clusters 2>/dev/null | grep -qx mlpipeline || kind load docker-image --name mlpipeline \
		--nodes mlpipeline-worker,mlpipeline-worker2 $(TRACKING_CONTAINER)

.PHONY: push
push: ## Build both images and push them to a registry. REGISTRY=registry.example.com/team VARIANT=
	@test -n "$(REGISTRY)" || { echo "error: which registry? make push REGISTRY=registry.example.com/team"; exit 1; }
	DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --target predictor --tag $(PREDICTOR_CONTAINER) .
	DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --build-arg VARIANT=$(VARIANT) --tag $(CONTAINER) .
	docker push $(PREDICTOR_CONTAINER)
	docker push $(CONTAINER)
	@echo $(PREDICTOR_CONTAINER) >.image-predictor
	@echo $(CONTAINER) >.image

.PHONY: deploy
deploy: ## Install Argo, the training operator, KServe and our namespace. OVERLAY=kind|sharded|queued|tracking|monitored|gpu|cloud NAMESPACE= RELEASE= FORCE=1
	@FORCE=$(FORCE) scripts/deploy.sh $(OVERLAY)

.PHONY: undeploy
undeploy: ## Remove all of that from the cluster; of two releases this one. NAMESPACE= RELEASE=
	@scripts/undeploy.sh

.PHONY: submit
submit: ## Run the pipeline in the cluster and follow it. CONFIG= PARAMETERS="workers=3 replicas=3" WORKFLOW=asynchronous NAMESPACE=
	@WORKFLOW=$(WORKFLOW) scripts/submit.sh $(LAST_CONTAINER) $(LAST_PREDICTOR) $(call quoted,CONFIG) $(PARAMETERS)

.PHONY: event
event: $(READY) ## Post events to the cluster, each done once. EVENT="event.json ..."
	@scripts/post.sh $(VENV)/bin/python $(EVENT)

.PHONY: status
status: ## Say what runs in the cluster, and why something waits.
	@scripts/status.sh

.PHONY: logs
logs: ## Show the logs of the newest workflow and of its workers.
	@scripts/logs.sh

.PHONY: report
report: ## Fetch the report of a run in the cluster; without RUN= of the newest one. RUN=mlpipeline-x7k2p
	@scripts/inside.sh $(LAST_CONTAINER) fetch $(RUN)

.PHONY: tensorboard
tensorboard: ## Open TensorBoard on the candidates of the cluster, on 127.0.0.1 until Ctrl-C. TENSORBOARD_PORT=
	@scripts/inside.sh $(LAST_CONTAINER) tensorboard $(TENSORBOARD_PORT)

.PHONY: inside
inside: ## Run a command in a pod that sees the cluster's workspace. COMMAND="ls /workspace/models" REQUESTS=1: the log of requests, too
	@REQUESTS=$(REQUESTS) scripts/inside.sh $(LAST_CONTAINER) run $(call quoted,COMMAND)

.PHONY: ui
ui: ## Open the cluster's web pages, Argo's, MLflow's, Prometheus', on 127.0.0.1 until Ctrl-C. UI_PORT= RUNS_PORT= PROMETHEUS_PORT=
	@scripts/ui.sh $(UI_PORT) $(RUNS_PORT) $(PROMETHEUS_PORT)

##@ Develop

.PHONY: check
check: $(READY) tools ## Lint everything, check types, imports, manifests, docs. ONLY="ruff mypy"
	@$(VENV)/bin/python scripts/check.py $(ONLY)

.PHONY: test
test: $(READY) ## Run all tests; ends with what could not be tested here, and why.
	@scripts/test.sh unit integration

.PHONY: test-unit
test-unit: $(READY) ## Run the quick, hermetic tests.
	@scripts/test.sh unit

.PHONY: test-integration
test-integration: $(READY) ## Run the tests that start real processes.
	@scripts/test.sh integration

.PHONY: smoke
smoke: $(READY) ## From no cluster at all to a verified model in a kind cluster, and back.
	scripts/smoke.sh

.PHONY: e2e
e2e: $(READY) ## As smoke, and on the same cluster a test of each pattern that needs one.
	scripts/smoke.sh $(PATTERNS)

.PHONY: test-e2e
test-e2e: $(READY) ## Break things in the kind cluster, which must be deployed: an hour.
	IMAGE=$(LAST_CONTAINER) PREDICTOR_IMAGE=$(LAST_PREDICTOR) $(VENV)/bin/pytest tests/e2e

.PHONY: docs
docs: $(READY) ## Build the site of docs/ into site/; a broken link or a page without a place fails it.
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

.PHONY: reference
reference: $(READY) ## Write the generated parts of docs/, the JSON schema and the operator's rules anew.
	$(VENV)/bin/python scripts/reference_pages.py

.PHONY: render
render: $(READY) ## Write the workflows' YAML anew from their Python.
	$(VENV)/bin/python -m workflows

.PHONY: bench
bench: $(READY) ## Measure what docs/reference/benchmarks.md states: allow three hours.
	$(VENV)/bin/python -m benchmarks

.PHONY: bench-cluster
bench-cluster: $(READY) ## Measure what Kubernetes adds, on the deployed kind cluster. CONFIG=
	$(VENV)/bin/python -m benchmarks.cluster --image $(LAST_CONTAINER) --predictor-image $(LAST_PREDICTOR) \
		--config $(call quoted,CONFIG) --output benchmarks/results/cluster.json

##@ Release

.PHONY: release
release: $(READY) ## Check that tag, changelog and manifests agree; build wheel, bill of materials, images.
	@$(VENV)/bin/python scripts/release.py
	@$(MAKE) --no-print-directory image

.PHONY: release-version
release-version: $(READY) ## Write the version of pyproject.toml into all files that name the image.
	@$(VENV)/bin/python scripts/release.py --set

.PHONY: publish
publish: ## Push both images with their provenance and bill of materials. IMAGE=ghcr.io/me/mlpipeline TAG=0.2.0
	docker buildx build --file docker/Dockerfile --target predictor \
		--provenance=mode=max --sbom=true --push --tag $(IMAGE)-predictor:$(TAG) .
	docker buildx build --file docker/Dockerfile --build-arg VARIANT=$(VARIANT) \
		--provenance=mode=max --sbom=true --push --tag $(IMAGE):$(TAG) .

##@ Environment

$(READY): requirements.lock pyproject.toml
	@scripts/environment.sh $(VENV) requirements.lock "$(PYTHON)" $(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# MLflow with its page is 620 MB that a run does without: it comes when it is asked for.
$(TRACKING)/.ready: docker/requirements-tracking.lock | $(READY)
	@scripts/environment.sh $(TRACKING) $< $(VENV)/bin/python $(UV_VERSION)
	@touch $@

# Linters that no package index has. Where there is no Go, `make check` ends with what it left out.
.PHONY: tools
tools: $(if $(shell command -v actionlint go),.tools/bin/actionlint)

.tools/bin/actionlint:
	@command -v actionlint >/dev/null || GOBIN=$(CURDIR)/.tools/bin \
		go install github.com/rhysd/actionlint/cmd/actionlint@v$(ACTIONLINT_VERSION)

UV      = $$(command -v uv || echo $(VENV)/bin/uv)
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: $(READY) ## Resolve the dependencies anew: of development, of the images, of MLflow's server. UPGRADE=1
	$(COMPILE) pyproject.toml --all-extras -o requirements.lock
	$(COMPILE) pyproject.toml --extra all -c requirements.lock -o docker/requirements-cpu.lock
	$(COMPILE) pyproject.toml --extra all -c requirements.lock --override docker/gpu-overrides.txt \
		-o docker/requirements-gpu.lock
	$(COMPILE) pyproject.toml --extra serve --extra tracking --extra cluster -c requirements.lock \
		-o docker/requirements-light.lock
	$(COMPILE) pyproject.toml --extra serve -c requirements.lock \
		--excludes docker/predictor-excludes.txt -o docker/requirements-predictor.lock
	$(COMPILE) docker/tracking.in -o docker/requirements-tracking.lock

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
