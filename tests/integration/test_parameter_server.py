"""A chief, a parameter server and two workers in processes of their own, some of them killed."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.learning.training.cluster_spec import ParameterServerSpec, Role
from mlpipeline.plan.config import Data
from mlpipeline.store import artifacts
from mlpipeline.store.schemas.candidate import TrainingHistory
from support.pipelines import (
    BEFORE_PUBLISHING,
    Command,
    Member,
    Pipeline,
    addresses,
    configuration,
    progress_of,
    states,
    wait_until,
)

pytestmark = pytest.mark.timeout(900)

# To notice that a peer is gone takes a second; to come up, on a machine with other work, a minute.
SECONDS_TO_END = 240
# A model whose batch normalisation and dropout keep a state on the parameter servers, too.
CANDIDATE = {"model": "own_project.networks:with_a_state", "epochs": 25}
CANDIDATE |= {"optimizer": "adamw", "learning_rate": 0.01, "flip": True, "ema": 0.9}
TRAINING = {"strategy": "parameter_server", "workers": 2, "checkpoint_steps": 40}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    from mlpipeline.steps import ingestion  # TensorFlow

    content = configuration(
        {
            "sound": CANDIDATE,
            "wild": CANDIDATE | {"optimizer": "sgd", "learning_rate": 1e38, "epochs": 2},
        },
        training=TRAINING,
    )
    pipeline = Pipeline(tmp_path_factory.mktemp("prepared"), content)
    ingestion.ingest(Data(**content["data"]), pipeline.published("ingest"))
    return pipeline


@dataclass
class Cluster:
    """The processes of one candidate's training, which the test starts, and starts again."""

    pipeline: Pipeline
    candidate: str
    stack: ExitStack
    spec: ParameterServerSpec = field(init=False)
    processes: dict[tuple[Role, int], Command] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chief, server, *workers = addresses(4)
        self.spec = ParameterServerSpec(chief, (server,), tuple(workers))

    def start(self, role: Role, index: int = 0, **options: Any) -> Command:
        command = self.stack.enter_context(
            self.pipeline.started(
                *("step", "train", "--candidate", self.candidate),
                environment=self.spec.environment_of(role, index),
                **options,
            )
        )
        self.processes[role, index] = command
        return command

    def start_all(self) -> None:
        for role, places in self.spec.addresses().items():
            for index in range(len(places)):
                self.start(role, index)

    def wait_for_a_checkpoint(self) -> None:
        """Wait for one that is newer than the newest there is."""
        key = self.pipeline.plan()[f"train-{self.candidate}"].key
        before = self.pipeline.checkpoint(key)
        chief = self.processes["chief", 0]
        wait_until(lambda: self.pipeline.checkpoint(key) != before, chief)

    def assert_all_end_well(self) -> dict[str, Any]:
        """Wait for the end; return the candidate's figures."""
        for process in self.processes.values():
            assert process.wait() == 0, process.errors
        published = self.pipeline.published(f"train-{self.candidate}")
        artifacts.verify(published)
        metrics: dict[str, Any] = artifacts.read_json(published / "metrics.json")
        return metrics


@contextmanager
def cluster(pipeline: Pipeline, candidate: str = "sound") -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(pipeline, candidate, stack)


def is_retried(status: int) -> bool:
    """Whether a TFJob with `restartPolicy: ExitCode` starts such a process again."""
    return status < 0 or status >= 128


def resumed_at(chief: Command) -> int:
    (step,) = re.findall(r"resuming at step (\d+)", chief.errors)
    return int(step)


# --- a run on this machine ------------------------------------------------------------------------


def worker_of(run: Command, index: int) -> Member | None:
    for member in run.members():
        task = json.loads(member.environment.get("TF_CONFIG", "{}")).get("task")
        if task == {"type": "worker", "index": index}:
            return member
    return None


