# shellcheck shell=bash
# Waiting for a cluster: no wait is without an end, and each tells what there was instead. Sourced.

readonly DEADLINE=${DEADLINE:-180} # seconds that each wait may take

# Wait until a command succeeds; after the deadline say what there is instead.
await() { # NAMESPACE WHAT COMMAND...
  local namespace=$1 what=$2 until=$((SECONDS + DEADLINE)) answer
  shift 2
  until answer=$("$@" 2>&1); do
    ((SECONDS < until)) || explain "$namespace" "$what" "$answer"
    sleep 0.5
  done
}

explain() { # NAMESPACE WHAT ANSWER
  printf 'waited %s s for %s; the last answer: %s\n' "$DEADLINE" "$2" "${3:-none}"
  if [[ -n $1 ]]; then
    echo "pods of the namespace $1:"
    kubectl get pods --namespace "$1" --output wide
    echo "its latest warnings:"
    kubectl get events --namespace "$1" --field-selector type=Warning --sort-by .lastTimestamp | tail
  fi
  exit 1
}

rolled_out() { # NAMESPACE DEPLOYMENT...
  local deployment
  for deployment in "${@:2}"; do
    is_wanted "$1" "$deployment"
    await "$1" "$deployment to be rolled out" \
      kubectl rollout status "deployment/$deployment" --namespace "$1" --timeout 5s
  done
}

# One that somebody has scaled to none is rolled out at once, and does nothing.
is_wanted() { # NAMESPACE DEPLOYMENT
  [[ $(field "$1" "deployment/$2" .spec.replicas) == 0 ]] || return 0
  [[ -n ${FORCE:-} ]] || fail "the deployment $2 of the namespace $1 is scaled to none" "one replica or more" \
    "kubectl -n $1 scale deployment $2 --replicas 1, or make deploy FORCE=1"
  kubectl scale "deployment/$2" --namespace "$1" --replicas 1
}

# Whether the API server, and the webhooks behind it, would create what a file holds.
accepts() { # FILE
  kubectl create --dry-run=server --namespace default --filename "$1"
}

# Run functions at the same time; tell one line of each when it ends.
parallel() { # FUNCTION...
  local name job jobs=() failed=0
  for name; do
    report "$name" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  return "$failed"
}

report() { # FUNCTION: what it prints matters only if it fails
  trap 'exit 130' INT # which a shell in the background would ignore
  local start=$SECONDS log="$SCRATCH/$1" status=0
  (
    trap 'exit 130' INT
    "$1"
  ) >"$log" 2>&1 & # not in an `if`: there bash would not stop at the first error
  wait $! || status=$?
  printf '%s %-24s %4s s\n' "$( ((status)) && echo ✘ || echo ✔)" "${1//_/ }" $((SECONDS - start))
  ((status)) || return 0
  grep -v ' serverside-applied$' "$log" | sed 's/^/  /'
  return "$status"
}
