"""How a front finds replicas, and what it makes of what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.serving.front import Resolver
from mlpipeline.serving.http_replica import HttpReplica
from mlpipeline.serving.page import Part
from mlpipeline.serving.sharding import RefusalError, ReplicaError
from mlpipeline.steps import front

HOST = "127.0.0.1"
IMAGES = np.zeros((2, 28, 28), np.uint8)


def test_it_takes_the_arguments_that_kserve_gives_a_transformer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: dict[str, Any] = {}

    def serve(replicas: list[str], **options: Any) -> None:
        called.update(options, replicas=replicas)

    monkeypatch.setattr(front, "serve", serve)
    component = Path(__file__).parents[2] / "manifests" / "components" / "sharded-serving"
    patch = yaml.safe_load((component / "inference-service.patch.yaml").read_text())
    (container,) = patch["spec"]["transformer"]["containers"]
    kserves = ["--model_name", "m", "--predictor_host", "m-predictor.ns", "--http_port", "8080"]
    done = CliRunner().invoke(app.app, [*container["args"], *kserves])
    assert done.exit_code == 0, done.output
    assert (called["replicas"], called["name"]) == (["shards:8080"], "m")
    assert (called["host"], called["http_port"], called["grpc_port"]) == ("0.0.0.0", 8080, 8081)


# --- where they are ---------------------------------------------------------------------------


class Names:
    """Stands for the name server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
        self.names = names
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: str, **_: Any) -> list[tuple[Any, ...]]:
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(None, None, None, "", (a, int(port), 0, 0)) for a in self.names[host]]


def test_every_address_of_a_name_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, shards=["10.0.0.1", "10.0.0.2", "fd00::3"], other=["10.0.0.4"])
    found = asyncio.run(Resolver(["shards:8080", "other:9090"]).find())
    assert found == {"10.0.0.1:8080", "10.0.0.2:8080", "[fd00::3]:8080", "10.0.0.4:9090"}


def test_addresses_that_come_and_go_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, shards=["10.0.0.1"])
    resolver = Resolver(["shards:8080"])
    assert asyncio.run(resolver.find()) == {"10.0.0.1:8080"}
    names.names["shards"] = ["10.0.0.2"]
    assert asyncio.run(resolver.find()) == {"10.0.0.2:8080"}


def test_a_name_server_with_a_bad_moment_takes_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    resolver = Resolver(["shards:8080"])
    assert asyncio.run(resolver.find()) == set(), "nobody is known yet"
    names.names["shards"] = ["10.0.0.1"]
    assert asyncio.run(resolver.find()) == {"10.0.0.1:8080"}
    del names.names["shards"]
    assert asyncio.run(resolver.find()) == {"10.0.0.1:8080"}


def test_an_address_stands_for_itself() -> None:
    assert asyncio.run(Resolver([f"{HOST}:8080"]).find()) == {f"{HOST}:8080"}


# --- what they say ----------------------------------------------------------------------------


@asynccontextmanager
async def _saying(
    status: int, body: bytes, headers: dict[str, str] | None = None
) -> AsyncIterator[HttpReplica]:
    """Connect to a server that gives every request the same answer; 0 is none at all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if status:
            fields = {"content-length": str(len(body)), "connection": "close"} | (headers or {})
            head = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        replica = HttpReplica(f"{HOST}:{port}", "m", 10)
        yield replica
        await replica.close()


def test_a_replica_describes_itself_by_its_metadata() -> None:
    metadata = {"name": "m", "versions": ["v7"], "parameters": {"classes": ["a"]}}

    async def test() -> None:
        said = json.dumps(metadata).encode()
        async with _saying(200, said, {"x-served-by": "shard-1"}) as replica:
            description = await replica.describe()
        assert (description.replica, description.version) == ("shard-1", "v7")
        assert description.metadata == metadata

    asyncio.run(test())


def test_a_front_asks_no_replica_how_long_it_took() -> None:
    """One that tries another version does not say, nor does one of an earlier release."""
    outputs: list[dict[str, Any]] = [
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 2]},
        {"name": "class", "datatype": "INT64", "shape": [1]},
    ]
    for output in outputs:
        output["parameters"] = {"binary_data_size": 8}
    about = json.dumps({"model_version": "v7", "outputs": outputs}).encode()
    body = about + np.array([0.25, 0.75], np.float32).tobytes() + np.array([1]).tobytes()
    headers = {"inference-header-content-length": str(len(about)), "x-served-by": "shard-1"}

    async def test() -> None:
        async with _saying(200, body, headers) as replica:
            probabilities, version = await replica.predict(IMAGES[:1])
            assert (probabilities.tolist(), version) == ([[0.25, 0.75]], "v7")
            with pytest.raises(ReplicaError, match="server-timing"):
                await replica.ask(IMAGES[:1])

    asyncio.run(test())


def test_a_refusal_is_passed_on_word_by_word() -> None:
    async def test() -> None:
        async with _saying(400, b'{"error": "got the value 256"}') as replica:
            with pytest.raises(RefusalError, match=r"^got the value 256$"):
                await replica.predict(IMAGES)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (0, b"", "disconnected"),
        (404, b'{"error": "no such model"}', "404 .*no such model"),
        (429, b"", "429"),
        (500, b"a bug", "500 a bug"),
        (503, b"not ready", "503 not ready"),
        (400, b"<html>", "no replica"),
        (400, b'"text"', "no replica"),
        (200, b"<html>", "no replica"),
        (200, b"{}", "no replica"),
        (200, b"[]", "no replica"),
    ],
)
def test_all_else_says_nothing_of_the_request(status: int, body: bytes, told: str) -> None:
    async def test() -> None:
        async with _saying(status, body) as replica:
            with pytest.raises(ReplicaError, match=told):
                await replica.predict(IMAGES)
            if status != 400:
                with pytest.raises(ReplicaError, match=told):
                    await replica.describe()

    asyncio.run(test())


def test_the_page_is_the_replicas() -> None:
    async def test() -> None:
        headers = {"content-type": "text/css", "content-security-policy": "default-src 'none'"}
        async with _saying(200, b"p {}", headers) as replica:
            part = await replica.part_of_page("page.css")
            assert part == Part(b"p {}", "text/css", "default-src 'none'")
        async with _saying(404, b'{"error": "turned off"}') as replica:
            assert await replica.part_of_page("page.css") is None
        async with _saying(200, b"p {}") as replica:
            with pytest.raises(ReplicaError, match="content-type"):
                await replica.part_of_page("page.css")
        async with _saying(503, b"{}") as replica:
            with pytest.raises(ReplicaError, match="503"):
                await replica.part_of_page("page.css")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("status", "error"), [(202, None), (400, RefusalError), (404, ReplicaError)]
)
def test_feedback_is_the_replicas(status: int, error: type[Exception] | None) -> None:
    async def test() -> None:
        async with _saying(status, b'{"error": "no such class"}') as replica:
            with pytest.raises(error) if error else contextlib.nullcontext():
                await replica.post_feedback(b"{}")

    asyncio.run(test())


def test_a_replica_that_is_not_there_is_one_that_fails() -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind((HOST, 0))  # and does not listen
            replica = HttpReplica(f"{HOST}:{unused.getsockname()[1]}", "m", 10)
            with pytest.raises(ReplicaError, match="ConnectError"):
                await replica.describe()
            await replica.close()

    asyncio.run(test())
