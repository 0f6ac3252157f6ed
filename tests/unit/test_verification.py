"""What the verification accepts, and what it refuses, of replicas that are not there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlpipeline.errors import ServingError
from mlpipeline.learning.data import images
from mlpipeline.serving.arrays import Images
from mlpipeline.serving.clients import Prediction
from mlpipeline.steps import verification
from mlpipeline.steps.verification import Expected
from mlpipeline.store.schemas.run import ProtocolFigures
from support.memory_split import MemorySplit

COUNT = 1200
PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(10), COUNT).astype(np.float32)
CLASSES = PROBABILITIES.argmax(axis=1)
LABELS = np.where(np.arange(COUNT) % 4 == 0, (CLASSES + 1) % 10, CLASSES)
# The number of each image is in its first bytes: the fake replica knows it by that.
IMAGES = np.zeros((COUNT, 4), np.uint8)
IMAGES[:, :2] = np.arange(COUNT, dtype="<u2").view(np.uint8).reshape(-1, 2)
SPLIT = MemorySplit(IMAGES, LABELS)
EXPECTED = Expected(SPLIT, PROBABILITIES, 0.75, ["a", "b"])
SAMPLE = 1_000

Change = Callable[[Prediction], Prediction]


class FakeClient:
    """Answers with the recorded probabilities, changed; replicas take turns by connection."""

    change: Change = staticmethod(lambda answer: answer)
    turns = itertools.cycle("ab")

    def __init__(self, address: str, name: str) -> None:
        self._replica = next(self.turns)

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def predict(self, images: Images, timeout: float) -> Prediction:
        """Know the images by their numbers."""
        assert timeout > 0
        numbers = np.ascontiguousarray(images[:, :2]).view("<u2").ravel()
        return self.change(Prediction(PROBABILITIES[numbers], CLASSES[numbers], self._replica))


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Let every protocol reach the fake replicas; returns how to change their answers."""
    for client in ("V1Client", "V2JsonClient", "V2BinaryClient", "GrpcClient"):
        monkeypatch.setattr(verification, client, FakeClient)
    monkeypatch.setattr(FakeClient, "turns", itertools.cycle("ab"))

    def behave(change: Change) -> None:
        monkeypatch.setattr(FakeClient, "change", staticmethod(change))

    return behave


def _verify(expected: Expected = EXPECTED, **options: Any) -> tuple[ProtocolFigures, ...]:
    figures = verification.verify(
        base_url="http://nowhere", grpc_address="nowhere:1", name="m", expected=expected, **options
    )
    assert figures.replicas == ("a", "b")
    assert figures.test_images == COUNT
    return figures.protocols


@pytest.mark.usefixtures("replicas")
def test_equal_answers_are_accepted_on_every_protocol() -> None:
    figures = _verify()
    assert [each.protocol for each in figures] == ["V1 JSON", "V2 JSON", "V2 binary", "V2 gRPC"]
    assert [each.images for each in figures] == [SAMPLE, SAMPLE, SAMPLE, COUNT]
    for each in figures:
        assert each.max_difference == 0
        assert each.accuracy == each.recorded_accuracy == 0.75
        assert each.replicas == ("a", "b")


@pytest.mark.usefixtures("replicas")
@pytest.mark.parametrize(("asked", "sent"), [("all", COUNT), (777, 777), (5, 5), (9_999, COUNT)])
def test_so_many_images_are_sent_as_is_asked_for(asked: Any, sent: int) -> None:
    figures = _verify(images=asked)
    assert [each.images for each in figures] == [*[min(sent, SAMPLE)] * 3, sent]
    assert figures[0].accuracy == np.mean(np.arange(min(sent, SAMPLE)) % 4 != 0)


def test_a_sample_of_large_images_is_smaller() -> None:
    assert verification.sample_size((28, 28)) == SAMPLE
    assert verification.sample_size((224, 224, 3)) == 445
    assert verification.sample_size((2_000, 2_000, 3)) == 100


