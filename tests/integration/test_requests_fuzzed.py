"""Good requests with something changed at random: right answers or clear refusals, nothing else.

`FUZZ_REQUESTS=100000 FUZZ_SEED=2 pytest tests/integration/test_requests_fuzzed.py` runs longer.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import os
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlpipeline.serving.clients import (
    GrpcClient,
    V1Client,
    V2BinaryClient,
    V2JsonClient,
    binary_request,
)
from support.model_servers import (
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

COUNT = int(os.environ.get("FUZZ_REQUESTS", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "12"))
SECONDS = 20.0
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
REFUSALS = {400, 404, 405, 413, 415}
GRPC_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}
BITS = [
    *(b"", b"\x00", b"[", b"]", b"{", b"}", b'"', b",", b":", b"-1", b"256", b"1e9", b"1e400"),
    *(b"0.5", b"null", b"true", b"NaN", b"\\ud800", b"\\", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b'"data"', b'"shape"', b'"inputs"', b'"instances"', b'"outputs"', b"9" * 40, b"[" * 2000),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e300, "", "x", "UINT8", "BYTES"),
    *("ü\udc80", [], [[]], [1], {}, {"a": 1}, [None], [28, 28], [1, 28, 28], [2**40, 2**40]),
    *("binary_data", "classification", "x" * 3000),
]
KEYS = ["id", "parameters", "inputs", "outputs", "name", "shape", "datatype", "data", "instances"]
KEYS += ["binary_data", "binary_data_size", "binary_data_output", "classification", "ü"]


@dataclass
class Request:
    """A request over HTTP."""

    path: str
    body: bytes
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def _tensor(**more: Any) -> dict[str, Any]:
    shape = list(IMAGES.shape)
    return {"name": "images", "datatype": "UINT8", "shape": shape, **more}


def _v1() -> dict[str, Any]:
    return {"instances": IMAGES.tolist()}


def _v2() -> dict[str, Any]:
    outputs = [
        {"name": "class", "parameters": {"binary_data": False}},
        {"name": "probabilities", "parameters": {"classification": 2}},
    ]
    inputs = [_tensor(data=IMAGES.ravel().tolist(), parameters={"content_type": "np"})]
    return {"id": "7", "inputs": inputs, "outputs": outputs, "parameters": {}}


def _nodes(value: Any) -> Iterator[Any]:
    """Yield every list and object in a JSON value."""
    if isinstance(value, (dict, list)):
        yield value
        for each in value.values() if isinstance(value, dict) else value[:30]:
            yield from _nodes(each)


def _value(chance: random.Random) -> Any:
    """Return one of `VALUES`, of its own: it may be changed, too, and even be put into itself."""
    return copy.deepcopy(chance.choice(VALUES))


def _changed_json(chance: random.Random, value: Any) -> bytes:
    """Set, add or take away something of a JSON value."""
    for _ in range(chance.randint(1, 3)):
        node = chance.choice([each for each in _nodes(value) if each] or [value])
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if chance.random() < 0.3 and isinstance(node, dict):
            node[chance.choice(KEYS)] = _value(chance)
        elif keys and chance.random() < 0.3:
            del node[chance.choice(keys)]
        elif keys:
            node[chance.choice(keys)] = _value(chance)
    return json.dumps(value).encode()  # an ASCII text, in which a lone surrogate is an escape


def _damaged(chance: random.Random, content: bytes) -> bytes:
    """Cut, repeat and overwrite parts of bytes."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start, size = chance.randrange(len(damaged) + 1), chance.randint(0, 8)
        damaged[start : start + size] = chance.choice([*BITS, chance.randbytes(size)])
    return bytes(damaged)


def _http(chance: random.Random) -> Request:
    """Make a request of V1, of V2, or of V2 with binary tensors, and change it."""
    kind = chance.choice(["v1", "v2", "binary"])
    path = f"/v1/models/{NAME}:predict" if kind == "v1" else f"/v2/models/{NAME}/infer"
    if kind == "binary":
        body, headers = binary_request(IMAGES)
        body = _damaged(chance, body) if chance.random() < 0.8 else body
    else:
        value, headers = (_v1() if kind == "v1" else _v2()), {}
        body = json.dumps(value).encode()
        for change in chance.sample([0, 1, 2], chance.randint(0, 2)):
            body = _damaged(chance, body) if change else _changed_json(chance, value)
    request = Request(path, body, headers=headers)
    if chance.random() < 0.4:
        _change_the_rest(chance, request)
    return request


def _change_the_rest(chance: random.Random, request: Request) -> None:
    """Change address, method, headers and how the body is sent."""
    size = len(request.body)
    length = chance.choice(["", "0", "1", "-1", "110", "1e3", "0x10", str(size), str(size + 1)])
    coded = chance.choice(["gzip", "deflate", "br", "x"])
    changes: list[Callable[[], Any]] = [
        lambda: setattr(request, "path", _damaged_path(chance, request.path)),
        lambda: setattr(request, "method", chance.choice(["GET", "HEAD", "PUT", "OPTIONS"])),
        lambda: request.headers.update({"inference-header-content-length": length}),
        lambda: request.headers.update({"content-encoding": coded}),
        lambda: _compress(chance, request),
        lambda: request.headers.update({"content-type": chance.choice(["", "x/y", "text/html;"])}),
        lambda: request.headers.update({"upgrade": "h2c", "connection": "Upgrade"}),
        lambda: request.headers.update({"accept": "nothing", "expect": "100-continue"}),
        lambda: request.headers.update({"ce-id": "1", "ce-source": "x", "ce-type": "y"}),
    ]
    for change in chance.sample(changes, chance.randint(1, 2)):
        change()


