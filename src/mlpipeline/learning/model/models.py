"""The candidates' architectures: functions from images to features.

Each takes a Keras tensor of float32 images [N, H, W, C] in [-1, 1], with its options as keywords,
and returns features [N, F]; `build` adds the classifier. To bring your own, write such a function
and name it in the configuration as `package.module:function`.

"The book" is Yuan Tang, Distributed Machine Learning Patterns, Manning 2024, whose chapter 9 trains
and compares three networks on Fashion-MNIST. https://www.manning.com/books/distributed-machine-learning-patterns
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from mlpipeline.errors import ConfigurationError, PipelineError
from mlpipeline.learning.plugins import described, refusal, resolve
from mlpipeline.plan.config import Candidate


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation in one kernel, which Keras builds of many (Ioffe, arXiv:1502.03167).

    In float32 inside, whatever the precision of its input [N, H, W, C]. Each worker normalises by
    the statistics of its own part of a batch.

    Args:
        **options: Those of Keras's layer, but for `momentum` and `autocast`.
    """

    def __init__(self, **options: Any) -> None:
        # A moving average over some ten steps: short runs have no time for more.
        super().__init__(momentum=0.9, autocast=False, **options)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Normalise a batch.

        Args:
            inputs: Float tensor [N, H, W, C].
            training: Whether to use the batch's own statistics, and to update the moving ones.

        Returns:
            A tensor of the same shape and type.
        """
        moving = (self.moving_mean, self.moving_variance)
        outputs, *statistics = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=tf.zeros(0) if training else moving[0],
            variance=tf.zeros(0) if training else moving[1],
            epsilon=self.epsilon,
            is_training=bool(training),
        )[:3]
        if training:
            for average, value in zip(moving, statistics, strict=True):
                average.assign(average * self.momentum + value * (1 - self.momentum))
        return outputs


def cnn(inputs: Any, *, widths: Sequence[int] = (32, 64), units: int = 128) -> Any:
    """Plain convolutions, each pooled, and a dense layer: the book's first candidate.

    Args:
        inputs: Images, float32 [N, H, W, C].
        widths: Number of filters of each convolution.
        units: Width of the dense layer.
    """
    x = inputs
    for width in widths:
        x = _convolution(x, width, use_bias=True)
        x = layers.ReLU()(layers.MaxPooling2D()(x))
    x = layers.Flatten()(x)
    return layers.Dense(units, activation="relu", kernel_initializer="he_normal")(x)


def dropout(
    inputs: Any, *, widths: Sequence[int] = (32, 64), units: int = 128, rate: float = 0.4
) -> Any:
    """The plain network with dropout before its classifier (Srivastava et al., JMLR 15, 2014).

    Args:
        inputs: Images, float32 [N, H, W, C].
        widths: Number of filters of each convolution.
        units: Width of the dense layer.
        rate: Share of the features that are dropped.
    """
    return layers.Dropout(rate)(cnn(inputs, widths=widths, units=units))


def batch_norm(inputs: Any, *, widths: Sequence[int] = (32, 64), deep: int = 2) -> Any:
    """Convolutions with batch normalisation: some pooled, then `deep` more of the last width.

    What configs/default.yaml chooses; docs/reference/benchmarks.md has its accuracy.

    Args:
        inputs: Images, float32 [N, H, W, C].
        widths: Number of filters of each convolution that is followed by pooling.
        deep: How many convolutions follow these.
    """
    x = inputs
    for width in widths:
        x = _normalised(x, width, pool=True)
    for _ in range(deep):
        x = _normalised(x, widths[-1])
    return layers.Flatten()(x)


def residual(inputs: Any, *, widths: Sequence[int] = (32, 64, 96), rate: float = 0.3) -> Any:
    """A small residual network: blocks at a half and a quarter of the resolution.

    He et al., arXiv:1512.03385. What configs/best.yaml trains.

    Args:
        inputs: Images, float32 [N, H, W, C].
        widths: Number of filters at the full, the half and the quarter resolution.
        rate: Share of the features that are dropped before the classifier.
    """
    narrow, middle, wide = widths
    x = _normalised(inputs, narrow, pool=True)
    x = _block(_normalised(x, middle))
    x = _normalised(layers.MaxPooling2D()(x), wide)
    x = _block(_block(x))
    return layers.Dropout(rate)(layers.Flatten()(x))


def book_cnn(inputs: Any) -> Any:
    """The network of the book's own code, as a baseline (configs/book.yaml).

    Args:
        inputs: Images, float32 [N, H, W, C].
    """
    x = inputs
    for width in (32, 64):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    x = layers.Flatten()(layers.Conv2D(64, 3, activation="relu")(x))
    return layers.Dense(64, activation="relu")(x)


def _convolution(x: Any, width: int, *, use_bias: bool = False) -> Any:
    return layers.Conv2D(
        width, 3, padding="same", use_bias=use_bias, kernel_initializer="he_normal"
    )(x)


def _normalised(x: Any, width: int, *, pool: bool = False) -> Any:
    x = _convolution(x, width)
    if pool:  # before the rest, which then has a quarter of the work
        x = layers.MaxPooling2D()(x)
    return layers.ReLU()(FusedBatchNormalization()(x))


def _block(x: Any) -> Any:
    width = x.shape[-1]
    return layers.Add()([x, _normalised(_normalised(x, width), width)])


ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "cnn": cnn,
    "batch_norm": batch_norm,
    "dropout": dropout,
    "residual": residual,
    "book_cnn": book_cnn,
}


def forget_preferences() -> None:
    """Set what Keras has from the user's `~/.keras/keras.json`: that file is part of no key."""
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def build(candidate: Candidate, shape: Sequence[int], classes: int) -> keras.Model:
    """Build a candidate's model.

    Args:
        candidate: Names the architecture and its options.
        shape: Shape of an image, (H, W) or (H, W, C).
        classes: Number of classes.

    Returns:
        A model from float32 [N, H, W, C] to float32 logits [N, classes].

    Raises:
        ConfigurationError: No such architecture, it does not take these options, or what it
            returns are no features.
    """
    forget_preferences()
    inputs = keras.Input((*shape, 1)[:3])
    features = _features(candidate, inputs)
    # float32 whatever the policy: a softmax over bfloat16 logits loses accuracy.
    logits = layers.Dense(classes, dtype="float32")(features)
    try:
        return keras.Model(inputs, logits, name=candidate.model.rpartition(":")[2])
    except ValueError as error:  # they are not made of its argument
        raise _unfit(candidate, f"returned features of something else: {error}") from error


