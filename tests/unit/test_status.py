"""`make status`: a version is called ready only if it, and nothing else, is served."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "MODEL VERSION WANTED SEEN NEW ALL ANSWER WHY"


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ("shirts shirts-1 3 3 2 2 2 <none>", ["shirts", "shirts-1", "True"]),
        ("shirts shirts-2 4 3 2 2 2 <none>", ["shirts", "shirts-2", "False"]),  # not looked at yet
        ("shirts shirts-2 4 4 1 3 2 <none>", ["False", "1 of 3 replicas are of it, 2 answer\n"]),
        (
            "shirts shirts-1 1 1 1 1 <none> Deployment does not have minimum availability.",
            ["False", "1 of 1 replicas are of it, 0 answer: Deployment does not have minimum"],
        ),
    ],
)
def test_what_is_not_wholly_served_is_not_called_ready(
    tmp_path: Path, deployment: str, said: list[str]
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"#!/bin/sh\ncase $* in *component=predictor*) echo '{HEAD}'; echo '{deployment}';; esac\n"
    )
    kubectl.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "status.sh"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    place = done.stdout.index("MODEL")
    line = done.stdout[place:].splitlines(keepends=True)[1]
    assert [part for part in said if part not in line] == []
    assert line.count("True") + line.count("False") == 1
