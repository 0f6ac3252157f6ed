"""Measure the model server against its peers, and print and record a table.

`python -m benchmarks.serving_peers --model workspace/models/NAME/VERSION --output FILE.json`

Peers are what else one would serve a model with: BentoML, MLServer, LitServe, Ray Serve and a
custom predictor of KServe, each written as its own guide shows it (benchmarks/peers), with its
batching where that is not left to the user to tune. Each has an environment of its own below
workspace/bench/peers, which is made when it is missing. All serve the very same `model.tflite`,
which must say the same to each of them, on the same processors as the load.

One image a request, JSON, over kept connections, sent by `wrk`. In each round the servers run one
after the other, none beside another, and each figure is the median of the rounds. Guides start one
process, so ours is one replica; `make serve` starts two, which have a row of their own. (KServe's
example has `--workers`, but cannot pass a loaded interpreter on to them.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import environments
from benchmarks.servers import (
    HOST,
    NAME,
    SCRIPT,
    START_SECONDS,
    Load,
    free_port,
    median,
    replica_command,
    wrk,
)
from mlpipeline.backends.local.processes import python_m
from mlpipeline.store import artifacts
from mlpipeline.store.layout import ModelFolder

CONFIG = Path("configs/default.yaml")
CONNECTIONS = (1, 8, 32)
GOAL_REQUESTS, GOAL_P99 = 2.0, 0.5
ENGINE = "ai-edge-litert==2.3.0"
OURS, OURS_TWICE = "ours", "ours, two replicas"
STOP_SECONDS = 30
_PATH = f"/v1/models/{NAME}:predict"


@dataclass(frozen=True)
class Peer:
    """A server that is measured.

    Attributes:
        requirement: What its environment has beside LiteRT; None for our own environment.
        command: What starts it on a port, in its folder, by the programs of its environment.
        path: The path of predictions.
        body: The request's body for an image as nested lists.
        answer: The probabilities of an answer.
        settings: What it reads from the environment or a file in its folder.
    """

    requirement: str | None
    command: Callable[[int], list[str]]
    path: str
    body: Callable[[Any], Any]
    answer: Callable[[Any], Any]
    settings: Callable[[int], Mapping[str, str]] = lambda port: {}


@dataclass(frozen=True)
class Start:
    """What it takes to run one: seconds to the first answer, and MiB of all its processes then."""

    seconds: float
    mebibytes: float


def main() -> None:
    """Measure, print, record."""
    arguments = _arguments()
    version = arguments.model.resolve()
    peers = {OURS: _ours(version), OURS_TWICE: _ours_twice(version.parents[2]), **PEERS}
    for name, peer in PEERS.items():
        environments.make(name, f"{peer.requirement} {ENGINE}")
    model = ModelFolder(arguments.model)
    image = artifacts.read_json(model.example)["instances"][0]
    loads: dict[tuple[str, int], list[Load]] = {}
    starts: dict[str, list[Start]] = {}
    expected = None
    for _ in range(arguments.rounds):
        for name, peer in peers.items():
            with _started(name, peer, model.tflite, image) as (url, answer, start):
                expected = answer if expected is None else expected
                if np.abs(np.subtract(answer, expected)).max() > 1e-4:
                    sys.exit(f"{name} says {answer}, and not {expected}: it is not the same model")
                starts.setdefault(name, []).append(start)
                for connections in CONNECTIONS:
                    load = _load(url, peer.body(image), connections, arguments.seconds)
                    loads.setdefault((name, connections), []).append(load)
    results = {
        "model": arguments.model.name,
        "cpus": os.cpu_count(),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "peers": {name: peer.requirement for name, peer in PEERS.items()},
        "starts": {
            name: {
                "seconds": statistics.median(each.seconds for each in of),
                "mebibytes": statistics.median(each.mebibytes for each in of),
            }
            for name, of in starts.items()
        },
        "single_images": [
            _row(n, {name: median(loads[name, n]) for name in peers}) for n in CONNECTIONS
        ],
    }
    _show(results)
    artifacts.write_json(arguments.output, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a registered version")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, whose median is reported")
    return parser.parse_args()


# --- servers ----------------------------------------------------------------------------------


def _v1(image: Any) -> dict[str, Any]:
    return {"instances": [image]}


def _predictions(answer: Any) -> Any:
    return answer["predictions"][0]


def _ours(version: Path) -> Peer:
    command = replica_command(version)
    return Peer(None, lambda port: command(port, free_port()), _PATH, _v1, _predictions)


def _ours_twice(workspace: Path) -> Peer:
    """Return what `make serve` starts, of the workspace's current version."""
    serve = python_m(["serve", "--config", str(CONFIG.resolve()), "--workspace", str(workspace)])
    return Peer(None, lambda port: [*serve, "--port", str(port)], _PATH, _v1, _predictions)


