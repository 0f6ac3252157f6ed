"""What an operator does and meets: commands, accidents, hand edits. One quick model serves all.

Accidents that leave a workflow without an exit handler come first, because the run after them has
to write their records.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from mlpipeline.backends.local.processes import free_ports
from mlpipeline.learning.data import datasets
from mlpipeline.store import artifacts
from mlpipeline.store.schemas.run import Run as Record
from support.pipelines import states
from support.workflows_on_kind import (
    CONTEXT,
    IMAGE,
    NAMESPACE,
    QUICK,
    ROOT,
    WORKSPACE,
    Run,
    Runs,
    argo,
    call,
    configuration,
    find,
    get,
    kubectl,
    on_node,
    patched,
    remove_artifacts,
    task_of,
    wait_until,
)
from support.workflows_on_kind import runs as started_runs

pytestmark = pytest.mark.timeout(1500)

NO_IMAGE = "mlpipeline:nonsense"


def make(*words: str, seconds: float = 300) -> str:
    """Call make, as a person does; return all that it printed."""
    done = _make(*words, seconds=seconds)
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_fails(*words: str, seconds: float = 300) -> str:
    """Call make for something that must fail; return all that it printed."""
    done = _make(*words, seconds=seconds)
    assert done.returncode != 0, done.stdout
    return done.stdout


def _make(*words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", f"LAST_CONTAINER={IMAGE}", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
    )


def section(status: str, title: str) -> str:
    """A section of `make status`."""
    parts = {head: rest for head, _, rest in (p.partition("\n") for p in status.split("\n\n"))}
    return parts[title]


def add_images(folder: Path, first: int, last: int) -> None:
    """Write some made-up images of three classes, as a person puts photos on the volume."""
    made = datasets.synthetic().train
    for label in range(3):
        (folder / f"class-{label}").mkdir(parents=True, exist_ok=True)
        images = made.images[made.labels == label][first:last]
        assert len(images) == last - first
        for number, image in enumerate(images, start=first):
            Image.fromarray(image.squeeze()).save(folder / f"class-{label}" / f"{number}.png")


@pytest.fixture(scope="module")
def module_runs() -> Iterator[Runs]:
    with started_runs() as made:
        yield made


@pytest.fixture(scope="module")
def photos() -> Iterator[Path]:
    """A folder of images on the cluster's volume."""
    folder = WORKSPACE / "images" / f"e2e-{uuid.uuid4().hex[:8]}"
    add_images(folder, 0, 20)
    yield folder
    remove_artifacts(folder)


@pytest.fixture(scope="module")
def first(photos: Path, module_runs: Runs) -> Run:
    """A model of these images that is served."""
    inside = Path("/workspace") / photos.relative_to(WORKSPACE)
    run = module_runs.submit(
        configuration(
            {"quick": QUICK},
            data={"dataset": f"folder:{inside}", "validation": 12, "shards": 2},
            recipe={"batch_size": 12, "precision": "float32", "epochs": 1},
            training={"workers": 1},
        )
    )
    run.assert_succeeds()
    return run


# --- workflows that can leave no record of their own --------------------------------------------


@dataclass(frozen=True)
class Accidents:
    """What became of three workflows, and of the run after them.

    Attributes:
        no_image: What `make submit` said of an image that is not there.
        locked: The run that could not write to the workspace.
        locked_status: What `make status` said while it was so.
        deleted: The run whose workflow was deleted under way.
        after: What `make submit` said of a long configuration, afterwards.
    """

    no_image: str
    locked: Run
    locked_message: str
    locked_status: str
    deleted: Run
    after: str


@contextmanager
def read_only_workspace() -> Iterator[None]:
    """Pods cannot write where runs have their folders."""
    on_node("chmod 555 /workspace/runs")
    try:
        yield
    finally:
        on_node("chmod 777 /workspace/runs")


