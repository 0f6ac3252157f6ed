#!/usr/bin/env bash
# Lists the models that are served, each with its version and its address; or all versions of all models,
# which was current when, and why. Use: make models IN=cluster [HISTORY=1] [NAMESPACE=mlpipeline].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/address.sh
source scripts/advice.sh
source scripts/follow.sh

main() {
  local name version ready address format='%-28s %-44s %-6s %s\n' rows=()
  while read -r name version ready; do
    address=$(address_of "$name")
    if [[ -n $address ]]; then
      address=http://$address
    else
      address="http://127.0.0.1:9080 while this runs: $(tunnel_to "$name")"
    fi
    rows+=("$name" "$version" "$ready" "$address")
  done < <(served)
  [[ ${#rows[@]} -gt 0 ]] || fail "no model is served in the namespace $NAMESPACE" "one" "make submit"
  # shellcheck disable=SC2059 # a line for each four of them
  printf "$format" MODEL VERSION READY ADDRESS "${rows[@]}"
}

# Out of the workspace, by a workflow: who calls this may not be one who may start pods.
all_versions() {
  local run
  run=$(submit_from models)
  argo wait -n "$NAMESPACE" "$run" >/dev/null || explain_failure "$run"
  ours logs --selector "workflows.argoproj.io/workflow=$run" --container main --tail -1 | own_lines
}

served() {
  ours get inferenceservices.serving.kserve.io --no-headers --output 'custom-columns=:.metadata.name,'\
':.metadata.annotations.mlpipeline/version,:.status.conditions[?(@.type=="Ready")].status'
}

if [[ -n ${HISTORY:-} ]]; then all_versions; else main; fi
