"""The network policies, by their own rules: few test clusters enforce them, so no run tells."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "manifests" / "components" / "network-policies"
POLICIES: list[dict[str, Any]] = [
    document
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] == "NetworkPolicy"
]

COMPONENT = "app.kubernetes.io/component"
STEPS = ("plan", "ingest", "train", "select", "serve", "verify", "record")
OF_A_ROLLBACK = ("find-way-back", "restore", "settle")
MONITORING = ("prometheus", "alertmanager", "workspace-metrics")
PODS: dict[str, dict[str, str]] = {
    **{name: {COMPONENT: name} for name in (*STEPS, *OF_A_ROLLBACK, "worker", "mlflow")},
    "model": {"serving.kserve.io/inferenceservice": "fashion-mnist", "component": "predictor"},
    "front": {"serving.kserve.io/inferenceservice": "fashion-mnist", "component": "transformer"},
    "controller": {"app": "workflow-controller"},
    **{name: {COMPONENT: name} for name in MONITORING},
}
INTERNET, API_SERVER, CREDENTIALS = "151.101.1.1", "10.96.0.1", "169.254.169.254"


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expected: dict[str, str] = selector.get("matchLabels", {})
    return labels.items() >= expected.items() and all(
        {
            "Exists": e["key"] in labels,
            "DoesNotExist": e["key"] not in labels,
            "In": labels.get(e["key"]) in e.get("values", []),
            "NotIn": labels.get(e["key"]) not in e.get("values", []),
        }[e["operator"]]
        for e in selector.get("matchExpressions", [])
    )


def _is_meant(peer: dict[str, Any], other: dict[str, str] | str) -> bool:
    """Say whether a rule's peer is a pod of ours, by its labels, or an address elsewhere."""
    if isinstance(other, dict):
        pods = "podSelector" in peer and "namespaceSelector" not in peer
        return pods and _selects(peer["podSelector"], other)
    if "ipBlock" not in peer:
        return False
    block, address = peer["ipBlock"], ip_address(other)
    return address in ip_network(block["cidr"]) and not any(
        address in ip_network(cidr) for cidr in block.get("except", [])
    )


def _open(direction: str, pod: str, other: dict[str, str] | str, port: int) -> bool:
    to_or_from = {"egress": "to", "ingress": "from"}[direction]
    policies = [
        p["spec"]
        for p in POLICIES
        if direction.capitalize() in p["spec"]["policyTypes"]
        and _selects(p["spec"]["podSelector"], PODS[pod])
    ]
    assert policies, "default-deny selects every pod"
    return any(
        any(p["port"] == port for p in rule["ports"])
        and (to_or_from not in rule or any(_is_meant(peer, other) for peer in rule[to_or_from]))
        for policy in policies
        for rule in policy.get(direction, [])
    )


def _reaches(source: str, target: str, port: int) -> bool:
    return _open("egress", source, PODS[target], port) and _open(
        "ingress", target, PODS[source], port
    )


def test_pods_reach_those_that_they_must_and_no_others() -> None:
    ports = (2222, 2746, 5000, 8080, 8081, 9090, 9093, 9464)
    reached = {
        (source, target, port)
        for source in PODS
        for target in PODS
        for port in ports
        if _reaches(source, target, port)
    }
    assert reached == {
        ("worker", "worker", 2222),
        ("verify", "model", 8080),
        ("verify", "model", 8081),
        ("verify", "front", 8080),
        ("verify", "front", 8081),
        ("front", "model", 8080),
        ("record", "mlflow", 5000),
        ("settle", "mlflow", 5000),
        ("prometheus", "model", 8080),
        ("prometheus", "front", 8080),
        ("prometheus", "workspace-metrics", 9464),
        ("prometheus", "alertmanager", 9093),
    }


@pytest.mark.parametrize("pod", [*STEPS, *OF_A_ROLLBACK, "controller"])
def test_steps_and_argo_reach_the_api_server(pod: str) -> None:
    assert _open("egress", pod, API_SERVER, 443)


@pytest.mark.parametrize("pod", ["worker", "model", "front", "mlflow", *MONITORING[::2]])
def test_what_only_computes_or_answers_reaches_nothing_outside(pod: str) -> None:
    for address in (INTERNET, API_SERVER, CREDENTIALS):
        assert not any(_open("egress", pod, address, port) for port in (80, 443, 6443))


def test_ingest_alone_downloads_by_http_too() -> None:
    assert [pod for pod in PODS if _open("egress", pod, INTERNET, 80)] == ["ingest"]
    assert _open("egress", "ingest", INTERNET, 443)


def test_alertmanager_reaches_a_webhook_and_no_api_server() -> None:
    assert _open("egress", "alertmanager", INTERNET, 443)
    assert not _open("egress", "alertmanager", API_SERVER, 6443)


def test_nobody_reaches_the_address_where_clouds_hand_out_credentials() -> None:
    assert not any(_open("egress", pod, CREDENTIALS, port) for pod in PODS for port in (80, 443))


def test_clients_reach_the_model_from_anywhere() -> None:
    assert _open("ingress", "model", INTERNET, 8080)
    assert _open("ingress", "model", INTERNET, 8081)


def test_the_pods_are_labelled_as_the_policies_expect() -> None:
    template = (ROOT / "workflows" / "workflow-template.yaml").read_text()
    job = (ROOT / "manifests" / "base" / "templates" / "tfjob.yaml").read_text()
    for name in STEPS:
        assert f"{COMPONENT}: {name}\n" in template
    rollback = (ROOT / "workflows" / "rollback.yaml").read_text()
    for name in OF_A_ROLLBACK:
        assert f"{COMPONENT}: {name}\n" in rollback
    assert f"{COMPONENT}: worker\n" in job
    server = (FOLDER.parent / "mlflow" / "server.yaml").read_text()
    assert server.count(f"{COMPONENT}: mlflow}}") == 2, "of the pods, and of what selects them"
    components = FOLDER.parent
    for name, file in {
        "prometheus": components / "monitoring" / "prometheus.yaml",
        "alertmanager": components / "monitoring" / "alertmanager.yaml",
        "workspace-metrics": components / "workspace-metrics" / "exporter.yaml",
    }.items():
        assert file.read_text().count(f"{COMPONENT}: {name}}}") == 2
