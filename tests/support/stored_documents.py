"""Documents of a workspace with everything in them, of which a test says what matters to it."""

from __future__ import annotations

from typing import Any

from mlpipeline.store.schemas.candidate import Metrics
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.look import LoggedVersion, Look, Looked, LookFigure, Spread
from mlpipeline.store.schemas.run import Verification
from mlpipeline.store.schemas.selection import ComparedCandidate, Decision, ModelCard, TestFigures


def dataset_card(**others: Any) -> DatasetCard:
    """Return the card of a data set; `others` replace what it says otherwise."""
    counts = {"train": 1_000, "validation": 100, "test": 200}
    content: dict[str, Any] = {
        "name": "own",
        "source": "drawn",
        "synthetic": True,
        "digest": "0" * 64,
        "seed": 17,
        "classes": ("dark", "bright"),
        "shape": (4, 5),
        "counts": counts,
        "per_class": {split: (count // 2,) * 2 for split, count in counts.items()},
        "shards": dict.fromkeys(counts, ()),
    }
    return DatasetCard(**content | others)


def metrics(accuracy: float | None = 0.9, **others: Any) -> Metrics:
    """Return the metrics of a candidate; `others` replace what it says otherwise."""
    content: dict[str, Any] = {
        "candidate": "cnn",
        "status": "trained",
        "validation_accuracy": accuracy,
        "validation_loss": 0.3,
        "parameters": 10,
    }
    return Metrics(**content | others)


def decision(keys: dict[str, str], **others: Any) -> Decision:
    """Return the decision among candidates, of which the first was chosen.

    Args:
        keys: The candidates' keys by their names.
        others: What it says otherwise.
    """
    candidates = {
        name: ComparedCandidate(key=key, **dict(metrics(candidate=name)))
        for name, key in keys.items()
    }
    content: dict[str, Any] = {
        "chosen": next(iter(keys), ""),
        "reason": "validation accuracy 90.00%",
        "rule": "highest validation accuracy",
        "ranking": tuple(keys),
        "rejected": {},
        "name": "shirts",
        "version": "shirts-1",
        "candidates": candidates,
        "dataset": "ingest-1",
        "test": TestFigures(images=100, hits=90, accuracy=0.9),
    }
    return Decision(**content | others)


def model_card(**others: Any) -> ModelCard:
    """Return the card of a model; `others` replace what it says otherwise."""
    content: dict[str, Any] = {
        "name": "shirts",
        "version": "shirts-1",
        "classes": ("dark", "bright"),
        "candidate": "cnn",
        "candidate_key": "cnn-1",
        "dataset_key": "ingest-1",
        "synthetic_data": True,
        "validation_accuracy": 0.9,
        "test_accuracy": 0.9,
    }
    return ModelCard(**content | others)


def verification(*replicas: str) -> Verification:
    """Return the figures of a verification that some replicas have answered."""
    return Verification(replicas=replicas, protocols=())


def look(**others: Any) -> Look:
    """Return a look that found drift in one of two figures; `others` replace what it says."""
    first, last = (f"2026-11-24T0{hour}:00:00+00:00" for hour in (8, 9))
    images = {"asked": (30, 70), "validation": (500, 500)}
    spread = Spread(quarter=0.7, half=0.8, three_quarters=0.9)
    figures = (
        ("predicted classes", "population stability index", 0.17, 0.0002, True),
        ("confidence", "population stability index", 0.02, 0.5, False),
    )
    content: dict[str, Any] = {
        "model": "shirts",
        "version": "shirts-1",
        "time": "2026-11-24T10:00:00+00:00",
        "first": first,
        "last": last,
        "classes": ("dark", "bright"),
        "false_alarms": 0.01,
        "figures": tuple(
            LookFigure(
                what=what, measure=measure, value=value, limit=0.1, chance=chance, is_drift=drift
            )
            for what, measure, value, chance, drift in figures
        ),
        "logged": tuple(
            LoggedVersion(version=f"shirts-{n}", images=images, first=first, last=last)
            for n, images in ((1, 90), (0, 30))
        ),
    } | {
        name: Looked(images=sum(counts), predicted=counts, spreads={"confidence": spread})
        for name, counts in images.items()
    }
    return Look(**content | others)
