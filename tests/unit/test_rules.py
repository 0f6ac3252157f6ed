"""Rules for Prometheus, by its own tool: each alert fires on its fault, none while all is well."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.monitoring import ALERTMANAGER, DASHBOARDS, RULES, configured_alertmanager, queries
from support.not_tested import needs

pytestmark = needs("promtool", to_do="apt-get install prometheus")

RULES_BY_GROUP = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [r["alert"] for group in RULES_BY_GROUP for r in group["rules"] if "alert" in r]
DAY = 24 * 60 * 60


def requests(code: str, protocol: str = "rest") -> str:
    labels = f'model="m",component="predictor",protocol="{protocol}",code="{code}"'
    return f"mlpipeline_requests_total{{{labels}}}"


def bucket(bound: str) -> str:
    return f'request_predict_seconds_bucket{{model_name="m",component="predictor",le="{bound}"}}'


def predictions(label: str) -> str:
    return f'mlpipeline_predictions_total{{model="m",version="m-1",class="{label}"}}'


def last_run(state: str) -> str:
    return f'mlpipeline_last_run_timestamp_seconds{{model="m",state="{state}"}}'


UP = 'up{job="mlpipeline-model",instance="10.0.0.1:8080",component="predictor"}'
PROGRESS = 'mlpipeline_training_progress_timestamp_seconds{candidate="cnn",key="cnn-1"}'
SIZE, AVAILABLE = "mlpipeline_workspace_size_bytes", "mlpipeline_workspace_available_bytes"
CERTIFICATE = 'mlpipeline_certificate_expiry_timestamp_seconds{address="webhook:443"}'

# A value for each minute, as promtool writes them: FIRST+STEPxTIMES. The clock begins at 0.
HEALTHY = {
    UP: "1+0x300",
    requests("200"): "0+600x300",
    requests("400"): "0+300x300",  # what clients do wrong
    requests("NOT_FOUND", "grpc"): "0+300x300",
    requests("503"): "0+15x300",
    bucket("0.1"): "0+600x300",
    bucket("0.5"): "0+600x300",
    bucket("1.0"): "0+601x300",
    bucket("+Inf"): "0+601x300",
    'mlpipeline_current_version_info{model="m",version="m-1"}': "1+0x300",
    predictions("coat"): "0+100x300",
    predictions("shirt"): "0+90x180 16200+110x120",
    last_run("succeeded"): f"-{7 * DAY}+0x300",
    last_run("failed"): f"-{9 * DAY}+0x300",
    PROGRESS: "-540+60x300",
    SIZE: "100+0x300",
    AVAILABLE: "11+0x300",
    CERTIFICATE: f"{30 * DAY}+0x300",
}


@dataclass(frozen=True)
class Fault:
    """What is otherwise than while all is well, and after how many minutes an alert says so."""

    series: Mapping[str, str | None]
    minutes: int
    also: frozenset[str] = frozenset()


FAULTS = {
    "ModelDown": Fault(
        {
            UP: "1+0x10 0+0x30",
            **{
                name: "0+600x10 stale" for name in HEALTHY if name.startswith("mlpipeline_requests")
            },
        },
        minutes=15,
        also=frozenset({"ModelReplicaDown"}),
    ),
    "ModelReplicaDown": Fault(
        {UP.replace("10.0.0.1", "10.0.0.2"): "1+0x10 0+0x30"},
        minutes=15,
    ),
    "ModelErrors": Fault({requests("503"): "0+40x60"}, minutes=12),
    "ModelSlow": Fault({bucket("0.5"): "0+590x60", bucket("0.1"): "0+590x60"}, minutes=20),
    "PredictionsShifted": Fault(
        {
            predictions("coat"): "0+100x180 18000+10x120",
            predictions("shirt"): "0+100x180 18000+190x120",
        },
        minutes=245,
    ),
    "NoSuccessfulRun": Fault({last_run("succeeded"): f"-{8 * DAY}+0x60"}, minutes=15),
    "LastRunFailed": Fault({last_run("failed"): f"-{6 * DAY}+0x60"}, minutes=2),
    "TrainingStalled": Fault({PROGRESS: "0+60x5 300+0x60"}, minutes=17),
    "WorkspaceNearlyFull": Fault({AVAILABLE: "9+0x60"}, minutes=15),
    "CertificateExpires": Fault({CERTIFICATE: f"{20 * DAY}+0x60"}, minutes=15),
    "WorkspaceMetricsMissing": Fault(
        {SIZE: None, AVAILABLE: None, PROGRESS: None, CERTIFICATE: None}, minutes=15
    ),
}


def firing(folder: Path, series: Mapping[str, str | None], minutes: int) -> list[str]:
    """Return what fires after some minutes, by having promtool say that nothing should."""
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values}
                    for name, values in series.items()
                    if values is not None
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [],
                    }
                ],
            }
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    found = sorted(re.findall(r'alertname="(\w+)"', said))
    assert bool(done.returncode) is bool(found), said
    return found


def test_promtool_takes_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", str(RULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_fault_and_says_what_to_do() -> None:
    assert list(FAULTS) == ALERTS
    for group in RULES_BY_GROUP:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("warning", "critical")
                assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.parametrize("alert", FAULTS)
def test_an_alert_fires_on_its_fault_and_no_other_does(alert: str, tmp_path: Path) -> None:
    fault = FAULTS[alert]
    assert firing(tmp_path, {**HEALTHY, **fault.series}, fault.minutes) == sorted(
        {alert, *fault.also}
    )


@pytest.mark.parametrize("minutes", [1, 20, 60, 245, 300])
def test_none_fires_while_all_is_well(minutes: int, tmp_path: Path) -> None:
    assert firing(tmp_path, HEALTHY, minutes) == []


def test_the_first_run_of_a_model_may_fail_too(tmp_path: Path) -> None:
    series = {**HEALTHY, last_run("succeeded"): None}
    assert firing(tmp_path, series, 2) == ["LastRunFailed"]


def test_a_model_that_nobody_asks_has_no_errors(tmp_path: Path) -> None:
    quiet = {name: "5+0x60" for name in HEALTHY if "request" in name or "predictions" in name}
    assert firing(tmp_path, HEALTHY | quiet, 30) == []


# --- Dashboards and Alertmanager ----------------------------------------------------------------


def test_the_dashboards_are_small_and_have_names_of_their_own() -> None:
    boards: list[dict[str, Any]] = [json.loads(file.read_text()) for file in DASHBOARDS]
    assert [board["uid"] for board in boards] == [f"mlpipeline-{f.stem}" for f in DASHBOARDS]
    for board in boards:
        panels = board["panels"]
        assert len(panels) <= 10
        assert len({panel["id"] for panel in panels}) == len(panels)
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
        assert len(places) == len(panels)
    assert len(queries()) > 20


@needs("amtool", to_do="apt-get install prometheus-alertmanager")
@pytest.mark.parametrize(
    ("secret", "receiver"),
    [
        ({}, {}),
        (
            {"url": "https://example.com/a?b=c&d=$(id)\n"},
            {"webhook_configs": [{"url": "https://example.com/a?b=c&d=$(id)"}]},
        ),
        (
            {"url": "https://example.com/hook", "form": "slack\n"},
            {
                "slack_configs": [
                    {"api_url": "https://example.com/hook", "channel": "", "send_resolved": True}
                ]
            },
        ),
    ],
    ids=["none", "json", "slack"],
)
def test_alertmanager_tells_the_webhook_of_the_secret(
    secret: dict[str, str], receiver: dict[str, Any], tmp_path: Path
) -> None:
    config = configured_alertmanager(tmp_path, secret)
    done = subprocess.run(
        ["amtool", "check-config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = yaml.safe_load(config.read_text())
    assert written["receivers"] == [{"name": "webhook"} | receiver]
    assert written["route"]["receiver"] == "webhook"
    for rule in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]:
        named = re.findall(r"= (\w+)", str(rule))
        assert set(named) <= set(ALERTS)
