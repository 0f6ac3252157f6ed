"""A server that ends is started again, with pauses, and not for ever."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlpipeline.backends.local.processes import ExitError
from mlpipeline.backends.local.restarts import RestartLimit, keep_running
from mlpipeline.errors import ProcessError

READY = "print('progress done=1 total=1 ready=me', flush=True)"
QUICK = RestartLimit(most=3, window_seconds=60, first_pause_seconds=0.001)


def _keep_running(folder: Path, script: str, limit: RestartLimit = QUICK) -> list[str]:
    """Run a script as a server until it is an error; return what it has said it is."""
    ready: list[str] = []

    def note(values: Mapping[str, str]) -> None:
        ready.append(values["ready"])

    async def run() -> None:
        command = [sys.executable, "-c", script]
        async with asyncio.timeout(60):
            await keep_running(command, log=folder / "shard.log", on_progress=note, limit=limit)

    with pytest.raises(ProcessError) as raised:
        asyncio.run(run())
    ready.append(raised.value.got)
    return ready


@pytest.mark.parametrize("status", [0, 1, 137])
def test_a_server_that_ends_again_and_again_is_an_error_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    with caplog.at_level(logging.WARNING):
        *ready, error = _keep_running(tmp_path, f"{READY}; raise SystemExit({status})")
    assert ready == ["me"] * 4, "once, and three times again"
    assert error == "shard has ended 4 times in 60 s"
    pauses = [record.getMessage() for record in caplog.records]
    assert len(pauses) == 3
    assert all("shard has died and is started again" in each for each in pauses)


def test_the_pause_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _keep_running(tmp_path, READY, RestartLimit(most=3, first_pause_seconds=0.01))
    pauses = re.findall(r"again in ([\d.]+) s", caplog.text)
    assert pauses == ["0.01", "0.02", "0.04"]


def test_a_restart_of_long_ago_does_not_count(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    script = (
        f"from pathlib import Path; file = Path({str(counter)!r});"
        "count = int(file.read_text()) if file.exists() else 0;"
        "file.write_text(str(count + 1));"
        f"{READY} if count < 6 else exit(5)"
    )
    limit = RestartLimit(most=1, window_seconds=1e-9, first_pause_seconds=0)
    *ready, error = _keep_running(tmp_path, script, limit)
    assert len(ready) == 6
    assert "status 5" in error


def test_a_server_that_never_was_ready_is_an_error_at_once(tmp_path: Path) -> None:
    (error,) = _keep_running(tmp_path, "exit(3)")
    assert "status 3" in error
    with pytest.raises(ExitError):
        asyncio.run(
            keep_running(
                [sys.executable, "-c", "exit(3)"], log=tmp_path / "log", on_progress=lambda _: None
            )
        )
