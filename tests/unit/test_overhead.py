"""The causes of a workflow's overhead: what the cluster has recorded, to the last second."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks import overhead


def _moment(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _state(began: float, ended: float | None = None) -> dict[str, Any]:
    if ended is None:
        return {"running": {"startedAt": _moment(began)}}
    return {"terminated": {"startedAt": _moment(began), "finishedAt": _moment(ended)}}


def _pod(made: float, placed: float, states: dict[str, Any], component: str = "") -> Any:
    statuses = [{"name": name, "state": state} for name, state in states.items()]
    return {
        "kind": "Pod",
        "metadata": {"creationTimestamp": _moment(made), "labels": {_LABEL: component}},
        "spec": {"containers": [{"name": name} for name in states if name != "init"]},
        "status": {
            "conditions": [{"type": "PodScheduled", "lastTransitionTime": _moment(placed)}],
            "initContainerStatuses": [s for s in statuses if s["name"] == "init"],
            "containerStatuses": [s for s in statuses if s["name"] != "init"],
        },
    }


_LABEL = "app.kubernetes.io/component"


def _step(component: str, made: float) -> Any:
    """A pod of Argo's: placed after 1 s, its sandbox after 2, then 3, 4, 5 and 6 s."""
    at = [made + n for n in (1, 3, 6, 10, 15, 21)]
    states = {"main": _state(at[3], at[4]), "wait": _state(at[3], at[5])}
    return _pod(made, at[0], {"init": _state(at[1], at[2]), **states}, component)


def test_a_step_that_talks_is_split_into_all_that_it_waits_for() -> None:
    seconds = overhead.by_cause([_step("plan", 102)], began=100, ended=130)
    assert {cause: s for cause, s in seconds.items() if s} == {
        "a node for a pod": 1,
        "volumes and network of a pod": 2,
        "Argo's init container": 3,
        "start of the main container": 4,
        "process of plan": 5,
        "Argo's wait container reports": 6,
        "Kubernetes and Argo: a pod's end to the next pod": 2 + 7,
    }


def test_work_counts_first_and_an_operator_until_it_has_made_a_pod() -> None:
    job = {"kind": "TFJob", "metadata": {"creationTimestamp": _moment(113)}}
    worker = _pod(114, 114, {"tensorflow": _state(116, 120)})
    seconds = overhead.by_cause([_step("train", 102), job, worker], began=102, ended=123)
    assert seconds["train"] == 4
    assert seconds["the training operator makes pods"] == 1
    assert seconds["volumes and network of a pod"] == 2 + 2
    assert seconds["process of train"] == 1  # what it had before there was a job
    assert seconds["Argo's wait container reports"] == 3


def test_what_was_there_before_and_what_comes_after_the_answer_is_left_out() -> None:
    replica = _pod(108, 108, {"kserve-container": _state(110)})
    seconds = overhead.by_cause([_step("plan", 60), replica], began=108.5, ended=112.5)
    assert seconds["load the model"] == 2.5
    assert sum(seconds.values()) == pytest.approx(4)


def test_the_sum_is_the_whole_whatever_was_recorded() -> None:
    unstarted = _pod(101, 101, {"main": {"waiting": {}}}, "plan")
    objects = [unstarted, _step("ingest", 101), _step("serve", 108), _step("record", 140)]
    assert sum(overhead.by_cause(objects, began=99.7, ended=150.2).values()) == pytest.approx(50.5)
