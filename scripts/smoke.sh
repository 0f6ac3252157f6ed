#!/usr/bin/env bash
# From no cluster at all to a verified model in a kind cluster, and back to none. What failed is left in
# smoke-failure/, because the cluster is removed in any case.
# Use: scripts/smoke.sh [TEST_FILE...]: more tests on the same cluster, such as those of the patterns (`make e2e`).
# E2E_SECONDS: a file of tests that would begin later than that is named as not tested instead.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
readonly E2E_SECONDS=${E2E_SECONDS:-7200}
readonly FAILURE=smoke-failure NAMESPACES=("$NAMESPACE" kserve kubeflow kube-system)

# Not in a pipe: where `kind` is missing or fails, nobody knows, and what is there must not be removed.
clusters=$(kind get clusters) || fail "kind does not say which clusters there are" "kind, and a Docker that runs" \
  "see docs/start/kubernetes.md for what this needs"
if grep -qx mlpipeline <<<"$clusters"; then
  fail "there is a kind cluster \`mlpipeline\` already" "none: this begins and ends without one" \
    "make cluster-down"
fi

step() { # TITLE COMMAND...
  local title=$1 began=$SECONDS
  shift
  "$@"
  echo "── $title: $((SECONDS - began)) s, $SECONDS s in all"
}

collect() {
  mkdir -p "$FAILURE"
  for namespace in "${NAMESPACES[@]}"; do
    kubectl -n "$namespace" get all -o wide
    kubectl -n "$namespace" describe pods,tfjobs,inferenceservices,workflows
    kubectl -n "$namespace" get events --sort-by .lastTimestamp
  done >"$FAILURE/cluster.txt" 2>&1
  kubectl get nodes -o wide >"$FAILURE/nodes.txt" 2>&1
  for pod in $(kubectl get pods -A -o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}'); do
    kubectl -n "${pod%/*}" logs "${pod#*/}" --all-containers --prefix >"$FAILURE/${pod/\//.}.log" 2>&1
  done
  cp -r workspace-kind/runs "$FAILURE/" 2>/dev/null
  make --no-print-directory status
  (fail "the smoke test failed" "a verified model" "read what the cluster said of it in $FAILURE/")
}

finish() {
  local status=$?
  set +e # from here on everything is tried
  ((status == 0)) || collect
  step "cluster removed" make --no-print-directory cluster-down
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

rm -rf "$FAILURE"
rm -rf workspace-kind 2>/dev/null || true # pods wrote it; as another user one cannot always
step "cluster" make --no-print-directory cluster
step "image" make --no-print-directory image
step "platform" make --no-print-directory deploy
step "pipeline" .venv/bin/pytest tests/e2e/test_smoke.py
step "contract" .venv/bin/pytest tests/contract --backend kubernetes
if (($#)) && ((SECONDS < E2E_SECONDS)); then
  step "image of MLflow's server" make --no-print-directory image-tracking
fi
late=()
for file; do
  if ((SECONDS < E2E_SECONDS)); then
    step "$file" .venv/bin/pytest --durations 0 --durations-min 5 "$file"
  else
    late+=("$file")
  fi
done
((${#late[@]} == 0)) || echo "NOT TESTED on Kubernetes, because $((SECONDS / 60)) minutes had gone by: ${late[*]}"
