"""The batches that a `Batcher` forms, and who gets which answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from mlpipeline.learning.data import images as data_images
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.batching import Array, Batcher
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.predictor import Predictor


class Doubling:
    """Doubles its inputs; remembers its batches by size and first row; can be held up, can fail."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.firsts: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def __call__(self, inputs: Array) -> Array:
        self.sizes.append(len(inputs))
        self.firsts.append(int(inputs[0]))
        self.started.set()
        assert self.gate.wait(10)
        if (inputs < 0).any():
            raise ValueError("negative")
        return inputs * 2


@pytest.fixture
def function() -> Doubling:
    return Doubling()


@pytest.fixture
def batcher(function: Doubling) -> Iterator[Batcher]:
    batcher = Batcher(function, max_batch=4)
    yield batcher
    function.gate.set()
    batcher.close()


async def _behind_a_running_batch(
    batcher: Batcher, function: Doubling, *requests: list[int]
) -> tuple[list[asyncio.Task[Array]], asyncio.Task[Array]]:
    """Hold the model up with one request and queue the others behind it."""
    function.gate.clear()
    running = asyncio.create_task(batcher.run(np.array([0])))
    await asyncio.to_thread(function.started.wait, 10)
    waiting = [asyncio.create_task(batcher.run(np.array(request))) for request in requests]
    await asyncio.sleep(0)  # they are in the queue now
    return waiting, running


def test_a_lone_request_runs_at_once_and_alone(batcher: Batcher, function: Doubling) -> None:
    outputs = asyncio.run(batcher.run(np.array([1, 2])))
    assert outputs.tolist() == [2, 4]
    assert function.sizes == [2]


def test_what_arrives_while_a_batch_runs_becomes_the_next_batch(
    batcher: Batcher, function: Doubling
) -> None:
    async def scenario() -> list[list[int]]:
        waiting, running = await _behind_a_running_batch(batcher, function, [1], [2, 3], [4])
        function.gate.set()
        return [outputs.tolist() for outputs in await asyncio.gather(running, *waiting)]

    assert asyncio.run(scenario()) == [[0], [2], [4, 6], [8]]
    assert function.sizes == [1, 4]


def test_a_batch_never_exceeds_the_limit(batcher: Batcher, function: Doubling) -> None:
    async def scenario() -> list[list[int]]:
        requests = [[1, 1, 1], [2, 2, 2], [3], [4]]
        waiting, running = await _behind_a_running_batch(batcher, function, *requests)
        function.gate.set()
        await running
        return [outputs.tolist() for outputs in await asyncio.gather(*waiting)]

    assert asyncio.run(scenario()) == [[2, 2, 2], [4, 4, 4], [6], [8]]
    assert function.sizes == [1, 3, 4, 1]


def test_a_large_request_is_cut_and_lets_others_between(
    batcher: Batcher, function: Doubling
) -> None:
    large, small = np.arange(10), np.array([100])

    async def scenario() -> list[Array]:
        function.gate.clear()
        first = asyncio.create_task(batcher.run(large))
        await asyncio.to_thread(function.started.wait, 10)
        second = asyncio.create_task(batcher.run(small))
        await asyncio.sleep(0)
        function.gate.set()
        return list(await asyncio.gather(first, second))

    answers = asyncio.run(scenario())
    assert [answer.tolist() for answer in answers] == [(large * 2).tolist(), [200]]
    assert function.firsts[:3] == [0, 4, 100], "the last piece came first"
    assert max(function.sizes) == 4
    assert function.sizes[:2] == [4, 4], "the thread had to wait for the next piece"


def test_a_failing_batch_fails_its_own_requests_only(batcher: Batcher, function: Doubling) -> None:
    async def scenario() -> list[Array | BaseException]:
        waiting, running = await _behind_a_running_batch(batcher, function, [-1], [1, 1, 1], [2])
        function.gate.set()
        return await asyncio.gather(running, *waiting, return_exceptions=True)

    first, failed, beside, later = asyncio.run(scenario())
    assert isinstance(failed, ValueError)
    assert isinstance(beside, ValueError)  # it shared the batch
    assert isinstance(first, np.ndarray)
    assert isinstance(later, np.ndarray)
    assert later.tolist() == [4]


def test_a_cancelled_request_is_not_run_and_harms_nobody(
    batcher: Batcher, function: Doubling
) -> None:
    async def scenario() -> list[int]:
        waiting, running = await _behind_a_running_batch(batcher, function, [1], [2])
        waiting[0].cancel()
        running.cancel()  # while it runs
        await asyncio.sleep(0)
        function.gate.set()
        outputs: list[int] = (await waiting[1]).tolist()
        return outputs

    assert asyncio.run(scenario()) == [4]
    assert function.sizes == [1, 1]


