"""A replica's part in a trial: clients get good answers, whatever the challenger does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from mlpipeline.serving import trial as trials
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.http_replica import Answer
from mlpipeline.serving.sharding import RefusalError, ReplicaError
from mlpipeline.serving.trial import Trial
from mlpipeline.serving.trial_metrics import TrialMetrics
from mlpipeline.store.schemas.rollout import TrialOrder

ORDER = TrialOrder(
    token="t",
    mode="canary",
    champion="old",
    challenger="new",
    address="nowhere:1",
    share=0.25,
    timeout_seconds=0.05,
    until=0,
    report_to="nowhere:2",
)
IMAGE = np.zeros((1, 2, 2), np.uint8)
Ask = Callable[[Images], Coroutine[Any, Any, Answer]]


def _probabilities(images: Images, place: int = 0) -> Probabilities:
    found = np.zeros((len(images), 3), np.float32)
    found[:, place] = 1
    return found


async def _champion(images: Images) -> Probabilities:
    await asyncio.sleep(0)
    return _probabilities(images)


async def _same(images: Images) -> Answer:
    await asyncio.sleep(0)
    return Answer(_probabilities(images), "new", 0.004)


async def _wrong(images: Images) -> Answer:
    return Answer(_probabilities(images, 2), "new", 0.004)


async def _hangs(images: Images) -> Answer:
    await asyncio.sleep(3_600)
    raise AssertionError


async def _gone(images: Images) -> Answer:
    raise ReplicaError("connection refused")


async def _refuses(images: Images) -> Answer:
    raise RefusalError("images of another shape")


async def _of_another_version(images: Images) -> Answer:
    return Answer(_probabilities(images), "newer", 0.004)


async def _not_a_number(images: Images) -> Answer:
    return Answer(_probabilities(images) * np.nan, "new", 0.004)


async def _two_classes(images: Images) -> Answer:
    return Answer(_probabilities(images)[:, :2], "new", 0.004)


async def _logits(images: Images) -> Answer:
    return Answer(_probabilities(images) * 900 - 5, "new", 0.004)


async def _too_few(images: Images) -> Answer:
    return Answer(_probabilities(images)[:-1], "new", 0.004)


class _Challenger:
    def __init__(self, answer: Ask) -> None:
        self._answer = answer
        self.is_closed = False

    async def ask(self, images: Images) -> Answer:
        return await self._answer(images)

    async def close(self) -> None:
        self.is_closed = True


def _trial(answer: Ask, **changes: Any) -> Trial:
    order = ORDER.model_copy(update=changes)
    return Trial(order, _Challenger(answer), _champion, "replica-0", classes=3)


async def _send(trial: Trial, count: int, images: Images = IMAGE) -> list[str]:
    """Send requests one after the other; return the versions that have answered."""
    versions = []
    for _ in range(count):
        probabilities, version = await trial.answer(images, {})
        assert probabilities.shape == (len(images), 3)
        assert np.isfinite(probabilities).all()
        versions.append(version)
    await _compared(trial)
    return versions


async def _compared(trial: Trial) -> None:
    while trial._comparisons:
        await asyncio.sleep(0.001)


FAULTS = [_hangs, _gone, _refuses, _of_another_version, _not_a_number, _too_few]
FAULTS += [_two_classes, _logits]


def test_a_canary_answers_its_share_and_is_compared() -> None:
    async def work() -> None:
        trial = _trial(_same)
        versions = await _send(trial, 400)
        assert versions.count("new") == 100
        figures = trial.figures()
        assert (figures.requests, figures.tried, figures.failed) == (400, 100, 0)
        assert (figures.images, figures.agreed, figures.dropped) == (100, 100, 0)
        assert (sum(figures.champion_times), sum(figures.challenger_times)) == (300, 100)
        await trial.close()

    asyncio.run(work())


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5])
@pytest.mark.parametrize("answer", [_same, _wrong, *FAULTS])
def test_a_challenger_never_answers_more_than_its_share(answer: Ask, share: float) -> None:
    async def work() -> None:
        trial = _trial(answer, share=share, timeout_seconds=0.002)
        answered = asked = 0

        async def request() -> None:
            nonlocal answered, asked
            asked += 1
            _, version = await trial.answer(IMAGE, None)
            answered += version == "new"
            assert answered <= share * asked

        dice = random.Random(7)
        waiting = set()
        for _ in range(200):
            waiting.add(asyncio.create_task(request()))
            if dice.random() < 0.3:
                await asyncio.wait(waiting)
                waiting.clear()
        await asyncio.gather(*waiting)
        await trial.close()

    asyncio.run(work())


@pytest.mark.parametrize("answer", FAULTS)
def test_what_a_challenger_does_not_answer_the_champion_does_and_soon_it_is_not_asked(
    answer: Ask,
) -> None:
    async def work() -> None:
        trial = _trial(answer)
        assert set(await _send(trial, 100)) == {"old"}
        figures = trial.figures()
        assert figures.tried == figures.failed == trials.FAILURES_IN_A_ROW
        assert figures.stopped.startswith("5 failures in a row, the last one: ")
        await trial.close()

    asyncio.run(work())


def test_some_failures_do_not_end_it() -> None:
    async def work() -> None:
        calls = 0

        async def sometimes(images: Images) -> Answer:
            nonlocal calls
            calls += 1
            return await (_gone(images) if calls % 5 else _same(images))

        trial = _trial(sometimes)
        versions = await _send(trial, 400)
        assert versions.count("new") == 20
        assert (trial.figures().failed, trial.figures().stopped) == (80, "")

    asyncio.run(work())


@pytest.mark.parametrize("answer", [_same, _wrong, *FAULTS])
def test_nobody_sees_what_a_shadow_says(answer: Ask) -> None:
    async def work() -> None:
        trial = _trial(answer, mode="shadow", timeout_seconds=0.002)
        headers: dict[str, str] = {}
        for _ in range(40):
            probabilities, version = await trial.answer(IMAGE, headers)
            assert version == "old"
            assert int(probabilities.argmax()) == 0
        await _compared(trial)
        assert not headers
        assert 0 < trial.figures().tried <= 10

    asyncio.run(work())


def test_a_shadow_that_hangs_delays_no_answer_and_what_waits_is_bounded() -> None:
    async def work() -> None:
        trial = _trial(_hangs, mode="shadow", share=1.0, timeout_seconds=60)
        async with asyncio.timeout(5):
            for _ in range(1_000):
                await trial.answer(IMAGE, None)
        figures = trial.figures()
        assert figures.tried + figures.dropped == 1_000
        assert figures.tried <= 64
        await trial.close()

    asyncio.run(work())


def test_large_images_that_wait_are_bounded_by_their_bytes() -> None:
    async def work() -> None:
        trial = _trial(_hangs, mode="shadow", share=1.0, timeout_seconds=60)
        for _ in range(20):
            await trial.answer(np.zeros((4, 1_000, 1_000), np.uint8), None)
            await asyncio.sleep(0)
        assert trial.figures().tried <= 9
        await trial.close()

    asyncio.run(work())


def test_one_that_says_something_else_is_seen_to() -> None:
    async def work() -> None:
        for mode in ("canary", "shadow"):
            trial = _trial(_wrong, mode=mode)
            await _send(trial, 40, np.zeros((3, 2, 2), np.uint8))
            assert (trial.figures().images, trial.figures().agreed) == (30, 0)

    asyncio.run(work())


def test_a_request_of_many_images_is_not_tried() -> None:
    async def work() -> None:
        trial = _trial(_same, share=0.5)
        many = np.zeros((trials.MOST_IMAGES + 1, 2, 2), np.uint8)
        assert set(await _send(trial, 20, many)) == {"old"}
        assert trial.figures().requests == 0

    asyncio.run(work())


def test_an_error_of_the_champion_is_the_clients_and_one_while_comparing_is_nobodys() -> None:
    async def work() -> None:
        fails = True

        async def champion(images: Images) -> Probabilities:
            if fails:
                raise RuntimeError("the model has failed")
            return _probabilities(images)

        order = ORDER.model_copy(update={"share": 0.5})
        trial = Trial(order, _Challenger(_same), champion, "replica-0", classes=3)
        with pytest.raises(RuntimeError, match="the model has failed"):
            await trial.answer(IMAGE, None)
        _, version = await trial.answer(IMAGE, None)
        assert version == "new"
        await _compared(trial)
        assert trial.figures().images == 0

    asyncio.run(work())


def test_metrics_tell_of_the_trial_that_goes_on() -> None:
    async def work() -> None:
        trial = _trial(_wrong)
        metrics = TrialMetrics("shirts", lambda: trial)
        await _send(trial, 40)
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in metrics.collect()
            for sample in family.samples
        }
        about = ("shirts", "new", "canary")
        assert samples == {
            ("mlpipeline_trial_requests_total", *about, "answered"): 10,
            ("mlpipeline_trial_requests_total", *about, "failed"): 0,
            ("mlpipeline_trial_images_total", *about, "same"): 0,
            ("mlpipeline_trial_images_total", *about, "other"): 10,
        }

    asyncio.run(work())
    none = TrialMetrics("shirts", lambda: None)
    assert [family.samples for family in none.collect()] == [[], []]


def test_requests_at_once_are_no_more_than_their_share_of_a_shadow_either() -> None:
    async def work() -> None:
        trial = _trial(_same, mode="shadow", share=0.1)
        await asyncio.gather(*(trial.answer(IMAGE, None) for _ in range(200)))
        await _compared(trial)
        assert trial.figures().tried == 20

    asyncio.run(work())


def test_what_a_challenger_was_asked_for_a_client_is_waited_for_at_the_end() -> None:
    async def slow(images: Images) -> Answer:
        await asyncio.sleep(0.02)
        return Answer(_probabilities(images), "new", 0.02)

    async def work() -> None:
        challenger = _Challenger(slow)
        order = ORDER.model_copy(update={"share": 1.0, "timeout_seconds": 5})
        trial = Trial(order, challenger, _champion, "replica-0", classes=3)
        request = asyncio.create_task(trial.answer(IMAGE, None))
        await asyncio.sleep(0.005)
        await trial.close()
        assert challenger.is_closed
        assert request.done()
        assert (await request)[1] == "new"
        assert (await trial.answer(IMAGE, None))[1] == "old", "it is over"

    asyncio.run(work())


def test_an_error_that_nobody_thought_of_is_a_failure_of_the_challenger() -> None:
    async def breaks(images: Images) -> Answer:
        raise RuntimeError("the client has been closed")

    async def work() -> None:
        trial = _trial(breaks)
        assert set(await _send(trial, 40)) == {"old"}
        assert "the client has been closed" in trial.figures().failure

    asyncio.run(work())


def test_a_client_that_does_not_wait_is_a_failure_of_one_that_hangs() -> None:
    async def work() -> None:
        trial = _trial(_hangs, share=1.0, timeout_seconds=60)
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await trial.answer(IMAGE, None)
        figures = trial.figures()
        assert figures.failed == figures.tried == trials.FAILURES_IN_A_ROW
        assert figures.stopped.endswith("a client has not waited for it")
        await trial.close()

    asyncio.run(work())


def test_what_is_ended_with_the_trial_is_no_failure() -> None:
    async def work() -> None:
        trial = _trial(_hangs, mode="shadow", share=1.0, timeout_seconds=60)
        await trial.answer(IMAGE, None)
        await asyncio.sleep(0.005)
        await trial.close()
        assert trial.figures().failed == 0

    asyncio.run(work())
