"""Verify: what is served is the model that was trained, on every protocol and every replica.

One protocol sends the whole test split, the others a sample of it, as the requests say the same in
other words: JSON of large images takes a hundred times as long as their bytes. Any run of
consecutive images of a split is a fair sample (ingestion deals them out so); the first ones are it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mlpipeline import progress
from mlpipeline.errors import ServingError
from mlpipeline.learning.data.images import rows_in_a_batch
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

_BATCH = 250  # images of a request, and of large ones fewer, see `rows_in_a_batch`
_SAMPLE = 1_000  # images; of large ones as many as have these bytes, but so many at least
_SAMPLE_BYTES, _LEAST_SAMPLE = 64 << 20, 100
_CONNECTIONS = 4
_PATIENCE = 10  # how many times longer than the first request each may take on average

Batch = tuple[Images, npt.NDArray[np.integer]]


class TestSplit(Protocol):
    """Test images and their labels, read as a stream: `mlpipeline.learning.data.splits` has one."""

    shape: tuple[int, ...]
    """The shape of an image."""
    count: int
    """How many there are."""

    def batches(self, rows: int) -> Iterator[Batch]:
        """Yield images, uint8 `[B, *shape]`, and labels, `[B]`; `rows` of them but for the last."""


@dataclass(frozen=True)
class Expected:
    """What the trained model said of the test split.

    Attributes:
        split: The images and their classes.
        probabilities: The recorded probabilities: float32 `[N, classes]`, maybe in a mapped file.
        accuracy: The share of hits of these probabilities, as it was recorded, 0 to 1.
        replicas: The names of all replicas; or how many must answer at least, where they come and
            go with the load.
    """

    split: TestSplit
    probabilities: npt.NDArray[np.float32]
    accuracy: float
    replicas: Collection[str] | int


def verify(
    *,
    base_url: str,
    grpc_address: str,
    name: str,
    expected: Expected,
    images: int | Literal["all"] = "all",
    timeout: float = 300.0,
) -> Verification:
    """Send images through V1 JSON, V2 JSON, V2 binary and gRPC, and compare.

    Args:
        base_url: The URL of the REST port, such as `http://127.0.0.1:8080`.
        grpc_address: HOST:PORT.
        name: What the model is called in URLs.
        expected: What must come back.
        images: How many are sent by gRPC, the quickest; the others send a sample of these.
        timeout: Seconds that it may take, beside ten times what all requests of a protocol take if
            each takes as long as its first one.

    Raises:
        DamagedArtifactError: An image cannot be read.
        ServingError: An answer is missing or wrong, or a replica did not answer in time.
    """
    all_of_them = expected.split.count if images == "all" else min(images, expected.split.count)
    sample = min(all_of_them, sample_size(expected.split.shape))
    protocols: dict[str, tuple[Callable[[], Client], int]] = {
        "V1 JSON": (lambda: V1Client(base_url, name), sample),
        "V2 JSON": (lambda: V2JsonClient(base_url, name), sample),
        "V2 binary": (lambda: V2BinaryClient(base_url, name), sample),
        "V2 gRPC": (lambda: GrpcClient(grpc_address, name), all_of_them),
    }
    deadline = _Deadline(timeout)
    figures: list[ProtocolFigures] = []
    done, total = 0, sum(count for _, count in protocols.values())
    for protocol, (connect, count) in protocols.items():
        report = _Reporter(protocol, done, total)
        sending = _Sending(protocol, connect, expected, count, deadline, report)
        figures.append(sending.run())
        done += count
    progress.report(total, total)
    seen = {replica for protocol in figures for replica in protocol.replicas}
    return Verification(
        replicas=tuple(sorted(seen)),
        protocols=tuple(figures),
        test_images=expected.split.count,
    )


def sample_size(shape: tuple[int, ...]) -> int:
    """Return how many images of a shape are sent by the protocols that do not send all."""
    return min(_SAMPLE, max(_LEAST_SAMPLE, _SAMPLE_BYTES // math.prod(shape)))


class _Reporter:
    """Says how far it is, once a second at most."""

    def __init__(self, protocol: str, before: int, total: int) -> None:
        self._protocol, self._before, self._total = protocol, before, total
        self._next = 0.0

    def report(self, done: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            progress.report(self._before + done, self._total, protocol=self._protocol)


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def allow(self, seconds: float) -> None:
        """Allow so many seconds more."""
        self._seconds += seconds
        self._end += seconds

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            ServingError: None are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise ServingError(
                f"the verification was not finished after {self._seconds:.0f} s",
                expected="an answer to every request, on average within ten times the time of the "
                "first one",
                remedy="look at the log of the replicas; send fewer images: verify.images",
            )
        return left


@dataclass
class _Comparison:
    """What came back so far, against what was recorded.

    Attributes:
        images: How many images were compared.
        difference: The largest difference of a probability.
        hits: How many served classes were right.
        recorded: How many recorded ones were.
        ties: Of how many images another class was as good.
        replicas: Who answered.
    """

    protocol: str
    images: int = 0
    difference: float = 0.0
    hits: int = 0
    recorded: int = 0
    ties: int = 0
    replicas: frozenset[str] = frozenset()

    def add(
        self,
        answer: Prediction,
        recorded: npt.NDArray[np.float32],
        labels: npt.NDArray[np.integer],
        first: int,
    ) -> None:
        """Compare the answer to one request.

        Args:
            answer: What came back.
            recorded: The recorded probabilities: float32 `[B, classes]`.
            labels: The true classes: `[B]`.
            first: Number of the first image.

        Raises:
            ServingError: Probabilities or classes are not the recorded ones.
        """
        probabilities, classes = answer.probabilities, answer.classes
        if probabilities.shape != recorded.shape or classes.shape != labels.shape:
            raise _wrong(
                self.protocol,
                f"probabilities {probabilities.shape} and classes {classes.shape}",
                f"{recorded.shape} and {labels.shape}",
            )
        difference = float(np.abs(probabilities - recorded).max())
        if not difference <= TOLERANCE:  # so that NaN fails
            raise _wrong(
                self.protocol,
                f"a probability that is {difference:.2g} off",
                f"at most {TOLERANCE:g}",
            )
        # Where two classes are as good as equal, either is right.
        as_good = recorded >= recorded.max(axis=1, keepdims=True) - 2 * TOLERANCE
        wrong = np.flatnonzero(~as_good[np.arange(len(classes)), classes])
        if wrong.size:
            place = int(wrong[0])
            raise _wrong(
                self.protocol,
                f"{wrong.size} other classes of {len(classes)}, the first for image "
                f"{first + place}: {classes[place]}",
                f"{recorded[place].argmax()}",
            )
        self.images += len(classes)
        self.difference = max(self.difference, difference)
        self.hits += int((classes == labels).sum())
        self.recorded += int((recorded.argmax(axis=1) == labels).sum())
        self.ties += int((as_good.sum(axis=1) > 1).sum())
        self.replicas |= set(answer.replicas)


@dataclass
class _Sending:
    """One protocol's part: requests over several connections, compared as they are answered."""

    protocol: str
    connect: Callable[[], Client]
    expected: Expected
    count: int
    deadline: _Deadline
    reporter: _Reporter

    def __post_init__(self) -> None:
        split = self.expected.split
        self._rows = rows_in_a_batch(split.shape, _BATCH)
        requests = math.ceil(self.count / self._rows)
        self._connections = min(_CONNECTIONS, requests)
        self._rounds = math.ceil(requests / _CONNECTIONS)
        self._requests = enumerate(islice(split.batches(self._rows), requests))
        self._reading, self._comparing = threading.Lock(), threading.Lock()
        self._comparison = _Comparison(self.protocol)
        self._failed = False

    def run(self) -> ProtocolFigures:
        """Send the images, and see that every replica answers."""
        start = time.monotonic()
        with ThreadPoolExecutor(self._connections) as threads:
            connections = [threads.submit(self._send) for _ in range(self._connections)]
        for connection in connections:
            connection.result()  # raises what it has failed with
        seconds = time.monotonic() - start
        compared = self._comparison
        recorded = self._recorded_accuracy()
        accuracy = compared.hits / compared.images
        if abs(accuracy - recorded) > compared.ties / compared.images + 1e-9:
            raise _wrong(self.protocol, f"accuracy {accuracy:.4f}", f"{recorded:.4f} as recorded")
        seen = _find_replicas(
            self.protocol, self.connect, set(compared.replicas), self.expected, self.deadline
        )
        return ProtocolFigures(
            protocol=self.protocol,
            images=compared.images,
            max_difference=compared.difference,
            accuracy=accuracy,
            recorded_accuracy=recorded,
            seconds=seconds,
            images_per_second=compared.images / seconds,
            replicas=tuple(sorted(seen)),
        )

    def _recorded_accuracy(self) -> float:
        """The accuracy that was recorded: of all images, or of those that were sent."""
        if self.count == self.expected.split.count:
            return self.expected.accuracy
        return self._comparison.recorded / self._comparison.images

    def _send(self) -> None:
        """Send what is next over one connection, until nothing is left."""
        try:
            with self.connect() as client:
                while (request := self._next()) is not None:
                    self._answer(client, *request)
        except BaseException:
            self._failed = True  # the others need not go on
            raise

    def _next(self) -> tuple[int, Batch] | None:
        with self._reading:
            return None if self._failed else next(self._requests, None)

    def _answer(self, client: Client, number: int, batch: Batch) -> None:
        first = number * self._rows
        images, labels = batch[0][: self.count - first], batch[1][: self.count - first]
        began = time.monotonic()
        answer = client.predict(images, self.deadline.left())
        if number == 0:
            self.deadline.allow(_PATIENCE * self._rounds * (time.monotonic() - began))
        recorded = self.expected.probabilities[first : first + len(images)]
        with self._comparing:
            self._comparison.add(answer, recorded, labels, first)
            self.reporter.report(self._comparison.images)


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

    image, _ = next(expected.split.batches(1))
    for _ in range(50 * count):
        if is_enough():
            break
        with connect() as client:
            seen.update(client.predict(image, deadline.left()).replicas)
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