def test_a_large_request_keeps_every_thread_busy() -> None:
    together = threading.Barrier(2)  # it opens only if two batches run at the same time

    def double(inputs: Array) -> Array:
        together.wait(10)
        return inputs * 2

    batcher = Batcher(double, max_batch=4, threads=2)
    outputs = asyncio.run(batcher.run(np.arange(16)))
    batcher.close()
    assert outputs.tolist() == list(range(0, 32, 2))


def test_a_large_request_fails_with_its_first_failing_piece(batcher: Batcher) -> None:
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(batcher.run(np.array([1, 1, 1, 1, 1, -1, 1, 1, 1])))


def test_close_runs_what_is_queued(function: Doubling) -> None:
    batcher = Batcher(function, max_batch=4)

    async def scenario() -> list[int]:
        request = asyncio.create_task(batcher.run(np.array([7])))
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        outputs: list[int] = (await request).tolist()
        return outputs

    assert asyncio.run(scenario()) == [14]


def test_every_one_of_many_callers_gets_its_own_answer(batcher: Batcher) -> None:
    async def scenario() -> None:
        requests = [np.arange(i, i + 1 + i % 6) for i in range(300)]
        answers = await asyncio.gather(*(batcher.run(request) for request in requests))
        for request, outputs in zip(requests, answers, strict=True):
            assert outputs.tolist() == (request * 2).tolist()

    asyncio.run(scenario())


def test_large_images_go_through_the_model_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their activations take memory, whatever the number of images that were asked for at once."""
    monkeypatch.setattr(data_images, "_BATCH_BYTES", 3 * 16)
    sizes: list[int] = []

    def model(images: Images) -> Probabilities:
        sizes.append(len(images))
        return np.zeros((len(images), 2), np.float32)

    async def test() -> None:
        predictor = Predictor("m", PublishedModel("1", "0", ("a", "b"), (4, 4), model))
        probabilities, _ = await predictor.classify(np.zeros((7, 4, 4), np.uint8), None, asked=None)
        assert probabilities.shape == (7, 2)

    asyncio.run(test())
    assert sorted(sizes)[-3:] == [1, 3, 3]  # behind those of one, which were timed


def test_a_quick_request_that_is_alone_is_computed_where_it_is(function: Doubling) -> None:
    threads: list[int] = []

    def double(inputs: Array) -> Array:
        threads.append(threading.get_ident())
        return function(inputs)

    batcher = Batcher(double, max_batch=4)
    own = threading.get_ident()

    async def scenario(*requests: list[int]) -> list[list[int]]:
        threads.clear()
        answers = await asyncio.gather(*(batcher.run(np.array(each)) for each in requests))
        return [answer.tolist() for answer in answers]

    assert asyncio.run(scenario([1])) == [[2]]
    assert own not in threads, "nobody knows yet how long it takes"
    batcher.measure(np.array([0]))
    assert asyncio.run(scenario([1])) == [[2]]
    assert threads == [own]
    assert asyncio.run(scenario([1], [2], [3])) == [[2], [4], [6]]
    assert own not in threads, "they came together"
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(scenario([-1]))
    assert threads == [own]
    batcher.close()


def test_a_quick_request_waits_for_no_batch_whose_client_has_gone(function: Doubling) -> None:
    batcher = Batcher(function, max_batch=4)
    batcher.measure(np.array([0]))
    own: list[int] = []

    async def scenario() -> None:
        function.gate.clear()
        function.started.clear()
        gone = asyncio.create_task(batcher.run(np.arange(8)))
        await asyncio.to_thread(function.started.wait, 10)
        gone.cancel()
        await asyncio.sleep(0)
        quick = asyncio.create_task(batcher.run(np.array([1])))
        for _ in range(3):  # in this thread it would be held up, as the gate is closed
            await asyncio.sleep(0)
        function.gate.set()
        own.extend((await quick).tolist())
        assert (await batcher.run(np.array([2]))).tolist() == [4]

    asyncio.run(scenario())
    batcher.close()
    assert own == [2]


def test_what_takes_longer_is_never_computed_in_the_event_loop(function: Doubling) -> None:
    def slow(inputs: Array) -> Array:
        time.sleep(0.002)
        assert threading.current_thread() is not threading.main_thread() or len(inputs) == 1
        return function(inputs)

    batcher = Batcher(slow, max_batch=4)
    batcher.measure(np.array([0]))
    assert asyncio.run(batcher.run(np.array([1, 2]))).tolist() == [2, 4]
    batcher.close()
