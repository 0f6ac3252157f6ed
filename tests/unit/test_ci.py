"""Whatever runs in CI is a target of the Makefile, and what the Makefile tests runs in CI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())


def _called(text: str) -> set[str]:
    return set(re.findall(r"^\s*make ([a-z0-9-]+)", text, re.MULTILINE))


def _steps() -> list[dict[str, Any]]:
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("tested", ["check", "test", "smoke"])
def test_both_kinds_of_ci_call_the_target(tested: str) -> None:
    assert tested in _called("\n".join(step.get("run", "") for step in _steps()))
    assert tested in _called((ROOT / ".ci/run").read_text())


def test_no_target_is_called_that_there_is_not() -> None:
    scripts = [step.get("run", "") for step in _steps()] + [(ROOT / ".ci/run").read_text()]
    assert _called("\n".join(scripts)) <= TARGETS


def test_a_job_ends_by_itself_and_may_only_read() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in WORKFLOW["jobs"].values())


def test_argo_is_as_new_here_as_in_the_cluster() -> None:
    platform = (ROOT / "manifests/platform/argo-workflows/kustomization.yaml").read_text()
    assert f"?ref={WORKFLOW['jobs']['smoke']['env']['ARGO_VERSION']}" in platform


def test_the_pythons_are_those_that_the_project_supports() -> None:
    supported = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert supported is not None
    assert supported[1] == ">=3.11,<3.13"
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
