"""TensorFlow as an engine: a SavedModel, frozen, in a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from mlpipeline.engines import unfit


def use_available_processors() -> None:
    """Let each call of a model run on one CPU; call this before any TensorFlow operation.

    Several calls run at a time, one for each CPU that this process may use. To divide a single
    image's 0.5 ms among threads takes longer than that, all the more where replicas share the CPUs.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


class SavedModel:
    """The signature of a SavedModel as a function of an array.

    With its variables turned into constants the graph optimizer folds batch normalisation into the
    convolutions, and a call need not look the variables up. A session can run a graph in the
    thread that calls it, which TensorFlow 2's functions cannot. Together that makes 0.5 ms of 0.75
    for one image of a CNN of width 32, and more on a busy machine, where a change of threads waits.
    """

    def __init__(self, folder: Path) -> None:
        """Load and freeze it.

        Args:
            folder: The SavedModel.

        Raises:
            ServingError: Its signature is not one of images.
        """
        loaded = tf.saved_model.load(str(folder))  # it owns the variables: keep it in a name
        signature = loaded.signatures["serving_default"]
        _, inputs = signature.structured_input_signature
        outputs = signature.structured_outputs
        if list(inputs) != ["images"] or inputs["images"].dtype != tf.uint8:
            raise unfit(folder, f"a signature of {inputs}")
        if list(outputs) != ["probabilities"]:
            raise unfit(folder, f"outputs named {sorted(outputs)}")
        self.input_shape: tuple[int, ...] = tuple(inputs["images"].shape[1:])
        frozen = convert_variables_to_constants_v2(signature)
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        in_the_callers_thread = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1
        )
        session = tf.compat.v1.Session(graph=graph, config=in_the_callers_thread)
        feed = [frozen.inputs[0].name]
        self._function = session.make_callable(frozen.outputs[0].name, feed_list=feed)

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute, as `Engine` says."""
        probabilities: npt.NDArray[np.float32] = self._function(images)
        return probabilities
