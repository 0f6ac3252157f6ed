"""Metrics of a served model: what is counted, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.exposition import generate_latest

from mlpipeline.serving import model_metrics
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.metrics import SharedMetrics
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.model_metrics import ModelMetrics
from mlpipeline.serving.predictor import Predictor

CLASSES = ("dark", "bright", "never")


def brightness(images: Images) -> Probabilities:
    """Say how bright images are, of 2 × 2 pixels."""
    bright = images.reshape(len(images), -1).mean(axis=1) / 255
    return np.stack([1 - bright, bright, np.zeros_like(bright)], axis=1).astype(np.float32)


MODEL = PublishedModel("m-1", "0123", CLASSES, (2, 2), brightness, variant="int8-full")
BLACK, WHITE = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
STRIPED = np.array([[0, 255], [0, 255]], np.uint8)


@pytest.fixture(autouse=True)
def _nobody_else_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_metrics, "_SECONDS", 1000)


def told(metrics: ModelMetrics) -> dict[str, float]:
    """Return all series by their names and the labels that not all have."""

    lines = generate_latest(metrics).decode().splitlines()
    series = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    told = {}
    for name, _, value in series:
        own = re.sub(r',?(model="m"|version="m-1")', "", name).replace("{,", "{").replace("{}", "")
        told[own] = float(value)
    return told


def observed(*batches: tuple[list[Images], list[float]]) -> ModelMetrics:
    metrics = ModelMetrics("m", MODEL, max_batch=64, queue_length=lambda: 3)
    for images, waited in batches:
        stacked = np.stack(images)
        metrics.observe(stacked, brightness(stacked), waited)
    return metrics


def test_what_is_said_and_asked_is_counted() -> None:
    series = told(observed(([BLACK, STRIPED, WHITE], [0.003, 0.2]), ([WHITE], [0.0])))
    assert series['mlpipeline_predictions_total{class="dark"}'] == 2  # of two alike the first
    assert series['mlpipeline_predictions_total{class="bright"}'] == 2
    assert series['mlpipeline_predictions_total{class="never"}'] == 0
    assert series["mlpipeline_blank_images_total"] == 3
    assert series["mlpipeline_queue_requests"] == 3
    assert series['mlpipeline_model_info{engine="litert",precision="int8-full"}'] == 1
    confidence = {
        bound: series[f'mlpipeline_prediction_confidence_ratio_bucket{{le="{bound}"}}']
        for bound in ("0.4", "0.5", "0.99", "1.0", "+Inf")
    }
    assert confidence == {"0.4": 0, "0.5": 1, "0.99": 1, "1.0": 4, "+Inf": 4}
    assert series["mlpipeline_prediction_confidence_ratio_sum"] == 3.5
    assert series['mlpipeline_image_mean_ratio_bucket{le="0.1"}'] == 1
    assert series['mlpipeline_image_mean_ratio_bucket{le="0.5"}'] == 2
    assert series["mlpipeline_image_mean_ratio_sum"] == 2.5
    assert series['mlpipeline_image_contrast_ratio_bucket{le="0.05"}'] == 3
    assert series["mlpipeline_image_contrast_ratio_sum"] == 0.5
    assert series['mlpipeline_batch_images_bucket{le="1.0"}'] == 1
    assert series['mlpipeline_batch_images_bucket{le="4.0"}'] == 2
    assert series['mlpipeline_batch_images_bucket{le="64.0"}'] == 2
    assert series["mlpipeline_batch_images_sum"] == 4
    assert series['mlpipeline_queue_seconds_bucket{le="0.005"}'] == 2
    assert series["mlpipeline_queue_seconds_count"] == 3


def test_the_page_about_them_names_each() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md").read_text()
    samples = {sample.name for metric in observed().collect() for sample in metric.samples}
    names = {re.sub("_(bucket|count|sum|created)$", "", name) for name in samples}
    assert set(re.findall(r"^\| `(mlpipeline_\w+)`", page, re.MULTILINE)) >= names


def test_what_was_counted_stays() -> None:
    metrics = observed(([BLACK], [0.0]))
    told(metrics)
    metrics.observe(BLACK[np.newaxis], brightness(BLACK[np.newaxis]), (5.0,))
    series = told(metrics)
    assert series['mlpipeline_predictions_total{class="dark"}'] == 2
    assert series['mlpipeline_queue_seconds_bucket{le="2.5"}'] == 1
    assert series["mlpipeline_queue_seconds_count"] == 2


def test_images_that_change_afterwards_were_counted_as_they_were() -> None:
    """They may lie in a request's body, whose memory is used again, or is much larger."""
    metrics = ModelMetrics("m", MODEL, max_batch=64, queue_length=lambda: 0)
    images = BLACK[np.newaxis].copy()
    metrics.observe(images, brightness(images), (0.0,))
    images[:] = STRIPED
    assert told(metrics)["mlpipeline_blank_images_total"] == 1


