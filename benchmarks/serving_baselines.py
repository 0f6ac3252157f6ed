"""What `serving.py` compares our server with; it starts each of them as a process.

`python benchmarks/serving_baselines.py keras-predict|nothing|bare ...`

keras-predict: a KServe `ModelServer` whose `predict` calls `keras.Model.predict`, as most examples
    do. The network has the architecture of a batch-normalised CNN of width 32; its weights are
    random, as they do not matter to its speed.
nothing: a `ModelServer` whose `predict` returns a constant: what KServe costs without a model.
bare: no server. The engine that a replica computes with, called by as many threads, gets as many
    images as each line of standard input says, and the seconds that took are printed.

Both servers log as little as ours does; a line for each request would slow them down.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# KServe reads sys.argv when it is imported, and must not find our arguments there.
_ARGUMENTS, sys.argv = sys.argv[1:], sys.argv[:1]
import numpy as np  # noqa: E402
from kserve import Model, ModelServer  # noqa: E402
from kserve.logging import configure_logging  # noqa: E402

from mlpipeline import processors  # noqa: E402
from mlpipeline.serving.model import load  # noqa: E402


class Nothing(Model):  # type: ignore[misc]
    """Answers every request with the same probabilities."""

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        """Look at nothing."""
        return {"predictions": [[0.1] * 10]}


class KerasPredict(Model):  # type: ignore[misc]
    """Calls `keras.Model.predict`."""

    def __init__(self, name: str) -> None:
        """Build the network."""
        super().__init__(name)
        self._network = _network()

    def predict(self, payload: Any, headers: Any = None) -> Any:
        """Do as the examples do."""
        images = np.array(payload["instances"], np.float32) / 255
        return {"predictions": self._network.predict(images, verbose=0).tolist()}


def main() -> None:
    """Run one of them until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["keras-predict", "nothing", "bare"])
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--name")
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args(_ARGUMENTS)
    if arguments.kind == "bare":
        _call_bare(arguments.model)
        return
    model = (KerasPredict if arguments.kind == "keras-predict" else Nothing)(arguments.name)
    model.ready = True
    configure_logging()
    for name in ("uvicorn.access", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ModelServer(
        http_port=arguments.http_port, grpc_port=arguments.grpc_port, enable_latency_logging=False
    ).start([model])


def _network() -> Any:
    import keras
    from keras import layers

    def convolution(width: int) -> list[Any]:
        return [
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Reshape((28, 28, 1)),
            *convolution(32),
            *convolution(32),
            layers.MaxPooling2D(),
            *convolution(64),
            *convolution(64),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def _call_bare(version: Path) -> None:
    """Call the engine that a replica has, as many times at once as a replica does."""
    model = load(version, is_alone=True)
    callers = processors.count()
    chance = np.random.default_rng(0)
    with ThreadPoolExecutor(callers) as threads:
        for line in sys.stdin:
            images = chance.integers(0, 256, (int(line), *model.input_shape), dtype=np.uint8)
            start = time.perf_counter()
            for _ in threads.map(model.predict, np.array_split(images, callers)):
                pass
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
