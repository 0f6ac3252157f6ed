"""Metrics of the pipeline and of training, read from the workspace whenever somebody asks.

The processes that do the work end with it; what they have done is in the workspace, and stays there
when a controller or a Prometheus starts anew. So one process reads it, on either backend, and needs
no right in a cluster. Names and units are as Prometheus has them:
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from mlpipeline import addresses
from mlpipeline.errors import ArtifactError, ServingError
from mlpipeline.store import history
from mlpipeline.store.layout import CANDIDATES, MODELS, RUNS, CandidateFolder, Workspace
from mlpipeline.store.schemas.candidate import TrainingProgress
from mlpipeline.store.schemas.run import Run, RunState

_log = logging.getLogger(__name__)

_LEFT_BEHIND_SECONDS = 3600.0  # a training that was killed, and that nobody has gone on with since
_TLS_SECONDS = 5.0

_PREFIX = "mlpipeline_"
_ABOUT = {
    "runs": "Runs whose record is in the workspace, by how they ended.",
    "run_tasks": "What the tasks of these runs came to: reused is a hit of the memo.",
    "last_run_timestamp_seconds": "When the newest run ended that ended so.",
    "last_run_seconds": "How long that run took.",
    "last_run_step_seconds": "How long the tasks of a step took in the newest run, together.",
    "current_version": "Which version of a model is current.",
    "training_steps": "Steps that a training has done.",
    "training_planned_steps": "Steps that it will do.",
    "training_loss": "Mean loss of the epoch that goes on.",
    "training_accuracy_ratio": "Share of hits on the training images of that epoch.",
    "training_images_per_second": "Images that all workers together take in a second.",
    "training_step_seconds": "How long a step takes.",
    "training_progress_timestamp_seconds": "When a step of it was done last.",
    "workspace_size_bytes": "How large the file system of the workspace is.",
    "workspace_available_bytes": "How much room it has.",
    "certificate_expiry_timestamp_seconds": "When the certificate of a server expires.",
}
_OF_TRAINING = {
    "training_steps": "step",
    "training_planned_steps": "steps",
    "training_loss": "loss",
    "training_accuracy_ratio": "accuracy",
    "training_images_per_second": "images_per_second",
    "training_step_seconds": "step_seconds",
}


def serve(collector: WorkspaceMetrics, host: str, port: int) -> threading.Thread:
    """Tell a workspace's metrics at `/metrics` from now on.

    Args:
        collector: The metrics.
        host: The address to listen on.
        port: The port; 0 for any that is free.

    Returns:
        What does it, for the caller to wait for.

    Raises:
        ServingError: The port is in use.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ServingError(
            f"cannot listen on {addresses.join(host, port)}: {error}",
            expected="a free port",
            remedy="stop what uses it (`ss -ltnp` names it) or choose another: --port",
        ) from None
    at = addresses.join(host, server.server_port)
    _log.info("metrics of %s: http://%s/metrics", collector.workspace, at)
    return thread


