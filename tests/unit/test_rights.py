"""`roles.yaml` gives the steps the rights that their calls need, and none that nothing uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

from support.fake_cluster import RESOURCES
from support.rights import Right, used_by_removals, used_by_retraining, used_by_steps

ROOT = Path(__file__).parents[2]
ROLES = (ROOT / "manifests/base/roles.yaml", ROOT / "manifests/components/kueue/roles.yaml")
OF_STEPS = ("pipeline", "queue-reader")
# Verbs that a call of these needs. `apply` names no kind where it is called.
CALLS = {
    "get": {"get"},
    "find": {"list"},
    "patch": {"patch"},
    "delete": {"delete"},
    "Selection": {"list", "watch"},
}


def _granted(roles: tuple[str, ...] = OF_STEPS) -> list[Right]:
    documents = [d for file in ROLES for d in yaml.safe_load_all(file.read_text())]
    return [
        (verb, group, resource)
        for role in documents
        if role["kind"] == "Role" and role["metadata"]["name"] in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def _called() -> Iterator[tuple[str, Right]]:
    """Yield what every call in the sources that names a kind of object needs, and where it is."""
    for file in sorted((ROOT / "src" / "mlpipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            function, kind = node.func, node.args[0]
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            if name in CALLS and isinstance(kind, ast.Constant) and kind.value in RESOURCES:
                for verb in CALLS[name]:
                    yield f"{file.name}:{node.lineno}", (verb, *RESOURCES[str(kind.value)])


def test_every_right_that_is_given_is_used_and_every_one_that_is_used_is_given() -> None:
    granted = _granted()
    assert len(set(granted)) == len(granted), "one rule for each need"
    assert set(granted) - used_by_steps() == set(), "nothing uses these"
    assert used_by_steps() - set(granted) == set(), "these are missing"


def test_whoever_runs_the_pipeline_once_more_may_do_that_and_no_more() -> None:
    granted = _granted(("retrain",))
    assert len(set(granted)) == len(granted), "one rule for each need"
    assert set(granted) == used_by_retraining()


def test_whoever_removes_what_nobody_needs_may_change_nothing_in_the_cluster_but_the_memo() -> None:
    granted = _granted(("gc",))
    assert len(set(granted)) == len(granted), "one rule for each need"
    assert set(granted) == used_by_removals()


def test_no_call_in_the_sources_was_left_out() -> None:
    calls = list(_called())
    assert len(calls) > 10
    used = used_by_steps() | used_by_retraining() | used_by_removals()
    assert [(place, right) for place, right in calls if right not in used] == []


def test_of_config_maps_the_memo_alone_may_be_touched() -> None:
    documents = [d for file in ROLES for d in yaml.safe_load_all(file.read_text())]
    rules = [rule for role in documents if role["kind"] == "Role" for rule in role["rules"]]
    touched = [rule for rule in rules if "configmaps" in rule["resources"]]
    assert touched
    assert all(rule["resourceNames"] == ["memo"] for rule in touched)
