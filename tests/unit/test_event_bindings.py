"""The workflows that events start: of our command line, once for each event, some at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from mlpipeline.cli import app
from mlpipeline.events import schema

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "manifests" / "components" / "events"

Manifest = dict[str, Any]


def _read(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


KINDS = {kind.model_fields["kind"].annotation.__args__[0]: kind for kind in get_args(schema.Event)}
BINDINGS = {binding["metadata"]["name"]: binding["spec"] for binding in _read("bindings.yaml")}
TEMPLATES = {t["metadata"]["name"]: t["spec"] for t in _read("workflow-templates.yaml")}
PIPELINE = yaml.safe_load((ROOT / "workflows" / "workflow-template.yaml").read_text())


def test_the_yaml_is_what_the_python_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from workflows import events as rendering

    rendered = rendering.render()
    assert rendered == {name: (FOLDER / name).read_text() for name in rendered}, "run `make render`"


def test_there_is_a_binding_for_each_kind_of_event() -> None:
    assert BINDINGS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_binding_takes_the_events_of_its_kind_and_names_the_workflow_after_them(
    kind: str,
) -> None:
    binding = BINDINGS[kind]
    assert binding["event"]["selector"] == f"discriminator == '{kind}' && payload.kind == '{kind}'"
    assert binding["submit"]["metadata"] == {"name": f"'{kind}-' + payload.id"}
    event = KINDS[kind].model_construct(kind=kind, id="x")
    assert event.name == f"{kind}-x"


@pytest.mark.parametrize("kind", KINDS)
def test_a_binding_hands_on_what_its_template_takes_and_events_have(kind: str) -> None:
    submit = BINDINGS[kind]["submit"]
    name = submit["workflowTemplateRef"]["name"]
    spec = (TEMPLATES | {"mlpipeline": PIPELINE["spec"]})[name]
    takes = {p["name"]: p for p in spec["arguments"]["parameters"]}
    given = {p["name"]: p["valueFrom"]["event"] for p in submit["arguments"]["parameters"]}
    assert {name for name, p in takes.items() if "value" not in p} <= given.keys() <= takes.keys()
    for expression in given.values():
        _, _, field = expression.partition("payload.")
        assert expression == "toBase64(toJSON(payload))" or field in KINDS[kind].model_fields


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_puts_into_its_arguments_is_no_free_text(name: str) -> None:
    used = set(
        re.findall(r"\{\{workflow\.parameters\.([\w-]+)\}\}", yaml.safe_dump(TEMPLATES[name]))
    )
    given = {
        p["name"]: p["valueFrom"]["event"]
        for p in BINDINGS[name]["submit"]["arguments"]["parameters"]
    }
    assert used - {"image"} == given.keys()
    assert all(expression.startswith("toBase64(") for expression in given.values())


@pytest.mark.parametrize("name", TEMPLATES)
def test_so_many_at_a_time_as_the_semaphore_says(name: str) -> None:
    (semaphores,) = _read("semaphores.yaml")
    (semaphore,) = TEMPLATES[name]["synchronization"]["semaphores"]
    reference = semaphore["configMapKeyRef"]
    assert reference["name"] == semaphores["metadata"]["name"]
    assert int(semaphores["data"][reference["key"]]) >= 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_command_is_one_of_our_command_line_with_options_that_it_has(name: str) -> None:
    (template,) = TEMPLATES[name]["templates"]
    assert template["name"] == TEMPLATES[name]["entrypoint"]
    assert template["serviceAccountName"] == "step"
    assert template["automountServiceAccountToken"] is False
    step, command, *arguments = (
        re.sub(r"\{\{.*\}\}", "--x", argument) for argument in template["container"]["args"]
    )
    top = typer.main.get_command(app.app)
    assert isinstance(top, typer.core.TyperGroup)
    group = top.commands[step]
    assert isinstance(group, typer.core.TyperGroup)
    with group.commands[command].make_context(command, arguments) as context:
        assert str(context.params["workspace"]) == "/workspace"
        assert "--x" in context.params.values()  # a value, whatever it begins with


def test_a_pod_may_write_to_where_it_publishes_and_to_nothing_else() -> None:
    writes = {
        name: {
            mount.get("subPath")
            for template in spec["templates"]
            for mount in template["container"]["volumeMounts"]
            if mount["name"] == "workspace" and not mount.get("readOnly")
        }
        for name, spec in TEMPLATES.items()
    }
    assert writes == {"predict": {"predictions", "answers"}, "feedback": {"feedback"}}


def test_the_sender_may_start_what_bindings_name_and_nothing_else() -> None:
    policy = _read("sender-policy.yaml")[0]["spec"]["validations"][0]["expression"]
    lists = [re.findall(r"'(\w+)'", part) for part in re.findall(r"\[([^\]]+)\]", policy)]
    submits = [binding["submit"] for binding in BINDINGS.values()]
    assert set(lists[1]) == {submit["workflowTemplateRef"]["name"] for submit in submits}
    parameters = [p["name"] for s in submits for p in s["arguments"]["parameters"]]
    assert set(lists[2]) == set(parameters)
