"""Step `train`: one process's part in training a candidate; the chief publishes it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

from mlpipeline.errors import RETRY_STATUS, ConfigurationError
from mlpipeline.learning.training import devices, trainers
from mlpipeline.learning.training.cluster_spec import ClusterSpec, ParameterServerSpec
from mlpipeline.learning.training.parameter_server import Helper
from mlpipeline.learning.training.run import Interrupted, Job, Outcome
from mlpipeline.plan.config import Candidate, Training
from mlpipeline.store import artifacts
from mlpipeline.store.layout import CandidateFolder
from mlpipeline.store.schemas.candidate import Metrics, TrainingHistory

_log = logging.getLogger(__name__)


def train(
    name: str,
    candidate: Candidate,
    settings: Training,
    *,
    seed: int,
    dataset: Path,
    work: Path,
    output: Path,
    cluster: ClusterSpec | ParameterServerSpec,
) -> None:
    """Train with the others of `cluster`, then leave this process with status 0.

    A run whose loss or weights are no longer finite is published as diverged: it cannot be
    selected, and it is no error, because the same configuration would diverge again.

    Args:
        name: The candidate's name, for the record.
        candidate: What to train and how.
        settings: How to carry it out.
        seed: Random seed for weights, order of the data and augmentation.
        dataset: A published data set.
        work: Folder for checkpoints and logs, on storage that all workers share.
        output: Where to publish the candidate, likewise; it may be in that folder.
        cluster: This process's place among the others.

    Raises:
        ConfigurationError: The cluster is not one for the configured strategy.
    """
    by_servers = isinstance(cluster, ParameterServerSpec)
    if by_servers != (settings.strategy == "parameter_server"):
        raise ConfigurationError(
            f"training.strategy is `{settings.strategy}`, TF_CONFIG describes {cluster}",
            expected="a cluster with `ps` for strategy `parameter_server`, and for no other",
            remedy="let a backend start it: `make run`, or a TFJob in a cluster",
        )
    if isinstance(cluster, ParameterServerSpec) and not cluster.is_chief:
        Helper(cluster).serve(output / artifacts.MANIFEST, seconds=settings.deadline_seconds)
        _leave(0)
    work.mkdir(parents=True, exist_ok=True)
    trainer = trainers.connect(Job(candidate, settings, seed, dataset, work), cluster)
    try:
        with contextlib.ExitStack() as stack:
            if cluster.is_chief:  # what is left of one that was killed is another thing
                stack.callback(CandidateFolder(work).progress.unlink, missing_ok=True)
            outcome = trainer.run()
    except Interrupted as interrupted:
        _log.info("%s", interrupted)
        _leave(RETRY_STATUS)
    if cluster.is_chief:
        facts = {
            "workers": cluster.size,
            "communication": settings.communication,
            "chief_device": devices.name(),
        }
        _publish(name, candidate, outcome, facts=facts, work=work, output=output)
    trainer.finish()
    if cluster.has_peers:
        _leave(0)


def _publish(
    name: str,
    candidate: Candidate,
    outcome: Outcome,
    *,
    facts: dict[str, Any],
    work: Path,
    output: Path,
) -> None:
    last = outcome.epochs[-1] if outcome.epochs else None
    sound = last if outcome.diverged_at is None else None
    with artifacts.publish(output) as draft:
        trained, published = CandidateFolder(work), CandidateFolder(draft)
        if sound:
            outcome.exportable.save(published.saved_model)
        if trained.checkpoints.exists():  # a run may diverge before its first checkpoint
            shutil.copytree(trained.checkpoints, published.checkpoints)
        if trained.tensorboard.exists():
            shutil.copytree(trained.tensorboard, published.tensorboard)
        TrainingHistory(epochs=tuple(outcome.epochs)).save(published.history)
        Metrics(
            candidate=name,
            status="trained" if sound else "diverged",
            diverged_at_step=outcome.diverged_at,
            validation_accuracy=sound.validation_accuracy if sound else None,
            validation_loss=sound.validation_loss if sound else None,
            parameters=outcome.parameters,
            **facts,
            sent_bytes_per_step=outcome.sent_bytes_per_step,
            seconds=last.seconds if last else None,
            cpu_seconds=last.cpu_seconds if last else None,
            recipe=candidate.model_dump(),
        ).save(published.metrics)
    if not output.is_relative_to(work):
        shutil.rmtree(work)


def _leave(status: int) -> NoReturn:
    """End this process without TensorFlow's shutdown, which would wait for peers that are gone."""
    os._exit(status)
