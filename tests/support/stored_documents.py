"""Documents of a workspace with everything in them, of which a test says what matters to it."""

from __future__ import annotations

from typing import Any

from mlpipeline.store.schemas.candidate import Metrics
from mlpipeline.store.schemas.dataset import DatasetCard
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
