"""Metrics of a version that is tried: what the replica has sent it, and what came of that."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from mlpipeline.serving.trial import Trial


class TrialMetrics:
    """Tells of the trial that goes on, if one does; Prometheus' client collects it."""

    def __init__(self, name: str, find: Callable[[], Trial | None]) -> None:
        """Begin to tell.

        Args:
            name: What the model is called in URLs.
            find: Returns the trial; None for none.
        """
        self._name, self._find = name, find

    def collect(self) -> list[Metric]:
        """Return the metrics: Prometheus' client calls it."""
        labels = ["model", "version", "mode"]
        requests = CounterMetricFamily(
            "mlpipeline_trial_requests",
            "Requests that a version was tried on, by what came of them.",
            labels=[*labels, "outcome"],
        )
        images = CounterMetricFamily(
            "mlpipeline_trial_images",
            "Images that the tried version and the current one have answered, by their classes.",
            labels=[*labels, "classes"],
        )
        if trial := self._find():
            figures, order = trial.figures(), trial.order
            about = [self._name, order.challenger, order.mode]
            requests.add_metric([*about, "failed"], figures.failed)
            requests.add_metric([*about, "answered"], figures.tried - figures.failed)
            images.add_metric([*about, "same"], figures.agreed)
            images.add_metric([*about, "other"], figures.images - figures.agreed)
        return [requests, images]
