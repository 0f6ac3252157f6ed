#!/usr/bin/env bash
# Runs rings of tests, each after the one before has passed, and ends with what could not be tested here.
# Use: test.sh RING... where a ring is a folder of tests/
set -euo pipefail
cd "$(dirname "$0")/.."

NOT_TESTED=$(mktemp)
export NOT_TESTED # tests/support/not_tested.py writes it
finish() {
  local status=$?
  if [[ -s $NOT_TESTED ]]; then
    echo "NOT TESTED on this machine:"
    sort -u "$NOT_TESTED" | sed 's/^/  - /'
  fi
  rm -f "$NOT_TESTED"
  exit "$status"
}
trap finish EXIT

for ring; do
  began=$SECONDS
  case $ring in
    unit) .venv/bin/pytest tests/unit --numprocesses auto --dist worksteal ;;
    # A file is one worker's, with the folders that its tests share. More workers would want more memory.
    integration)
      scripts/browser.sh
      .venv/bin/pytest tests/integration tests/contract --numprocesses auto --maxprocesses 4 --dist loadfile
      ;;
    *) .venv/bin/pytest "tests/$ring" ;;
  esac
  echo "── $ring: $((SECONDS - began)) s"
done
