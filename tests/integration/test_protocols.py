"""What the protocols promise, held against a real port that two replicas share, and a front."""

from __future__ import annotations

import contextlib
import gzip
import json
import signal
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.model_servers import (
    CLASSES,
    HOST,
    NAME,
    Ports,
    Published,
    Server,
    publish,
    started_front,
    started_replica,
)

# isort: split
# KServe reads sys.argv when it is imported, unless `mlpipeline.serving` did so before.
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
MAX_BODY = 64 * 2**20
V1 = f"/v1/models/{NAME}:predict"
V2 = f"/v2/models/{NAME}/infer"
LENGTH = "inference-header-content-length"
INSTANCES = json.dumps({"instances": IMAGES.tolist()}).encode()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("models") / NAME / "v1", IMAGES)


@dataclass
class Place:
    """An address that serves the model."""

    ports: Ports
    http: httpx.Client
    channel: grpc.Channel
    stub: services.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def places(
    published: Published, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    logs = tmp_path_factory.mktemp("logs")
    ports = {"replicas": Ports(), "front": Ports()}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                started_replica(published.folder, ports["replicas"], name, logs / name)
            )
            for name in ("replica-0", "replica-1")
        ]
        servers.append(
            stack.enter_context(
                started_front([ports["replicas"]], ports["front"], 1, logs / "front")
            )
        )
        for server in servers:
            server.wait_until_ready()
        yield {name: _place(stack, each) for name, each in ports.items()}
        for server in servers:
            _assert_no_traceback(server)


def _place(stack: contextlib.ExitStack, ports: Ports) -> Place:
    http = stack.enter_context(httpx.Client(base_url=ports.url, timeout=30))
    channel = stack.enter_context(grpc.insecure_channel(ports.address))
    return Place(ports, http, channel, services.GRPCInferenceServiceStub(channel))


def _assert_no_traceback(server: Server) -> None:
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture(params=["replicas", "front"])
def place(places: dict[str, Place], request: pytest.FixtureRequest) -> Place:
    return places[request.param]


def _refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (text,) = response.json().values()
    for word in ("got", "expected", "to do"):
        assert word in text
    return str(text)


def _v2(**changes: Any) -> dict[str, Any]:
    data = IMAGES.ravel().tolist()
    tensor = {"name": "x", "shape": [3, 28, 28], "datatype": "UINT8", "data": data}
    return {"inputs": [tensor]} | changes


def _grpc(**changes: Any) -> messages.ModelInferRequest:
    tensor = {"name": "x", "shape": [3, 28, 28], "datatype": "UINT8"}
    raw = {"model_name": NAME, "inputs": [tensor], "raw_input_contents": [IMAGES.tobytes()]}
    return messages.ModelInferRequest(**(raw | changes))


# --- HTTP -------------------------------------------------------------------------------------


def _exchange(ports: Ports, *parts: bytes) -> bytes:
    """Send bytes with pauses between, and return all that comes until the server closes."""
    with socket.create_connection((HOST, ports.http), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        received = b""
        while piece := connection.recv(2**16):
            received += piece
        return received


def _head(*lines: str, path: str = V1, method: str = "POST", size: int = len(INSTANCES)) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *lines, "", ""]
    return "\r\n".join(head).encode()


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("offer", [H2C, ("Connection: upgrade", "Upgrade: websocket")])
@pytest.mark.parametrize("cuts", [[], [10], [40, 200, 400], [-1]])
def test_an_offer_to_speak_another_protocol_is_answered_as_if_it_were_not_there(
    place: Place, offer: tuple[str, ...], cuts: list[int]
) -> None:
    request = _head(*offer) + INSTANCES
    ends = [cut % len(request) for cut in cuts]
    parts = [
        request[a:b] for a, b in zip([0, *ends], [*ends, len(request)], strict=True)
    ]  # what comes in one packet, and what in many
    received = _exchange(place.ports, *parts, _head(*offer) + INSTANCES, LAST)
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b'{"predictions":[[') == 2


