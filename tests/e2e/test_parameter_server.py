"""Training with a chief, a parameter server and workers as pods, some of which die on the way."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlpipeline.store import artifacts
from support.workflows_on_kind import (
    LONG,
    WORKSPACE,
    Run,
    Runs,
    Training,
    configuration,
    delete_pod,
    kill_container,
    kubectl,
    task_of,
)

pytestmark = pytest.mark.timeout(1200)

ROLES = ("chief-0", "ps-0", "worker-0", "worker-1")


def with_parameter_server() -> dict[str, Any]:
    content = configuration({"long": LONG})
    content["training"] |= {"strategy": "parameter_server"}
    return content


def log_of_chief(training: Training) -> str:
    """What it has printed since it was last started."""
    return kubectl("logs", f"{training.name}-chief-0")


def restarted(training: Training, before: dict[str, str]) -> set[str]:
    """The roles whose pods are others than before."""
    after = training.uids()
    assert set(after) == set(before) == {f"{training.name}-{role}" for role in ROLES}
    return {role for role in ROLES if after[(pod := f"{training.name}-{role}")] != before[pod]}


def is_the_same_job(run: Run, training: Training) -> bool:
    """Whether the operator has mended it, so that for the step it was one job all along."""
    (job,) = run.jobs()
    return bool(job["metadata"]["uid"] == training.uid)


def assert_trained(run: Run) -> None:
    record = run.assert_succeeds()
    assert task_of(record, "train-long")["retries"] == []
    candidate = WORKSPACE / "candidates" / run.keys()["train-long"]
    metrics = artifacts.read_json(candidate / "metrics.json")
    assert (metrics["status"], metrics["workers"]) == ("trained", 2)
    assert metrics["validation_accuracy"] > 0.95


@pytest.mark.parametrize("how", ["process", "pod"])
def test_training_goes_on_without_a_lost_worker_which_comes_back(runs: Runs, how: str) -> None:
    run = runs.submit(with_parameter_server())
    training = run.wait_until_training("long")
    before = training.uids()
    worker = training.workers()[f"{training.name}-worker-1"]
    if how == "process":
        kill_container(worker)
    else:
        delete_pod(worker, now=True)  # as when its node is gone
    assert_trained(run)
    if how == "pod" and not is_the_same_job(run, training):
        # What the operator saw last of the pod made it call the whole job failed.
        assert "resuming" in log_of_chief(training)
        return
    assert is_the_same_job(run, training)
    assert restarted(training, before) == {"worker-1"}
    assert "resuming" not in log_of_chief(training)


def test_training_resumes_when_its_parameter_server_is_killed(runs: Runs) -> None:
    run = runs.submit(with_parameter_server())
    training = run.wait_until_training("long")
    before = training.uids()
    kill_container(training.workers()[f"{training.name}-ps-0"])
    assert_trained(run)
    assert is_the_same_job(run, training)
    assert restarted(training, before) == {"ps-0", "chief-0"}
    (step,) = re.findall(r"resuming at step (\d+)", log_of_chief(training))
    assert int(step) > 0
