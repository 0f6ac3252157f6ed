"""A run that cannot succeed ends in minutes, and says why where one looks first."""

from __future__ import annotations

import time

import pytest

from support.pipelines import states
from support.workflows_on_kind import (
    QUICK,
    Runs,
    configuration,
    get,
    patched,
    task_of,
)

pytestmark = pytest.mark.timeout(1500)

# The model's function has no such option: an error of the configuration that only training finds.
WRONG = QUICK | {"options": {"colour": "blue"}}


def test_selection_goes_on_without_a_candidate_that_cannot_be_trained(runs: Runs) -> None:
    content = configuration({"sound": QUICK, "wrong": WRONG})
    first = runs.submit(content).assert_succeeds()
    assert states(first)["train-wrong"] == "failed"
    assert "colour" in task_of(first, "train-wrong")["error"]
    again = runs.submit(content).assert_succeeds()
    assert states(again) == {
        "plan": "succeeded",
        "ingest": "reused",
        "train-sound": "reused",
        "train-wrong": "failed",
        "select": "succeeded",  # the missing candidate might have been there: it looks, and is done
        "gate": "succeeded",  # it looks at what is current
        "serve": "reused",  # it looks at what is served
        "verify": "reused",
    }


def test_a_run_without_any_candidate_fails_with_the_reason(runs: Runs) -> None:
    run = runs.submit(configuration({"wrong": WRONG, "too": WRONG | {"flip": True}}))
    assert run.wait() == "Failed"
    record = run.record()
    assert record["state"] == "failed"
    assert "colour" in record["error"]
    assert "colour" in run.describe()
    assert get("inferenceservice", run.content["name"]) is None


def test_a_request_that_no_node_can_meet_ends_with_the_schedulers_reason(runs: Runs) -> None:
    container = {"name": "tensorflow", "resources": {"requests": {"memory": "500Gi"}}}
    container["resources"] |= {"limits": {"memory": "500Gi"}}  # type: ignore[operator]
    worker = {"template": {"spec": {"containers": [container]}}}
    began = time.monotonic()
    with patched("tfjob", {"spec": {"tfReplicaSpecs": {"Worker": worker}}}):
        run = runs.submit(configuration({"huge": QUICK}), **{"pending-seconds": "30"})
        assert run.wait(300) == "Failed"
    print(f"it took {time.monotonic() - began:.0f} s")
    record = run.record()
    assert "Insufficient memory" in record["error"]
    assert "Insufficient memory" in run.describe()
    assert run.jobs() == []
