"""Prometheus in the cluster: it finds replicas and the workspace, and sees what happens."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from mlpipeline.backends.local.processes import free_ports
from support import monitoring
from support.workflows_on_kind import (
    CONTEXT,
    IMAGE,
    LONG,
    NAMESPACE,
    ROOT,
    Runs,
    call,
    configuration,
    get,
    kubectl,
    wait_until,
)

pytestmark = pytest.mark.timeout(1200)
OURS = ("prometheus", "alertmanager", "workspace-metrics", "predictors", "transformers")
DEPLOYMENTS = [f"deployment/{name}" for name in OURS[:3]]


@pytest.fixture(scope="module")
def _deployed() -> Iterator[None]:
    """The component, deployed as it is; removed at the end if it was not there before."""
    was_there = get("deployment", "prometheus") is not None
    rendered = call("kubectl", "kustomize", str(ROOT / "manifests/overlays/monitored"))
    documents = [
        document
        for document in yaml.safe_load_all(rendered)
        if document["metadata"]["name"].startswith(OURS)
    ]
    for document in documents:
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", "workspace-metrics"):
            document["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE
    text = yaml.safe_dump_all(documents)
    kubectl("apply", "--server-side", "--field-manager=mlpipeline", "--filename=-", send=text)
    for deployment in DEPLOYMENTS:
        kubectl("rollout", "status", deployment, "--timeout=180s", seconds=200)
    yield
    if not was_there:
        kubectl("delete", "--wait=false", "--filename=-", send=text)


@contextlib.contextmanager
def _tunnel(service: str, port: int) -> Iterator[str]:
    """Yield the URL of a service, as `make ui` reaches it."""
    (local,) = free_ports(1)
    options = ("--context", CONTEXT, "--namespace", NAMESPACE, "--address=127.0.0.1")
    process = subprocess.Popen(
        ["kubectl", "port-forward", *options, f"service/{service}", f"{local}:{port}"],
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{local}"
        wait_until(lambda: _is_ready(url), f"{service} to answer", 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.mark.usefixtures("_deployed")
def test_it_sees_a_run_its_training_and_its_model_and_that_this_is_gone(runs: Runs) -> None:
    run = runs.submit(configuration({"one": LONG}))
    model = run.content["name"]
    with _tunnel("prometheus", 9090) as url:

        def seen(query: str, seconds: float = 120) -> list[dict[str, Any]]:
            """Wait until a query has a result."""

            def result() -> Any:
                answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30)
                assert answer.status_code == 200, answer.text
                return answer.json()["data"]["result"]

            found: list[dict[str, Any]] = wait_until(result, query, seconds)
            return found

        seen('up{job="mlpipeline-workspace"} == 1')
        seen("mlpipeline_certificate_expiry_timestamp_seconds - time() > 0")
        run.assert_succeeds()
        seen(f'mlpipeline_last_run_timestamp_seconds{{model="{model}",state="succeeded"}}')
        seen(f'mlpipeline_current_version_info{{model="{model}"}}')
        seen('max_over_time(mlpipeline_training_steps{candidate="one"}[10m]) > 0')
        # Verification has asked it, by both protocols.
        for protocol in ("rest", "grpc"):
            labels = f'model="{model}",component="predictor",protocol="{protocol}"'
            seen(f"mlpipeline_requests_total{{{labels}}} > 0")
        for query in monitoring.queries():
            if "mlpipeline_training" not in query:  # none goes on
                seen(query)

        kubectl("delete", "inferenceservice", model, "--wait=true", seconds=120)
        seen(f'ALERTS{{alertname="ModelDown",model="{model}"}}')
        managers = httpx.get(f"{url}/api/v1/alertmanagers", timeout=30).json()["data"]
        assert len(managers["activeAlertmanagers"]) == 1
    with _tunnel("alertmanager", 9093) as url:
        status = httpx.get(f"{url}/api/v2/status", timeout=30).json()
        assert "receiver: webhook" in status["config"]["original"]
