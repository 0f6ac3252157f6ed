"""Optimizers and learning-rate schedules, from the names of a recipe."""

from __future__ import annotations

from typing import Any

import keras

from mlpipeline.learning.model.muon import Muon
from mlpipeline.plan.config import Recipe

# Weight decay pulls kernels towards zero; on these it only does harm (He et al., arXiv:1812.01187).
_NOT_DECAYED = ["bias", "gamma", "beta"]
_WARM_UP = 0.25  # share of the steps


def one_cycle(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a schedule of one cycle: a linear warm-up to the peak, then a half cosine down to 0.

    The shape is that of Smith and Topin, Super-Convergence, arXiv:1708.07120, with the cosine of
    Loshchilov and Hutter, arXiv:1608.03983, for the way down.

    Args:
        peak: Highest learning rate, reached after a quarter of the steps.
        steps: Number of steps of the whole run; of several, the last one has a rate of 0.
    """
    warm_up = max(1, round(steps * _WARM_UP))
    return keras.optimizers.schedules.CosineDecay(
        peak / warm_up,  # the first step moves, too
        decay_steps=max(1, steps - warm_up),
        warmup_target=peak,
        warmup_steps=warm_up - 1,
    )


def build(recipe: Recipe, steps: int) -> keras.Optimizer:
    """Return the optimizer that a recipe describes.

    Args:
        recipe: Names the optimizer and the schedule, and has their parameters.
        steps: Number of steps of the whole run, for the schedule.
    """
    schedules: dict[str, Any] = {"constant": lambda peak, _: peak, "one_cycle": one_cycle}
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
        case "muon":
            optimizer = Muon(momentum=0.9, nesterov=True, **common)
    optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer
