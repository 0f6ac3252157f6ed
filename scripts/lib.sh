# shellcheck shell=bash
# What the scripts beside this one share: where the pipeline is, how an error is told, and what is
# asked of the cluster. It is sourced, not run.

# Where a release lives, and its name: of what has no namespace, such as its volume. Both may be set
# by whoever calls (make NAMESPACE=other RELEASE=other).
readonly NAMESPACE=${NAMESPACE:-mlpipeline}
readonly RELEASE=${RELEASE:-$NAMESPACE}
# Where its workspace is on kind's nodes; on this machine that is workspace-kind.
WORKSPACE_FOLDER=/workspace
[[ $RELEASE == mlpipeline ]] || WORKSPACE_FOLDER=/workspace/releases/$RELEASE
readonly WORKSPACE_FOLDER
export WORKSPACE_FOLDER

# Every error says what there is, what should be there, and what to do.
fail() { # GOT EXPECTED TO-DO
  printf 'error: %s\n  expected: %s\n  to do:    %s\n' "$@" >&2
  exit 1
}

# Names that are part of objects' names must be such names themselves.
for name in "$NAMESPACE" "$RELEASE"; do
  [[ $name =~ ^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || fail "the name \`$name\`" \
    "lower-case letters, digits and dashes, 40 at most" "make deploy NAMESPACE=other RELEASE=other"
done
unset name

# Which cluster this acts on, and whether it answers.
say_context() {
  local context server
  context=$(kubectl config current-context 2>/dev/null) || fail "kubectl has no current context" \
    "a cluster" "make cluster, or kubectl config use-context NAME"
  server=$(kubectl config view --minify --output 'jsonpath={.clusters[0].cluster.server}')
  echo "cluster: $context ($server), namespace: $NAMESPACE, release: $RELEASE"
  kubectl version --request-timeout 10s >/dev/null 2>&1 || fail "$server does not answer" \
    "a cluster that runs" "make cluster, or kubectl config use-context NAME"
}

# kubectl in the release's namespace.
ours() { kubectl --namespace "$NAMESPACE" "$@"; }

# The value of an object's field; fails if there is none.
field() { # NAMESPACE OBJECT PATH
  kubectl get "$2" ${1:+--namespace "$1"} --ignore-not-found --output "jsonpath={$3}" | grep .
}

# What our own code has written, out of the logs of pods: without the lines of Argo's executor, and of
# TensorFlow before it can be told to be quiet.
own_lines() {
  grep --line-buffered -Ev ' argo=true|Error: exit status [0-9]+$|absl::InitializeLog|oneDNN custom operations|'\
'cpu_feature_guard|To enable the following instructions' || true # it may be that there are none
}

# The same of the messages of steps: what ended one that said nothing stands before the end of its log.
own_messages() {
  sed -E 's/(\(exit code -?[0-9]+\)): (.*absl::InitializeLog|.*oneDNN custom operations|time=").*/\1/; /^ *$/d' | own_lines
}

# Models that TensorFlow serves, each with the reason: LiteRT cannot, or the configuration.
served_by_tensorflow() {
  # shellcheck disable=SC2016 # these are the template's variables
  ours get inferenceservices.serving.kserve.io --output 'go-template={{range .items}}{{$name := .metadata.name}}'\
'{{with .metadata.annotations}}{{with index . "mlpipeline/why-tensorflow"}}{{$name}}: {{.}}{{"\n"}}{{end}}{{end}}{{end}}'
}

# Of workflows since SINCE, what their gates and trials have said that is more than that all is well.
gated() {
  # shellcheck disable=SC2016 # these are the template's variables
  ours get workflows.argoproj.io --sort-by .metadata.creationTimestamp --output "go-template={{range .items}}\
{{if ge .metadata.creationTimestamp \"$SINCE\"}}{{\$run := .metadata.name}}"'{{range .status.nodes}}'\
'{{if and .templateName .outputs}}{{if and (or (eq .templateName "gate") (eq .templateName "canary-pod")) (eq .type "Retry")}}'\
'{{range .outputs.parameters}}{{if eq .name "said"}}{{$run}}: {{.value}}{{"\n"}}{{end}}{{end}}'\
'{{end}}{{end}}{{end}}{{end}}{{end}}' |
    awk '!/^[^ ]+: passed: / || /^[^ ]+: passed: forced by /'
}
