#!/usr/bin/env bash
# What a person asks the cluster when something waits. It only reads. Use: make status [NAMESPACE=mlpipeline].
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/advice.sh

main() {
  SINCE=$(since || true)
  section "cluster" kubectl config current-context
  section "platform: deployments that are not ready" unready_deployments
  section "workflows" newest workflows.argoproj.io
  section "steps that wait or failed, and why" troubled_steps
  section "versions that were held back, or let pass by force, and why" gated
  section "training jobs" newest tfjobs.kubeflow.org
  section "training jobs in queues, and why they wait" queued
  section "model" model
  section "models that TensorFlow serves, and why" served_by_tensorflow
  section "its address" ours get service/inference
  section "workspace" ours get persistentvolumeclaims
  section "pods that do not run, and why" troubled_pods
  section "latest warnings" warnings
}

# What ended before does not matter any more: before the last hour, all that runs, and the newest workflow.
since() {
  ours get workflows.argoproj.io --sort-by .metadata.creationTimestamp --no-headers --output \
    'custom-columns=:.metadata.creationTimestamp,:.status.phase' 2>/dev/null |
    awk -v since="$(date --utc --date '1 hour ago' +%FT%TZ)" '{ newest = $1 }
      ($2 == "Running" || $2 == "Pending" || $2 == "<none>") && $1 < since { since = $1 }
      END { if (newest) print newest < since ? newest : since }'
}

section() { # TITLE COMMAND...
  local text
  text=$("${@:2}" 2>&1) || true # what cannot be told must not hide the rest
  echo "$1"
  if [[ -n $text ]]; then
    { echo "$text" && advise "$text"; } | sed 's/^/  /'
  fi
  echo
}

newest() { ours get "$1" --sort-by .metadata.creationTimestamp | last 5; } # KIND
unready_deployments() { # of ours those, too, that were scaled to none
  kubectl get deployments --all-namespaces --label-columns app.kubernetes.io/part-of |
    awk 'NR == 1 || split($3, ready, "/") && (ready[1] != ready[2] || !ready[2] && $NF == "mlpipeline")'
}

# Of the workflows that matter. One that nobody has looked at says so; a message may have several lines.
troubled_steps() {
  # shellcheck disable=SC2016 # these are the template's variables
  ours get workflows.argoproj.io --sort-by .metadata.creationTimestamp --output "go-template={{range .items}}\
{{if ge .metadata.creationTimestamp \"$SINCE\"}}{{\$run := .metadata.name}}"'{{if not .status.phase}}{{$run}}: Argo '\
'has not begun it; if that stays so, look at the deployment workflow-controller{{"\n"}}{{end}}'\
'{{range .status.nodes}}{{if and .message (ne .phase "Succeeded") (ne .phase "Omitted") (ne .type "DAG") '\
'(ne .type "Retry") (ne .type "TaskGroup")}}{{$run}}, {{.displayName}}, {{.phase}}: {{.message}}{{"\n"}}'\
'{{end}}{{end}}{{end}}{{end}}' | own_messages
}

queued() { # Kueue is optional
  [[ -n $(kubectl get crd workloads.kueue.x-k8s.io --ignore-not-found --output name) ]] || return 0
  ours get workloads.kueue.x-k8s.io --output 'custom-columns=JOB:.metadata.ownerReferences[0].name,'\
'QUEUE:.spec.queueName,PRIORITY:.spec.priorityClassName,ENDED:.status.conditions[?(@.type=="Finished")].status,'\
'WHY:.status.conditions[?(@.type=="QuotaReserved")].message' |
    awk 'NR == 1 || $4 != "True"'
}

# KServe calls a service ready for as long as pods of an older version answer: what pods there are counts.
model() {
  ours get deployments --selector component=predictor --output 'custom-columns='\
'MODEL:.metadata.labels.serving\.kserve\.io/inferenceservice,'\
'VERSION:.spec.template.metadata.annotations.mlpipeline/version,'\
'WANTED:.metadata.generation,SEEN:.status.observedGeneration,'\
'NEW:.status.updatedReplicas,ALL:.status.replicas,ANSWER:.status.availableReplicas,'\
'WHY:.status.conditions[?(@.status=="False")].message' |
    awk 'function row(model, version, ready, why) { printf "%-24s %-44s %-6s %s\n", model, version, ready, why }
      NR == 1 { row("MODEL", "VERSION", "READY", "WHY"); next }
      $3 == $4 && $5 == $6 && $6 == $7 { row($1, $2, "True", ""); next }
      { why = $5 + 0 " of " $6 + 0 " replicas are of it, " $7 + 0 " answer"
        for (n = 8; n <= NF; n++) if ($n != "<none>") why = why (n == 8 ? ": " : " ") $n
        row($1, $2, "False", why) }'
}

troubled_pods() {
  # A pod that no node takes says why in its condition, one that does not start in its container.
  ours get pods --field-selector status.phase!=Succeeded --output 'custom-columns=SINCE:.metadata.creationTimestamp,'\
'POD:.metadata.name,PHASE:.status.phase,WAITS:.status.containerStatuses[*].state.waiting.reason,'\
'ENDED:.status.containerStatuses[*].state.terminated.reason,BEFORE:.status.containerStatuses[*].lastState.terminated.reason,'\
'WHY:.status.conditions[?(@.status=="False")].message' |
    awk -v since="$SINCE" 'NR == 1 || !/ Running +<none> +<none> +[^ ]+ +<none>$/ && ($3 != "Failed" || $1 >= since)'
}

warnings() { # the first line of each: a message may be the end of a log. Argo's are told above.
  ours get events --field-selector type=Warning --sort-by .lastTimestamp --output 'custom-columns='\
'LAST:.lastTimestamp,OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message' |
    awk -v since="$SINCE" 'NR == 1 || /^(<none>|[0-9]+-[0-9]+-[0-9]+T)/ && $1 >= since && $3 !~ /^Workflow/' | own_lines | last 10
}

last() { # COUNT: the head line and the last ones
  awk -v count="$1" 'NR == 1 { print; next } { line[NR] = $0 }
    END { for (n = NR > count ? NR - count + 1 : 2; n <= NR; n++) if (n > 1) print line[n] }'
}

main
