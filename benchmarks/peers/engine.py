"""The model of all peers: LiteRT as its guide has it, an interpreter for each size of batch.

The peers run in environments of their own, where our package is not: this file needs LiteRT alone.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

MOST = 32  # images in a batch, for peers that make batches of requests


class Classifier:
    """The file that MODEL names, as a function of uint8 (N, height, width[, channels]).

    Attributes:
        shape: The shape of one image.
    """

    def __init__(self) -> None:
        """Load the file."""
        self._lock = threading.Lock()
        self._runners: dict[int, Any] = {}
        (about,) = self._interpreter().get_input_details()
        self.shape = tuple(about["shape"][1:].tolist())

    def _interpreter(self) -> Any:
        return Interpreter(os.environ["MODEL"], num_threads=1)

    def _runner(self, size: int) -> Any:
        if size not in self._runners:
            interpreter = self._interpreter()
            index = interpreter.get_input_details()[0]["index"]
            interpreter.resize_tensor_input(index, (size, *self.shape))
            interpreter.allocate_tensors()
            self._runners[size] = interpreter.get_signature_runner()
        return self._runners[size]

    def __call__(self, images: Any) -> Any:
        """Return float32 (N, classes)."""
        images = np.asarray(images, np.uint8)
        with self._lock:  # an interpreter is one thread's at a time
            return self._runner(len(images))(images=images)["probabilities"]
