# shellcheck shell=bash
# What several scripts need of the machine; to be sourced.

as_root() { # COMMAND...
  if ((EUID == 0)); then "$@"; else sudo --non-interactive "$@"; fi
}

can_install() { # Debian's packages, without asking anyone for a password
  command -v apt-get >/dev/null && { ((EUID == 0)) || sudo --non-interactive true 2>/dev/null; }
}

install_packages() { # NAME...
  echo "installing Debian's packages: $*"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}
