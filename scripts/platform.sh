# shellcheck shell=bash
# The platform, which all releases of a cluster share; only Argo runs in each one's namespace. Each
# function applies a folder of manifests/platform, then waits until it really answers. Sourced.

readonly CERTIFICATE=secret/kserve-webhook-server-cert

argo_workflows() {
  render_release platform/argo-workflows | apply
  rolled_out "$NAMESPACE" workflow-controller argo-server
  await "$NAMESPACE" "the controller to take the lead" \
    field "$NAMESPACE" lease/workflow-controller .spec.holderIdentity
}

training_operator() {
  render platform/training-operator | apply
  rolled_out kubeflow training-operator
  await kubeflow "its webhook to accept a TFJob" accepts scripts/probes/tfjob.yaml
}

kserve() {
  # The certificate first, because the controller's pod mounts it.
  kubectl get namespace kserve || kubectl create namespace kserve
  valid_certificate 2>/dev/null || make_certificate
  render platform/kserve |
    sed "s|@CA_BUNDLE@|$(field kserve "$CERTIFICATE" '.data.tls\.crt')|" | apply
  rolled_out kserve kserve-controller-manager
  await kserve "its webhook to accept an InferenceService" \
    accepts scripts/probes/inference-service.yaml
}

metrics_server() {
  if foreign apiservice/v1beta1.metrics.k8s.io; then return; fi # the cluster brings its own
  render platform/metrics-server | apply
  rolled_out kube-system metrics-server
  await kube-system "figures of the nodes" kubectl top nodes
}

kueue() {
  render platform/kueue | apply
  rolled_out kueue-system kueue-controller-manager
  await kueue-system "its webhook to accept a queue" queues_accepted
  render platform/kueue-classes | apply
}

queues_accepted() { # by Kueue itself: before there is its webhook, the API server takes any
  field "" validatingwebhookconfiguration/kueue-validating-webhook-configuration \
    '.webhooks[0].clientConfig.caBundle' && accepts scripts/probes/queue.yaml
}

foreign() { # OBJECT: it is there and not ours
  [[ -n $(kubectl get "$1" --ignore-not-found --output name) ]] &&
    [[ $(field "" "$1" '.metadata.labels.app\.kubernetes\.io/part-of') != mlpipeline ]]
}

# --- KServe's certificate. Made here, kept in the cluster while it is valid, in no file. ---

valid_certificate() { # for another month
  field kserve "$CERTIFICATE" '.data.tls\.crt' | openssl base64 -d -A |
    openssl x509 -noout -checkend $((30 * 24 * 3600))
}

make_certificate() { # It signs itself, so it is its own authority.
  local host=kserve-webhook-server-service.kserve.svc
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 \
    -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
    -keyout "$SCRATCH/tls.key" -out "$SCRATCH/tls.crt"
  kubectl create secret tls "${CERTIFICATE#secret/}" --namespace kserve --dry-run=client \
    --cert "$SCRATCH/tls.crt" --key "$SCRATCH/tls.key" --output yaml | apply
}
