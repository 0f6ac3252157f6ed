"""The exit handler's step: the record of a workflow, from what Argo knows of its nodes.

Whatever became of the workflow, this leaves `runs/<workflow>/run.json` and the same `report.html`
as a local run. A workflow that is deleted has no exit handler any more: its record is begun by the
step `plan`, and closed by the next workflow that ends. That one also writes the records of those
whose own exit handler could not: its image cannot be pulled, or the workspace could not be written.
"""

from __future__ import annotations

import base64
import gzip
import heapq
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from mlpipeline.backends.cluster import reasons
from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.tfjob import WorkflowReference, delete_unfinished
from mlpipeline.errors import ArtifactError, ClusterError, ConfigurationError
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.gate import refusal
from mlpipeline.plan.pipeline import CANARY, GATE, SELECT, SERVE, STEPS, TRAIN, VERIFY, Step
from mlpipeline.runs.record import RunRecord, describe_machine
from mlpipeline.store.layout import RunFolder, Workspace
from mlpipeline.store.schemas.gate import GateTable, Judgement
from mlpipeline.store.schemas.rollout import RolloutTable
from mlpipeline.store.schemas.run import (
    Run,
    RunState,
    ServedVersion,
    TaskRecord,
    TaskState,
    Verification,
)
from mlpipeline.store.schemas.selection import ModelCard

_log = logging.getLogger(__name__)
_Table = TypeVar("_Table", bound=Judgement)

# What the workflows are known by whose record this is.
_PART_OF = ("app.kubernetes.io/part-of", "mlpipeline")
_TEMPLATE = {"name": "mlpipeline"}
_ENTRYPOINTS = ("pipeline", "asynchronous")
_EXIT_HANDLER = "record"
_MOST = 20  # records of others that one run writes: its own report waits for them
_ENDED = "workflows.argoproj.io/completed=true"  # Argo's label
_NOT_STARTED = "longer than the specified deadline"  # of Argo, of a pod that still waited, too

_PLAN = "plan"
_STEPS = (_PLAN, *(step.name for step in STEPS))
# Types of Argo's nodes: a memoized step, any other step, one that never began.
_NODES = ("DAG", "Retry", "Skipped")
_STATES: dict[str, TaskState] = {
    "Succeeded": "succeeded",
    "Failed": "failed",
    "Error": "failed",
    "Skipped": "skipped",
    "Omitted": "skipped",
}


def record(
    workflow: Manifest, workspace: Workspace, warnings: Callable[[str], Sequence[str]]
) -> RunRecord:
    """Return the record of a workflow that has run all but its exit handler.

    Args:
        workflow: The object as the API returns it.
        workspace: The folder of all artifacts.
        warnings: What Kubernetes has to say of the pod of a name, such as that it has no image.
    """
    name, status = workflow["metadata"]["name"], _status(workflow)
    folder = workspace.run(name)
    nodes = _nodes(status)
    tasks = [_task(node, nodes, name, warnings) for node in _of_steps(nodes)]
    config = _config(folder.config)
    planned = pipeline.plan_of_finished(config, workspace) if config else {}
    with_all = pipeline.plan(config)[SELECT.name].key if config else None
    for place, task in enumerate(tasks):
        known: dict[str, str] = {}
        if config and task.name in planned:
            known["code"] = pipeline.code_of(planned[task.name], config)
        if with_all and task.key == with_all:  # it does not know yet that some were not trained
            known["key"] = planned[SELECT.name].key
        tasks[place] = task.model_copy(update=known)
    # An early candidate may have been too early: the last one counts.
    said = next((task.judgement for task in reversed(tasks) if task.judgement), None)
    refused = str(refusal(said)) if said and said.verdict == "refused" else None
    began = status.get("startedAt") or workflow["metadata"]["creationTimestamp"]
    state: RunState = (
        "interrupted"
        if workflow["spec"].get("shutdown")
        else "failed"
        if any(task.state == "failed" for task in tasks if task.step != TRAIN.name)
        or not any(task.step == STEPS[-1].name for task in tasks)
        or refused
        else "succeeded"
    )
    return RunRecord(
        started=began,
        config_file="config.yaml",
        config=config,
        machine=describe_machine(),
        source=_image(workflow),
        folder=folder,
        state=state,
        seconds=_seconds(began, status.get("finishedAt")),
        tasks=tasks,
        served=_served(nodes, began, config.name, workspace) if config else [],
        verification=_verification(nodes),
        error=(_first_error(tasks) or refused) if state != "succeeded" else None,
    )


