"""Two real workers: one model out of both, whatever becomes of a worker on the way."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlpipeline.learning.training.cluster_spec import to_environment
from mlpipeline.plan.config import Data
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from support.pipelines import (
    BEFORE_PUBLISHING,
    KILLED_AT,
    Command,
    Pipeline,
    addresses,
    configuration,
    processor,
    progress_of,
    wait_until,
)
from support.relay import Relay

pytestmark = pytest.mark.timeout(900)

SCRIPT = Path(__file__).with_name("weights_of_worker.py")
# In the order of a checkpoint's files: values, index, name.
BEFORE_ITS_INDEX = (
    KILLED_AT,
    "tensorflow.python.ops.gen_io_ops:merge_v2_checkpoints",
)
BEFORE_IT_IS_NAMED = (
    KILLED_AT,
    "tensorflow.python.checkpoint.checkpoint_management:update_checkpoint_state_internal",
)
WORKERS = 2
# Survivors notice a killed peer within a second; then they have to end.
SECONDS_TO_END = 60


def prepare(folder: Path, content: dict[str, Any]) -> Pipeline:
    """A workspace with the data set that the configuration describes, ingested here."""
    from mlpipeline.steps import ingestion  # TensorFlow

    prepared = Pipeline(folder, content)
    ingestion.ingest(Data(**content["data"]), prepared.published("ingest"))
    return prepared


# --- its start ----------------------------------------------------------------------------------

IMPORTS = """
import sys
from mlpipeline import loading
with loading.tensorflow():
    from mlpipeline.steps import training
assert "keras" in sys.modules
print(sorted({"matplotlib", "pandas", "sklearn"} & set(sys.modules)))
"""


def test_a_worker_imports_nothing_that_keras_can_do_without() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORTS], stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stdout) == (0, "[]\n")


# --- one update for all -------------------------------------------------------------------------

# So few steps that float32's rounding has no time to grow: 8 steps of 80 images.
PLAIN = {"model": "own_project.networks:smooth", "options": {"width": 4}, "epochs": 2}
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
    from mlpipeline.learning.data.tfrecords import shards_of  # TensorFlow

    folder = pipeline.folder / f"part-{index}"
    shutil.copytree(pipeline.published("ingest"), folder)
    card = DatasetCard.load(DatasetFolder(folder).card)
    own = tuple(shards_of(index, WORKERS, card.shards["train"]))
    counts = card.counts | {"train": sum(shard.count for shard in own)}
    part = card.model_copy(update={"shards": card.shards | {"train": own}, "counts": counts})
    part.save(DatasetFolder(folder).card)
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
        {
            "sound": CANDIDATE,
            "wild": CANDIDATE | {"optimizer": "sgd", "learning_rate": 1e30},
            "plain": PLAIN | {"options": {"width": 16}},
            "averaging": CANDIDATE | {"epochs": 2, "average_flip": True, "average_shift": 3},
        },
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


def checkpoint(path: Path, *prefixes: str) -> dict[str, bytes]:
    """The values of the variables whose names begin with one of the prefixes."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    return {
        name: reader.get_tensor(name).tobytes()
        for name in reader.get_variable_to_shape_map()
        if name.startswith(prefixes)
    }


def last_checkpoint(candidate: Path) -> dict[str, bytes]:
    """The whole state. How many checkpoints a process has written is no part of it."""
    import tensorflow as tf

    newest = tf.train.latest_checkpoint(str(candidate / "checkpoints"))
    return checkpoint(Path(newest), "model/", "optimizer/", "step/")


def answers(candidate: Path) -> NDArray[np.float32]:
    """What its exported model says of some images."""
    from mlpipeline.learning.model import export

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


def resumed_at(chief: Command) -> int:
    """The step of the checkpoint that an attempt went on from."""
    found = re.search(r"resuming at step (\d+) ", chief.errors)
    return int(found[1]) if found else 0


