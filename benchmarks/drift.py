"""Measure how soon drift is found, on real shifts of the test split, and how often where none is.

`python -m benchmarks.drift --workspace WORKSPACE --output FILE.json`: the workspace of a run of
Fashion-MNIST. Requests are drawn from its test split, shifted as a row says; of each number of
requests so many windows are looked at, as `mlpipeline drift` looks at one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.servers import NAME
from mlpipeline.cli import drift as command
from mlpipeline.learning.data import drift
from mlpipeline.learning.data.drift import Sample
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.serving.model import PublishedModel
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.selection import ModelCard

REQUESTS = (25, 50, 100, 200, 500, 1_000)
FALSE_ALARMS = 0.01
DETECTED = 0.99  # of the windows

Images = NDArray[np.uint8]
Random = np.random.Generator


def _noisy(images: Images, random: Random) -> Images:
    noise = random.normal(0, 25, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def _moved(images: Images, _: Random) -> Images:
    return np.roll(images, 4, axis=2)


SHIFTS: dict[str, Callable[[Images, Random], Images]] = {
    "none": lambda images, _: images,
    "inverted": lambda images, _: 255 - images,
    "rotated by 90°": lambda images, _: np.rot90(images, axes=(1, 2)),
    "noisy (σ = 25 of 255)": _noisy,
    "darker by a fifth": lambda images, _: (images * 0.8).astype(np.uint8),
    "4 pixels to the right": _moved,
}
MIXES: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "a class twice as often": lambda labels: np.where(labels == 0, 2.0, 1.0),
    "half of the classes": lambda labels: np.where(labels < 5, 1.0, 0.0),
}


def main() -> None:
    """Measure, print, record."""
    arguments = _arguments()
    workspace, random = Workspace(arguments.workspace), np.random.default_rng(0)
    version = registry.current(workspace, NAME)
    reference, model = command.validation(workspace, NAME, version)
    images, labels = _test_split(workspace, version)
    even = np.ones(len(labels))
    kinds = {name: (shift(images, random), even) for name, shift in SHIFTS.items()}
    kinds |= {name: (images, weights(labels)) for name, weights in MIXES.items()}
    shares = {}
    for name, (shifted, weights) in kinds.items():
        sample = Sample.of(shifted, _predict(model, shifted))
        windows = arguments.windows * (5 if name == "none" else 1)  # alarms are rare there
        shares[name] = {
            count: _found(reference, sample, weights, count, windows, len(model.classes), random)
            for count in REQUESTS
        }
    results = {
        "version": version,
        "validation_images": len(reference.predicted),
        "windows": arguments.windows,
        "false_alarms_allowed": FALSE_ALARMS,
        "share_of_windows_with_drift": shares,
    }
    _show(results)
    artifacts.write_json(arguments.output, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="a run's workspace")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--windows", type=int, default=200, help="windows of each kind")
    return parser.parse_args()


def _test_split(workspace: Workspace, version: str) -> tuple[Images, NDArray[np.int64]]:
    card = ModelCard.load(workspace.model(NAME, version).card)
    split = StoredSplit(workspace.dataset(card.dataset_key).path, "test")
    ((images, labels),) = split.batches(split.count)
    return images, labels


def _predict(model: PublishedModel, images: Images) -> NDArray[np.float32]:
    parts = np.split(np.ascontiguousarray(images), range(500, len(images), 500))
    return np.concatenate([model.predict(part) for part in parts])


def _found(
    reference: Sample,
    sample: Sample,
    weights: NDArray[np.float64],
    count: int,
    windows: int,
    classes: int,
    random: Random,
) -> float:
    """Return the share of windows of so many requests that drift is found in."""
    alarms = 0
    for _ in range(windows):
        rows = random.choice(len(weights), count, replace=False, p=weights / weights.sum())
        found = drift.compare(
            reference, sample.rows(rows), classes=classes, false_alarms=FALSE_ALARMS
        )
        alarms += any(each.is_drift for each in found)
    return alarms / windows


def _show(results: dict[str, Any]) -> None:
    table = Table(title=f"share of windows in which drift is found, {results['version']}")
    table.add_column("requests are")
    for count in REQUESTS:
        table.add_column(f"{count}", justify="right")
    table.add_column(f"found in {DETECTED:.0%} of windows of")
    for name, shares in results["share_of_windows_with_drift"].items():
        enough = [count for count in REQUESTS if shares[count] >= DETECTED]
        cells = [f"{shares[count]:.1%}" for count in REQUESTS]
        table.add_row(name, *cells, f"{min(enough)}" if enough else "–")
    Console().print(table)


if __name__ == "__main__":
    main()
