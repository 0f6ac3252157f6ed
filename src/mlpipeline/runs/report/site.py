"""The site of a workspace: one page of all models and runs, which leads to their reports and cards.

It is made anew from what lies in the workspace, holds no script and no outside address, and is as
good on any web server as from the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from markupsafe import Markup

from mlpipeline.errors import ArtifactError, MissingArtifactError
from mlpipeline.runs import versions
from mlpipeline.runs.report import figures, formats
from mlpipeline.runs.versions import Version
from mlpipeline.store import artifacts, history, requests
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.history import ModelHistory
from mlpipeline.store.schemas.look import Look
from mlpipeline.store.schemas.run import Run

_LEAST_DRAWN = 2  # one point is no line
_MOST_CLASSES = 20
_Log = Literal["off", "empty", "there", "closed"]


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


class _Share(NamedTuple):
    """How much of the images was predicted to be of one class.

    Attributes:
        name: The class.
        asked: The share of the requests' images.
        validation: That of the validation split.
    """

    name: str
    asked: float
    validation: float


@dataclass(frozen=True)
class _Service:
    """What a model in service was asked: what `mlpipeline drift` has written down of it.

    To look again would take an engine and the model, which nothing that shows work needs, and
    seconds for each model: three of Fashion-MNIST's smallest. And the log may be closed to whoever
    makes the page, because there may be people's pictures in it; what was found has none.

    Attributes:
        look: What was found last; None where nobody has looked, or it cannot be read.
        shares: The predicted classes, of many those that differ most.
        left_out: How many others there are.
        log: What there is to look at, where nobody has.
        problem: Why it cannot be read; empty where it can.
    """

    look: Look | None = None
    shares: Sequence[_Share] = ()
    left_out: int = 0
    log: _Log = "off"
    problem: str = ""


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
        service: What the current version was asked; None where there is none.
    """

    name: str
    current: Version | None = None
    versions: Sequence[Version] = ()
    cards: dict[str, str] = field(default_factory=dict)
    known: ModelHistory | None = None
    problem: str = ""
    curve: Markup | None = None
    service: _Service | None = None


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
    current = next((one for one in listed if one.is_current), None)
    return _Model(
        name,
        current=current,
        versions=listed,
        cards={
            version: page.relative_to(workspace.root).as_posix()
            for version, page in pages.items()
            if page.exists()
        },
        known=known,
        curve=figures.verified(name, points) if len(points) >= _LEAST_DRAWN else None,
        service=_service(workspace, name, current.version, lines) if current else None,
    )


def _service(workspace: Workspace, name: str, version: str, lines: Sequence[_Line]) -> _Service:
    try:
        look = Look.load(workspace.look(name))
    except MissingArtifactError:
        return _Service(log=_log(workspace, name, version, lines))
    except ArtifactError as error:
        return _Service(problem=error.got)
    shares = [
        _Share(label, asked / look.asked.images, known / look.validation.images)
        for label, asked, known in zip(
            look.classes, look.asked.predicted, look.validation.predicted, strict=True
        )
    ]
    if left_out := max(0, len(shares) - _MOST_CLASSES):
        shares.sort(key=lambda share: -abs(share.asked - share.validation))
        shares = shares[:_MOST_CLASSES]
    return _Service(look, shares, left_out)


def _log(workspace: Workspace, name: str, version: str, lines: Sequence[_Line]) -> _Log:
    """What there is to look at. Whether a log is on, the last run that served the version says."""
    try:
        if not requests.is_empty(workspace.requests(name)):
            return "there"
    except PermissionError:
        return "closed"
    runs = (line.run for line in lines if line.run and line.version == version)
    config = next((run.config for run in runs if run.name == name), {})
    return "empty" if config.get("serving", {}).get("log", {}).get("share") else "off"
