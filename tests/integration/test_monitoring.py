"""A real Prometheus with our rules, of a real replica and a workspace, and what it tells a webhook.

All of it is on loopback and ends with the test. What differs from a cluster: targets have addresses
in place of names, and no rule waits.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import yaml

from mlpipeline.backends.local.processes import free_ports, python_m
from mlpipeline.environment import ends_with_us
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.candidate import TrainingProgress
from mlpipeline.store.schemas.run import TaskRecord
from support import monitoring
from support.model_servers import HOST, NAME, Ports, Server, publish, started_replica
from support.not_tested import needs
from support.past_runs import add_run
from support.registered import NAME as REGISTERED
from support.tls import tls_server

# isort: split
# KServe reads sys.argv when it is imported, unless `mlpipeline.serving` did so before.
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

pytestmark = [
    needs("prometheus", to_do="apt-get install prometheus"),
    needs("prometheus-alertmanager", to_do="apt-get install prometheus-alertmanager"),
    pytest.mark.timeout(240),
]

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
SECONDS = 60.0  # that anything here may take


@dataclass
class Watched:
    """What is watched, and by whom."""

    replica: Server
    model: Ports
    prometheus: str
    alertmanager: str
    told: queue.Queue[dict[str, Any]]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what Prometheus answers; an expression that it cannot read fails the test."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("monitoring")
    model, exporter = Ports(), free_ports(1)[0]
    published = publish(folder / "models" / NAME / "v1", IMAGES)
    with contextlib.ExitStack() as stack:
        replica = stack.enter_context(
            started_replica(published.folder, model, "replica-0", folder / "replica.log")
        )
        certificate = stack.enter_context(tls_server(folder))
        hook, told = stack.enter_context(_webhook())
        options = ["--workspace", str(_workspace(folder)), "--certificate", certificate]
        _start(stack, folder, python_m(["metrics", "--port", str(exporter), *options]))
        alertmanager = _start_alertmanager(stack, folder, hook)
        prometheus = _start_prometheus(
            stack,
            folder,
            {
                "mlpipeline-model": f"{HOST}:{model.http}",
                "mlpipeline-workspace": f"{HOST}:{exporter}",
            },
            alertmanager,
        )
        replica.wait_until_ready()
        yield Watched(replica, model, f"http://{prometheus}", f"http://{alertmanager}", told)


def _workspace(folder: Path) -> Path:
    """Make a workspace in which a run has ended and a training goes on."""
    workspace = Workspace(folder / "workspace")
    reused = TaskRecord(name="ingest", step="ingest", key="k", state="reused", seconds=0.5)
    add_run(workspace, 99, tasks=(reused,))
    assert REGISTERED != NAME, "a model that is current, and that nobody serves"
    TrainingProgress(
        step=200,
        steps=430,
        epoch=2,
        loss=0.5,
        accuracy=0.8,
        images_per_second=12_800,
        step_seconds=0.01,
    ).save(workspace.candidate("cnn-0123").work.progress)
    return workspace.root


@contextlib.contextmanager
def _webhook() -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """Take what is posted; yield the URL, and what came."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}/hook", told
        server.shutdown()


def _start_alertmanager(stack: contextlib.ExitStack, folder: Path, hook: str) -> str:
    config = monitoring.configured_alertmanager(folder, {"url": hook})
    address = f"{HOST}:{free_ports(1)[0]}"
    _start(
        stack,
        folder,
        [
            *("prometheus-alertmanager", f"--config.file={config}"),
            *(f"--storage.path={folder}/alertmanager", "--cluster.listen-address="),
            f"--web.listen-address={address}",
        ],
    )
    return address


def _start_prometheus(
    stack: contextlib.ExitStack, folder: Path, targets: dict[str, str], alertmanager: str
) -> str:
    rules = yaml.safe_load(monitoring.RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    config = yaml.safe_load(monitoring.PROMETHEUS.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / "rules.yaml")]
    (config["alerting"]["alertmanagers"][0]["static_configs"][0])["targets"] = [alertmanager]
    for job in config["scrape_configs"]:
        found = job.pop("dns_sd_configs", None)
        labels = {"__meta_dns_name": "predictors"} if found else {}
        job["static_configs"] = [{"targets": [targets.pop(job["job_name"])], "labels": labels}]
    assert not targets
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"{HOST}:{free_ports(1)[0]}"
    _start(
        stack,
        folder,
        [
            *("prometheus", f"--config.file={folder}/prometheus.yaml"),
            *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"),
        ],
    )
    return address


