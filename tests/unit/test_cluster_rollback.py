"""A rollback's steps in a cluster: what they read of the workflow and the service, and refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlpipeline.backends.cluster import api, inference_service, rollout, snapshots
from mlpipeline.cli import app
from mlpipeline.cli import cluster as commands
from mlpipeline.errors import ClusterError, ConfigurationError, GateError, ServingError
from mlpipeline.plan import config
from mlpipeline.store import history, registry
from mlpipeline.store.layout import Workspace
from support.fake_cluster import FakeCluster
from support.registered import NAME, register

TEMPLATES = Path(__file__).parents[2] / "manifests" / "base" / "templates"
OWNER = "rollback-x7k2p/workflow-uid"
CONFIG = {"name": "anything", "candidates": {"cnn": {"model": "cnn"}}}
GO = ("--version", "shirts-1", "--instead-of", "shirts-2")

Invoke = Callable[..., str]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two versions, of which the second one is current."""
    workspace = Workspace(tmp_path)
    for version in ("shirts-1", "shirts-2", "shirts-3"):
        register(tmp_path, version, engine="litert")
    for version in ("shirts-1", "shirts-2"):
        registry.promote(workspace, NAME, version, run=f"run of {version}")
    return workspace


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(api, "connect", lambda: made)
    monkeypatch.setattr(commands, "stop_event", threading.Event)
    for version, replicas in (("shirts-1", "3"), ("shirts-2", "5")):
        _keep(made, version, replicas)
    _ask(made)
    return made


def _keep(cluster: FakeCluster, version: str, replicas: str) -> None:
    """Have a version been rolled out by a run with so many replicas."""
    metadata = {"name": NAME, "annotations": {"mlpipeline/version": version}}
    given = {"configuration": yaml.safe_dump(CONFIG), "model": NAME, "replicas": replicas}
    service = {"metadata": metadata, "spec": {"predictor": {}}}
    snapshots.keep(cluster, service, given, owner={})


def _ask(cluster: FakeCluster, **parameters: str) -> None:
    """Have the workflow been submitted with parameters."""
    given = [{"name": n, "value": v} for n, v in ({"model": NAME} | parameters).items()]
    name = OWNER.partition("/")[0]
    spec = {"arguments": {"parameters": given}}
    cluster.put({"kind": "Workflow", "metadata": {"name": name}, "spec": spec})


@pytest.fixture
def invoke(workspace: Workspace) -> Invoke:
    """Call a command on the workspace, and return what it prints."""

    def run(command: str, *options: str) -> str:
        file = workspace.root / "config.yaml"
        common = ["--workspace", str(workspace), "--config", str(file), "--workflow", OWNER]
        if command == "find-way-back":
            common += ["--outputs", str(workspace.root / "outputs")]
        elif not file.exists():
            config.write(config.parse(CONFIG | {"name": NAME}, origin=""), file)
        if command == "restore":
            common += ["--templates", str(TEMPLATES), "--image", "mlpipeline:2"]
        result = CliRunner().invoke(app.app, ["cluster", command, *common, *options])
        if result.exception:
            raise result.exception
        return result.output

    return run


