#!/usr/bin/env bash
# Does something in a pod that sees the workspace of the cluster and cannot write to it; the pod goes at the end.
# The log of requests, which may hold people's pictures, is hidden from it unless REQUESTS is set.
# Use: [REQUESTS=1] scripts/inside.sh IMAGE fetch [RUN] | IMAGE tensorboard PORT | IMAGE run COMMAND    (make report, …)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/wait.sh

readonly IMAGE=$1 WHAT=$2
shift 2

main() {
  local pod
  pod=$(start) # pod/NAME
  # shellcheck disable=SC2064 # the name that it has now
  trap "ours delete '$pod' --wait=false >/dev/null" EXIT
  trap 'exit 130' INT TERM
  ours wait "$pod" --for condition=Ready --timeout 120s >/dev/null ||
    fail "$pod did not start: $(ours get "$pod" --output 'jsonpath={.status.conditions[*].message}'\
' {.status.containerStatuses[*].state.waiting.message}')" "that it runs within 120 s" "make status, and make image"
  "$WHAT" "$pod" "$@"
}

fetch() { # POD [RUN]: without one the newest
  local file=report.html
  [[ -z ${2:-} ]] || file=runs/$2/report.html
  ours exec "$1" -- test -r "/workspace/$file" 2>/dev/null || fail "there is no $file in the workspace" \
    "one of these runs, the newest first: $(ours exec "$1" -- ls -t /workspace/runs | head -n 20 | tr '\n' ' ')" "make report RUN=NAME"
  ours exec "$1" -- cat "/workspace/$file" >"${2:-report}.html"
  echo "${2:-report}.html is written"
}

tensorboard() { # POD PORT
  ours exec "$1" -- tensorboard --logdir /workspace/candidates --port 6006 >/dev/null 2>&1 &
  # The tunnel would not survive a request that nobody answers.
  await "$NAMESPACE" "TensorBoard to answer in $1" ours exec "$1" -- \
    python -c 'import socket; socket.create_connection(("127.0.0.1", 6006), 1)'
  echo "TensorBoard: http://127.0.0.1:$2   (Ctrl-C ends it)"
  ours port-forward --address 127.0.0.1 "$1" "$2:6006"
}

run() { # POD COMMAND
  ours exec "$1" -- sh -c "$2"
}

start() {
  local mounts='' first=''
  if [[ -z ${REQUESTS:-} ]]; then
    mounts='- {name: workspace, mountPath: /workspace/requests, subPath: requests/.none, readOnly: true}'
    # Before the first run there is none: what Kubernetes makes in its place is root's.
    first='mkdir -p -m 700 /workspace/requests && mkdir -p /workspace/requests/.none'
  fi
  ours create --filename - --output name <<YAML
apiVersion: v1
kind: Pod
metadata:
  generateName: inside-
  labels: {app.kubernetes.io/part-of: mlpipeline, app.kubernetes.io/component: inside}
  annotations: {kubectl.kubernetes.io/default-container: inside}
spec:
  activeDeadlineSeconds: 28800 # should this script be killed
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  serviceAccountName: worker
  automountServiceAccountToken: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    seccompProfile: {type: RuntimeDefault}
  initContainers:
    - name: hide
      image: $IMAGE
      command: [sh, -c, "${first:-true}"]
      securityContext: &nothing
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: &some
        requests: {cpu: 50m, memory: 128Mi}
        limits: {memory: 2Gi}
      volumeMounts:
        - {name: workspace, mountPath: /workspace}
  containers:
    - name: inside
      image: $IMAGE
      command: [sleep, "28800"]
      workingDir: / # the commands' own default, workspace/, is this one
      securityContext: *nothing
      resources: *some
      volumeMounts:
        - {name: workspace, mountPath: /workspace, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        ${mounts}
  volumes:
    - name: workspace
      persistentVolumeClaim: {claimName: workspace}
    - name: tmp
      emptyDir: {}
YAML
}

main "$@"
