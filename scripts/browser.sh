#!/usr/bin/env bash
# Sees to a browser for the tests of the report: Chromium and its driver from Debian, where there is none
# and this user may install packages. Anywhere else the tests ask Selenium's own manager for one; what
# it cannot bring is listed at the end of `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/system.sh

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [[ -n $browser ]] && command -v chromedriver >/dev/null; then
  exit
fi
# Ubuntu's package of that name only leads to its own store.
if can_install && grep -qx 'ID=debian' /etc/os-release; then
  install_packages chromium chromium-driver || echo "could not; Selenium's manager will be asked for one"
fi