def test_a_run_goes_on_without_a_killed_worker_which_comes_back_alone(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    del pipeline.content["candidates"]["wild"]
    key = pipeline.plan()["train-sound"].key
    with pipeline.started("run") as run:
        wait_until(lambda: pipeline.checkpoint(key), run)
        victim = worker_of(run, 1)
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        assert not pipeline.published("train-sound").exists(), "too quick to be disturbed"
        assert run.wait() == 0, run.output + run.errors
    record = pipeline.last_run()
    assert set(states(record).values()) <= {"succeeded", "reused"}
    logs = {
        file.name.removeprefix("train-sound.").removesuffix(".log"): file.read_text()
        for file in (pipeline.workspace / "runs" / record["run"] / "logs").glob("train-sound.*")
    }
    assert set(logs) == {"chief-0", "ps-0", "worker-0", "worker-1"}
    # One start each: what was lost with the worker was done again, nothing was resumed.
    assert logs["chief-0"].count("waiting at most") == 1
    assert "resuming" not in logs["chief-0"]
    assert logs["ps-0"].count("waits for the chief") == 1
    assert logs["worker-0"].count("waits for the chief") == 1
    assert "worker 1 was lost; it alone is started again" in run.output
    steps = progress_of(logs["chief-0"])
    assert steps == sorted(steps)
    assert pipeline.decision()["test"]["accuracy"] > 0.95


# --- as a TFJob starts, and starts again ----------------------------------------------------------


def accuracy_of(pipeline: Pipeline, candidate: str) -> float:
    """The accuracy of a published model on the validation split."""
    from mlpipeline.learning.model import export
    from support.whole_split import read_split

    images, labels = read_split(pipeline.published("ingest"), "validation")
    model = export.load(pipeline.published(f"train-{candidate}") / "saved_model")
    return float((export.predict(model, images).argmax(axis=1) == labels).mean())


def test_training_resumes_when_its_parameter_server_was_killed_and_when_its_chief_was_stopped(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    with cluster(pipeline) as job:
        job.start_all()
        job.wait_for_a_checkpoint()
        job.processes["ps", 0].process.kill()
        assert is_retried(job.processes["chief", 0].wait(SECONDS_TO_END))

        job.start("ps")
        chief = job.start("chief")
        job.wait_for_a_checkpoint()
        began = [resumed_at(chief)]
        chief.process.terminate()
        assert chief.wait(SECONDS_TO_END) == 143

        chief = job.start("chief", program=BEFORE_PUBLISHING)
        assert chief.wait() == -signal.SIGKILL, chief.errors
        began.append(resumed_at(chief))
        assert progress_of(chief.output)[0] >= began[1]

        chief = job.start("chief")
        metrics = job.assert_all_end_well()
        began.append(resumed_at(chief))
    assert 0 < began[0] < began[1] < began[2] == 36 * 25
    assert (metrics["status"], metrics["workers"]) == ("trained", 2)
    assert metrics["validation_accuracy"] > 0.95
    # What was published is what was trained, though its last process has not trained it.
    assert accuracy_of(pipeline, "sound") == pytest.approx(metrics["validation_accuracy"], abs=0.01)
    history = TrainingHistory.load(pipeline.published("train-sound") / "history.json").epochs
    assert [epoch.epoch for epoch in history] == list(range(1, 26))
    assert [epoch.step for epoch in history] == list(range(36, 36 * 25 + 1, 36))
    assert pipeline.leftovers() == []


def test_a_candidate_that_diverges_is_published_as_such(prepared: Pipeline, tmp_path: Path) -> None:
    with cluster(prepared.copy(tmp_path), "wild") as job:
        job.start_all()
        metrics = job.assert_all_end_well()
    assert (metrics["status"], metrics["validation_accuracy"]) == ("diverged", None)
    assert not (job.pipeline.published("train-wild") / "saved_model").exists()


def test_a_chief_whose_workers_never_come_ends_with_a_status_that_is_retried(
    prepared: Pipeline, tmp_path: Path
) -> None:
    pipeline = prepared.copy(tmp_path)
    pipeline.content["training"] = TRAINING | {"peer_timeout_seconds": 2}
    with cluster(pipeline) as job:
        job.start("ps")
        assert is_retried(job.start("chief").wait(SECONDS_TO_END))


def test_a_worker_whose_chief_never_comes_ends(prepared: Pipeline, tmp_path: Path) -> None:
    pipeline = prepared.copy(tmp_path)
    pipeline.content["training"] = TRAINING | {"deadline_seconds": 2}
    with cluster(pipeline) as job:
        worker = job.start("worker")
        assert worker.wait(SECONDS_TO_END) == 1
    assert "the chief has not published" in worker.errors
    assert "Traceback" not in worker.errors


def test_a_process_without_a_cluster_says_what_is_missing(
    prepared: Pipeline, tmp_path: Path
) -> None:
    command = prepared.copy(tmp_path).call("step", "train", "--candidate", "sound")
    assert command.process.returncode == 1
    assert "training.strategy is `parameter_server`" in command.errors
    assert "Traceback" not in command.errors
