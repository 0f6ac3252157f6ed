"""Verify: what is served is the model that was trained, on every protocol and every replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlpipeline import progress
from mlpipeline.errors import ServingError
from mlpipeline.serving.arrays import Images
from mlpipeline.serving.clients import (
    Client,
    GrpcClient,
    Prediction,
    V1Client,
    V2BinaryClient,
    V2JsonClient,
)
from mlpipeline.store.schemas.run import ProtocolFigures, Verification

# Two float32 runs of one model differ by the order in which they add: 1e-7 to 1e-6 was seen.
TOLERANCE = 1e-5

_BATCH = 250
_CONNECTIONS = 4


@dataclass(frozen=True)
class Expected:
    """What the trained model said of the test split.

    Attributes:
        images: The images: uint8 `[N, ...]`.
        labels: Their classes: integers `[N]`.
        probabilities: The recorded probabilities: float32 `[N, classes]`.
        accuracy: The share of hits of these probabilities, as it was recorded, 0 to 1.
        replicas: The names of all replicas; or how many must answer at least, where they come and
            go with the load.
    """

    images: Images
    labels: npt.NDArray[np.integer]
    probabilities: npt.NDArray[np.float32]
    accuracy: float
    replicas: Collection[str] | int


def verify(
    *, base_url: str, grpc_address: str, name: str, expected: Expected, timeout: float = 300.0
) -> Verification:
    """Send all images through V1 JSON, V2 JSON, V2 binary and gRPC, and compare.

    Args:
        base_url: The URL of the REST port, such as `http://127.0.0.1:8080`.
        grpc_address: HOST:PORT.
        name: What the model is called in URLs.
        expected: What must come back.
        timeout: Seconds that all of it may take.

    Raises:
        ServingError: An answer is missing or wrong, or a replica did not answer in time.
    """
    protocols: dict[str, Callable[[], Client]] = {
        "V1 JSON": lambda: V1Client(base_url, name),
        "V2 JSON": lambda: V2JsonClient(base_url, name),
        "V2 binary": lambda: V2BinaryClient(base_url, name),
        "V2 gRPC": lambda: GrpcClient(grpc_address, name),
    }
    deadline = _Deadline(timeout)
    figures: list[ProtocolFigures] = []
    for protocol, connect in protocols.items():
        progress.report(len(figures), len(protocols), protocol=protocol)
        figures.append(_verify_protocol(protocol, connect, expected, deadline))
    progress.report(len(figures), len(protocols))
    seen = {replica for protocol in figures for replica in protocol.replicas}
    return Verification(replicas=tuple(sorted(seen)), protocols=tuple(figures))


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            ServingError: None are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise ServingError(
                f"the verification was not finished after {self._seconds:.0f} s",
                expected="an answer to every request",
                remedy="look at the log of the replicas; allow more time on a slow machine",
            )
        return left


def _verify_protocol(
    protocol: str, connect: Callable[[], Client], expected: Expected, deadline: _Deadline
) -> ProtocolFigures:
    start = time.monotonic()
    answers = _predict_all(connect, expected.images, deadline)
    seconds = time.monotonic() - start
    probabilities = np.concatenate([answer.probabilities for answer in answers])
    classes = np.concatenate([answer.classes for answer in answers])
    difference = _compare(protocol, probabilities, classes, expected)
    seen = _find_replicas(
        protocol,
        connect,
        {name for answer in answers for name in answer.replicas},
        expected,
        deadline,
    )
    return ProtocolFigures(
        protocol=protocol,
        images=len(classes),
        max_difference=difference,
        accuracy=float(np.mean(classes == expected.labels)),
        seconds=seconds,
        images_per_second=len(classes) / seconds,
        replicas=tuple(sorted(seen)),
    )


def _predict_all(
    connect: Callable[[], Client], images: Images, deadline: _Deadline
) -> list[Prediction]:
    """Predict all images over several connections and return the answers in order."""
    batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]

    def predict_share(share: list[Images]) -> list[Prediction]:
        with connect() as client:
            return [client.predict(batch, deadline.left()) for batch in share]

    size = -(-len(batches) // _CONNECTIONS)
    shares = [batches[i : i + size] for i in range(0, len(batches), size)]
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        return [answer for answers in threads.map(predict_share, shares) for answer in answers]


def _compare(
    protocol: str,
    probabilities: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    expected: Expected,
) -> float:
    """Return the largest difference of a probability.

    Raises:
        ServingError: Probabilities, classes or accuracy are not the recorded ones.
    """
    recorded = expected.probabilities
    if probabilities.shape != recorded.shape or classes.shape != expected.labels.shape:
        raise _wrong(
            protocol,
            f"probabilities {probabilities.shape} and classes {classes.shape}",
            f"{recorded.shape} and {expected.labels.shape}",
        )
    difference = float(np.abs(probabilities - recorded).max())
    if not difference <= TOLERANCE:  # so that NaN fails
        raise _wrong(
            protocol, f"a probability that is {difference:.2g} off", f"at most {TOLERANCE:g}"
        )
    # Where two classes are as good as equal, either is right.
    as_good = recorded >= recorded.max(axis=1, keepdims=True) - 2 * TOLERANCE
    wrong = np.flatnonzero(~as_good[np.arange(len(classes)), classes])
    if wrong.size:
        first = int(wrong[0])
        raise _wrong(
            protocol,
            f"{wrong.size} other classes, the first for image {first}: {classes[first]}",
            f"{recorded[first].argmax()}",
        )
    accuracy = float(np.mean(classes == expected.labels))
    ties = float(np.mean(as_good.sum(axis=1) > 1))
    if abs(accuracy - expected.accuracy) > ties + 1e-9:
        raise _wrong(protocol, f"accuracy {accuracy:.4f}", f"{expected.accuracy:.4f} as recorded")
    return difference


def _find_replicas(
    protocol: str,
    connect: Callable[[], Client],
    seen: set[str],
    expected: Expected,
    deadline: _Deadline,
) -> set[str]:
    """Open connections until every replica has answered; which one gets it is not ours to say.

    Raises:
        ServingError: One did not, or a stranger did.
    """
    wanted = expected.replicas
    count = wanted if isinstance(wanted, int) else len(wanted)

    def is_enough() -> bool:
        return len(seen) >= count if isinstance(wanted, int) else seen >= set(wanted)

    for _ in range(50 * count):
        if is_enough():
            break
        with connect() as client:
            seen.update(client.predict(expected.images[:1], deadline.left()).replicas)
    if not is_enough() or (not isinstance(wanted, int) and seen != set(wanted)):
        names = f"{count} replicas" if isinstance(wanted, int) else f"{sorted(wanted)}"
        raise _wrong(protocol, f"answers from {sorted(seen)}", f"answers from {names}")
    return seen


def _wrong(protocol: str, got: str, expected: str) -> ServingError:
    return ServingError(
        f"{protocol}: {got}",
        expected=expected,
        remedy="make sure that only this run's replicas use the ports, then run it again",
    )
