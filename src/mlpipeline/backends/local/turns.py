"""Turns: what two would do to the same key, port or model, they do one after the other, or one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mlpipeline.errors import ProcessError
from mlpipeline.store.leases import BEAT_SECONDS, Holder, Lease

_LOOK_AGAIN_SECONDS = 0.5


@asynccontextmanager
async def turn(
    what: str, file: Path, *, run: str, seconds: float, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Wait until nobody else does it, then keep all others from it while the body runs.

    Args:
        what: What it is, for messages.
        file: Where the lease lies.
        run: What this run calls itself.
        seconds: How long to wait at most.
        say: Called with whom it waits for.

    Raises:
        ProcessError: Another one did it all that time; or this process slept so long that another
            one has taken it over.
    """
    lease = Lease(file, run)
    await _wait(lease, what, seconds, say)
    async with _kept(lease, what):
        yield


@asynccontextmanager
async def at_once(what: str, file: Path, *, who: str) -> AsyncIterator[None]:
    """Keep all others from something while the body runs, unless somebody does it already.

    Args:
        what: What it is, for messages.
        file: Where the lease lies.
        who: What this process calls itself.

    Raises:
        ProcessError: Somebody does it; or another one has taken it over, as in `turn`.
    """
    lease = Lease(file, who)
    if (holder := lease.take()) is not None:
        raise ProcessError(
            f"{what} is under way already, by {holder}",
            expected="that one does it at a time",
            remedy=f"wait for its end, then see what is still to be done ({file})",
        )
    async with _kept(lease, what):
        yield


@asynccontextmanager
async def _kept(lease: Lease, what: str) -> AsyncIterator[None]:
    """Keep a lease that was taken while the body runs, then give it back."""
    lost = asyncio.timeout(None)
    try:
        async with lost:
            beating = asyncio.create_task(_beat(lease, lost))
            try:
                yield
            finally:
                beating.cancel()
    except TimeoutError as error:
        if not lost.expired():
            raise
        raise ProcessError(
            f"{what} was taken over by another process, because this one was stopped for long",
            expected="that it goes on, once it is begun",
            remedy="do it again: what the other one makes is reused",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it is over by itself, too
            lease.release()


async def _wait(lease: Lease, what: str, seconds: float, say: Callable[[str], None]) -> None:
    end = time.monotonic() + seconds
    told: Holder | None = None
    while (holder := lease.take()) is not None:
        if told is None or holder.token != told.token:
            say(f"  {what} waits for {holder}")
            told = holder
        if time.monotonic() > end:
            raise ProcessError(
                f"{what} has waited for {holder} for {seconds:.0f} s",
                expected="that it ends, or is gone",
                remedy=f"end that run, or wait for it; then run this one again ({lease.file})",
            )
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def _beat(lease: Lease, lost: asyncio.Timeout) -> None:
    while lease.touch():
        await asyncio.sleep(BEAT_SECONDS)
    lost.reschedule(asyncio.get_running_loop().time())
