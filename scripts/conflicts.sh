# shellcheck shell=bash
# What becomes of objects that somebody has changed by hand since `make deploy` wrote them. Sourced.

as_ours() { # FILE [OPTIONS]
  kubectl apply --server-side --field-manager mlpipeline ${FORCE:+--force-conflicts} --filename "$@"
}

# Somebody has changed by hand what the manifests say: which fields of which objects, and who it was.
explain_refusal() { # FOLDER
  local document answer found=''
  if ! grep -q 'Apply failed with' "$1/errors"; then
    cat "$1/errors" >&2
    return 1
  fi
  for document in $(split "$1/ours.yaml"); do
    if answer=$(as_ours "$document" --dry-run=server 2>&1); then continue; fi
    found+=$(conflicts <<<"$answer" | awk -v object="$(object_of "$document")" \
      '{ printf "\n    %s: %s, by %s", object, $1, $2 }')
  done
  grep '^Error from server' "$1/errors" >&2 || true # what else is wrong
  fail "these fields were changed since \`make deploy\` wrote them:$found" \
    "what is in manifests/" "make deploy FORCE=1 takes them back; to keep them write them into manifests/"
}

# What an operator tunes: values that he has set stay, and what is new beside them comes.
apply_settings() { # FOLDER
  local document answer manager field object
  for document in $(split "$1/settings.yaml"); do
    if answer=$(as_ours "$document" 2>&1); then continue; fi
    object=$(object_of "$document")
    while read -r field manager; do
      sed -i "/^  ${field#.data.}: /d" "$document"
      echo "$object: $field stays as it was set (by $manager)" >>"$SCRATCH/kept"
    done < <(conflicts <<<"$answer")
    sed -i '/^data:$/{N;/\n /!s/^data:\n//}' "$document" # nothing is left in it
    as_ours "$document"
  done
}

conflicts() { # What kubectl says on standard input: a line for each field, with who has changed it
  awk '/conflicts? with "/ { manager = $0; sub(/.*conflicts? with "/, "", manager); sub(/".*/, "", manager) }
    match($0, /(: |^- )\./) { print substr($0, RSTART + RLENGTH - 1), manager }'
}

split() { # FILE: writes each of its documents to a file of its own; prints their names
  awk -v RS='\n---\n' -v name="$1" 'NF { file = name "-" NR; print >file; close(file); print file }' "$1"
}

object_of() { # FILE with one document
  awk '/^kind: / { kind = tolower($2) } /^[a-z]/ { part = $1 }
    part == "metadata:" && /^  name: / { name = $2 } END { print kind "/" name }' "$1"
}