def _damaged_path(chance: random.Random, path: str) -> str:
    start = chance.randrange(1, len(path))
    put = [
        "",
        "/",
        "//",
        "%00",
        "%ff",
        "%2F",
        ":",
        "versions/v1/",
        "/versions/v1",
        "?x=1",
        "..",
        "ü",
    ]
    return path[:start] + chance.choice(put) + path[start + chance.randint(0, 3) :]


def _compress(chance: random.Random, request: Request) -> None:
    coding = chance.choice(["gzip", "deflate"])
    body = gzip.compress(request.body) if coding == "gzip" else zlib.compress(request.body)
    request.body = _damaged(chance, body) if chance.random() < 0.5 else body
    request.headers["content-encoding"] = coding


def _grpc(chance: random.Random) -> bytes:
    """Make a request of gRPC, and change it, as a message or as bytes."""
    raw = chance.random() < 0.5
    tensor = _tensor() if raw else _tensor(contents={"uint_contents": IMAGES.ravel().tolist()})
    request = messages.ModelInferRequest(
        model_name=NAME, id="7", inputs=[tensor], raw_input_contents=[IMAGES.tobytes()] * raw
    )

    def text() -> str:
        return chance.choice(["", NAME, "x", "v1", "ü" * 5000, "\n", "class", "BYTES"])

    changes: list[Callable[[], Any]] = [
        lambda: setattr(request, chance.choice(["model_name", "model_version", "id"]), text()),
        lambda: setattr(request.inputs[0], chance.choice(["name", "datatype"]), text()),
        lambda: request.inputs[0].shape.append(chance.choice([0, -1, 28, 2**62])),
        lambda: request.inputs[0].shape.pop(),
        lambda: request.raw_input_contents.append(chance.randbytes(5)),
        lambda: request.outputs.add(name=text()),
        lambda: request.outputs.add(
            name="probabilities",
            parameters={
                "classification": messages.InferParameter(int64_param=chance.randint(-1, 9))
            },
        ),
        lambda: request.parameters["binary_data_output"].CopyFrom(messages.InferParameter()),
        lambda: request.inputs[0].contents.fp32_contents.append(0.5),
        lambda: request.inputs[0].contents.uint_contents.append(256),
    ]
    for change in chance.sample(changes, chance.randint(0, 2)):
        change()
    content = bytes(request.SerializeToString())
    return _damaged(chance, content) if chance.random() < 0.4 else content


# --- what comes of it -------------------------------------------------------------------------


def _assert_right_or_refused(request: Request, response: httpx.Response) -> None:
    told = (request.method, request.path, request.headers, request.body[:2000], response.text)
    assert response.status_code in REFUSALS | {200}, told
    if response.status_code == 200 or request.method == "HEAD":
        assert "traceback" not in response.text.lower(), told
        return
    text = response.json()["error"]
    assert all(word in text for word in ("got", "expected", "to do")), told


def _assert_grpc_right_or_refused(channel: grpc.Channel, content: bytes) -> str:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        response_deserializer=messages.ModelInferResponse.FromString,
    )
    refused: Any = None
    try:
        assert call(content, timeout=SECONDS).outputs, content
    except grpc.RpcError as error:
        refused = error
    if refused is None:
        return "200"
    assert refused.code() in GRPC_REFUSALS, (refused, content)
    assert "expected" in refused.details(), (refused, content)
    return str(refused.code())


def _assert_still_right(ports: Ports, expected: np.ndarray[Any, Any]) -> None:
    for client in (
        V1Client(ports.url, NAME),
        V2JsonClient(ports.url, NAME),
        V2BinaryClient(ports.url, NAME),
        GrpcClient(ports.address, NAME),
    ):
        with client:
            answer = client.predict(IMAGES, SECONDS)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("models") / NAME / "v1", IMAGES)


@pytest.mark.timeout(120 + COUNT)
def test_changed_requests_end_in_right_answers_or_clear_refusals(
    published: Published, tmp_path: Path
) -> None:
    """Half of them go to a replica, half to a front before it."""
    chance = random.Random(SEED)
    replica, front = Ports(), Ports()
    with contextlib.ExitStack() as stack:
        servers: list[Server] = [
            stack.enter_context(
                started_replica(published.folder, replica, "replica", tmp_path / "replica")
            ),
            stack.enter_context(started_front([replica], front, 1, tmp_path / "front")),
        ]
        for server in servers:
            server.wait_until_ready()
        places = [
            (
                stack.enter_context(httpx.Client(timeout=SECONDS)),
                ports.url,
                stack.enter_context(grpc.insecure_channel(ports.address)),
            )
            for ports in (replica, front)
        ]
        ends: Counter[str] = Counter()
        for number in range(COUNT):
            http, url, channel = places[number % 2]
            if chance.random() < 0.3:
                ends[_assert_grpc_right_or_refused(channel, _grpc(chance))] += 1
                continue
            request = _http(chance)
            response = http.request(
                request.method, url + request.path, content=request.body, headers=request.headers
            )
            _assert_right_or_refused(request, response)
            ends[str(response.status_code)] += 1
        assert ends["200"] > COUNT / 20, ends  # otherwise it would say nothing of right answers
        assert ends["400"] > COUNT / 20, ends
        for ports in (replica, front):
            _assert_still_right(ports, published.probabilities)
        for server in servers:
            assert server.process.poll() is None
            assert "Traceback" not in server.log.read_text(), server.log.read_text()
            assert server.stop() == 0
