"""`run`, `serve` and `predict` on this machine: what they give, and what they survive."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from mlpipeline.engines import Kind
from mlpipeline.store import artifacts, history
from mlpipeline.store.layout import Workspace
from support.load_client import Asking
from support.not_tested import leave_out
from support.pipelines import (
    Command,
    Pipeline,
    configuration,
    keys,
    progress_of,
    states,
    wait_until,
)

pytestmark = pytest.mark.timeout(900)

# Workers save and replicas finish their requests; nothing waits for a time-out.
SECONDS_TO_STOP = 30

GOOD = {"model": "cnn", "options": {"widths": [8, 16], "units": 32}, "epochs": 3}
GOOD |= {"learning_rate": 3e-3}
CANDIDATES = {
    "good": GOOD,
    "wild": GOOD | {"optimizer": "sgd", "learning_rate": 1e30},
    "own": {"model": "own_model:network", "epochs": 8},
}
# It can be built, so that only its training shows it: what cannot is found before that.
BROKEN = """
from keras import layers

class Unfinished(layers.Dense):
    def call(self, inputs, training=None):
        if training:
            raise RuntimeError("this network is not finished")
        return super().call(inputs)

def network(inputs):
    return Unfinished(16)(layers.Flatten()(inputs))
"""
MENDED = """
from keras import layers

def network(inputs):
    return layers.Dense(16, activation="relu")(layers.Flatten()(inputs))
"""


def begin(folder: Path, **sections: Any) -> Pipeline:
    content = configuration(CANDIDATES, **sections)
    content["training"] |= {"checkpoint_steps": 20}
    (folder / "own_model.py").write_text(BROKEN)
    return Pipeline(folder, content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The workspace after a first run, in which one candidate diverged and one crashed."""
    pipeline = begin(tmp_path_factory.mktemp("finished"))
    with pipeline.started("run") as command:
        assert command.wait() == 0, command.errors + command.output
        assert command.members() == []
    return pipeline


