#!/usr/bin/env bash
# Submits the pipeline, follows it to its end, and says where the model answers.
# Use: [WORKFLOW=pipeline] scripts/submit.sh IMAGE PREDICTOR CONFIGURATION [NAME=VALUE ...]    (its parameters)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/advice.sh
source "$(dirname "$0")/advice.sh"
# shellcheck source=scripts/address.sh
source "$(dirname "$0")/address.sh"

ROOT=$(dirname "$0")/..
readonly ROOT IMAGE=$1 PREDICTOR=$2 CONFIGURATION=$3
readonly MAX_BYTES=$((512 * 1024)) # a workflow, with all that is known of its steps, has 1 MiB

main() { # [NAME=VALUE ...]
  local parameters=() parameter run
  check_configuration
  refuse_braces "configuration=$(<"$CONFIGURATION")"
  for parameter in "image=$IMAGE" "predictor-image=$PREDICTOR" "$@"; do
    refuse_braces "$parameter"
    parameters+=(-p "$parameter")
  done
  echo "context: $(kubectl config current-context), namespace: $NAMESPACE, image: $IMAGE"
  run=$(argo submit -n "$NAMESPACE" -o name "$ROOT/workflows/${WORKFLOW:-pipeline}.yaml" \
    --parameter-file <(as_parameter) "${parameters[@]}")
  echo "$run is submitted; it goes on if you leave. \`argo get -n $NAMESPACE $run\` shows it, \`argo stop\` ends it."
  until field "$NAMESPACE" "workflow/$run" .status.phase >/dev/null; do
    ((SECONDS < ${DEADLINE:-180})) || fail "Argo has not begun $run in $SECONDS s" "that its controller runs" "make status"
    sleep 1
  done
  follow "$run"
  argo wait -n "$NAMESPACE" "$run" >/dev/null || explain_failure "$run"
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

# Argo evaluates what it finds between double braces in any parameter.
refuse_braces() { # NAME=VALUE
  [[ $1 != *'{{'* ]] || fail "the parameter \`${1%%=*}\` has double braces: $(grep -m 1 -F '{{' <<<"$1")" \
    "none: Argo evaluates what follows, so what runs is not what was submitted" "write it in another way"
}

# A picture that redraws itself for a person, the steps' own lines for a log file.
follow() { # RUN
  if [[ -t 1 ]]; then
    argo watch -n "$NAMESPACE" "$1"
  else
    argo logs -n "$NAMESPACE" --follow --no-color "$1" | own_lines || true # the end is what counts
  fi
}

explain_failure() { # RUN
  local text
  text=$(
    argo get -n "$NAMESPACE" --no-color "$1" | awk '/^Parameters:/ { skip = 1 } /^STEP / { skip = 0 } !skip' | own_messages
    # Why a pod was not started in time, such as an image that is not there, is in its events alone.
    ours get events --field-selector type=Warning --sort-by .lastTimestamp \
      -o 'jsonpath={range .items[*]}{.involvedObject.name}{": "}{.message}{"\n"}{end}' |
      grep "^$1-" | awk '!seen[$0]++' | tail -n 10 || true
  )
  printf '%s\n' "$text"
  advise "$text"
  fail "$1 did not succeed" "that every step does; the lines above say which did not, and why" \
    "more: make logs, make status"
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