def test_a_request_has_as_many_images_as_have_so_many_bytes(
    replicas: Callable[[Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(images, "_BATCH_BYTES", 30 * 4)

    def remember(answer: Prediction) -> Prediction:
        sizes.append(len(answer.classes))
        return answer

    replicas(remember)
    _verify(images=100)
    assert sorted(sizes)[-16:] == [10, 10, 10, 10, *[30] * 12]


def test_time_follows_from_the_number_of_images(
    replicas: Callable[[Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allowed in all is less than it takes: the first answers tell how long it may take."""
    monkeypatch.setattr(images, "_BATCH_BYTES", 30 * 4)
    monkeypatch.setattr(verification, "_find_replicas", lambda *_: {"a", "b"})

    def wait(answer: Prediction) -> Prediction:
        time.sleep(0.05)
        return answer

    replicas(wait)
    began = time.monotonic()
    _verify(timeout=0.3)
    assert time.monotonic() - began > 0.6


def test_one_answer_that_does_not_come_ends_it(
    replicas: Callable[[Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_BATCH_BYTES", 30 * 4)

    def hang(answer: Prediction) -> Prediction:
        is_first = np.array_equal(answer.probabilities[0], PROBABILITIES[0])
        time.sleep(0.001 if is_first else 1.0)
        return answer

    replicas(hang)
    with pytest.raises(ServingError, match="not finished after"):
        _verify(timeout=0.2)


def test_a_difference_within_the_tolerance_is_reported(replicas: Callable[[Change], None]) -> None:
    replicas(lambda answer: answer._replace(probabilities=answer.probabilities + np.float32(5e-6)))
    assert all(4e-6 < each.max_difference < 6e-6 for each in _verify())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda answer: answer._replace(probabilities=answer.probabilities + 1e-3), "0.001 off"),
        (lambda answer: answer._replace(probabilities=answer.probabilities * np.nan), "nan off"),
        (lambda answer: answer._replace(classes=(answer.classes + 1) % 10), "other classes"),
        (lambda answer: answer._replace(probabilities=answer.probabilities[:, :9]), "(250, 9)"),
        (lambda answer: answer._replace(replica="a"), "answers from ['a']"),
        (lambda answer: answer._replace(replica="stranger"), "answers from ['stranger']"),
    ],
    ids=["probabilities", "nan", "classes", "shape", "silent replica", "stranger"],
)
def test_wrong_answers_are_refused(
    replicas: Callable[[Change], None], change: Change, told: str
) -> None:
    replicas(change)
    with pytest.raises(ServingError) as refused:
        _verify()
    assert told in refused.value.got
    assert refused.value.got.startswith("V1 JSON")


@pytest.mark.usefixtures("replicas")
def test_an_accuracy_other_than_the_recorded_one_is_refused() -> None:
    with pytest.raises(ServingError, match=r"accuracy 0\.7500"):
        _verify(replace(EXPECTED, accuracy=0.76))


def test_either_of_two_equal_classes_is_right(replicas: Callable[[Change], None]) -> None:
    tied = PROBABILITIES.copy()
    other = (CLASSES[0] + 1) % 10
    tied[0, other] = tied[0, CLASSES[0]]

    def choose_the_other(answer: Prediction) -> Prediction:
        first = (answer.probabilities == PROBABILITIES[0]).all(axis=1)
        return answer._replace(
            probabilities=np.where(first[:, None], tied[0], answer.probabilities),
            classes=np.where(first, other, answer.classes),
        )

    replicas(choose_the_other)
    for each in _verify(replace(EXPECTED, probabilities=tied)):
        assert abs(each.accuracy - EXPECTED.accuracy) < 1.5 / COUNT


@pytest.mark.usefixtures("replicas")
def test_it_ends_at_its_deadline() -> None:
    with pytest.raises(ServingError, match="not finished"):
        _verify(timeout=0.0)