@pytest.fixture(scope="module")
def served(finished: Pipeline, engine: Kind, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A copy of the finished workspace whose model the engine serves; by TensorFlow it is another.

    It is selected by a second run, which trains nothing.
    """
    copy = finished.copy(tmp_path_factory.mktemp(engine))
    del copy.content["candidates"]["own"]
    if engine == "tensorflow":
        copy.content["serving"]["engine"] = engine
        command = copy.call("run")
        assert command.process.returncode == 0, command.errors + command.output
        assert states(copy.last_run())["train-good"] == "reused"
    return copy


@pytest.fixture
def pipeline(finished: Pipeline, tmp_path: Path) -> Pipeline:
    """A copy of the finished workspace, without the candidate that cannot be trained."""
    copy = finished.copy(tmp_path)
    del copy.content["candidates"]["own"]
    return copy


def published(record: dict[str, Any], workspace: Path) -> list[Path]:
    """The artifacts of a run's tasks that did not fail."""
    done = {name for name, state in states(record).items() if state != "failed"}
    return [next(workspace.glob(f"*/{key}")) for name, key in keys(record).items() if name in done]


def assert_ports_are_free(pipeline: Pipeline) -> None:
    for name in ("port", "grpc_port"):
        with socket.create_server(("127.0.0.1", pipeline.content["serving"][name])):
            pass


def stop(command: Command, number: int) -> int:
    """Send a signal to the command alone, as a shell's Ctrl-C reaches no other session."""
    command.process.send_signal(number)
    status = command.wait(SECONDS_TO_STOP)
    assert command.members() == []
    return status


def work_checkpoint(pipeline: Pipeline) -> str:
    """The newest checkpoint of whatever candidate is being trained."""
    files = pipeline.workspace.glob("candidates/.*.work/checkpoints/checkpoint")
    with contextlib.suppress(StopIteration, FileNotFoundError):
        return next(files).read_text()
    return ""


# --- what a run gives ---------------------------------------------------------------------------


def test_a_whole_run_ends_with_a_verified_model_without_the_candidates_that_failed(
    finished: Pipeline,
) -> None:
    record = finished.last_run()
    assert record["state"] == "succeeded"
    failed = {"train-own": "failed"}
    everything = ("ingest", "train-good", "train-wild", "select", "gate", "serve", "verify")
    assert states(record) == dict.fromkeys(everything, "succeeded") | failed
    for artifact in published(record, finished.workspace):
        artifacts.verify(artifact)
    assert finished.leftovers() == []

    decision = finished.decision()
    assert decision["chosen"] == "good"
    assert decision["candidates"].keys() == {"good", "wild"}
    assert decision["rejected"].keys() == {"wild"}
    assert decision["test"]["accuracy"] > 0.9
    assert finished.current() == decision["version"]

    latest = (finished.workspace / "report.html").read_text()
    own = (finished.workspace / "runs" / record["run"] / "report.html").read_text()
    assert latest == own.replace('href="../../', 'href="')
    assert decision["version"] in own
    (card,) = re.findall(r'href="(models/[^"]*)"', latest)
    assert (finished.workspace / card).is_file()


def test_what_is_served_was_verified_by_every_protocol(served: Pipeline, engine: Kind) -> None:
    decision = served.decision()
    assert decision["served"]["engine"] == engine
    assert served.current() == decision["version"]
    verification = served.last_run()["verification"]
    assert verification["replicas"] == ["replica-0", "replica-1"]
    protocols = {protocol["protocol"]: protocol for protocol in verification["protocols"]}
    assert protocols.keys() == {"V1 JSON", "V2 JSON", "V2 binary", "V2 gRPC"}
    for protocol in protocols.values():
        assert protocol["images"] == 1_000
        assert protocol["accuracy"] == pytest.approx(decision["test"]["accuracy"], abs=1e-12)
        assert protocol["replicas"] == ["replica-0", "replica-1"]
    said = {"litert": "LiteRT serves", "tensorflow": "TensorFlow serves the model"}
    assert said[engine] in (served.workspace / "report.html").read_text()


def test_a_version_leads_back_to_its_run_and_the_run_can_be_compared_in_mlflow(
    finished: Pipeline, pipeline: Pipeline
) -> None:
    version, record = finished.current(), finished.last_run()
    program = ["-m", "mlpipeline"]
    where = ["--workspace", str(pipeline.workspace)]
    with pipeline.started_program([*program, "lineage", version, *where]) as command:
        assert command.wait() == 0, command.errors
    key = keys(record)
    card = artifacts.read_json(pipeline.workspace / "datasets" / key["ingest"] / "dataset.json")
    select = next(task for task in record["tasks"] if task["name"] == "select")
    for said in (record["run"], key["train-good"], key["ingest"], card["digest"]):
        assert said in command.output
    assert f"code {select['code'][:16]} of mlpipeline.steps.selection" in command.output

    uri = f"sqlite:///{pipeline.workspace}/mlflow.db"
    for sent in (f"sent {record['run']}\n", ""):  # once
        with pipeline.started_program(
            [*program, "track", *where], environment={"MLFLOW_TRACKING_URI": uri}
        ) as command:
            assert command.wait() == 0, command.errors
        assert command.output == sent
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {record["run"], *states(record)}
    assert runs["train-own"].info.status == "FAILED"
    assert "not finished" in runs["train-own"].data.tags["error"]
    good = client.get_metric_history(runs["train-good"].info.run_id, "validation_accuracy")
    assert sorted(metric.step for metric in good) == [1, 2, 3], "by epoch"


def test_again_every_step_is_reused(finished: Pipeline, pipeline: Pipeline) -> None:
    first = finished.last_run()
    assert pipeline.call("run").process.returncode == 0
    record = pipeline.last_run()
    reused = dict.fromkeys(("ingest", "train-good", "train-wild", "select"), "reused")
    looked = dict.fromkeys(("gate", "serve", "verify"), "succeeded")
    assert states(record) == reused | looked
    assert keys(record) == {name: keys(first)[name] for name in reused}
    assert pipeline.current() == finished.current()
    assert record["verification"]["protocols"][0]["images"] == 1_000


def test_what_is_damaged_or_gone_is_made_anew_and_nothing_else(
    finished: Pipeline, pipeline: Pipeline
) -> None:
    key = keys(finished.last_run())
    shard = pipeline.workspace / "datasets" / key["ingest"] / "train-00001-of-00004.tfrecord"
    content = bytearray(shard.read_bytes())
    content[1_000] ^= 1
    shard.write_bytes(content)
    shutil.rmtree(pipeline.workspace / "candidates" / key["train-good"] / "saved_model")
    shutil.rmtree(pipeline.workspace / "models" / "toy" / key["select"])

    assert pipeline.call("run").process.returncode == 0
    record = pipeline.last_run()
    made = dict.fromkeys(("ingest", "train-good", "select", "gate", "serve", "verify"), "succeeded")
    assert states(record) == made | {"train-wild": "reused"}
    # The verification found the answers of the new model equal to those recorded of the old one.
    for artifact in published(record, finished.workspace):
        healed = pipeline.workspace / artifact.relative_to(finished.workspace)
        artifacts.verify(healed)
    assert pipeline.decision()["test"] == finished.decision()["test"]
    assert pipeline.current() == finished.current()
    assert pipeline.leftovers() == []


# --- accidents ----------------------------------------------------------------------------------


def test_a_mended_candidate_is_trained_alone_also_when_a_worker_is_killed(
    finished: Pipeline, tmp_path: Path
) -> None:
    pipeline = finished.copy(tmp_path)
    (pipeline.folder / "own_model.py").write_text(MENDED)
    with pipeline.started("run") as command:
        wait_until(lambda: work_checkpoint(pipeline), command)
        victims = [
            member.pid
            for member in command.members()
            if json.loads(member.environment.get("TF_CONFIG", '{"task": {}}'))["task"].get("index")
            == 1
        ]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert len(victims) == 1
        assert command.wait() == 0, command.errors + command.output
    record = pipeline.last_run()
    reused = dict.fromkeys(("ingest", "train-good", "train-wild"), "reused")
    made = dict.fromkeys(("train-own", "select", "gate", "serve", "verify"), "succeeded")
    assert states(record) == reused | made
    trained = next(task for task in record["tasks"] if task["name"] == "train-own")
    assert len(trained["retries"]) == 1, "the record says that it was tried again, and why"
    assert {"good", "own"} <= pipeline.decision()["candidates"].keys()
    assert pipeline.current() != finished.current()
    assert (pipeline.workspace / "models" / "toy" / finished.current()).exists()
    log = pipeline.workspace / "runs" / record["run"] / "logs" / "train-own.worker-0.log"
    steps = progress_of(log.read_text())  # of both attempts
    assert steps.count(steps[0]) == 1, "the second attempt began anew"


def test_a_stopped_run_leaves_no_process_and_the_next_goes_on(
    finished: Pipeline, pipeline: Pipeline
) -> None:
    pipeline.content["candidates"]["good"] = GOOD | {"epochs": 12}
    began = []
    for number in (signal.SIGINT, signal.SIGTERM):
        stop_in_training(pipeline, number)
        record = pipeline.last_run()
        assert record["state"] == "interrupted"
        assert states(record) == {"ingest": "reused"}
        began.append(first_step(pipeline))
    killed = kill_in_training(pipeline)
    began.append(first_step(pipeline))

    assert pipeline.call("run").process.returncode == 0
    record = pipeline.last_run()
    reused = dict.fromkeys(("ingest", "train-wild"), "reused")
    made = dict.fromkeys(("train-good", "select", "gate", "serve", "verify"), "succeeded")
    assert states(record) == reused | made
    closed = artifacts.read_json(killed / "run.json")
    assert (closed["state"], closed["error"]) == ("interrupted", "its process was killed")
    assert states(closed) == {"ingest": "reused"}
    assert (killed / "lineage.jsonl").exists()
    began.append(first_step(pipeline))
    assert began == sorted(set(began)), "a run did not go on where the one before had stopped"
    changed = {n for n, key in keys(record).items() if key != keys(finished.last_run())[n]}
    assert changed == {"train-good", "select"}
    assert pipeline.current() == keys(record)["select"]
    assert len(list((pipeline.workspace / "models" / "toy").glob("toy-*"))) == 2


def stop_in_training(pipeline: Pipeline, number: int) -> None:
    """Start a run, and send it a signal once it has trained further than the one before."""
    before = work_checkpoint(pipeline)
    with pipeline.started("run") as command:
        wait_until(lambda: work_checkpoint(pipeline) != before, command)
        assert stop(command, number) != 0


def kill_in_training(pipeline: Pipeline) -> Path:
    """Kill a run once it has trained further; return its folder when all its processes ended."""
    before = work_checkpoint(pipeline)
    with pipeline.started("run") as command:
        wait_until(lambda: work_checkpoint(pipeline) != before, command)
        command.process.kill()
        end = time.monotonic() + SECONDS_TO_STOP
        while command.members():
            assert time.monotonic() < end, "what it had started goes on without it"
            time.sleep(0.1)
    record = pipeline.last_run()
    assert record["state"] == "running", "nobody has had the time to say otherwise"
    return pipeline.workspace / "runs" / str(record["run"])


def first_step(pipeline: Pipeline) -> int:
    """The first step of `good` that the newest run told of, right after the one it began with."""
    logs = pipeline.workspace / "runs" / pipeline.last_run()["run"] / "logs"
    return progress_of((logs / "train-good.worker-0.log").read_text())[0]


def test_a_run_stopped_while_it_serves_leaves_no_process_and_no_port(pipeline: Pipeline) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError):
            address = ("127.0.0.1", pipeline.content["serving"]["port"])
            socket.create_connection(address, timeout=1).close()
            return True
        return False

    with pipeline.started("run") as command:
        wait_until(answers, command)
        assert stop(command, signal.SIGINT) != 0
    assert_ports_are_free(pipeline)
    record = pipeline.last_run()
    assert record["state"] == "interrupted"
    assert {states(record)[name] for name in ("ingest", "train-good", "select")} == {"reused"}


