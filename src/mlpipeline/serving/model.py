"""A published model, verified and ready to predict. It needs TensorFlow but not Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from mlpipeline.errors import ServingError
from mlpipeline.image_files.kind import ImageKind, UnreadableImageError
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.store import artifacts
from mlpipeline.store.layout import ModelFolder
from mlpipeline.store.schemas.selection import ModelCard


@dataclass(frozen=True)
class PublishedModel:
    """A version of a model, ready to predict.

    Attributes:
        version: Name of the version.
        digest: SHA-256 of its manifest, and so of all that was published.
        classes: Names of the classes, in the order of the probabilities.
        input_shape: The shape of one image.
        preparation: How pictures become its images; None where files have no such channels.
    """

    version: str
    digest: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    _function: Callable[[Images], Probabilities]
    preparation: ImageKind | None = None

    def predict(self, images: Images) -> Probabilities:
        """Map images to probabilities; any number of threads may call it at a time.

        Args:
            images: uint8 (N, *input_shape).

        Returns:
            float32 (N, classes).
        """
        return self._function(images)


def load(folder: Path) -> PublishedModel:
    """Load a published version, and make it predict once.

    Args:
        folder: Where it is published.

    Raises:
        ArtifactError: It is missing or damaged.
        ServingError: It is whole, but it does not map uint8 images to a probability per class.
    """
    artifacts.verify(folder)
    card = ModelCard.load(ModelFolder(folder).card)
    function, input_shape = _frozen(ModelFolder(folder).saved_model)
    classes, digest = card.classes, artifacts.digest(folder)
    preparation = card.preparation or _preparation_of_older(input_shape)
    model = PublishedModel(card.version, digest, classes, input_shape, function, preparation)
    got = model.predict(np.zeros((2, *input_shape), np.uint8))
    if got.shape != (2, len(classes)) or got.dtype != np.float32 or not np.isfinite(got).all():
        raise _unfit(folder, f"an output {got.dtype} {got.shape} for 2 images")
    return model


def _preparation_of_older(shape: tuple[int, ...]) -> ImageKind | None:
    """What was done with files before cards said it, where they have as many channels."""
    try:
        known = ImageKind.of_shape(shape)
    except UnreadableImageError:
        return None
    return replace(known, dark_ground=known.channels == 1)


def use_available_processors() -> None:
    """Let each call of a model run on one CPU; call this before any TensorFlow operation.

    Several calls run at a time, one for each CPU that this process may use. To divide a single
    image's 0.5 ms among threads takes longer than that, all the more where replicas share the CPUs.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _frozen(saved_model: Path) -> tuple[Callable[[Images], Probabilities], tuple[int, ...]]:
    """Return the model's signature as a function of an array, and the shape of one image.

    With its variables turned into constants the graph optimizer folds batch normalisation into the
    convolutions, and a call need not look the variables up. A session can run a graph in the
    thread that calls it, which TensorFlow 2's functions cannot. Together that makes 0.5 ms of 0.75
    for one image of a CNN of width 32, and more on a busy machine, where a change of threads waits.
    """
    loaded = tf.saved_model.load(str(saved_model))  # it owns the variables: keep it in a name
    signature = loaded.signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    outputs = signature.structured_outputs
    if list(inputs) != ["images"] or inputs["images"].dtype != tf.uint8:
        raise _unfit(saved_model, f"a signature of {inputs}")
    if list(outputs) != ["probabilities"]:
        raise _unfit(saved_model, f"outputs named {sorted(outputs)}")
    frozen = convert_variables_to_constants_v2(signature)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
    in_the_callers_thread = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1
    )
    session = tf.compat.v1.Session(graph=graph, config=in_the_callers_thread)
    function = session.make_callable(frozen.outputs[0].name, feed_list=[frozen.inputs[0].name])
    return function, tuple(inputs["images"].shape[1:])


def _unfit(path: Path, got: str) -> ServingError:
    return ServingError(
        f"{path} has {got}",
        expected="a signature `serving_default` that maps uint8 `images` (N, ...) to float32 "
        "`probabilities` (N, classes)",
        remedy="export the model with the training step's exporter and publish it again",
    )