def begin(workflow: Manifest, config: Config, workspace: Workspace) -> None:
    """Write the record of a workflow that has begun: all that is left of it if it is deleted.

    Args:
        workflow: The object as the API returns it.
        config: The configuration that it is planned by.
        workspace: The folder of all artifacts.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    folder = workspace.run(workflow["metadata"]["name"])
    RunRecord(
        folder=folder,
        started=_status(workflow).get("startedAt") or now,
        config_file=folder.config.name,
        config=config,
        machine=describe_machine(),
        source=_image(workflow),
    ).save()


def close_deleted(cluster: Cluster, workspace: Workspace) -> Iterator[Run]:
    """Call interrupted what is `running` in its record, but in no workflow.

    Args:
        cluster: Where the workflows are.
        workspace: The folder of all artifacts.

    Yields:
        The records that were changed.
    """
    for folder in workspace.runs():
        if folder.lock.exists():  # it was run on one machine
            continue
        try:
            run = Run.load(folder.record)
        except ArtifactError:  # none, or a damaged one: who reads it for more says so
            continue
        if run.state == "running" and cluster.get("Workflow", folder.run) is None:
            gone = {"state": "interrupted", "error": "its workflow was deleted before it ended"}
            run = run.model_copy(update=gone)
            run.save(folder.record)
            yield run


def unrecorded(
    cluster: Cluster, workspace: Workspace, warnings: Callable[[str], Sequence[str]]
) -> Iterator[Run]:
    """Write the records of workflows that have ended, and whose exit handler has written none.

    Nobody waits for the jobs that they have left: these are ended, too. Of very many, the latest
    are recorded, the others by the next run.

    Args:
        cluster: Where the workflows are.
        workspace: The folder of all artifacts.
        warnings: As of `record`.

    Yields:
        The records.
    """
    found = heapq.nlargest(
        _MOST, _without_record(cluster, workspace), key=lambda w: _status(w).get("finishedAt") or ""
    )
    for workflow in reversed(found):
        name = workflow["metadata"]["name"]
        with no_matter(name):
            run = record(workflow, workspace, warnings).content()
            run.save(workspace.run(name).record)
            with no_matter(name):
                delete_unfinished(cluster, WorkflowReference(name, workflow["metadata"]["uid"]))
            yield run


@contextmanager
def no_matter(of: str) -> Iterator[None]:
    """Log whatever fails in the body, and go on: it is no matter of the run that meets it.

    Args:
        of: The name of the run that it is a matter of, or a word for all others.
    """
    try:
        yield
    except Exception:  # what is in somebody else's workflow, nobody knows
        _log.exception("%s: what the next run does for it is not done", of)


def _without_record(cluster: Cluster, workspace: Workspace) -> Iterator[Manifest]:
    for workflow in cluster.each("Workflow", _ENDED):
        name = workflow["metadata"]["name"]
        with no_matter(name):
            if _is_ours(workflow) and _is_open(workspace.run(name)):
                yield workflow


def _is_ours(workflow: Manifest) -> bool:
    """Whether it is a run of the pipeline, and its exit handler has not succeeded.

    Where that has, there was a record, and somebody has removed it.
    """
    spec, stored = workflow["spec"], _status(workflow).get("storedWorkflowTemplateSpec") or {}
    label, value = _PART_OF
    labels = workflow["metadata"].get("labels") or {}
    if labels.get(label) != value and spec.get("workflowTemplateRef") != _TEMPLATE:
        return False
    if (spec.get("onExit") or stored.get("onExit")) != _EXIT_HANDLER:
        return False
    nodes = _nodes(_status(workflow)).values()
    if any(n.get("templateName") == _EXIT_HANDLER and n["phase"] == "Succeeded" for n in nodes):
        return False
    entrypoint = spec.get("entrypoint") or stored.get("entrypoint")
    return entrypoint in _ENTRYPOINTS or any(n.get("templateName") == _PLAN for n in nodes)


def _status(workflow: Manifest) -> Manifest:
    """What Argo says of it; empty where it has not looked at it."""
    return workflow.get("status") or {}


def _is_open(folder: RunFolder) -> bool:
    """Whether a run has no record, or one that says that it is under way."""
    if not folder.record.exists():
        return True
    try:
        return Run.load(folder.record).state == "running"
    except ArtifactError:  # a damaged one: who reads it for more says so
        return False


def _image(workflow: Manifest) -> str:
    """The image of all steps; `make image` names it by the content of the code."""
    # What is left at its default stands in the template that it was made from.
    stored = _status(workflow).get("storedWorkflowTemplateSpec") or {}
    for spec in (workflow["spec"], stored):
        for parameter in (spec.get("arguments") or {}).get("parameters") or ():
            if parameter["name"] == "image":
                return f"image {parameter['value']}"
    return ""


def _nodes(status: Mapping[str, Any]) -> dict[str, Any]:
    """All nodes; Argo packs them when there are many."""
    if packed := status.get("compressedNodes"):
        unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
        return unpacked
    nodes: dict[str, Any] = status.get("nodes") or {}
    return nodes


def _of_steps(nodes: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The nodes of our steps in the order in which they began; all attempts of one are one."""
    order = {name: place for place, name in enumerate(_STEPS)}
    steps = [
        node
        for node in nodes.values()
        if node.get("templateName") in order and node["type"] in _NODES and _is_wanted(node)
    ]
    yield from sorted(steps, key=lambda n: (order[n["templateName"]], n.get("startedAt") or ""))


