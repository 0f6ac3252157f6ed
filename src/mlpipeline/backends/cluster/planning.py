"""Step `plan` in a cluster: turns a configuration into the cache keys that the workflow goes by.

Argo memoizes a step by its key without a look at what it made. So this step looks, with the same
eyes as the local backend, and has Argo forget what is gone, damaged or unreadable: a hit is always
true. What is served may change until the run's turn to publish has come: the step `serve` looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlpipeline.backends.cluster import memo
from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.data import expectations
from mlpipeline.plan import braces, config, pipeline, search
from mlpipeline.plan.config import Config, Expectations
from mlpipeline.plan.pipeline import INGEST, SELECT, TRAIN, Task
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.gate import Forced

# https://argo-workflows.readthedocs.io/en/release-3.7/workflow-creator/
_CREATORS = tuple(
    f"workflows.argoproj.io/creator{what}" for what in ("-email", "-preferred-username", "")
)
_ALL_ADDRESSES = "0.0.0.0"  # a pod is reached from outside of it


@dataclass(frozen=True)
class Overrides:
    """What a workflow's parameters say in place of the configuration; empty for what it says."""

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Overrides:
        """Return what the parameters of a run say, by their names in the workflow."""
        names = ("model", "candidates", "workers", "replicas")
        return cls(*(parameters.get(name, "") for name in names))

    name: str = ""
    candidates: str = ""
    """Names of those to train, separated by commas."""
    workers: str = ""
    replicas: str = ""


def parameters(workflow: Manifest) -> dict[str, str]:
    """Return the parameters of a run, with those that were left at their default.

    They are read from the workflow itself, not handed over as arguments of a pod: Argo evaluates
    what it finds between double braces there, and a configuration is free text.

    Args:
        workflow: The object as the API returns it.
    """
    template = (workflow.get("status") or {}).get("storedWorkflowTemplateSpec") or {}
    values: dict[str, str] = {}
    for spec in (template, workflow["spec"]):  # what was submitted comes before the defaults
        for parameter in (spec.get("arguments") or {}).get("parameters") or ():
            values[parameter["name"]] = str(parameter.get("value", ""))
    return values


def repeatable(workflow: Manifest) -> dict[str, str]:
    """Return the parameters with which a run can be done again, without who did it, and by force.

    It was forced that one time alone.

    Args:
        workflow: The object as the API returns it.
    """
    once = ("by", "force")
    return {name: value for name, value in parameters(workflow).items() if name not in once}


def submitter(workflow: Manifest) -> str:
    """Return who has submitted a workflow; empty where that is not known.

    Argo notes by a label whose token it was, where it went through its server. Who comes past that,
    with kubectl, may say so in the parameter `by`, as `make submit` and `make rollback` do.

    Args:
        workflow: The object as the API returns it.
    """
    labels = workflow["metadata"].get("labels") or {}
    known = [labels.get(label, "") for label in _CREATORS]
    return next(filter(None, [*known, parameters(workflow).get("by", "")]), "")


def forced(workflow: Manifest) -> Forced | None:
    """Return who wants a version served whatever the gate says; None for nobody.

    The parameter `force` is the reason.

    Args:
        workflow: The object as the API returns it.
    """
    reason = parameters(workflow).get("force", "").strip()
    if not reason:
        return None
    return Forced(who=submitter(workflow) or "somebody with kubectl", reason=reason)


def check_braces(values: Mapping[str, Any], what: str = "the parameters") -> None:
    """Check that nothing of what a run is submitted with has what Argo evaluates.

    The admission policy refuses such a run before it begins; this is for a cluster without it, and
    for what YAML spells otherwise.

    Raises:
        ConfigurationError: Something has; names it all.
    """
    if places := braces.places(values):
        raise ConfigurationError(
            f"there is `{braces.OPEN}` in {what} {', '.join(places)}",
            expected="none: Argo evaluates what follows, so what runs is not what was submitted",
            remedy="write it in another way",
        )