def test_a_port_in_use_is_named_and_nothing_is_lost(finished: Pipeline, pipeline: Pipeline) -> None:
    port = pipeline.content["serving"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        command = pipeline.call("run")
    assert command.process.returncode == 1
    assert str(port) in command.errors
    record = pipeline.last_run()
    assert record["state"] == "failed"
    assert states(record)["serve"] == "failed"
    assert str(port) in record["error"]
    for artifact in published(record, pipeline.workspace):
        artifacts.verify(artifact)
    assert pipeline.current() == finished.current()


@pytest.mark.parametrize(
    ("candidate", "failed", "reason"),
    [("wild", "select", "diverged"), ("own", "train-own", "this network is not finished")],
)
def test_when_every_candidate_fails_the_run_fails_and_says_why(
    finished: Pipeline, tmp_path: Path, candidate: str, failed: str, reason: str
) -> None:
    pipeline = finished.copy(tmp_path)
    pipeline.content["candidates"] = {candidate: CANDIDATES[candidate]}
    command = pipeline.call("run")
    assert command.process.returncode == 1
    assert "candidate" in command.errors
    assert reason in command.errors
    record = pipeline.last_run()
    assert record["state"] == "failed"
    assert states(record)[failed] == "failed"
    assert reason in record["error"]
    assert "failed" in (pipeline.workspace / "runs" / record["run"] / "report.html").read_text()
    assert pipeline.current() == finished.current()


def test_all_mistakes_of_a_configuration_are_named_at_once(tmp_path: Path) -> None:
    pipeline = begin(tmp_path)
    pipeline.content["traning"] = {}
    pipeline.content["data"] |= {"shard": 4}
    pipeline.content["candidates"]["good"] = GOOD | {"epochs": "many"}
    command = pipeline.call("run")
    assert command.process.returncode == 1
    for part in ("traning", "`training`", "data.shard:", "`shards`", "good.epochs", "'many'"):
        assert part in command.errors
    assert not pipeline.workspace.exists()


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, timeout=10)
    if mounted.returncode:
        leave_out("mount", why=mounted.stderr, to_do="run this test as root")
    try:
        yield folder
    finally:
        # Lazily: where a test has failed, its files may be open still.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


