"""What a run on this machine does next: the two policies by which the walker goes.

    synchronous   ingest ──► train × candidates ──► select ──► gate ──► canary ──► serve ──► verify

    asynchronous  ingest ──► train × candidates
                             after each: select among those so far ──► gate ──► canary ──► …

In the asynchronous mode a better candidate takes the place of what is served by a rolling update.
What is served in the end is what a synchronous run selects, where the gate lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable

from mlpipeline.backends.local.service import Service
from mlpipeline.backends.local.walker import Ended
from mlpipeline.errors import TrainingError
from mlpipeline.plan import pipeline, succession
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import CANARY, GATE, SELECT, SERVE, VERIFY, Task
from mlpipeline.store.layout import Workspace

_PUBLISHING = (SELECT, GATE, CANARY, SERVE, VERIFY)


class Synchronous:
    """Selects among all candidates that could be trained, once all trainings have ended."""

    def __init__(self, config: Config) -> None:
        """Prepare the policy of one run.

        Args:
            config: The configuration.
        """
        self._config = config

    def graph(self, ended: Ended) -> dict[str, Task]:
        """Return the plan without the candidates that failed.

        Args:
            ended: What has become of the tasks so far.

        Raises:
            TrainingError: All candidates failed.
        """
        return _without_failed(self._config, ended)


class Asynchronous:
    """Publishes the best candidate so far after each training; several at a time are one."""

    def __init__(
        self, config: Config, workspace: Workspace, service: Service, say: Callable[[str], None]
    ) -> None:
        """Prepare the policy of one run.

        Args:
            config: The configuration.
            workspace: The folder of all artifacts.
            service: What serves.
            say: Called with each decision and its reason.
        """
        self._config, self._workspace, self._service, self._say = config, workspace, service, say
        self._publication: dict[str, Task] = {}
        self._judged: set[Task] = set()
        self._is_last = False

    def graph(self, ended: Ended) -> dict[str, Task]:
        """Return ingestion, trainings, and the publication of the best so far, if it is due.

        Args:
            ended: What has become of the tasks so far.

        Raises:
            TrainingError: All candidates failed.
            SelectionError: All were trained, and none can be selected.
            ProcessError: A replica has ended by itself.
        """
        tasks = _without_failed(self._config, ended)
        if ended.done.issuperset(self._publication.values()):
            self._service.check()
            self._publish_if_due(tasks, ended)
        trainings = {n: t for n, t in tasks.items() if t.step not in _PUBLISHING}
        return trainings | self._publication

    def _publish_if_due(self, tasks: dict[str, Task], ended: Ended) -> None:
        trainings = [task for task in tasks.values() if task.candidate]
        trained = {task for task in trainings if task in ended.done}
        is_last = len(trained) + len(ended.failed) == len(trainings)
        if not self._is_last and (is_last or trained - self._judged):
            self._judged, self._is_last = trained, is_last
            self._publication = self._choose(tasks)

    def _choose(self, tasks: dict[str, Task]) -> dict[str, Task]:
        """Return what is to be published now; nothing where what is served stays the best."""
        judgement = succession.judge(
            self._config, self._workspace, self._service.version, last=self._is_last
        )
        self._say(f"  {judgement.reason}")
        if judgement.replaces:
            others = self._config.candidates.keys() - set(judgement.among)
            chosen = pipeline.plan(self._config, without=others)
            return {step.name: chosen[step.name] for step in _PUBLISHING if step.name in chosen}
        # The decision among all of them is for the report.
        return {SELECT.name: tasks[SELECT.name]} if self._is_last else {}


def _without_failed(config: Config, ended: Ended) -> dict[str, Task]:
    failed = {str(task.candidate): error for task, error in ended.failed.items()}
    if len(failed) == len(config.candidates):
        raise TrainingError(
            "every candidate failed:\n"
            + "\n".join(f"  {name}: {error.got}" for name, error in failed.items()),
            expected="at least one candidate that can be trained",
            remedy="read the messages above",
        )
    return pipeline.plan(config, without=failed)
