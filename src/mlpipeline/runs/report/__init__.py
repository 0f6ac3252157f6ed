"""The report of a run: one HTML page that needs nothing but itself, whatever became of the run.

    run.json, artifacts ──► evidence ──► measures, figures ──► page.html.j2 ──► report.html

The page holds no script and no outside address, and its content security policy forbids both. It
follows the reader's light or dark setting, so the figures take their colours from the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader

from mlpipeline.runs.report import evidence, figures, formats, measures
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

_MISTAKES_SHOWN = 24
_CLASSES_IN_MATRIX = 25  # more do not fit a page; the list of confusions beside it takes over


def write(workspace: Workspace, run: Mapping[str, Any]) -> Path:
    """Write the report of a run, and the same as the workspace's latest.

    Args:
        workspace: The folder that holds all artifacts.
        run: The content of `runs/<run>/run.json`.

    Returns:
        The run's own copy; `report.html` in the workspace is overwritten by the next run.
    """
    page = build(workspace, run)
    own = workspace.run(str(run["run"])).report
    artifacts.write_text(own, page)
    artifacts.write_text(workspace.report, page)
    return own


def build(workspace: Workspace, run: Mapping[str, Any]) -> str:
    """Return the page. What a run did not get to, or what is damaged, is left out and said."""
    found = evidence.collect(workspace, run)
    # Names and messages come from the user's files, so everything is escaped.
    environment = Environment(
        loader=PackageLoader("mlpipeline.runs.report", ""),
        autoescape=True,
        undefined=ChainableUndefined,  # what a run did not get to is shown as a dash
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= formats.FILTERS
    template = environment.get_template("page.html.j2")
    return template.render(
        found=found,
        run=run,
        curves=figures.learning_curves(found.candidates),
        quality=_quality(found),
        mistakes=[
            (figures.picture(mistake.image), mistake)
            for mistake in found.mistakes[:_MISTAKES_SHOWN]
        ],
        series=figures.SERIES,
        fewest_in_bin=figures.FEWEST_IN_BIN,
    )


def _quality(found: evidence.Evidence) -> dict[str, Any] | None:
    """Everything that is computed from the chosen model's answers on the test split."""
    answers = found.answers
    if answers is None:
        return None
    classes = answers.probabilities.shape[1]
    matrix = measures.confusion_matrix(answers.labels, answers.predicted, classes)
    calibration = measures.calibrate(answers.probabilities, answers.labels)
    hits, images = int(matrix.trace()), int(matrix.sum())
    return {
        "images": images,
        "hits": hits,
        "accuracy": hits / images,
        "interval": measures.wilson_interval(hits, images),
        "matrix": matrix.tolist() if classes <= _CLASSES_IN_MATRIX else None,
        "confusions": measures.confusions(matrix),
        "classes": measures.per_class(matrix),
        "calibration": calibration,
        "reliability": figures.reliability(calibration),
    }