def test_an_offer_leaves_the_other_options_of_the_connection(place: Place) -> None:
    head = _head("Connection: close, Upgrade", "Upgrade: h2c", size=0, path="/", method="GET")
    received = _exchange(place.ports, head)  # it would wait if the server did not close
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_an_offer_with_a_body_in_chunks(place: Place) -> None:
    head = _head(*H2C).replace(
        b"Content-Length: %d" % len(INSTANCES), b"Transfer-Encoding: chunked"
    )
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(INSTANCES), INSTANCES)
    assert b'{"predictions"' in _exchange(place.ports, head + chunks, LAST)


@pytest.mark.parametrize(
    "request_",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_not_http_1_1_is_refused_in_the_same_form(place: Place, request_: bytes) -> None:
    received = _exchange(place.ports, request_)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"x-served-by" in head
    assert "expected a request as HTTP/1.1 has it" in json.loads(body)["error"]


def test_expect_100_continue(place: Place) -> None:
    with socket.create_connection((HOST, place.ports.http), timeout=30) as connection:
        connection.sendall(_head("Expect: 100-continue", "Connection: close"))
        assert connection.recv(2**16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(INSTANCES)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 OK")


def test_what_is_too_large_is_not_asked_for(place: Place) -> None:
    head = _head("Expect: 100-continue", "Connection: close", size=MAX_BODY + 1)
    assert _exchange(place.ports, head).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("path", [V1, V2])
def test_a_body_in_chunks(place: Place, path: str) -> None:
    content = INSTANCES if path == V1 else json.dumps(_v2()).encode()
    parts = (content[start : start + 1000] for start in range(0, len(content), 1000))
    assert place.http.post(path, content=parts).status_code == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/v2", "/v2/health/ready", f"/v2/models/{NAME}"])
def test_head_is_get_without_a_body(place: Place, path: str) -> None:
    head, get = place.http.head(path), place.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(("path", "allowed"), [(V1, "POST"), (V2, "POST"), ("/v2", "GET")])
def test_other_methods_are_told_which_are_allowed(
    place: Place, method: str, path: str, allowed: str
) -> None:
    response = place.http.request(method, path)
    _refused(response, 405)
    assert allowed in response.headers["allow"]


@pytest.mark.parametrize("path", [f"/v2/models/{NAME}/", "/v2/health/live/", "/v1/models/", "/v2/"])
def test_a_slash_at_the_end_changes_nothing(place: Place, path: str) -> None:
    assert place.http.get(path).json() == place.http.get(path.rstrip("/")).json()


def test_a_slash_at_the_end_of_an_inference_loses_no_body(place: Place) -> None:
    assert place.http.post(V2 + "/", json=_v2()).status_code == 200
    assert place.http.post(V1 + "/", content=INSTANCES).status_code == 200


# --- bodies -----------------------------------------------------------------------------------


def _raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


COMPRESSED = [
    ("gzip", gzip.compress(INSTANCES, mtime=0)),
    ("GZIP", gzip.compress(INSTANCES, mtime=0)),
    ("x-gzip", gzip.compress(INSTANCES, mtime=0)),
    ("gzip", gzip.compress(INSTANCES[:500], mtime=0) + gzip.compress(INSTANCES[500:], mtime=0)),
    ("deflate", zlib.compress(INSTANCES)),
    ("deflate", _raw_deflate(INSTANCES)),
    ("identity", INSTANCES),
    ("identity, gzip", gzip.compress(INSTANCES, mtime=0)),
]


@pytest.mark.parametrize(("coding", "content"), COMPRESSED)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_body(place: Place, coding: str, content: bytes, chunked: bool) -> None:
    body = (content[i : i + 100] for i in range(0, len(content), 100)) if chunked else content
    response = place.http.post(V1, content=body, headers={"content-encoding": coding})
    assert len(response.json()["predictions"]) == 3


def test_a_compressed_binary_body_has_its_lengths_as_before(place: Place) -> None:
    """As Triton has it: Inference-Header-Content-Length counts what is decompressed."""
    request = _v2()
    del request["inputs"][0]["data"]
    request["inputs"][0]["parameters"] = {"binary_data_size": IMAGES.nbytes}
    header = json.dumps(request).encode()
    headers = {"content-encoding": "gzip", LENGTH: str(len(header))}
    content = gzip.compress(header + IMAGES.tobytes())
    assert place.http.post(V2, content=content, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("coding", "content", "told"),
    [
        ("gzip", INSTANCES, "not gzip"),
        ("gzip", b"", "ends too early"),
        ("gzip", gzip.compress(INSTANCES, mtime=0)[:-9], "ends too early"),
        ("gzip", gzip.compress(INSTANCES, mtime=0) + b"rest", "not gzip"),
        ("gzip", gzip.compress(INSTANCES, mtime=0)[:-4] + b"\x00\x00\x00\x00", "not gzip"),
        ("deflate", zlib.compress(INSTANCES)[:-9], "ends too early"),
        ("deflate", zlib.compress(INSTANCES) + b"rest", "4 bytes after its end"),
        ("deflate", b"\xff\xff", "not deflate"),
    ],
)
@pytest.mark.parametrize("path", [V1, V2])
def test_a_damaged_compressed_body(
    place: Place, path: str, coding: str, content: bytes, told: str
) -> None:
    response = place.http.post(path, content=content, headers={"content-encoding": coding})
    assert told in _refused(response, 400)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "x"])
