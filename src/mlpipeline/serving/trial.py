"""A replica's part in the trial of another version: it hands a share of its requests over.

    canary   request ──► challenger ──► answer        shadow   request ──► champion ──► answer
                   └──► champion, to compare                         └──► challenger, to compare

The replica is the champion's, and has the last word: what the challenger does not answer, or not
in time, or not as a model does, the champion answers. After some failures in a row it is not asked
any more. No answer waits for a comparison, and where too much waits for one, it is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

from mlpipeline.plan import rollout
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.http_replica import Answer
from mlpipeline.serving.sharding import RefusalError, ReplicaError
from mlpipeline.store.schemas.rollout import TrialFigures, TrialOrder

_log = logging.getLogger(__name__)

MOST_IMAGES = 64
"""A request of more images is not tried: how long it may take would be another question."""
FAILURES_IN_A_ROW = 5
"""After so many, a replica gives up on a challenger."""
_WAITING, _WAITING_BYTES = 64, 32 << 20  # requests that may wait to be compared, and their images
_AT_ONCE = 2  # comparisons
_ROUNDING = 1e-3  # of probabilities: those of 8-bit integers are coarse


class Challenger(Protocol):
    """A connection to the version that is tried."""

    async def ask(self, images: Images) -> Answer:
        """Return what it says of some images.

        Raises:
            ReplicaError: It did not answer, or not as a replica does.
            RefusalError: It refused the request.
        """

    async def close(self) -> None:
        """End the connection."""


class _FailedError(Exception):
    """The challenger did not answer as it must."""


class Trial:
    """Tries another version as an order says, and counts what came of it."""

    def __init__(
        self,
        order: TrialOrder,
        challenger: Challenger,
        champion: Callable[[Images], Awaitable[Probabilities]],
        replica: str,
        *,
        classes: int,
    ) -> None:
        """Begin with nothing counted.

        Args:
            order: What is to be done.
            challenger: The connection to the version that is tried.
            champion: Computes the probabilities by the version of this replica.
            replica: The name of this replica.
            classes: How many classes the model has.
        """
        self.order = order
        self._classes = classes
        self._id = uuid.uuid4().hex
        self._challenger, self._champion, self._replica = challenger, champion, replica
        self._requests = self._tried = self._failed = self._in_a_row = self._asking = 0
        self._images = self._agreed = self._dropped = 0
        self._failure = self._stopped = ""
        self._is_over = False
        self._champion_times: list[int] = []
        self._challenger_times: list[int] = []
        self._round_trips: list[int] = []
        self._comparisons: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def figures(self) -> TrialFigures:
        """Return what was counted until now."""
        return TrialFigures(
            id=self._id,
            replica=self._replica,
            requests=self._requests,
            tried=self._tried,
            failed=self._failed,
            failure=self._failure,
            images=self._images,
            agreed=self._agreed,
            dropped=self._dropped,
            champion_times=tuple(self._champion_times),
            challenger_times=tuple(self._challenger_times),
            round_trips=tuple(self._round_trips),
            stopped=self._stopped,
        )

    async def answer(
        self, images: Images, response_headers: dict[str, str] | None
    ) -> tuple[Probabilities, str]:
        """Answer a request, by the challenger if it is its turn and it can.

        Args:
            images: uint8 (N, *input_shape).
            response_headers: They get `x-served-by` where the challenger has answered.

        Returns:
            The probabilities, float32 (N, classes), and the version that gave them.
        """
        if len(images) > MOST_IMAGES:
            return await self._champion(images), self.order.champion
        self._requests += 1
        is_tried = self._take_turn()
        if is_tried and self.order.mode == "canary":
            self._asking += 1
            try:
                probabilities = await self._ask(images)
            except _FailedError:
                return await self._by_champion(images), self.order.champion
            finally:
                self._asking -= 1
            self._compare_later(images, lambda: self._champion(images), probabilities)
            if response_headers is not None:
                response_headers["x-served-by"] = f"challenger-of-{self._replica}"
            return probabilities, self.order.challenger
        is_sent = False
        try:
            probabilities = await self._by_champion(images)
            if is_tried:
                is_sent = self._compare_later(images, lambda: self._ask(images), probabilities)
        finally:
            if is_tried and not is_sent:  # somebody else's turn, then
                self._tried -= 1
        return probabilities, self.order.champion

    async def close(self) -> None:
        """End all that goes on; what the challenger was asked for a client, it may still answer."""
        self._is_over = True
        while self._asking:  # each for as long as it has, at most
            await asyncio.sleep(0.01)
        for comparison in self._comparisons:
            comparison.cancel()
        await asyncio.gather(*self._comparisons, return_exceptions=True)
        await self._challenger.close()

    def stop(self, why: str) -> None:
        """Send the challenger nothing more.

        Args:
            why: Why not.
        """
        if not self._stopped:
            _log.warning("version %s is not tried any more: %s", self.order.challenger, why)
            self._stopped = why

    def _take_turn(self) -> bool:
        """Count a request as tried, unless that would be more than its share; tell whether."""
        may_be = not self._stopped and not self._is_over
        is_turn = may_be and self._tried + 1 <= self.order.share * self._requests
        self._tried += is_turn
        return is_turn

    async def _by_champion(self, images: Images) -> Probabilities:
        began = time.monotonic()
        probabilities = await self._champion(images)
        _count(self._champion_times, time.monotonic() - began)
        return probabilities

    async def _ask(self, images: Images) -> Probabilities:
        """Return what the challenger says.

        Raises:
            _FailedError: It does not say it, or not as it must.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.order.timeout_seconds):
                probabilities, version, seconds = await self._challenger.ask(images)
            self._check(probabilities, version, len(images))
        except asyncio.CancelledError:
            if not self._is_over:  # a client that does not wait: it would have had an answer by now
                self._note_failure("a client has not waited for it")
            raise
        except TimeoutError:
            self._fail(f"no answer within {self.order.timeout_seconds:g} s")
        except (ReplicaError, RefusalError, _FailedError) as error:
            self._fail(str(error))
        except Exception as error:  # whatever it is, the champion answers
            _log.exception("a request could not be tried")
            self._fail(repr(error))
        self._in_a_row = 0
        _count(self._challenger_times, seconds)
        _count(self._round_trips, time.monotonic() - began)
        return probabilities

    def _check(self, probabilities: Probabilities, version: str, count: int) -> None:
        if version != self.order.challenger:
            raise _FailedError(f"version {version} has answered")
        if probabilities.shape != (count, self._classes):
            shape = f"{probabilities.shape}, not {(count, self._classes)}"
            raise _FailedError(f"probabilities of the shape {shape}")
        if not ((probabilities > -_ROUNDING) & (probabilities < 1 + _ROUNDING)).all():
            raise _FailedError("what it says is not between 0 and 1")

    def _fail(self, why: str) -> NoReturn:
        self._note_failure(why)
        raise _FailedError(why)

    def _note_failure(self, why: str) -> None:
        self._failed += 1
        self._in_a_row += 1
        self._failure = why
        if self._in_a_row == FAILURES_IN_A_ROW:
            self.stop(f"{FAILURES_IN_A_ROW} failures in a row, the last one: {why}")

    def _compare_later(
        self,
        images: Images,
        ask_other: Callable[[], Awaitable[Probabilities]],
        probabilities: Probabilities,
    ) -> bool:
        """Compare an answer with the other version's, unless too many wait; tell whether."""
        if self._is_over:
            return False
        is_full = self._waiting_bytes + images.nbytes > _WAITING_BYTES
        if self._comparisons and (len(self._comparisons) >= _WAITING or is_full):
            self._dropped += 1
            return False
        self._waiting_bytes += images.nbytes
        comparison = asyncio.create_task(self._compare(images, ask_other, probabilities))
        self._comparisons.add(comparison)
        comparison.add_done_callback(self._comparisons.discard)
        return True

    async def _compare(
        self,
        images: Images,
        ask_other: Callable[[], Awaitable[Probabilities]],
        probabilities: Probabilities,
    ) -> None:
        try:
            async with self._turns:
                others = await ask_other()
        except _FailedError:  # it is counted
            return
        except Exception:  # the champion's: of no request that anybody waits for
            _log.exception("a request was not compared")
            return
        finally:
            self._waiting_bytes -= images.nbytes
        self._images += len(images)
        self._agreed += int((others.argmax(axis=1) == probabilities.argmax(axis=1)).sum())


def _count(times: list[int], seconds: float) -> None:
    place = rollout.interval(seconds)
    times.extend([0] * (place + 1 - len(times)))
    times[place] += 1
