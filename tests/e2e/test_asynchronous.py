"""The asynchronous mode in the cluster: a model is served while a better one is trained."""

from __future__ import annotations

import pytest

from mlpipeline.store import artifacts
from support.load_client import Asking
from support.workflows_on_kind import (
    HTTP,
    QUICK,
    WORKSPACE,
    Run,
    Runs,
    configuration,
    get,
    inference_is,
    wait_until,
)

pytestmark = pytest.mark.timeout(1200)

POOR = QUICK | {"learning_rate": 1e-7}  # learns nothing
# So long that the first is served meanwhile.
GOOD = QUICK | {"epochs": 120}


def has_a_replica(run: Run) -> bool:
    assert run.phase() in ("", "Pending", "Running"), run.describe()
    deployment = get("deployment", f"{run.content['name']}-predictor")
    return deployment is not None and deployment["status"].get("availableReplicas", 0) > 0


def test_a_model_is_served_while_a_better_one_is_trained_and_no_client_notices(runs: Runs) -> None:
    content = configuration({"poor": POOR, "good": GOOD}, asynchronous={"threshold": 0})
    run = runs.submit(content, workflow="asynchronous")
    model = content["name"]
    wait_until(lambda: has_a_replica(run), "the first version's replica")
    with inference_is(model), Asking(HTTP, model) as asking:
        wait_until(lambda: asking.versions, "an answer of the first version", 60)
        good = WORKSPACE / "candidates" / run.keys()["train-good"]
        assert not good.exists(), "it is still trained"
        record = run.assert_succeeds()
    assert asking.failures == []
    assert asking.versions == [one["version"] for one in record["served"]]
    assert [one["candidate"] for one in record["served"]] == ["poor", "good"]
    assert record["served"][0]["seconds"] < record["served"][1]["seconds"]

    synchronous = runs.submit(content)
    again = synchronous.assert_succeeds()
    selection = WORKSPACE / "selections" / run.keys()["select"]
    decision = artifacts.read_json(selection / "decision.json")
    assert decision["chosen"] == "good"
    assert [one["version"] for one in again["served"]] == [record["served"][-1]["version"]]
