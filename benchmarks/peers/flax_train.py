"""JAX and Flax: one compiled step. `python flax_train.py float32|bfloat16`."""

from __future__ import annotations

import sys
from typing import Any

import arrays
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn


class Network(nn.Module):
    """Our `batch_norm`."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Return logits."""
        for width, pool in ((32, True), (64, True), (64, False), (64, False)):
            x = nn.Conv(width, (3, 3), use_bias=False, dtype=self.dtype)(x)
            if pool:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=self.dtype)(x))
        return nn.Dense(arrays.CLASSES)(x.reshape(len(x), -1).astype(jnp.float32))


def main(precision: str) -> None:
    """Train, and print how fast."""
    images, labels = arrays.load()
    network = Network(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    decay = optax.add_decayed_weights(arrays.WEIGHT_DECAY)
    optimizer = optax.chain(
        decay, optax.sgd(arrays.LEARNING_RATE, momentum=arrays.MOMENTUM, nesterov=True)
    )

    @jax.jit
    def step(weights: Any, state: Any, statistics: Any, pixels: Any, classes: Any, key: Any) -> Any:
        flipped = jax.random.bernoulli(key, 0.5, (len(pixels), 1, 1, 1))
        inputs = jnp.where(flipped, pixels[:, :, ::-1], pixels) / 127.5 - 1
        smooth = arrays.LABEL_SMOOTHING
        targets = optax.smooth_labels(jax.nn.one_hot(classes, arrays.CLASSES), smooth)

        def loss_of(weights: Any) -> Any:
            logits, updated = network.apply(
                {"params": weights, "batch_stats": statistics}, inputs, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy(logits, targets).mean(), updated["batch_stats"]

        (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, statistics, loss

    weights, statistics = variables["params"], variables["batch_stats"]
    trained = (weights, optimizer.init(weights), statistics)
    chance = np.random.default_rng(0)

    def train() -> float:
        nonlocal trained
        order = chance.permutation(len(images))[: arrays.STEPS * arrays.BATCH]
        losses = []
        for number, rows in enumerate(order.reshape(-1, arrays.BATCH)):
            *trained, loss = step(*trained, images[rows], labels[rows], jax.random.key(number))
            losses.append(loss)
        return float(jnp.stack(losses).mean())

    arrays.measure(train)


if __name__ == "__main__":
    main(*sys.argv[1:])
