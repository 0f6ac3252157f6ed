"""`mlpipeline cluster …`, as the workflow calls it, on a workspace and a cluster of the test's."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlpipeline.backends.cluster import api, inference_service, rollout, tfjob
from mlpipeline.cli import app, stopping
from mlpipeline.cli import cluster as commands
from mlpipeline.errors import (
    ArtifactError,
    ClusterError,
    ConfigurationError,
    MissingArtifactError,
)
from mlpipeline.plan import config
from mlpipeline.plan.pipeline import Task, plan
from mlpipeline.runs import lineage, report, webhook
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.gate import Forced
from mlpipeline.store.schemas.run import Run
from support import stored_documents as documents
from support.fake_cluster import Clock, FakeCluster

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "manifests" / "base" / "templates"
CONFIG = {
    "name": "shirts",
    "data": {"dataset": "synthetic"},
    "candidates": {"cnn": {"model": "cnn"}, "dropout": {"model": "dropout"}},
    "serving": {"host": "0.0.0.0", "replicas": 2},
}
RUN = "mlpipeline-x7k2p"
OWNER = f"{RUN}/workflow-uid"
FIGURES: dict[str, Any] = {
    "status": "trained",
    "validation_accuracy": 0.9,
    "validation_loss": 0.3,
    "parameters": 1,
}
TASKS = plan(config.parse(CONFIG, origin=""))

Invoke = Callable[..., str]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(api, "connect", lambda: made)
    return made


@pytest.fixture
def clock(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = cluster.clock
    monkeypatch.setattr(tfjob, "time", made)
    monkeypatch.setattr(rollout, "time", made)
    monkeypatch.setattr(commands, "stop_event", threading.Event)
    return made


@pytest.fixture
def invoke(tmp_path: Path) -> Invoke:
    """Call a command on the test's workspace, and return what it prints."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))

    def run(command: str, *options: str) -> str:
        common = ["--workspace", str(tmp_path)]
        if command != "record":
            common += ["--config", str(file)]
        if command in ("plan", "train", "serve", "judge"):
            common += ["--outputs", str(tmp_path / "outputs")]
        if command in ("train", "serve"):
            common += ["--templates", str(TEMPLATES), "--image", "mlpipeline:2"]
        if command in ("plan", "serve", "judge"):
            common += ["--memo", "memo"]
        if command in ("plan", "train", "serve", "record"):
            common += ["--workflow", OWNER]
        if command == "serve" and not any(option.startswith("--version") for option in options):
            common += ["--version", TASKS["select"].key]
        result = CliRunner().invoke(app.app, ["cluster", command, *common, *options])
        if result.exception:
            raise result.exception
        return result.output

    return run


def _publish(task: Task, workspace: Path, metrics: Any = None, **card: Any) -> None:
    for folder in task.publishes:
        _make(workspace / folder, metrics, **card)


def _make(folder: Path, metrics: Any = None, **card: Any) -> None:
    with artifacts.publish(folder) as draft:
        artifacts.write_json(draft / "metrics.json", metrics)
        documents.model_card(**{"engine": "litert"} | card).save(draft / "model.json")


def _outputs(workspace: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (workspace / "outputs").iterdir()}


def _declared(step: str) -> set[str]:
    """The outputs that the workflow reads of a step's pod."""
    text = (ROOT / "workflows" / "pipeline.yaml").read_text()
    templates = {t["name"]: t for t in yaml.safe_load(text)["spec"]["templates"]}
    return {p["name"] for p in templates[step]["outputs"]["parameters"]}


def _parameters(values: dict[str, str]) -> dict[str, Any]:
    given = [{"name": name, "value": value} for name, value in values.items()]
    return {"arguments": {"parameters": given}}


