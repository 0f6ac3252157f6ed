"""What the tests on a cluster share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import workflows_on_kind as kind


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