@contextmanager
def killed_chief(
    pipeline: Pipeline, candidate: str, *moment: str, count: int = WORKERS
) -> Iterator[Command]:
    """The chief of an attempt, killed at a moment; the others ended by themselves."""
    with pipeline.workers(candidate, count, chief=moment) as workers:
        assert workers[0].wait() == -signal.SIGKILL, workers[0].errors
        for other in workers[1:]:
            assert is_retried(other.wait(SECONDS_TO_END))
        yield workers[0]


def test_a_killed_or_stopped_job_resumes_and_ends_with_the_very_weights_of_an_undisturbed_one(
    prepared: Pipeline, undisturbed: Path, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    chiefs = []
    with under_way(pipeline) as workers:
        workers[1].process.kill()
        assert is_retried(workers[0].wait(SECONDS_TO_END))
        chiefs.append(workers[0])

    with killed_chief(pipeline, "sound", *BEFORE_ITS_INDEX, "2") as chief:
        chiefs.append(chief)
    with killed_chief(pipeline, "sound", *BEFORE_IT_IS_NAMED, "1") as chief:
        chiefs.append(chief)

    with under_way(pipeline) as workers:
        for worker in workers:
            worker.process.kill()
        chiefs.append(workers[0])

    with under_way(pipeline) as workers:
        for worker in workers:
            worker.process.terminate()
        assert [worker.wait(SECONDS_TO_END) for worker in workers] == [143] * WORKERS
        chiefs.append(workers[0])

    with killed_chief(pipeline, "sound", *BEFORE_PUBLISHING) as chief:
        chiefs.append(chief)
    assert not pipeline.published("train-sound").exists()

    with pipeline.workers("sound") as workers:
        for worker in workers:
            assert worker.wait() == 0, worker.errors
        chiefs.append(workers[0])

    began = [resumed_at(chief) for chief in chiefs]
    assert began == sorted(set(began)), "an attempt began where an earlier one had begun"
    reached = [progress_of(chief.output)[-1] for chief in chiefs[:-1]]
    lost = [step - next_step for step, next_step in zip(reached, began[1:], strict=True)]
    assert max(lost) <= TRAINING["checkpoint_steps"], "more than one checkpoint interval was lost"
    resumed = pipeline.published("train-sound")
    artifacts.verify(resumed)
    assert len(last_checkpoint(undisturbed)) > 15
    assert last_checkpoint(resumed) == last_checkpoint(undisturbed)
    assert answers(resumed).tobytes() == answers(undisturbed).tobytes()
    assert pipeline.leftovers() == []


def test_a_job_of_two_then_three_then_one_worker_learns_from_the_same_global_batches(
    prepared: Pipeline, tmp_path: Path
) -> None:
    steady, elastic = prepared.copy(tmp_path / "steady"), prepared.copy(tmp_path / "elastic")
    began = []
    for count in (2, 3):
        with killed_chief(elastic, "plain", *BEFORE_IT_IS_NAMED, "1", count=count) as chief:
            began.append(resumed_at(chief))
    for pipeline in (elastic, steady):
        with pipeline.workers("plain", count=1) as (alone,):
            assert alone.wait() == 0, alone.errors
            began.append(resumed_at(alone))
    assert began == [0, 20, 35, 0]

    def weights(pipeline: Pipeline, step: int) -> NDArray[np.float32]:
        candidate = pipeline.published("train-plain")
        values = checkpoint(candidate / "checkpoints" / f"ckpt-{step}", "model/")
        return np.concatenate([np.frombuffer(values[name], np.float32) for name in sorted(values)])

    end = weights(steady, 70)
    of_ten_steps = np.abs(end - weights(steady, 60)).max()
    # Equal but for the order of the additions: other batches would lead elsewhere.
    assert np.abs(end - weights(elastic, 70)).max() < 1e-2 * of_ten_steps


def test_workers_that_the_network_cuts_off_from_each_other_end_with_a_status_that_is_retried(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    pipeline.content["training"] = TRAINING | {"peer_timeout_seconds": 30}
    key = pipeline.plan()["train-sound"].key
    with (
        relayed(WORKERS) as (relays, clusters),
        pipeline.workers("sound", clusters=clusters) as workers,
    ):
        wait_until(lambda: pipeline.checkpoint(key), workers[0])
        for relay in relays:
            relay.cut()
        assert all(is_retried(worker.wait(SECONDS_TO_END)) for worker in workers)
    assert not pipeline.published("train-sound").exists()


def test_the_bytes_that_are_reported_go_over_the_network(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline, count = prepared.copy(tmp_path), 3
    pipeline.content["training"] = TRAINING | {"communication": "ring", "pack_bytes": 50_000}
    with (
        relayed(count) as (relays, clusters),
        pipeline.workers("plain", count, clusters=clusters) as workers,
    ):
        for worker in workers:
            assert worker.wait() == 0, worker.errors
    metrics = artifacts.read_json(pipeline.published("train-plain") / "metrics.json")
    assert metrics["communication"] == "ring"
    # Two thirds of the gradients, twice; what else is summed is little.
    gradients = 4 * metrics["parameters"]
    assert metrics["sent_bytes_per_step"] == pytest.approx(gradients * 4 / 3, rel=0.01)
    sent = metrics["sent_bytes_per_step"] * 70 * count
    assert sent < sum(relay.passed for relay in relays) < 1.1 * sent


@contextmanager
def relayed(count: int) -> Iterator[tuple[list[Relay], list[list[str]]]]:
    """A network between workers, and the addresses of all of them as each one knows them."""
    own = addresses(count)
    with ExitStack() as stack:
        relays = [stack.enter_context(Relay(address)) for address in own]
        yield (
            relays,
            [
                [own[i] if i == index else relay.address for i, relay in enumerate(relays)]
                for index in range(count)
            ],
        )


def test_a_worker_whose_peer_never_comes_ends_with_a_status_that_is_retried(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    pipeline.content["training"] = TRAINING | {"peer_timeout_seconds": 2}
    with ExitStack() as stack:
        lonely = [
            stack.enter_context(
                pipeline.started(
                    *("step", "train", "--candidate", "sound"),
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
    command = pipeline.call("step", "train", "--candidate", "wild")
    assert command.process.returncode == 0, command.errors
    candidate = pipeline.published("train-wild")
    artifacts.verify(candidate)
    metrics = artifacts.read_json(candidate / "metrics.json")
    assert metrics["status"] == "diverged"
    assert 0 < metrics["diverged_at_step"] <= TRAINING["checkpoint_steps"]
    assert metrics["validation_accuracy"] is None
    assert not (candidate / "saved_model").exists()


def test_the_last_epochs_figures_are_those_of_what_is_exported_with_its_averages(
    prepared: Pipeline, tmp_path: Path
) -> None:
    from mlpipeline.learning.model import export
    from support.whole_split import read_split

    pipeline = prepared.copy(tmp_path)
    with pipeline.workers("averaging") as workers:
        for worker in workers:
            assert worker.wait() == 0, worker.errors
    published = pipeline.published("train-averaging")
    images, labels = read_split(pipeline.published("ingest"), "validation")
    probabilities = export.predict(export.load(published / "saved_model"), images)
    metrics = artifacts.read_json(published / "metrics.json")
    assert metrics["validation_accuracy"] == (probabilities.argmax(axis=1) == labels).mean()
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert metrics["validation_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_truncated_shard_is_named_and_nothing_is_published(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    shard = pipeline.published("ingest") / "train-00002-of-00004.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-100])
    command = pipeline.call("step", "train", "--candidate", "sound")
    assert command.process.returncode == 1
    assert str(shard) in command.errors
    assert "Traceback" not in command.errors
    assert not (pipeline.workspace / "candidates").exists()
