"""The TFJob of a candidate: what it is completed to, and how its end, good or bad, is awaited."""

from __future__ import annotations

import copy
import functools
import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import manifests, pods, queueing, tfjob
from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.errors import ClusterError, ClusterUnreachableError, StoppedError
from mlpipeline.plan.config import Training
from mlpipeline.store import artifacts
from support.fake_cluster import Clock, FakeCluster, pod, unschedulable, waiting

TEMPLATES = Path(__file__).parents[2] / "manifests" / "base" / "templates"
COMPONENTS = TEMPLATES.parents[1] / "components"
NAME = "train-cnn-0123456789abcdef"
OWNER = tfjob.WorkflowReference("mlpipeline-x7k2p", "workflow-uid")
SETTINGS = Training(workers=2, attempts=2, deadline_seconds=600)
PENDING_SECONDS = 100.0
QUEUE_SECONDS = 3_000.0


class Immediate:
    """Stands for a thread; what it has to do is done when it starts."""

    def __init__(self, target: Any, daemon: bool) -> None:
        assert daemon, "a log that is followed must not keep the process alive"
        self.start = target


@dataclass
class World:
    """A cluster in which the test plays the operator, at times of its choice."""

    cluster: FakeCluster
    clock: Clock
    stop: threading.Event

    def run(self) -> None:
        job = _complete(manifests.load(TEMPLATES, "tfjob"))
        tfjob.run(
            self.cluster,
            job,
            SETTINGS,
            workflow=OWNER,
            pending_seconds=PENDING_SECONDS,
            queue_seconds=QUEUE_SECONDS,
            stop=self.stop,
        )

    def fails(self) -> str:
        """Run, and return the error that it ends with."""
        with pytest.raises(ClusterError) as raised:
            self.run()
        return raised.value.got

    def start(self, index: int, attempt: int = 1, phase: str = "Running", **status: Any) -> None:
        name = f"{NAME}-worker-{index}"
        labels = {
            "training.kubeflow.org/job-name": NAME,
            "training.kubeflow.org/replica-index": str(index),
        }
        if index == 0:
            labels["training.kubeflow.org/job-role"] = "master"
        started = pod(name, labels, phase, **status)
        started["metadata"]["uid"] = f"{name}/{attempt}"
        self.cluster.put(started)

    def end(self, kind: str = "Succeeded", message: str = "") -> None:
        condition = {"type": kind, "status": "True", "message": message}
        self.cluster.objects["TFJob", NAME]["status"] = {"conditions": [condition]}

    def hold_back(self, value: bool = True) -> None:
        """Do what Kueue does to a job."""
        self.cluster.objects["TFJob", NAME]["spec"]["runPolicy"]["suspend"] = value

    def lose_pods(self) -> None:
        """Do what the operator does to the pods of a job that is held back."""
        for index in range(SETTINGS.workers):
            self.cluster.remove("Pod", f"{NAME}-worker-{index}")

    def ends_well(self, start: float = 2, end: float = 9) -> None:
        """Have the operator start all workers, and have them succeed."""
        for index in range(SETTINGS.workers):
            self.clock.at(start, functools.partial(self.start, index))
            self.clock.at(end, functools.partial(self.start, index, phase="Succeeded"))
        self.clock.at(end, self.end)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> World:
    clock = Clock()
    monkeypatch.setattr(tfjob, "time", clock)
    monkeypatch.setattr(tfjob, "threading", SimpleNamespace(Thread=Immediate))
    caplog.set_level(logging.INFO, "mlpipeline")
    for watch in (pods.StartWatch, queueing.QueueWatch):
        made_with_it = functools.partial(watch, clock=clock.monotonic)
        monkeypatch.setattr(tfjob, watch.__name__, made_with_it)
    made = World(FakeCluster(clock), clock, threading.Event())
    workflow = {"kind": "Workflow", "metadata": {"name": OWNER.name}, "spec": {}}
    made.cluster.put(workflow)
    return made


def _complete(template: Manifest, settings: Training = SETTINGS) -> Manifest:
    return tfjob.complete(
        template,
        name=NAME,
        image="registry/mlpipeline:1",
        arguments=["train", "--candidate", "cnn"],
        settings=settings,
        workflow=OWNER,
        reads=[Path("runs/r"), Path("datasets/d")],
        writes=Path("candidates/.c.work"),
    )


def _main(job: Manifest) -> Manifest:
    containers = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    found: Manifest = next(c for c in containers if c["name"] == "tensorflow")
    return found


# --- what is applied --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "candidate",
    ["cnn", "batch_norm", "2-layers", "a", "x" * 40, "a" * 21 + "-b", "a_" * 19 + "b", "0"],
)
def test_a_job_is_named_by_a_dns_label_with_room_for_what_the_operator_adds(candidate: str) -> None:
    key = artifacts.make_key(candidate, code="", parameters={}, inputs=())
    name = tfjob.job_name(key)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert "--" not in name
    assert len(name) <= 52
    assert name.endswith(key[-16:]), "what tells one candidate from another is never cut"


def test_a_manifest_is_completed_with_what_a_run_knows() -> None:
    job = _complete(manifests.load(TEMPLATES, "tfjob"))
    assert job["metadata"]["name"] == NAME
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Workflow", OWNER.name, OWNER.uid)
    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 600
    assert job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"] == 2
    assert _main(job)["image"] == "registry/mlpipeline:1"
    assert _main(job)["args"] == ["train", "--candidate", "cnn"]


def test_all_else_that_a_template_says_stays_as_it_is() -> None:
    template = manifests.load(TEMPLATES, "tfjob")
    template["metadata"]["annotations"] = {"kueue": "yes"}
    worker = template["spec"]["tfReplicaSpecs"]["Worker"]
    sidecar = {"name": "proxy", "image": "proxy:2", "args": ["--quiet"]}
    worker["template"]["spec"]["containers"].insert(0, sidecar)
    untouched = copy.deepcopy(template)

    job = _complete(template)

    assert template == untouched
    for key in ("image", "args"):
        del _main(job)[key]
    _main(job)["volumeMounts"] = _main(template)["volumeMounts"]  # the next test's
    del job["metadata"]["name"], job["metadata"]["ownerReferences"]
    del job["spec"]["runPolicy"]["activeDeadlineSeconds"]
    del job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"]
    assert job == untouched


def test_its_pods_see_what_they_read_and_may_write_to_their_working_folder_alone() -> None:
    settings = Training(strategy="parameter_server", parameter_servers=1, workers=1)
    for made in (SETTINGS, settings):
        roles = _complete(manifests.load(TEMPLATES, "tfjob"), made)["spec"]["tfReplicaSpecs"]
        for spec in roles.values():
            (container,) = spec["template"]["spec"]["containers"]
            assert container["volumeMounts"] == [
                {
                    "name": "workspace",
                    "mountPath": "/workspace/runs/r",
                    "subPath": "runs/r",
                    "readOnly": True,
                },
                {
                    "name": "workspace",
                    "mountPath": "/workspace/datasets/d",
                    "subPath": "datasets/d",
                    "readOnly": True,
                },
                {
                    "name": "workspace",
                    "mountPath": "/workspace/candidates/.c.work",
                    "subPath": "candidates/.c.work",
                    "readOnly": False,
                },
                {"name": "tmp", "mountPath": "/tmp"},
            ]


def test_a_job_with_parameter_servers_has_pods_of_three_roles_from_one_template() -> None:
    settings = Training(strategy="parameter_server", parameter_servers=2, workers=3)
    template = manifests.load(TEMPLATES, "tfjob")
    roles = _complete(template, settings)["spec"]["tfReplicaSpecs"]
    assert {role: spec["replicas"] for role, spec in roles.items()} == {
        "Chief": 1,
        "PS": 2,
        "Worker": 3,
    }
    # Apart from its number, each is as the worker of the template, completed.
    (pod,) = {str(spec | {"replicas": 0}) for spec in roles.values()}
    assert "registry/mlpipeline:1" in pod
    worker = template["spec"]["tfReplicaSpecs"]["Worker"]
    for spec in roles.values():
        assert spec["restartPolicy"] == worker["restartPolicy"]
        assert spec["template"]["metadata"] == worker["template"]["metadata"]


