"""The report of a run: one HTML page that needs nothing but itself, whatever became of the run.

    run.json, artifacts ──► evidence ──► measures, figures ──► page.html.j2 ──► report.html

The page holds no script and no outside address, and its content security policy forbids both. It
follows the reader's light or dark setting, so the figures take their colours from the page.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from mlpipeline.runs.report import evidence, figures, formats, measures
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run

_MISTAKES_SHOWN = 24
_CLASSES_IN_MATRIX = 25  # more do not fit a page with names and numbers: colours alone show them
_CELLS_IN_MAP = 200  # more are too small to be seen, and neighbouring classes are joined
_WEAKEST_SHOWN = 20  # of more classes than fit; all of them can be unfolded
_NAMES_SHOWN = 30
_FROM_RUN = "../../"  # from the folder of a run to the workspace


def write(workspace: Workspace, run: Run) -> Path:
    """Write the report of a run, and the same as the workspace's latest.

    Args:
        workspace: The folder of all artifacts.
        run: The record of the run.

    Returns:
        The run's own copy; `report.html` in the workspace is overwritten by the next run.
    """
    page = build(workspace, run)
    own = workspace.run(run.run).report
    artifacts.write_text(own, page)
    artifacts.write_text(workspace.report, page.replace(f'href="{_FROM_RUN}', 'href="'))
    return own


def build(workspace: Workspace, run: Run) -> str:
    """Return the page. What a run did not get to, or what is damaged, is left out and said.

    Args:
        workspace: The folder of all artifacts.
        run: The record of the run.
    """
    collected = evidence.collect(workspace, run)
    return formats.template("page.html.j2").render(
        evidence=collected,
        run=run,
        curves=figures.learning_curves(collected.candidates),
        quality=_quality(collected),
        mistakes=[
            (figures.picture(mistake.image), mistake)
            for mistake in collected.mistakes[:_MISTAKES_SHOWN]
        ],
        series=figures.SERIES,
        fewest_in_bin=figures.FEWEST_IN_BIN,
        names_shown=_NAMES_SHOWN,
        model_card=_model_card(workspace, collected),
        from_run=_FROM_RUN,
    )


def _model_card(workspace: Workspace, collected: evidence.Evidence) -> str:
    """Where the card of what was selected is, below the workspace; empty where there is none."""
    if (decision := collected.decision) is None:
        return ""
    page = workspace.model(decision.name, decision.version).page
    return page.relative_to(workspace.root).as_posix() if page.exists() else ""


def _quality(collected: evidence.Evidence) -> dict[str, Any] | None:
    """Everything that is computed from the chosen model's predictions for the test split."""
    predictions = collected.predictions
    if predictions is None:
        return None
    classes = predictions.probabilities.shape[1]
    matrix = measures.confusion_matrix(predictions.labels, predictions.predicted, classes)
    calibration = measures.calibrate(predictions.probabilities, predictions.labels)
    hits, images = int(matrix.trace()), int(matrix.sum())
    has_room = classes <= _CLASSES_IN_MATRIX
    per_class = measures.per_class(matrix)
    mapped = measures.coarse(matrix, _CELLS_IN_MAP)
    known = [row.f1 for row in per_class if row.f1 is not None]
    return {
        "images": images,
        "hits": hits,
        "accuracy": hits / images,
        "interval": measures.wilson_interval(hits, images),
        "matrix": matrix.tolist() if has_room else None,
        "map": None if has_room else figures.heat_map(mapped),
        "joined": -(-classes // len(mapped)),
        "confusions": measures.confusions(matrix, most=8 if has_room else 20),
        "classes": per_class if has_room else per_class[:_WEAKEST_SHOWN],
        "all_classes": [] if has_room else per_class,
        "median_f1": statistics.median(known) if known else None,
        "below_half": sum(f1 < 0.5 for f1 in known),
        "calibration": calibration,
        "reliability": figures.reliability(calibration),
    }
