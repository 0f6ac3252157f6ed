"""The way back from a model's version: to the run, the candidate, the data and the code.

What led to what is read from the runs' OpenLineage events, what is in an artifact from itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.tree import Tree

from mlpipeline.errors import ArtifactError
from mlpipeline.plan.pipeline import CANDIDATE, DATASET, MODEL
from mlpipeline.store import artifacts, registry
from mlpipeline.store.files import parse_json
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.selection import ModelCard


@dataclass(frozen=True)
class Making:
    """The task that made an artifact, as its COMPLETE event says."""

    run: str
    time: str
    seconds: str
    retries: str
    module: str
    code: str
    source: str

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Making | None:
        """Read an event; None if it is not of a task that made something."""
        tags = {tag["key"]: tag["value"] for tag in _facet(event["run"], "tags").get("tags", ())}
        if event["eventType"] != "COMPLETE" or tags.get("state") != "succeeded":
            return None
        code = _facet(event["job"], "sourceCodeLocation")
        return cls(
            run=tags["run"],
            time=event["eventTime"],
            seconds=tags.get("seconds", "?"),
            retries=tags.get("retries", "0"),
            module=code.get("url", "").rpartition(":")[2],
            code=code.get("version", ""),
            source=code.get("tag") or "",
        )


@dataclass
class Origins:
    """Who made which artifact, out of all runs of a workspace."""

    makers: dict[str, Making] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    """What could not be read, each with its file and line."""

    @classmethod
    def read(cls, workspace: Workspace) -> Origins:
        """Read the events of all runs. Of several that made the same, the last one counts."""
        origins = cls()
        for folder in workspace.runs():
            file = folder.lineage
            try:
                lines = file.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            except OSError as error:
                origins.damaged.append(f"{file}: {error.strerror}")
                continue
            for number, line in enumerate(lines, 1):
                try:
                    origins._add(parse_json(line.decode()))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    origins.damaged.append(f"{file}, line {number}: {error!r}")
        return origins

    def _add(self, event: Mapping[str, Any]) -> None:
        making = Making.of(event)
        for output in event["outputs"] if making else ():
            before = self.makers.get(output["name"])
            if making and (before is None or before.time <= making.time):
                self.makers[output["name"]] = making


def trace(workspace: Workspace, version: str) -> tuple[Tree, list[str]]:
    """Return where a version of a model came from, and what of that could not be read.

    Raises:
        ServingError: No model has this version.
        ArtifactError: The model is damaged.
    """
    folder = registry.find(workspace, version)
    model = ModelCard.load(folder.card)
    origins = Origins.read(workspace)
    tree = Tree(f"{model.name}, version {version}")
    tree.add(f"test accuracy {model.test_accuracy:.2%}")
    tree.add(f"digest {artifacts.digest(folder.path)}")
    _say_who(tree, origins, MODEL.path(version, model.name), "selected")
    candidate = tree.add(f"candidate {model.candidate}, {model.candidate_key}")
    candidate.add(f"validation accuracy {model.validation_accuracy:.2%}")
    _say_who(candidate, origins, CANDIDATE.path(model.candidate_key, model.name), "trained")
    data = candidate.add(f"data set {model.dataset_key}")
    dataset = workspace.dataset(model.dataset_key)
    try:
        for line in _describe(DatasetCard.load(dataset.card)):
            data.add(line)
    except ArtifactError as error:
        origins.damaged.append(error.got)
    _say_who(data, origins, DATASET.path(model.dataset_key, model.name), "ingested")
    return tree, origins.damaged


def _say_who(tree: Tree, origins: Origins, artifact: Path, did: str) -> None:
    making = origins.makers.get(str(artifact))
    if making is None:
        tree.add(f"{did} by no run on record")
        return
    retries = f", {making.retries} retries" if making.retries != "0" else ""
    tree.add(f"{did} by run {making.run}, {making.time[:19]}, in {making.seconds} s{retries}")
    where = f" at {making.source}" if making.source else ""
    tree.add(f"code {making.code[:16]} of {making.module}{where}")


def _describe(card: DatasetCard) -> list[str]:
    lines = [
        f"{sum(card.counts.values()):,} images of {card.name}, from {card.source}",
        f"digest {card.digest}",
    ]
    if card.feedback:
        snapshot, corrections = card.feedback.snapshot, card.feedback.corrections
        lines.append(f"feedback {snapshot}, {corrections} corrections")
    return lines


def _facet(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    facet: Mapping[str, Any] = (of.get("facets") or {}).get(name) or {}
    return facet
