"""The bash scripts: small, checked, and called by what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.not_tested import needs

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
LIBRARIES = {"lib.sh", "wait.sh", "apply.sh", "platform.sh", "system.sh"}  # they are sourced
MAKEFILE = (ROOT / "Makefile").read_text()
# That of the environment first, as in `make check`.
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent) or "shellcheck"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_small_and_introduces_itself(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) <= 105
    is_library = script.name in LIBRARIES
    assert os.access(script, os.X_OK) is not is_library
    assert lines[0] == ("# shellcheck shell=bash" if is_library else "#!/usr/bin/env bash")
    assert re.match(r"# [A-Z]\S+ \S+", lines[1])
    if not is_library:
        assert "set -euo pipefail" in lines


@needs(SHELLCHECK, to_do="make .venv/.ready")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        [SHELLCHECK, "-x", *(f"scripts/{script.name}" for script in SCRIPTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_script_that_is_called_is_there_and_each_is_called() -> None:
    callers = [MAKEFILE, *(script.read_text() for script in SCRIPTS)]
    called = set(re.findall(r"scripts/(\w+\.sh)", "".join(callers))) - LIBRARIES
    assert called == {script.name for script in SCRIPTS} - LIBRARIES


def test_no_error_is_told_but_by_the_rule() -> None:
    told = [s.name for s in SCRIPTS if re.search(r"(echo|printf) ['\"]error: ", s.read_text())]
    assert told == ["lib.sh"]


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ("exit 1", "kind does not say which clusters there are"),
        ("echo mlpipeline", "there is a kind cluster `mlpipeline` already"),
    ],
)
def test_the_smoke_test_removes_no_cluster_that_it_has_not_made(
    tmp_path: Path, clusters: str, said: str
) -> None:
    calls = tmp_path / "calls"
    for program in ("kind", "make", "docker", "kubectl"):
        stub = tmp_path / program
        stub.write_text(f'#!/bin/sh\necho "{program} $*" >>{calls}\n{clusters}\n')
        stub.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/smoke.sh"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert calls.read_text() == "kind get clusters\n"


@pytest.mark.parametrize(
    ("configuration", "parameters", "said"),
    [
        (
            "name: m\ndata: {revision: '{{workflow.name}}'}",
            [],
            "data: {revision: '{{workflow.name}}'}",
        ),
        ("name: m", ["workers=2", "model={{=1+1}}"], "the parameter `model` has double braces"),
    ],
)
def test_what_argo_would_evaluate_is_not_submitted(
    tmp_path: Path, configuration: str, parameters: list[str], said: str
) -> None:
    (tmp_path / "my.yaml").write_text(configuration)
    for program in ("argo", "kubectl"):
        stub = tmp_path / program
        stub.write_text(f'#!/bin/sh\necho "{program} $*" >>{tmp_path}/calls\n')
        stub.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/submit.sh", "image:1", tmp_path / "my.yaml", *parameters],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "to do: " in done.stderr
    assert not (tmp_path / "calls").exists()
