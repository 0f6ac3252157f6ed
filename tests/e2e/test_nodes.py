"""Nodes that are drained, that are lost, and that have what others have not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import yaml

from mlpipeline.errors import ServingError
from mlpipeline.serving.clients import V1Client
from support.pipelines import progress_of
from support.workflows_on_kind import (
    HTTP,
    LONG,
    QUICK,
    ROOT,
    Runs,
    call,
    configuration,
    find,
    inference_is,
    kubectl,
    patched,
    task_of,
    wait_until,
)

pytestmark = pytest.mark.timeout(1500)

IMAGES = np.zeros((1, 28, 28), np.uint8)
GPU = "nvidia.com/gpu"


def on_nodes(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["spec"]["nodeName"] for pod in pods}


# --- drained ------------------------------------------------------------------------------------


@contextmanager
def drained(node: str) -> Iterator[None]:
    """Have a node give up its pods, as before its machine is updated."""
    try:
        options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
        print(kubectl("drain", node, *options, seconds=250))
        yield
    finally:
        kubectl("uncordon", node)


class Asking:
    """A client that asks the served model four times a second and counts."""

    def __init__(self, model: str) -> None:
        self.sent = 0
        self.failures: list[str] = []
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _ask(self) -> None:
        with V1Client(HTTP, self._model) as client:
            while not self._stop.wait(0.25):
                self.sent += 1
                try:
                    client.predict(IMAGES, 10)
                except ServingError as error:
                    self.failures.append(str(error)[:300])


@pytest.fixture
def small_replicas() -> Iterator[None]:
    """Replicas that ask for little: the one node that is left has to take all."""
    container = {"name": "kserve-container", "resources": {"requests": {"cpu": "50m"}}}
    with patched("inference-service", {"spec": {"predictor": {"containers": [container]}}}):
        yield


@pytest.mark.usefixtures("small_replicas")
def test_a_node_is_drained_and_the_model_answers_and_the_training_goes_on(runs: Runs) -> None:
    served = runs.submit(configuration({"quick": QUICK}, serving={"replicas": 2}))
    served.assert_succeeds()
    model = served.content["name"]
    predictors = f"serving.kserve.io/inferenceservice={model}"
    assert len(on_nodes(find("pods", predictors))) == 2, "the replicas are to be on two nodes"

    # A drain evicts what has ended, too: an hour's pods would take longer than this training.
    for phase in ("Succeeded", "Failed"):
        kubectl("delete", "pods", f"--field-selector=status.phase={phase}", seconds=300)
    run = runs.submit(configuration({"long": LONG}))
    training = run.wait_until_training("long")
    before = training.uids()
    node = training.workers()[f"{training.name}-worker-1"]["spec"]["nodeName"]
    with inference_is(model), Asking(model) as asking:
        wait_until(lambda: asking.sent > 4, "some answers", 60)
        with drained(node):
            assert on_nodes(find("pods", predictors)) - {node}, "no replica is left"
            run.assert_succeeds()
    print(f"{asking.sent} requests, failures: {asking.failures}")
    assert asking.sent > 40
    assert asking.failures == []
    after = training.uids()
    assert all(after[name] != before[name] for name in before)
    assert min(progress_of(training.log())) > 1, "it began anew"


# --- lost ---------------------------------------------------------------------------------------


@contextmanager
def frozen(node: str) -> Iterator[None]:
    """Have a node fall silent, as when its machine or its network is lost."""
    call("docker", "pause", node)
    try:
        yield
    finally:
        call("docker", "unpause", node)
        # A kubelet makes its node's object only when it starts.
        call("docker", "exec", node, "systemctl", "restart", "kubelet")
        wait_until(lambda: find("nodes", f"kubernetes.io/hostname={node}"), f"node {node}", 60)
        kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s", seconds=130)


@pytest.fixture
def workers_on_two_nodes() -> Iterator[None]:
    """Workers that keep away from each other, as long as there is a node for each."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "worker"}},
    }
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    apart = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    worker = {"template": {"spec": {"affinity": apart}}}
    with patched("tfjob", {"spec": {"tfReplicaSpecs": {"Worker": worker}}}):
        yield


@pytest.mark.usefixtures("workers_on_two_nodes", "small_replicas")
@pytest.mark.parametrize("end", ["deleted", "back"])
def test_a_node_falls_silent_and_the_training_goes_on_once_it_is_deleted_or_back(
    runs: Runs, end: str
) -> None:
    run = runs.submit(configuration({"long": LONG}))
    training = run.wait_until_training("long")
    before, workers = training.uids(), training.workers()
    step = run.step_pod("train")
    assert step is not None, run.describe()
    (node,) = on_nodes(list(workers.values())) - on_nodes([step])
    with frozen(node):
        said = f"node {node} does not answer"
        wait_until(lambda: said in run.step_log("train"), f"`{said}`", 180)
        if end == "deleted":  # what a cloud does itself
            kubectl("delete", "node", node)
            run.assert_succeeds()  # before the node is back
    record = run.assert_succeeds()
    training.assert_resumed(before)
    assert task_of(record, "train-long")["retries"] == []


# --- with a GPU ---------------------------------------------------------------------------------


@contextmanager
def fake_gpus(node: str, count: int) -> Iterator[None]:
    """Have a node say that it has GPUs. There are none: workers compute on its processors."""

    def say(value: int | None) -> None:
        amounts = {GPU: None if value is None else str(value)}
        status = {"status": {"capacity": amounts, "allocatable": amounts}}
        kubectl(
            *("patch", "node", node, "--subresource=status", "--type=merge"),
            *("-p", json.dumps(status)),
        )

    kubectl("label", "node", node, f"{GPU}.present=true")
    try:
        say(count)
        yield
    finally:
        kubectl("label", "node", node, f"{GPU}.present-")
        say(None)


def test_with_the_gpu_component_workers_are_placed_on_nodes_with_gpus_only(runs: Runs) -> None:
    patch = yaml.safe_load((ROOT / "manifests/components/gpu/tfjob.patch.yaml").read_text())
    nodes = [n["metadata"]["name"] for n in find("nodes", "!node-role.kubernetes.io/control-plane")]
    chosen = sorted(nodes)[-1]
    with fake_gpus(chosen, 2), patched("tfjob", patch):
        run = runs.submit(configuration({"quick": QUICK}))
        run.assert_succeeds()
        (job,) = run.jobs()
        pods = find("pods", f"training.kubeflow.org/job-name={job['metadata']['name']}")
    assert len(pods) == 2
    assert on_nodes(pods) == {chosen}
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"][GPU] == "1"


def test_workers_wait_while_there_are_fewer_gpus_than_they_need_and_say_so(runs: Runs) -> None:
    patch = yaml.safe_load((ROOT / "manifests/components/gpu/tfjob.patch.yaml").read_text())
    began = time.monotonic()
    with patched("tfjob", patch):
        run = runs.submit(configuration({"quick": QUICK}), **{"pending-seconds": "20"})
        assert run.wait(300) == "Failed"
    print(f"it took {time.monotonic() - began:.0f} s")
    assert "node affinity" in run.record()["error"]
