"""Overlays that no cluster of ours runs, shown to a real API server: it checks every field, admits
every object, and keeps nothing. (For `queued` it must have heard of queues.)
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = sorted(folder.name for folder in (MANIFESTS / "overlays").iterdir())


def _kubectl(*arguments: str, send: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=send, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_would_take_the_overlay(
    overlay: str, request: pytest.FixtureRequest
) -> None:
    if overlay == "queued":
        request.getfixturevalue("kueue")
    # In another namespace than the one that is deployed, so that nothing meets an object that is
    # there: a claim, for one, cannot change its class.
    rendered = _kubectl("kustomize", str(MANIFESTS / "overlays" / overlay))
    objects = [d for d in yaml.safe_load_all(rendered) if d["kind"] != "Namespace"]
    for manifest in objects:
        if "namespace" in manifest["metadata"]:
            manifest["metadata"]["namespace"] = "default"
        for port in manifest.get("spec", {}).get("ports", []):
            port.pop("nodePort", None)  # the deployed Service has them
    answers = _kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict"),
        *("--field-manager", "mlpipeline", "--filename", "-"),
        send=yaml.safe_dump_all(objects),
    )
    assert len(answers.splitlines()) == len(objects)
    assert answers.count("serverside-applied (server dry run)") == len(objects)