def _v2(image: Any) -> dict[str, Any]:
    pixels = np.array([image], np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape}
    return {"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}


PEERS = {
    "BentoML": Peer(
        "bentoml==1.4.40",
        lambda port: ["bentoml", "serve", "bentoml_service:Peer", "--port", str(port)],
        "/predict",
        lambda image: {"images": [image]},
        lambda answer: answer[0],
        lambda port: {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    "MLServer": Peer(
        "mlserver==1.7.1 uvloop==0.21.0",  # it needs a loop that later ones do not make
        lambda port: ["mlserver", "start", "."],
        "/v2/models/peer/infer",
        _v2,
        lambda answer: answer["outputs"][0]["data"],
        lambda port: {
            "MLSERVER_HOST": HOST,
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(free_port()),
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_MODEL_NAME": "peer",
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_runtime.Peer",
        },
    ),
    "LitServe": Peer(
        "litserve==0.2.19",
        lambda port: ["python", "litserve_server.py", str(port)],
        "/predict",
        lambda image: {"image": image},
        lambda answer: answer["probabilities"],
    ),
    "Ray Serve": Peer(
        "ray[serve]==2.60.0",
        lambda port: ["python", "ray_serve_app.py", str(port)],
        "/",
        lambda image: {"image": image},
        lambda answer: answer,
        lambda port: {"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    "KServe": Peer(
        "kserve==0.21.0",
        lambda port: [
            *("python", "kserve_model.py", "--http_port", str(port)),
            *("--grpc_port", str(free_port())),
        ],
        "/v1/models/peer:predict",
        _v1,
        _predictions,
    ),
}


@contextlib.contextmanager
def _started(
    name: str, peer: Peer, model: Path, image: Any
) -> Iterator[tuple[str, list[float], Start]]:
    """Run a server until the body ends; yield its address, its first answer, and what that took."""
    port = free_port()
    url = f"http://{HOST}:{port}{peer.path}"
    environment = {**os.environ, **peer.settings(port), "MODEL": str(model.resolve())}
    if peer.requirement is not None:
        environment["PATH"] = f"{environments.programs(name)}:{environment['PATH']}"
        environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(
            peer.command(port),
            cwd=environments.PROGRAMS,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            answer = _first_answer(name, peer, url, image, process)
            seconds = time.monotonic() - began
            yield url, answer, Start(seconds, _memory(process.pid))
        except TimeoutError:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            _end(process)


def _first_answer(
    name: str, peer: Peer, url: str, image: Any, process: subprocess.Popen[bytes]
) -> list[float]:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            response = httpx.post(url, json=peer.body(image), timeout=5)
            if response.is_success:
                return list(peer.answer(response.json()))
        time.sleep(0.05)
    raise TimeoutError(f"{name} did not answer on {url} within {START_SECONDS} s")


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _memory(pid: int) -> float:
    """Return the MiB of a process and its children; what they share is counted once."""
    return float(sum(each.memory_full_info().pss for each in _family(pid)) / (1 << 20))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started."""
    family = _family(process.pid) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, STOP_SECONDS)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(STOP_SECONDS)


# --- measurements -----------------------------------------------------------------------------


def _load(url: str, body: Any, connections: int, seconds: int) -> Load:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.format(body=json.dumps(body)))
        script.flush()
        wrk(script.name, url, connections, 1)  # the first requests are slower
        return wrk(script.name, url, connections, seconds)


# --- results ----------------------------------------------------------------------------------


def _row(connections: int, loads: Mapping[str, Load]) -> dict[str, Any]:
    others = [loads[name] for name in PEERS]
    return {
        "connections": connections,
        "loads": {name: asdict(load) for name, load in loads.items()},
        "best_peer": max(PEERS, key=lambda name: loads[name].requests_per_second),
        "goal_of_requests": GOAL_REQUESTS,
        "goal_of_p99": GOAL_P99,
        "ratios": {name: _ratios(loads[name], others) for name in (OURS, OURS_TWICE)},
    }


def _ratios(ours: Load, others: Sequence[Load]) -> dict[str, float]:
    return {
        "requests": ours.requests_per_second / max(each.requests_per_second for each in others),
        "p99": ours.p99 / min(each.p99 for each in others),
    }


def _show(results: Mapping[str, Any]) -> None:
    table = Table(title="One image a request (requests/s; p50 / p99 in ms)")
    table.add_column("server")
    table.add_column("to the first answer", justify="right")
    table.add_column("memory", justify="right")
    for row in results["single_images"]:
        table.add_column(f"{row['connections']} connections", justify="right")
    for name, start in results["starts"].items():
        loads = [row["loads"][name] for row in results["single_images"]]
        table.add_row(
            name,
            f"{start['seconds']:.1f} s",
            f"{start['mebibytes']:.0f} MiB",
            *(f"{x['requests_per_second']:.0f}; {x['p50']:.2f} / {x['p99']:.2f}" for x in loads),
        )
    for name in (OURS, OURS_TWICE):
        for title, goal in (("requests", GOAL_REQUESTS), ("p99", GOAL_P99)):
            ratios = (f"{row['ratios'][name][title]:.2f}" for row in results["single_images"])
            table.add_row(f"{title}, {name} ÷ best, goal {goal}", "", "", *ratios)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
