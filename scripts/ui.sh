#!/usr/bin/env bash
# Opens the cluster's web pages on this machine until Ctrl-C.
# Use: make ui [UI_PORT=2746] [RUNS_PORT=5000] [PROMETHEUS_PORT=9090] [NAMESPACE=mlpipeline].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

readonly ARGO_PORT=${1:-2746} MLFLOW_PORT=${2:-5000} PROMETHEUS_PORT=${3:-9090}

tunnel() { # SERVICE PORTS
  ours port-forward --address 127.0.0.1 "service/$1" "$2"
}

there_is() { # SERVICE
  ours get "service/$1" >/dev/null 2>&1
}

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # the tunnels in the background
if there_is mlflow; then # with components/mlflow
  # By its bare address it opens as a page for language models.
  echo "MLflow's web page: http://127.0.0.1:$MLFLOW_PORT/#/experiments/1/runs?workflowType=machine_learning   (Ctrl-C ends it)"
  tunnel mlflow "$MLFLOW_PORT:5000" &
fi
if there_is prometheus; then # with components/monitoring
  echo "Prometheus, its alerts: http://127.0.0.1:$PROMETHEUS_PORT/alerts   (Ctrl-C ends it)"
  tunnel prometheus "$PROMETHEUS_PORT:9090" &
fi
cat <<TEXT
Argo's web page: http://127.0.0.1:$ARGO_PORT/workflows/$NAMESPACE   (Ctrl-C ends it)
To log in, paste this into the box in the middle, "client authentication"; it shows workflows and
logs, changes nothing, and lasts eight hours:

Bearer $(ours create token viewer --duration 8h)

TEXT
tunnel argo-server "$ARGO_PORT:2746"