@pytest.mark.parametrize("path", [V1, V2])
def test_an_unknown_coding_is_told_which_are_known(place: Place, path: str, coding: str) -> None:
    response = place.http.post(path, content=INSTANCES, headers={"content-encoding": coding})
    assert coding in _refused(response, 415)
    assert response.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_small_body_that_becomes_a_large_one_is_refused(place: Place, coding: str) -> None:
    zeros = bytes(MAX_BODY + 1)
    bomb = gzip.compress(zeros, 1) if coding == "gzip" else zlib.compress(zeros, 1)
    response = place.http.post(V1, content=bomb, headers={"content-encoding": coding})
    assert str(MAX_BODY) in _refused(response, 413)


def test_a_compressed_message_of_grpc_has_the_same_limit(place: Place) -> None:
    good = _grpc(model_version="v1")
    assert place.stub.ModelInfer(good, compression=grpc.Compression.Gzip, timeout=30).outputs
    bomb = _grpc(raw_input_contents=[bytes(MAX_BODY)])
    with pytest.raises(grpc.RpcError) as refused:
        place.stub.ModelInfer(bomb, compression=grpc.Compression.Gzip, timeout=30)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_of_many_large_bodies_only_so_many_are_held_at_once(
    places: dict[str, Place], published: Published
) -> None:
    """At the front: of two replicas that share a port, nobody can say which has how much."""
    place = places["front"]
    part = bytes(10 * 2**20)
    large = _grpc(raw_input_contents=[part])
    binary = {LENGTH: "2"}
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            held = stack.enter_context(socket.create_connection((HOST, place.ports.http), 30))
            held.sendall(_head("Host: x", path=V2, size=MAX_BODY))
            for _ in range(6):
                held.sendall(part)
        end = time.monotonic() + 30
        while (refused := place.http.post(V2, content=part, headers=binary)).status_code != 503:
            assert time.monotonic() < end, "what was sent is not all read yet"
        assert str(2 * MAX_BODY) in _refused(refused, 503)
        assert refused.headers["retry-after"] == "1"
        with pytest.raises(grpc.RpcError) as refused_too:
            place.stub.ModelInfer(large, timeout=30)
        assert refused_too.value.code() is grpc.StatusCode.UNAVAILABLE
        assert str(2 * MAX_BODY) in refused_too.value.details()
        assert dict(refused_too.value.trailing_metadata())["x-served-by"] == "front"
        # For what is small there is room.
        answer = place.http.post(V1, content=INSTANCES).json()["predictions"]
        np.testing.assert_allclose(answer, published.probabilities, atol=1e-5)
    end = time.monotonic() + 30
    while place.http.post(V2, content=part, headers=binary).status_code == 503:
        assert time.monotonic() < end, "who has gone holds nothing"
    with pytest.raises(grpc.RpcError) as wrong:
        place.stub.ModelInfer(large, timeout=30)
    assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_who_stops_sending_a_large_body_holds_no_room(places: dict[str, Place]) -> None:
    place = places["front"]
    part = bytes(10 * 2**20)
    with contextlib.ExitStack() as stack:
        stalled = [
            stack.enter_context(socket.create_connection((HOST, place.ports.http), 30))
            for _ in range(2)
        ]
        for connection in stalled:
            connection.sendall(_head(path=V2, size=MAX_BODY))
            for _ in range(6):
                connection.sendall(part)
        end = time.monotonic() + 30
        while place.http.post(V2, content=part, headers={LENGTH: "2"}).status_code != 503:
            assert time.monotonic() < end, "what was sent is not all read yet"
        for connection in stalled:
            received = b""
            while piece := connection.recv(2**16):  # until the server closes
                received += piece
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert b"connection: close" in head
            assert f"got POST {V2}: {6 * len(part)} bytes of a body" in json.loads(body)["error"]
        wrong = place.http.post(V2, content=part, headers={LENGTH: "2"})
        assert wrong.status_code == 400, "there is room, and so it is read"


