"""Metrics of replicas that share an address."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from contextlib import AsyncExitStack

import pytest

from mlpipeline.serving import metrics
from mlpipeline.serving.metrics import SharedMetrics


def _told(*replicas: str, asked: int = 0, address: str = "here:1") -> list[str]:
    """Return the replicas, one for each series of one metric, that one of some tells of."""

    async def tell() -> str:
        async with AsyncExitStack() as stack:
            shared = [SharedMetrics(address, replica) for replica in replicas]
            for each in shared:
                await stack.enter_async_context(each.shared())
            text, _ = await shared[asked].exposition("")
            await asyncio.sleep(0.05)  # who was asked, and not listened to, closes its connection
            return text.decode()

    text = asyncio.run(tell())
    return re.findall(r'^python_info\{.*replica="(.*?)".*\} 1.0$', text, re.MULTILINE)


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_whoever_is_asked_tells_of_all(asked: int) -> None:
    assert sorted(_told("a", "b", "c", asked=asked)) == ["a", "b", "c"]


def test_of_two_with_one_name_one_is_told() -> None:
    assert _told("a", "a") == ["a"]
    assert _told("a", "a", asked=1) == ["a"]


def test_those_of_another_address_are_left_out() -> None:
    async def tell() -> bytes:
        async with SharedMetrics("here:2", "other").shared():
            mine = SharedMetrics("here:21", "mine")  # the one is the beginning of the other
            async with mine.shared():
                text, _ = await mine.exposition("")
                return text

    assert b'replica="other"' not in asyncio.run(tell())


def test_those_of_another_user_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_user_of", lambda _: os.getuid() + 1)
    assert _told("a", "b") == ["a"]


def test_one_that_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind("\0mlpipeline-metrics/here:1/0")
        hanging.listen()  # and does not accept
        assert _told("a") == ["a"]
