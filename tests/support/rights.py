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
    inference_service,
    manifests,
    planning,
    pods,
    queueing,
    tfjob,
)
from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.errors import ClusterError, StoppedError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Training
from mlpipeline.plan.pipeline import INGEST
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
        for module in (tfjob, inference_service):
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
        workspace = Workspace(Path(folder))
        planning.plan(
            settings, workspace, cluster, memo="memo", image="image", templates=_TEMPLATES
        )


def _run(cluster: FakeCluster, stop: threading.Event) -> None:
    job = tfjob.complete(
        manifests.load(_TEMPLATES, "tfjob"),
        name=_NAME,
        image="image",
        arguments=[],
        settings=_SETTINGS,
        workflow=_OWNER,
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
    """Nothing is served, then a service is applied that never gets ready."""
    service = inference_service.complete(
        manifests.load(_TEMPLATES, "inference-service"),
        name="m",
        version="m-1",
        content="0",
        image="image",
        arguments=[],
        replicas=1,
    )
    inference_service.version(cluster, "m")
    budget = manifests.load(_TEMPLATES, "disruption-budget")
    with contextlib.suppress(ClusterError):
        inference_service.roll_out(cluster, service, budget, seconds=5, pending_seconds=30)
    inference_service.current(cluster, "m", "0")


def _record(cluster: FakeCluster) -> None:
    cluster.get("Workflow", _OWNER.name)  # as `mlpipeline cluster record` does
    tfjob.delete_unfinished(cluster, _OWNER)
