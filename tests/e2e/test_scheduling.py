"""Who trains first where there is not room for all: gangs, priorities, and two teams' shares.

`make deploy OVERLAY=queued` first. The queues here have the deployed ones' rules, and room for a
few workers only. What is asserted stays true once it is: no test depends on how quick it looks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from workflows_on_kind import (
    NAMESPACE,
    QUICK,
    ROOT,
    Run,
    Runs,
    Training,
    configuration,
    find,
    get,
    kubectl,
    wait_until,
)

pytestmark = pytest.mark.timeout(1200)

# Two minutes of training, for what is to have a checkpoint when it is preempted; and many, for what
# is to be under way whenever somebody else comes.
LONG, ENDLESS = QUICK | {"epochs": 100}, QUICK | {"epochs": 1000}

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
        kubectl("delete", "localqueue,clusterqueue", name, "--wait=false")


def _make_queue(name: str, cohort: str, *, like: str, workers: int) -> None:
    deployed = get("clusterqueue", like)
    assert deployed is not None, f"there is no queue {like}: `make deploy OVERLAY=queued`"
    spec = deployed["spec"] | {"cohort": cohort}
    (flavor,) = spec["resourceGroups"][0]["flavors"]
    for quota in flavor["resources"]:
        room = {"cpu": f"{workers * _millicores()}m", "memory": "1Ti"}
        quota["nominalQuota"] = room.get(quota["name"], "0")
    _create("ClusterQueue", {"name": name}, spec)
    _create("LocalQueue", {"name": name, "namespace": NAMESPACE}, {"clusterQueue": name})


@cache
def _millicores() -> int:
    """What a worker asks for."""
    job = yaml.safe_load((ROOT / "manifests/base/templates/tfjob.yaml").read_text())
    (container,) = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return int(container["resources"]["requests"]["cpu"].removesuffix("m"))


def _create(kind: str, metadata: dict[str, str], spec: dict[str, Any]) -> None:
    manifest = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind}
    kubectl("create", "-f", "-", send=json.dumps(manifest | {"metadata": metadata, "spec": spec}))


def _trainings(run: Run, count: int) -> list[Training]:
    """A run's jobs, once there are all of them."""
    jobs = wait_until(
        lambda: len(found := run.jobs()) == count and found, f"{count} TFJobs of {run.name}", 240
    )
    return [Training(job["metadata"]["name"], job["metadata"]["uid"]) for job in jobs]


def _is_held_back(training: Training) -> bool:
    job = get("tfjob", training.name)
    assert job is not None, f"{training.name} is gone"
    return bool(job["spec"]["runPolicy"].get("suspend"))


def _wait_until_trained(run: Run, count: int = 1) -> None:
    """Wait until some candidates are; what comes after that is of no interest here."""

    def is_trained() -> bool:
        assert run.phase() in ("", "Pending", "Running", "Succeeded"), run.describe()
        return len([n for n in run.nodes("train-pod") if n["phase"] == "Succeeded"]) >= count

    wait_until(is_trained, f"{count} trained candidates of {run.name}")


def test_with_room_for_one_job_and_a_half_one_starts_whole_and_the_other_waits(
    queues: MakeQueues, runs: Runs
) -> None:
    queue = queues({"team-a": 3})["team-a"]  # workers; each job has two
    both = {"one": QUICK | {"epochs": 10}, "other": QUICK | {"epochs": 11}}
    run = runs.submit(configuration(both), queue=queue)
    trainings = _trainings(run, 2)
    _wait_until_trained(run, 2)  # neither has waited for ever for a worker that had no room

    first, second = sorted(trainings, key=_ended)
    assert len(first.workers()) == len(second.workers()) == 2
    # Of the second there was nothing, not a single worker, before all of the first had ended.
    created = [pod["metadata"]["creationTimestamp"] for pod in second.workers().values()]
    assert min(created) >= _ended(first)


def _ended(training: Training) -> str:
    job = get("tfjob", training.name)
    assert job is not None
    return str(job["status"]["completionTime"])


def test_an_urgent_job_takes_the_place_of_another_which_then_goes_on_from_its_checkpoint(
    queues: MakeQueues, runs: Runs
) -> None:
    queue = queues({"team-a": 2})["team-a"]
    patient = runs.submit(configuration({"long": LONG}), queue=queue, priority="background")
    training = patient.wait_until_training("long")
    before = training.uids()

    urgent = runs.submit(configuration({"quick": QUICK}), queue=queue, priority="urgent")
    wait_until(lambda: _is_held_back(training), "the other to be held back", 240)
    _wait_until_trained(urgent)
    urgent.stop()  # its model is not needed

    _wait_until_trained(patient)
    training.assert_resumed(before)
    # To be held back is not to fail: one job, and one pod that has waited for it.
    assert [job["metadata"]["uid"] for job in patient.jobs()] == [training.uid]
    (step,) = find(
        "pods",
        f"workflows.argoproj.io/workflow={patient.name},app.kubernetes.io/component=train",
    )
    said = kubectl("logs", step["metadata"]["name"], "--container=main")
    assert "waits in its queue: Preempted to accommodate a workload" in said
    assert "has its place, after" in said


def test_a_team_has_its_share_although_the_other_has_flooded_its_queue(
    queues: MakeQueues, runs: Runs
) -> None:
    names = queues({"team-a": 2, "team-b": 2})  # workers: one job of each
    many = {f"candidate-{n}": ENDLESS | {"epochs": 1000 + n} for n in range(3)}
    flood = runs.submit(configuration(many), queue=names["team-a"])
    trainings = _trainings(flood, 3)

    def at_work() -> list[Training]:
        return [t for t in trainings if not _is_held_back(t) and len(t.workers()) == 2]

    both = wait_until(lambda: len(a := at_work()) == 2 and a, "a job in the other's share", 120)
    before = {training.name: training.uids() for training in both}

    single = runs.submit(configuration({"quick": QUICK}), queue=names["team-b"])
    _wait_until_trained(single)
    single.stop()

    # It came last and did not have to wait for the flood: one job, and one alone, has made room.
    changed = [t for t in both if t.uids() != before[t.name]]
    assert len(changed) == 1
    # The share that is idle is lent again.
    wait_until(lambda: len(at_work()) == 2, "a job in the other's share again", 120)
