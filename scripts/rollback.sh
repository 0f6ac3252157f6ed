#!/usr/bin/env bash
# Goes back to an earlier version of a model in the cluster, and says which one is served then.
# Use: scripts/rollback.sh IMAGE PREDICTOR [MODEL [VERSION [WHY [FORCE]]]]    (without: the one, to the one before)
# Who may not start pods, a steward, does not choose images either: it is by those of the deployment.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/advice.sh
source "$(dirname "$0")/advice.sh"
# shellcheck source=scripts/follow.sh
source "$(dirname "$0")/follow.sh"

readonly IMAGE=$1 PREDICTOR=$2 MODEL=${3:-} VERSION=${4:-} WHY=${5:-} FORCE=${6:-}

main() {
  local model=$MODEL images=() by run
  [[ -z $FORCE || -n $WHY ]] || fail "FORCE=$FORCE without WHY=" "both: the history says why" "say why: WHY=\"…\""
  [[ -n $model ]] || model=$(the_only_model)
  if ours auth can-i create pods --quiet; then images=("image=$IMAGE" "predictor-image=$PREDICTOR"); fi
  by=$(kubectl auth whoami --output 'jsonpath={.status.userInfo.username}')
  run=$(submit_from rollback "${images[@]}" "model=$model" "version=$VERSION" "by=$by" "why=$WHY" "force=${FORCE:+$WHY}")
  see_through "$run"
  echo "$model is served by $(version_of "$model")"
}

the_only_model() {
  local names
  names=$(ours get inferenceservices.serving.kserve.io --output 'jsonpath={.items[*].metadata.name}')
  [[ -n $names && $names != *' '* ]] || fail "these models are served: ${names:-none}" "one" \
    "name one: make rollback IN=cluster MODEL=shirts"
  echo "$names"
}

version_of() { # MODEL
  ours get inferenceservice "$1" --output 'jsonpath={.metadata.annotations.mlpipeline/version}'
}

main