def _is_wanted(node: Mapping[str, Any]) -> bool:
    """Whether a node stands for work: Argo goes through that of a trial where there is none."""
    is_trial = node["templateName"] == CANARY.name
    return not is_trial or _parameters(node, "inputs").get("wanted") == "true"


def _task(
    node: Mapping[str, Any],
    nodes: Mapping[str, Any],
    workflow: str,
    warnings: Callable[[str], Sequence[str]],
) -> TaskRecord:
    step = node["templateName"]
    given = _parameters(node, "inputs")
    candidate = given.get("candidate")
    pods = _attempts(node, nodes)
    hit = _is_hit(node)
    # What still runs when the exit handler does was stopped.
    state = "reused" if hit else _STATES.get(node["phase"], "failed")
    messages = [
        reasons.of_message(pod["message"], _waited_for(pod, workflow, warnings))
        for pod in pods
        if pod.get("message")
    ]
    error = messages.pop() if state == "failed" and messages else None
    return TaskRecord(
        name=TRAIN.task_name(candidate) if candidate else step,
        step=step,
        candidate=candidate,
        key=given.get("key", ""),
        state=state,
        seconds=0.0 if hit else _span(pods or [node]),
        error=error or (reasons.of_message(node.get("message", "")) if state == "failed" else None),
        retries=tuple(messages),
        started=None if state in ("reused", "skipped") else node.get("startedAt"),
        where=_where(pods[-1]) if pods else None,
        gate=_table(node, GATE, GateTable),
        rollout=_table(node, CANARY, RolloutTable),
    )


def _waited_for(
    pod: Mapping[str, Any], workflow: str, warnings: Callable[[str], Sequence[str]]
) -> Sequence[str]:
    """Why a pod did not start in time, which is in its events and nowhere else."""
    if _NOT_STARTED not in pod["message"]:
        return ()
    # https://argo-workflows.readthedocs.io/en/release-3.7/environment-variables/ (POD_NAMES)
    number = pod["id"].rpartition("-")[2]
    name = f"{workflow}-{pod['templateName']}-{number}"
    try:
        return tuple(dict.fromkeys(warnings(name)))
    except ClusterError as error:  # a record without them is better than none
        _log.warning("why %s has not started is not known: %s", name, error.got)
        return ()


