"""A front and real replicas: a large request, with and without accidents."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlpipeline.backends.local.processes import free_ports
from mlpipeline.engines import Kind
from mlpipeline.errors import ServingError
from mlpipeline.serving.clients import (
    Client,
    GrpcClient,
    Prediction,
    V1Client,
    V2BinaryClient,
    V2JsonClient,
)
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace
from support.model_servers import (
    NAME,
    Ports,
    Published,
    Server,
    publish,
    started_front,
    started_replica,
)
from support.pipelines import Member, Pipeline, wait_until

# isort: split
# KServe reads sys.argv when it is imported, unless `mlpipeline.serving` did so before.
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

COUNT = 10_000
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
SECONDS = 120.0
NAMES = ("shard-0", "shard-1", "shard-2")

CLIENTS: dict[str, Callable[[Ports], Client]] = {
    "V1 JSON": lambda ports: V1Client(ports.url, NAME),
    "V2 JSON": lambda ports: V2JsonClient(ports.url, NAME),
    "V2 binary": lambda ports: V2BinaryClient(ports.url, NAME),
    "V2 gRPC": lambda ports: GrpcClient(ports.address, NAME),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("models") / NAME / "v1", IMAGES[:400])


@dataclass
class Service:
    """Replicas of a model, each with an address of its own, and their front."""

    model: Published
    replicas: dict[str, tuple[Ports, Server]]
    front: Ports
    log: Path

    def kill(self, *names: str) -> None:
        for name in names:
            self.replicas[name][1].stop(signal.SIGKILL)


@contextlib.contextmanager
def _service(published: Published, names: tuple[str, ...], logs: Path) -> Iterator[Service]:
    places, front, log = {name: Ports() for name in names}, Ports(), logs / "front"
    with contextlib.ExitStack() as stack:
        replicas = {
            name: (
                ports,
                stack.enter_context(started_replica(published.folder, ports, name, logs / name)),
            )
            for name, ports in places.items()
        }
        server = stack.enter_context(started_front([*places.values()], front, len(names), log))
        server.wait_until_ready()
        yield Service(published, replicas, front, log)


@pytest.fixture(scope="module")
def service(engine: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    model = publish(tmp_path_factory.mktemp(engine) / NAME / "v1", IMAGES[:400], engine)
    with _service(model, NAMES, tmp_path_factory.mktemp("logs")) as service:
        yield service


def _ask(kind: str, ports: Ports, images: Any = IMAGES) -> Prediction:
    with CLIENTS[kind](ports) as client:
        return client.predict(images, SECONDS)


# --- right answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count"),
    [("V2 binary", COUNT), ("V2 gRPC", COUNT), ("V1 JSON", 4000), ("V2 JSON", 4000)],
)
def test_a_large_request_is_answered_by_all_as_one_would(
    service: Service, kind: str, count: int
) -> None:
    images = IMAGES[:count]
    answer = _ask(kind, service.front, images)
    assert answer.replica == "front, shard-0, shard-1, shard-2"
    assert answer.replicas == list(NAMES)
    alone = _ask(kind, service.replicas["shard-0"][0], images)
    assert alone.replicas == ["shard-0"]
    np.testing.assert_array_equal(answer.probabilities, alone.probabilities)
    np.testing.assert_array_equal(answer.classes, alone.classes)
    assert answer.version == alone.version
    known = service.model.probabilities
    np.testing.assert_allclose(answer.probabilities[: len(known)], known, atol=1e-5)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_small_request_is_answered_by_one(service: Service, kind: str) -> None:
    answer = _ask(kind, service.front, IMAGES[:3])
    assert len(answer.replicas) == 1
    np.testing.assert_allclose(answer.probabilities, service.model.probabilities[:3], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/v1/models", None),
        ("GET", f"/v1/models/{NAME}", None),
        ("GET", f"/v2/models/{NAME}", None),
        ("GET", f"/v2/models/{NAME}/ready", None),
        ("GET", "/v2/health/ready", None),
        ("GET", f"/v1/models/{NAME}:predict", None),
        ("GET", "/v2/models/nobody", None),
        ("POST", "/v1/models/nobody:predict", "{}"),
        ("POST", f"/v1/models/{NAME}:predict", '{"instances": [[1, 2], [3]]}'),
        ("POST", f"/v1/models/{NAME}:predict", "no JSON"),
        ("POST", f"/v2/models/{NAME}/infer", '{"inputs": []}'),
        ("POST", f"/v2/repository/models/{NAME}/unload", None),
    ],
)
def test_a_front_says_what_a_replica_says(
    service: Service, method: str, path: str, content: str | None
) -> None:
    headers = {"content-type": "application/json"}
    front, replica = (
        httpx.request(method, ports.url + path, content=content, headers=headers, timeout=30)
        for ports in (service.front, service.replicas["shard-0"][0])
    )
    assert (front.status_code, front.text) == (replica.status_code, replica.text)
    assert front.headers["x-served-by"] == "front"


def test_a_front_says_what_a_replica_says_by_grpc(service: Service) -> None:
    said = []
    for ports in (service.front, service.replicas["shard-0"][0]):
        with grpc.insecure_channel(ports.address) as channel:
            stub = services.GRPCInferenceServiceStub(channel)
            metadata, call = stub.ModelMetadata.with_call(
                messages.ModelMetadataRequest(name=NAME), timeout=30
            )
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(messages.ModelInferRequest(model_name=NAME), timeout=30)
            classes = dict(call.trailing_metadata())["classes"]
            said.append((metadata, classes, refused.value.code(), refused.value.details()))
    assert said[0] == said[1]


# --- accidents --------------------------------------------------------------------------------


def test_a_replica_killed_in_the_middle_of_a_request_costs_nothing(
    published: Published, tmp_path: Path
) -> None:
    with _service(published, NAMES[:2], tmp_path) as service:
        ports, dying = service.replicas["shard-0"]
        answers: list[Prediction] = []
        # It is sent pieces and cannot answer them: the request cannot end before it is killed.
        dying.process.send_signal(signal.SIGSTOP)
        request = threading.Thread(target=lambda: answers.append(_ask("V2 binary", service.front)))
        request.start()
        request.join(1)
        assert request.is_alive()
        service.kill("shard-0")
        request.join(SECONDS)
        assert not request.is_alive()
        (answer,) = answers
        assert answer.replicas == ["shard-1"]
        alone = _ask("V2 binary", service.replicas["shard-1"][0])
        np.testing.assert_array_equal(answer.probabilities, alone.probabilities)

        with started_replica(published.folder, ports, "new", tmp_path / "new"):
            end = time.monotonic() + SECONDS
            while _ask("V2 binary", service.front).replicas != ["new", "shard-1"]:
                assert time.monotonic() < end, service.log.read_text()

        service.kill("shard-1")
        _assert_unavailable(service.front)
        assert "Traceback" not in service.log.read_text()


def _assert_unavailable(front: Ports) -> None:
    ready = f"{front.url}/v2/health/ready"
    end = time.monotonic() + SECONDS
    while httpx.get(ready, timeout=30).status_code != 503:
        assert time.monotonic() < end, "it calls itself ready without a replica"
        time.sleep(0.1)
    with pytest.raises(ServingError, match="503"):
        _ask("V2 binary", front, IMAGES[:1])
    with pytest.raises(ServingError, match=r"UNAVAILABLE.*no replica that answers"):
        _ask("V2 gRPC", front, IMAGES[:1])
    assert httpx.get(f"{front.url}/v2/health/live", timeout=30).status_code == 200


def test_a_shard_of_this_machine_that_dies_is_started_again(
    published: Published, tmp_path: Path
) -> None:
    http, grpc_ = free_ports(2)
    content = {
        "name": NAME,
        "candidates": {"unused": {"model": "cnn"}},
        "serving": {"port": http, "grpc_port": grpc_},
    }
    pipeline = Pipeline(tmp_path, content)
    version = pipeline.workspace / "models" / NAME / "v1"
    version.parent.mkdir(parents=True)
    version.symlink_to(published.folder)
    registry.promote(Workspace(pipeline.workspace), NAME, "v1")
    front = Ports(http, grpc_)
    with pipeline.started("serve", "--shards", "2") as command:
        wait_until(lambda: "Try:" in command.output, command)
        assert "2 shards and their front" in command.output
        before = _ask("V2 binary", front)
        assert before.replicas == ["shard-0", "shard-1"]
        (killed,) = _shards(command.members(), "shard-0")
        os.kill(killed.pid, signal.SIGKILL)
        np.testing.assert_array_equal(_ask("V2 binary", front).probabilities, before.probabilities)
        wait_until(lambda: "shard-0 has died and is started again" in command.errors, command)
        wait_until(lambda: _ask("V2 binary", front).replicas == before.replicas, command)
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 0
        assert command.members() == []


def _shards(members: list[Member], name: str) -> list[Member]:
    return [member for member in members if name in member.arguments]
