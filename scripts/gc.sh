#!/usr/bin/env bash
# Removes from the cluster's workspace what nobody needs any more, and says what that was.
# Use: scripts/gc.sh IMAGE KEEP_RUNS [true]    (true: only say what would be removed)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/advice.sh
source "$(dirname "$0")/advice.sh"
# shellcheck source=scripts/follow.sh
source "$(dirname "$0")/follow.sh"

readonly IMAGE=$1 KEEP_RUNS=$2 DRY_RUN=${3:-false}

main() {
  local run
  [[ $KEEP_RUNS =~ ^[1-9][0-9]*$ ]] || fail "KEEP_RUNS=$KEEP_RUNS" "how many of the newest runs stay, 1 or more" \
    "make gc IN=cluster KEEP_RUNS=50"
  run=$(argo submit -n "$NAMESPACE" -o name --from workflowtemplate/gc \
    -p "image=$IMAGE" -p "keep-runs=$KEEP_RUNS" -p "dry-run=$DRY_RUN")
  see_through "$run"
  # On a terminal the picture alone was shown.
  [[ ! -t 1 ]] || argo logs -n "$NAMESPACE" --no-color "$run" | own_lines
}

main