@pytest.mark.parametrize(
    ("asked", "version", "replicas"),
    [
        ({}, "shirts-1", 3),
        ({"version": "shirts-1"}, "shirts-1", 3),
        ({"version": "shirts-3"}, "shirts-3", 5),  # the run that has served last
    ],
)
def test_the_way_and_how_it_is_to_be_served_are_found(
    workspace: Workspace,
    cluster: FakeCluster,
    invoke: Invoke,
    asked: dict[str, str],
    version: str,
    replicas: int,
) -> None:
    _ask(cluster, **asked)
    invoke("find-way-back")
    outputs = {file.name: file.read_text() for file in (workspace.root / "outputs").iterdir()}
    assert outputs == {"name": NAME, "version": version, "instead-of": "shirts-2"}
    written = config.load(workspace.root / "config.yaml")
    assert (written.name, written.serving.replicas) == (NAME, replicas)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"version": "shirts-2"}, ServingError, "is current already"),
        ({"version": "shirts-9"}, ServingError, "no model has it"),
        ({"model": "bags"}, ServingError, "there is no model `bags`"),
        ({"why": "{{=sprig.env('HOME')}}"}, ConfigurationError, "there is `{{` in the parameters"),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused_before_anything_is_changed(
    cluster: FakeCluster,
    invoke: Invoke,
    asked: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    cluster.changes.clear()
    _ask(cluster, **asked)
    with pytest.raises(error, match=message):
        invoke("find-way-back")
    assert cluster.changes == []


def test_a_model_that_no_known_run_has_published_is_an_error_with_a_remedy(
    cluster: FakeCluster, invoke: Invoke
) -> None:
    for kept in snapshots.find(cluster, NAME):
        snapshots.remove(cluster, kept)
    with pytest.raises(ClusterError, match="which run has published `shirts` is not known"):
        invoke("find-way-back")


@pytest.fixture
def rolled_out(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was rolled out, and for which publication."""
    seen = []

    def roll_out(
        _: api.Cluster, service: Any, budget: Any, publication: Any, **limits: float
    ) -> inference_service.Revision:
        seen.append((service, publication))
        return inference_service.Revision("0123", ["a", "b"], rolled=True)

    monkeypatch.setattr(rollout, "roll_out", roll_out)
    return seen


def test_restore_rolls_the_version_out_as_the_run_that_published_it_would_be_run_again(
    cluster: FakeCluster, invoke: Invoke, rolled_out: list[Any]
) -> None:
    invoke("restore", *GO, "--predictor-image", "predictor:2")
    ((service, publication),) = rolled_out
    assert inference_service.version(service) == "shirts-1"
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["image"] == "predictor:2"
    assert "shirts-1" in container["args"]
    assert publication.good == "shirts-2", "what a roll-out that fails goes back to"
    assert publication.parameters["replicas"] == "3", "of its own run: retrain submits them again"


def test_of_two_rollbacks_the_one_whose_turn_comes_later_changes_nothing(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke, rolled_out: list[Any]
) -> None:
    history.move(workspace, NAME, "shirts-3", "rolled back", by="the other")
    with pytest.raises(ServingError, match="version shirts-3 of `shirts` has become current"):
        invoke("restore", *GO)
    assert rolled_out == []


def test_settle_makes_the_version_current_and_says_who_asked_for_it_and_why(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    _ask(cluster, by="ann@desk", why="it takes coats for bags")
    for _ in range(2):  # its pod may be killed before Argo knows that it was done
        invoke("settle", *GO)
        assert registry.current(workspace, NAME) == "shirts-1"
    reasons = [change.reason for change in history.changes(workspace, NAME)]
    assert reasons[2:] == ["rolled back by ann@desk: it takes coats for bags"]


def test_a_version_that_the_gate_held_back_takes_force_with_a_reason(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    history.hold_back(workspace, NAME, "shirts-3", run="run-3", why="accuracy 70.00%")
    go = ("--version", "shirts-3", "--instead-of", "shirts-2")
    for force in ("", "  "):
        _ask(cluster, version="shirts-3", by="ann@desk", why="it must", force=force)
        cluster.changes.clear()
        with pytest.raises(
            GateError, match="the gate held version shirts-3 of `shirts` back: accuracy"
        ):
            invoke("find-way-back")
        with pytest.raises(GateError, match="the gate held version shirts-3"):
            invoke("settle", *go)
        assert (cluster.changes, registry.current(workspace, NAME)) == ([], "shirts-2")
    _ask(cluster, version="shirts-3", by="ann@desk", force="it must")
    invoke("find-way-back")
    invoke("settle", *go)
    *_, change = history.changes(workspace, NAME)
    assert change.reason == "rolled back by ann@desk, forced by ann@desk: it must"


def test_who_argo_knows_to_have_asked_comes_before_what_they_call_themselves(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    _ask(cluster, by="ann@desk")
    labels = {"workflows.argoproj.io/creator": "system-bob"}
    cluster.objects["Workflow", OWNER.partition("/")[0]]["metadata"]["labels"] = labels
    invoke("settle", *GO)
    *_, change = history.changes(workspace, NAME)
    assert change.reason == "rolled back by system-bob"


def test_who_gives_no_name_is_the_workflow(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    invoke("settle", *GO)
    *_, change = history.changes(workspace, NAME)
    assert change.reason == "rolled back by workflow rollback-x7k2p"
