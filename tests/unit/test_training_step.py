"""Step `train`: which clusters a strategy can be trained by, before anything else is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import RETRY_STATUS, ConfigurationError
from mlpipeline.learning.training import trainers
from mlpipeline.learning.training.cluster_spec import ClusterSpec, ParameterServerSpec
from mlpipeline.learning.training.run import Interrupted
from mlpipeline.plan.config import Candidate, Training
from mlpipeline.steps import training
from mlpipeline.store.layout import CandidateFolder

ALONE = ClusterSpec()
WORKERS = ClusterSpec(("a:1", "b:1"))
BY_SERVERS = ParameterServerSpec("a:1", ("b:1",), ("c:1",))


class _ReachedError(Exception):
    """The step has gone on to look for the others."""


def _train(folder: Path, strategy: Any, cluster: ClusterSpec | ParameterServerSpec) -> None:
    training.train(
        "bn",
        Candidate(model="batch_norm"),
        Training(strategy=strategy, workers=1),
        seed=1,
        dataset=folder / "dataset",
        work=folder / "work",
        output=folder / "candidate",
        cluster=cluster,
    )


@pytest.mark.parametrize(
    ("strategy", "cluster"),
    [
        ("single", ALONE),
        ("multi_worker_mirrored", ALONE),
        ("multi_worker_mirrored", WORKERS),
        ("parameter_server", BY_SERVERS),
    ],
)
def test_a_cluster_that_fits_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, cluster: Any
) -> None:
    def connect(*_: object) -> None:
        raise _ReachedError

    monkeypatch.setattr(trainers, "connect", connect)
    with pytest.raises(_ReachedError):
        _train(tmp_path, strategy, cluster)


@pytest.mark.parametrize(
    ("strategy", "cluster"),
    [
        ("single", BY_SERVERS),
        ("multi_worker_mirrored", BY_SERVERS),
        ("parameter_server", ALONE),
        ("parameter_server", WORKERS),
    ],
)
def test_a_cluster_of_another_strategy_is_refused(
    tmp_path: Path, strategy: str, cluster: Any
) -> None:
    with pytest.raises(ConfigurationError, match=f"training.strategy is `{strategy}`"):
        _train(tmp_path, strategy, cluster)
    assert not any(tmp_path.iterdir())


def test_its_progress_goes_when_it_ends_in_whatever_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = CandidateFolder(tmp_path / "work").progress

    class Trainer:
        def run(self) -> None:
            progress.write_text("{}")
            raise Interrupted("stopped")

    monkeypatch.setattr(trainers, "connect", lambda *_: Trainer())
    monkeypatch.setattr(training, "_leave", sys.exit)
    with pytest.raises(SystemExit, match=str(RETRY_STATUS)):
        _train(tmp_path, "multi_worker_mirrored", WORKERS)
    assert not progress.exists()
