"""MLflow's server in the cluster: it has every run, also one that ended while the server was away.

`make image-tracking` first: the server's image is not among those that `make image` loads.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run as TrackedRun

from mlpipeline.backends.local.processes import free_ports
from mlpipeline.runs import trace
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.candidate import TrainingHistory
from support.workflows_on_kind import (
    CONTEXT,
    NAMESPACE,
    QUICK,
    ROOT,
    WORKSPACE,
    Runs,
    call,
    configuration,
    get,
    kubectl,
    wait_until,
)

pytestmark = pytest.mark.timeout(1500)
_LABEL = "app.kubernetes.io/component=mlflow"


@dataclass
class Server:
    """MLflow's server, and this machine's way to it."""

    port: int

    def scale(self, replicas: int) -> None:
        kubectl("scale", "deployment/mlflow", f"--replicas={replicas}")
        if replicas:
            kubectl("rollout", "status", "deployment/mlflow", "--timeout=300s", seconds=320)
        else:
            kubectl("wait", "pods", f"--selector={_LABEL}", "--for=delete", "--timeout=120s")

    def runs_of(self, model: str) -> dict[str, TrackedRun]:
        """All runs of a model's experiment by their names, and those of tasks by run and task."""
        with self._tunnel() as client:
            experiment = client.get_experiment_by_name(model)
            assert experiment is not None, f"nothing was sent of {model}"
            found = client.search_runs([experiment.experiment_id], max_results=1000)
        return {_name(run): run for run in found}

    def current_of(self, model: str) -> dict[str, str]:
        """The tags of a model's current version."""
        with self._tunnel() as client:
            tags: dict[str, str] = client.get_model_version_by_alias(model, "current").tags
            return tags

    def _tunnel(self) -> Tunnel:
        return Tunnel(self.port)


@dataclass
class Tunnel:
    """A connection to the server, as `make ui` makes it; it ends with the pod that it leads to."""

    port: int
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MlflowClient:
        options = ("--context", CONTEXT, "--namespace", NAMESPACE, "--address=127.0.0.1")
        self._process = subprocess.Popen(
            ["kubectl", "port-forward", *options, "service/mlflow", f"{self.port}:5000"],
            stdout=subprocess.DEVNULL,
        )
        uri = f"http://127.0.0.1:{self.port}"
        wait_until(lambda: _answers(uri), f"an answer from {uri}", 60)
        return MlflowClient(uri, registry_uri=uri)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


def _answers(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _name(run: TrackedRun) -> str:
    name = str(run.info.run_name)
    parent = "mlflow.parentRunId" in run.data.tags
    return f"{run.data.tags['mlpipeline.run']}/{name}" if parent else name


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The component, deployed as it is; removed at the end if it was not there before."""
    was_there = get("deployment", "mlflow") is not None
    rendered = call("kubectl", "kustomize", str(ROOT / "manifests/overlays/tracking"))
    ours = [
        document
        for document in yaml.safe_load_all(rendered)
        if document["metadata"]["name"] in ("mlflow", "tracking")
    ]
    assert len(ours) == 3, "deployment, service, and the steps' variable"
    text = yaml.safe_dump_all(ours)
    kubectl("apply", "--server-side", "--field-manager=mlpipeline", "--filename=-", send=text)
    kubectl("rollout", "status", "deployment/mlflow", "--timeout=300s", seconds=320)
    (port,) = free_ports(1)
    yield Server(port)
    if not was_there:
        kubectl("delete", "--wait=false", "--filename=-", send=text)


def test_a_run_is_in_mlflow_and_one_that_ended_without_it_is_sent_later(
    server: Server, runs: Runs
) -> None:
    content = configuration({"one": QUICK, "two": QUICK | {"flip": True}})
    model = content["name"]
    first = runs.submit(content)
    record = first.assert_succeeds()
    sent = server.runs_of(model)
    tasks = ["plan", "ingest", "train-one", "train-two", "select", "gate", "serve", "verify"]
    assert set(sent) == {first.name, *(f"{first.name}/{task}" for task in tasks)}
    assert sent[first.name].info.status == "FINISHED"
    training = sent[f"{first.name}/train-one"]
    history = _history(record, "train-one")
    assert training.data.metrics["validation_accuracy"] == pytest.approx(
        history.epochs[-1].validation_accuracy
    )
    assert training.data.tags["image"] == first.image
    assert training.data.tags["where"].startswith("pod ")
    version = next(task["key"] for task in record["tasks"] if task["step"] == "select")
    folder = Workspace(WORKSPACE).model(model, version).path
    current = server.current_of(model)
    assert current["version"] == version
    assert current["digest"] == artifacts.digest(folder)

    tree, damaged = trace.trace(Workspace(WORKSPACE), version)
    assert damaged == []
    said = [str(node.label) for node in tree.children]
    assert any(f"selected by run {first.name}" in line for line in said)

    server.scale(0)
    second = runs.submit(content)
    second.assert_succeeds()
    server.scale(1)
    third = runs.submit(content)
    third.assert_succeeds()
    # The new server's database was empty: the first run is sent again, too.
    assert {first.name, second.name, third.name} <= set(server.runs_of(model))


def _history(record: dict[str, object], task: str) -> TrainingHistory:
    tasks = record["tasks"]
    assert isinstance(tasks, list)
    (key,) = (t["key"] for t in tasks if t["name"] == task)
    return TrainingHistory.load(Workspace(WORKSPACE).candidate(key).history)