def test_only_workers_claim_a_gpu() -> None:
    template = manifests.load(TEMPLATES, "tfjob")
    patch = yaml.safe_load((COMPONENTS / "gpu" / "tfjob.patch.yaml").read_text())
    settings = Training(strategy="parameter_server", workers=2)
    job = _complete(manifests.merge(template, patch), settings)
    plain = _complete(template, settings)["spec"]["tfReplicaSpecs"]
    for role, spec in job["spec"]["tfReplicaSpecs"].items():
        pod = spec["template"]["spec"]
        (container,), (usual,) = pod["containers"], plain[role]["template"]["spec"]["containers"]
        claim = {"nvidia.com/gpu": 1} if role == "Worker" else {}
        assert container["resources"]["limits"] == usual["resources"]["limits"] | claim
        assert container["resources"]["requests"] == usual["resources"]["requests"]
        assert "nvidia.com/gpu.present" in pod["nodeSelector"]


# --- how it is waited for ---------------------------------------------------------------------


def test_a_job_is_applied_and_waited_for(world: World) -> None:
    world.ends_well(end=30)
    world.run()
    assert world.cluster.changes == [f"apply TFJob {NAME}"]
    assert world.clock.now == 30


def test_pods_that_have_not_seen_the_end_yet_are_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A parameter server: the chief's success is the job's. It may still write."""
    world.ends_well(end=30)
    world.clock.at(30, functools.partial(world.start, 1))
    world.clock.at(40, functools.partial(world.start, 1, phase="Succeeded"))
    world.run()
    assert world.clock.now == 40
    assert "still running" not in caplog.text


def test_pods_that_never_see_the_end_are_not_waited_for_without_end(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.ends_well(end=30)
    world.clock.at(30, functools.partial(world.start, 1))
    world.run()
    assert f"still running: {NAME}-worker-1\n" in caplog.text


def test_a_job_that_is_under_way_is_adopted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.cluster.put(_complete(manifests.load(TEMPLATES, "tfjob")))
    world.ends_well()
    world.run()
    assert world.cluster.changes == []
    assert "under way already" in caplog.text


@pytest.mark.parametrize("state", ["Succeeded", "Failed", "being deleted"])
def test_a_job_that_has_ended_makes_room_for_a_new_one(world: World, state: str) -> None:
    old = _complete(manifests.load(TEMPLATES, "tfjob"))
    world.cluster.put(old)
    if state == "being deleted":
        old["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    else:
        world.end(state)
    world.start(0, phase="Succeeded")
    removed: list[list[str]] = []

    def remove_pods() -> None:
        world.cluster.remove("Pod", f"{NAME}-worker-0")
        removed.append(list(world.cluster.changes))

    world.clock.at(20, remove_pods)
    world.ends_well(start=25, end=30)

    world.run()

    assert world.cluster.changes == [f"delete TFJob {NAME}", f"apply TFJob {NAME}"]
    assert removed == [[f"delete TFJob {NAME}"]], "old pods have the new ones' names: they go first"


def test_an_old_job_that_does_not_go_is_an_error(world: World) -> None:
    world.cluster.put(_complete(manifests.load(TEMPLATES, "tfjob")))
    world.end()
    world.start(0, phase="Succeeded")
    error = world.fails()
    assert "the old one was not gone after 120 s" in error
    assert f"{NAME}-worker-0 is on node-1" in error
    assert f"apply TFJob {NAME}" not in world.cluster.changes


def test_the_chiefs_log_is_followed_once_for_each_of_its_pods(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.cluster.logs[f"{NAME}-worker-0"] = ["progress done=1 total=2"]
    world.start(0, phase="Pending")
    world.start(1)
    world.clock.at(5, lambda: world.start(0))
    world.clock.at(10, lambda: world.start(0, attempt=2))
    world.clock.at(20, world.end)
    world.run()
    assert world.cluster.followed == [f"{NAME}-worker-0"] * 2
    assert capsys.readouterr().out.splitlines().count("progress done=1 total=2") == 2


def test_a_log_that_cannot_be_read_does_not_end_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(pod: str) -> list[str]:
        raise ClusterError(f"no right to {pod}", expected="", remedy="")

    monkeypatch.setattr(world.cluster, "follow_log", refuse)
    world.ends_well()
    world.run()
    assert "no right to" in caplog.text


# --- what the operator gives up and the step does not ---------------------------------------------


def test_a_job_that_lost_a_workers_pod_is_applied_again(world: World) -> None:
    def lose() -> None:
        world.end("Failed", "1 Worker replica(s) failed")
        status = world.cluster.objects["TFJob", NAME]["status"]
        status["replicaStatuses"] = {"Worker": {"active": 1, "failed": 1}}
        # The other one sees that its peer is gone, and asks to be started again.
        ended = {"terminated": {"reason": "Error", "exitCode": 143}}
        world.start(0, phase="Failed", containerStatuses=[{"name": "tensorflow", "state": ended}])
        world.cluster.remove("Pod", f"{NAME}-worker-1")
        world.clock.at(world.clock.now + 5, lambda: world.cluster.remove("Pod", f"{NAME}-worker-0"))

    world.ends_well(start=2, end=100)
    world.clock.at(10, lose)
    for index in range(SETTINGS.workers):
        world.clock.at(30, functools.partial(world.start, index, 2))
    world.run()
    assert world.cluster.changes == [
        f"apply TFJob {NAME}",
        f"delete TFJob {NAME}",
        f"apply TFJob {NAME}",
    ]


def test_a_job_whose_worker_failed_for_good_is_not_applied_again(world: World) -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 1}}
    world.start(0, phase="Failed", containerStatuses=[{"name": "tensorflow", "state": ended}])
    world.clock.at(5, lambda: world.end("Failed", "one worker failed"))
    world.clock.at(
        5,
        lambda: world.cluster.objects["TFJob", NAME]["status"].update(
            replicaStatuses={"Worker": {"failed": 1}}
        ),
    )
    assert "one worker failed" in world.fails()
    assert world.cluster.changes.count(f"apply TFJob {NAME}") == 1


# --- how it fails -----------------------------------------------------------------------------


def test_a_job_that_failed_is_an_error_with_the_last_words_of_who_failed(world: World) -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 1}}
    world.start(0, phase="Failed", containerStatuses=[{"name": "tensorflow", "state": ended}])
    world.start(1)
    world.cluster.logs = {
        f"{NAME}-worker-0": ["error: the data set is damaged"],
        f"{NAME}-worker-1": ["waiting for the others"],
    }
    world.clock.at(5, lambda: world.end("Failed", "one worker failed"))
    error = world.fails()
    assert f"TFJob {NAME} failed: one worker failed" in error
    assert f"{NAME}-worker-0: Error, status 1" in error
    assert "the data set is damaged" in error
    assert "waiting for the others" not in error
    assert world.cluster.changes[-1] == f"delete TFJob {NAME}"


def test_the_error_that_a_worker_has_ended_with_is_said_without_its_log(world: World) -> None:
    said = {"reason": "Error", "exitCode": 1, "message": "error: it is late\n  to do:    hurry"}
    world.start(0, phase="Failed", containerStatuses=[{"state": {"terminated": said}}])
    world.cluster.logs = {f"{NAME}-worker-0": ["cuda is not here"]}
    world.clock.at(5, lambda: world.end("Failed", "one worker failed"))
    error = world.fails()
    assert "\n    error: it is late\n      to do:    hurry" in error
    assert "cuda" not in error


def test_a_pod_that_has_no_place_is_an_error_with_the_schedulers_reason(world: World) -> None:
    message = "0/3 nodes are available: 3 Insufficient memory."
    world.start(0, phase="Pending", conditions=unschedulable(message))
    error = world.fails()
    assert f"pod {NAME}-worker-0 does not start: Unschedulable: {message}" in error
    assert PENDING_SECONDS <= world.clock.now < PENDING_SECONDS + 5
    assert world.cluster.changes[-1] == f"delete TFJob {NAME}"


def test_an_image_that_is_not_there_is_an_error_before_the_time_is_up(world: World) -> None:
    world.start(0, phase="Pending", containerStatuses=waiting("ImagePullBackOff", "not found"))
    event = {
        "kind": "Event",
        "metadata": {"name": "pull"},
        "involvedObject": {"name": f"{NAME}-worker-0"},
        "type": "Warning",
        "message": "pull access denied",
    }
    world.cluster.put(event)
    error = world.fails()
    assert "ImagePullBackOff: not found" in error
    assert "pull access denied" in error
    assert world.clock.now < PENDING_SECONDS


def test_time_to_start_is_counted_anew_for_each_pod(world: World) -> None:
    for attempt, begin in enumerate((1, 80), start=1):
        conditions = unschedulable("full")
        world.clock.at(
            begin,
            functools.partial(world.start, 0, attempt, phase="Pending", conditions=conditions),
        )
        world.clock.at(begin + 70, functools.partial(world.start, 0, attempt))
    world.clock.at(200, world.end)
    world.run()


def test_a_worker_that_is_started_more_often_than_allowed_fails_the_job(world: World) -> None:
    world.start(0)
    for attempt in (1, 2, 3):
        world.clock.at(10 * attempt, functools.partial(world.start, 1, attempt))
    assert "worker-1 was started 3 times; training.attempts is 2" in world.fails()
    assert world.clock.now == 30
    assert world.cluster.changes[-1] == f"delete TFJob {NAME}"


def test_a_worker_whose_memory_is_too_small_says_so_though_its_pod_is_gone(world: World) -> None:
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    world.start(0)
    for attempt in (1, 2, 3):
        world.clock.at(10 * attempt, functools.partial(world.start, 1, attempt))
        failed = functools.partial(
            world.start, 1, attempt, "Failed", containerStatuses=[{"state": ended}]
        )
        world.clock.at(10 * attempt + 5, failed)
    assert "attempts is 2; the one before: OOMKilled, status 137" in world.fails()


def _cut_off(world: World, index: int, *, ready: bool = False) -> None:
    """Do what the node controller does to a pod whose node is not heard of."""
    status = world.cluster.objects["Pod", f"{NAME}-worker-{index}"]["status"]
    status["containerStatuses"] = [{"name": "tensorflow", "state": {"running": {}}}]
    status["conditions"] = [{"type": "Ready", "status": str(ready)}]


def test_who_waits_for_a_worker_on_a_lost_node_has_not_failed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.start(0)
    world.start(1)
    world.clock.at(10, lambda: _cut_off(world, 1))
    for attempt in range(2, SETTINGS.attempts + 5):
        world.clock.at(50.0 * attempt, functools.partial(world.start, 0, attempt))
    world.clock.at(500, functools.partial(world.start, 1, 2))
    world.clock.at(510, world.end)
    world.run()
    said = caplog.text
    assert said.count("node node-1 does not answer") == 1
    assert "kubectl delete node node-1" in said


def test_failures_after_a_node_is_back_count(world: World) -> None:
    world.start(0)
    world.start(1)
    world.clock.at(10, lambda: _cut_off(world, 1))
    world.clock.at(50, functools.partial(world.start, 0, 2))
    world.clock.at(60, lambda: _cut_off(world, 1, ready=True))
    for attempt in (3, 4):
        world.clock.at(30.0 * attempt, functools.partial(world.start, 0, attempt))
    assert "worker-0 was started 3 times; training.attempts is 2" in world.fails()
    assert world.clock.now == 120


def test_a_job_without_pods_makes_one_look_at_the_operator(world: World) -> None:
    error = world.fails()
    assert "it had no pod for 100 s: is its operator well?" in error


def test_a_job_whose_pods_a_quota_refuses_says_so(world: World) -> None:
    refused = {
        "kind": "Event",
        "metadata": {"name": "refused"},
        "involvedObject": {"name": NAME},
        "type": "Warning",
        "message": 'pods "x" is forbidden: exceeded quota: small',
    }
    world.cluster.put(refused)
    assert "exceeded quota: small" in world.fails()


# --- how it waits in a queue -------------------------------------------------------------------


def test_a_job_that_is_held_back_waits_far_longer_than_a_pod_may(world: World) -> None:
    world.clock.at(1, world.hold_back)
    world.clock.at(2_000, lambda: world.hold_back(False))
    world.ends_well(start=2_050, end=2_500)
    world.run()
    assert world.cluster.changes == [f"apply TFJob {NAME}"]


def test_a_job_that_is_preempted_again_and_again_has_not_failed(world: World) -> None:
    rounds = SETTINGS.attempts + 2
    for attempt in range(rounds):
        begin = 550.0 * attempt
        for index in range(SETTINGS.workers):
            world.clock.at(begin + 5, functools.partial(world.start, index, attempt))
        # Each time it has trained for most of the time that it has for all of its training.
        world.clock.at(begin + 500, world.hold_back)
        world.clock.at(begin + 530, world.lose_pods)
        world.clock.at(begin + 540, lambda: world.hold_back(False))
    world.ends_well(start=550.0 * rounds + 5, end=550.0 * rounds + 500)
    world.run()
    assert world.cluster.changes == [f"apply TFJob {NAME}"]


def test_a_pod_on_its_way_out_is_not_counted_as_a_start(world: World) -> None:
    def leave() -> None:
        leaving = world.cluster.objects["Pod", f"{NAME}-worker-0"]["metadata"]
        leaving["deletionTimestamp"] = "2026-11-24T12:00:00Z"

    world.start(0, attempt=0)
    world.clock.at(10, world.hold_back)
    world.clock.at(11, leave)
    world.clock.at(20, lambda: world.hold_back(False))  # before the pod is gone
    for attempt in range(SETTINGS.attempts):
        world.clock.at(30 + 10 * attempt, functools.partial(world.start, 0, attempt + 1))
    world.clock.at(80, world.end)
    world.run()


def test_a_job_that_waits_in_its_queue_says_why_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def say(**conditions: tuple[str, str]) -> None:
        labels = {"kueue.x-k8s.io/job-uid": world.cluster.objects["TFJob", NAME]["metadata"]["uid"]}
        workload = {"kind": "Workload", "metadata": {"name": "it", "labels": labels}}
        said = [{"type": t, "status": s, "message": m} for t, (s, m) in conditions.items()]
        world.cluster.put(workload | {"status": {"conditions": said}})

    world.clock.at(1, world.hold_back)
    no_room = ("False", "insufficient quota for cpu")
    world.clock.at(10, lambda: say(QuotaReserved=no_room))
    world.clock.at(51, lambda: world.hold_back(False))
    preempted = ("True", "Preempted to accommodate another")
    world.clock.at(60, lambda: say(QuotaReserved=no_room, Evicted=preempted))
    world.clock.at(60, world.hold_back)
    world.clock.at(70, lambda: world.hold_back(False))
    world.ends_well(start=75, end=80)
    world.run()
    said = [message for message in caplog.messages if "queue" in message]
    assert said == [
        f"TFJob {NAME}: waits in its queue",
        f"TFJob {NAME}: waits in its queue: insufficient quota for cpu",
        f"TFJob {NAME}: has its place, after 49 s in the queue",
        f"TFJob {NAME}: waits in its queue: Preempted to accommodate another",
        f"TFJob {NAME}: has its place, after 58 s in the queue",
    ]


@pytest.mark.parametrize("status", [403, 404])
def test_a_job_waits_without_a_word_where_workloads_cannot_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    find = world.cluster.find

    def refuse(kind: str, selector: str = "") -> list[Manifest]:
        if kind == "Workload":
            raise ClusterError("no", expected="", remedy="", status=status)
        return find(kind, selector)

    monkeypatch.setattr(world.cluster, "find", refuse)
    world.clock.at(1, world.hold_back)
    world.clock.at(20, lambda: world.hold_back(False))
    world.ends_well(start=25, end=30)
    world.run()
    assert f"TFJob {NAME}: waits in its queue" in caplog.messages


def test_a_job_that_waits_in_its_queue_for_too_long_leaves_it(world: World) -> None:
    # Half of the time before it has its place, the rest after it has lost it.
    world.clock.at(1, world.hold_back)
    world.clock.at(QUEUE_SECONDS / 2, lambda: world.hold_back(False))
    for index in range(SETTINGS.workers):
        world.clock.at(QUEUE_SECONDS / 2 + 5, functools.partial(world.start, index))
    world.clock.at(QUEUE_SECONDS / 2 + 100, world.hold_back)
    world.clock.at(QUEUE_SECONDS / 2 + 110, world.lose_pods)
    error = world.fails()
    assert f"TFJob {NAME}: waits in its queue; that was {QUEUE_SECONDS + 1:.0f} s" in error
    assert world.cluster.changes[-1] == f"delete TFJob {NAME}"


def test_a_job_that_failed_before_it_was_held_back_has_failed(world: World) -> None:
    world.clock.at(5, lambda: world.end("Failed", "one worker failed"))
    world.clock.at(5, world.hold_back)
    assert "one worker failed" in world.fails()


@pytest.mark.parametrize(
    ("queue", "priority", "expected"),
    [
        ("", "", {"kueue.x-k8s.io/queue-name": "team-a"}),
        ("team-b", "", {"kueue.x-k8s.io/queue-name": "team-b"}),
        (
            *("team-b", "urgent"),
            {"kueue.x-k8s.io/queue-name": "team-b", "kueue.x-k8s.io/priority-class": "urgent"},
        ),
    ],
)
def test_a_job_is_in_the_queue_that_the_run_names_or_else_the_template(
    queue: str, priority: str, expected: dict[str, str]
) -> None:
    template = manifests.load(TEMPLATES, "tfjob")
    component = TEMPLATES.parents[1] / "components" / "kueue" / "tfjob.queue.patch.yaml"
    queued = manifests.merge(template, yaml.safe_load(component.read_text()))
    job = queueing.in_queue(_complete(queued), queue=queue, priority=priority)
    assert job["metadata"]["labels"] == template["metadata"]["labels"] | expected
    assert job["metadata"]["name"] == NAME
    assert job["spec"] == _complete(template)["spec"]


def test_a_job_that_its_operator_does_not_end_in_time_is_ended(world: World) -> None:
    world.start(0)
    assert "not done after 70" in world.fails()
    assert world.cluster.changes[-1] == f"delete TFJob {NAME}"


def test_a_job_that_somebody_deletes_is_an_error(world: World) -> None:
    world.start(0)
    world.clock.at(9, lambda: world.cluster.remove("TFJob", NAME))
    assert "somebody deleted it" in world.fails()


# --- how it is stopped ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "being deleted", "gone"])
def test_the_job_of_a_workflow_that_is_over_goes_with_it(world: World, how: str) -> None:
    def stop() -> None:
        workflow = world.cluster.objects["Workflow", OWNER.name]
        if how == "stopped":
            workflow["spec"]["shutdown"] = "Stop"
        elif how == "being deleted":
            workflow["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
        else:
            world.cluster.remove("Workflow", OWNER.name)
        world.stop.set()

    world.start(0)
    world.clock.at(5, stop)
    with pytest.raises(StoppedError):
        world.run()
    assert world.cluster.changes == [f"apply TFJob {NAME}", f"delete TFJob {NAME}"]


def test_a_job_is_left_to_the_next_pod_when_this_one_alone_is_told_to_end(world: World) -> None:
    world.start(0)
    world.clock.at(5, world.stop.set)
    with pytest.raises(StoppedError) as raised:
        world.run()
    assert world.cluster.changes == [f"apply TFJob {NAME}"]
    assert raised.value.exit_status == 143, "so that Argo tries the step again"


def test_the_job_is_left_alone_while_the_api_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(kind: str, selector: str = "") -> list[Manifest]:
        raise ClusterUnreachableError("no route", expected="an answer", remedy="wait")

    world.start(0)
    world.clock.at(5, lambda: monkeypatch.setattr(world.cluster, "find", no_answer))
    with pytest.raises(ClusterUnreachableError) as raised:
        world.run()
    assert world.cluster.changes == [f"apply TFJob {NAME}"]
    assert raised.value.exit_status == 143, "so that Argo tries the step again"
