"""Walks a graph of tasks: each is begun as soon as all that it needs is done.

The graph may change while it is walked, because a candidate failed or a better one was trained: a
`Policy` says what it is, and is asked again whenever a task has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mlpipeline.backends.local import processes
from mlpipeline.errors import ProcessError
from mlpipeline.plan.pipeline import Task


@dataclass(frozen=True)
class Ended:
    """What has become of the tasks that were begun."""

    done: set[Task] = field(default_factory=set)
    failed: dict[Task, ProcessError] = field(default_factory=dict)
    """Tasks of a candidate that failed, with why: the others go on without it."""


class Policy(Protocol):
    """Says what is to be done."""

    def graph(self, ended: Ended) -> Mapping[str, Task]:
        """Return all tasks that are to be done by now, by name, those that have ended included.

        Args:
            ended: What has become of the tasks so far.

        Raises:
            PipelineError: There is no going on.
        """
        ...


Work = Callable[[Task, Mapping[str, Task]], Awaitable[None]]
"""Carries out a task of a graph."""


async def walk(policy: Policy, work: Work) -> None:
    """Carry out all tasks, in parallel where the graph allows it, until none is left.

    Args:
        policy: Says what the graph is.
        work: Carries out one task. An equal task is carried out once.

    Raises:
        Exception: What the policy raised, or a task: then the other tasks are cancelled. Only a
            `ProcessError` of a task that belongs to one candidate is left to the policy.
    """
    ended, begun, change = Ended(), set[Task](), asyncio.Event()

    async def carry_out(task: Task, tasks: Mapping[str, Task]) -> None:
        try:
            await work(task, tasks)
        except ProcessError as error:
            if task.candidate is None:
                raise
            ended.failed[task] = error
        else:
            ended.done.add(task)
        change.set()

    async with processes.together() as group:
        while True:
            tasks = policy.graph(ended)
            for task in tasks.values():
                if task not in begun and all(tasks[need] in ended.done for need in task.needs):
                    begun.add(task)
                    group.create_task(carry_out(task, tasks))
            if len(begun) == len(ended.done) + len(ended.failed):
                return
            await change.wait()
            change.clear()
