"""The training images of all peers, in memory, and how fast one goes through them.

The peers run in environments of their own, where our package is not: this file needs NumPy alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH, CLASSES = 256, 10
STEPS = 100  # of what is timed: JAX takes half a minute for so many
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, LABEL_SMOOTHING = 0.1, 0.9, 0.01, 0.1
_TURNS = 3  # the first one compiles, and does not count


def load() -> tuple[Any, Any]:
    """Return the images that DATA names, uint8 (N, 28, 28, 1), and their labels, int64 (N,)."""
    folder = Path(os.environ["DATA"])
    return np.load(folder / "images.npy")[..., np.newaxis], np.load(folder / "labels.npy")


def measure(train: Callable[[], float]) -> None:
    """Train some turns of STEPS, and print the images per second of the best, and the losses.

    Args:
        train: Takes STEPS steps of BATCH images in a new order, and returns their mean loss.
    """
    rates, losses = [], []
    for _ in range(_TURNS):
        began = time.perf_counter()
        losses.append(train())
        rates.append(STEPS * BATCH / (time.perf_counter() - began))
    print(json.dumps({"rate": max(rates[1:]), "losses": losses}), flush=True)
