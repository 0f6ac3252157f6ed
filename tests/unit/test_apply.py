"""`make deploy` after somebody has changed an object by hand: what stays, and what is said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

# Answers as kubectl 1.34 does: two settings, and two fields of a Deployment, are others'.
KUBECTL = r"""#!/bin/bash
file=${!#}; for word; do [[ -f $word ]] && file=$word; done
echo "$*" >>$FOLDER/calls
if [[ $* != *--force-conflicts* ]]; then
  if grep -q '^  trainings: ' $file; then
    echo -n 'error: Apply failed with 1 conflict: ' >&2
    echo 'conflict with "kubectl-edit" using v1: .data.trainings
Please review the fields above--they currently have other managers. Here' >&2
    exit 1
  fi
  if grep -q '^kind: Deployment' $file; then
    echo 'error: Apply failed with 3 conflicts: conflicts with "helm":
- .spec.paused
conflicts with "kubectl-scale" with subresource "scale" using apps/v1 at 2026-11-30T01:00:00Z:
- .spec.replicas
- .spec.template.spec.containers[name="argo-server"].image
Please review the fields above--they currently have other managers. Here' >&2
    exit 1
  fi
fi
[[ $* == *dry-run* ]] || { cat $file; echo ---; } >>$FOLDER/applied.yaml
"""
LIMITS = """apiVersion: v1
data:
  trainings: "4"
kind: ConfigMap
metadata:
  labels:
    app.kubernetes.io/component: settings
  name: limits
"""
SERVER = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: argo-server
spec:
  replicas: 1
"""
MEMO = """apiVersion: v1
kind: ConfigMap
metadata:
  name: memo
"""


def apply(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Apply documents by the function that `make deploy` calls."""
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    script = "set -euo pipefail; source scripts/lib.sh; source scripts/apply.sh; server_side"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        input=text,
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder)}
        | {"SCRATCH": str(folder), "FORCE": ""}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def applied(folder: Path) -> dict[str, dict[str, object]]:
    documents = yaml.safe_load_all((folder / "applied.yaml").read_text())
    return {each["metadata"]["name"]: each for each in documents if each}


def test_what_an_operator_has_set_stays_and_what_is_new_beside_it_comes(tmp_path: Path) -> None:
    new = LIMITS.replace("data:\n", 'data:\n  predictions: "2"\n')
    done = apply(tmp_path, f"{MEMO}---\n{new}")
    assert (done.returncode, done.stderr) == (0, "")
    assert applied(tmp_path).keys() == {"memo", "limits"}
    assert applied(tmp_path)["limits"]["data"] == {"predictions": "2"}
    kept = (tmp_path / "kept").read_text()
    assert kept == "configmap/limits: .data.trainings stays as it was set (by kubectl-edit)\n"


def test_where_all_settings_are_the_operators_none_is_written(tmp_path: Path) -> None:
    assert apply(tmp_path, LIMITS).returncode == 0
    assert "data" not in applied(tmp_path)["limits"]


def test_an_object_that_was_changed_by_hand_is_named_with_the_fields_and_who_it_was(
    tmp_path: Path,
) -> None:
    done = apply(tmp_path, f"{MEMO}---\n{SERVER}---\n{LIMITS}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:4] == [
        "    deployment/argo-server: .spec.paused, by helm",
        "    deployment/argo-server: .spec.replicas, by kubectl-scale",
        '    deployment/argo-server: .spec.template.spec.containers[name="argo-server"].image,'
        " by kubectl-scale",
    ]
    assert "make deploy FORCE=1" in done.stderr


def test_force_takes_all_back(tmp_path: Path) -> None:
    done = apply(tmp_path, f"{SERVER}---\n{LIMITS}", FORCE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert applied(tmp_path)["limits"]["data"] == {"trainings": "4"}
    assert not (tmp_path / "kept").exists()


def test_every_other_refusal_is_told_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    refusing = tmp_path / "bin" / "kubectl"
    refusing.write_text("#!/bin/sh\necho 'Error from server: no such kind' >&2\nexit 1\n")
    refusing.chmod(0o755)
    done = apply(tmp_path, SERVER, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (1, "Error from server: no such kind\n")


SCALED = """#!/bin/bash
echo "$*" >>$FOLDER/calls
case "$*" in
  *"get deployment/gone "*replicas*) echo -n 0 ;;
  *"get deployment/"*replicas*) echo -n 1 ;;
esac
"""


def roll_out(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Wait for two deployments, of which somebody has scaled the second to none."""
    (folder / "kubectl").write_text(SCALED)
    (folder / "kubectl").chmod(0o755)
    script = "set -euo pipefail; source scripts/lib.sh; source scripts/wait.sh"
    return subprocess.run(
        ["bash", "-c", f"{script}; rolled_out kserve a gone"],
        cwd=ROOT,
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder), "FORCE": ""}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_deployment_that_was_scaled_to_none_is_not_called_rolled_out(tmp_path: Path) -> None:
    done = roll_out(tmp_path)
    assert done.returncode == 1
    assert "the deployment gone of the namespace kserve is scaled to none" in done.stderr
    assert "kubectl -n kserve scale deployment gone --replicas 1, or make" in done.stderr
    assert "scale deployment/" not in (tmp_path / "calls").read_text()


def test_force_starts_it_again(tmp_path: Path) -> None:
    assert roll_out(tmp_path, FORCE="1").returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if "scale" in call] == [
        "scale deployment/gone --namespace kserve --replicas 1"
    ]
    assert calls[-1].startswith("rollout status deployment/gone ")