@pytest.fixture(scope="module")
def accidents(
    first: Run, module_runs: Runs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Accidents]:
    folder = tmp_path_factory.mktemp("accidents")
    # What `make submit` does, but that pods have half a minute to start instead of five.
    hasty = re.sub(r"timeout: \d+m", "timeout: 30s", (ROOT / "workflows/pipeline.yaml").read_text())
    (folder / "hasty.yaml").write_text(hasty)
    (folder / "config.yaml").write_text(yaml.safe_dump(first.content))
    workflow = os.path.relpath(folder / "hasty", ROOT / "workflows")
    submit = ["make", "submit", f"CONFIG={folder / 'config.yaml'}", f"WORKFLOW={workflow}"]
    with subprocess.Popen(
        [*submit, f"LAST_CONTAINER={NO_IMAGE}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as submitted:
        deleted = submit_another(first, module_runs, units=7)
        wait_until(deleted.keys, "the end of the step `plan`", 120)
        kubectl("delete", "workflow", deleted.name)
        with read_only_workspace():
            locked = module_runs.submit(first.content)
            assert locked.wait() == "Failed"
            status = make("status")
        message = argo("get", "--no-color", locked.name)
        said, _ = submitted.communicate(timeout=300)
        assert submitted.returncode != 0, said
    # Beyond what one argument of a command may have, which is 128 KiB.
    padding = "# what we know of each class\n" * 7_000
    (folder / "long.yaml").write_text(yaml.safe_dump(first.content) + padding)
    after = make("submit", f"CONFIG={folder / 'long.yaml'}", seconds=600)
    yield Accidents(said, locked, message, status, deleted, after)
    (name,) = re.findall(r"^(mlpipeline-\w+) is submitted", said, re.MULTILINE)
    kubectl("delete", "workflow", name, "--ignore-not-found")


def record_of(name: str) -> Record:
    """The record of a run, whose report is beside it."""
    report = (WORKSPACE / "runs" / name / "report.html").read_text(encoding="utf-8")
    assert name in report
    return Record.load(WORKSPACE / "runs" / name / "run.json")


def test_an_image_that_cannot_be_pulled_is_the_reason_in_all_places(accidents: Accidents) -> None:
    pull = f'Failed to pull image "{NO_IMAGE}"'
    assert pull in accidents.no_image
    assert "to do: `make image` builds the image" in accidents.no_image
    assert "did not succeed" in accidents.no_image
    (name,) = re.findall(r"^(mlpipeline-\w+) is submitted", accidents.no_image, re.MULTILINE)
    workflow = get("workflow", name)
    assert workflow is not None
    # All pods have this image, the exit handler's too: each had its time, once.
    pods = [n for n in workflow["status"]["nodes"].values() if n["type"] == "Pod"]
    assert sorted(node["templateName"] for node in pods) == ["plan", "record"]
    record = record_of(name)
    assert record.state == "failed"
    assert pull in str(record.error)
    assert "to do:    `make image`" in str(record.error)
    assert record.source == f"image {NO_IMAGE}"


def test_a_workspace_that_cannot_be_written_is_the_reason_in_all_places(
    accidents: Accidents,
) -> None:
    # The step `plan` is the first that writes there, and is refused.
    reason = re.compile(r"cannot use /workspace/runs\S*: Permission denied")
    waits = section(accidents.locked_status, "steps that wait or failed, and why")
    prefix = f"{accidents.locked.name}, plan"
    assert [
        each
        for each in waits.splitlines()
        if each.startswith(f"  {prefix}") and reason.search(each)
    ]
    assert "to do: let uid 1000 write to the workspace" in waits
    assert reason.search(accidents.locked_message)
    record = record_of(accidents.locked.name)
    assert record.state == "failed"
    assert reason.match(str(record.error))
    assert "to do: " in str(record.error)


def test_a_workflow_that_was_deleted_has_a_record_once_another_has_ended(
    accidents: Accidents,
) -> None:
    record = record_of(accidents.deleted.name)
    assert (record.state, record.error) == (
        "interrupted",
        "its workflow was deleted before it ended",
    )
    assert record.name == accidents.deleted.content["name"]


def test_a_configuration_of_200_kb_is_submitted_as_it_is(accidents: Accidents, first: Run) -> None:
    name, version = first.content["name"], first.keys()["select"]
    assert f"\n{name}, version {version}, answers at http://" in accidents.after
    assert "argo=true" not in accidents.after


# --- what ends a training from outside ----------------------------------------------------------

TOO_LITTLE = {
    "name": "tensorflow",
    "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "90Mi"}},
}


def assert_said(run: Run, reason: str, to_do: str) -> None:
    """A reason, with what to do, is in the workflow, its record, its report, and `make status`."""
    assert run.wait() == "Failed"
    assert reason in run.describe()
    record = record_of(run.name)
    assert reason in str(record.error)
    assert to_do in str(record.error)
    assert reason in (WORKSPACE / "runs" / run.name / "report.html").read_text(encoding="utf-8")
    said = section(make("status"), "steps that wait or failed, and why")
    of_run = "\n".join(said.partition(f"{run.name}, ")[1:])
    assert reason in of_run
    assert "to do:" in of_run
    assert "argo=true" not in said
    assert not any(line.strip().startswith(("I0000", "E0000", "WARNING: All")) for line in said)


def submit_another(first: Run, runs: Runs, *, units: int, **parameters: str) -> Run:
    """Submit the training of another candidate on the same data, which `units` tells apart."""
    other = QUICK | {"options": {"widths": [4, 8], "units": units}}
    return runs.submit(first.content | {"candidates": {"other": other}}, **parameters)


def test_a_worker_that_needs_more_memory_than_its_limit(first: Run, module_runs: Runs) -> None:
    worker = {"template": {"spec": {"containers": [TOO_LITTLE]}}}
    with patched("tfjob", {"spec": {"tfReplicaSpecs": {"Worker": worker}}}):
        run = submit_another(first, module_runs, units=8)
        assert_said(run, "OOMKilled", "raise its limit")


@contextmanager
def quota_for_workers() -> Iterator[None]:
    """The namespace has no room for pods that have no time to end by, as steps have."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "e2e"},
        "spec": {"hard": {"pods": "0"}, "scopes": ["NotTerminating"]},
    }
    kubectl("apply", "--filename=-", send=json.dumps(quota))
    try:
        yield
    finally:
        kubectl("delete", "resourcequota", "e2e", "--ignore-not-found")


def test_a_worker_that_the_quota_has_no_room_for(first: Run, module_runs: Runs) -> None:
    with quota_for_workers():
        run = submit_another(first, module_runs, units=10, **{"pending-seconds": "15"})
        assert_said(run, "exceeded quota: e2e", "quota")


# --- deploying ----------------------------------------------------------------------------------


@contextmanager
def stopped(namespace: str, deployment: str) -> Iterator[None]:
    """An operator is down, because somebody has scaled it to none."""
    scale = ["kubectl", "--context", CONTEXT, "--namespace", namespace, "scale", "deployment"]
    call(*scale, deployment, "--replicas=0")
    try:
        yield
    finally:
        call(*scale, deployment, "--replicas=1")


def test_an_operator_that_is_down_is_named_and_the_run_goes_on_once_deploy_has_mended_it(
    first: Run, module_runs: Runs
) -> None:
    reason = 'failed calling webhook "validator.tfjob.training-operator.kubeflow.org"'
    remedy = "start the operator again: `make status` says which is down, `make deploy` mends it"
    with stopped("kubeflow", "training-operator"), stopped(NAMESPACE, "argo-server"):
        down = section(make("status"), "platform: deployments that are not ready")
        assert "kubectl -n kubeflow scale deployment training-operator --replicas 1" in down
        run = submit_another(first, module_runs, units=9)

        def has_said() -> bool:
            return any(reason in node.get("message", "") for node in run.nodes("train-pod"))

        wait_until(has_said, f"a step to say: {reason}", 240)
        waits = section(make("status"), "steps that wait or failed, and why")
        assert reason in waits
        assert remedy in waits
        # How many there are of this one its manifest says; of the other it does not.
        said = make_fails("deploy", "OVERLAY=kind")
        assert f"the deployment argo-server of the namespace {NAMESPACE} is scaled to none" in said
        assert "make deploy FORCE=1" in said
        wait_until(lambda: run.nodes("train-pod")[-1]["phase"] == "Succeeded", "the training", 240)
        run.stop()  # the rest would be as always
        run.wait()
    trained = task_of(run.record(), "train-other")
    assert trained["state"] == "succeeded"
    retries = trained["retries"]
    assert retries
    assert all(reason in retry and remedy in retry for retry in retries)


@dataclass
class Edited:
    """An object that somebody has changed by hand; what it says, and what it said before."""

    kind: str
    name: str
    path: tuple[str, ...]

    def value(self) -> Any:
        found: Any = get(self.kind, self.name)
        for part in self.path:
            found = found[part]
        return found

    def edit(self, value: Any, manager: str) -> None:
        change = value
        for part in reversed(self.path):
            change = {part: change}
        options = ["--type=merge", f"--field-manager={manager}", f"--patch={json.dumps(change)}"]
        kubectl("patch", self.kind, self.name, *options)


LIMIT = Edited("configmap", "limits", ("data", "trainings"))
TEMPLATE = Edited("configmap", "templates", ("data", "disruption-budget.yaml"))
SERVER = Edited("deployment", "argo-server", ("spec", "template", "spec", "serviceAccountName"))


@pytest.fixture
def hand_edits() -> Iterator[dict[str, Any]]:
    """Somebody has changed a setting, and two objects that `make deploy` owns; one does not run."""
    before = {"limit": LIMIT.value(), "template": TEMPLATE.value(), "server": SERVER.value()}
    try:
        kubectl("scale", "deployment", "argo-server", "--replicas=0")
        LIMIT.edit("3", "kubectl-edit")
        TEMPLATE.edit(f"{before['template']}# mine\n", "kubectl-edit")
        SERVER.edit("default", "helm")
        yield before
    finally:
        make("deploy", "OVERLAY=kind", "FORCE=1")


def test_deploy_names_what_was_changed_by_hand_and_takes_it_back_by_force_alone(
    hand_edits: dict[str, Any],
) -> None:
    said = make_fails("deploy", "OVERLAY=kind")
    assert "configmap/templates: .data.disruption-budget.yaml, by kubectl-edit" in said
    assert "deployment/argo-server: .spec.template.spec.serviceAccountName, by helm" in said
    assert "configmap/limits" not in said
    assert "make deploy FORCE=1 takes them back" in said
    assert (LIMIT.value(), SERVER.value()) == ("3", "default")
    assert TEMPLATE.value().endswith("# mine\n")

    assert "deployed in" in make("deploy", "OVERLAY=kind", "FORCE=1")
    taken = {"limit": LIMIT.value(), "template": TEMPLATE.value(), "server": SERVER.value()}
    assert taken == hand_edits
    server = get("deployment", "argo-server")
    assert server is not None
    assert server["status"]["readyReplicas"] == 1

    LIMIT.edit("3", "kubectl-edit")
    said = make("deploy", "OVERLAY=kind")
    assert "configmap/limits: .data.trainings stays as it was set (by kubectl-edit)" in said
    assert LIMIT.value() == "3"


# --- the commands of docs/how-to/operate.md -----------------------------------------------------


@pytest.fixture(scope="module")
def again(first: Run, module_runs: Runs) -> Run:
    """The same once more, which is served whatever the tests before have served; the newest."""
    run = module_runs.submit(first.content)
    run.assert_succeeds()
    return run


def no_pod_inside() -> bool:
    return not find("pods", "app.kubernetes.io/component=inside")


def test_status_and_logs_say_what_matters_now(first: Run, again: Run) -> None:
    status = make("status")
    assert CONTEXT in section(status, "cluster")
    model = section(status, "model").splitlines()
    rows = [line.split() for line in model if line.split()[0] == first.content["name"]]
    assert rows == [[first.content["name"], first.keys()["select"], "True"]]
    assert again.name in section(status, "workflows")
    logs = make("logs")
    assert again.name in logs
    assert "\x1b[" not in logs
    assert "argo=true" not in logs
    assert "absl::InitializeLog" not in logs


@pytest.mark.usefixtures("again")
def test_models_are_listed_each_with_an_address(first: Run) -> None:
    head, *lines = make("models", "IN=cluster").splitlines()
    assert head.split() == ["MODEL", "VERSION", "READY", "ADDRESS"]
    ((version, ready, address),) = [
        line.split()[1:] for line in lines if line.split()[0] == first.content["name"]
    ]
    assert (version, ready) == (first.keys()["select"], "True")
    assert address.startswith("http://")


def test_reports_come_out_of_the_cluster(first: Run) -> None:
    files = [ROOT / "report.html", ROOT / f"{first.name}.html"]
    try:
        assert make("report") == "report.html is written\n"
        assert make("report", f"RUN={first.name}") == f"{first.name}.html is written\n"
        assert files[0].read_bytes() == (WORKSPACE / "report.html").read_bytes()
        report = WORKSPACE / "runs" / first.name / "report.html"
        assert files[1].read_bytes() == report.read_bytes()
        said = make_fails("report", "RUN=none")
        assert "there is no runs/none/report.html in the workspace" in said
        assert first.name in said
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    wait_until(no_pod_inside, "the end of the pods that these started", 60)


def test_what_nobody_needs_is_named_and_what_runs_need_stays(first: Run) -> None:
    places = ("runs", "datasets", "candidates", "selections", f"models/{first.content['name']}")

    def there() -> set[Path]:
        return {path for place in places for path in (WORKSPACE / place).glob("[!.]*")}

    before = there()
    said = make("gc", "IN=cluster", "KEEP_RUNS=1", "DRY_RUN=1")
    assert re.search(r"would be removed: \d+, ", said)
    assert there() == before
    assert re.search(r"[^e] removed: \d+, ", make("gc", "IN=cluster", "KEEP_RUNS=1000"))
    for step, folder in (("ingest", "datasets"), ("select", "selections")):
        artifacts.verify(WORKSPACE / folder / first.keys()[step])


def test_a_command_inside_sees_the_clusters_workspace_and_cannot_write_to_it(first: Run) -> None:
    name, version = first.content["name"], first.keys()["select"]
    assert name in make("inside", "COMMAND=ls /workspace/models").split()
    lineage = make("inside", f"COMMAND=python -m mlpipeline lineage {version}")
    assert first.name in lineage
    assert first.keys()["train-quick"] in lineage
    said = make_fails("inside", "COMMAND=touch /workspace/mine")
    assert "Read-only file system" in said
    assert not (WORKSPACE / "mine").exists()
    # What the model was asked, only by who says so.
    assert make("inside", "COMMAND=ls -A /workspace/requests") == ""
    assert name in make("inside", "REQUESTS=1", "COMMAND=ls -A /workspace/requests").split()
    wait_until(no_pod_inside, "the end of the pods that these started", 60)


def test_tensorboard_shows_the_candidates_until_it_is_ended(first: Run) -> None:
    (port,) = free_ports(1)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
    try:
        command = [str(ROOT / "scripts/inside.sh"), IMAGE, "tensorboard", str(port)]
        shown = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    with shown:
        try:
            assert shown.stdout is not None
            assert f"TensorBoard: http://127.0.0.1:{port}" in shown.stdout.readline()
            key = first.keys()["train-quick"]

            def is_listed() -> bool:
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/data/runs", timeout=30)
                    return any(key in run for run in answer.json())
                except httpx.HTTPError:  # the tunnel has only begun
                    return False

            wait_until(is_listed, f"TensorBoard to list {key}", 90)
            os.killpg(shown.pid, signal.SIGINT)
            assert shown.wait(60) == 130
        finally:
            if shown.poll() is None:
                os.killpg(shown.pid, signal.SIGKILL)
    wait_until(no_pod_inside, "the end of TensorBoard's pod", 60)


# --- training anew ------------------------------------------------------------------------------


def retrain(model: str) -> Run:
    """Train anew what is served; return the run of a model."""
    name = argo("submit", "--from=cronworkflow/retrain", "--output=name").strip()
    argo("wait", name, seconds=900)
    parent = get("workflow", name)
    assert parent is not None
    assert parent["status"]["phase"] == "Succeeded", argo("get", "--no-color", name)
    return Run(f"{name}-{model}", {})


@pytest.mark.usefixtures("again")
def test_retrain_makes_another_version_of_new_data_and_of_nothing_else(
    first: Run, photos: Path
) -> None:
    model = first.content["name"]
    add_images(photos, 20, 30)

    news = retrain(model)
    given = {p["name"]: p["value"] for p in news.workflow()["spec"]["arguments"]["parameters"]}
    assert given["image"] == IMAGE
    assert yaml.safe_load(given["configuration"]) == first.content
    made = states(news.record())
    assert made == dict.fromkeys(made, "succeeded")
    version = news.keys()["select"]
    assert version != first.keys()["select"]
    current = artifacts.read_text(WORKSPACE / "models" / model / "current").strip()
    service = get("inferenceservice", model)
    assert service is not None
    assert current == version == service["metadata"]["annotations"]["mlpipeline/version"]

    nothing_new = retrain(model)
    assert nothing_new.keys()["select"] == version
    states_of = states(nothing_new.record())
    steps = ("ingest", "train-quick", "select", "serve", "verify")
    assert {step: states_of[step] for step in steps} == dict.fromkeys(steps, "reused")
    after = get("inferenceservice", model)
    assert after is not None
    assert after["metadata"]["generation"] == service["metadata"]["generation"]
