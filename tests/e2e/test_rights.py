"""Who may do what in the namespace, as the API server decides it."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import Any

import pytest

from support.rights import used_by_removals, used_by_steps
from support.workflows_on_kind import NAMESPACE, kubectl, wait_until

NOBODY = ["step", "worker", "default"]
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def _action(verb: str, group: str, resource: str) -> str:
    resource = "configmaps/memo" if resource == "configmaps" else resource
    return f"{verb} {resource}" + (f".{group}" if group else "")


# What the steps' calls need, as tests/support/rights.py has seen them; Kueue is not always there.
USED = sorted(right for right in used_by_steps() if right[1] != "kueue.x-k8s.io")
PIPELINE_MAY = [_action(*right) for right in USED]
OTHER_VERBS = sorted(
    {
        _action(verb, group, resource)
        for _, group, resource in USED
        for verb in VERBS
        if (verb, group, resource) not in USED
    }
)
PIPELINE_MAY_NOT = [
    "create pods",
    "create pods/exec",
    "get secrets",
    "create serviceaccounts/token",
    "patch configmaps/templates",
    "list configmaps",
    "create workflows.argoproj.io",
    "delete deployments.apps",
    "create rolebindings.rbac.authorization.k8s.io",
    "delete persistentvolumeclaims",
]


# What Argo would run in place of a template.
_OWN = [{"name": "x", "container": {"image": "other"}}]
NOT_OF_TEMPLATES: list[dict[str, Any]] = [{"entrypoint": "x", "templates": _OWN}, {}]
STATUSES: list[dict[str, Any]] = [
    {"storedWorkflowTemplateSpec": {"entrypoint": "x", "templates": _OWN}},
    {"storedTemplates": {"namespaced/rollback/find-way-back": _OWN[0]}},
    {"phase": "Succeeded"},
]


def _may(account: str, action: str, namespace: str = NAMESPACE) -> bool:
    verb, resource = action.split(" ")
    options = ["--namespace", namespace, "--as", f"system:serviceaccount:{NAMESPACE}:{account}"]
    if resource.startswith(("pods/", "serviceaccounts/")):
        resource, name = resource.split("/")
        options += ["--subresource", name]
    done = subprocess.run(
        ["kubectl", "auth", "can-i", verb, resource, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() in ("yes", "no"), done.stderr
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize("account", NOBODY)
def test_pods_that_only_compute_may_do_nothing(account: str) -> None:
    assert [a for a in (*PIPELINE_MAY, *PIPELINE_MAY_NOT) if _may(account, a)] == []


def test_the_steps_that_use_the_cluster_may_do_what_they_need_and_no_more() -> None:
    assert [action for action in PIPELINE_MAY if not _may("pipeline", action)] == []
    assert [a for a in (*PIPELINE_MAY_NOT, *OTHER_VERBS) if _may("pipeline", a)] == []
    assert [action for action in PIPELINE_MAY if _may("pipeline", action, "default")] == []


def test_whoever_removes_what_nobody_needs_may_change_nothing_but_the_memo() -> None:
    own = [_action(*right) for right in used_by_removals()]
    assert [action for action in own if not _may("gc", action)] == []
    others = (*PIPELINE_MAY, *PIPELINE_MAY_NOT, *OTHER_VERBS)
    assert [a for a in others if a not in own and _may("gc", a)] == []


def test_argos_container_may_report_results_only() -> None:
    assert _may("executor", "create workflowtaskresults.argoproj.io")
    assert _may("executor", "patch workflowtaskresults.argoproj.io")
    assert [a for a in (*PIPELINE_MAY, *PIPELINE_MAY_NOT) if _may("executor", a)] == []


def test_argos_controller_may_write_the_memo_and_has_no_rights_elsewhere() -> None:
    assert _may("argo", "update configmaps/memo")
    assert not _may("argo", "update configmaps/templates")
    assert not _may("argo", "create configmaps")
    assert not _may("argo", "create pods", "default")


def test_the_viewer_changes_nothing() -> None:
    assert _may("viewer", "list workflows.argoproj.io")
    assert _may("viewer", "get pods/log")
    assert not _may("viewer", "get secrets")
    for verb in ("create", "patch", "delete"):
        assert not _may("viewer", f"{verb} workflows.argoproj.io")


def test_the_sender_of_events_may_start_workflows_of_the_events_templates_alone() -> None:
    assert _may("sender", "list workfloweventbindings.argoproj.io")
    assert _may("sender", "get workflowtemplates.argoproj.io")
    assert _may("sender", "create workflows.argoproj.io")
    # How an event went that was posted before: its workflow says.
    own = ("create workflows.argoproj.io", "get workflows.argoproj.io")
    others = (*PIPELINE_MAY, *PIPELINE_MAY_NOT, "list workflows.argoproj.io")
    assert [a for a in others if a not in own and _may("sender", a)] == []

    parameters = [{"name": "event", "value": "e30="}]
    event = {"workflowTemplateRef": {"name": "predict"}, "arguments": {"parameters": parameters}}
    assert _creates("sender", event) == ""
    for other in (
        event | {"serviceAccountName": "pipeline"},
        event | {"workflowTemplateRef": {"name": "predict", "clusterScope": True}},
        event | {"workflowTemplateRef": {"name": "other"}},
        event | {"arguments": {"parameters": [{"name": "image", "value": "other"}]}},
        *NOT_OF_TEMPLATES,
    ):
        assert "the sender of events makes workflows of the templates" in _creates("sender", other)
    for status in STATUSES:
        assert "the sender of events makes" in _creates("sender", event, status=status)


def test_a_steward_may_go_back_to_another_version_in_his_own_name_alone() -> None:
    own = [
        *("create workflows.argoproj.io", "get workflows.argoproj.io"),
        *("list workflows.argoproj.io", "watch workflows.argoproj.io"),
        *("get inferenceservices.serving.kserve.io", "list inferenceservices.serving.kserve.io"),
        *("list pods", "get pods", "watch pods", "get pods/log", "list events", "get events"),
        *("watch events", "list pods/log", "watch pods/log"),
    ]
    assert [action for action in own if not _may("steward", action)] == []
    others = (*PIPELINE_MAY, *PIPELINE_MAY_NOT, *OTHER_VERBS)
    assert [a for a in others if a not in own and _may("steward", a)] == []

    name = f"system:serviceaccount:{NAMESPACE}:steward"
    assert _creates("steward", _back(by=name)) == ""
    everything = _back(model="m", version="m-1", by=name, why="coats", force="it must")
    assert _creates("steward", everything) == ""
    assert _creates("steward", {"workflowTemplateRef": {"name": "models"}}) == ""
    for other in (
        _back(by=name) | {"serviceAccountName": "pipeline"},
        _back(by=name) | {"workflowTemplateRef": {"name": "rollback", "clusterScope": True}},
        _back(by=name) | {"workflowTemplateRef": {"name": "mlpipeline"}},
        _back(by=name, image="other"),
        _back(image="other") | {"workflowTemplateRef": {"name": "models"}},
        *NOT_OF_TEMPLATES,
    ):
        assert "a steward makes workflows of the templates" in _creates("steward", other)
    for status in STATUSES:
        assert "a steward makes" in _creates("steward", _back(by=name), status=status)
    # Its folder is that of the run of this name.
    assert "a steward makes" in _creates("steward", _back(by=name), name="mlpipeline-x7k2p")
    for forged in (_back(), _back(by="ann@desk"), _back(by="")):
        assert "in their own name only" in _creates("steward", forged)
    twice = _back(by=name)
    twice["arguments"]["parameters"].append({"name": "by", "value": "ann@desk"})
    assert "in their own name only" in _creates("steward", twice)
    for label in ("creator", "creator-email", "creator-preferred-username"):
        labels = {f"workflows.argoproj.io/{label}": "ann"}
        assert "in their own name only" in _creates("steward", _back(by=name), labels=labels)


def test_a_person_gets_the_same_right_by_name() -> None:
    who = f"ann-{uuid.uuid4().hex[:8]}@example.com"
    assert "cannot create resource" in _creates(who, _back(by=who))
    kubectl("create", "rolebinding", who, "--role=steward", f"--user={who}")
    try:
        wait_until(lambda: _creates(who, _back(by=who)) == "", "the right", 30)
        assert "in their own name only" in _creates(who, _back(by="bob@example.com"))
        assert "a steward makes" in _creates(who, {"workflowTemplateRef": {"name": "gc"}})
        # Who may start pods anyway is not held to it.
        kubectl("create", "rolebinding", f"edit-{who}", "--clusterrole=edit", f"--user={who}")
        gc = {"workflowTemplateRef": {"name": "gc"}}
        wait_until(lambda: _creates(who, gc) == "", "the other right", 30)
    finally:
        kubectl("delete", "rolebinding", who, f"edit-{who}", "--ignore-not-found")


def _back(**parameters: str) -> dict[str, Any]:
    """The specification of a workflow that goes back."""
    given = [{"name": name, "value": value} for name, value in parameters.items()]
    return {
        "workflowTemplateRef": {"name": "rollback"},
        "arguments": {"parameters": given},
    }


@pytest.mark.parametrize("value", ["{{workflow.name}}", "a: b\nc: '{{=sprig.upper(\"x\")}}'", "{{"])
def test_no_parameter_of_a_workflow_has_what_argo_evaluates(value: str) -> None:
    def given(value: str) -> dict[str, Any]:
        parameters = [{"name": "configuration", "value": value}, {"name": "image"}]
        return {
            "workflowTemplateRef": {"name": "mlpipeline"},
            "arguments": {"parameters": parameters},
        }

    assert _creates("", given("{workers: 2}")) == ""
    assert "a parameter has double braces" in _creates("", given(value))
    assert "a parameter has double braces" in _creates(
        "sender",
        {
            "workflowTemplateRef": {"name": "mlpipeline"},
            "arguments": {"parameters": [{"name": "configuration", "value": value}]},
        },
    )


def _creates(
    account: str,
    specification: dict[str, Any],
    *,
    status: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
    name: str = "",
) -> str:
    """What the API server says against a workflow that an account would create; "" if nothing.

    Args:
        account: A service account, or a user, with an @; empty for who calls the tests.
        specification: The workflow's.
        status: The same.
        labels: The same.
        name: Its name; by default one that begins with its template's.
    """
    template = specification.get("workflowTemplateRef", {}).get("name", "own")
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": name or f"{template}-probe",
            "namespace": NAMESPACE,
            "labels": labels or {},
        },
        "spec": specification,
    } | ({"status": status} if status else {})
    user = account if "@" in account else f"system:serviceaccount:{NAMESPACE}:{account}"
    identity = ["--as", user] if account else []
    done = subprocess.run(
        ["kubectl", "create", "--dry-run=server", *identity, "--filename", "-"],
        input=json.dumps(workflow),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr
