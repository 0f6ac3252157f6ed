#!/usr/bin/env bash
# Shows the logs of the newest workflow and of its workers. Use: make logs [NAMESPACE=mlpipeline].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

echo "# the newest workflow"
argo logs --namespace "$NAMESPACE" @latest || true # it may not have a pod yet
echo "# the workers of training jobs"
ours logs --selector training.kubeflow.org/job-name --prefix --tail 100 --max-log-requests 50
