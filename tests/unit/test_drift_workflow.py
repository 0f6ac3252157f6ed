"""The workflow that looks for drift: who looks can do nothing, who posts sees nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mlpipeline.cli import app, cluster
from mlpipeline.store import layout

ROOT = Path(__file__).parents[2]
FILE = ROOT / "manifests" / "components" / "drift" / "drift.yaml"
TEMPLATE, CRON = yaml.safe_load_all(FILE.read_text())
STEPS: dict[str, dict[str, Any]] = {
    template["name"]: template
    for template in TEMPLATE["spec"]["templates"]
    if "container" in template
}

GIVEN = {p["name"]: p["value"] for p in TEMPLATE["spec"]["arguments"]["parameters"]}


def test_the_yaml_is_what_the_python_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from workflows import drift

    assert drift.render() == {FILE.name: FILE.read_text()}, "run `make render`"


@pytest.mark.parametrize("name", STEPS)
def test_a_command_is_one_of_our_command_line_with_options_that_it_has(name: str) -> None:
    given = {f"workflow.parameters.{name}": value for name, value in GIVEN.items()}
    group, command, *arguments = (
        re.sub(r"\{\{(.*)\}\}", lambda ref: given.get(ref[1], "x"), argument)
        for argument in STEPS[name]["container"]["args"]
    )
    top = typer.main.get_command(app.app)
    assert isinstance(top, typer.core.TyperGroup)
    commands = top.commands[group]
    assert isinstance(commands, typer.core.TyperGroup)
    commands.commands[command].make_context(command, arguments)


def test_who_looks_can_do_nothing_and_who_posts_sees_nothing() -> None:
    def mounts(name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = STEPS[name]["container"]["volumeMounts"]
        return [mount for mount in found if mount["name"] == "workspace"]

    look, post = STEPS["find-drift"], STEPS["post"]
    assert (look["serviceAccountName"], look["automountServiceAccountToken"]) == ("step", False)
    assert [(mount.get("subPath"), mount.get("readOnly")) for mount in mounts("find-drift")] == [
        (None, True),
        (layout.LOOKS, None),
    ]
    assert (post["serviceAccountName"], post["automountServiceAccountToken"]) == ("sender", True)
    assert mounts("post") == []
    (token,) = (v for v in TEMPLATE["spec"]["volumes"] if v["name"] == "token")
    (source,) = token["projected"]["sources"]
    (mount,) = (v for v in post["container"]["volumeMounts"] if v["name"] == "token")
    file = Path(mount["mountPath"], source["serviceAccountToken"]["path"])
    assert file == cluster._TOKEN, "the account of the sender mounts none by itself"
    assert "token" not in {v["name"] for v in look["container"]["volumeMounts"]}


def test_a_look_goes_by_the_clock_and_is_not_suspended() -> None:
    assert CRON["spec"]["workflowSpec"]["workflowTemplateRef"] == {
        "name": TEMPLATE["metadata"]["name"]
    }
    assert not CRON["spec"].get("suspend")
    assert GIVEN.keys() == {"image", "images", "false-alarms", "cool-down"}
