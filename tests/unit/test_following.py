"""`mlpipeline serve` takes over the version that becomes current."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from mlpipeline.backends.local import following
from mlpipeline.backends.local.service import Service
from mlpipeline.errors import ProcessError
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace
from support.registered import NAME, register

ENDED = ProcessError("a server ended by itself", expected="", remedy="")


class FakeService:
    """Serves nothing, and cannot serve some versions."""

    def __init__(self) -> None:
        self.version, self.unfit = "shirts-1", set[str]()
        self.tried: list[str] = []
        self.has_ended = False

    def check(self) -> None:
        if self.has_ended:
            raise ENDED

    async def roll(self, version: str) -> None:
        self.tried.append(version)
        if version in self.unfit:
            raise ProcessError("replica-0 is not ready", expected="", remedy="")
        self.version = version


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.001)
    for version in ("shirts-1", "shirts-2", "shirts-3"):
        register(tmp_path, version)
    registry.promote(Workspace(tmp_path), NAME, "shirts-1")
    return Workspace(tmp_path)


async def _until(said: list[str], count: int) -> None:
    async with asyncio.timeout(20):
        while len(said) < count:
            await asyncio.sleep(0.001)


async def _follow(service: FakeService, workspace: Workspace, *versions: str) -> list[str]:
    """Make versions current, each once the one before has been taken over; return what is said."""
    said: list[str] = []
    following_it = asyncio.create_task(
        following.take_over(cast(Service, service), workspace, NAME, say=said.append)
    )
    for count, version in enumerate(versions, 1):
        registry.promote(workspace, NAME, version)
        await _until(said, count)
    following_it.cancel()
    with suppress(asyncio.CancelledError):
        await following_it
    return said


def test_each_version_that_becomes_current_takes_the_place_of_the_one_before(
    workspace: Workspace,
) -> None:
    service = FakeService()
    said = asyncio.run(_follow(service, workspace, "shirts-2", "shirts-1"))
    assert service.tried == ["shirts-2", "shirts-1"]
    assert said == [f"version {v} is current: its replicas have taken over" for v in service.tried]


def test_one_that_cannot_be_served_is_named_and_tried_once(workspace: Workspace) -> None:
    service = FakeService()
    service.unfit.add("shirts-2")
    said = asyncio.run(_follow(service, workspace, "shirts-2", "shirts-3"))
    assert service.tried == ["shirts-2", "shirts-3"]
    assert said[0] == ("version shirts-2 is current, but shirts-1 goes on: replica-0 is not ready")
    assert service.version == "shirts-3"


def test_a_replica_that_ends_by_itself_ends_it(workspace: Workspace) -> None:
    service = FakeService()
    service.has_ended = True
    with pytest.raises(ProcessError, match="a server ended by itself"):
        asyncio.run(
            following.take_over(cast(Service, service), workspace, NAME, say=lambda _: None)
        )


def test_a_pointer_that_cannot_be_read_changes_nothing(workspace: Workspace) -> None:
    service = FakeService()

    async def damaged_and_mended() -> list[str]:
        workspace.current_version(NAME).write_text("?")
        mended = asyncio.get_running_loop().call_later(0.05, _mend)
        said = await _follow(service, workspace)
        await asyncio.sleep(0.05)
        mended.cancel()
        return said

    def _mend() -> None:
        workspace.current_version(NAME).write_text("shirts-1\n")

    assert asyncio.run(damaged_and_mended()) == []
    assert service.tried == []
