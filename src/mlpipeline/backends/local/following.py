"""Follows the version of a model that is current, while `mlpipeline serve` serves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from mlpipeline.backends.local.service import Service
from mlpipeline.errors import DamagedArtifactError, ProcessError
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace

LOOK_SECONDS = 1.0
"""How often it looks which version is current."""


async def newer_versions(
    workspace: Workspace, name: str, version: str, check: Callable[[], object]
) -> AsyncIterator[str]:
    """Yield the version that is current, whenever another one becomes so.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        version: The version that is current now.
        check: Called at every look; what it raises ends the iteration.
    """
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        check()
        try:
            found = history.pointed_at(workspace, name)
        except DamagedArtifactError:  # what is served is whole: it goes on
            continue
        if found and found != version:
            version = found
            yield version


async def take_over(
    service: Service, workspace: Workspace, name: str, *, say: Callable[[str], None]
) -> None:
    """Serve each version that becomes current, in place of the one before, without an end.

    One that cannot be served is named; the one before it goes on.

    Args:
        service: Serves a version of the model.
        workspace: The folder of all artifacts.
        name: What the model is called.
        say: Called with what becomes of each.

    Raises:
        ProcessError: A replica has ended by itself.
    """
    async for version in newer_versions(workspace, name, service.version, service.check):
        if version == service.version:  # the one in between could not be served
            continue
        try:
            await service.roll(version)
        except ProcessError as error:
            say(f"version {version} is current, but {service.version} goes on: {error.got}")
        else:
            say(f"version {version} is current: its replicas have taken over")
