"""Workflows on the kind cluster: submitted, looked at and disturbed as a person would.

`make cluster deploy` first. Without a cluster the tests fail: a skipped test says nothing. Every
wait has an end, and every run its own model and seed, so that none meets what another has made.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from mlpipeline.store import artifacts
from support.pipelines import progress_of

ROOT = Path(__file__).parents[2]
WORKSPACE = ROOT / "workspace-kind"
NAMESPACE = os.environ.get("NAMESPACE", "mlpipeline")
CONTEXT = "kind-mlpipeline"
IMAGE = os.environ.get("IMAGE", "mlpipeline:0.2.0")
PREDICTOR_IMAGE = os.environ.get("PREDICTOR_IMAGE", "mlpipeline-predictor:0.2.0")

# Who serves what `configuration` says: `SERVING_ENGINE=tensorflow make test-e2e` has the other one.
ENGINE = os.environ.get("SERVING_ENGINE", "auto")

# The model's address from outside of the cluster.
HTTP, GRPC = "http://127.0.0.1:30080", "127.0.0.1:30081"

# A whole run takes one to two minutes; these are limits for what hangs.
RUN_SECONDS = 600
_CALL_SECONDS = 60

# Some seconds of training, for a run that only has to end; and most of a minute of it, with a
# checkpoint every other second, for one that is to be hit in its middle.
QUICK = {"model": "cnn", "options": {"widths": [4, 8], "units": 16}}
LONG = QUICK | {"epochs": 50}


def configuration(candidates: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Small made-up data and a model with a name and a seed of its own."""
    content: dict[str, Any] = {
        "name": f"e2e-{uuid.uuid4().hex[:8]}",
        "seed": random.randrange(10**6),  # part of every candidate's key: nothing is reused
        "data": {"dataset": "synthetic", "validation": 500, "shards": 4},
        "recipe": {"batch_size": 100, "precision": "float32", "epochs": 1},
        "candidates": dict(candidates),
        "training": {"workers": 2, "checkpoint_steps": 100},
        "serving": {"replicas": 1},
    } | sections
    content["serving"] = {"engine": ENGINE} | content["serving"]
    return content


