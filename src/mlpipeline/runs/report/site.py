"""The site of a workspace: one page of all models and runs, which leads to their reports and cards.

It is made anew from what lies in the workspace, holds no script and no outside address, and is as
good on any web server as from the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from mlpipeline.errors import ArtifactError
from mlpipeline.runs import versions
from mlpipeline.runs.report import figures, formats
from mlpipeline.runs.versions import Version
from mlpipeline.store import artifacts, history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.history import ModelHistory
from mlpipeline.store.schemas.run import Run

_LEAST_DRAWN = 2  # one point is no line


@dataclass(frozen=True)
class _Line:
    """A run, or what was left of it.

    Attributes:
        name: Its name.
        report: Where its report is, below the workspace; empty where there is none.
        run: Its record; None where that cannot be read.
        version: What it has served at last, if anything.
        accuracy: What was verified of that.
    """

    name: str
    report: str
    run: Run | None = None
    version: str = ""
    accuracy: float | None = None


@dataclass(frozen=True)
class _Model:
    """A model, with its versions.

    Attributes:
        name: Its name.
        current: The current version; None where there is none.
        versions: All of them, those that were current last first.
        cards: Where their cards are, below the workspace, by version.
        known: Its history; None where it cannot be read.
        problem: Why it cannot be read; empty where it can.
        curve: The accuracy of what runs have served; None where there are too few.
    """

    name: str
    current: Version | None = None
    versions: Sequence[Version] = ()
    cards: dict[str, str] = field(default_factory=dict)
    known: ModelHistory | None = None
    problem: str = ""
    curve: Markup | None = None


def write(workspace: Workspace) -> Path:
    """Write the page; return its path.

    Args:
        workspace: The folder of all artifacts.
    """
    lines = sorted(_lines(workspace), key=_began, reverse=True)
    page = formats.template("site.html.j2").render(
        models=[_model(workspace, name, lines) for name in workspace.model_names()], lines=lines
    )
    artifacts.write_text(workspace.site, page)
    return workspace.site


def _lines(workspace: Workspace) -> Iterable[_Line]:
    for folder in workspace.runs():
        is_there = folder.report.exists()
        report = folder.report.relative_to(workspace.root).as_posix() if is_there else ""
        try:
            run = Run.load(folder.record)
        except ArtifactError:
            yield _Line(folder.run, report)
        else:
            version = run.served[-1].version if run.served else ""
            accuracy = run.verification.accuracy if run.verification and version else None
            yield _Line(folder.run, report, run, version, accuracy)


def _began(line: _Line) -> str:
    """When a run began, as a key to sort by; those that cannot be read come last."""
    return line.run.started if line.run else ""


def _model(workspace: Workspace, name: str, lines: Sequence[_Line]) -> _Model:
    try:
        known = history.read(workspace, name)
        listed = versions.versions(workspace, name, known)
    except ArtifactError as error:
        return _Model(name, problem=error.got)
    pages = {one.version: workspace.model(name, one.version).page for one in listed}
    points = [
        (line.version, line.accuracy)
        for line in reversed(lines)
        if line.run and line.run.name == name and line.accuracy is not None
    ]
    return _Model(
        name,
        current=next((one for one in listed if one.is_current), None),
        versions=listed,
        cards={
            version: page.relative_to(workspace.root).as_posix()
            for version, page in pages.items()
            if page.exists()
        },
        known=known,
        curve=figures.verified(name, points) if len(points) >= _LEAST_DRAWN else None,
    )
