"""One request for several replicas: who is asked for which piece, and what becomes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mlpipeline.learning.data import images as data_images
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.page import Part
from mlpipeline.serving.sharding import (
    Description,
    Limits,
    NoAnswerError,
    RefusalError,
    ReplicaError,
    ShardedService,
)

PIECE = 4
LIMITS = Limits(
    piece=PIECE,
    running=2,
    attempts=3,
    attempt_seconds=20,
    request_seconds=30,
    refresh_seconds=0.05,
)

Behaviour = Callable[[Images], Awaitable[None]]


async def _answers(_: Images) -> None:
    await asyncio.sleep(0)


async def _fails(_: Images) -> None:
    raise ReplicaError("broken pipe")


@dataclass
class FakeReplica:
    """Answers with what it was sent, as it is told to behave; remembers what that was."""

    name: str
    version: str = "v1"
    behaves: Behaviour = _answers
    is_there: bool = True
    pieces: list[list[int]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    closed: bool = False

    async def describe(self) -> Description:
        if not self.is_there:
            raise ReplicaError("connection refused")
        return Description(self.name, self.version, {})

    async def predict(self, images: Images) -> tuple[Probabilities, str]:
        assert not self.closed
        if not self.is_there:
            raise ReplicaError("connection refused")
        self.pieces.append(images.ravel().tolist())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.behaves(images)
        finally:
            self.running -= 1
        return images.astype(np.float32), self.version

    async def part_of_page(self, name: str) -> Part | None:
        if not self.is_there:
            raise ReplicaError("connection refused")
        return Part(f"{name} of {self.name}".encode(), "text/plain", "")

    async def post_feedback(self, event: bytes) -> None:
        if not self.is_there:
            raise ReplicaError("connection refused")

    async def close(self) -> None:
        self.closed = True


class World:
    """Replicas that come and go, and the service in front of them."""

    def __init__(self, *replicas: FakeReplica, limits: Limits = LIMITS) -> None:
        self.replicas = {replica.name: replica for replica in replicas}
        self.service = ShardedService(self._find, lambda name: self.replicas[name], limits)
        self.gone: set[str] = set()

    async def _find(self) -> set[str]:
        return self.replicas.keys() - self.gone

    def add(self, replica: FakeReplica) -> None:
        self.replicas[replica.name] = replica

    @asynccontextmanager
    async def running(self, at_least: int | None = None) -> AsyncIterator[ShardedService]:
        async with self.service.following():
            count = len(self.replicas) if at_least is None else at_least
            await self.service.until_answering(count)
            yield self.service


def images(count: int) -> Images:
    return np.arange(count, dtype=np.uint8).reshape(count, 1)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(bounded())


# --- right answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 41, 200])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_the_answer_is_in_the_order_of_the_images(count: int, replicas: int) -> None:
    async def slower_for_earlier_ones(piece: Images) -> None:
        for _ in range(200 - int(piece[0, 0])):
            await asyncio.sleep(0)

    world = World(*(FakeReplica(str(n), behaves=slower_for_earlier_ones) for n in range(replicas)))

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(count))
        assert answer.probabilities.ravel().tolist() == list(range(count))
        assert answer.version == "v1"
        asked = {name for name, replica in world.replicas.items() if replica.pieces}
        assert set(answer.replicas) == asked
        assert len(asked) == min(replicas, -(-count // PIECE))

    run(test())
    sent = [number for replica in world.replicas.values() for p in replica.pieces for number in p]
    assert sorted(sent) == list(range(count)), "each image once"
    assert all(replica.closed for replica in world.replicas.values())


def test_pieces_are_cut_where_a_replica_would_end_its_batches() -> None:
    world = World(FakeReplica("a"), FakeReplica("b"))

    async def test() -> None:
        async with world.running() as service:
            await service.predict(images(10))

    run(test())
    pieces = sorted(p for replica in world.replicas.values() for p in replica.pieces)
    assert pieces == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_no_replica_has_more_than_its_share_at_a_time() -> None:
    world = World(FakeReplica("a"), FakeReplica("b"))

    async def test() -> None:
        async with world.running() as service:
            requests = [service.predict(images(100)) for _ in range(5)]
            for answer in await asyncio.gather(*requests):
                assert answer.probabilities.ravel().tolist() == list(range(100))

    run(test())
    assert [replica.most_running for replica in world.replicas.values()] == [2, 2]


def test_a_piece_of_large_images_has_fewer_of_them_in_whole_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_images, "_BATCH_BYTES", 2 * 5)  # two of them in a batch
    world = World(FakeReplica("a"), FakeReplica("b"), limits=Limits())

    async def test() -> None:
        async with world.running() as service:
            await service.predict(np.zeros((60, 5), np.uint8))

    run(test())
    sizes = [len(piece) // 5 for replica in world.replicas.values() for piece in replica.pieces]
    assert sorted(sizes) == [12, 16, 16, 16]


def test_what_one_can_say_is_asked_of_another_where_it_does_not_answer() -> None:
    world = World(FakeReplica("a"), FakeReplica("b"), FakeReplica("c", version="v0"))

    async def test() -> None:
        async with world.running() as service:
            world.replicas["a"].is_there = False
            part = await service.ask_one(lambda replica: replica.part_of_page("x"))
            assert part is not None
            assert part.content == b"x of b"
            world.replicas["b"].is_there = False
            with pytest.raises(NoAnswerError, match="b: connection refused"):
                await service.ask_one(lambda replica: replica.part_of_page("x"))

    run(test())


def test_a_slow_replica_answers_fewer_pieces() -> None:
    release = asyncio.Event()

    async def waits(_: Images) -> None:
        await release.wait()

    slow, quick = FakeReplica("slow", behaves=waits), FakeReplica("quick")
    world = World(slow, quick)

    async def test() -> None:
        async with world.running() as service:
            request = asyncio.create_task(service.predict(images(200)))
            while len(quick.pieces) < 48:  # all that the slow one has not been sent
                await asyncio.sleep(0)
            release.set()
            answer = await request
        assert answer.probabilities.ravel().tolist() == list(range(200))

    run(test())
    assert len(slow.pieces) == 2


def test_a_small_request_does_not_wait_for_the_end_of_a_large_one() -> None:
    world = World(FakeReplica("a"))

    async def test() -> None:
        async with world.running() as service:
            large = asyncio.create_task(service.predict(images(200)))
            while not world.replicas["a"].pieces:
                await asyncio.sleep(0)
            await service.predict(images(1))
            assert not large.done()
            await large

    run(test())


# --- failures ---------------------------------------------------------------------------------


def test_a_piece_that_fails_is_tried_elsewhere() -> None:
    broken, whole = FakeReplica("broken", behaves=_fails), FakeReplica("whole")
    world = World(broken, whole)

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(40))
            assert answer.probabilities.ravel().tolist() == list(range(40))
            assert answer.replicas == ("whole",)

    run(test())
    assert broken.pieces, "it was tried"


def test_a_replica_that_does_not_answer_in_time_is_one_that_fails() -> None:
    async def hangs(_: Images) -> None:
        await asyncio.Event().wait()

    limits = Limits(piece=PIECE, attempt_seconds=0.2, refresh_seconds=0.05)
    stuck = FakeReplica("stuck", behaves=hangs)
    world = World(stuck, FakeReplica("whole"), limits=limits)

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(40))
            assert answer.probabilities.ravel().tolist() == list(range(40))

    run(test())
    assert stuck.pieces


def test_a_replica_that_dies_under_its_pieces_costs_nothing() -> None:
    async def dies(_: Images) -> None:
        if len(world.replicas["dying"].pieces) > 3:
            world.replicas["dying"].is_there = False
            raise ReplicaError("connection reset")

    world = World(FakeReplica("dying", behaves=dies), FakeReplica("b"), FakeReplica("c"))

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(200))
            assert answer.probabilities.ravel().tolist() == list(range(200))

    run(test())


def test_the_only_replica_may_fail_once() -> None:
    async def fails_at_first(_: Images) -> None:
        if len(only.pieces) == 1:
            raise ReplicaError("connection reset")

    only = FakeReplica("only", behaves=fails_at_first)
    world = World(only)

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(8))
            assert answer.probabilities.ravel().tolist() == list(range(8))

    run(test())


def test_when_all_fail_the_last_reason_is_told() -> None:
    world = World(*(FakeReplica(name, behaves=_fails) for name in "abc"))

    async def test() -> None:
        async with world.running() as service:
            with pytest.raises(NoAnswerError, match=r"3 attempts; the last one: [abc]: broken"):
                await service.predict(images(40))

    run(test())


def test_a_request_ends_when_its_time_is_over() -> None:
    limits = Limits(piece=PIECE, request_seconds=0.3, refresh_seconds=0.05)
    only = FakeReplica("only")
    world = World(only, limits=limits)

    async def test() -> None:
        async with world.running() as service:
            only.is_there = False
            with pytest.raises(NoAnswerError, match="no answer within 0 s"):
                await service.predict(images(8))

    run(test())


def test_the_first_refusal_is_passed_on_and_nothing_is_tried_again() -> None:
    async def refuses(piece: Images) -> None:
        if 9 in piece:
            raise RefusalError("the value 9")

    world = World(*(FakeReplica(name, behaves=refuses) for name in "abc"))

    async def test() -> None:
        async with world.running() as service:
            with pytest.raises(RefusalError, match=r"^the value 9$"):
                await service.predict(images(200))
            assert sum(9 in p for r in world.replicas.values() for p in r.pieces) == 1
            answer = await service.predict(images(8))  # it has harmed nobody
            assert answer.probabilities.ravel().tolist() == list(range(8))

    run(test())


def test_a_client_that_goes_leaves_no_work_behind() -> None:
    async def hangs(_: Images) -> None:
        await asyncio.Event().wait()

    world = World(FakeReplica("a", behaves=hangs))

    async def test() -> None:
        async with world.running() as service:
            request = asyncio.create_task(service.predict(images(40)))
            while not world.replicas["a"].running:
                await asyncio.sleep(0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            while world.replicas["a"].running:
                await asyncio.sleep(0)

    run(test())


# --- who is there -----------------------------------------------------------------------------


def test_replicas_that_come_go_and_recover_are_noticed() -> None:
    world = World(FakeReplica("a"))

    async def who(service: ShardedService) -> tuple[str, ...]:
        return (await service.predict(images(200))).replicas

    async def until(service: ShardedService, *expected: str) -> None:
        while await who(service) != expected:
            await asyncio.sleep(0.01)

    async def test() -> None:
        async with world.running() as service:
            await until(service, "a")
            world.add(FakeReplica("b"))
            await until(service, "a", "b")
            world.gone.add("a")
            await until(service, "b")
            assert world.replicas["a"].closed
            world.replicas["b"].is_there = False
            while service.description():
                await asyncio.sleep(0.01)
            world.replicas["b"].is_there = True
            await until(service, "b")

    run(test())


def test_it_waits_until_enough_answer() -> None:
    late = FakeReplica("late", is_there=False)
    world = World(FakeReplica("a"), late)

    async def test() -> None:
        async with world.running(at_least=1) as service:
            waiting = asyncio.create_task(service.until_answering(2))
            await service.predict(images(8))
            assert not waiting.done()
            late.is_there = True
            await waiting

    run(test())


@pytest.mark.parametrize(
    ("versions", "expected"),
    [("112", "1"), ("122", "2"), ("12", "2"), ("11", "1"), ("1122", "2")],
)
def test_an_answer_is_of_the_version_that_most_have(versions: str, expected: str) -> None:
    world = World(*(FakeReplica(str(n), version) for n, version in enumerate(versions)))

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(200))
            assert answer.version == expected
            names = [str(n) for n, version in enumerate(versions) if version == expected]
            assert list(answer.replicas) == names

    run(test())


def test_a_request_begins_anew_when_its_version_goes() -> None:
    async def goes(_: Images) -> None:
        world.gone.add("old")
        old.is_there = False
        raise ReplicaError("connection reset")

    async def new_comes(_: Images) -> None:
        if len(old.pieces) == 3:
            world.add(FakeReplica("new", "v2"))
            old.behaves = goes

    old = FakeReplica("old", behaves=new_comes)
    world = World(old)

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(200))
            assert (answer.version, answer.replicas) == ("v2", ("new",))
            assert answer.probabilities.ravel().tolist() == list(range(200))

    run(test())


def test_a_replica_that_has_another_version_than_it_said_is_not_believed() -> None:
    async def becomes_another(_: Images) -> None:
        liar.version = "v2"

    liar = FakeReplica("liar", behaves=becomes_another)
    world = World(liar, FakeReplica("a"), FakeReplica("b"))

    async def test() -> None:
        async with world.running() as service:
            answer = await service.predict(images(200))
            assert (answer.version, answer.replicas) == ("v1", ("a", "b"))

    run(test())


def test_an_error_of_the_body_comes_out_as_it_was() -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="mine"):
            async with World(FakeReplica("a")).running():
                raise ValueError("mine")

    run(test())


def test_an_error_while_looking_for_replicas_is_not_hidden() -> None:
    async def broken() -> set[str]:
        raise ValueError("a bug")

    async def test() -> None:
        service = ShardedService(broken, FakeReplica, LIMITS)
        with pytest.raises(ValueError, match="a bug"):
            async with service.following():
                await service.until_answering(1)

    run(test())
