"""The step `retrain`: which runs are submitted for what is served, and what becomes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import retraining, snapshots
from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.backends.cluster.tfjob import WorkflowReference
from mlpipeline.errors import ClusterError, StoppedError
from support.fake_cluster import FakeCluster

OWNER = WorkflowReference("retrain-x7k2p", "workflow-uid")
GIVEN = {"configuration": "name: shirts", "image": "mlpipeline:of-shirts", "replicas": ""}


def _serve(cluster: FakeCluster, model: str, version: str, *of_run: dict[str, str]) -> None:
    annotations = {"mlpipeline/version": version}
    labels = {"app.kubernetes.io/part-of": "mlpipeline"}
    metadata = {"name": model, "labels": labels, "annotations": annotations}
    service = {"kind": "InferenceService", "metadata": metadata, "spec": {"predictor": {}}}
    cluster.put(service)
    for parameters in of_run:
        snapshots.keep(cluster, service, parameters, owner={})


@pytest.fixture
def cluster() -> FakeCluster:
    """Two models are served, each by a run of its own."""
    made = FakeCluster()
    _serve(made, "trousers", "trousers-1", {"image": "mlpipeline:of-trousers"})
    _serve(made, "shirts", "shirts-1", {"image": "older"}, GIVEN)
    return made


def _retrain(cluster: FakeCluster, stop: threading.Event | None = None) -> None:
    retraining.retrain(cluster, OWNER, template="mlpipeline", stop=stop or threading.Event())


def _runs(cluster: FakeCluster) -> dict[str, Manifest]:
    return {name: found for (kind, name), found in cluster.objects.items() if kind == "Workflow"}


def _end(cluster: FakeCluster, phase: str, message: str = "") -> Callable[[], None]:
    def end() -> None:
        for workflow in _runs(cluster).values():
            workflow["status"] = {"phase": phase, "message": message}

    return end


def test_each_model_is_run_again_as_it_was_run_for_what_is_served(cluster: FakeCluster) -> None:
    cluster.clock.at(30, _end(cluster, "Succeeded"))
    _retrain(cluster)
    assert cluster.clock.now == 30
    runs = _runs(cluster)
    assert set(runs) == {"retrain-x7k2p-shirts", "retrain-x7k2p-trousers"}
    shirts = runs["retrain-x7k2p-shirts"]
    assert shirts["spec"]["workflowTemplateRef"] == {"name": "mlpipeline"}
    parameters = shirts["spec"]["arguments"]["parameters"]
    assert {p["name"]: p["value"] for p in parameters} == GIVEN
    (owner,) = shirts["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Workflow", "workflow-uid")


def test_the_parameters_are_those_that_the_template_has() -> None:
    root = Path(__file__).parents[2]
    template = yaml.safe_load((root / "workflows" / "workflow-template.yaml").read_text())
    known = {p["name"] for p in template["spec"]["arguments"]["parameters"]}
    assert known >= set(GIVEN)


def test_a_pod_that_goes_on_for_another_finds_what_that_has_submitted(
    cluster: FakeCluster,
) -> None:
    cluster.clock.at(30, _end(cluster, "Succeeded"))
    _retrain(cluster)
    before = list(cluster.changes)
    _retrain(cluster)
    assert cluster.changes == before


def test_one_that_does_not_succeed_is_an_error_that_names_it(cluster: FakeCluster) -> None:
    cluster.clock.at(30, _end(cluster, "Failed", "child 'x' failed"))
    with pytest.raises(ClusterError, match="2 of 2 runs did not succeed") as raised:
        _retrain(cluster)
    assert "retrain-x7k2p-shirts: child 'x' failed" in raised.value.got


@pytest.mark.parametrize("serve", [lambda _: None, lambda c: _serve(c, "old", "old-1")])
def test_where_nothing_is_served_or_nobody_knows_how_it_came_there_nothing_is_done(
    serve: Callable[[FakeCluster], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mlpipeline")
    cluster = FakeCluster()
    serve(cluster)
    _retrain(cluster)
    assert cluster.changes == []
    assert "there is nothing to train anew" in caplog.text


def test_a_service_that_was_changed_to_another_version_by_hand_stays_as_it_is(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = cluster.objects["InferenceService", "shirts"]["metadata"]["annotations"]
    annotations["mlpipeline/version"] = "by hand"
    cluster.clock.at(30, _end(cluster, "Succeeded"))
    _retrain(cluster)
    assert set(_runs(cluster)) == {"retrain-x7k2p-trousers"}
    assert "shirts stays as it is" in caplog.text


@pytest.mark.parametrize("is_over", [True, False])
def test_runs_are_stopped_with_the_workflow_and_not_with_a_pod_that_is_moved(
    cluster: FakeCluster, is_over: bool
) -> None:
    spec = {"shutdown": "Stop"} if is_over else {}
    owner: Manifest = {"kind": "Workflow", "metadata": {"name": OWNER.name, "labels": {}}}
    cluster.put(owner | {"spec": spec})
    stop = threading.Event()
    cluster.clock.at(5, stop.set)
    with pytest.raises(StoppedError):
        _retrain(cluster, stop)
    stopped = {n for n, w in _runs(cluster).items() if w["spec"].get("shutdown") == "Stop"}
    names = {"retrain-x7k2p-shirts", "retrain-x7k2p-trousers"}
    assert stopped - {OWNER.name} == (names if is_over else set())
