#!/usr/bin/env bash
# Lists the models that are served, each with its version and its address. Use: make models IN=cluster [NAMESPACE=mlpipeline].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/address.sh

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

served() {
  ours get inferenceservices.serving.kserve.io --no-headers --output 'custom-columns=:.metadata.name,'\
':.metadata.annotations.mlpipeline/version,:.status.conditions[?(@.type=="Ready")].status'
}

main
