"""The walker: what may begin does, what has failed is left to the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from mlpipeline.backends.local.walker import Ended, walk
from mlpipeline.errors import ProcessError, SelectionError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.pipeline import Task

CONFIG = config.parse(
    {"name": "toy", "candidates": {name: {"model": "cnn"} for name in "abc"}}, origin=""
)


class WithoutFailed:
    """The plan without the candidates that failed."""

    def graph(self, ended: Ended) -> Mapping[str, Task]:
        return pipeline.plan(CONFIG, without={str(task.candidate) for task in ended.failed})


class Work:
    """Notes what begins and ends; each task waits for a few turns of the loop."""

    def __init__(self, errors: Mapping[str, Exception] | None = None) -> None:
        self.events: list[str] = []
        self._errors = errors or {}

    async def __call__(self, task: Task, tasks: Mapping[str, Task]) -> None:
        assert tasks[task.name] == task
        self.events.append(f"+{task.name}")
        if task.name in self._errors:
            raise self._errors[task.name]
        for _ in range(3):
            await asyncio.sleep(0)
        self.events.append(f"-{task.name}")


def _walk(policy: Any, work: Work) -> list[str]:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await walk(policy, work)

    asyncio.run(bounded())
    return work.events


def _broken(*names: str) -> dict[str, Exception]:
    return {name: ProcessError("it broke", expected="", remedy="") for name in names}


def _position(events: list[str], names: Collection[str]) -> list[int]:
    return [events.index(name) for name in names]


def test_each_task_begins_as_soon_as_all_that_it_needs_is_done() -> None:
    events = _walk(WithoutFailed(), Work())
    assert events == [
        *("+ingest", "-ingest"),
        *("+train-a", "+train-b", "+train-c", "-train-a", "-train-b", "-train-c"),
        *("+select", "-select", "+gate", "-gate", "+serve", "-serve", "+verify", "-verify"),
    ]


def test_a_candidate_that_fails_leaves_the_others_going() -> None:
    events = _walk(WithoutFailed(), Work(_broken("train-b")))
    assert "-train-b" not in events
    assert events[-1] == "-verify"
    assert max(_position(events, ["-train-a", "-train-c"])) < events.index("+select")


@pytest.mark.parametrize("task", ["ingest", "select", "verify"])
def test_what_fails_for_all_candidates_ends_the_walk_with_its_own_error(task: str) -> None:
    work = Work(_broken(task))
    with pytest.raises(ProcessError, match="it broke"):
        _walk(WithoutFailed(), work)
    assert work.events[-1] == f"+{task}"


def test_an_error_of_another_kind_cancels_what_runs() -> None:
    work = Work({"train-a": OSError(28, "No space left on device")})
    with pytest.raises(OSError, match="No space left"):
        _walk(WithoutFailed(), work)
    assert "-train-c" not in work.events


def test_what_the_policy_raises_cancels_what_runs() -> None:
    class Doubtful(WithoutFailed):
        def graph(self, ended: Ended) -> Mapping[str, Task]:
            if ended.failed:
                raise SelectionError("none is left", expected="", remedy="")
            return super().graph(ended)

    with pytest.raises(SelectionError, match="none is left"):
        _walk(Doubtful(), Work(_broken("train-b")))


def test_tasks_that_the_policy_adds_are_done_and_an_equal_one_only_once() -> None:
    class Growing:
        """Selects anew after each training, among those that are trained."""

        def graph(self, ended: Ended) -> Mapping[str, Task]:
            trained = {str(t.candidate) for t in ended.done if t.candidate}
            tasks = pipeline.plan(CONFIG, without=set(CONFIG.candidates) - trained)
            wanted = {n: t for n, t in tasks.items() if t.step in (pipeline.INGEST, pipeline.TRAIN)}
            return wanted | ({"select": tasks["select"]} if trained else {})

    events = _walk(Growing(), Work())
    assert 1 <= events.count("+select") <= 3
    assert events.count("+train-a") == events.count("+train-b") == 1