def _where(pod: Mapping[str, Any]) -> str:
    node = pod.get("hostNodeName")
    return f"pod {pod['id']}" + (f" on node {node}" if node else "")


def _attempts(node: Mapping[str, Any], nodes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pods of a step, in order: a memoized step is a DAG around what is tried again."""
    if node["type"] == "DAG":
        retries = [n for n in nodes.values() if n.get("boundaryID") == node["id"]]
        return [pod for n in retries if n["type"] == "Retry" for pod in _attempts(n, nodes)]
    children = [nodes[child] for child in node.get("children") or () if child in nodes]
    pods = [child for child in children if child["type"] == "Pod"]  # not the steps that follow
    return sorted(pods, key=lambda pod: pod.get("startedAt") or "")


def _parameters(node: Mapping[str, Any], which: Literal["inputs", "outputs"]) -> dict[str, str]:
    parameters = (node.get(which) or {}).get("parameters") or ()
    return {p["name"]: p.get("value", "") for p in parameters}


def _served(
    nodes: Mapping[str, Any], began: str, name: str, workspace: Workspace
) -> list[ServedVersion]:
    """What was served for the run, in that order; a step that found all as it should be, too."""
    served: list[ServedVersion] = []
    done = [n for n in _of_steps(nodes) if n["templateName"] == SERVE.name and _has_served(n)]
    for node in sorted(done, key=lambda node: str(node["finishedAt"])):
        version = _parameters(node, "outputs")["version"]
        if not served or served[-1].version != version:
            candidate = _candidate(workspace, name, version)
            seconds = _seconds(began, node["finishedAt"])
            served.append(ServedVersion(version=version, candidate=candidate, seconds=seconds))
    return served


def _candidate(workspace: Workspace, name: str, version: str) -> str:
    """The candidate that a version is; empty if the version is gone by now."""
    try:
        return ModelCard.load(workspace.model(name, version).card).candidate
    except ArtifactError:
        return ""


def _has_served(node: Mapping[str, Any]) -> bool:
    return node["phase"] == "Succeeded" and "version" in _parameters(node, "outputs")


def _is_hit(node: Mapping[str, Any]) -> bool:
    """Whether the memo has answered, or, of the step serve, nothing was to be done."""
    is_there = _parameters(node, "outputs").get("rolled") == "false"
    return is_there or bool((node.get("memoizationStatus") or {}).get("hit"))


def _verification(nodes: Mapping[str, Any]) -> Verification | None:
    for node in nodes.values():
        text = _parameters(node, "outputs").get("figures")
        if node.get("templateName") == VERIFY.name and text:
            return Verification.parse(json.loads(text), origin="the output of the step verify")
    return None


def _table(node: Mapping[str, Any], step: Step, kind: type[_Table]) -> _Table | None:
    """What a step has said of a version; None of any other step."""
    text = _parameters(node, "outputs").get("table")
    if node["templateName"] != step.name or not text:
        return None
    return kind.parse(json.loads(text), origin=f"the output of the step {step.name}")


def _config(file: Path) -> Config | None:
    """The run's configuration; None if it failed before there was any."""
    try:
        return configuration.load(file)
    except ConfigurationError:
        return None


def _first_error(tasks: list[TaskRecord]) -> str | None:
    return next((task.error for task in tasks if task.state == "failed"), None)


def _span(nodes: Sequence[Mapping[str, Any]]) -> float:
    """Seconds from the first's start to the last's end: without what a step waited for its turn."""
    return _seconds(nodes[0].get("startedAt"), nodes[-1].get("finishedAt"))


def _seconds(began: str | None, ended: str | None) -> float:
    if not began:
        return 0.0
    end = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    return round((end - datetime.fromisoformat(began)).total_seconds(), 1)
