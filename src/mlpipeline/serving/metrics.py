"""Metrics of all replicas that share a port, whichever of them is asked.

A client of a shared port cannot choose who answers: each question would get another replica's
counters. So the one that is asked asks the others, and gives all of them, each with a label.

They find each other by abstract Unix sockets named after the port. Like the port itself they are
there for whoever is in the same network namespace, and gone with their process: no folder has to be
agreed on, and nothing is left behind by one that is killed. In a pod there is one replica.
https://man7.org/linux/man-pages/man7/unix.7.html
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, Counter, exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SOCKETS = Path("/proc/net/unix")
REQUESTS = Counter(
    "mlpipeline_requests",
    "Requests for predictions, by what they were answered.",
    ("model", "protocol", "code"),
)
"""Counted by the servers of both protocols: the codes are HTTP's and gRPC's."""

_SECONDS = 1.0  # for a sibling to answer: a stopped one must not take the others' figures away


class SharedMetrics:
    """The metrics of a replica and of its siblings."""

    def __init__(self, address: str, replica: str, collectors: Sequence[Collector] = ()) -> None:
        """Remember whose metrics they are.

        Args:
            address: HOST:PORT that the siblings share.
            replica: Name of this replica, its value of the label `replica`.
            collectors: What else it tells, besides what is in the process's registry.
        """
        self._replica = replica
        self._collectors = (REGISTRY, *collectors)
        self._prefix = f"mlpipeline-metrics/{address}/"
        # Of two with one name, as during a change of version, the younger's figures are given.
        self._name = f"{self._prefix}{time.time_ns():020d}-{os.getpid()}"

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Answer the siblings while the body runs."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"\0{self._name}")
        async with await asyncio.start_unix_server(self._answer, sock=listener):
            yield

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all replicas as Prometheus reads them.

        Args:
            accept: The request's `Accept`.

        Returns:
            The text, and its content type.
        """
        names = sorted(_listening(self._prefix) - {self._name})
        others = await asyncio.gather(*map(_ask, names))
        parts = {name: part for name, part in zip(names, others, strict=True) if part}
        parts[self._name] = self._own()
        by_replica = {part["replica"]: part["metrics"] for _, part in sorted(parts.items())}
        try:
            encode, content_type = exposition.choose_encoder(accept)
        except (TypeError, ValueError):  # its version is no number, for example
            encode, content_type = exposition.choose_encoder("")
        return encode(_Collected(_joined(by_replica))), content_type

    def _own(self) -> dict[str, Any]:
        metrics = [
            (
                metric.name,
                metric.documentation,
                metric.type,
                [(sample.name, sample.labels, sample.value) for sample in metric.samples],
            )
            for collector in self._collectors
            for metric in collector.collect()
        ]
        return {"replica": self._replica, "metrics": metrics}

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(json.dumps(self._own()).encode())
            await writer.drain()
        except OSError:
            pass  # it has not waited
        finally:
            writer.close()


class _Collected:
    """Metrics in the place of a registry that collects them."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def _listening(prefix: str) -> set[str]:
    """Return the names of all abstract sockets that begin with `prefix`."""
    try:
        lines = _SOCKETS.read_text(errors="replace").splitlines()
    except OSError:  # a system without: then each answers for itself
        return set()
    names = {line.rpartition(" @")[2] for line in lines if " @" in line}
    return {name for name in names if name.startswith(prefix)}


async def _ask(name: str) -> dict[str, Any] | None:
    """Return what a sibling says; None if it is going, or is another user's."""
    try:
        async with asyncio.timeout(_SECONDS):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(connection, f"\0{name}")
                if _user_of(connection) != os.getuid():
                    return None  # the port is shared by one user's processes, and so are these
                text = b""
                while piece := await loop.sock_recv(connection, 2**16):
                    text += piece
                answer: dict[str, Any] = json.loads(text)
                return answer
    except (OSError, ValueError):  # TimeoutError is an OSError
        return None


def _user_of(connection: socket.socket) -> int:
    credentials = struct.Struct("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    _, user, _ = credentials.unpack(raw)
    return int(user)


def _joined(by_replica: dict[str, Iterable[Any]]) -> list[Metric]:
    families: dict[str, Metric] = {}
    for replica, metrics in by_replica.items():
        for name, documentation, kind, samples in metrics:
            family = families.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "replica": replica}, value)
    return list(families.values())