def test_as_many_calls_of_grpc_at_once_as_you_like_are_answered(place: Place) -> None:
    """`maximum_concurrent_rpcs` would refuse them; what bounds them is their size."""
    with contextlib.ExitStack() as stack:
        health = health_pb2_grpc.HealthStub(place.channel)
        for _ in range(50):
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            stack.callback(watch.cancel)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        calls = [place.stub.ModelInfer.future(_grpc(), timeout=60) for _ in range(300)]
        assert all(call.result().outputs for call in calls)


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/vnd.api+json",
        "application/x-www-form-urlencoded",
        "application/cloudevents+json",
        "text/plain",
        "nonsense",
    ],
)
def test_json_with_a_byte_order_mark_is_json_whatever_it_is_called(
    place: Place, path: str, content_type: str
) -> None:
    content = INSTANCES if path == V1 else json.dumps(_v2()).encode()
    headers = {"content-type": content_type}
    for body in (content, b"\xef\xbb\xbf" + content):
        response = place.http.post(path, content=body, headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_is_utf_8(place: Place, path: str, encoding: str) -> None:
    response = place.http.post(path, content=INSTANCES.decode().encode(encoding))
    assert "UTF-8" in _refused(response, 400)


@pytest.mark.parametrize(
    ("path", "content", "key"),
    [
        (V1, b'{"instances": [], ' + INSTANCES[1:], "instances"),
        (V1, INSTANCES[:-1] + b', "\\u0069nstances": []}', "instances"),
        (V2, json.dumps(_v2()).encode()[:-1] + b', "inputs": []}', "inputs"),
        (V2, json.dumps(_v2()).replace('"shape"', '"shape": [1], "shape"').encode(), "shape"),
        (V2, json.dumps(_v2()).replace('"data"', '"data":[0],"data"').encode(), "data"),
    ],
)
def test_an_ambiguous_object_is_refused(place: Place, path: str, content: bytes, key: str) -> None:
    text = _refused(place.http.post(path, content=content), 400)
    assert f"'{key}' more than once" in text


def test_the_same_name_in_two_objects_is_no_repetition(place: Place) -> None:
    outputs = [
        {"name": "class", "parameters": {}},
        {"name": "probabilities", "parameters": {}},
    ]
    response = place.http.post(V2, json=_v2(outputs=outputs, id='with "quotes" \\'))
    assert response.status_code == 200, response.text
    assert response.json()["id"] == 'with "quotes" \\'


@pytest.mark.parametrize("word", [True, False])
def test_true_and_false_are_no_pixels(place: Place, word: bool) -> None:
    image: list[list[Any]] = IMAGES[0].tolist()
    image[5][7] = word
    tensor = {"name": "x", "shape": [1, 28, 28], "datatype": "UINT8", "data": [image]}
    for path, request in ((V1, {"instances": [image]}), (V2, {"inputs": [tensor]})):
        assert json.dumps(word) in _refused(place.http.post(path, json=request), 400)


def test_what_is_nested_too_deep_is_refused(place: Place) -> None:
    deep = b'{"a\\"b": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    _refused(place.http.post(V1, content=deep), 400)
    _refused(place.http.post(V2, content=deep), 400)


# --- addresses --------------------------------------------------------------------------------


def test_the_served_version_may_be_named(place: Place) -> None:
    address = f"/v2/models/{NAME}/versions/v1"
    assert place.http.get(address).json() == place.http.get(f"/v2/models/{NAME}").json()
    assert place.http.get(f"{address}/ready").json() == {"name": NAME, "ready": True}
    response = place.http.post(f"{address}/infer", json=_v2())
    assert response.status_code == 200
    assert response.json()["model_version"] == "v1"


@pytest.mark.parametrize("version", ["v2", "1", "%20", "v1x", "V1", "..."])
@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("GET", "/ready"), ("POST", "/infer")])
def test_another_version_is_not_found(place: Place, version: str, method: str, end: str) -> None:
    response = place.http.request(method, f"/v2/models/{NAME}/versions/{version}{end}", json=_v2())
    assert "expected version v1" in _refused(response, 404)
    response = place.http.request(method, f"/v2/models/nobody/versions/v1{end}", json=_v2())
    _refused(response, 404)


