"""Two real workers: one model out of both, whatever becomes of a worker on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlpipeline import artifacts
from mlpipeline.config import Data
from mlpipeline.learning.cards import DatasetCard
from mlpipeline.learning.cluster_spec import to_environment
from pipelines import (
    Command,
    Pipeline,
    addresses,
    configuration,
    processor,
    progress_of,
    wait_until,
)

pytestmark = pytest.mark.timeout(900)

SCRIPT = Path(__file__).with_name("weights_of_worker.py")
WORKERS = 2
# Survivors notice a killed peer within a second; then they have to end.
SECONDS_TO_END = 60


def prepare(folder: Path, content: dict[str, Any]) -> Pipeline:
    """A workspace with the data set that the configuration describes, ingested here."""
    from mlpipeline.steps import ingestion  # TensorFlow

    prepared = Pipeline(folder, content)
    ingestion.ingest(Data(**content["data"]), prepared.published("ingest"))
    return prepared


# --- one update for all -------------------------------------------------------------------------

# So few steps that float32's rounding has no time to grow: 8 steps of 80 images.
PLAIN = {"model": "cnn", "options": {"widths": [4, 8], "units": 16}, "epochs": 2}
PLAIN |= {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "constant"}


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    content = configuration(
        {
            "whole": PLAIN | {"batch_size": 80},
            # A worker alone gets its part of every global batch.
            **{f"half-{index}": PLAIN | {"batch_size": 40} for index in range(WORKERS)},
        },
        data={"dataset": "synthetic", "validation": 3_680, "shards": 4},
    )
    return prepare(tmp_path_factory.mktemp("few"), content)


def part_of_worker(pipeline: Pipeline, index: int) -> Path:
    """The data set as a worker sees it: with its own training shards alone."""
    folder = pipeline.folder / f"part-{index}"
    shutil.copytree(pipeline.published("ingest"), folder)
    card = DatasetCard.load(folder)
    own = card.shards["train"][index::WORKERS]
    counts = card.counts | {"train": sum(shard.count for shard in own)}
    replace(card, shards=card.shards | {"train": own}, counts=counts).save(folder)
    return folder


def trained_weights(pipeline: Pipeline, workers: int, **datasets: Path) -> list[Any]:
    """Train candidates on data sets; what each of the workers ended with, by candidate."""
    cluster = addresses(workers)
    pairs = [f"{name.replace('_', '-')}={path}" for name, path in datasets.items()]
    config_file = str(pipeline.write_config())
    files = [pipeline.folder / f"worker-{index}-of-{workers}.npz" for index in range(workers)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                pipeline.started_program(
                    [str(SCRIPT), config_file, str(file), *pairs],
                    environment=to_environment(cluster, index),
                    cpu=processor(index),
                )
            )
            for index, file in enumerate(files)
        ]
        for command in running:
            assert command.wait() == 0, command.errors
    return [np.load(file) for file in files]


def test_workers_end_with_equal_weights_of_the_whole_batch_not_of_their_own_parts(
    few_images: Pipeline,
) -> None:
    whole = few_images.published("ingest")
    together = [worker["whole"] for worker in trained_weights(few_images, WORKERS, whole=whole)]
    (alone,) = trained_weights(
        few_images,
        1,
        whole=whole,
        half_0=part_of_worker(few_images, 0),
        half_1=part_of_worker(few_images, 1),
    )
    assert together[0].tobytes() == together[1].tobytes()

    def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(np.abs(one - other).max())

    moved = distance(alone["half-0"], alone["half-1"])
    assert moved > 1e-2
    # The sum of both workers' gradients is that of one process with whole batches, but for the
    # order of the additions; a worker that heard nothing of the other would be far from it.
    assert distance(together[0], alone["whole"]) < 1e-5
    for index in range(WORKERS):
        assert distance(together[0], alone[f"half-{index}"]) > 0.1 * moved


# --- accidents ----------------------------------------------------------------------------------

# All that a checkpoint has to hold: moments, moving averages of the weights, batch normalisation's
# statistics, dropout's generators; and augmentation, which must not depend on them.
CANDIDATE = {"model": "own_project.networks:with_a_state", "epochs": 8}
CANDIDATE |= {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "learning_rate": 0.01,
    "ema": 0.9,
    "flip": True,
    "shift": 2,
}
TRAINING = {"workers": WORKERS, "peer_timeout_seconds": 120, "checkpoint_steps": 20}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    content = configuration(
        {"sound": CANDIDATE, "wild": CANDIDATE | {"optimizer": "sgd", "learning_rate": 1e30}},
        training=TRAINING,
    )
    return prepare(tmp_path_factory.mktemp("prepared"), content)


@pytest.fixture(scope="module")
def undisturbed(prepared: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The candidate that two workers publish when nothing happens."""
    pipeline = prepared.copy(tmp_path_factory.mktemp("undisturbed"))
    with pipeline.workers("sound") as workers:
        for worker in workers:
            assert worker.wait() == 0, worker.errors
    return pipeline.published("train-sound")


