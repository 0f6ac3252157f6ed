"""The versions of models, for people: figures, which was current when, or held back, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from mlpipeline.errors import ArtifactError, ServingError
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.history import Change, HeldBack, ModelHistory
from mlpipeline.store.schemas.selection import ModelCard


@dataclass(frozen=True)
class Version:
    """A version of a model.

    Attributes:
        version: The version.
        card: What it is; None where that cannot be read, or the version was removed.
        served: When it was current last, in words; of one that never was, that it was held back.
        is_current: Whether it is.
    """

    version: str
    card: ModelCard | None
    served: str
    is_current: bool


def tables(workspace: Workspace, model: str = "") -> Iterator[Table]:
    """Yield the tables of each model: its versions, the changes, and what was held back.

    Args:
        workspace: The folder of all artifacts.
        model: The name of the one model to show; empty for all.

    Raises:
        ServingError: There is no such model, or none at all.
        ArtifactError: A history is damaged, or which version is current cannot be read.
    """
    names = workspace.model_names()
    if (model and model not in names) or not names:
        raise ServingError(
            f"there is no model{f' `{model}`' if model else ''} in {workspace}",
            expected=f"one of {', '.join(names)}" if names else "one that a run has made",
            remedy="name one of these" if names else "run the pipeline first: `make run`",
        )
    for name in [model] if model else names:
        known = history.read(workspace, name)
        yield _of_versions(name, versions(workspace, name, known))
        if known.changes:
            yield _with_reasons("changed (UTC)", "to", known.changes)
        if known.held_back:
            yield _with_reasons("held back (UTC)", "version", known.held_back)


def versions(workspace: Workspace, name: str, known: ModelHistory) -> list[Version]:
    """Return the versions of a model: those that were current, the last one first, then the others.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        known: Which of them were current, or held back.
    """
    were_current = [change.version for change in reversed(known.changes)]
    current = were_current[0] if history.pointed_at(workspace, name) else ""
    return [
        Version(
            version,
            card=_card(workspace, name, version),
            served=_served(version, known),
            is_current=version == current,
        )
        for version in dict.fromkeys([*were_current, *workspace.versions(name)])
    ]


def _card(workspace: Workspace, name: str, version: str) -> ModelCard | None:
    try:
        return ModelCard.load(workspace.model(name, version).card)
    except ArtifactError:
        return None


def _served(version: str, known: ModelHistory) -> str:
    changes = known.changes
    ends = [*(change.time for change in changes[1:]), ""]
    periods = [(c.time, end) for c, end in zip(changes, ends, strict=False) if c.version == version]
    if not periods:
        held_by = [held.by for held in known.held_back if held.version == version]
        return f"never, held back by the {held_by[-1]}" if held_by else "never"
    since, until = periods[-1]
    return f"{_moment(since)} to {_moment(until)}" if until else f"since {_moment(since)}"


def _moment(time: str) -> str:
    """A time of a history as people read it; all of them are UTC."""
    return time[:19].replace("T", " ")


def _of_versions(name: str, listed: Sequence[Version]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(name, no_wrap=True)
    table.add_column("candidate")
    for heading in ("validation", "test"):
        table.add_column(heading, justify="right")
    table.add_column("current (UTC)")
    for one in listed:
        card = one.card
        table.add_row(
            Text(one.version),
            Text(card.candidate if card else "gone or damaged"),
            f"{card.validation_accuracy:.2%}" if card else "",
            f"{card.test_accuracy:.2%}" if card else "",
            one.served,
            style="bold" if one.is_current else "",
        )
    return table


def _with_reasons(when: str, which: str, entries: Sequence[Change | HeldBack]) -> Table:
    """A table of what a history says, the newest first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (when, which, "why"):
        table.add_column(heading, no_wrap=True)
    for entry in reversed(entries):
        # What people say is theirs: no markup, nothing that a terminal would obey.
        said = "".join(letter if letter.isprintable() else " " for letter in entry.reason)
        table.add_row(_moment(entry.time), Text(entry.version), Text(said))
    return table
