"""Replicas of the model server behind one address: processes that share a port."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mlpipeline.backends.local import processes
from mlpipeline.errors import ProcessError
from mlpipeline.plan.commands import predictor_arguments
from mlpipeline.plan.config import Config, Serving
from mlpipeline.store.layout import Workspace


@asynccontextmanager
async def serving(
    config: Config, workspace: Workspace, version: str, *, logs: Path
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve a registered version by all replicas while the body runs, and no longer.

    They have no clients then that would have to find others first.

    Yields:
        A task that ends, with an error, when a replica does.

    Raises:
        ProcessError: A port is in use, or a replica did not become ready in time.
    """
    with reserved(config.serving):
        running = started(config, workspace, version, logs=logs, end_signal=lambda: signal.SIGINT)
        async with running as ended:
            yield ended


def beside(config: Config, *, count: int | None = None) -> Config:
    """Return a configuration of replicas that stand beside those that serve, on other ports.

    Args:
        config: The configuration.
        count: How many of them there are; None for as many as it says.
    """
    port, grpc_port = processes.free_ports(2)
    changes: dict[str, Any] = {"host": "127.0.0.1", "port": port, "grpc_port": grpc_port}
    if count is not None:
        changes["replicas"] = count
    return config.model_copy(update={"serving": config.serving.model_copy(update=changes)})


@contextmanager
def reserved(settings: Serving) -> Iterator[None]:
    """Hold the ports for replicas, which share them, while the body runs.

    Raises:
        ProcessError: One is in use.
    """
    with ExitStack() as stack:
        for port in (settings.port, settings.grpc_port):
            stack.enter_context(processes.reserved_port(settings.host, port))
        yield


@asynccontextmanager
async def started(
    config: Config,
    workspace: Workspace,
    version: str,
    *,
    logs: Path,
    end_signal: Callable[[], int] = lambda: signal.SIGTERM,
) -> AsyncIterator[asyncio.Task[None]]:
    """Start replicas on ports that are reserved: beside those of another version, for example.

    Args:
        config: The configuration: the model's name, and how it is served.
        workspace: The folder of all artifacts.
        version: The registered version.
        logs: The folder for a log of each replica.
        end_signal: Called for the number of the signal that ends a replica. At SIGTERM it goes on
            answering for some seconds, until its clients have found another one.

    Yields:
        A task that ends, with an error, when a replica does.

    Raises:
        ProcessError: A replica did not become ready in time.
    """
    settings = config.serving
    async with AsyncExitStack() as stack:
        readiness = Readiness(settings.replica_names)
        commands = [
            command(config, workspace, version, name, settings.port, settings.grpc_port)
            for name in settings.replica_names
        ]
        followers = [
            await stack.enter_async_context(
                processes.started(
                    one,
                    log=logs / f"{name}.log",
                    on_progress=readiness.note,
                    end_signal=end_signal,
                )
            )
            for name, one in zip(settings.replica_names, commands, strict=True)
        ]
        ended = asyncio.ensure_future(first_to_end(followers))
        stack.callback(ended.cancel)
        await readiness.wait(ended, settings.ready_timeout_seconds, logs)
        yield ended


def command(
    config: Config, workspace: Workspace, version: str, name: str, port: int, grpc_port: int
) -> list[str]:
    """Return the command that serves a registered version as one replica.

    Args:
        config: The configuration: the model's name, and the address that it is served at.
        workspace: The folder of all artifacts.
        version: The registered version.
        name: The replica's name.
        port: Port of HTTP.
        grpc_port: Port of gRPC.
    """
    arguments = predictor_arguments(
        config.name,
        version,
        workspace=workspace,
        serving=config.serving,
        port=port,
        grpc_port=grpc_port,
        replica=name,
    )
    return processes.python_m(arguments)


class Readiness:
    """Which of several servers have said that they are ready."""

    def __init__(self, names: Iterable[str]) -> None:
        """Expect that each of some servers becomes ready.

        Args:
            names: The servers' names.
        """
        self._missing = set(names)
        self._all_ready = asyncio.Event()

    def note(self, progress: Mapping[str, str]) -> None:
        """Take a server's line of progress, `ready=NAME`."""
        self._missing.discard(progress["ready"])
        if not self._missing:
            self._all_ready.set()

    async def wait(self, ended: asyncio.Future[None], seconds: float, logs: Path) -> None:
        """Wait until all are, unless one ends.

        Raises:
            ProcessError: What `ended` has failed with, or that it took more than `seconds`.
        """
        all_ready = asyncio.ensure_future(self._all_ready.wait())
        either: set[asyncio.Future[Any]] = {all_ready, ended}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            all_ready.cancel()
        if ended.done():
            ended.result()
        if self._missing:
            raise ProcessError(
                f"{', '.join(sorted(self._missing))} not ready after {seconds} s",
                expected="that every replica loads the model and answers",
                remedy=f"read {logs}, or raise serving.ready_timeout_seconds",
            )


async def first_to_end(running: Iterable[asyncio.Task[None]]) -> None:
    """Wait until one of the servers ends, which is an error.

    Raises:
        ProcessError: Always.
    """
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    done.pop().result()
    raise ProcessError(
        "a server ended by itself",
        expected="that it serves until it is told to stop",
        remedy="read its log",
    )
