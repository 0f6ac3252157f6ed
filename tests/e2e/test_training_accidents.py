"""What becomes of a run when something dies or is ended in the middle of its training."""

from __future__ import annotations

import time
from functools import partial

import pytest

from support.pipelines import states
from support.workflows_on_kind import (
    LONG,
    Runs,
    configuration,
    delete_pod,
    find,
    get,
    kill_container,
    task_of,
    wait_until,
)

pytestmark = pytest.mark.timeout(1200)

# Its jobs are deleted at once; their pods have 30 s to end.
SECONDS_TO_STOP = 90


@pytest.mark.parametrize("worker", [1, 0])
def test_a_training_goes_on_from_its_checkpoint_when_a_worker_is_killed(
    runs: Runs, worker: int
) -> None:
    run = runs.submit(configuration({"long": LONG}))
    training = run.wait_until_training("long")
    before = training.uids()
    kill_container(training.workers()[f"{training.name}-worker-{worker}"])
    record = run.assert_succeeds()
    training.assert_resumed(before)
    # The operator mended it: for the step it was one job all along.
    assert [job["metadata"]["uid"] for job in run.jobs()] == [training.uid]
    assert task_of(record, "train-long")["retries"] == []


@pytest.mark.parametrize(("worker", "now"), [(1, True), (0, True), (1, False)])
def test_a_training_goes_on_from_its_checkpoint_when_a_workers_pod_is_deleted(
    runs: Runs, worker: int, now: bool
) -> None:
    run = runs.submit(configuration({"long": LONG}))
    training = run.wait_until_training("long")
    before = training.uids()
    delete_pod(training.workers()[f"{training.name}-worker-{worker}"], now=now)
    record = run.assert_succeeds()
    training.assert_resumed(before)
    # For the operator the job has failed; the step has applied it again.
    assert [job["metadata"]["name"] for job in run.jobs()] == [training.name]
    assert task_of(record, "train-long")["retries"] == []


@pytest.mark.parametrize("now", [True, False])
def test_another_pod_waits_for_the_same_training_when_the_steps_own_is_deleted(
    runs: Runs, now: bool
) -> None:
    run = runs.submit(configuration({"long": LONG}))
    training = run.wait_until_training("long")
    workers = training.uids()
    step = run.step_pod("train")
    assert step is not None, run.describe()
    delete_pod(step, now=now)
    record = run.assert_succeeds()

    assert [job["metadata"]["uid"] for job in run.jobs()] == [training.uid]
    assert training.uids() == workers
    (waited,) = [p for p in run.step_pods("train") if p["status"]["phase"] == "Succeeded"]
    assert waited["metadata"]["uid"] != step["metadata"]["uid"]
    # Argo tries the step once more. Where the pod was gone before that was noted, it may take this
    # for an attempt whose pod is still to be made, and make one of the same name.
    attempts = len(run.nodes("train-pod"))
    assert attempts in ({1, 2} if now else {2})
    assert len(task_of(record, "train-long")["retries"]) == attempts - 1


def is_gone(job: str) -> bool:
    return not get("tfjob", job) and not find("pods", f"training.kubeflow.org/job-name={job}")


def test_nothing_of_a_workflow_goes_on_once_it_is_stopped(runs: Runs) -> None:
    run = runs.submit(configuration({"long": LONG, "other": LONG | {"flip": True}}))
    wait_until(lambda: len(run.jobs()) == 2, "both trainings")
    jobs = [job["metadata"]["name"] for job in run.jobs()]
    run.stop()
    began = time.monotonic()
    for job in jobs:
        wait_until(partial(is_gone, job), f"the end of {job}", SECONDS_TO_STOP)
    print(f"jobs and workers were gone after {time.monotonic() - began:.0f} s")
    assert run.wait() == "Failed"
    record = run.record()
    assert record["state"] == "interrupted"
    # Argo may have had the time to note what it leaves out.
    assert {name: state for name, state in states(record).items() if state != "skipped"} == {
        "plan": "succeeded",
        "ingest": "reused",
        "train-long": "failed",
        "train-other": "failed",
    }


def test_a_run_goes_on_when_argos_controller_is_started_anew(runs: Runs) -> None:
    run = runs.submit(configuration({"long": LONG}))
    training = run.wait_until_training("long")
    (controller,) = find("pods", "app=workflow-controller")
    delete_pod(controller, now=True)
    record = run.assert_succeeds()
    assert [job["metadata"]["uid"] for job in run.jobs()] == [training.uid]
    assert {task["name"]: task["retries"] for task in record["tasks"] if task["retries"]} == {}
