"""Model servers as processes of a test, and a small model for them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpipeline import engines
from mlpipeline.backends.local.processes import free_ports, python_m
from mlpipeline.environment import ends_with_us
from mlpipeline.plan.commands import front_arguments
from mlpipeline.store import artifacts
from mlpipeline.store.schemas.selection import Examples
from support.stored_documents import model_card

NAME = "fashion-mnist"
CLASSES = [f"class {number}" for number in range(10)]
HOST = "127.0.0.1"
READY_SECONDS = 90


@dataclass
class Ports:
    """Two ports that were free a moment ago."""

    http: int = field(default_factory=lambda: free_ports(1)[0])
    grpc: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.grpc}"


@dataclass
class Server:
    """A server's process and what it says."""

    process: subprocess.Popen[str]
    log: Path

    def wait_until_ready(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while "ready=" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def started_replica(folder: Path, ports: Ports, name: str, log: Path) -> Iterator[Server]:
    """Start one replica of a published version; it is over when the body is."""
    call = (
        f"from pathlib import Path; from mlpipeline.steps.serving import serve;"
        f"serve(Path({str(folder)!r}), name={NAME!r}, http_port={ports.http},"
        f" grpc_port={ports.grpc}, replica={name!r}, host={HOST!r})"
    )
    with started([sys.executable, "-c", call], log) as server:
        yield server


@contextlib.contextmanager
def started_front(
    replicas: Sequence[Ports], ports: Ports, at_least: int, log: Path
) -> Iterator[Server]:
    """Start a front of replicas; it is over when the body is."""
    arguments = front_arguments(
        NAME,
        [f"{HOST}:{each.http}" for each in replicas],
        at_least=at_least,
        host=HOST,
        port=ports.http,
        grpc_port=ports.grpc,
        replica="front",
    )
    with started(python_m(arguments), log) as server:
        yield server


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[Server]:
    """Start a command that says when it is ready; it is over when the body is."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*ends_with_us(), *command], stdout=stream, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield Server(process, log)
        finally:
            process.kill()
            process.wait()


@dataclass
class Published:
    """A model and what it says of some images."""

    folder: Path
    probabilities: npt.NDArray[np.float32]


def publish(
    folder: Path,
    images: npt.NDArray[np.uint8],
    engine: engines.Kind = "litert",
    *,
    examples: Examples | None = None,
    seed: int = 3,
    **card: Any,
) -> Published:
    """Publish a small convolutional model with batch normalisation, as the selection does.

    Args:
        folder: Where to.
        images: What to say the probabilities of.
        engine: What serves it.
        examples: Its examples, if it is to have some.
        seed: What its weights are drawn by: another one says something else.
        card: What its card says otherwise.
    """
    import keras
    import tensorflow as tf

    from mlpipeline.learning.model import conversion

    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Reshape((28, 28, 1)),
            keras.layers.Rescaling(1 / 128, offset=-1),
            keras.layers.Conv2D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(moving_variance_initializer="ones"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    with artifacts.publish(folder) as draft:
        archive = keras.export.ExportArchive()
        archive.track(network)
        archive.add_endpoint(
            "serving_default",
            lambda images: {"probabilities": network(tf.cast(images, tf.float32))},
            [tf.TensorSpec([None, 28, 28], tf.uint8, name="images")],
        )
        archive.write_out(str(draft / "saved_model"), verbose=False)
        if engine == "litert":
            (draft / "model.tflite").write_bytes(conversion.convert(draft / "saved_model"))
        about = {"name": NAME, "version": folder.name, "classes": CLASSES, "engine": engine}
        model_card(**about | card).save(draft / "model.json")
        if examples:
            examples.save(draft / "examples.json")
    return Published(folder, network.predict(images, verbose=0))
