"""Whatever runs in CI is a target of the Makefile, and what the Makefile tests runs in CI.

Actions of others are pinned by commit, jobs have the rights that they need, and the shell in the
workflows can be run: here, where its commands are replaced by ones that only write down their call.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
}
CI = WORKFLOWS["ci"]
_NAMED_JOBS = {
    f"{workflow}-{name}": job
    for workflow, content in WORKFLOWS.items()
    for name, job in content["jobs"].items()
}
JOBS = [pytest.param(job, id=name) for name, job in _NAMED_JOBS.items()]
STEPS: list[dict[str, Any]] = [step for job in _NAMED_JOBS.values() for step in job["steps"]]
SCRIPTS = [step["run"] for step in STEPS if "run" in step]
COMMITS = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1",
    "actions/setup-python": "5fda3b95a4ea91299a34e894583c3862153e4b97",
    "actions/upload-artifact": "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f",
    "astral-sh/setup-uv": "20cfd1bf945f4377ade1205e4dbc17946fc9a30d",
    "helm/kind-action": "ef37e7f390d99f746eb8b610417061a60e82a6cc",
}


def _called(text: str) -> set[str]:
    """Return the targets of the Makefile that a script calls."""
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    calls = re.findall(r"\bmake((?: [a-z][a-z0-9-]*(?![a-z0-9-=]))+)", code)
    return {target for call in calls for target in call.split()}


@pytest.mark.parametrize("tested", ["check", "test", "smoke"])
def test_both_kinds_of_ci_call_the_target(tested: str) -> None:
    steps = [step for job in CI["jobs"].values() for step in job["steps"]]
    assert tested in _called("\n".join(step.get("run", "") for step in steps))
    called = _called((ROOT / ".ci/run").read_text())
    # The tests in two parts, to say how long each took; what `smoke` does is how `e2e` begins.
    others = {"test": {"test-unit", "test-integration"}, "smoke": {"e2e"}}
    assert tested in called or others.get(tested, {tested}) <= called


def test_no_target_is_called_that_there_is_not() -> None:
    assert _called("\n".join([*SCRIPTS, (ROOT / ".ci/run").read_text()])) <= TARGETS


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_by_itself_and_says_which_rights_it_needs(job: dict[str, Any]) -> None:
    assert job["timeout-minutes"] <= 90
    assert job["permissions"]["contents"] in {"read", "write"}


def test_nothing_has_rights_by_default_and_ci_may_only_read() -> None:
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    assert all(job["permissions"] == {"contents": "read"} for job in CI["jobs"].values())


def test_actions_are_pinned_by_commit_with_their_version_beside_it() -> None:
    text = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yaml"))
    used = re.findall(r"uses: (\S+)@(\S+)(.*)", text)
    assert len(used) == sum("uses" in step for step in STEPS)
    for action, commit, comment in used:
        assert commit == COMMITS[action]
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)


def test_argo_is_as_new_here_as_in_the_cluster() -> None:
    platform = (ROOT / "manifests/platform/argo-workflows/kustomization.yaml").read_text()
    assert f"?ref={CI['jobs']['smoke']['env']['ARGO_VERSION']}" in platform


def test_the_pythons_are_those_that_the_project_supports() -> None:
    supported = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert supported is not None
    assert supported[1] == ">=3.11,<3.13"
    assert CI["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]


# --- The shell in the workflows, run ------------------------------------------------------------


_RECORDING = """#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
case "$*" in *--password-stdin*) cat >/dev/null;; esac  # who writes to a closed pipe is ended
case "${0##*/} $1 $2" in "git diff "*) exit "${CHANGED:-0}";; "gh pr view") exit 1;; esac
[ "${0##*/}" != curl ] || printf 'H4sIAAAAAAAAAwMAAAAAAAAAAAA=' | base64 -d  # an empty gzip
"""


def _run(script: str, folder: Path, **environment: str) -> list[str]:
    """Run a step as GitHub does, and return the calls of programs that would leave the machine."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir(exist_ok=True)
    calls.write_text("")
    for name in ("git", "gh", "docker", "sudo", "curl", "make"):
        (programs / name).write_text(_RECORDING)
        (programs / name).chmod(0o755)
    ghp = folder / ".venv" / "bin" / "ghp-import"
    ghp.parent.mkdir(parents=True, exist_ok=True)
    ghp.write_text(_RECORDING)
    ghp.chmod(0o755)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return calls.read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_of_a_workflow_runs(script: str, tmp_path: Path) -> None:
    assert _run(script, tmp_path, TAG="v1.2.3", IMAGE="ghcr.io/a/b", CHANGED="1", ARGO_VERSION="v3")


def _script(workflow: str, name: str) -> str:
    steps = [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]
    return next(str(step["run"]) for step in steps if step.get("name") == name)


def test_the_images_are_pushed_by_the_tags_version(tmp_path: Path) -> None:
    script = _script("release", "Push the image with its provenance")
    (call,) = _run(script, tmp_path, TAG="v1.2.3", IMAGE="ghcr.io/a/b")
    assert call == "make publish IMAGE=ghcr.io/a/b TAG=1.2.3"
    command = ["make", "--dry-run", "publish", "IMAGE=ghcr.io/a/b", "TAG=1.2.3"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for part in ("--provenance=mode=max", "--sbom=true", "--push"):
        assert shown.count(part) == 2
    assert "--tag ghcr.io/a/b:1.2.3" in shown
    assert re.search(r"--target predictor \\\n.* --tag ghcr.io/a/b-predictor:1.2.3 ", shown)


def test_unchanged_locks_open_no_pull_request(tmp_path: Path) -> None:
    script = _script("locks", "Open a pull request")
    assert _run(script, tmp_path, CHANGED="0") == ["git diff --quiet"]
    calls = _run(script, tmp_path, CHANGED="1")
    assert calls[-1] == "gh pr create --fill --head locks"
    assert "git push --force origin locks" in calls


def test_what_renovate_looks_for_is_there() -> None:
    """A pattern that matches nothing would never bring an update, and nobody would notice."""
    for manager in json.loads((ROOT / "renovate.json").read_text())["customManagers"]:
        files = [
            path
            for pattern in manager["managerFilePatterns"]
            for path in (
                "Makefile",
                "docker/Dockerfile",
                ".github/workflows/ci.yaml",
                "docker/tracking.in",
                "manifests/components/mlflow/server.yaml",
                "manifests/components/monitoring/prometheus.yaml",
            )
            if re.search(pattern.strip("/"), path)
        ]
        assert len(files) == len(manager["managerFilePatterns"])
        text = "".join((ROOT / file).read_text() for file in files)
        for pattern in manager["matchStrings"]:
            found = re.search(pattern.replace("(?<", "(?P<"), text)
            assert found, pattern
            assert re.match(r"v?\d", found["currentValue"])
