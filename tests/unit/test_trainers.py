"""Both trainers in one process: what a run comes to, also when it is stopped, resumed or diverges.

With other processes they are tried in tests/integration.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest
import tensorflow as tf

from mlpipeline import progress
from mlpipeline.errors import TrainingError
from mlpipeline.learning.model import augmentation
from mlpipeline.learning.training import journal, parameter_server, synchronous, trainers
from mlpipeline.learning.training.cluster_spec import ClusterSpec, ParameterServerSpec
from mlpipeline.learning.training.parameter_server import Chief, Helper
from mlpipeline.learning.training.run import (
    Attempt,
    Interrupted,
    Job,
    Outcome,
    Trainer,
    TrainingData,
)
from mlpipeline.learning.training.train_state import TrainState
from mlpipeline.learning.training.worker_group import WorkerGroup
from mlpipeline.plan.config import Candidate, Data, Training
from mlpipeline.steps import ingestion
from mlpipeline.store.layout import CandidateFolder
from mlpipeline.store.schemas.candidate import TrainingProgress

SERVERS = ParameterServerSpec("127.0.0.1:1", ("127.0.0.1:2",), ("127.0.0.1:3",))
TWO_WORKERS = ClusterSpec(("127.0.0.1:1", "127.0.0.1:2"), 1)
CANDIDATE = Candidate(
    model="cnn",
    options={"widths": [4], "units": 8},
    epochs=2,
    batch_size=80,
    optimizer="adam",
    precision="float32",
    schedule="constant",
)
STEPS = 8  # 320 images, twice


class Coordinator:
    """Does the workers' part in this process, a piece whenever it is asked whether all are done."""

    def __init__(self) -> None:
        self.strategy = tf.distribute.get_strategy()
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def schedule(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._waiting.append((function, args))

    def done(self) -> bool:
        if self._waiting:
            function, args = self._waiting.popleft()
            function(*args)
        return not self._waiting


def synchronous_trainer(
    job: Job, attempt: Attempt, cluster: ClusterSpec | None = None
) -> synchronous.Trainer:
    workers = WorkerGroup(cluster or ClusterSpec(), tf.distribute.get_strategy(), 60)
    return synchronous.Trainer(
        job, workers=workers, data=TrainingData.load(job.dataset), state=state(job), attempt=attempt
    )


def chief(job: Job, attempt: Attempt) -> Chief:
    return Chief(
        job,
        SERVERS,
        coordinator=Coordinator(),
        data=TrainingData.load(job.dataset),
        state=state(job),
        sums=tf.Variable(tf.zeros(3, tf.float64), trainable=False),
        attempt=attempt,
    )


def state(job: Job) -> TrainState:
    keras.utils.set_random_seed(job.seed)
    card = TrainingData.load(job.dataset).card
    return TrainState(job.candidate, card, tf.distribute.get_strategy(), STEPS)


@pytest.fixture(params=[synchronous_trainer, chief])
def make(request: pytest.FixtureRequest) -> Callable[[Job, Attempt], Trainer]:
    """Makes either trainer."""
    made: Callable[[Job, Attempt], Trainer] = request.param
    return made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "published"
    ingestion.ingest(Data(dataset="synthetic", validation=3_680, shards=4), folder)
    return folder


@pytest.fixture
def job(dataset: Path, tmp_path: Path) -> Job:
    settings = Training(checkpoint_steps=3, peer_timeout_seconds=60)
    return Job(CANDIDATE, settings, seed=1, dataset=dataset, work=tmp_path)


@pytest.fixture(autouse=True)
def handler_of_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def weights(outcome: Outcome) -> bytes:
    return b"".join(array.tobytes() for array in outcome.exportable.model.get_weights())


def test_a_stopped_run_is_resumed_and_a_finished_one_has_nothing_left_to_do(
    make: Callable[[Job, Attempt], Trainer], job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = Attempt()
    attempt.stop_on_sigterm()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="step"):
        make(job, attempt).run()
    assert not list((job.work / "checkpoints").glob("ckpt-8.*"))

    trainer = make(job, Attempt())
    outcome = trainer.run()
    trainer.finish()

    assert [(epoch.epoch, epoch.step) for epoch in outcome.epochs] == [(1, 4), (2, 8)]
    first, last = (epoch.loss for epoch in (outcome.epochs[0], outcome.epochs[-1]))
    assert first is not None
    assert last is not None
    assert last < first
    assert outcome.diverged_at is None
    assert outcome.parameters == outcome.exportable.model.count_params()
    assert list((job.work / "checkpoints").glob("ckpt-8.*"))
    values = [progress.parse(line) for line in capfd.readouterr().out.splitlines()]
    assert all(value["total"] == str(STEPS) for value in values if value)

    again = make(job, Attempt()).run()

    assert weights(again) == weights(outcome)
    assert again.epochs == outcome.epochs
    assert again.sent_bytes_per_step is None


def test_its_progress_is_written_down_now_and_then(
    make: Callable[[Job, Attempt], Trainer], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_server, "_REPORT_SECONDS", 0)
    monkeypatch.setattr(journal, "_PROGRESS_SECONDS", 1_000)
    make(job, Attempt()).run()
    first = TrainingProgress.load(CandidateFolder(job.work).progress)
    assert 0 < first.step <= STEPS == first.steps
    assert first.epoch == 1
    assert first.step_seconds == pytest.approx(CANDIDATE.batch_size / first.images_per_second)


def test_a_resumed_synchronous_run_ends_with_the_very_weights_of_an_undisturbed_one(
    job: Job, tmp_path: Path
) -> None:
    attempt = Attempt()
    attempt.stop_requested = True
    with pytest.raises(Interrupted, match="stopped at step 1 of 8"):
        synchronous_trainer(job, attempt).run()
    resumed = synchronous_trainer(job, Attempt()).run()
    other = replace(job, work=tmp_path / "other")
    assert weights(resumed) == weights(synchronous_trainer(other, Attempt()).run())


def test_each_epoch_has_a_step_where_a_batch_has_more_images_than_there_are(
    make: Callable[[Job, Attempt], Trainer], job: Job
) -> None:
    few = CANDIDATE.model_copy(update={"batch_size": 416, "epochs": 6})
    epochs = make(replace(job, candidate=few), Attempt()).run().epochs
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    steps = [0, *(epoch.step for epoch in epochs)]
    assert all(after > before for before, after in itertools.pairwise(steps))
    assert all(epoch.loss is not None and 0 < epoch.loss < 10 for epoch in epochs)


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [(640, [0, 1, 2, 3, 4]), (320, [0, 1, 2, 3, 4]), (160, [0, 0, 1, 1, 2])],
)
def test_a_view_is_of_the_epoch_that_goes_on(
    job: Job, monkeypatch: pytest.MonkeyPatch, batch_size: int, expected: list[int]
) -> None:
    seen = list[int]()

    def augment(images: Any, recipe: Any, seed: Any, epoch: Any) -> Any:
        seen.append(int(epoch))
        return images

    monkeypatch.setattr(augmentation, "augment", augment)
    trained = state(replace(job, candidate=CANDIDATE.model_copy(update={"batch_size": batch_size})))
    images = tf.zeros((4, *TrainingData.load(job.dataset).card.shape), tf.uint8)
    for _ in expected:
        trained.learn(images, tf.zeros(4, tf.int64), tf.constant(1, tf.int64))
    assert seen == expected