def test_no_more_than_some_images_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_metrics, "_HELD_BYTES", 9)
    metrics = observed(([BLACK], [0.0]), ([BLACK], [0.0]), ([BLACK], [0.0]), ([BLACK], [0.0]))
    assert [len(batch.images) for batch in metrics._batches] == [1]
    assert told(metrics)["mlpipeline_batch_images_count"] == 4


def test_a_thread_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_metrics, "_SECONDS", 0.01)
    metrics = observed(([BLACK], [0.0]))

    async def until_it_has() -> None:
        async with asyncio.timeout(10):
            while metrics._batches:
                await asyncio.sleep(0.01)

    asyncio.run(until_it_has())


def asked(predictor: Predictor) -> str:
    """Ask a predictor some things, alone and together, and return what `/metrics` says then."""

    async def ask() -> str:
        for images in ([BLACK], [WHITE], [STRIPED] * 100):
            await predictor.classify(np.stack(images), None, asked=None)
        predictor._batcher.close()  # a batch is counted once its answer is on its way
        text, _ = await SharedMetrics("here:3", "a", predictor.collectors).exposition("")
        return text.decode()

    return asyncio.run(ask())


def test_a_predictor_tells_of_what_it_was_asked_and_of_no_warming_up() -> None:
    text = asked(Predictor("m", MODEL))
    common = 'model="m",replica="a",version="m-1"'
    assert f'mlpipeline_predictions_total{{class="dark",{common}}} 101.0' in text
    assert f'mlpipeline_predictions_total{{class="bright",{common}}} 1.0' in text
    assert f"mlpipeline_queue_seconds_count{{{common}}} 4.0" in text  # a batch has 64 images
    assert f"mlpipeline_batch_images_sum{{{common}}} 102.0" in text
    assert 'mlpipeline_model_info{engine="litert",' in text
    assert "python_info" in text


def test_they_can_be_turned_off() -> None:
    text = asked(Predictor("m", MODEL, metrics=False))
    # Of requests the server tells in any case.
    assert set(re.findall(r"^mlpipeline_[a-z]+", text, re.MULTILINE)) <= {"mlpipeline_requests"}


def test_they_can_be_sent_to_a_sibling() -> None:
    part = SharedMetrics("here:4", "a", Predictor("m", MODEL).collectors)._own()
    assert json.loads(json.dumps(part))["replica"] == "a"


def test_an_observer_that_fails_takes_no_answer_away(caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor("m", MODEL, metrics=False)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    predictor._batcher.add_observer(fail)

    async def ask() -> None:
        for count in (1, 100, 1):
            probabilities, _ = await predictor.classify(np.stack([WHITE] * count), None, asked=None)
            assert probabilities.argmax(axis=1).tolist() == [1] * count

    asyncio.run(ask())
    assert "a batch of 1 was answered, but not observed" in caplog.text
