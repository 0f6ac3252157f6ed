# shellcheck shell=bash
# Submitting a workflow, and following it to its end: shared by the scripts that do. It is sourced after
# lib.sh and advice.sh, not run.

# Argo evaluates what it finds between double braces in any parameter.
refuse_braces() { # NAME=VALUE
  [[ $1 != *'{{'* ]] || fail "the parameter \`${1%%=*}\` has double braces: $(grep -m 1 -F '{{' <<<"$1")" \
    "none: Argo evaluates what follows, so what runs is not what was submitted" "write it in another way"
}

# Who submits, for the record; what Argo knows of them comes before it.
caller() { echo "$(id -un 2>/dev/null || id -u)@$(uname -n)"; }

# Submits a template as a steward may, with parameters and nothing else; Argo's command adds a status, in
# which more could be said than is in the template.
submit_from() { # TEMPLATE [NAME=VALUE ...]
  local parameter value
  for parameter in "${@:2}"; do refuse_braces "$parameter"; done
  {
    printf 'apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {generateName: %s-}\n' "$1"
    printf 'spec:\n  workflowTemplateRef: {name: %s}\n' "$1"
    (($# == 1)) || printf '  arguments:\n    parameters:\n'
    for parameter in "${@:2}"; do
      value=${parameter#*=}
      printf '    - name: %s\n      value: |2-\n        %s\n' "${parameter%%=*}" "${value//$'\n'/$'\n        '}"
    done
  } | ours create --filename - --output 'jsonpath={.metadata.name}'
}

# Says that a workflow is submitted, shows it, and waits until it has succeeded.
see_through() { # RUN
  local run=$1
  echo "$run is submitted; it goes on if you leave. \`argo get -n $NAMESPACE $run\` shows it, \`argo stop\` ends it."
  until field "$NAMESPACE" "workflow/$run" .status.phase >/dev/null; do
    ((SECONDS < ${DEADLINE:-180})) || fail "Argo has not begun $run in $SECONDS s" "that its controller runs" "make status"
    sleep 1
  done
  follow "$run"
  argo wait -n "$NAMESPACE" "$run" >/dev/null || explain_failure "$run"
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
