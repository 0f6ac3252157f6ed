"""A replica that logs what it is asked, and tells of it at `/metrics`."""

from __future__ import annotations

import hashlib
import re
import signal
import time
from pathlib import Path

import httpx
import numpy as np

from mlpipeline.backends.local.processes import python_m
from mlpipeline.plan.commands import predictor_arguments
from mlpipeline.plan.config import RequestLogging, Serving
from mlpipeline.serving.clients import GrpcClient, V1Client, V2BinaryClient
from mlpipeline.store import requests
from mlpipeline.store.layout import Workspace
from support.model_servers import NAME, Ports, publish, started

IMAGES = np.random.default_rng(0).integers(0, 256, (100, 28, 28), dtype=np.uint8)
SERVING = Serving(log=RequestLogging(share=1, images_per_hour=10**6))


def _counted(ports: Ports) -> float:
    text = httpx.get(f"{ports.url}/metrics").text
    counts = re.findall(rf'^mlpipeline_predictions_total{{.*model="{NAME}".*}} (.*)$', text, re.M)
    return sum(map(float, counts))


def test_what_every_protocol_brings_is_counted_and_logged(tmp_path: Path) -> None:
    workspace, ports = Workspace(tmp_path), Ports()
    published = publish(workspace.model(NAME, "v1").path, IMAGES)
    arguments = predictor_arguments(
        NAME,
        "v1",
        workspace=workspace,
        serving=SERVING,
        port=ports.http,
        grpc_port=ports.grpc,
        replica="a",
    )
    with started(python_m(arguments), tmp_path / "log") as server:
        server.wait_until_ready()
        with (
            V1Client(ports.url, NAME) as v1,
            V2BinaryClient(ports.url, NAME) as v2,
            GrpcClient(ports.address, NAME) as rpc,
        ):
            v1.predict(IMAGES[:1], 30)
            v2.predict(IMAGES[1:4], 30)
            rpc.predict(IMAGES[4:], 30)
        end = time.monotonic() + 10
        while _counted(ports) < len(IMAGES):  # soon after the answer
            assert time.monotonic() < end
            time.sleep(0.05)
        assert server.stop(signal.SIGTERM) == 0
    (shard,) = requests.read(workspace.requests(NAME) / "v1")
    rows = {key.decode(): row for row, key in enumerate(shard.sha256)}
    places = [rows[hashlib.sha256(image.tobytes()).hexdigest()] for image in IMAGES]
    assert sorted(places) == list(range(len(IMAGES)))
    np.testing.assert_allclose(shard.probabilities[places], published.probabilities, atol=1e-5)
