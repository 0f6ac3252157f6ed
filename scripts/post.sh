#!/usr/bin/env bash
# Posts events to Argo's server in the current cluster, as the service account that may do that alone.
# Use: make event EVENT="event.json ..." [NAMESPACE=mlpipeline], or scripts/post.sh PYTHON EVENT.json...
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

readonly PYTHON=$1
shift

ARGO_TOKEN=$(ours create token sender --duration 10m)
export ARGO_TOKEN
coproc forward { exec kubectl port-forward --namespace "$NAMESPACE" --address 127.0.0.1 service/argo-server :2746 2>&1; }
# shellcheck disable=SC2154 # coproc sets it
trap 'kill "$forward_PID" 2>/dev/null || true' EXIT
# Forwarding from 127.0.0.1:PORT -> 2746
read -r -t 30 line <&"${forward[0]}" || line="no answer from kubectl port-forward"
port=${line#*127.0.0.1:} port=${port%% *}
[[ $port =~ ^[0-9]+$ ]] || fail "$line" "a tunnel to Argo's server" "make status shows what runs"
# On kind the workspace, with the answers, is a folder here.
workspace="$(dirname "$0")/../workspace-kind${WORKSPACE_FOLDER#/workspace}"
[[ -d $workspace ]] && workspace=$(realpath --relative-to . "$workspace") || workspace=/workspace
"$PYTHON" -m mlpipeline post-event --url "http://127.0.0.1:$port" --namespace "$NAMESPACE" --workspace "$workspace" "$@"
