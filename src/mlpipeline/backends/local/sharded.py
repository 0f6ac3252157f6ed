"""A sharded service on this machine: replicas with a port each, and a front at the model's address.

Unlike replicas that share a port, one that dies is started again, unless it dies too often: the
front does without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mlpipeline import addresses
from mlpipeline.backends.local import processes, replicas
from mlpipeline.backends.local.restarts import keep_running
from mlpipeline.plan.commands import SHARD, front_arguments
from mlpipeline.plan.config import Config
from mlpipeline.store.layout import Workspace


@asynccontextmanager
async def serving(
    config: Config, workspace: Workspace, version: str, count: int, *, logs: Path
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
    commands = {
        name: [*replicas.command(config, workspace, version, name, http, grpc), SHARD]
        for name, http, grpc in zip(names, ports[:count], ports[count:], strict=True)
    }
    front = front_arguments(
        config.name,
        [addresses.join(settings.host, port) for port in ports[:count]],
        at_least=count,
        host=settings.host,
        port=settings.port,
        grpc_port=settings.grpc_port,
        replica="front",
    )
    readiness = replicas.Readiness([*names, "front"])
    with replicas.reserved(settings):
        running = [
            asyncio.create_task(
                keep_running(command, log=logs / f"{name}.log", on_progress=readiness.note)
            )
            for name, command in commands.items()
        ]
        running.append(
            asyncio.create_task(
                processes.run(
                    processes.python_m(front), log=logs / "front.log", on_progress=readiness.note
                )
            )
        )
        ended = asyncio.ensure_future(replicas.first_to_end(running))
        try:
            await readiness.wait(ended, settings.ready_timeout_seconds, logs)
            yield ended
        finally:
            for task in (ended, *running):
                task.cancel()
            await asyncio.wait([ended, *running])