class WorkspaceMetrics:
    """Reads what is in a workspace; Prometheus' client collects it."""

    def __init__(self, workspace: Workspace, certificates: Sequence[str] = ()) -> None:
        """Remember where to look.

        Args:
            workspace: The folder of all artifacts.
            certificates: HOST:PORT of servers whose certificates may expire.
        """
        self.workspace = workspace
        self._certificates = certificates
        # When each record was written that was read, and what it says.
        self._runs: dict[Path, tuple[int, _Recorded | None]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics: Prometheus' client calls it.

        Raises:
            OSError: There is no workspace, or it is closed to this user. A scrape that fails is
                seen; one without runs would look as if there were none.
        """
        for place in ("", RUNS, MODELS, CANDIDATES):
            with contextlib.suppress(FileNotFoundError):
                list((self.workspace.root / place).iterdir())
        yield from self._of_runs()
        yield from self._of_trainings()
        yield self._current()
        yield from self._of_room()
        yield self._expiries()

    def _of_runs(self) -> Iterator[Metric]:
        runs = sorted(self._recorded(), key=lambda run: run.ended)
        count = Counter((run.model, run.state) for run in runs)
        yield _gauge("runs", ("model", "state"), count)
        tasks: Counter[tuple[str, ...]] = Counter()
        for run in runs:
            tasks.update({(run.model, *task): number for task, number in run.tasks.items()})
        yield _gauge("run_tasks", ("model", "step", "state"), tasks)
        over = [run for run in runs if run.state != "running"]
        last = {(run.model, run.state): run for run in over}  # of several the newest
        ended = {which: run.ended for which, run in last.items()}
        yield _gauge("last_run_timestamp_seconds", ("model", "state"), ended)
        took = {which: run.seconds for which, run in last.items()}
        yield _gauge("last_run_seconds", ("model", "state"), took)
        newest = {run.model: run for run in over}
        steps = {
            (model, step): seconds
            for model, run in newest.items()
            for step, seconds in run.by_step.items()
        }
        yield _gauge("last_run_step_seconds", ("model", "step"), steps)

    def _recorded(self) -> list[_Recorded]:
        """All runs; only records that are new since the last time are read."""
        known, self._runs = self._runs, {}
        for folder in self.workspace.runs():
            try:
                written = folder.record.stat().st_mtime_ns
            except OSError:  # it has none yet, or was just removed
                continue
            before = known.get(folder.path)
            if before is None or before[0] != written:
                before = written, _read(folder.record)
            self._runs[folder.path] = before
        return [run for _, run in self._runs.values() if run]

    def _of_trainings(self) -> Iterator[Metric]:
        trainings = dict(self._under_way())
        labels = ("candidate", "key")
        for name, field in _OF_TRAINING.items():
            values = {which: getattr(said, field) for which, (said, _) in trainings.items()}
            yield _gauge(name, labels, values)
        moments = {which: moment for which, (_, moment) in trainings.items()}
        yield _gauge("training_progress_timestamp_seconds", labels, moments)

    def _under_way(self) -> Iterator[tuple[tuple[str, str], tuple[TrainingProgress, float]]]:
        for key, folder in self.workspace.trainings():
            said = _progress(folder)
            if said and time.time() - said[1] < _LEFT_BEHIND_SECONDS:
                yield (key.rpartition("-")[0], key), said

    def _current(self) -> Metric:
        family = InfoMetricFamily(*_named("current_version"), labels=("model",))
        for model in self.workspace.model_names():
            try:
                version = history.pointed_at(self.workspace, model)
            except ArtifactError as error:
                _log.warning("%s", error.got)
                continue
            if version:
                family.add_metric((model,), {"version": version})
        return family

    def _of_room(self) -> Iterator[Metric]:
        room = shutil.disk_usage(self.workspace.root)
        yield _gauge("workspace_size_bytes", (), {(): room.total})
        yield _gauge("workspace_available_bytes", (), {(): room.free})

    def _expiries(self) -> Metric:
        found = {}
        for address in self._certificates:
            try:
                found[(address,)] = expiry(address)
            except (OSError, ValueError) as error:  # of TLS, too
                _log.warning("no certificate of %s: %s", address, error)
        return _gauge("certificate_expiry_timestamp_seconds", ("address",), found)


@dataclass(frozen=True)
class _Recorded:
    """What is told of a run."""

    model: str
    state: RunState
    ended: float
    seconds: float
    tasks: Counter[tuple[str, ...]]
    by_step: dict[str, float]


def _read(record: Path) -> _Recorded | None:
    """Read a run's record; None if that cannot be, which is logged."""
    try:
        run = Run.load(record)
    except ArtifactError as error:
        _log.warning("a run is not counted: %s", error.got)
        return None
    by_step: dict[str, float] = {}
    for task in run.tasks:
        by_step[task.step] = by_step.get(task.step, 0.0) + task.seconds
    return _Recorded(
        model=run.name,
        state=run.state,
        ended=datetime.fromisoformat(run.ended).timestamp(),
        seconds=run.seconds,
        tasks=Counter((task.step, task.state) for task in run.tasks),
        by_step=by_step,
    )


def _progress(folder: CandidateFolder) -> tuple[TrainingProgress, float] | None:
    """How far a training is, and when it said so; None if it does not say."""
    try:
        return TrainingProgress.load(folder.progress), folder.progress.stat().st_mtime
    except (ArtifactError, OSError):  # it has just ended, for one
        return None


def expiry(address: str) -> float:
    """Return when the certificate of a server expires, whoever has signed it, in Unix' seconds.

    Args:
        address: HOST:PORT.

    Raises:
        OSError: It does not answer, or speaks no TLS.
        ValueError: That is no address, or no certificate.
    """
    from cryptography import x509  # of the extra `cluster`: elsewhere nobody asks

    host, _, port = address.rpartition(":")
    text = ssl.get_server_certificate((host, int(port)), timeout=_TLS_SECONDS)
    return x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc.timestamp()


def _gauge(name: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(*_named(name), labels=labels)
    for which, value in values.items():
        family.add_metric(which, value)
    return family


def _named(name: str) -> tuple[str, str]:
    """Return a metric's whole name, and what it says."""
    return f"{_PREFIX}{name}", _ABOUT[name]