def test_versions_over_grpc(place: Place) -> None:
    stub = place.stub
    assert stub.ModelInfer(_grpc(model_version="v1"), timeout=30).model_version == "v1"
    assert stub.ModelReady(messages.ModelReadyRequest(name=NAME, version="v1"), timeout=30).ready
    about = messages.ModelMetadataRequest(name=NAME, version="v1")
    assert stub.ModelMetadata(about, timeout=30).versions == ["v1"]
    for call, request in (
        (stub.ModelInfer, _grpc(model_version="v2")),
        (stub.ModelReady, messages.ModelReadyRequest(name=NAME, version="v2")),
        (stub.ModelMetadata, messages.ModelMetadataRequest(name=NAME, version="v2")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=30)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "expected version v1" in refused.value.details()


def test_there_is_no_explainer(place: Place) -> None:
    response = place.http.post(f"/v1/models/{NAME}:explain", content=INSTANCES)
    assert "no explainer" in _refused(response, 404)
    other = place.http.post("/v1/models/other:explain", content=INSTANCES)
    assert "no such model" in _refused(other, 404)


def test_the_server_tells_its_extensions(place: Place) -> None:
    about = place.http.get("/v2").json()
    assert about["extensions"] == ["binary_tensor_data", "classification"]
    response = place.stub.ServerMetadata(messages.ServerMetadataRequest(), timeout=30)
    assert list(response.extensions) == about["extensions"]
    assert (response.name, response.version) == (about["name"], about["version"])


def test_the_description_of_the_interface_can_be_had(place: Place) -> None:
    described = place.http.get("/openapi.json").json()
    assert "/v2/models/{model_name}/infer" in described["paths"]


def test_an_unknown_signature_of_v1_is_refused(place: Place) -> None:
    good = json.loads(INSTANCES) | {"signature_name": "serving_default"}
    assert place.http.post(V1, json=good).status_code == 200
    response = place.http.post(V1, json=good | {"signature_name": "embed"})
    assert "'embed'" in _refused(response, 400)


# --- outputs ----------------------------------------------------------------------------------


def _read(response: httpx.Response) -> dict[str, Any]:
    """Return the outputs of a response, and check that it calls itself what it is."""
    assert response.status_code == 200, response.text
    content = response.content
    offset = int(response.headers.get(LENGTH, len(content)))
    described = json.loads(content[:offset])["outputs"]
    outputs: dict[str, Any] = {}
    for output in described:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[output["name"]] = np.array(output["data"]).reshape(output["shape"])
            continue
        dtype = {"FP32": "<f4", "INT64": "<i8", "BYTES": "u1"}[output["datatype"]]
        raw = np.frombuffer(content[offset : offset + size], dtype)
        outputs[output["name"]] = raw if dtype == "u1" else raw.reshape(output["shape"])
        offset += size
    binary = any("data" not in output for output in described)
    assert (LENGTH in response.headers) is binary
    expected = "application/octet-stream" if binary else "application/json"
    assert response.headers["content-type"] == expected
    assert offset == len(content)
    return outputs


BINARY, NUMBERS = {"binary_data": True}, {"binary_data": False}


@pytest.mark.parametrize(
    ("request_", "binary"),
    [
        ({}, {"probabilities": False, "class": False}),
        ({"parameters": {"binary_data_output": True}}, {"probabilities": True, "class": True}),
        ({"outputs": []}, {"probabilities": False, "class": False}),
        ({"outputs": [{"name": "class"}]}, {"class": False}),
        ({"outputs": [{"name": "class", "parameters": BINARY}]}, {"class": True}),
        ({"outputs": [{"name": "class", "parameters": NUMBERS}]}, {"class": False}),
        (
            {"outputs": [{"name": "class", "parameters": BINARY}, {"name": "probabilities"}]},
            {"class": True, "probabilities": False},
        ),
        (
            {
                "outputs": [{"name": "class", "parameters": NUMBERS}, {"name": "probabilities"}],
                "parameters": {"binary_data_output": True},
            },
            {"class": False, "probabilities": True},
        ),
    ],
)
def test_each_output_comes_as_it_is_asked_for(
    place: Place, published: Published, request_: dict[str, Any], binary: dict[str, bool]
) -> None:
    response = place.http.post(V2, json=_v2(**request_))
    outputs = _read(response)
    described = json.loads(response.content[: int(response.headers.get(LENGTH, 2**30))])
    assert {each["name"]: "data" not in each for each in described["outputs"]} == binary
    assert list(outputs) == list(binary)
    expected = {
        "probabilities": published.probabilities,
        "class": published.probabilities.argmax(axis=1),
    }
    for name, tensor in outputs.items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-5)


