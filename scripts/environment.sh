#!/usr/bin/env bash
# Makes a virtual environment of the packages of a lock file, by hash and with compiled bytecode.
# Use: environment.sh VENV LOCK PYTHON UV_VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/system.sh

readonly VENV=$1 LOCK=$2 PYTHON=$3 UV_VERSION=$4

create() {
  if command -v uv >/dev/null; then # it also brings a Python, if there is none
    uv venv --quiet --clear --python "${PYTHON:->=3.11,<3.13}" "$VENV"
    return
  fi
  local python
  python=$(python_with_venv)
  "$python" -m venv --clear "$VENV"
  "$VENV/bin/pip" install --quiet "uv==$UV_VERSION"
}

python_with_venv() { # Debian and Ubuntu leave out of Python what `venv` needs, until one asks for it
  local package
  package=$(basename "${PYTHON:-python3}")-venv
  if ! works "$PYTHON"; then
    can_install || fail "no Python 3.11 or 3.12 that can make an environment" "one with \`venv\`" \
      "sudo apt-get install $package; or install uv; or name one: make PYTHON=..."
    install_packages "$package" >&2
  fi
  works "${PYTHON:-python3}" || fail "Debian brings no Python 3.11 or 3.12" "one with \`venv\`" "name one: make PYTHON=..."
  echo "${PYTHON:-python3}"
}

works() { # PYTHON
  [[ -n $1 ]] && "$1" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null
}

echo "making the environment $VENV, which takes a minute or two" >&2
create
uv=$(command -v uv || echo "$VENV/bin/uv")
export VIRTUAL_ENV=$VENV
"$uv" pip install --quiet --compile-bytecode --require-hashes -r "$LOCK"
