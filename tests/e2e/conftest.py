"""What the tests on a cluster share."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import support.workflows_on_kind as kind


@pytest.fixture
def runs() -> Iterator[kind.Runs]:
    """Submits workflows; at the end of the test they and their models are gone."""
    with kind.runs() as made:
        yield made


@pytest.fixture(autouse=True, scope="session")
def _platform() -> None:
    """There is a cluster with the platform, or all tests fail."""
    try:
        kind.kubectl("get", "configmap/templates", "deployment/workflow-controller")
    except (AssertionError, OSError) as error:
        pytest.fail(f"these tests need the kind cluster: `make cluster deploy`\n{error}")


@pytest.fixture(scope="module")
def kueue() -> Iterator[None]:
    """Kueue is there; if it was not, no other test's jobs are put in a queue afterwards."""
    if kind.get("crd", "clusterqueues.kueue.x-k8s.io"):
        yield
        return
    kind.call(str(kind.ROOT / "scripts" / "deploy.sh"), "queued", seconds=900)
    yield
    change = {"data": {"tfjob.queue.patch.yaml": None}}
    kind.kubectl("patch", "configmap", "templates", "--type=merge", "-p", json.dumps(change))