def resolve(text: str, overrides: Overrides) -> Config:
    """Return the configuration of a run.

    Raises:
        ConfigurationError: It does not fit; names every problem.
    """
    try:
        raw = config.read_yaml(text)
    except ValueError as error:  # also: a date that there is not
        raise ConfigurationError(
            f"the parameter `configuration` is not YAML: {error}",
            expected="the content of a file such as configs/default.yaml",
            remedy='-p "configuration=$(cat my.yaml)"',
        ) from error
    if not isinstance(raw, dict):
        config.parse(raw, origin="the parameter `configuration`")
    assert isinstance(raw, dict)
    if overrides.name:
        raw["name"] = overrides.name
    if overrides.workers:
        _set(raw, "training", workers=_number(overrides.workers))
    if overrides.replicas:
        _set(raw, "serving", replicas=_number(overrides.replicas))
    if overrides.candidates:  # which may be trials of a search
        raw = dict(search.expand(raw)[0])
        raw["candidates"] = _chosen(raw.get("candidates"), overrides.candidates)
    _set(raw, "serving", host=_ALL_ADDRESSES, port=8080, grpc_port=8081)
    resolved = config.parse(raw, origin="the parameter `configuration`")
    check_braces(resolved.model_dump(mode="json"), "the configuration's")
    return resolved


def _set(raw: dict[str, Any], section: str, **values: Any) -> None:
    """Set values of a section; one that is none is left for the check to complain of."""
    if raw.get(section) is None:
        raw[section] = values
    elif isinstance(raw[section], dict):
        raw[section] |= values


def _number(text: str) -> int | str:
    """A number, or the text for the check of the configuration to complain of."""
    return int(text) if text.isdecimal() else text


def _chosen(candidates: Any, names: str) -> dict[str, Any]:
    known = candidates if isinstance(candidates, dict) else {}
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in known]:
        raise ConfigurationError(
            f"the parameter `candidates` names {', '.join(unknown)}",
            expected=f"some of {', '.join(known)}, separated by commas; empty for all",
            remedy="add them to the configuration, or leave them out",
        )
    return {name: known[name] for name in chosen}


def plan(settings: Config, workspace: Workspace, cluster: Cluster, *, cache: str) -> dict[str, str]:
    """Have Argo forget every memo that is worth nothing, and return the workflow's parameters.

    Args:
        settings: The run's configuration.
        workspace: The folder of all artifacts.
        cluster: Cluster that the cache is in.
        cache: The name of the ConfigMap that is Argo's cache.
    """
    tasks = pipeline.plan(settings)
    keys = {task.name: task.key for task in tasks.values() if task.key}
    done = {name: tasks[name].is_done(workspace) for name in keys}
    for name, key in keys.items():
        # This step's result, as `mlpipeline cluster plan` shows it.
        found = _found(tasks[name], settings, workspace) if done[name] else ""
        state = f"done: {found}" if found else "done" if done[name] else "to do"
        print(f"{name:<22} {key}  {state}", flush=True)  # noqa: T201
    trainings = [t for t in tasks.values() if t.step is TRAIN]
    remembered = keys | {INGEST.name: _judged(keys[INGEST.name], settings.expectations)}
    memo.forget(
        cluster,
        cache,
        {remembered[name]: is_done for name, is_done in done.items()},
        answers={task.key: "metrics" for task in trainings},
    )
    return {
        "name": settings.name,
        "ingest-key": keys[INGEST.name],
        "ingest-memo": remembered[INGEST.name],
        "select-key": keys[SELECT.name],
        "trainings": json.dumps([{"candidate": t.candidate, "key": t.key} for t in trainings]),
    }


def _found(task: Task, settings: Config, workspace: Workspace) -> str:
    """What there is to say of a result that is reused."""
    said = [pipeline.compared(task, settings)]
    if task.step is INGEST:
        said.append(expectations.of(workspace, settings.expectations, task.key).summary)
    return "; ".join(filter(None, said))


def _judged(key: str, asked: Expectations) -> str:
    """Return what Argo remembers of ingestion: a data set, and the limits that it is within.

    They are no part of its key. So where a run fails by one, the pod looks once for each limit,
    although the data set is there: at another run's, too, that was made while this one waited.
    """
    if not asked.fail:
        return key
    limits = asked.model_dump(include=set(asked.fail) | _against(asked))
    return artifacts.make_key(key, code="", parameters=limits, inputs=[])


def _against(asked: Expectations) -> set[str]:
    """What is compared is part of what was judged only where a run fails by the comparison."""
    return {"against"} if {"class_drift", "pixel_drift"} & set(asked.fail) else set()
