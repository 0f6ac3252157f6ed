"""A request too large for one replica: cut into pieces that several replicas answer at once.

Pieces wait in one queue, and whichever replica is free takes the next: a slow one answers fewer. A
piece that fails is tried elsewhere. What a replica is, and where there are some, is told from
outside; nothing here knows of a network. It is the sharded services pattern of Yuan Tang's
"Distributed Machine Learning Patterns", chapter 4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from mlpipeline.learning.data.images import rows_in_a_batch
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.page import Part

_BATCH = 64  # a replica's

_Result = TypeVar("_Result")


class ReplicaError(Exception):
    """A replica gave no answer, or one that says nothing of the request: another may do better."""


class RefusalError(Exception):
    """A replica refused the request itself: every other would say the same."""


class NoAnswerError(Exception):
    """No replica has answered, however often it was tried."""


@dataclass(frozen=True)
class Description:
    """What a replica says when it is asked who it is.

    Attributes:
        replica: Its name.
        version: Version of the model that it serves.
        metadata: Metadata of the model, as `GET /v2/models/NAME` gives it.
    """

    replica: str
    version: str
    metadata: Mapping[str, Any]


class JoinedPrediction(NamedTuple):
    """What the replicas answered together.

    Attributes:
        probabilities: float32 (N, classes), in the order of the images.
        version: Version of the model that gave all of them.
        replicas: The names of the replicas that took part, sorted.
    """

    probabilities: Probabilities
    version: str
    replicas: tuple[str, ...]


class Replica(Protocol):
    """A connection to one replica. Its methods raise `ReplicaError` or `RefusalError`."""

    async def describe(self) -> Description:
        """Ask who it is."""

    async def predict(self, images: Images) -> tuple[Probabilities, str]:
        """Return the probabilities of some images, and the version that gave them.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C), at most `Limits.piece` of them.
        """

    async def part_of_page(self, name: str) -> Part | None:
        """Return a file of its page; None if it has no such file, or no page."""

    async def post_feedback(self, event: bytes) -> None:
        """Hand a `feedback` event on."""

    async def close(self) -> None:
        """End the connection."""


@dataclass(frozen=True)
class Limits:
    """How much a replica is sent, how often a piece is tried, how long to wait.

    Attributes:
        piece: The most images in a piece. A multiple of a replica's batch (64), so that the
            batches, and with them the last bits of the sums, are those of a request that was not
            cut. Of large images a batch has fewer, and a piece as many batches.
        running: Pieces that a replica is sent at a time: one that it works on, one on its way.
        attempts: How often a piece is tried.
        attempt_seconds: Time-out of one attempt.
        request_seconds: Time-out of a whole request.
        refresh_seconds: Seconds between looks at who answers; a quarter of it while one does not.
    """

    piece: int = 512
    running: int = 2
    attempts: int = 4
    attempt_seconds: float = 20.0
    request_seconds: float = 120.0
    refresh_seconds: float = 2.0


@dataclass(eq=False)
class _Member:
    replica: Replica
    description: Description | None = None
    """None while it does not answer."""
    running: int = 0


class _VersionGoneError(Exception):
    pass


@dataclass
class ShardedService:
    """The replicas of a model, as one that answers faster.

    Attributes:
        find: Returns the addresses of all replicas that there are now.
        connect: Makes a connection to the replica at an address, without waiting for it.
        limits: How much, how often, how long.
    """

    find: Callable[[], Awaitable[Collection[str]]]
    connect: Callable[[str], Replica]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Begin with no replica: `following` finds them."""
        self._members: dict[str, _Member] = {}
        self._changed = asyncio.Event()
        self._refresh_now = asyncio.Event()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Notice replicas that come, go, fail and recover, while the body runs."""
        try:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self._follow())
                yield
                task.cancel()
        except BaseExceptionGroup as group:  # of one: the body's error as it was, or `_follow`'s
            raise group.exceptions[0] from None
        finally:
            for member in self._members.values():
                await member.replica.close()

    async def until_answering(self, count: int) -> None:
        """Wait until so many replicas answer.

        Args:
            count: How many.
        """
        await self._wait_for(lambda: len(self._answering()) >= count)

    def description(self) -> Description | None:
        """Return what the replicas say of the model; None while none of them answers.

        During an update it is the version that most of them have; the new one if they are equal.
        """
        descriptions = [d for member in self._answering() if (d := member.description)]
        counts = Counter(each.version for each in descriptions)
        newest_first = reversed(descriptions)
        return max(newest_first, key=lambda each: counts[each.version], default=None)

    async def predict(self, images: Images) -> JoinedPrediction:
        """Have images predicted by all replicas of one version.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C).

        Raises:
            RefusalError: The first refusal of a replica, as it is.
            NoAnswerError: A piece failed too often, or it took too long.
        """
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                while True:
                    version = (await self._wait_for(self.description)).version
                    # If its last replica goes meanwhile, all begins anew: no answer is of two.
                    with contextlib.suppress(_VersionGoneError):
                        return await self._predict(images, version)
        except TimeoutError:
            seconds = self.limits.request_seconds
            raise NoAnswerError(f"no answer within {seconds:.0f} s") from None

    async def ask_one(self, ask: Callable[[Replica], Awaitable[_Result]]) -> _Result:
        """Ask a replica, and where it does not answer the next one.

        Args:
            ask: What to ask.

        Raises:
            RefusalError: The refusal of a replica, as it is.
            NoAnswerError: None of them answers.
        """
        described = self.description()
        why = ""
        for member in self._answering():
            if member.description and described and member.description.version == described.version:
                try:
                    async with asyncio.timeout(self.limits.attempt_seconds):
                        return await ask(member.replica)
                except (ReplicaError, TimeoutError) as error:
                    why = f"{member.description.replica}: {error or 'no answer in time'}"
        raise NoAnswerError(why or "there is none that answers")

    async def _predict(self, images: Images, version: str) -> JoinedPrediction:
        size = self._images_in_a_piece(images.shape[1:])
        pieces = enumerate(_cut(images, size))
        parts: dict[int, tuple[Probabilities, str]] = {}

        async def work() -> None:
            for index, piece in pieces:
                parts[index] = await self._predict_piece(piece, version)
                await asyncio.sleep(0)  # who waits for a replica gets this one first

        # Only as many of its pieces as can run wait at a time: other requests get their turn.
        count = min(-(-len(images) // size), self.limits.running * len(self._members))
        workers = [asyncio.create_task(work()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        probabilities = np.concatenate([parts[index][0] for index in sorted(parts)])
        replicas = sorted({name for _, name in parts.values()})
        return JoinedPrediction(probabilities, version, tuple(replicas))

    def _images_in_a_piece(self, shape: Sequence[int]) -> int:
        batches = max(1, self.limits.piece // _BATCH)
        return min(self.limits.piece, batches * rows_in_a_batch(shape, _BATCH))

    async def _predict_piece(self, piece: Images, version: str) -> tuple[Probabilities, str]:
        failed: set[_Member] = set()
        for attempt in range(1, self.limits.attempts + 1):
            member = await self._wait_for(lambda: self._next_replica(version, failed))
            try:
                return await self._send(member, piece, version)
            except ReplicaError as error:
                failed.add(member)
                if attempt == self.limits.attempts:
                    raise NoAnswerError(f"{attempt} attempts; the last one: {error}") from error
        raise AssertionError("no attempt was allowed")

    async def _send(
        self, member: _Member, piece: Images, version: str
    ) -> tuple[Probabilities, str]:
        assert member.description is not None
        name = member.description.replica
        member.running += 1
        try:
            async with asyncio.timeout(self.limits.attempt_seconds):
                probabilities, its_version = await member.replica.predict(piece)
            if its_version != version or len(probabilities) != len(piece):
                raise ReplicaError(f"{len(probabilities)} rows of version {its_version}")
            return probabilities, name
        except (ReplicaError, TimeoutError) as error:
            member.description = None  # until it answers again
            self._refresh_now.set()
            raise ReplicaError(f"{name}: {error or 'no answer in time'}") from error
        finally:
            member.running -= 1
            self._notify()
            if member not in self._members.values() and not member.running:
                await member.replica.close()

    def _next_replica(self, version: str, failed: Collection[_Member]) -> _Member | None:
        """Return the replica for the next piece; None while all have as many as they may."""
        answering = self._answering()
        same = [m for m in answering if m.description and m.description.version == version]
        if answering and not same:
            raise _VersionGoneError
        candidates = [member for member in same if member not in failed] or same
        free = [member for member in candidates if member.running < self.limits.running]
        return min(free, key=lambda member: member.running, default=None)

    def _answering(self) -> list[_Member]:
        return [member for member in self._members.values() if member.description]

    async def _wait_for(self, condition: Callable[[], _Result | None]) -> _Result:
        while not (result := condition()):
            await self._changed.wait()
        return result

    def _notify(self) -> None:
        """Wake all that wait, in the order in which they began to."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _follow(self) -> None:
        while True:
            await self._refresh()
            all_answer = len(self._answering()) == len(self._members) > 0
            seconds = self.limits.refresh_seconds / (1 if all_answer else 4)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # `wait_for` can lose a cancellation
                    await self._refresh_now.wait()
            self._refresh_now.clear()

    async def _refresh(self) -> None:
        addresses = set(await self.find())
        for address in self._members.keys() - addresses:
            member = self._members.pop(address)
            if not member.running:  # otherwise it may finish
                await member.replica.close()
        for address in sorted(addresses - self._members.keys()):
            self._members[address] = _Member(self.connect(address))
        await asyncio.gather(*map(self._describe, self._members.values()))
        self._notify()

    async def _describe(self, member: _Member) -> None:
        try:
            async with asyncio.timeout(self.limits.attempt_seconds):
                member.description = await member.replica.describe()
        except (ReplicaError, RefusalError, TimeoutError):
            member.description = None
        self._notify()


def _cut(images: Images, size: int) -> Iterator[Images]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