@pytest.mark.parametrize("names", [["class"], ["probabilities"], ["class", "probabilities"]])
@pytest.mark.parametrize("typed", [False, True])
def test_grpc_gives_only_the_outputs_that_are_asked_for(
    place: Place, published: Published, names: list[str], typed: bool
) -> None:
    request = _grpc(outputs=[{"name": name} for name in names])
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.uint_contents.extend(IMAGES.ravel().tolist())
    response = place.stub.ModelInfer(request, timeout=30)
    assert [output.name for output in response.outputs] == names
    assert len(response.raw_output_contents) == (0 if typed else len(names))
    index = names.index("class") if "class" in names else None
    if index is not None:
        output = response.outputs[index]
        classes = (
            list(output.contents.int64_contents)
            if typed
            else np.frombuffer(response.raw_output_contents[index], "<i8").tolist()
        )
        assert classes == published.probabilities.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"outputs": [{"name": "nothing"}]}, "['nothing']"),
        ({"outputs": [{"name": "class"}, {"name": ""}]}, "['class', '']"),
        ({"outputs": [{"name": "class"}] * 2}, "each once"),
        ({"outputs": [{"name": "class", "parameters": {"classification": 2}}]}, "classification"),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": 0}}]}, "0"),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]}, "-1"),
    ],
)
def test_outputs_that_there_are_not(place: Place, request_: dict[str, Any], told: str) -> None:
    assert told in _refused(place.http.post(V2, json=_v2(**request_)), 400)
    outputs = []
    for each in request_["outputs"]:
        parameters = {
            key: messages.InferParameter(int64_param=value)
            for key, value in each.get("parameters", {}).items()
        }
        outputs.append({"name": each["name"], "parameters": parameters})
    with pytest.raises(grpc.RpcError) as refused:
        place.stub.ModelInfer(_grpc(outputs=outputs), timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told in refused.value.details()


@pytest.mark.parametrize(
    "request_",
    [
        {"parameters": {"binary_data_output": "yes"}},
        {"parameters": {"binary_data_output": 1}},
        {"outputs": [{"name": "class", "parameters": {"binary_data": "true"}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": True}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 1.5}}]},
        {"outputs": {"name": "class"}},
        {"outputs": ["class"]},
        {"id": 42},
    ],
)
def test_parameters_of_a_wrong_type(place: Place, request_: dict[str, Any]) -> None:
    _refused(place.http.post(V2, json=_v2(**request_)), 400)


def test_unknown_parameters_and_fields_are_let_pass(place: Place) -> None:
    """The protocol: "a server can implement server-specific parameters"; others ignore them."""
    request = _v2(parameters={"priority": 1, "content_type": "np", "x": True}, client="mine")
    request["inputs"][0]["parameters"] = {"content_type": "np"}
    assert place.http.post(V2, json=request).status_code == 200
    parameters = {"priority": messages.InferParameter(int64_param=1)}
    assert place.stub.ModelInfer(_grpc(parameters=parameters), timeout=30).outputs


def test_the_id_of_a_request_comes_back(place: Place) -> None:
    for id_ in ("42", "ü 数", "x" * 1000):
        assert place.http.post(V2, json=_v2(id=id_)).json()["id"] == id_
        assert place.stub.ModelInfer(_grpc(id=id_), timeout=30).id == id_
    binary = place.http.post(V2, json=_v2(id="7", parameters={"binary_data_output": True}))
    assert json.loads(binary.content[: int(binary.headers[LENGTH])])["id"] == "7"


def _top(count: int, as_: Any) -> list[dict[str, Any]]:
    return [{"name": "probabilities", "parameters": {"classification": as_(count)}}]


@pytest.mark.parametrize("count", [1, 3, 99])
def test_the_most_probable_classes_by_name(place: Place, published: Published, count: int) -> None:
    (texts,) = _read(place.http.post(V2, json=_v2(outputs=_top(count, int)))).values()
    assert texts.shape == (3, min(count, 10))
    for row, probabilities in zip(texts, published.probabilities, strict=True):
        order = np.argsort(-probabilities)[:count]
        for text, index in zip(row, order, strict=True):
            value, number, label = text.split(":")
            assert (int(number), label) == (index, CLASSES[index])
            assert float(value) == pytest.approx(probabilities[index], abs=1e-5)


def test_the_most_probable_classes_as_bytes(place: Place) -> None:
    texts = place.http.post(V2, json=_v2(outputs=_top(2, int))).json()["outputs"][0]["data"]
    expected = b"".join(struct.pack("<I", len(text)) + text.encode() for text in texts)
    outputs = _top(2, int)
    outputs[0]["parameters"]["binary_data"] = True
    (raw,) = _read(place.http.post(V2, json=_v2(outputs=outputs))).values()
    assert raw.tobytes() == expected
    outputs = _top(2, lambda count: messages.InferParameter(int64_param=count))
    response = place.stub.ModelInfer(_grpc(outputs=outputs), timeout=30)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [3, 2])
    assert list(response.raw_output_contents) == [expected]
    typed = _grpc(outputs=outputs, raw_input_contents=[])
    typed.inputs[0].contents.uint_contents.extend(IMAGES.ravel().tolist())
    (output,) = place.stub.ModelInfer(typed, timeout=30).outputs
    assert list(output.contents.bytes_contents) == [text.encode() for text in texts]


# --- gRPC's own protocols ---------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", NAME])
def test_the_health_by_grpcs_protocol(place: Place, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(place.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(request, timeout=30).status == serving
    watch = stub.Watch(request, timeout=30)
    assert next(watch).status == serving
    watch.cancel()


def test_the_health_of_what_there_is_not(place: Place) -> None:
    stub = health_pb2_grpc.HealthStub(place.channel)
    request = health_pb2.HealthCheckRequest(service="nobody")
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(request, timeout=30)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert NAME in refused.value.details()
    watch = stub.Watch(request, timeout=30)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_who_watches_the_health_of_a_replica_is_told_of_its_end_and_not_waited_for(
    published: Published, tmp_path: Path
) -> None:
    ports = Ports()
    with (
        started_replica(published.folder, ports, "alone", tmp_path / "log") as server,
        grpc.insecure_channel(ports.address) as channel,
    ):
        server.wait_until_ready()
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 10, "the grace period is for requests"
        assert [each.status for each in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        _assert_no_traceback(server)


def test_the_health_of_a_front_is_that_of_its_replicas(
    published: Published, tmp_path: Path
) -> None:
    shard, front = Ports(), Ports()
    with (
        started_replica(published.folder, shard, "shard-0", tmp_path / "shard") as server,
        started_front([shard], front, 1, tmp_path / "front") as front_server,
        grpc.insecure_channel(front.address) as channel,
    ):
        front_server.wait_until_ready()
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for path in (
            f"/v2/models/{NAME}/ready",
            f"/v2/models/{NAME}/versions/v1",
            "/v2/health/ready",
        ):
            _refused(httpx.get(front.url + path, timeout=30), 503)
        watch.cancel()
        _assert_no_traceback(front_server)


def test_tools_find_the_services_by_reflection(place: Place) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(place.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService"
        ),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
    ]
    listed, described, unknown = stub.ServerReflectionInfo(iter(asked), timeout=30)
    names = {each.name for each in listed.list_services_response.service}
    assert names >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
    assert b"ModelInferRequest" in described.file_descriptor_response.file_descriptor_proto[0]
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    "method",
    [
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelReady",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_bytes_that_are_no_message_are_the_clients_fault(place: Place, method: str) -> None:
    channel, nonsense = place.channel, b"\xff\xff"
    calls: dict[str, Callable[[str], Any]] = {
        "Watch": lambda path: next(channel.unary_stream(path)(nonsense, timeout=30)),
        "ServerReflectionInfo": lambda path: next(
            channel.stream_stream(path)(iter([nonsense]), timeout=30)
        ),
    }
    unary: Callable[[str], Any] = lambda path: channel.unary_unary(path)(nonsense, timeout=30)  # noqa: E731
    call = calls.get(method.split("/")[1], unary)
    with pytest.raises(grpc.RpcError) as refused:
        call(f"/{method}")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a message" in refused.value.details()


def test_a_long_name_of_a_model_is_cut_in_the_answer(place: Place) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        place.stub.ModelInfer(_grpc(model_name="ü" * 100_000), timeout=30)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details().endswith("ask for a model that is served")


# --- metrics ----------------------------------------------------------------------------------


def _counts(text: str) -> dict[str, float]:
    """Return each replica's count of predictions."""
    counts = {}
    for line in text.splitlines():
        if line.startswith("request_predict_seconds_count{"):
            labels, value = line.split("{")[1].split("} ")
            named = dict(each.split("=") for each in labels.split(","))
            assert named["model_name"] == f'"{NAME}"'
            counts[named["replica"].strip('"')] = float(value)
    return counts


def test_whoever_is_asked_tells_the_metrics_of_all(places: dict[str, Place]) -> None:
    ports = places["replicas"].ports

    def anew(method: str, path: str, **options: Any) -> httpx.Response:
        """Ask on a connection of its own, which the kernel gives to either replica."""
        return httpx.request(method, ports.url + path, timeout=30, **options)

    before = _counts(anew("GET", "/metrics").text)
    assert set(before) == {"replica-0", "replica-1"}
    answered = [anew("POST", V1, content=INSTANCES).headers["x-served-by"] for _ in range(20)]
    scrapes = [anew("GET", "/metrics") for _ in range(20)]
    assert {each.headers["x-served-by"] for each in scrapes} == {"replica-0", "replica-1"}
    for scrape in scrapes:
        now = _counts(scrape.text)
        assert {name: now[name] - before[name] for name in now} == {
            name: answered.count(name) for name in ("replica-0", "replica-1")
        }
        lines = [line for line in scrape.text.splitlines() if line[0] != "#"]
        series = [line.rpartition(" ")[0] for line in lines]
        assert len(series) == len(set(series))
        assert all("replica=" in each for each in series)


def test_a_front_tells_its_own_metrics(places: dict[str, Place]) -> None:
    places["front"].http.post(V1, content=INSTANCES)
    assert set(_counts(places["front"].http.get("/metrics").text)) == {"front"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ("text/plain", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text; version=x", "text/plain"),
        ("text/plain; version=1.0.0; escaping=x", "text/plain"),
    ],
)
def test_metrics_in_the_format_that_is_asked_for(
    place: Place, accept: str, content_type: str
) -> None:
    response = place.http.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(content_type)
    assert "request_predict_seconds" in response.text


def test_a_replica_that_hangs_or_dies_takes_only_its_own_metrics_away(
    published: Published, tmp_path: Path
) -> None:
    ports = Ports()
    with (
        started_replica(published.folder, ports, "a", tmp_path / "a") as going,
        started_replica(published.folder, ports, "b", tmp_path / "b") as staying,
    ):
        going.wait_until_ready()
        staying.wait_until_ready()
        with httpx.Client(base_url=ports.url, timeout=30) as client:
            while client.get("/").headers["x-served-by"] != "b":
                client.close()
                client = httpx.Client(base_url=ports.url, timeout=30)
            assert 'replica="a"' in client.get("/metrics").text
            going.process.send_signal(signal.SIGSTOP)
            begin = time.monotonic()
            stopped = client.get("/metrics").text
            assert time.monotonic() - begin < 5
            assert 'replica="b"' in stopped
            assert 'replica="a"' not in stopped
            going.stop(signal.SIGKILL)
            assert 'replica="a"' not in client.get("/metrics").text
            client.close()
