# shellcheck shell=bash
# What to do about the reasons that Kubernetes and Argo give without a remedy. Sourced, after lib.sh.
# A run's record says it in the same words: src/mlpipeline/backends/cluster/reasons.py.

advise() { # TEXT: says what to do about each reason that is in it
  local quota="kubectl -n $NAMESPACE describe resourcequota" limits=manifests/base/templates
  hint "$1" 'ErrImagePull|ImagePullBackOff|ErrImageNeverPull|InvalidImageName' \
    "\`make image\` builds the image and loads it into kind, \`make push REGISTRY=…\` sends it to a registry"
  hint "$1" 'OOMKilled' \
    "raise the memory limit (of workers and replicas in $limits, of steps in workflows/), or lower batch_size"
  hint "$1" 'exceeded quota' "ask for less (workers, replicas), or raise it: \`$quota\` says what is left"
  hint "$1" 'Insufficient |FailedScheduling' "ask for less (workers, replicas, requests), or add a node"
  awk '$3 == "0/0" { print "to do: kubectl -n " $1 " scale deployment " $2 " --replicas 1 starts it: it was scaled to none" }' \
    <<<"$1" # NAMESPACE NAME READY
  hint "$1" 'failed calling webhook' "\`make status\` says which operator is down; \`make deploy\` mends it"
  hint "$1" 'longer than the specified deadline' \
    "\`make status\` while it waits: an image that cannot be pulled, or no node with room"
  hint "$1" 'Permission denied|Read-only file system' \
    "let uid 1000 write to the workspace: on kind \`chmod -R a+rwX workspace-kind\`, elsewhere see the volume's rights"
}

hint() { # TEXT PATTERN TO-DO
  if grep -qE "$2" <<<"$1"; then echo "to do: $3"; fi
}