def test_plan_writes_the_configuration_and_what_the_workflow_reads(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    defaults = {"configuration": yaml.safe_dump(CONFIG), "model": "", "candidates": ""}
    submitted = {"candidates": "cnn", "workers": "3"}
    cluster.put(
        {
            "kind": "Workflow",
            "metadata": {"name": RUN},
            "spec": _parameters(submitted),
            "status": {"storedWorkflowTemplateSpec": _parameters(defaults | {"replicas": ""})},
        }
    )
    workspace = Workspace(tmp_path)
    _make(workspace.model("shirts", "shirts-0").path, dataset_key="ingest-before")
    registry.promote(workspace, "shirts", "shirts-0")
    said = invoke("plan")
    assert TASKS["train-cnn"].key in said
    written = config.load(tmp_path / "config.yaml")
    assert (list(written.candidates), written.training.workers) == (["cnn"], 3)
    assert written.expectations.against == "ingest-before"
    outputs = _outputs(tmp_path)
    assert set(outputs) >= _declared("plan")
    assert json.loads(outputs["trainings"]) == [
        {"candidate": "cnn", "key": TASKS["train-cnn"].key},
    ]


@pytest.mark.parametrize(
    ("changes", "parameters", "said"),
    [
        ({"data": {"revision": "a {{=1+1}}"}}, {}, "`{{` in the parameters configuration"),
        ({}, {"model": "{{workflow.name}}"}, "`{{` in the parameters model"),
        ({"candidates": {"a": {"model": "pydoc:pipepager"}}}, {}, "`pydoc:pipepager` may not be"),
        ({"data": {"dataset": "os:getcwd"}}, {}, "`os:getcwd` may not be"),
    ],
)
def test_plan_refuses_what_argo_evaluates_and_whose_code_nobody_allowed(
    tmp_path: Path,
    cluster: FakeCluster,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    parameters: dict[str, str],
    said: str,
) -> None:
    monkeypatch.setenv("MLPIPELINE_CLUSTER_PLUGINS", "")
    before = (tmp_path / "config.yaml").read_text()
    given = {"configuration": yaml.safe_dump(CONFIG | changes)} | parameters
    cluster.put({"kind": "Workflow", "metadata": {"name": RUN}, "spec": _parameters(given)})
    with pytest.raises(ConfigurationError) as raised:
        invoke("plan", "--memo", "memo")
    assert said in raised.value.got
    # The record of the run plans what is written: it must be able to.
    assert (tmp_path / "config.yaml").read_text() == before
    assert not (tmp_path / "outputs").exists()


def test_train_has_a_job_make_the_candidate_and_returns_its_figures(
    tmp_path: Path, cluster: FakeCluster, clock: Clock, invoke: Invoke
) -> None:
    task = TASKS["train-cnn"]
    name = tfjob.job_name(task.key)
    folder = Workspace(tmp_path).candidate(task.key)

    def succeed() -> None:
        assert folder.work.path.is_dir(), "its workers could not mount it"
        _make(folder.work.result.path, FIGURES)
        condition = {"type": "Succeeded", "status": "True"}
        cluster.objects["TFJob", name]["status"] = {"conditions": [condition]}

    clock.at(5, succeed)
    invoke("train", "--candidate", "cnn", "--queue=team-b", "--priority=")

    job = cluster.objects["TFJob", name]
    (container,) = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["image"] == "mlpipeline:2"
    assert container["args"] == [
        *("step", "train", "--config", str(tmp_path / "config.yaml")),
        *("--workspace", str(tmp_path), "--candidate", "cnn", "--hand-over"),
    ]
    mounts = {m["subPath"]: m for m in container["volumeMounts"] if m["name"] == "workspace"}
    assert {name: mount["readOnly"] for name, mount in mounts.items()} == {
        f"runs/{RUN}": True,
        f"datasets/{TASKS['ingest'].key}": True,
        f"candidates/.{task.key}.work": False,
    }
    assert all(mount["mountPath"] == f"/workspace/{name}" for name, mount in mounts.items())
    artifacts.verify(folder.path)
    assert not folder.work.path.exists()
    assert job["metadata"]["ownerReferences"][0]["uid"] == "workflow-uid"
    labels = {k: v for k, v in job["metadata"]["labels"].items() if "kueue" in k}
    assert labels == {"kueue.x-k8s.io/queue-name": "team-b"}
    assert set(_outputs(tmp_path)) >= _declared("train-pod")
    assert json.loads(_outputs(tmp_path)["metrics"]).items() >= FIGURES.items()


def test_train_starts_nothing_where_the_candidate_is_there_already(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    _publish(TASKS["train-cnn"], tmp_path, FIGURES)
    invoke("train", "--candidate", "cnn")
    assert cluster.changes == []
    assert json.loads(_outputs(tmp_path)["metrics"]).items() >= FIGURES.items()


def test_train_takes_over_what_its_workers_had_made_before_it_was_killed(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    folder = Workspace(tmp_path).candidate(TASKS["train-cnn"].key)
    _make(folder.work.result.path, FIGURES)
    invoke("train", "--candidate", "cnn")
    assert cluster.changes == []
    artifacts.verify(folder.path)
    assert not folder.work.path.exists()


def test_train_has_made_anew_what_cannot_be_taken_over(
    tmp_path: Path, cluster: FakeCluster, clock: Clock, invoke: Invoke
) -> None:
    task = TASKS["train-cnn"]
    folder, name = Workspace(tmp_path).candidate(task.key), tfjob.job_name(task.key)
    secret = tmp_path / "secret"
    _make(secret, FIGURES)
    folder.work.path.mkdir(parents=True)
    folder.work.result.path.symlink_to(secret)

    def succeed() -> None:
        assert not folder.work.result.path.exists()
        _make(folder.work.result.path, FIGURES)
        condition = {"type": "Succeeded", "status": "True"}
        cluster.objects["TFJob", name]["status"] = {"conditions": [condition]}

    clock.at(5, succeed)
    invoke("train", "--candidate", "cnn")
    artifacts.verify(folder.path)
    artifacts.verify(secret)


def test_train_removes_what_an_earlier_pod_has_left(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    task = TASKS["train-cnn"]
    _publish(task, tmp_path, FIGURES)
    work = Workspace(tmp_path).candidate(task.key).work.path
    (work / "checkpoints").mkdir(parents=True)
    invoke("train", "--candidate", "cnn")
    assert not work.exists()


def test_train_waits_for_workers_that_have_published_and_not_ended(
    tmp_path: Path, cluster: FakeCluster, clock: Clock, invoke: Invoke
) -> None:
    task = TASKS["train-cnn"]
    folder = Workspace(tmp_path).candidate(task.key)
    name = tfjob.job_name(task.key)
    _make(folder.work.result.path, FIGURES)
    cluster.put({"kind": "TFJob", "metadata": {"name": name}, "spec": {}})
    ended = {"conditions": [{"type": "Succeeded", "status": "True"}]}
    clock.at(5, lambda: cluster.objects["TFJob", name].update(status=ended))
    clock.at(4, lambda: folder.path.exists() and pytest.fail("their folder is gone"))
    invoke("train", "--candidate", "cnn")
    artifacts.verify(folder.path)


def test_plan_makes_the_folders_that_others_mount(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    given = _parameters({"configuration": yaml.safe_dump(CONFIG)})
    cluster.put({"kind": "Workflow", "metadata": {"name": RUN}, "spec": given})
    invoke("plan")
    for name in ("datasets", "candidates", "selections", "models/shirts", "predictions"):
        assert (tmp_path / name).is_dir()


@pytest.mark.parametrize(
    ("reason", "by", "labels", "who"),
    [
        ("", "ann@desk", {}, None),
        ("  ", "", {}, None),
        ("it must", "", {}, "somebody with kubectl"),
        ("it must", "ann@desk", {}, "ann@desk"),
        ("it must", "bob@desk", {"workflows.argoproj.io/creator": "system-ann"}, "system-ann"),
        (
            "it must",
            "",
            {
                "workflows.argoproj.io/creator": "0a1b",
                "workflows.argoproj.io/creator-email": "ann.at.example.com",
            },
            "ann.at.example.com",
        ),
    ],
)
def test_plan_keeps_who_forces_the_gate_and_why(
    tmp_path: Path,
    cluster: FakeCluster,
    invoke: Invoke,
    reason: str,
    by: str,
    labels: dict[str, str],
    who: str | None,
) -> None:
    given = _parameters({"configuration": yaml.safe_dump(CONFIG), "force": reason, "by": by})
    metadata = {"name": RUN, "labels": labels}
    cluster.put({"kind": "Workflow", "metadata": metadata, "spec": given})
    invoke("plan")
    file = Workspace(tmp_path).run(RUN).forced
    assert file.exists() is (who is not None)
    if who:
        assert Forced.load(file) == Forced(who=who, reason="it must")


@pytest.mark.parametrize("published", ["nothing", "something damaged"])
def test_a_job_that_succeeded_without_a_whole_candidate_is_an_error(
    tmp_path: Path, cluster: FakeCluster, clock: Clock, invoke: Invoke, published: str
) -> None:
    task = TASKS["train-cnn"]

    def succeed() -> None:
        if published == "something damaged":
            result = Workspace(tmp_path).candidate(task.key).work.result
            _make(result.path, {})
            result.metrics.write_text('{"other": "figures"}')
        job = cluster.objects["TFJob", tfjob.job_name(task.key)]
        job["status"] = {"conditions": [{"type": "Succeeded", "status": "True"}]}

    clock.at(5, succeed)
    with pytest.raises(ArtifactError):
        invoke("train", "--candidate", "cnn")
    assert not (tmp_path / "outputs").exists()
    assert not Workspace(tmp_path).candidate(task.key).path.exists()


Rolled = tuple[dict[str, Any], rollout.Publication, dict[str, float]]


@pytest.fixture
def rolled_out(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> list[Rolled]:
    """What the step serve has had rolled out, for which run, and how long that could take."""
    seen = []

    def roll_out(
        _: api.Cluster, service: Any, budget: Any, publication: Any, **limits: float
    ) -> inference_service.Revision:
        seen.append((service, publication, limits))
        return inference_service.Revision("0123", ["a", "b"], rolled=True)

    monkeypatch.setattr(rollout, "roll_out", roll_out)
    monkeypatch.setattr(commands, "stop_event", threading.Event)
    given = _parameters({"image": "mlpipeline:2", "configuration": yaml.safe_dump(CONFIG)})
    cluster.put({"kind": "Workflow", "metadata": {"name": RUN}, "spec": given})
    return seen


def test_serve_publishes_the_version_that_was_selected(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke, rolled_out: list[Any]
) -> None:
    for name in ("train-cnn", "train-dropout", "select"):
        _publish(TASKS[name], tmp_path)
    invoke("serve", "--pending-seconds", "7")
    ((service, publication, limits),) = rolled_out
    version = TASKS["select"].key
    (container,) = service["spec"]["predictor"]["containers"]
    assert service["metadata"]["name"] == "shirts"
    assert container["args"] == [
        *("step", "serve", "--name", "shirts", "--workspace", str(tmp_path)),
        *("--version", version, "--host", "0.0.0.0"),
    ]
    assert limits["pending_seconds"] == 7
    outputs = _outputs(tmp_path)
    assert set(outputs) >= _declared("serve")
    assert outputs == {
        "version": version,
        "name": "shirts",
        "revision": "0123",
        "replicas": "a,b",
        "images": "all",
        "rolled": "true",
    }
    assert publication.good == ""
    assert publication.parameters["configuration"] == yaml.safe_dump(CONFIG)
    assert publication.parameters["image"] == "mlpipeline:2"
    assert not publication.is_over()
    workflow = cluster.objects["Workflow", RUN]
    workflow["spec"] |= {"shutdown": "Stop"}
    assert publication.is_over()


@pytest.mark.parametrize(
    ("feedback", "given"),
    [("/events/feedback", ["--feedback", "/events/feedback"]), ("inbox", [])],
)
def test_no_replica_in_a_pod_has_an_inbox(
    tmp_path: Path, invoke: Invoke, rolled_out: list[Any], feedback: str, given: list[str]
) -> None:
    for name in ("train-cnn", "train-dropout", "select"):
        _publish(TASKS[name], tmp_path)
    serving = {"host": "0.0.0.0", "feedback": feedback}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"serving": serving}))
    invoke("serve")
    ((service, _, _),) = rolled_out
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["args"][-2:] == (given or ["--host", "0.0.0.0"])


@pytest.mark.parametrize(
    ("engine", "given", "image", "requested"),
    [
        ("litert", "mlpipeline-predictor:2", "mlpipeline-predictor:2", "256Mi"),
        ("tensorflow", "mlpipeline-predictor:2", "mlpipeline:2", "512Mi"),
        ("litert", "", "mlpipeline:2", "256Mi"),
    ],
)
def test_who_serves_a_model_decides_on_the_image_and_the_memory_of_its_replicas(
    tmp_path: Path,
    invoke: Invoke,
    rolled_out: list[Any],
    *,
    engine: str,
    given: str,
    image: str,
    requested: str,
) -> None:
    for name in ("train-cnn", "train-dropout"):
        _publish(TASKS[name], tmp_path)
    _publish(TASKS["select"], tmp_path, engine=engine, engine_reason="it has no operation Odd")
    invoke("serve", f"--predictor-image={given}")
    ((service, _, _),) = rolled_out
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["image"] == image
    assert container["resources"]["requests"] == {"cpu": "500m", "memory": requested}
    why = service["metadata"]["annotations"].get("mlpipeline/why-tensorflow")
    assert why == {"tensorflow": "it has no operation Odd"}.get(engine)


@pytest.mark.parametrize(
    ("entry", "current", "kept"),
    [
        (FIGURES, "what is served", True),
        ("garbage", "what is served", False),
        (None, "what is served", False),
        (FIGURES, "another", False),
        (FIGURES, "", False),
    ],
)
def test_serve_forgets_a_verification_that_is_not_true_of_what_is_current(
    tmp_path: Path,
    cluster: FakeCluster,
    invoke: Invoke,
    rolled_out: list[Any],
    entry: Any,
    current: str,
    kept: bool,
) -> None:
    for name in ("train-cnn", "train-dropout", "select"):
        _publish(TASKS[name], tmp_path)
    other = plan(config.parse(CONFIG, origin=""), without={"dropout"})["select"]
    _publish(other, tmp_path)
    if current:
        version = {"another": other.key}.get(current, TASKS["select"].key)
        registry.promote(Workspace(tmp_path), "shirts", version)
    given = [{"name": "figures", "value": json.dumps(entry)}] if isinstance(entry, dict) else []
    times = dict.fromkeys(("creationTimestamp", "lastHitTimestamp"), "2026-11-30T00:34:33Z")
    text = json.dumps({"nodeID": "a", "outputs": {"parameters": given}} | times)
    data = {"verify-0123-all": entry if entry == "garbage" else text, "of-others": text}
    labels = {"workflows.argoproj.io/configmap-type": "Cache"}
    metadata = {"name": "memo", "labels": labels}
    cluster.put({"kind": "ConfigMap", "metadata": metadata, "data": data})
    invoke("serve")
    remembered = set(cluster.objects["ConfigMap", "memo"]["data"])
    assert remembered == ({"verify-0123-all"} if kept else set()) | {"of-others"}


def test_undo_fails_with_what_is_served_now(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def undo(_: api.Cluster, name: str, good: str, **limits: float) -> str:
        seen.append((name, good, limits["pending_seconds"]))
        return "version x is served again"

    monkeypatch.setattr(rollout, "undo", undo)
    _publish(TASKS["select"], tmp_path)
    registry.promote(Workspace(tmp_path), "shirts", TASKS["select"].key)
    with pytest.raises(ClusterError, match="not verified: version x is served again"):
        invoke("undo", "--pending-seconds", "7")
    assert seen == [("shirts", TASKS["select"].key, 7)]


def test_serve_publishes_the_version_that_it_is_told_whatever_would_be_selected_by_now(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke, rolled_out: list[Any]
) -> None:
    selection = plan(config.parse(CONFIG, origin=""), without={"dropout"})["select"]
    for task in (TASKS["train-cnn"], TASKS["train-dropout"], TASKS["select"], selection):
        _publish(task, tmp_path)
    invoke("serve", f"--version={selection.key}")
    assert _outputs(tmp_path)["version"] == selection.key != TASKS["select"].key


def test_a_run_was_forced_one_time_and_is_not_repeated_so(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke, rolled_out: list[Any]
) -> None:
    given = _parameters({"image": "mlpipeline:2", "force": "because", "by": "ann@desk"})
    cluster.put({"kind": "Workflow", "metadata": {"name": RUN}, "spec": given})
    _publish(TASKS["select"], tmp_path)
    invoke("serve")
    ((_, publication, _),) = rolled_out
    assert publication.parameters == {"image": "mlpipeline:2"}


def test_judge_goes_by_what_is_served(tmp_path: Path, cluster: FakeCluster, invoke: Invoke) -> None:
    _publish(TASKS["train-cnn"], tmp_path, FIGURES)
    first = plan(config.parse(CONFIG, origin="").among("cnn"))["select"]
    labels = {"workflows.argoproj.io/configmap-type": "Cache"}
    remembered = {first.key: "of a selection that is gone"}
    metadata = {"name": "memo", "labels": labels}
    cluster.put({"kind": "ConfigMap", "metadata": metadata, "data": remembered})
    said = invoke("judge")
    assert "cnn" in said
    assert cluster.objects["ConfigMap", "memo"]["data"] == {}
    expected = {"replaces": "true", "among": "cnn", "key": first.key}
    assert _outputs(tmp_path) == expected
    text = (ROOT / "workflows" / "asynchronous.yaml").read_text()
    (declared,) = (t for t in yaml.safe_load(text)["spec"]["templates"] if t["name"] == "judge")
    assert {p["name"] for p in declared["outputs"]["parameters"]} == set(expected)

    annotations = {"mlpipeline/version": first.key}
    metadata = {"name": "shirts", "annotations": annotations}
    cluster.put({"kind": "InferenceService", "metadata": metadata})
    with artifacts.publish(tmp_path / first.publishes[0]) as draft:
        keys = {"cnn": TASKS["train-cnn"].key}
        documents.decision(keys).save(draft / "decision.json")
    _publish(TASKS["train-dropout"], tmp_path, FIGURES | {"validation_accuracy": 0.8})
    invoke("judge", "--last")
    assert _outputs(tmp_path) == expected | {"replaces": "false"}


def test_serve_changes_nothing_where_the_version_is_not_whole(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke, rolled_out: list[Any]
) -> None:
    for name in ("train-cnn", "train-dropout"):
        _publish(TASKS[name], tmp_path)
    with pytest.raises(MissingArtifactError):
        invoke("serve")
    assert rolled_out == []


def _job(name: str, uid: str, condition: str = "") -> dict[str, Any]:
    status = {"conditions": [{"type": condition, "status": "True"}]} if condition else {}
    metadata = {"name": name, "ownerReferences": [{"uid": uid}]}
    return {"kind": "TFJob", "metadata": metadata, "status": status}


def test_record_writes_the_record_and_ends_the_jobs_that_the_run_has_left(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    status = {"startedAt": "2026-11-21T12:00:00Z", "nodes": {}}
    workflow = {"kind": "Workflow", "metadata": {"name": RUN}, "spec": {}, "status": status}
    cluster.put(workflow)
    for job in (
        _job("running", "workflow-uid", "Running"),
        _job("new", "workflow-uid"),
        _job("failed", "workflow-uid", "Failed"),
        _job("done", "workflow-uid", "Succeeded"),
        _job("of-another-run", "another-uid", "Running"),
    ):
        cluster.put(job)
    said = invoke("record")
    folder = tmp_path / "runs" / RUN
    assert artifacts.read_json(folder / "run.json")["state"] == "failed"
    assert (folder / "report.html").exists()
    assert str(folder / "report.html") in said
    assert cluster.changes == ["delete TFJob running", "delete TFJob new"]


def test_record_tells_a_webhook_once_and_succeeds_where_that_does_not_answer(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def post(_: webhook.Webhook, content: dict[str, Any]) -> str:
        assert webhook.URL_VARIABLE not in os.environ
        told.append(content)
        return "it answered with status 500"

    monkeypatch.setattr(webhook.Webhook, "_post", post)
    status = {"startedAt": "2026-11-21T12:00:00Z", "nodes": {}}
    cluster.put({"kind": "Workflow", "metadata": {"name": RUN}, "spec": {}, "status": status})
    for _ in range(2):  # the second is the same step in another pod
        monkeypatch.setenv(webhook.URL_VARIABLE, "https://hooks.test/secret")
        said = invoke("record")
    assert [(content["run"], content["state"]) for content in told] == [(RUN, "failed")]
    assert "secret" not in said
    assert (tmp_path / "runs" / RUN / "report.html").exists()


def test_a_deleted_workflow_leaves_a_record_which_the_next_one_closes(
    tmp_path: Path, cluster: FakeCluster, invoke: Invoke
) -> None:
    status = {"startedAt": "2026-11-21T12:00:00Z", "nodes": {}}
    given = _parameters({"configuration": yaml.safe_dump(CONFIG), "image": "mlpipeline:1a2b"})
    workflow = {"kind": "Workflow", "metadata": {"name": RUN}, "spec": given, "status": status}
    cluster.put(workflow)
    invoke("plan")
    runs = tmp_path / "runs"
    begun = artifacts.read_json(runs / RUN / "run.json")
    assert (begun["state"], begun["source"]) == ("running", "image mlpipeline:1a2b")
    assert list(begun["config"]["candidates"]) == list(CONFIG["candidates"])

    (runs / "other").mkdir()  # as a run that has been planned, and goes on
    (runs / "other" / "run.json").write_bytes((runs / RUN / "run.json").read_bytes())
    (runs / "local").mkdir()
    (runs / "local" / "run.json").write_bytes((runs / RUN / "run.json").read_bytes())
    (runs / "local" / ".lock").touch()
    cluster.remove("Workflow", RUN)
    for name in ("other", "next"):
        cluster.put(workflow | {"metadata": {"name": name, "uid": name}})
    said = invoke("record", "--workflow", "next/next")
    closed = artifacts.read_json(runs / RUN / "run.json")
    assert (closed["state"], closed["error"]) == (
        *("interrupted", "its workflow was deleted before it ended"),
    )
    assert (runs / RUN / "report.html").exists()
    assert (runs / RUN / "lineage.jsonl").exists()
    assert f"interrupted, {closed['error']}: {runs / RUN / 'report.html'}" in said
    assert artifacts.read_json(runs / "other" / "run.json")["state"] == "running"
    assert artifacts.read_json(runs / "local" / "run.json")["state"] == "running"
    assert "interrupted" not in invoke("record", "--workflow", "next/next")


def test_record_does_its_own_first_and_whatever_is_wrong_with_others_and_its_report_last(
    tmp_path: Path,
    cluster: FakeCluster,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = {"startedAt": "2026-11-21T12:00:00Z", "nodes": {}}
    cluster.put({"kind": "Workflow", "metadata": {"name": RUN}, "spec": {}, "status": status})
    labels = {
        "app.kubernetes.io/part-of": "mlpipeline",
        "workflows.argoproj.io/completed": "true",
    }
    spec = {"entrypoint": "pipeline", "onExit": "record"}
    figures = {"parameters": [{"name": "figures", "value": "not json"}]}
    verify = {
        **{"id": "odd-1", "type": "Retry", "templateName": "verify", "phase": "Succeeded"},
        "outputs": figures,
    }
    for name, nodes in {"odd": {"odd-1": verify}, "page": {}, "line": {}, "well": {}}.items():
        metadata = {"name": name, "labels": labels}
        of = {"kind": "Workflow", "metadata": metadata, "spec": spec}
        cluster.put(
            of | {"status": status | {"nodes": nodes, "finishedAt": "2026-11-21T13:00:00Z"}}
        )
    real_page, real_line, order = report.write, lineage.write, []

    def page(workspace: Workspace, run: Run) -> Path:
        assert (tmp_path / "runs" / RUN / "run.json").exists()
        assert (tmp_path / "runs" / RUN / "lineage.jsonl").exists()
        order.append(run.run)
        if run.run == "page":
            raise TypeError("no such figure")
        return real_page(workspace, run)

    def line(workspace: Workspace, run: Run) -> Path:
        if run.run == "line":
            raise OSError("disk full")
        return real_line(workspace, run)

    monkeypatch.setattr(report, "write", page)
    monkeypatch.setattr(lineage, "write", line)
    said = invoke("record")
    assert sorted(order) == sorted([RUN, "page", "well"])
    assert order[-1] == RUN
    assert RUN in (tmp_path / "report.html").read_text()
    assert str(tmp_path / "runs" / "well" / "report.html") in said
    for name in ("odd", "page", "line"):
        assert f"{name}: what the next run does for it is not done" in said

    def refuse(*_: Any) -> None:
        raise ClusterError("workflows: forbidden", expected="them", remedy="grant it")

    monkeypatch.setattr(cluster, "each", refuse)
    order.clear()
    said = invoke("record")
    assert order == [RUN]
    assert "the other runs: what the next run does for it is not done" in said


def test_record_says_so_where_the_workflow_is_gone(cluster: FakeCluster, invoke: Invoke) -> None:
    with pytest.raises(ClusterError, match=f"there is no workflow {RUN}"):
        invoke("record")


@pytest.fixture
def sigterm() -> Iterator[Callable[[], None]]:
    before = signal.getsignal(signal.SIGTERM)
    yield functools.partial(signal.raise_signal, signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_the_wait_in_order(sigterm: Callable[[], None]) -> None:
    stop = stopping.stop_event()
    assert not stop.is_set()
    sigterm()
    assert stop.is_set()