def _start(stack: contextlib.ExitStack, folder: Path, command: list[str]) -> None:
    log = stack.enter_context((folder / f"{Path(command[0]).name}.log").open("a"))
    process = subprocess.Popen([*ends_with_us(), *command], stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)


def _ask(ports: Ports) -> None:
    """Have the model predict, and refuse, by both protocols."""
    url = f"{ports.url}/v1/models/{NAME}:predict"
    assert httpx.post(url, json={"instances": IMAGES.tolist()}).status_code == 200
    assert httpx.post(url, json={"instances": 1}).status_code == 400
    inputs = messages.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=[1, 28, 28]
    )
    request = messages.ModelInferRequest(
        model_name=NAME, inputs=[inputs], raw_input_contents=[IMAGES[0].tobytes()]
    )
    with grpc.insecure_channel(ports.address) as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request, timeout=10)
        request.model_version = "another"
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(request, timeout=10)


def test_every_panel_of_every_dashboard_has_data(watched: Watched) -> None:
    missing = monitoring.queries()
    end = time.monotonic() + SECONDS
    while missing:
        assert time.monotonic() < end, missing
        _ask(watched.model)
        time.sleep(0.5)
        missing = [query for query in missing if not _numbers(watched.query(query))]


def test_rules_are_of_metrics_that_there_are(watched: Watched) -> None:
    rules = yaml.safe_load(monitoring.RULES.read_text())
    expressions = "\n".join(rule["expr"] for group in rules["groups"] for rule in group["rules"])
    metrics = set(re.findall(r"(?<![\w:])(?:mlpipeline|request|up\b)\w*(?![\w:-])", expressions))
    assert len(metrics) == 10, metrics
    end = time.monotonic() + SECONDS
    while missing := {metric for metric in metrics if not watched.query(metric)}:
        assert time.monotonic() < end, missing
        time.sleep(0.5)


def _numbers(result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [series for series in result if series["value"][1] != "NaN"]


def test_requests_are_counted_by_the_codes_of_both_protocols(watched: Watched) -> None:
    _ask(watched.model)
    expected = {("rest", "200"), ("rest", "400"), ("grpc", "OK"), ("grpc", "NOT_FOUND")}
    end = time.monotonic() + SECONDS
    found: set[tuple[str, str]] = set()
    while found != expected:
        assert time.monotonic() < end, found
        text = httpx.get(f"{watched.model.url}/metrics").text
        found = {
            (protocol, code)
            for code, protocol in re.findall(
                r'^mlpipeline_requests_total{code="(\w+)",model="fashion-mnist",protocol="(\w+)"',
                text,
                re.MULTILINE,
            )
        }
    assert watched.query('mlpipeline_requests_total{component="predictor"}')


def test_an_alert_comes_to_the_webhook(watched: Watched) -> None:
    """Last of all: it stops the replica. The other model, which nobody serves, is down anyway."""
    watched.replica.stop()
    end = time.monotonic() + SECONDS
    told: dict[str, str] = {}
    while not {"ModelDown", "CertificateExpires"} <= told.keys():
        message = watched.told.get(timeout=max(0.1, end - time.monotonic()))
        told |= {
            alert["labels"]["alertname"]: alert["annotations"]["summary"]
            for alert in message["alerts"]
        }
    assert told["ModelDown"] == f"No replica of {REGISTERED} answers."
    states: dict[str, str] = {}
    while "ModelReplicaDown" not in states:
        assert time.monotonic() < end
        time.sleep(0.2)
        known = httpx.get(f"{watched.alertmanager}/api/v2/alerts").json()
        states = {alert["labels"]["alertname"]: alert["status"]["state"] for alert in known}
    assert states["ModelReplicaDown"] == "suppressed", "that the model is down is enough"