def test_a_run_that_diverges_ends_early_and_says_where(
    make: Callable[[Job, Attempt], Trainer], job: Job
) -> None:
    wild = CANDIDATE.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30})
    outcome = make(replace(job, candidate=wild), Attempt()).run()
    assert outcome.diverged_at is not None
    assert 0 < outcome.diverged_at <= STEPS


def test_a_worker_is_made_without_its_peers_and_only_the_chief_writes(job: Job) -> None:
    synchronous_trainer(job, Attempt(), TWO_WORKERS)
    assert not list(job.work.iterdir())


def test_both_are_told_when_the_workers_restored_different_checkpoints(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerGroup, "gather", lambda self, value: [value, value + 10])
    with pytest.raises(TrainingError, match=r"of steps \[0, 10\]"):
        synchronous_trainer(job, Attempt()).run()


def test_the_cluster_decides_which_trainer_a_process_is(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(kind: type, job: Job, cluster: object) -> tuple[type, object]:
        return kind, cluster

    for kind in (synchronous.Trainer, Chief):
        monkeypatch.setattr(kind, "connect", classmethod(connect))
    connected: list[object] = [trainers.connect(job, c) for c in (TWO_WORKERS, SERVERS)]
    assert connected == [(synchronous.Trainer, TWO_WORKERS), (Chief, SERVERS)]


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Helper:
    """A worker whose server is not started."""
    monkeypatch.setattr(Helper, "_start", lambda self: SimpleNamespace(target="grpc://nowhere"))
    monkeypatch.setattr(parameter_server, "_REPORT_SECONDS", 0.01)
    return Helper(replace(SERVERS, role="worker"))


def test_a_helper_ends_when_the_result_is_published(helper: Helper, tmp_path: Path) -> None:
    result = tmp_path / "manifest.json"
    result.touch()
    helper.serve(result, seconds=0)


def test_a_helper_whose_chief_publishes_nothing_says_so(helper: Helper, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has not published"):
        helper.serve(tmp_path / "manifest.json", seconds=0)


def test_validation_data_is_what_the_card_says(job: Job) -> None:
    data = TrainingData.load(job.dataset)
    assert data.validation.count == 3_680
    assert data.validation.shape == tuple(data.card.shape)
