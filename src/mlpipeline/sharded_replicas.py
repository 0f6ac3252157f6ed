"""A sharded service on this machine: replicas with a port each, and a front at the model's address.

Unlike replicas that share a port, one that dies is started again: the front does without it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mlpipeline import processes
from mlpipeline.config import Config
from mlpipeline.errors import ProcessError


@asynccontextmanager
async def serving(
    config: Config, workspace: Path, version: str, count: int, *, logs: Path
) -> AsyncIterator[asyncio.Future[None]]:
    """Serve a registered version by `count` replicas and a front while the body runs.

    Yields:
        A future that ends, with an error, when the front does, or a replica that cannot start.

    Raises:
        ProcessError: A port is in use, or not all replicas became ready in time.
    """
    settings = config.serving
    names = [f"shard-{index}" for index in range(count)]
    ports = processes.free_ports(2 * count)
    model = ["--name", config.name, "--host", settings.host]
    commands = {
        name: _command(
            *("predictor", *model, "--workspace", str(workspace), "--version", version),
            *("--replica", name, "--port", str(http), "--grpc-port", str(grpc)),
        )
        for name, http, grpc in zip(names, ports[:count], ports[count:], strict=True)
    }
    places = ",".join(f"{settings.host}:{port}" for port in ports[:count])
    front = _command(
        *("front", *model, "--replicas", places, "--at-least", str(count), "--replica", "front"),
        *("--port", str(settings.port), "--grpc-port", str(settings.grpc_port)),
    )
    ready = asyncio.Event()
    with (
        processes.reserved_port(settings.host, settings.port),
        processes.reserved_port(settings.host, settings.grpc_port),
    ):
        running = [
            asyncio.create_task(_kept(command, logs / f"{name}.log"))
            for name, command in commands.items()
        ]
        running.append(
            asyncio.create_task(
                processes.run(front, log=logs / "front.log", on_progress=lambda _: ready.set())
            )
        )
        ended = asyncio.ensure_future(_first_to_end(running))
        try:
            await _until_ready(ready, ended, settings.ready_timeout_seconds, logs)
            yield ended
        finally:
            for task in (ended, *running):
                task.cancel()
            await asyncio.wait([ended, *running])


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlpipeline", *arguments]


async def _kept(command: list[str], log: Path) -> None:
    """Run a replica, and start it again when it ends; one that never was ready is an error."""
    was_ready = False

    def on_progress(_: Mapping[str, str]) -> None:
        nonlocal was_ready
        was_ready = True

    while True:
        was_ready = False
        try:
            await processes.run(command, log=log, on_progress=on_progress)
        except processes.ExitError:
            if not was_ready:
                raise
        print(f"{log.stem} has died and is started again; {log} may say why", flush=True)


async def _first_to_end(running: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    done.pop().result()
    raise ProcessError(
        "the front ended by itself",
        expected="that it serves until it is told to stop",
        remedy="read its log",
    )


async def _until_ready(
    ready: asyncio.Event, ended: asyncio.Future[None], seconds: float, logs: Path
) -> None:
    starting = asyncio.create_task(ready.wait())
    either: set[asyncio.Future[Any]] = {starting, ended}
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        starting.cancel()
    if ended.done():
        ended.result()
    if not ready.is_set():
        raise ProcessError(
            f"not all replicas are ready after {seconds} s",
            expected="that every replica loads the model and answers",
            remedy=f"read {logs}, or raise serving.ready_timeout_seconds",
        )