def fill(folder: Path, *, but: int) -> Path:
    """Take all room of a file system but so many bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - but)
    return ballast


def run_out_of_room(pipeline: Pipeline, task: str, *, room: int) -> Path:
    """Run with no more room than so many bytes for a task's artifact, then make room again."""
    pipeline.content["candidates"] = {"good": GOOD}
    artifact = next(pipeline.workspace.glob(f"*/{keys(pipeline.last_run())[task]}"))
    shutil.rmtree(artifact)
    ballast = fill(pipeline.folder, but=room)
    command = pipeline.call("run")
    assert command.process.returncode == 1
    assert "disk is full" in command.errors
    assert "Traceback" not in command.errors
    assert pipeline.last_run()["state"] == "failed"
    assert not artifact.exists()
    assert pipeline.leftovers() == []
    ballast.unlink()
    return artifact


def test_a_full_disk_is_said_and_with_room_the_data_is_ingested(
    finished: Pipeline, small_disk: Path
) -> None:
    pipeline = finished.copy(small_disk)
    artifact = run_out_of_room(pipeline, "ingest", room=2_000_000)
    assert pipeline.call("step", "ingest").process.returncode == 0
    artifacts.verify(artifact)


def test_a_disk_that_fills_with_checkpoints_costs_one_interval_and_not_a_bit_of_the_weights(
    finished: Pipeline, small_disk: Path
) -> None:
    pipeline = finished.copy(small_disk)
    # Room for two checkpoints of 325 kB, but not for the third.
    artifact = run_out_of_room(pipeline, "train-good", room=850_000)
    assert work_checkpoint(pipeline)
    log = pipeline.workspace / "runs" / pipeline.last_run()["run"] / "logs"
    reached = progress_of((log / "train-good.worker-0.log").read_text())[-1]
    with pipeline.workers("good") as workers:
        assert [worker.wait() for worker in workers] == [0, 0], workers[0].errors
    resumed = re.search(r"resuming at step (\d+) ", workers[0].errors)
    assert resumed is not None
    assert int(resumed[1]) >= reached - pipeline.content["training"]["checkpoint_steps"]
    artifacts.verify(artifact)
    undisturbed = finished.workspace / artifact.relative_to(pipeline.workspace)
    assert exported_weights(artifact) == exported_weights(undisturbed)