def check(candidates: Mapping[str, Candidate], shape: Sequence[int], classes: int) -> None:
    """Build the models of one's own once, to see before any worker starts that it can be done.

    Each is built once, however many trials it has. Of the built-in ones, options that do not fit
    cost one candidate: a search may well try some.

    Args:
        candidates: All candidates, by name.
        shape: Shape of an image, (H, W) or (H, W, C).
        classes: Number of classes.

    Raises:
        ConfigurationError: Some cannot be built; names each.
    """
    problems: list[tuple[str, ConfigurationError]] = []
    seen = set[str]()
    for name, candidate in candidates.items():
        key = candidate.model_dump_json(include={"model", "options"})
        if candidate.model not in ARCHITECTURES and key not in seen:
            seen.add(key)
            try:
                build(candidate, shape, classes)
            except ConfigurationError as error:
                problems.append((name, error))
    if len(problems) == 1:
        raise problems[0][1]
    if problems:
        raise ConfigurationError(
            "models cannot be built:\n"
            + "\n".join(
                f"  - {n}: {error.got}; expected {error.expected}" for n, error in problems
            ),
            expected="functions that return features [N, F]",
            remedy="mend these functions, or the candidates' options in the configuration",
        )


def _features(candidate: Candidate, inputs: Any) -> Any:
    architecture = resolve(candidate.model, ARCHITECTURES, kind="model")
    if why := refusal(architecture, inputs, **candidate.options):
        raise ConfigurationError(
            f"model `{candidate.model}` with options {candidate.options}: its function {why}",
            expected="a function of the images, and options that it takes",
            remedy="mend the candidate's options in the configuration",
        )
    try:
        features = architecture(inputs, **candidate.options)
    except (PipelineError, tf.errors.OpError):  # of the second kind is also a peer that is lost
        raise
    except (Exception, SystemExit) as error:  # of the user's own code, or refused by Keras
        raise ConfigurationError(
            f"model `{candidate.model}` with options {candidate.options}: {described(error)}",
            expected="options that its function takes, and layers that fit the images",
            remedy="mend the candidate's options in the configuration, or the function",
        ) from error
    if not keras.utils.is_keras_tensor(features):
        raise _unfit(candidate, f"returned {type(features).__name__}")
    shape = features.shape
    if len(shape) != 2 or shape[1] is None:
        raise _unfit(candidate, f"returned {['N' if n is None else n for n in shape]}")
    return features


def _unfit(candidate: Candidate, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"the function of model `{candidate.model}` {got}",
        expected="features [N, F], a Keras tensor made of the images [N, H, W, C] that it is given",
        remedy="end with layers.GlobalAveragePooling2D()(x) or layers.Flatten()(x), and return "
        "that; the classifier is added behind it",
    )
