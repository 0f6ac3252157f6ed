#!/usr/bin/env bash
# Removes a release of the pipeline from the current cluster; with the last one the platform goes, too.
# Use: make undeploy [NAMESPACE=mlpipeline RELEASE=mlpipeline]. By our label: what others installed stays.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/wait.sh

readonly PART_OF=app.kubernetes.io/part-of=mlpipeline # on everything that we apply
readonly INSTANCE=app.kubernetes.io/instance          # on what belongs to one release
readonly WEBHOOKS=validatingwebhookconfigurations,mutatingwebhookconfigurations,apiservices,\
validatingadmissionpolicies,validatingadmissionpolicybindings
readonly CLUSTER_WIDE=namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,priorityclasses
readonly IN_KUBE_SYSTEM=deployments,services,serviceaccounts,rolebindings
# What has finalizers that only its controller takes away.
readonly OF_NAMESPACE=(cronworkflows.argoproj.io workflows.argoproj.io tfjobs.kubeflow.org
  inferenceservices.serving.kserve.io workloads.kueue.x-k8s.io)
readonly OF_CLUSTER=(clusterqueues.kueue.x-k8s.io resourceflavors.kueue.x-k8s.io)

main() {
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  say_context
  # While their controllers still run. What is there after a minute has none.
  parallel remove_workflows remove_training_jobs remove_models remove_queues || echo "the rest goes without them"
  parallel release_leftovers
  parallel remove_release
  parallel remove_volume # which its claim held on to
  if others=$(other_releases); then
    echo "the platform stays, for the namespaces ${others//$'\n'/, }; gone after $SECONDS s"
    return
  fi
  parallel remove_webhooks # before their servers: without those they would refuse every change
  parallel release_cluster_wide
  parallel remove_metrics_server remove_platform
  check_gone
}

other_releases() {
  kubectl get namespaces --selector "$PART_OF,$INSTANCE,$INSTANCE!=$RELEASE" \
    --output 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}' | grep .
}

remove_workflows() { remove_all cronworkflows.argoproj.io workflows.argoproj.io; }
remove_training_jobs() { remove_all tfjobs.kubeflow.org; }
remove_models() { remove_all inferenceservices.serving.kserve.io; }
remove_queues() {
  if defined_by_us clusterqueues.kueue.x-k8s.io; then
    kubectl delete clusterqueues.kueue.x-k8s.io --selector "$INSTANCE=$RELEASE" --timeout 60s
  fi
}
remove_release() {
  remove_ours validatingadmissionpolicies,validatingadmissionpolicybindings,namespaces "$INSTANCE=$RELEASE"
}
remove_volume() { remove_ours persistentvolumes "$INSTANCE=$RELEASE"; }
remove_webhooks() { remove_ours "$WEBHOOKS"; }
remove_metrics_server() { remove_ours "$IN_KUBE_SYSTEM" "" --namespace kube-system; }
remove_platform() { remove_ours "$CLUSTER_WIDE"; }

remove_all() { # KIND...: in the release's namespace, with the pods that they own
  local kind
  for kind; do
    if defined_by_us "$kind"; then
      ours delete "$kind" --all --cascade=foreground --timeout 60s
    fi
  done
}

remove_ours() { # KINDS [SELECTOR] [OPTIONS]
  kubectl delete "$1" --selector "$PART_OF${2:+,$2}" --ignore-not-found --timeout "${DEADLINE}s" "${@:3}"
}

release_leftovers() { drop_finalizers --namespace="$NAMESPACE" "${OF_NAMESPACE[@]}"; }
# And those of whoever else used what is about to go.
release_cluster_wide() { drop_finalizers --all-namespaces "${OF_NAMESPACE[@]}" "${OF_CLUSTER[@]}"; }

drop_finalizers() { # SCOPE KIND...
  local kind namespace name
  for kind in "${@:2}"; do
    if defined_by_us "$kind"; then
      kubectl get "$kind" "$1" --no-headers --output custom-columns=:.metadata.namespace,:.metadata.name |
        while read -r namespace name; do
          kubectl patch "$kind" "$name" --namespace "$namespace" --type merge \
            --patch '{"metadata": {"finalizers": null}}'
        done
    fi
  done
}

defined_by_us() { # KIND
  [[ -n $(kubectl get crd --selector "$PART_OF" --field-selector "metadata.name=$1" --output name) ]]
}

check_gone() {
  local left
  left=$(kubectl get "$WEBHOOKS,$CLUSTER_WIDE,$IN_KUBE_SYSTEM,persistentvolumes" --all-namespaces \
    --selector "$PART_OF" --output name)
  [[ -z $left ]] || fail "still there: ${left//$'\n'/, }" "nothing of ours" "make undeploy, once more"
  echo "nothing is left, after $SECONDS s"
}

main
