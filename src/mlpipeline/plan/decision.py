"""The rule by which a candidate is chosen. It needs figures only: no model, no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlpipeline.errors import SelectionError

RULE = (
    "highest validation accuracy; of equal ones the lower validation loss, then the fewer "
    "parameters, then the first name in the alphabet"
)


@dataclass(frozen=True)
class Decision:
    """Which candidate was chosen, and why."""

    chosen: str
    reason: str
    rule: str
    ranking: list[str]
    """Candidates that could be chosen, best first."""
    rejected: dict[str, str]
    """Candidates that could not, each with the reason."""


def choose(metrics: Mapping[str, Mapping[str, Any]]) -> Decision:
    """Apply the rule to the candidates' metrics. It sees validation figures only.

    Args:
        metrics: The content of each candidate's `metrics.json`, by name.

    Raises:
        SelectionError: No candidate can be chosen.
    """
    rejected = {
        name: f"diverged: its loss was not finite at step {m['diverged_at_step']}"
        for name, m in metrics.items()
        if m["status"] != "trained"
    }
    ranking = sorted(
        metrics.keys() - rejected.keys(),
        key=lambda name: (
            -metrics[name]["validation_accuracy"],
            metrics[name]["validation_loss"],
            metrics[name]["parameters"],
            name,
        ),
    )
    if not ranking:
        reasons = "; ".join(f"{name} {reason}" for name, reason in sorted(rejected.items()))
        raise SelectionError(
            f"no candidate can be selected: {reasons or 'every training failed'}",
            expected="at least one candidate that was trained",
            remedy="lower the learning rate of those that diverged; read the logs of the others",
        )
    best = ranking[0]
    reason = f"validation accuracy {metrics[best]['validation_accuracy']:.2%}"
    if len(ranking) > 1:
        second = ranking[1]
        reason += f", before {second} with {metrics[second]['validation_accuracy']:.2%}"
    return Decision(best, reason, RULE, ranking, rejected)
