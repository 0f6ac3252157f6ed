"""Who trains first where there is not room for all: gangs, priorities, and two teams' shares.

The queues here have the rules of the overlay's, and room for a few workers. What is asserted stays
true once it is: no test depends on how quick it looks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import yaml

from support.workflows_on_kind import (
    IMAGE,
    LONG,
    NAMESPACE,
    ROOT,
    Runs,
    Training,
    configuration,
    get,
    kubectl,
    wait_until,
)

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("kueue")]

QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"

MakeQueues = Callable[..., dict[str, str]]


@pytest.fixture
def queues() -> Iterator[MakeQueues]:
    """Makes queues for teams, with room for some workers each; returns their names."""
    cohort = f"e2e-{uuid.uuid4().hex[:6]}"
    made: dict[str, str] = {}

    def make(workers: dict[str, int]) -> dict[str, str]:
        for team, count in workers.items():
            made[team] = f"{cohort}-{team}"
            _make_queue(made[team], cohort, like=team, workers=count)
        return made

    yield make
    for name in made.values():
        kubectl("delete", "tfjobs", f"--selector={QUEUE_LABEL}={name}", "--wait=false")
        kubectl("delete", "localqueue,clusterqueue", name, "--wait=false")


def _make_queue(name: str, cohort: str, *, like: str, workers: int) -> None:
    name_of_release = f"{NAMESPACE}-{like}"  # ClusterQueues have no namespace
    deployed = get("clusterqueue", name_of_release)
    assert deployed is not None, f"no queue {name_of_release}: `make deploy OVERLAY=queued`"
    spec = deployed["spec"] | {"cohort": cohort}
    (flavor,) = spec["resourceGroups"][0]["flavors"]
    for quota in flavor["resources"]:
        room = {"cpu": f"{workers * _millicores()}m", "memory": "1Ti"}
        quota["nominalQuota"] = room.get(quota["name"], "0")
    _create("ClusterQueue", {"name": name}, spec)
    _create("LocalQueue", {"name": name, "namespace": NAMESPACE}, {"clusterQueue": name})


def _template() -> tuple[dict[str, Any], dict[str, Any]]:
    """A job as the step train knows it, and the container of its workers."""
    job = yaml.safe_load((ROOT / "manifests/base/templates/tfjob.yaml").read_text())
    (container,) = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return job, container


def _millicores() -> int:
    """What a worker asks for."""
    _, container = _template()
    return int(container["resources"]["requests"]["cpu"].removesuffix("m"))


def _start_job(queue: str, number: int, *, seconds: int, priority: str = "") -> Training:
    """Start a job of two workers that only take up room for a while."""
    labels = {QUEUE_LABEL: queue} | ({PRIORITY_LABEL: priority} if priority else {})
    job, container = _template()
    container |= {"image": IMAGE, "command": ["tini", "--", "sleep", str(seconds)]}
    job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"] = 2
    job["metadata"] |= {"name": f"{queue}-{number}", "labels": labels}
    made = json.loads(kubectl("create", "-f", "-", "--output=json", send=json.dumps(job)))
    return Training(made["metadata"]["name"], made["metadata"]["uid"])


def _create(kind: str, metadata: dict[str, str], spec: dict[str, Any]) -> None:
    manifest = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind}
    kubectl("create", "-f", "-", send=json.dumps(manifest | {"metadata": metadata, "spec": spec}))


def _is_held_back(training: Training) -> bool:
    job = get("tfjob", training.name)
    assert job is not None, f"{training.name} is gone"
    return bool(job["spec"]["runPolicy"].get("suspend"))


def _ended(training: Training) -> str:
    """When it ended well; nothing while it has not."""
    job = get("tfjob", training.name)
    assert job is not None, f"{training.name} is gone"
    return str(job.get("status", {}).get("completionTime") or "")


def test_with_room_for_one_job_and_a_half_one_starts_whole_and_the_other_waits(
    queues: MakeQueues,
) -> None:
    queue = queues({"team-a": 3})["team-a"]  # workers; each job has two
    jobs = [_start_job(queue, number, seconds=10) for number in range(2)]
    for job in jobs:  # neither waits for ever for a worker that has no room
        wait_until(partial(_ended, job), f"the end of {job.name}", 240)

    first, second = sorted(jobs, key=_ended)
    assert len(first.workers()) == len(second.workers()) == 2
    # Of the second there was nothing, not a single worker, before all of the first had ended.
    created = [pod["metadata"]["creationTimestamp"] for pod in second.workers().values()]
    assert min(created) >= _ended(first)


def test_an_urgent_job_takes_the_place_of_a_training_which_then_goes_on_from_its_checkpoint(
    queues: MakeQueues, runs: Runs
) -> None:
    queue = queues({"team-a": 2})["team-a"]
    run = runs.submit(configuration({"long": LONG}), queue=queue, priority="background")
    training = run.wait_until_training("long")
    before = training.uids()
    urgent = _start_job(queue, 0, seconds=5, priority="urgent")
    wait_until(lambda: _ended(urgent), "the urgent job's end", 240)
    wait_until(lambda: _ended(training), "the training's end")
    training.assert_resumed(before)
    # To be held back is not to fail: one job, and one pod that waits for it.
    assert [job["metadata"]["uid"] for job in run.jobs()] == [training.uid]
    said = run.step_log("train")
    assert "waits in its queue: Preempted to accommodate a workload" in said
    assert "has its place, after" in said


def test_a_team_has_its_share_although_the_other_has_flooded_its_queue(queues: MakeQueues) -> None:
    names = queues({"team-a": 2, "team-b": 2})  # workers: one job of each
    flood = [_start_job(names["team-a"], number, seconds=900) for number in range(4)]

    def at_work() -> list[Training]:
        return [job for job in flood if not _is_held_back(job) and len(job.workers()) == 2]

    both = wait_until(lambda: len(a := at_work()) == 2 and a, "a job in the other's share", 180)
    before = {job.name: job.uids() for job in both}

    def moved() -> list[Training]:
        return [job for job in both if job.uids() != before[job.name]]

    late = _start_job(names["team-b"], 0, seconds=1)
    wait_until(lambda: _ended(late), "the end of the other team's job", 180)
    # It came last and did not have to wait for the flood, of which one job has made room.
    wait_until(moved, "a job to lose its pods", 60)
    # The share that is idle is lent again.
    wait_until(lambda: len(at_work()) == 2, "a job in the other's share again", 180)
    assert len(moved()) == 1
