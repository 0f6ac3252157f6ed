"""The rule by which a candidate is chosen. It needs figures only: no model, no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlpipeline.errors import SelectionError
from mlpipeline.store.schemas.candidate import TrainingFigures

RULE = (
    "highest validation accuracy; of equal ones the lower validation loss, then the fewer "
    "parameters, then the first name in the alphabet"
)


@dataclass(frozen=True)
class Choice:
    """Which candidate was chosen, and why.

    Attributes:
        chosen: The name of the chosen candidate.
        reason: Why it was chosen.
        rule: The rule that was applied.
        ranking: The candidates that could be chosen, best first.
        rejected: The candidates that could not, each with the reason.
    """

    chosen: str
    reason: str
    rule: str
    ranking: tuple[str, ...]
    rejected: dict[str, str]


def choose(candidates: Mapping[str, TrainingFigures]) -> Choice:
    """Apply the rule to the candidates' metrics. It sees validation figures only.

    Args:
        candidates: The figures of each candidate, by name.

    Raises:
        SelectionError: No candidate can be chosen.
    """
    rejected = {
        name: f"diverged: its loss was not finite at step {figures.diverged_at_step}"
        for name, figures in candidates.items()
        if figures.status != "trained"
    }
    trained = {
        name: (_known(figures.validation_accuracy), _known(figures.validation_loss))
        for name, figures in candidates.items()
        if name not in rejected
    }

    def rank(name: str) -> tuple[float, float, int, str]:
        accuracy, loss = trained[name]
        return -accuracy, loss, candidates[name].parameters, name

    ranking = tuple(sorted(trained, key=rank))
    if not ranking:
        reasons = "; ".join(f"{name} {reason}" for name, reason in sorted(rejected.items()))
        raise SelectionError(
            f"no candidate can be selected: {reasons or 'every training failed'}",
            expected="at least one candidate that was trained",
            remedy="lower the learning rate of those that diverged; read the logs of the others",
        )
    best = ranking[0]
    reason = f"validation accuracy {trained[best][0]:.2%}"
    if len(ranking) > 1:
        second = ranking[1]
        reason += f", before {second} with {trained[second][0]:.2%}"
    return Choice(best, reason, RULE, ranking, rejected)


def _known(figure: float | None) -> float:
    assert figure is not None, "a candidate that was trained has its figures"
    return figure
