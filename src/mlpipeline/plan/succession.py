"""What is to be served when only some candidates are trained: asked after each one's training.

The first candidate that passes the threshold is served, then whatever the rule of selection puts
before it. It sees validation figures only. Nothing is remembered between two questions: what was
trained is in the workspace, and what is served, the caller knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlpipeline.errors import ArtifactError, SelectionError
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.decision import choose
from mlpipeline.plan.pipeline import SELECT, TRAIN, Task
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.candidate import Metrics
from mlpipeline.store.schemas.selection import Decision


@dataclass(frozen=True)
class Succession:
    """What is to be served, and why.

    Attributes:
        among: The candidates whose selection it is, in the configuration's order.
        replaces: Whether it is another model than what is served.
        reason: Why, for people.
    """

    among: tuple[str, ...]
    replaces: bool
    reason: str


def judge(config: Config, workspace: Workspace, served: str, *, last: bool) -> Succession:
    """Say what is to be served, now that some candidates are trained.

    Args:
        config: The configuration.
        workspace: Folder of the artifacts.
        served: The version that is served; empty for none.
        last: Whether no other candidate is going to be trained. Then the threshold does not
            matter: what is served in the end is what a synchronous run selects.

    Raises:
        SelectionError: It is the last time, and no candidate can be selected.
    """
    trainings = {
        str(task.candidate): task
        for task in pipeline.plan(config).values()
        if task.step is TRAIN and task.is_done(workspace)
    }
    metrics = {
        name: Metrics.load(workspace.candidate(task.key).metrics)
        for name, task in trainings.items()
    }
    current = _selected_from(config, workspace, served, trainings)
    try:
        decision = choose(metrics)
    except SelectionError as error:  # all that were trained so far diverged
        if last:
            raise
        return Succession(current, replaces=False, reason=error.got)
    best = decision.chosen
    if current and decision.chosen == choose({name: metrics[name] for name in current}).chosen:
        return Succession(current, replaces=False, reason=f"{best} is served, and stays the best")
    accuracy, threshold = metrics[best].validation_accuracy, config.asynchronous.threshold
    if accuracy is not None and accuracy < threshold and not last:
        reason = f"{best} is the best so far, {accuracy:.2%} is below {threshold:.2%}"
        return Succession(current, replaces=False, reason=reason)
    return Succession(tuple(trainings), replaces=True, reason=f"{best}: {decision.reason}")


def _selected_from(
    config: Config, workspace: Workspace, version: str, trainings: dict[str, Task]
) -> tuple[str, ...]:
    """The candidates that a version was selected from; none if not from this configuration's."""
    if not version:
        return ()
    try:
        decision = Decision.load(workspace.selection(version).decision)
    except ArtifactError:
        return ()
    keys = {candidate.key for candidate in decision.candidates.values()}
    among = tuple(name for name, task in trainings.items() if task.key in keys)
    planned = pipeline.plan(config, without=config.candidates.keys() - set(among))
    return among if among and planned[SELECT.name].key == version else ()