def last_checkpoint(candidate: Path) -> dict[str, bytes]:
    """The values of all variables."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(candidate / "checkpoints")))
    return {
        name: reader.get_tensor(name).tobytes()
        for name in reader.get_variable_to_shape_map()
        # How many checkpoints this process has written is no part of the state.
        if name.startswith(("model/", "optimizer/", "step/"))
    }


def answers(candidate: Path) -> NDArray[np.float32]:
    """What its exported model says of some images."""
    from mlpipeline.learning import export

    images = np.random.default_rng(1).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    return export.predict(export.load(candidate / "saved_model"), images)


@contextmanager
def under_way(pipeline: Pipeline) -> Iterator[list[Command]]:
    """Both workers, with a checkpoint further than what they began with, and not yet done."""
    key = pipeline.plan()["train-sound"].key
    before = pipeline.checkpoint(key)
    with pipeline.workers("sound") as workers:
        wait_until(lambda: pipeline.checkpoint(key) != before, workers[0])
        yield workers
    assert not pipeline.published("train-sound").exists(), "it was too quick to be disturbed"


def is_retried(status: int) -> bool:
    """Whether a TFJob with `restartPolicy: ExitCode` starts such a worker again."""
    return status < 0 or status >= 128


def first_step(workers: list[Command]) -> int:
    """The step that the chief first told of, a few after the one that it began with."""
    return progress_of(workers[0].output)[0]


@pytest.fixture(scope="module")
def crippled(prepared: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, int]:
    """A job of which a worker was killed, and the first step that it had told of."""
    pipeline = prepared.copy(tmp_path_factory.mktemp("crippled"))
    with under_way(pipeline) as workers:
        workers[1].process.kill()
        assert is_retried(workers[0].wait(SECONDS_TO_END))
    return pipeline, first_step(workers)


def test_a_killed_or_stopped_job_resumes_and_ends_with_the_very_weights_of_an_undisturbed_one(
    crippled: tuple[Pipeline, int], undisturbed: Path, tmp_path: Path
) -> None:
    pipeline, began = crippled[0].copy(tmp_path), [crippled[1]]
    with under_way(pipeline) as workers:
        workers[0].process.kill()  # the chief
        assert is_retried(workers[1].wait(SECONDS_TO_END))
    began.append(first_step(workers))

    with under_way(pipeline) as workers:
        for worker in workers:
            worker.process.terminate()
        assert [worker.wait(SECONDS_TO_END) for worker in workers] == [143] * WORKERS
    began.append(first_step(workers))

    with pipeline.workers("sound") as workers:
        for worker in workers:
            assert worker.wait() == 0, worker.errors
    began.append(first_step(workers))

    assert began == sorted(set(began)), "an attempt began where an earlier one had begun"
    resumed = pipeline.published("train-sound")
    artifacts.verify(resumed)
    assert len(last_checkpoint(undisturbed)) > 15
    assert last_checkpoint(resumed) == last_checkpoint(undisturbed)
    assert answers(resumed).tobytes() == answers(undisturbed).tobytes()
    assert pipeline.leftovers() == []


def test_a_job_goes_on_with_another_number_of_workers(
    crippled: tuple[Pipeline, int], tmp_path: Path
) -> None:
    pipeline, before = crippled[0].copy(tmp_path), crippled[1]
    with pipeline.workers("sound", count=1) as workers:
        assert workers[0].wait() == 0, workers[0].errors
    assert first_step(workers) > before
    metrics = artifacts.read_json(pipeline.published("train-sound") / "metrics.json")
    assert (metrics["status"], metrics["workers"]) == ("trained", 1)


def test_a_worker_whose_peer_never_comes_ends_with_a_status_that_is_retried(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    pipeline.content["training"] = TRAINING | {"peer_timeout_seconds": 2}
    with ExitStack() as stack:
        lonely = [
            stack.enter_context(
                pipeline.started(
                    *("train", "--candidate", "sound"),
                    environment=to_environment(addresses(WORKERS), index),
                )
            )
            for index in range(WORKERS)
        ]
        for worker in lonely:
            assert is_retried(worker.wait(SECONDS_TO_END))
    assert not pipeline.published("train-sound").exists()


# --- what no retry would mend -------------------------------------------------------------------


def test_a_candidate_that_diverges_is_published_as_such(prepared: Pipeline, tmp_path: Path) -> None:
    pipeline = prepared.copy(tmp_path)
    command = pipeline.call("train", "--candidate", "wild")
    assert command.process.returncode == 0, command.errors
    candidate = pipeline.published("train-wild")
    artifacts.verify(candidate)
    metrics = artifacts.read_json(candidate / "metrics.json")
    assert metrics["status"] == "diverged"
    assert 0 < metrics["diverged_at_step"] <= TRAINING["checkpoint_steps"]
    assert metrics["validation_accuracy"] is None
    assert not (candidate / "saved_model").exists()


def test_a_truncated_shard_is_named_and_nothing_is_published(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    shard = pipeline.published("ingest") / "train-00002-of-00004.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-100])
    command = pipeline.call("train", "--candidate", "sound")
    assert command.process.returncode == 1
    assert str(shard) in command.errors
    assert "Traceback" not in command.errors
    assert not (pipeline.workspace / "candidates").exists()
