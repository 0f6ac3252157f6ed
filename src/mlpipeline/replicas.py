"""Replicas of the model server behind one address: processes that share a port."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mlpipeline import processes
from mlpipeline.config import Config, Serving
from mlpipeline.errors import ProcessError


@asynccontextmanager
async def serving(
    config: Config, workspace: Path, version: str, *, logs: Path
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve a registered version by all replicas while the body runs.

    Yields:
        A task that ends, with an error, when a replica does.

    Raises:
        ProcessError: A port is in use, or a replica did not become ready in time.
    """
    with reserved(config.serving):
        async with started(config, workspace, version, logs=logs) as ended:
            yield ended


@contextmanager
def reserved(settings: Serving) -> Iterator[None]:
    """Hold the ports for replicas, which share them.

    Raises:
        ProcessError: One is in use.
    """
    with ExitStack() as stack:
        for port in (settings.port, settings.grpc_port):
            stack.enter_context(processes.reserved_port(settings.host, port))
        yield


@asynccontextmanager
async def started(
    config: Config, workspace: Path, version: str, *, logs: Path
) -> AsyncIterator[asyncio.Task[None]]:
    """As `serving`, on ports that are reserved: beside replicas of another version, for example."""
    settings = config.serving
    async with AsyncExitStack() as stack:
        ready = asyncio.Event()
        waiting = set(settings.replica_names)

        def on_ready(values: Mapping[str, str]) -> None:
            waiting.discard(values["ready"])
            if not waiting:
                ready.set()

        command = [sys.executable, "-m", "mlpipeline", "predictor", "--name", config.name]
        command += ["--workspace", str(workspace), "--version", version, "--host", settings.host]
        command += ["--port", str(settings.port), "--grpc-port", str(settings.grpc_port)]
        followers = [
            await stack.enter_async_context(
                processes.started(
                    [*command, "--replica", name], log=logs / f"{name}.log", on_progress=on_ready
                )
            )
            for name in sorted(waiting)
        ]
        ended = asyncio.ensure_future(_first_to_end(followers))
        stack.callback(ended.cancel)
        await _until_ready(ready, ended, waiting, settings, logs)
        yield ended


async def _first_to_end(followers: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(followers, return_when=asyncio.FIRST_COMPLETED)
    done.pop().result()
    raise ProcessError(
        "a replica ended by itself",
        expected="that it serves until it is told to stop",
        remedy="read its log",
    )


async def _until_ready(
    ready: asyncio.Event,
    ended: asyncio.Future[None],
    waiting: set[str],
    settings: Serving,
    logs: Path,
) -> None:
    all_ready = asyncio.ensure_future(ready.wait())
    either: set[asyncio.Future[Any]] = {all_ready, ended}
    try:
        await asyncio.wait(
            either,
            timeout=settings.ready_timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        all_ready.cancel()
    if ended.done():
        ended.result()
    if waiting:
        raise ProcessError(
            f"{', '.join(sorted(waiting))} not ready after {settings.ready_timeout_seconds} s",
            expected="that every replica loads the model and answers",
            remedy=f"read {logs}, or raise serving.ready_timeout_seconds",
        )
