#!/usr/bin/env bash
# Installs the platform and a release of the pipeline into the current cluster. Safe to run again.
# Use: make deploy [OVERLAY=kind|sharded|queued|tracking|monitored|gpu|cloud] [NAMESPACE=mlpipeline RELEASE=mlpipeline]
# FORCE=1: what was changed by hand becomes again what the manifests say.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/wait.sh
source scripts/apply.sh
source scripts/platform.sh

readonly OVERLAY=${1:-kind}

main() {
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  say_context
  check_overlay
  # The namespace first: the home of Argo and of the pipeline.
  render_release "overlays/$OVERLAY" | documents '/(^|\n)kind: Namespace\n/' | server_side >/dev/null
  local parts=(argo_workflows training_operator kserve metrics_server pipeline)
  if has_queues; then parts=(kueue "${parts[@]}"); fi
  parallel "${parts[@]}"
  if [[ -s $SCRATCH/kept ]]; then cat "$SCRATCH/kept"; fi
  echo "deployed in $SECONDS s"
}

check_overlay() {
  [[ -f manifests/overlays/$OVERLAY/kustomization.yaml ]] || fail "there is no overlay \`$OVERLAY\`" \
    "one of $(cd manifests/overlays && echo *)" "make deploy OVERLAY=kind"
  [[ $OVERLAY == cloud || $(field "" nodes '.items[0].spec.providerID') == kind:* ]] ||
    fail "the overlay \`$OVERLAY\` mounts a folder that only kind's nodes have" \
      "a cluster made by \`make cluster\`" "kubectl config use-context NAME, or make deploy OVERLAY=cloud"
}

has_queues() { [[ $(render "overlays/$OVERLAY") == *"kind: ClusterQueue"* ]]; }

pipeline() {
  release_volume
  if [[ $OVERLAY != cloud ]]; then make_workspace; fi
  # The rest of Argo may start meanwhile; its definitions must be there.
  await "$NAMESPACE" "Argo's definitions" kubectl wait --for condition=Established --timeout 5s \
    crd/{workflowtemplates,cronworkflows,workfloweventbindings}.argoproj.io
  if has_queues; then await kueue-system "Kueue to accept a queue" queues_accepted; fi
  render_release "overlays/$OVERLAY" | apply
  await "$NAMESPACE" "the workspace to be bound" workspace_ready
  await "$NAMESPACE" "a token for Argo's executor" \
    field "$NAMESPACE" secret/executor.service-account-token .data.token
}

# On kind the nodes have this folder, and pods are not root: uid 1000.
make_workspace() {
  local folder="workspace-kind${WORKSPACE_FOLDER#/workspace}"
  mkdir -p "$folder" && chmod a+rwX "$folder"
}

# A volume whose claim was deleted stays tied to it: let the new claim have it.
release_volume() {
  local volume=persistentvolume/$RELEASE-workspace
  if [[ $(field "" "$volume" .status.phase) == Released ]]; then
    kubectl patch "$volume" --type json --patch '[{"op": "remove", "path": "/spec/claimRef/uid"}]'
  fi
}

workspace_ready() { # Bound, or of a storage class that binds when the first pod comes
  [[ $(field "$NAMESPACE" pvc/workspace .status.phase) == Bound ]] && return
  local class
  class=$(field "$NAMESPACE" pvc/workspace .spec.storageClassName) &&
    [[ $(field "" "storageclass/$class" .volumeBindingMode) == WaitForFirstConsumer ]]
}

main
