"""What a replica hears of trials: it follows the order beside its versions, and reports.

The order is a file in the folder of the model's versions, which every replica sees, wherever it
runs: so none has to be started anew, and nothing listens that could be told what to do. An order
that its giver does not end in time ends by itself; so does one whose giver does not listen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from mlpipeline.errors import ArtifactError
from mlpipeline.serving.http_replica import HttpReplica
from mlpipeline.serving.predictor import Predictor
from mlpipeline.serving.trial import Trial
from mlpipeline.store.schemas.rollout import TrialOrder

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often a replica looks for an order, and reports."""
_UNHEARD_SECONDS = 10.0  # without an answer to any report
_REPORT_SECONDS = 2.0


@asynccontextmanager
async def following(
    file: Path, predictor: Predictor, replica: str, *, only_shadow: bool = False
) -> AsyncIterator[None]:
    """Do what orders say while the body runs.

    Args:
        file: Where the order is, if there is one.
        predictor: The model that this replica serves.
        replica: The name of this replica.
        only_shadow: Whether every answer must be of its own version: it answers a part of a
            request, and others the rest.
    """
    follower = _Follower(file, predictor, replica, only_shadow)
    task = asyncio.create_task(follower.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await follower.end()


class _Follower:
    def __init__(self, file: Path, predictor: Predictor, replica: str, only_shadow: bool) -> None:
        self._file, self._predictor, self._replica = file, predictor, replica
        self._only_shadow = only_shadow
        self._seen: tuple[int, ...] = ()
        self._order: TrialOrder | None = None
        self._http = httpx.AsyncClient(timeout=_REPORT_SECONDS, trust_env=False)
        self._heard = 0.0

    async def follow(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # what is tried must never harm what is served
                _log.exception("a trial is ended")
                await self._put(None)
            await asyncio.sleep(LOOK_SECONDS)

    async def end(self) -> None:
        await self._put(None)
        await self._http.aclose()

    async def _look(self) -> None:
        order = await asyncio.to_thread(self._read)
        if order and (order.champion != self._predictor.version or time.time() > order.until):
            order = None
        trial = self._predictor.trial
        if (order and order.token) != (trial and trial.order.token):
            await self._put(order)
        if order and (trial := self._predictor.trial):
            await self._report(trial)

    def _read(self) -> TrialOrder | None:
        """The order; it is read again when another file is there."""
        try:
            found = self._file.stat()
        except OSError:
            self._seen, self._order = (), None
            return None
        if (seen := (found.st_ino, found.st_mtime_ns, found.st_size)) != self._seen:
            self._seen = seen
            try:
                order = TrialOrder.load(self._file)
                mode = "shadow" if self._only_shadow else order.mode
                self._order = order.model_copy(update={"mode": mode})
            except ArtifactError as error:  # perhaps of a newer release
                _log.warning("an order is not followed: %s", error.got)
                self._order = None
        return self._order

    async def _put(self, order: TrialOrder | None) -> None:
        before, self._predictor.trial = self._predictor.trial, None
        if before:
            await before.close()
            await self._report(before)  # what was under way when the order ended
        if order:
            _log.info("%s: version %s is tried", order.mode, order.challenger)
            challenger = HttpReplica(order.address, self._predictor.name, order.timeout_seconds)
            self._predictor.trial = Trial(
                order,
                challenger,
                self._predictor.compute,
                self._replica,
                classes=self._predictor.classes,
            )
            self._heard = time.monotonic()

    async def _report(self, trial: Trial) -> None:
        order = trial.order
        url = f"http://{order.report_to}/{order.token}"
        try:
            answer = await self._http.post(url, json=trial.figures().content())
            answer.raise_for_status()
            self._heard = time.monotonic()
        except httpx.HTTPError as error:
            if time.monotonic() - self._heard > _UNHEARD_SECONDS:
                trial.stop(f"nobody hears what comes of it: {error!r}")