def call(*command: str, send: str | None = None, seconds: float = _CALL_SECONDS) -> str:
    """Run a command line to its end; return what it printed."""
    done = subprocess.run(
        command, input=send, capture_output=True, text=True, check=False, timeout=seconds
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def kubectl(*arguments: str, send: str | None = None, seconds: float = _CALL_SECONDS) -> str:
    """Call kubectl in the pipeline's namespace of the kind cluster."""
    options = ("--context", CONTEXT, "--namespace", NAMESPACE)
    return call("kubectl", *options, *arguments, send=send, seconds=seconds)


def argo(*arguments: str, seconds: float = _CALL_SECONDS) -> str:
    """Call argo in the pipeline's namespace of the kind cluster."""
    options = ("--context", CONTEXT, "--namespace", NAMESPACE)
    return call("argo", *arguments, *options, seconds=seconds)


def get(kind: str, name: str) -> dict[str, Any] | None:
    """An object, or None if there is none."""
    text = kubectl("get", kind, name, "--ignore-not-found", "--output=json")
    found: dict[str, Any] | None = json.loads(text) if text.strip() else None
    return found


def find(kind: str, selector: str = "") -> list[dict[str, Any]]:
    """All objects that have certain labels."""
    found = json.loads(kubectl("get", kind, f"--selector={selector}", "--output=json"))
    items: list[dict[str, Any]] = found["items"]
    return items


def wait_until(condition: Callable[[], Any], what: str, seconds: float = RUN_SECONDS) -> Any:
    """Wait until something is true; return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return found


@dataclass(frozen=True)
class Run:
    """A workflow.

    Attributes:
        name: Name of the workflow.
        content: Its configuration.
        image: Image of all of its pods.
    """

    name: str
    content: dict[str, Any]
    image: str = IMAGE

    def workflow(self) -> dict[str, Any]:
        found = get("workflow", self.name)
        assert found is not None, f"workflow {self.name} is gone"
        return found

    def phase(self) -> str:
        return str(self.workflow().get("status", {}).get("phase", ""))

    def wait(self, seconds: float = RUN_SECONDS) -> str:
        """Wait for its end; return how it ended."""
        endings = ("Succeeded", "Failed", "Error")
        end = time.monotonic() + seconds
        while (phase := self.phase()) not in endings:
            assert time.monotonic() < end, f"not ended after {seconds:.0f} s:\n{self.describe()}"
            time.sleep(1)
        return phase

    def assert_succeeds(self) -> dict[str, Any]:
        """Wait for its end; return its record."""
        assert self.wait() == "Succeeded", self.describe()
        record = self.record()
        assert record["state"] == "succeeded", record
        return record

    def stop(self) -> None:
        argo("stop", self.name)

    def describe(self) -> str:
        """What a person would look at first."""
        return argo("get", "--no-color", self.name)

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = artifacts.read_json(WORKSPACE / "runs" / self.name / "run.json")
        return record

    def nodes(self, template: str, kind: str = "Pod") -> list[dict[str, Any]]:
        """Argo's nodes of a template, in the order of their start."""
        nodes = self.workflow().get("status", {}).get("nodes", {}).values()
        found = [n for n in nodes if n.get("templateName") == template and n["type"] == kind]
        return sorted(found, key=lambda node: str(node.get("startedAt")))

    def step_pods(self, step: str) -> list[dict[str, Any]]:
        """The pods of a step, of all its attempts."""
        return find(
            "pods", f"workflows.argoproj.io/workflow={self.name},app.kubernetes.io/component={step}"
        )

    def step_pod(self, step: str) -> dict[str, Any] | None:
        """The pod of a step that runs now, if there is one."""
        pods = self.step_pods(step)
        return next((pod for pod in pods if pod["status"]["phase"] == "Running"), None)

    def step_log(self, step: str) -> str:
        """What a step has printed, in its only attempt."""
        (pod,) = self.step_pods(step)
        return kubectl("logs", pod["metadata"]["name"], "--container=main")

    def keys(self) -> dict[str, str]:
        """The key of each task that has one, as the step `plan` has found it; none before that."""
        for node in self.nodes("plan"):
            if node["phase"] == "Succeeded":
                said = {p["name"]: p["value"] for p in node["outputs"]["parameters"]}
                trainings = json.loads(said["trainings"])
                return {"ingest": said["ingest-key"], "select": said["select-key"]} | {
                    f"train-{training['candidate']}": training["key"] for training in trainings
                }
        return {}

    def jobs(self) -> list[dict[str, Any]]:
        """Its TFJobs."""
        uid = self.workflow()["metadata"]["uid"]
        return [
            job
            for job in find("tfjobs")
            if uid in (owner["uid"] for owner in job["metadata"].get("ownerReferences", ()))
        ]

    def wait_until_training(self, candidate: str) -> Training:
        """Wait for a candidate's first checkpoint; return its training, which is under way."""

        def is_there() -> bool:
            assert self.phase() in ("", "Pending", "Running"), self.describe()
            work = f".{self.keys().get(f'train-{candidate}')}.work"
            return (WORKSPACE / "candidates" / work / "checkpoints" / "checkpoint").exists()

        wait_until(is_there, "the first checkpoint", 240)
        (job,) = self.jobs()
        return Training(job["metadata"]["name"], job["metadata"]["uid"])


@dataclass(frozen=True)
class Training:
    """A TFJob."""

    name: str
    uid: str

    def workers(self) -> dict[str, dict[str, Any]]:
        """Its pods by their names."""
        pods = find("pods", f"training.kubeflow.org/job-name={self.name}")
        return {pod["metadata"]["name"]: pod for pod in pods}

    def uids(self) -> dict[str, str]:
        """Which pods it has: a pod that is started anew has its name, but another uid."""
        return {name: pod["metadata"]["uid"] for name, pod in self.workers().items()}

    def log(self) -> str:
        """What its chief has printed since it was last started."""
        return kubectl("logs", f"{self.name}-worker-0")

    def assert_resumed(self, before: dict[str, str]) -> None:
        """Assert that it went on from a checkpoint, with other pods than `uids` had said before."""
        after = self.uids()
        assert set(after) == set(before)
        assert all(after[name] != before[name] for name in before), "a worker stayed, alone"
        log = self.log()
        resumed = re.search(r"resuming at step (\d+)", log)
        assert resumed is not None, log
        assert int(resumed[1]) > 0
        assert min(progress_of(log)) > int(resumed[1])


@dataclass
class Runs:
    """The runs of a test, and what they leave in the cluster."""

    models: set[str] = field(default_factory=set)
    started: list[Run] = field(default_factory=list)

    def submit(
        self,
        content: Mapping[str, Any],
        image: str = IMAGE,
        workflow: str = "pipeline",
        **parameters: str,
    ) -> Run:
        """Submit a configuration to one of the workflows."""
        given = {
            "image": image,
            "predictor-image": PREDICTOR_IMAGE,
            "configuration": yaml.safe_dump(dict(content)),
        } | parameters
        options = [part for name, value in given.items() for part in ("-p", f"{name}={value}")]
        self.models.add(content["name"])
        file = ROOT / "workflows" / f"{workflow}.yaml"
        name = argo("submit", "--output=name", str(file), *options)
        run = Run(name.strip(), dict(content), image)
        self.started.append(run)
        return run

    def remove(self) -> None:
        """End what still runs, and remove the models that were published."""
        for run in self.started:
            workflow = get("workflow", run.name)
            if workflow and "finishedAt" not in {
                name for name, value in workflow.get("status", {}).items() if value
            }:
                argo("stop", run.name)
        for model in self.models:
            kubectl("delete", "inferenceservice", model, "--ignore-not-found")


@contextmanager
def runs() -> Iterator[Runs]:
    """Runs that are over, with all that they made in the cluster, when the body is."""
    made = Runs()
    try:
        yield made
    finally:
        made.remove()


@contextmanager
def templates_of_the_image(*names: str) -> Iterator[None]:
    """Have what some WorkflowTemplates start run in the images that are tested."""
    images = {"image": IMAGE, "predictor-image": PREDICTOR_IMAGE}

    def parameters(name: str) -> list[dict[str, Any]]:
        template = get("workflowtemplate", name)
        assert template is not None, f"no template {name}: `make deploy` applies it"
        found: list[dict[str, Any]] = template["spec"]["arguments"]["parameters"]
        return found

    def put(name: str, parameters: list[dict[str, Any]]) -> None:
        patch = {"spec": {"arguments": {"parameters": parameters}}}
        kubectl("patch", "workflowtemplate", name, "--type=merge", "-p", json.dumps(patch))

    before = {name: parameters(name) for name in names}
    for name, given in before.items():
        put(name, [p | {"value": images.get(p["name"], p.get("value"))} for p in given])
    try:
        yield
    finally:
        for name, given in before.items():
            put(name, given)


def post(folder: Path, *events: Mapping[str, Any]) -> list[str]:
    """Post events as a person does; return a line for each."""
    files = []
    for number, event in enumerate(events):
        files.append(folder / f"{number}.json")
        files[-1].write_text(json.dumps(event))
    sent = call(str(ROOT / "scripts/post.sh"), sys.executable, *map(str, files), seconds=300)
    return sent.splitlines()


def task_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the record says of a task."""
    (task,) = (task for task in record["tasks"] if task["name"] == name)
    found: dict[str, Any] = task
    return found


def kill_container(pod: Mapping[str, Any]) -> None:
    """Send SIGKILL to what runs in a pod, as the kernel does when memory is short."""
    node, (status,) = pod["spec"]["nodeName"], pod["status"]["containerStatuses"]
    identity = status["containerID"].removeprefix("containerd://")
    call("docker", "exec", node, "ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", identity)


def delete_pod(pod: Mapping[str, Any], *, now: bool = False) -> None:
    """Delete a pod, with its time to say goodbye or without."""
    how = ["--force", "--grace-period=0"] if now else []
    kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false", *how)


@contextmanager
def inference_is(model: str) -> Iterator[None]:
    """Have the Service `inference`, which is reached from outside, lead to another model."""
    service = get("service", "inference")
    assert service is not None, "manifests/components/node-port is not deployed"
    label = "serving.kserve.io/inferenceservice"

    def lead_to(name: str) -> None:
        kubectl(
            "patch",
            "service",
            "inference",
            "-p",
            f'{{"spec":{{"selector":{{"{label}":"{name}"}}}}}}',
        )

    def answers() -> bool:
        # On a new connection: one that leads to the other model's pods goes on doing so.
        try:
            done = httpx.get(f"{HTTP}/v2/models/{model}/ready", headers={"connection": "close"})
        except httpx.HTTPError:  # it has met one of those, which has just ended
            return False
        return done.status_code == httpx.codes.OK

    try:
        lead_to(model)
        wait_until(lambda: all(answers() for _ in range(10)), f"an answer from {HTTP}", 60)
        yield
    finally:
        lead_to(service["spec"]["selector"][label])


@contextmanager
def limited(name: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that sets a limit of the cluster; afterwards it is as before."""
    limits = get("configmap", "limits")
    assert limits is not None
    before = int(limits["data"][name])

    def put(limit: int) -> None:
        change = {"data": {name: str(limit)}}
        kubectl("patch", "configmap", "limits", "--type=merge", "-p", json.dumps(change))

    try:
        yield put
    finally:
        put(before)


@contextmanager
def patched(template: str, patch: Mapping[str, Any]) -> Iterator[None]:
    """Have all objects of a template made with a patch, as a component of the manifests does."""
    key = f"{template}.patch.yaml"
    templates = get("configmap", "templates")
    assert templates is not None
    before = templates["data"].get(key)

    def put(text: str | None) -> None:
        change = {"data": {key: text}}
        kubectl("patch", "configmap", "templates", "--type=merge", "-p", json.dumps(change))

    put(yaml.safe_dump(dict(patch)))
    try:
        yield
    finally:
        put(before)


def remove_artifacts(*places: Path) -> None:
    """Remove artifacts of the shared folder: they belong to the pods' user, not to this one."""
    for place in places:
        inside = Path("/workspace") / place.relative_to(WORKSPACE)
        call("docker", "exec", "mlpipeline-control-plane", "rm", "-rf", str(inside))


def on_node(script: str) -> str:
    """Run a shell script on a node, as root; the workspace is at /workspace there."""
    return call("docker", "exec", "mlpipeline-control-plane", "sh", "-ec", script)
