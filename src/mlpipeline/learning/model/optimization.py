"""Optimizers and learning-rate schedules, from the names of a recipe."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from mlpipeline.plan.config import Recipe

# Weight decay pulls kernels towards zero; on these it only does harm (He et al., arXiv:1812.01187).
_NOT_DECAYED = ["bias", "gamma", "beta"]
_WARM_UP = 0.25  # share of the steps


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up to the peak, then a half cosine down to zero (Smith, arXiv:1708.07120)."""

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> Any:
        position = (tf.cast(step, tf.float32) + 1) / self.steps  # the first step moves, too
        rising = position / _WARM_UP
        falling = (1 + tf.cos(math.pi * (position - _WARM_UP) / (1 - _WARM_UP))) / 2
        return self.peak * tf.where(position < _WARM_UP, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps}


def build(recipe: Recipe, steps: int) -> keras.Optimizer:
    """Return the optimizer for a training run of so many steps."""
    schedules = {"constant": lambda peak, _: peak, "one_cycle": OneCycle}
    rate = schedules[recipe.schedule](recipe.learning_rate, steps)
    common: dict[str, Any] = {"learning_rate": rate, "weight_decay": recipe.weight_decay or None}
    if recipe.ema:
        # The averages are kept beside the weights and only read for evaluation and export.
        common |= {"use_ema": True, "ema_momentum": recipe.ema, "ema_overwrite_frequency": None}
    match recipe.optimizer:
        case "adam":
            optimizer = keras.optimizers.Adam(**common)
        case "adamw":
            optimizer = keras.optimizers.AdamW(**common | {"weight_decay": recipe.weight_decay})
        case "sgd":
            optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
    optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer
