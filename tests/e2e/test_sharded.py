"""A sharded service in the cluster: the component's front before a model, and pods that die."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import yaml

from mlpipeline.serving.clients import Client, GrpcClient, Prediction, V1Client, V2BinaryClient
from support.workflows_on_kind import (
    QUICK,
    ROOT,
    configuration,
    delete_pod,
    find,
    get,
    kubectl,
    patched,
    runs,
    wait_until,
)

pytestmark = pytest.mark.timeout(1200)

COMPONENT = ROOT / "manifests" / "components" / "sharded-serving"
LABEL = "serving.kserve.io/inferenceservice"
IMAGES = np.random.default_rng(0).integers(0, 256, (10_000, 28, 28), dtype=np.uint8)
ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: Its own.
        front: HOST:PORT of the front's REST port, from outside of the cluster.
        front_grpc: The same of gRPC.
        replica: HOST:PORT of some replica.
    """

    name: str
    front: str
    front_grpc: str
    replica: str

    def pods(self, component: str) -> dict[str, dict[str, Any]]:
        found = find("pods", f"{LABEL}={self.name},component={component}")
        return {p["metadata"]["name"]: p for p in found if "deletionTimestamp" not in p["metadata"]}

    def ask(self, images: Any = IMAGES) -> Prediction:
        """Send one request on a connection of its own."""
        with V2BinaryClient(f"http://{self.front}", self.name) as client:
            return client.predict(images, ANSWER_SECONDS)


def _own(manifest: str, name: str, **spec: Any) -> dict[str, Any]:
    """Return a Service of the manifests for a model of a test."""
    service: dict[str, Any] = yaml.safe_load(
        (ROOT / "manifests" / "components" / manifest).read_text()
    )
    service["metadata"]["name"] = name
    service["spec"] |= spec
    return service


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """A model with two replicas and a front, which it gets as somebody adds the component."""
    content = configuration({"quick": QUICK}, serving={"replicas": 2})
    name = content["name"]
    patch = yaml.safe_load((COMPONENT / "inference-service.patch.yaml").read_text())
    (container,) = patch["spec"]["transformer"]["containers"]
    container["args"] = [a.replace("shards:", f"{name}-shards:") for a in container["args"]]
    ports = [{"name": "http", "port": 8080}, {"name": "grpc", "port": 8081}]
    replicas = {LABEL: name, "component": "predictor"}
    fronts = replicas | {"component": "transformer"}
    node_port = "node-port/service.yaml"
    services = [
        _own("sharded-serving/service.yaml", f"{name}-shards", selector=replicas),
        _own(node_port, f"{name}-replica", selector=replicas, ports=ports),
        _own(node_port, f"{name}-front", selector=fronts, ports=ports),
    ]
    with ExitStack() as stack:
        for service in services:
            stack.callback(
                kubectl, "delete", "service", service["metadata"]["name"], "--ignore-not-found"
            )
            kubectl("apply", "--filename=-", send=yaml.safe_dump(service))
        started = stack.enter_context(runs())
        started.submit(content).assert_succeeds()
        again = started.submit(content)
        # Only while its step `serve` reads them: the templates are everybody's.
        with patched("inference-service", patch):
            wait_until(lambda: again.step_pod("serve"), "the step serve")
        again.assert_succeeds()
        yield Model(
            name,
            _address(name, "front", 0),
            _address(name, "front", 1),
            _address(name, "replica", 0),
        )


def _address(name: str, service: str, port: int) -> str:
    """Where a Service is reached from outside: at a port of any node."""
    found = get("service", f"{name}-{service}")
    assert found is not None
    (node,) = find("nodes", "node-role.kubernetes.io/control-plane")
    addresses = {a["type"]: a["address"] for a in node["status"]["addresses"]}
    return f"{addresses['InternalIP']}:{found['spec']['ports'][port]['nodePort']}"


def test_the_step_serve_has_waited_for_the_front(model: Model) -> None:
    deployment = get("deployment", f"{model.name}-transformer")
    assert deployment is not None
    assert deployment["status"]["availableReplicas"] == 2
    assert len(model.pods("predictor")) == 2


def test_a_large_request_is_answered_by_all_replicas_as_one_would(model: Model) -> None:
    answer = model.ask()
    front, *replicas = answer.replica.split(", ")
    assert front in model.pods("transformer")
    assert replicas == sorted(model.pods("predictor"))
    with V2BinaryClient(f"http://{model.replica}", model.name) as client:
        alone = client.predict(IMAGES, ANSWER_SECONDS)
    assert alone.replica in replicas
    np.testing.assert_array_equal(answer.probabilities, alone.probabilities)
    np.testing.assert_array_equal(answer.classes, alone.classes)

    others: list[Client] = [
        V1Client(f"http://{model.front}", model.name),
        GrpcClient(model.front_grpc, model.name),
    ]
    for each in others:
        with each:
            again = each.predict(IMAGES[:2000], ANSWER_SECONDS)
        assert again.replicas == replicas
        np.testing.assert_array_equal(again.probabilities, answer.probabilities[:2000])


def test_replicas_that_die_and_come_cost_no_request(model: Model) -> None:
    expected = model.ask().probabilities
    before = model.pods("predictor")
    failures: list[str] = []
    seen: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = model.ask()
                np.testing.assert_array_equal(answer.probabilities, expected)
                seen.update(answer.replicas)
            except Exception as error:
                failures.append(str(error))

    client = threading.Thread(target=ask)
    client.start()
    try:
        delete_pod(next(iter(before.values())), now=True)
        wait_until(lambda: failures or seen - before.keys(), "an answer of the new pod", 300)
    finally:
        stop.set()
        client.join()
    assert failures == []
    assert seen - before.keys() <= model.pods("predictor").keys()


def test_a_new_replica_takes_part(model: Model) -> None:
    change = '{"spec": {"predictor": {"minReplicas": 3}}}'
    kubectl("patch", "inferenceservice", model.name, "--type=merge", f"--patch={change}")
    wait_until(lambda: len(model.ask().replicas) == 3, "an answer of three replicas", 300)
