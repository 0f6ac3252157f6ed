#!/usr/bin/env bash
# Shows the logs of the newest workflow and of its workers. Use: make logs [NAMESPACE=mlpipeline].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

colour=--no-color # in a file it would be noise
[[ ! -t 1 || -n ${NO_COLOR:-} ]] || colour=--no-color=false

echo "# the newest workflow"
argo logs --namespace "$NAMESPACE" "$colour" @latest | own_lines || true # it may not have a pod yet
echo "# the workers of training jobs"
ours logs --selector training.kubeflow.org/job-name --prefix --tail 100 --max-log-requests 50 | own_lines
