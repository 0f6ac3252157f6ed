"""What the steps that talk to the cluster's API ask of it, seen by a cluster that takes notes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from mlpipeline.backends.cluster import (
    housekeeping,
    inference_service,
    manifests,
    planning,
    pods,
    queueing,
    record,
    retraining,
    rollout,
    snapshots,
    tfjob,
)
from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.errors import ClusterError, StoppedError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Training
from mlpipeline.plan.pipeline import INGEST
from mlpipeline.runs.garbage import Garbage
from mlpipeline.store.layout import Workspace
from support.fake_cluster import Clock, FakeCluster, pod, unschedulable

Right = tuple[str, str, str]
"""Verb, API group and resource."""

_TEMPLATES = Path(__file__).parents[2] / "manifests" / "base" / "templates"
_NAME = "train-cnn-0123456789abcdef"
_OWNER = tfjob.WorkflowReference("mlpipeline-x7k2p", "workflow-uid")
_SETTINGS = Training(workers=1, deadline_seconds=60)


@functools.cache
def used_by_steps() -> frozenset[Right]:
    """Return what the steps plan, train, serve, judge and record do in all that may happen."""
    used: set[Right] = set()
    for scenario in (_plan, _train, _train_in_vain, _train_until_stopped, _serve, _record):
        cluster = FakeCluster()
        with _clock(cluster.clock):
            scenario(cluster)
        used |= cluster.used
    return frozenset(used)


@contextlib.contextmanager
def _clock(clock: Clock) -> Iterator[None]:
    with contextlib.ExitStack() as patches:
        for module in (tfjob, rollout):
            patches.enter_context(mock.patch.object(module, "time", clock))
            watch = functools.partial(pods.StartWatch, clock=clock.monotonic)
            patches.enter_context(mock.patch.object(module, "StartWatch", watch))
        queue_watch = functools.partial(queueing.QueueWatch, clock=clock.monotonic)
        patches.enter_context(mock.patch.object(tfjob, "QueueWatch", queue_watch))
        yield


def _plan(cluster: FakeCluster) -> None:
    settings = config.parse(
        {"name": "m", "data": {"dataset": "synthetic"}, "candidates": {"cnn": {"model": "cnn"}}},
        origin="a test",
    )
    key = pipeline.plan(settings)[INGEST.name].key
    cluster.put({"kind": "ConfigMap", "metadata": {"name": "memo"}, "data": {key: "lost"}})
    with TemporaryDirectory() as folder:
        planning.plan(settings, Workspace(Path(folder)), cluster, cache="memo")


def _run(cluster: FakeCluster, stop: threading.Event) -> None:
    job = tfjob.complete(
        manifests.load(_TEMPLATES, "tfjob"),
        name=_NAME,
        image="image",
        arguments=[],
        settings=_SETTINGS,
        workflow=_OWNER,
        reads=[Path("datasets/d")],
        writes=Path("candidates/.c.work"),
    )
    tfjob.run(
        cluster,
        job,
        _SETTINGS,
        workflow=_OWNER,
        pending_seconds=30,
        queue_seconds=300,
        stop=stop,
    )


def _ended(kind: str) -> Manifest:
    return {"conditions": [{"type": kind, "status": "True"}]}


def _worker(phase: str, **status: object) -> Manifest:
    labels = {
        "training.kubeflow.org/job-name": _NAME,
        "training.kubeflow.org/job-role": "master",
    }
    return pod(f"{_NAME}-worker-0", labels, phase, **status)


def _change_job(cluster: FakeCluster, **changes: Manifest) -> Callable[[], None]:
    return lambda: cluster.objects["TFJob", _NAME].update(changes)


def _train(cluster: FakeCluster) -> None:
    """An old job has to go; the new one waits in a queue, then succeeds."""
    old = {"kind": "TFJob", "metadata": {"name": _NAME}, "status": _ended("Failed")}
    cluster.put(old)
    cluster.clock.at(
        2, lambda: cluster.objects["TFJob", _NAME]["spec"]["runPolicy"].update(suspend=True)
    )
    cluster.clock.at(
        4, lambda: cluster.objects["TFJob", _NAME]["spec"]["runPolicy"].update(suspend=False)
    )
    cluster.clock.at(5, lambda: cluster.put(_worker("Running")))
    cluster.clock.at(8, _change_job(cluster, status=_ended("Succeeded")))
    _run(cluster, threading.Event())


def _train_in_vain(cluster: FakeCluster) -> None:
    cluster.put(_worker("Pending", conditions=unschedulable("no room")))
    with contextlib.suppress(ClusterError):
        _run(cluster, threading.Event())


def _train_until_stopped(cluster: FakeCluster) -> None:
    stop = threading.Event()
    cluster.clock.at(3, stop.set)
    with contextlib.suppress(StoppedError):
        _run(cluster, stop)


def _serve(cluster: FakeCluster) -> None:
    """Something is served; then services are applied that never get ready."""
    cluster.get("Workflow", _OWNER.name)  # as `mlpipeline cluster serve` does
    service = inference_service.complete(
        manifests.load(_TEMPLATES, "inference-service"),
        name="m",
        version="m-1",
        content="0",
        code="1",
        image="image",
        arguments=[],
        reads=Path("models/m"),
        replicas=1,
    )
    budget = manifests.load(_TEMPLATES, "disruption-budget")
    owner = {"apiVersion": "v1", "kind": "InferenceService", "name": "m", "uid": "1"}
    limits = {"seconds": 5.0, "pending_seconds": 30.0}
    for _ in range(2):  # without a state to go back to, then with one
        with contextlib.suppress(ClusterError):
            rollout.roll_out(cluster, service, budget, rollout.Publication(), **limits)
        cluster.apply(service)
        for number in range(7):
            snapshots.keep(cluster, service, {"image": str(number)}, owner=owner)
    rollout.undo(cluster, "m", "m-1", **limits)


def used_by_retraining() -> frozenset[Right]:
    """Return what the step retrain does in all that may happen."""
    cluster = FakeCluster()
    labels = {"app.kubernetes.io/part-of": "mlpipeline"}
    annotations = {"mlpipeline/version": "m-1"}
    metadata = {"name": "m", "labels": labels, "annotations": annotations}
    service = {"apiVersion": "v1", "kind": "InferenceService", "metadata": metadata}
    cluster.put(service | {"spec": {"predictor": {}}})
    snapshots.keep(cluster, service, {"image": "image"}, owner={})
    cluster.used.clear()
    stop = threading.Event()
    cluster.clock.at(3, stop.set)
    with contextlib.suppress(StoppedError):
        retraining.retrain(cluster, _OWNER, template="mlpipeline", stop=stop)
    return frozenset(cluster.used)


def used_by_removals() -> frozenset[Right]:
    """Return what the step gc does, where something is removed and the memo was deleted."""
    cluster = FakeCluster()
    housekeeping.under_way(cluster)
    list(housekeeping.served(cluster))
    housekeeping.forget(cluster, "memo", [])
    cluster.objects["ConfigMap", "memo"]["data"] = {"ingest-1": "of what is gone"}
    housekeeping.forget(cluster, "memo", [Garbage(Path("datasets/ingest-1"), 0)])
    return frozenset(cluster.used)


def _record(cluster: FakeCluster) -> None:
    cluster.get("Workflow", _OWNER.name)  # as `mlpipeline cluster record` does
    with TemporaryDirectory() as folder:
        list(record.unrecorded(cluster, Workspace(Path(folder)), lambda pod: ()))
    tfjob.delete_unfinished(cluster, _OWNER)
