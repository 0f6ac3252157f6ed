#!/usr/bin/env bash
# Submits the pipeline, follows it to its end, and says where the model answers.
# Use: [WORKFLOW=pipeline] scripts/submit.sh IMAGE PREDICTOR CONFIGURATION [NAME=VALUE ...]    (its parameters)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/advice.sh
source "$(dirname "$0")/advice.sh"
# shellcheck source=scripts/follow.sh
source "$(dirname "$0")/follow.sh"
# shellcheck source=scripts/address.sh
source "$(dirname "$0")/address.sh"

ROOT=$(dirname "$0")/..
readonly ROOT IMAGE=$1 PREDICTOR=$2 CONFIGURATION=$3
readonly MAX_BYTES=$((512 * 1024)) # a workflow, with all that is known of its steps, has 1 MiB

main() { # [NAME=VALUE ...]
  local parameters=() parameter run
  check_configuration
  refuse_braces "configuration=$(<"$CONFIGURATION")"
  for parameter in "image=$IMAGE" "predictor-image=$PREDICTOR" "by=$(caller)" "$@"; do
    refuse_braces "$parameter"
    parameters+=(-p "$parameter")
  done
  echo "context: $(kubectl config current-context), namespace: $NAMESPACE, image: $IMAGE"
  run=$(argo submit -n "$NAMESPACE" -o name "$ROOT/workflows/${WORKFLOW:-pipeline}.yaml" \
    --parameter-file <(as_parameter) "${parameters[@]}")
  see_through "$run"
  argo get -n "$NAMESPACE" --no-color "$run" | sed -n '/^STEP/,$p'
  say_address "$run"
}

check_configuration() {
  local bytes
  [[ -f $CONFIGURATION ]] || fail "there is no file $CONFIGURATION" "a configuration" "make submit CONFIG=my.yaml"
  bytes=$(wc -c <"$CONFIGURATION")
  ((bytes <= MAX_BYTES)) || fail "$CONFIGURATION has $bytes bytes" "$MAX_BYTES at most: it is part of the workflow" \
    "name files of data in it instead of the data, or split the search into several runs"
}

# The configuration as YAML of parameters. On a command line the system takes no more than 128 KiB.
as_parameter() {
  echo 'configuration: |2-'
  LC_ALL=C sed $'1s/^\xef\xbb\xbf//; s/^/  /' "$CONFIGURATION" # without a byte order mark
}

say_address() { # RUN
  local name version request address tunnel=''
  name=$(ours get workflow "$1" -o 'jsonpath={.status.nodes.*.outputs.parameters[?(@.name=="name")].value}')
  name=${name%% *} # every attempt of the step has it
  version=$(ours get inferenceservice "$name" -o 'jsonpath={.metadata.annotations.mlpipeline/version}')
  # On kind the workspace is a folder here.
  request=workspace-kind${WORKSPACE_FOLDER#/workspace}/models/$name/$version/request.json
  [[ -e $ROOT/$request ]] || request='request.json # {"instances": [[[0..255, 28 numbers] x 28]]}'
  address=$(address_of "$name")
  if [[ -z $address ]]; then
    address=127.0.0.1:9080
    tunnel=", while this runs: $(tunnel_to "$name")"
  fi
  cat <<TEXT

$name, version $version, answers at http://$address$tunnel
Try:

curl -H 'Content-Type: application/json' http://$address/v1/models/$name:predict -d @$request
TEXT
}

shift 3
main "$@"
