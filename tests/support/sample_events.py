"""An event of each kind."""

from __future__ import annotations

from typing import Any

PREDICT: dict[str, Any] = {
    "kind": "predict",
    "id": "monday",
    "model": "shirts",
    "folder": "images/monday",
}
TRAIN: dict[str, Any] = {
    "kind": "train",
    "id": "week-7",
    "configuration": {"name": "shirts", "candidates": {"cnn": {"model": "cnn"}}},
}
FEEDBACK: dict[str, Any] = {
    "kind": "feedback",
    "id": "ann-1",
    "model": "shirts",
    "time": "2026-11-24T09:00:00Z",
    "corrections": [{"image": "0" * 64, "label": "Coat"}],
}
