# shellcheck shell=bash
# Rendering manifests and applying them. Sourced.

source scripts/conflicts.sh

# Render a folder of manifests/ that is the same for every release.
render() { # FOLDER
  kubectl kustomize "manifests/$1"
}

# Render a folder for this release: in its namespace, and under its name where there is none.
# The kustomization that does it stays in .deployed/, to be read, compared (kubectl diff -k) or kept.
render_release() { # FOLDER
  local folder=".deployed/$RELEASE/${1##*/}"
  mkdir -p "$folder"
  {
    echo "# Written by scripts/apply.sh: manifests/$1, as the release $RELEASE in the namespace $NAMESPACE."
    cat <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: $NAMESPACE
resources: [../../../manifests/$1]
YAML
    if [[ $1 == overlays/* ]]; then
      cat <<YAML
components:
  - ../../../manifests/components/release
$([[ $RELEASE == mlpipeline ]] || echo "  - ../../../manifests/components/any-node-port")
configMapGenerator:
  - name: release
    options:
      disableNameSuffixHash: true
      annotations: {config.kubernetes.io/local-config: "true"}
    literals: [namespace=$NAMESPACE, name=$RELEASE, folder=$WORKSPACE_FOLDER]
labels:
  - pairs: {app.kubernetes.io/instance: $RELEASE}
YAML
    fi
  } >"$folder/kustomization.yaml"
  kubectl kustomize "$folder"
}

# Definitions first: a controller that starts before what it watches is defined gives up. Server-side,
# because KServe's are too long for the annotation of the other way, and so that what controllers add
# (certificates, the memo's data) stays.
apply() { # YAML on standard input
  local yaml definitions
  yaml=$(mktemp "$SCRATCH/XXXXXX") definitions=$(mktemp "$SCRATCH/XXXXXX")
  cat >"$yaml"
  documents '/(^|\n)kind: CustomResourceDefinition\n/' <"$yaml" >"$definitions"
  if [[ -s $definitions ]]; then
    server_side <"$definitions"
    await "" "definitions to be established" \
      kubectl wait --filename "$definitions" --for condition=Established --timeout 5s
  fi
  documents '!/(^|\n)kind: CustomResourceDefinition\n/' <"$yaml" | server_side
}

documents() { awk -v RS='\n---\n' -v ORS='\n---\n' "$1"; } # CONDITION: the documents that meet it

server_side() { # YAML on standard input
  local folder
  folder=$(mktemp -d "$SCRATCH/XXXXXX")
  documents 1 >"$folder/all.yaml"
  documents '!/\n    app.kubernetes.io\/component: settings\n/' <"$folder/all.yaml" >"$folder/ours.yaml"
  documents '/\n    app.kubernetes.io\/component: settings\n/' <"$folder/all.yaml" >"$folder/settings.yaml"
  if [[ -s $folder/ours.yaml ]]; then
    as_ours "$folder/ours.yaml" 2>"$folder/errors" || explain_refusal "$folder" || return
  fi
  if [[ -s $folder/settings.yaml ]]; then apply_settings "$folder"; fi
}
