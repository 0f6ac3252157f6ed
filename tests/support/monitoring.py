"""The files of the component `monitoring`, and what a test makes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

_COMPONENTS = Path(__file__).parents[2] / "manifests" / "components"
RULES = _COMPONENTS / "monitoring" / "rules.yaml"
PROMETHEUS = _COMPONENTS / "monitoring" / "prometheus-config.yaml"
ALERTMANAGER = _COMPONENTS / "monitoring" / "alertmanager-config.yaml"
DASHBOARDS = sorted((_COMPONENTS / "monitoring-operator" / "dashboards").glob("*.json"))


def queries() -> list[str]:
    """Return the queries of all panels of all dashboards."""
    return [
        target["expr"]
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


def configured_alertmanager(folder: Path, secret: dict[str, str]) -> Path:
    """Return the configuration that Alertmanager's pod makes of its template and the Secret."""
    deployment = next(
        iter(yaml.safe_load_all((_COMPONENTS / "monitoring" / "alertmanager.yaml").read_text()))
    )
    (container,) = deployment["spec"]["template"]["spec"]["initContainers"]
    (script,) = container["args"]
    for path, place in {
        "/etc/alertmanager/alertmanager.yml": ALERTMANAGER,
        "/webhook": folder / "webhook",
        "/config": folder / "config",
    }.items():
        assert path in script
        script = script.replace(path, str(place))
    for name in ("webhook", "config"):
        (folder / name).mkdir()
    for name, value in secret.items():
        (folder / "webhook" / name).write_text(value)
    subprocess.run([*container["command"], script], check=True)
    return folder / "config" / "alertmanager.yml"
