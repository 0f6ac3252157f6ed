"""What training changes, whichever strategy carries it out: weights, moments, the number of steps.

What is done with a batch, and how the result is evaluated and exported, is the same for all
strategies, and is here. Who takes which batch, and when, is the trainer's.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlpipeline.learning.data.images import rows_in_a_batch
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.learning.model import augmentation, models, optimization
from mlpipeline.learning.model.export import ExportableModel, preprocess
from mlpipeline.learning.training import devices
from mlpipeline.plan.config import Candidate
from mlpipeline.store.schemas.dataset import DatasetCard


class TrainState:
    """A candidate's model and optimizer in the scope of a strategy, and what is exported of them.

    Args:
        candidate: What to train and how.
        card: The data set's card: what shape its images have, and which classes.
        strategy: TensorFlow's distribution strategy, in whose scope the variables live.
        total_steps: Number of steps of the whole run, for the schedule of the learning rate.

    Attributes:
        model: The Keras model that is trained, at the candidate's precision.
        optimizer: Its optimizer, with the moments of the trained weights.
        step: Number of steps taken, an int64 variable.
        exportable: What is evaluated and exported: the same model in float32, outside the
            strategy's scope.
    """

    def __init__(
        self, candidate: Candidate, card: DatasetCard, strategy: Any, total_steps: int
    ) -> None:
        self._candidate, self._card = candidate, card
        models.forget_preferences()
        keras.config.set_dtype_policy(devices.policy(candidate.precision))
        with strategy.scope():
            self.model = self._build_model()
            self.optimizer = optimization.build(candidate, total_steps)
            self.optimizer.build(self.model.trainable_variables)
            self.step = tf.Variable(
                0,
                dtype=tf.int64,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        keras.config.set_dtype_policy("float32")
        self.exportable = ExportableModel(
            self._build_model(),
            card.shape,
            average_flip=candidate.average_flip,
            average_shift=candidate.average_shift,
        )

    def learn(self, images: Any, labels: Any, draw: Any) -> Any:
        """Take one step, inside of a compiled function and of the strategy's `run`.

        Args:
            images: uint8 `[B, *shape]`.
            labels: int64 `[B]`.
            draw: Random seed of this step's augmentation, an int64 scalar.

        Returns:
            float32 `[3]`: the sums of the loss and of the hits, and how many images there were.
        """
        recipe, classes = self._candidate, len(self._card.classes)
        # Of fewer images than a batch an epoch has a step of its own, as `end_of_epoch` says.
        epoch = tf.minimum(self.step, self.step * recipe.batch_size // self._card.counts["train"])
        # Stateless: what is drawn depends on these numbers alone, also after a resume.
        inputs = augmentation.augment(preprocess(images), recipe, tf.stack([draw, 1]), epoch)
        smooth = recipe.label_smoothing  # Szegedy et al., arXiv:1512.00567, section 7
        targets = tf.one_hot(labels, classes) * (1 - smooth) + smooth / classes
        with tf.GradientTape() as tape:
            logits = tf.cast(self.model(inputs, training=True), tf.float32)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            # Divided by the global batch: where workers share one, their gradients are summed.
            loss = tf.reduce_sum(losses) / recipe.batch_size
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.step.assign_add(1)
        hits = tf.cast(tf.argmax(logits, axis=1) == labels, tf.float32)
        size = tf.cast(tf.size(labels), tf.float32)
        return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(hits), size])

    def has_finite_weights(self) -> bool:
        """Return whether no weight is infinite or NaN.

        The loss does not tell: of NaN alone, max pooling makes the lowest number.
        """
        return all(np.isfinite(v.numpy()).all() for v in self.model.trainable_variables)

    def update_exportable(self) -> None:
        """Give the exported model the present weights, or their exponential moving averages.

        Averages of weights generalise better than the last ones: Polyak and Juditsky, SIAM J.
        Control Optim. 30, 1992.
        """
        for own, trained in zip(self.exportable.model.weights, self.model.weights, strict=True):
            own.assign(trained.numpy())
        if self._candidate.ema:
            averages = self.optimizer._model_variables_moving_average
            targets = self.exportable.model.trainable_weights
            for own, average in zip(targets, averages, strict=True):
                own.assign(average.numpy())

    def evaluate(self, split: StoredSplit, *, averaged: bool) -> tuple[float, float, float]:
        """Evaluate the exported model, in batches: of each image a probability is held.

        Args:
            split: Images and labels.
            averaged: Whether as it is exported, or without its averages over views of an image,
                which take too long for each epoch.

        Returns:
            The sums of the loss and of the hits, and the number of images.

        Raises:
            DamagedArtifactError: A file is missing, truncated or altered.
        """
        of_labels, hits = [np.empty(0, np.float32)], 0
        for images, labels in split.batches(rows_in_a_batch(split.shape)):
            probabilities = self.exportable.predict(images, averaged=averaged)
            of_labels.append(probabilities[np.arange(len(labels)), labels])
            hits += int((probabilities.argmax(axis=1) == labels).sum())
        losses = -np.log(np.maximum(np.concatenate(of_labels), 1e-9))
        return float(losses.sum()), float(hits), float(len(losses))

    def learning_rate(self) -> float:
        """Return the learning rate at the next step."""
        return float(self.optimizer.learning_rate.numpy())

    def _build_model(self) -> keras.Model:
        return models.build(self._candidate, self._card.shape, len(self._card.classes))
