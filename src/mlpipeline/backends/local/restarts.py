"""A server that is started again whenever it ends, unless it ends too often."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlpipeline.backends.local import processes
from mlpipeline.errors import ProcessError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestartLimit:
    """How often a server may be started again.

    Attributes:
        most: So many times within `window_seconds`; one more is an error.
        window_seconds: How long a restart counts.
        first_pause_seconds: The pause before the first one; each that still counts doubles it.
    """

    most: int = 5
    window_seconds: float = 300
    first_pause_seconds: float = 0.5


async def keep_running(
    command: Sequence[str],
    *,
    log: Path,
    on_progress: Callable[[Mapping[str, str]], None],
    limit: RestartLimit = RestartLimit(),
) -> None:
    """Run a server, and start it again after a pause when it ends, until it is cancelled.

    Args:
        command: The program and its arguments.
        log: File that its output is added to; its name is the server's in messages.
        on_progress: Called with every progress line; the first means that the server is ready.
        limit: How often it may be started again.

    Raises:
        ExitError: It ended before it was ready.
        ProcessError: It ended too often.
    """
    restarts: deque[float] = deque(maxlen=limit.most)
    while True:
        await _run_once(command, log, on_progress)
        now = time.monotonic()
        recent = [moment for moment in restarts if now - moment < limit.window_seconds]
        if len(recent) >= limit.most:
            raise ProcessError(
                f"{log.stem} has ended {limit.most + 1} times in {limit.window_seconds:.0f} s",
                expected="that it serves until it is told to stop",
                remedy=f"read {log}, which says why",
            )
        restarts.append(now)
        pause = limit.first_pause_seconds * 2 ** len(recent)
        _log.warning(
            "%s has died and is started again in %.3g s; %s may say why", log.stem, pause, log
        )
        await asyncio.sleep(pause)


async def _run_once(
    command: Sequence[str], log: Path, on_progress: Callable[[Mapping[str, str]], None]
) -> None:
    """Run a server until it ends; an error only if it never was ready."""
    was_ready = False

    def note(values: Mapping[str, str]) -> None:
        nonlocal was_ready
        was_ready = True
        on_progress(values)

    try:
        await processes.run(command, log=log, on_progress=note)
    except processes.ExitError:
        if not was_ready:
            raise
