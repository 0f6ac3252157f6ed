"""LiteRT as an engine: a `.tflite` file, computed by XNNPACK on one processor for each caller.

An interpreter is one thread's at a time, and computes batches of one size. So there is a set of
them for each processor, with one for each size that is worth it: of larger batches an image takes
less time only until the processor's caches are full, which is measured when the model is loaded. A
request of any size is cut into such batches: a thousand images of 28x28 at once take up to three
times as long as the same in pieces.

Each interpreter has the weights once more. Of a large model there are fewer sets than processors,
each of which then computes on several.

LiteRT does not see every damage: a file of the right form with other numbers may say anything, or
end the process. The manifest of what was published is looked at first, see `serving.model.load`.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from mlpipeline import processors
from mlpipeline.engines import unfit
from mlpipeline.errors import ServingError

_SIGNATURE = {"serving_default": {"inputs": ["images"], "outputs": ["probabilities"]}}

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_BATCH_BYTES = 4 << 20  # of images; their activations take some hundred times that
_WORTH = 0.95  # of the time for an image: what saves less may be noise, and takes memory
_WEIGHTS_BYTES = 256 << 20  # each interpreter has the weights anew, as XNNPACK wants them
_TRIES = 5
_SECONDS = 0.5  # of measuring, then the next size is not tried any more


class LiteRt:
    """A `.tflite` file as a function of an array.

    Attributes:
        input_shape: The shape of one image.
        sizes: The sizes of the batches that it computes, ascending from 1.
        sets: How many callers it computes for at a time; others wait.
    """

    def __init__(self, file: Path, *, threads: int | None = None) -> None:
        """Load it, and measure which sizes of batches it is best at.

        Args:
            file: The model.
            threads: How many processors it computes on; None for all.

        Raises:
            ServingError: It is damaged, or maps anything else than images to probabilities.
        """
        first = _Batches(file, 1)
        self.input_shape = first.input_shape
        self._classes = first.classes
        callers = threads or processors.count()
        copies = max(1, _WEIGHTS_BYTES // file.stat().st_size)
        self.sets = min(callers, copies)
        self.sizes = worthwhile(_measure(file, first))[: max(1, copies // self.sets)]
        # Whoever was used last is used next: its data is in the caches still.
        self._free: queue.LifoQueue[Mapping[int, _Batches]] = queue.LifoQueue()
        for _ in range(self.sets):
            self._free.put(
                {size: _Batches(file, size, callers // self.sets) for size in self.sizes}
            )

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute, as `Engine` says."""
        probabilities = np.empty((len(images), self._classes), np.float32)
        own = self._free.get()
        try:
            for start, size in pieces(len(images), self.sizes):
                probabilities[start : start + size] = own[size](images[start : start + size])
        finally:
            self._free.put(own)
        return probabilities


def worthwhile(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Return the sizes of batches that are worth an interpreter, ascending.

    Args:
        seconds: How long an image takes in batches of each size, the smallest first.
    """
    smallest, *others = seconds
    chosen = [smallest]
    for size in others:
        if seconds[size] < _WORTH * seconds[chosen[-1]]:
            chosen.append(size)
    return tuple(chosen)


def pieces(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a number of images into batches, the largest first.

    Args:
        count: How many images there are.
        sizes: The sizes that batches may have, ascending from 1.

    Yields:
        The place of each batch's first image, and its size.
    """
    start = 0
    for size in reversed(sizes):
        while count - start >= size:
            yield start, size
            start += size


def _measure(file: Path, first: _Batches) -> dict[int, float]:
    """Return the seconds for an image in batches of each size, up to the one where they rise."""
    most = min(_SIZES[-1], max(1, _BATCH_BYTES // math.prod(first.input_shape)))
    images = np.random.default_rng(0).integers(0, 256, (most, *first.input_shape), dtype=np.uint8)
    end = time.perf_counter() + _SECONDS
    seconds: dict[int, float] = {}
    for size in _SIZES:
        batches = _Batches(file, size) if seconds else first
        took = min(_seconds(batches, images[:size]) for _ in range(_TRIES)) / size
        seconds[size] = took
        if size * 2 > most or took > min(seconds.values()) / _WORTH or time.perf_counter() > end:
            break
    return seconds


def _seconds(batches: _Batches, images: npt.NDArray[np.uint8]) -> float:
    """Time it on the processor, whatever else that does meanwhile: it computes in this thread."""
    start = time.thread_time()
    batches(images)
    return time.thread_time() - start


class _Batches:
    """One interpreter, for batches of one size."""

    def __init__(self, file: Path, size: int, threads: int = 1) -> None:
        try:
            self._interpreter = Interpreter(str(file), num_threads=threads)
            signatures = self._interpreter.get_signature_list()
            if signatures != _SIGNATURE:
                raise unfit(file, f"signatures {signatures}")
            (given,) = self._interpreter.get_input_details()
            (wanted,) = self._interpreter.get_output_details()
            self._input, self._output = given["index"], wanted["index"]
            if given["dtype"] is not np.uint8:
                raise unfit(file, f"an input {np.dtype(given['dtype']).name}")
            if -1 in given["shape_signature"][1:]:
                raise unfit(file, f"an input of any shape {given['shape_signature'].tolist()}")
            self.input_shape = tuple(given["shape"][1:].tolist())
            self.classes = int(wanted["shape"][-1])
            self._interpreter.resize_tensor_input(self._input, [size, *self.input_shape])
            self._interpreter.allocate_tensors()
            probabilities = self(np.zeros((size, *self.input_shape), np.uint8))
        except (ValueError, RuntimeError, IndexError) as error:  # damaged, or of another kind
            raise ServingError(
                f"{file} cannot be loaded by LiteRT: {error}",
                expected="a model that `select` has converted",
                remedy="run the step again; `make run` makes damaged artifacts anew",
            ) from error
        if probabilities.dtype != np.float32 or probabilities.shape != (size, self.classes):
            kind = f"{probabilities.dtype} {list(probabilities.shape)}"
            raise unfit(file, f"an output {kind} for {size} images")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute as many images as a batch has."""
        self._interpreter.set_tensor(self._input, images)
        self._interpreter.invoke()
        probabilities: npt.NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return probabilities
