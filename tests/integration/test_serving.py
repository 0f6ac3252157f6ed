"""Real replicas of the model server: every protocol, every refusal, and how they end."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
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

from mlpipeline.engines import Kind
from mlpipeline.errors import ArtifactError, ServingError
from mlpipeline.serving import model as models
from mlpipeline.serving.clients import GrpcClient, V1Client, V2BinaryClient, V2JsonClient
from mlpipeline.steps.verification import Expected, verify
from mlpipeline.store import artifacts
from support.memory_split import MemorySplit
from support.model_servers import (
    CLASSES,
    HOST,
    NAME,
    READY_SECONDS,
    Ports,
    Published,
    Server,
    publish,
    started_replica,
)
from support.stored_documents import model_card

# isort: split
# KServe reads sys.argv when it is imported, unless `mlpipeline.serving` did so before.
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

REPLICAS = ("replica-0", "replica-1")
MAX_BODY = 64 * 2**20

IMAGES = np.random.default_rng(0).integers(0, 256, (400, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, engine: Kind) -> Published:
    return publish(tmp_path_factory.mktemp("models") / NAME / "v1", IMAGES, engine)


@dataclass
class Service:
    """Running replicas behind one address."""

    ports: Ports
    replicas: list[Server]
    http: httpx.Client
    stub: services.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def service(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    ports = Ports()
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(started_replica(published.folder, ports, name, logs / name))
            for name in REPLICAS
        ]
        for replica in replicas:
            replica.wait_until_ready()
        http = stack.enter_context(httpx.Client(base_url=ports.url, timeout=30))
        channel = stack.enter_context(grpc.insecure_channel(ports.address))
        yield Service(ports, replicas, http, services.GRPCInferenceServiceStub(channel))


# --- right answers ----------------------------------------------------------------------------


def test_every_protocol_and_every_replica_gives_the_models_own_answers(
    service: Service, published: Published
) -> None:
    classes = published.probabilities.argmax(axis=1)
    labels = np.where(np.arange(len(IMAGES)) % 2 == 0, classes, (classes + 1) % 10)
    figures = verify(
        base_url=service.ports.url,
        grpc_address=service.ports.address,
        name=NAME,
        expected=Expected(MemorySplit(IMAGES, labels), published.probabilities, 0.5, REPLICAS),
        timeout=120,
    )
    assert [each.protocol for each in figures.protocols] == [
        "V1 JSON",
        "V2 JSON",
        "V2 binary",
        "V2 gRPC",
    ]
    for each in figures.protocols:
        assert each.images == len(IMAGES)
        assert each.accuracy == 0.5
        assert each.replicas == REPLICAS


def test_v1_answers_as_tensorflow_serving_does(service: Service, published: Published) -> None:
    response = service.http.post(
        f"/v1/models/{NAME}:predict", json={"instances": IMAGES[:3].tolist()}
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-served-by"] in REPLICAS
    body = response.json()
    assert list(body) == ["predictions"]
    np.testing.assert_allclose(body["predictions"], published.probabilities[:3], atol=1e-5)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", None])
def test_v1_is_json_whatever_it_is_called(service: Service, content_type: str | None) -> None:
    response = service.http.post(
        f"/v1/models/{NAME}:predict",
        content=json.dumps({"instances": IMAGES[:1].tolist()}),
        headers={"content-type": content_type} if content_type else {},
    )
    assert response.status_code == 200


@pytest.mark.parametrize("data", [IMAGES[:2].ravel().tolist(), IMAGES[:2].tolist()])
def test_v2_takes_flat_and_nested_json(
    service: Service, published: Published, data: list[Any]
) -> None:
    tensor = {"name": "any name", "shape": [2, 28, 28], "datatype": "UINT8", "data": data}
    response = service.http.post(
        f"/v2/models/{NAME}/infer", json={"id": "mine", "inputs": [tensor]}
    )
    assert response.status_code == 200
    body = response.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("mine", NAME, "v1")
    probabilities, classes = body["outputs"]
    assert (probabilities["name"], probabilities["datatype"], probabilities["shape"]) == (
        "probabilities",
        "FP32",
        [2, 10],
    )
    assert (classes["name"], classes["datatype"], classes["shape"]) == ("class", "INT64", [2])
    expected = published.probabilities[:2]
    np.testing.assert_allclose(probabilities["data"], expected.ravel(), atol=1e-5)
    assert classes["data"] == expected.argmax(axis=1).tolist()


def test_v2_gives_only_the_outputs_that_are_asked_for(service: Service) -> None:
    request = _v2() | {"outputs": [{"name": "class", "parameters": {"binary_data": True}}]}
    response = service.http.post(f"/v2/models/{NAME}/infer", json=request)
    length = int(response.headers["inference-header-content-length"])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["name"] == "class"
    assert output["parameters"] == {"binary_data_size": 8}
    assert len(response.content) == length + 8


def test_grpc_takes_typed_contents(service: Service, published: Published) -> None:
    request = _grpc_request(contents={"uint_contents": IMAGES[:2].ravel().tolist()})
    request.inputs[0].shape[0] = 2
    response = service.stub.ModelInfer(request, timeout=30)
    probabilities, classes = response.outputs
    np.testing.assert_allclose(
        probabilities.contents.fp32_contents, published.probabilities[:2].ravel(), atol=1e-5
    )
    assert list(classes.contents.int64_contents) == [
        int(each) for each in published.probabilities[:2].argmax(axis=1)
    ]


def test_metadata_names_version_tensors_classes_and_digest(
    service: Service, published: Published, engine: Kind
) -> None:
    inputs = [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "class", "datatype": "INT64", "shape": [-1]},
    ]
    digest = artifacts.digest(published.folder)
    assert service.http.get(f"/v2/models/{NAME}").json() == {
        "name": NAME,
        "versions": ["v1"],
        "platform": models.PLATFORMS[engine],
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"classes": CLASSES, "digest": digest},
    }
    request = messages.ModelMetadataRequest(name=NAME)
    response, call = service.stub.ModelMetadata.with_call(request, timeout=30)
    assert response == messages.ModelMetadataResponse(
        name=NAME,
        versions=["v1"],
        platform=models.PLATFORMS[engine],
        inputs=inputs,
        outputs=outputs,
    )
    trailing = dict(call.trailing_metadata())
    assert json.loads(trailing["classes"]) == CLASSES
    assert trailing["digest"] == digest


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/v1/models", f"/v1/models/{NAME}", "/v2/health/live", "/v2/health/ready"],
)
def test_it_tells_how_it_is(service: Service, path: str) -> None:
    response = service.http.get(path)
    assert response.status_code == 200
    assert response.headers["x-served-by"] in REPLICAS


def test_concurrent_requests_get_their_own_answers(service: Service, published: Published) -> None:
    failures: list[str] = []

    def ask(offset: int) -> None:
        with V1Client(service.ports.url, NAME) as client:
            for index in range(offset, len(IMAGES), 16):
                answer = client.predict(IMAGES[index : index + 1], 30)
                expected = published.probabilities[index : index + 1]
                if not np.allclose(answer.probabilities, expected, atol=1e-5):
                    failures.append(f"image {index}")

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- refusals ---------------------------------------------------------------------------------


def _v2(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
    return {"inputs": [tensor | changes]}


def _binary(size: Any = 784, tail: int = 784, **changes: Any) -> bytes:
    tensor = _v2(**changes)["inputs"][0] | {"parameters": {"binary_data_size": size}}
    del tensor["data"]
    return json.dumps({"inputs": [tensor]}).encode() + bytes(tail)


def _grpc_request(
    raw: list[bytes] | None = None, contents: Any = None, **changes: Any
) -> messages.ModelInferRequest:
    tensor = {"name": "x", "shape": [1, 28, 28], "datatype": "UINT8"} | changes
    if contents is not None:
        tensor["contents"] = contents
    return messages.ModelInferRequest(
        model_name=NAME, inputs=[tensor], raw_input_contents=raw or []
    )


def _assert_refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    for word in ("got", "expected", "to do"):
        assert word in body["error"]
    assert response.headers["x-served-by"] in REPLICAS
    return str(body["error"])


V1_REFUSED: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\x00\xff\xfe", "not JSON"),
    (b'{"instances": [[NaN]]}', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"5", "a int"),
    (b"null", "a NoneType"),
    (b"[1]", "a list"),
    (b"{}", "an object with []"),
    (b'{"inputs": [1]}', "an object with ['inputs']"),
    (b'{"instances": 1}', "of type int"),
    (b'{"instances": {}}', "of type dict"),
    (b'{"instances": []}', "no images"),
    (b'{"instances": [1, 2]}', "shape [2]"),
    (b'{"instances": [[[1, 2], [3, 4]]]}', "shape [1,2,2]"),
    (b'{"instances": [[[1, 2], [3]]]}', "unequal lengths"),
    (b'{"instances": ["abc"]}', "not all numbers"),
    (b'{"instances": [{"images": 1}]}', "not all numbers"),
    (b'{"instances": [[[1.5, 2]]]}', "the value 1.5"),
    (b'{"instances": [[[256, 2]]]}', "the value 256"),
    (b'{"instances": [[[-1, 2]]]}', "the value -1"),
    (b'{"instances": [[[1e300, 2]]]}', "the value 1e+300"),
]


@pytest.mark.parametrize(("body", "told"), V1_REFUSED)
def test_v1_refuses(service: Service, body: bytes, told: str) -> None:
    response = service.http.post(
        f"/v1/models/{NAME}:predict", content=body, headers={"content-type": "application/json"}
    )
    assert told in _assert_refused(response, 400)


V2_REFUSED: list[tuple[Any, str]] = [
    (b"{", "body"),
    (b"[" * 100_000, "body"),
    (b"\xff\x00", "body"),
    ([], "body"),
    ({}, "inputs"),
    ({"inputs": []}, "the inputs []"),
    ({"inputs": [1]}, "inputs.0"),
    ({"inputs": _v2()["inputs"] * 2}, "the inputs"),
    (_v2(datatype="FP32"), "FP32"),
    (_v2(datatype="NONSENSE"), "NONSENSE"),
    (_v2(shape=[28, 28]), "shape [28,28]"),
    (_v2(shape=[2, 28, 28]), "784 values"),
    (_v2(shape=[0, 28, 28], data=[]), "shape [0,28,28]"),
    (_v2(shape=[-1, -28, 28]), "shape [-1,-28,28]"),
    (_v2(shape=[10**30, 28, 28]), "shape"),
    (_v2(shape="big"), "shape"),
    (_v2(data=[0] * 783 + [256]), "the value 256"),
    (_v2(data=[0] * 783 + ["1"]), "not all numbers"),
    (_v2(data=[0] * 783 + [0.5]), "the value 0.5"),
    (_v2(data=[[1], [2, 3]]), "unequal lengths"),
    (_v2(data=7), "data"),
    (_v2() | {"outputs": [{"name": "nothing"}]}, "nothing"),
]


@pytest.mark.parametrize(("body", "told"), V2_REFUSED)
def test_v2_json_refuses(service: Service, body: Any, told: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    response = service.http.post(
        f"/v2/models/{NAME}/infer", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert told in response.json()["error"]


def test_v2_refuses_nan(service: Service) -> None:
    content = json.dumps(_v2(data=[math.nan] * 784))
    response = service.http.post(
        f"/v2/models/{NAME}/infer", content=content, headers={"content-type": "application/json"}
    )
    assert "no NaN" in _assert_refused(response, 400)


@pytest.mark.parametrize(
    ("body", "length", "told"),
    [
        (_binary(), "0", "inference-header-content-length: 0"),
        (_binary(), "-5", "inference-header-content-length: -5"),
        (_binary(), "99999", "inference-header-content-length: 99999"),
        (_binary(), "ten", "inference-header-content-length: ten"),
        (_binary(), "10", "not JSON"),
        (_binary(), None, "not JSON"),
        (_binary(size=785), "right", "785"),
        (_binary(size=783), "right", "1 bytes after the last tensor"),
        (_binary(tail=785), "right", "1 bytes after the last tensor"),
        (_binary(size=-1), "right", "-1"),
        (_binary(size="784"), "right", "784"),
        (_binary(size=10**30), "right", ""),
        (_binary(shape=[2, 28, 28]), "right", "784 values"),
        (_binary(shape=None), "right", "shape"),
        (_binary(datatype=None), "right", "datatype"),
        (_binary(datatype="FP32"), "right", "FP32"),
        (_binary(datatype="BYTES"), "right", "BYTES"),
        (b'{"inputs": 5}', "right", "inputs"),
        (b'{"inputs": [5]}', "right", "inputs"),
        (b'{"outputs": []}', "right", "inputs"),
        (b"5", "1", "dictionary"),
        (b"\x00" * 100, "50", "not JSON"),
    ],
)
def test_v2_binary_refuses(service: Service, body: bytes, length: str | None, told: str) -> None:
    headers = {"content-type": "application/octet-stream"}
    if length == "right":
        length = str(len(body) - len(body.rpartition(b"}")[2]))
    if length is not None:
        headers["inference-header-content-length"] = length
    response = service.http.post(f"/v2/models/{NAME}/infer", content=body, headers=headers)
    assert told in _assert_refused(response, 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/v1/models/{NAME}:predict", 405),
        ("PUT", f"/v1/models/{NAME}:predict", 405),
        ("GET", f"/v2/models/{NAME}/infer", 405),
        ("DELETE", f"/v2/models/{NAME}/infer", 405),
        ("POST", "/metrics", 405),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("POST", "/v1/models/nobody:predict", 404),
        ("POST", "/v1/models/%00:predict", 404),
        ("GET", "/", 200),
        ("GET", "/nowhere", 404),
        ("POST", f"/v2/repository/models/{NAME}/unload", 400),
        ("POST", f"/v2/repository/models/{NAME}/load", 400),
    ],
)
def test_addresses_and_methods(service: Service, method: str, path: str, status: int) -> None:
    response = service.http.request(method, path)
    if status == 200:
        assert response.status_code == 200
    else:
        _assert_refused(response, status)


def test_an_unknown_model_is_404_on_v2_as_well(service: Service) -> None:
    response = service.http.post("/v2/models/nobody/infer", json=_v2())
    assert "nobody" in _assert_refused(response, 404)


def _chunks() -> Iterator[bytes]:
    for _ in range(MAX_BODY // 2**20 + 1):
        yield bytes(2**20)


@pytest.mark.parametrize("path", [f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"])
@pytest.mark.parametrize("body", [lambda: bytes(MAX_BODY + 1), _chunks], ids=["sized", "chunked"])
def test_too_large_a_body_is_refused_unread(
    service: Service, path: str, body: Callable[[], Any]
) -> None:
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=service.ports.url, timeout=30) as client:
        response = client.post(path, content=body(), headers=headers)
    assert str(MAX_BODY) in _assert_refused(response, 413)


@pytest.mark.parametrize(
    ("request_", "code", "told"),
    [
        (_grpc_request([bytes(783)]), "INVALID_ARGUMENT", "783 values"),
        (_grpc_request([b""]), "INVALID_ARGUMENT", "0 values"),
        (_grpc_request([]), "INVALID_ARGUMENT", "0 values"),
        (_grpc_request([bytes(784)], shape=[28, 28]), "INVALID_ARGUMENT", "shape [28,28]"),
        (_grpc_request([bytes(784)], shape=[2**40, 28, 28]), "INVALID_ARGUMENT", "784 values"),
        (_grpc_request([bytes(784)], datatype="FP32"), "INVALID_ARGUMENT", "FP32"),
        (_grpc_request([bytes(784)], datatype="?"), "INVALID_ARGUMENT", "content type"),
        (_grpc_request([bytes(784)] * 2), "INVALID_ARGUMENT", "raw input contents"),
        (_grpc_request([bytes(784)], contents={}), "INVALID_ARGUMENT", "contents"),
        (
            _grpc_request(contents={"uint_contents": [0] * 783 + [256]}),
            "INVALID_ARGUMENT",
            "the value 256",
        ),
        (messages.ModelInferRequest(model_name=NAME), "INVALID_ARGUMENT", "the inputs []"),
        (messages.ModelInferRequest(model_name="nobody"), "NOT_FOUND", "nobody"),
    ],
)
def test_grpc_refuses(
    service: Service, request_: messages.ModelInferRequest, code: str, told: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.stub.ModelInfer(request_, timeout=30)
    assert refused.value.code() is grpc.StatusCode[code]
    assert told in refused.value.details()
    assert dict(refused.value.trailing_metadata())["x-served-by"] in REPLICAS


def test_grpc_refuses_too_large_a_message(service: Service) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.stub.ModelInfer(_grpc_request([bytes(MAX_BODY)]), timeout=30)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_cannot_unload_the_model(service: Service) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.stub.RepositoryModelUnload(
            messages.RepositoryModelUnloadRequest(model_name=NAME), timeout=30
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_no_garbage_is_the_servers_fault(service: Service) -> None:
    """Cut, repeat and overwrite parts of good requests: whatever comes of it, never a 5xx."""
    chance = random.Random(5)
    good = [
        (f"/v1/models/{NAME}:predict", json.dumps({"instances": IMAGES[:1].tolist()}).encode()),
        (f"/v2/models/{NAME}/infer", json.dumps(_v2()).encode()),
        (f"/v2/models/{NAME}/infer", _binary()),
    ]
    for _ in range(400):
        path, body = chance.choice(good)
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            start, size = chance.randrange(len(damaged) + 1), chance.randint(0, 8)
            damaged[start : start + size] = chance.choice(
                [b"", b"\x00", b"[", b"}", b'"', b"-1", b"1e9", b"null", chance.randbytes(size)]
            )
        headers = {
            "content-type": chance.choice(["application/json", "application/octet-stream", "x"])
        }
        if chance.random() < 0.5:
            headers["inference-header-content-length"] = chance.choice(
                ["", "1", "110", str(len(damaged)), "1e3"]
            )
        response = service.http.post(path, content=bytes(damaged), headers=headers)
        assert response.status_code in (200, 400, 413), (response.text, damaged)


def test_refusals_leave_no_stack_traces_in_the_log(service: Service) -> None:
    for body, _ in V1_REFUSED:
        service.http.post(f"/v1/models/{NAME}:predict", content=body)
    with pytest.raises(grpc.RpcError):
        service.stub.ModelInfer(_grpc_request([b""]), timeout=30)
    for replica in service.replicas:
        assert "Traceback" not in replica.log.read_text()


# --- beginning and end ------------------------------------------------------------------------


def test_sigterm_fails_no_request(published: Published, service: Service, tmp_path: Path) -> None:
    """Take a replica away while clients of every kind are busy: none of them notices."""
    ports, failures, counts = service.ports, [], []
    stop = threading.Event()

    def ask(connect: Callable[[], Any], reconnect: bool) -> None:
        count, client = 0, connect()
        try:
            while not stop.is_set():
                client.predict(IMAGES[: 1 + count % 40], 30)
                count += 1
                if reconnect:
                    client.__exit__(None, None, None)
                    client = connect()
        except ServingError as error:
            failures.append(str(error))
        finally:
            client.__exit__(None, None, None)
            counts.append(count)

    kinds = [
        (lambda: V1Client(ports.url, NAME), False),
        (lambda: V2JsonClient(ports.url, NAME), False),
        (lambda: V2BinaryClient(ports.url, NAME), False),
        (lambda: GrpcClient(ports.address, NAME), False),
        (lambda: V1Client(ports.url, NAME), True),
    ]
    with started_replica(published.folder, ports, "leaving", tmp_path / "log") as leaving:
        leaving.wait_until_ready()
        threads = [threading.Thread(target=ask, args=kind) for kind in kinds * 2]
        for thread in threads:
            thread.start()
        time.sleep(1)
        status = leaving.stop()
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert min(counts) > 1
    assert status == 0


def test_it_finishes_what_has_begun_and_exits_0(published: Published, tmp_path: Path) -> None:
    body = json.dumps({"instances": IMAGES.tolist()}).encode()
    head = (
        f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        ends = {signal.SIGINT: Ports(), signal.SIGTERM: Ports()}
        replicas = {
            number: stack.enter_context(
                started_replica(published.folder, ports, "alone", tmp_path / f"{number}.log")
            )
            for number, ports in ends.items()
        }
        for number, replica in replicas.items():
            replica.wait_until_ready()
            connection = stack.enter_context(
                socket.create_connection((HOST, ends[number].http), timeout=30)
            )
            connection.sendall(head.encode() + body[:1000])
            time.sleep(0.2)
            replica.process.send_signal(number)
            time.sleep(0.5)
            connection.sendall(body[1000:])  # it was still on its way when the signal came
            assert connection.recv(12) == b"HTTP/1.1 200"
            assert replica.process.wait(30) == 0


def test_a_port_in_use_is_named(published: Published, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        replicas = {}
        for taken in ("http", "grpc"):
            ports = Ports()
            port = getattr(ports, taken)
            stack.enter_context(socket.create_server((HOST, port)))
            log = tmp_path / taken
            replicas[port] = stack.enter_context(
                started_replica(published.folder, ports, "late", log)
            )
        for port, replica in replicas.items():
            assert replica.process.wait(READY_SECONDS) == 1
            assert f"cannot listen on {HOST}:{port}" in replica.log.read_text()
            assert "ready=" not in replica.log.read_text()


def test_a_damaged_model_is_not_served(published: Published, tmp_path: Path) -> None:
    copy = shutil.copytree(published.folder, tmp_path / "copy")
    (copy / "saved_model" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"saved_model\.pb is damaged"):
        models.load(copy)


def test_one_other_bit_of_what_is_served_is_seen(published: Published, tmp_path: Path) -> None:
    copy = shutil.copytree(published.folder, tmp_path / "copy")
    largest = max((f for f in copy.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{re.escape(largest.name)} is damaged"):
        models.load(copy)


def test_a_model_of_another_kind_is_not_served(tmp_path: Path) -> None:
    import tensorflow as tf

    wrong = tf.Module()
    wrong.call = tf.function(lambda x: {"y": x}, [tf.TensorSpec([None, 4], tf.float32, name="x")])
    with artifacts.publish(tmp_path / "v1") as draft:
        tf.saved_model.save(wrong, str(draft / "saved_model"), {"serving_default": wrong.call})
        model_card(version="v1", classes=CLASSES).save(draft / "model.json")
    with pytest.raises(ServingError, match="a signature of"):
        models.load(tmp_path / "v1")


@pytest.mark.parametrize("content", [b"", b"\x1c\0\0\0TFL3" + bytes(500), b"\x89PNG\r\n" * 99])
def test_a_tflite_file_that_is_none_is_not_served(tmp_path: Path, content: bytes) -> None:
    with artifacts.publish(tmp_path / "v1") as draft:
        (draft / "model.tflite").write_bytes(content)
        model_card(version="v1", classes=CLASSES, engine="litert").save(draft / "model.json")
    with pytest.raises(ServingError, match=r"v1/model\.tflite cannot be loaded by LiteRT"):
        models.load(tmp_path / "v1")


def test_the_command_line_is_left_alone() -> None:
    code = (
        "import sys; import mlpipeline.serving.predictor; import kserve.model_server as m;"
        "assert sys.argv[1:] == ['--http_port', '1', '--workers', 'many'], sys.argv;"
        "assert m.args.http_port == 8080"
    )
    subprocess.run(
        [sys.executable, "-c", code, "--http_port", "1", "--workers", "many"],
        check=True,
        env=os.environ,
        timeout=60,
    )