def exported_weights(candidate: Path) -> list[bytes]:
    """The values of a candidate's exported model: Keras numbers them as it likes."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(candidate / "saved_model" / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    weights = [reader.get_tensor(k).tobytes() for k, v in types.items() if v == tf.float32]
    assert weights
    return sorted(weights)


# --- serve and predict --------------------------------------------------------------------------


def test_serve_answers_its_own_curl_line_until_ctrl_c(served: Pipeline) -> None:
    with served.started("serve") as command:
        wait_until(lambda: re.search(r"^curl .*\n", command.output, re.MULTILINE), command)
        (line,) = re.findall(r"^curl .*$", command.output, re.MULTILINE)
        answer = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60, check=True)
        ((*probabilities,),) = json.loads(answer.stdout)["predictions"]
        assert stop(command, signal.SIGINT) == 0
    assert_ports_are_free(served)
    selection = served.workspace / "selections" / keys(served.last_run())["select"]
    recorded = np.load(selection / "test_probabilities.npy")[0]  # of the first image
    assert probabilities == pytest.approx(recorded.tolist(), abs=1e-5)


def test_a_rollback_is_verified_and_taken_over_by_what_serves_without_a_failed_request(
    pipeline: Pipeline,
) -> None:
    first = pipeline.current()
    pipeline.content["serving"]["engine"] = "tensorflow"  # another version, without a training
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors
    second = pipeline.current()
    assert first != second

    serving = pipeline.content["serving"]
    with pipeline.started("serve") as service:
        wait_until(lambda: "curl" in service.output, service)
        with Asking(f"http://127.0.0.1:{serving['port']}", "toy") as client:
            wait_until(lambda: client.versions == [second], service)
            command = pipeline.call("rollback", "--why", "it is slower")
            assert command.process.returncode == 0, command.errors
            wait_until(lambda: client.versions == [second, first], service)
        assert client.failures == []
        assert stop(service, signal.SIGINT) == 0
    assert pipeline.current() == first
    *_, change = history.changes(Workspace(pipeline.workspace), "toy")
    assert change.reason.startswith("rolled back by ")
    assert change.reason.endswith(": it is slower")

    weights = pipeline.workspace / "models" / "toy" / second / "saved_model" / "saved_model.pb"
    weights.write_bytes(weights.read_bytes()[:-1])
    command = pipeline.call("rollback")
    assert command.process.returncode == 1
    assert f"{weights} is damaged" in command.errors
    assert pipeline.current() == first


def test_what_the_gate_holds_back_is_neither_served_nor_gone_back_to_but_by_force(
    pipeline: Pipeline,
) -> None:
    first = pipeline.current()
    pipeline.content["serving"]["engine"] = "tensorflow"  # another version, without a training
    pipeline.content["gate"] = {"bytes": 1}
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors
    record = pipeline.last_run()
    held = keys(record)["select"]
    left_out = {"gate": "succeeded", "serve": "skipped", "verify": "skipped"}
    assert states(record).items() >= left_out.items()
    assert f"succeeded, kept {first}" in command.output
    assert (pipeline.workspace / "models" / "toy" / held).is_dir()

    pipeline.content["gate"]["required"] = True
    command = pipeline.call("run")
    assert command.process.returncode == 1
    assert f"version {held} is held back: size" in command.errors
    command = pipeline.call("rollback", held)
    assert command.process.returncode == 1
    assert f"the gate held version {held} of `toy` back: size" in command.errors
    assert pipeline.current() == first

    command = pipeline.call("run", "--force", "--why", "the demonstration needs it")
    assert command.process.returncode == 0, command.errors
    assert pipeline.current() == held
    *_, change = history.changes(Workspace(pipeline.workspace), "toy")
    assert change.by == pipeline.last_run()["run"]
    assert change.forced_by
    assert change.why == "the demonstration needs it"


def test_predict_names_the_class_of_an_image_file(served: Pipeline, tmp_path: Path) -> None:
    from support.whole_split import read_split  # TensorFlow

    key = keys(served.last_run())
    images, labels = read_split(served.workspace / "datasets" / key["ingest"], "test")
    selection = served.workspace / "selections" / key["select"]
    probabilities = np.load(selection / "test_probabilities.npy")
    index = int(np.flatnonzero(probabilities.argmax(axis=1) == labels)[0])
    file = tmp_path / "image.png"
    Image.fromarray(images[index]).save(file)

    command = served.call("predict", str(file))
    assert command.process.returncode == 0, command.errors
    asked, likeliest, *_ = command.output.splitlines()
    assert asked == f"{served.content['name']}, version {served.current()}"
    assert likeliest.split(maxsplit=1) == [
        f"{probabilities[index].max():.2%}",
        f"pattern {labels[index]}",
    ]


def test_predict_refuses_what_is_no_image(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_text("not an image")
    command = pipeline.call("predict", str(file))
    assert command.process.returncode == 1
    assert str(file) in command.errors
    assert "Traceback" not in command.errors


def test_without_a_model_serve_and_predict_say_what_to_do(tmp_path: Path) -> None:
    pipeline = begin(tmp_path)
    started = time.monotonic()
    for command in (pipeline.call("serve"), pipeline.call("predict", "image.png")):
        assert command.process.returncode == 1
        assert "make run" in command.errors
    assert time.monotonic() - started < SECONDS_TO_STOP
