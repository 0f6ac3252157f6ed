"""What several benchmarks of serving share: replicas as processes, and `wrk` that loads them."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

NAME = "fashion-mnist"
HOST = "127.0.0.1"
START_SECONDS = 120

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('JSON [%d, %d, %d, %d, %d]\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
"""


@dataclass(frozen=True)
class Load:
    """What `wrk` saw. Latencies are in milliseconds."""

    requests_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str

    def predict_url(self) -> str:
        """Return the address of V1 predictions."""
        return f"{self.url}/v1/models/{NAME}:predict"


def replica_command(version: Path, replica: str = "benchmark") -> Callable[[int, int], list[str]]:
    """Return what starts a replica of a version on two ports."""

    def command(http_port: int, grpc_port: int) -> list[str]:
        call = (
            "from pathlib import Path; from mlpipeline.steps.serving import serve;"
            f"serve(Path({str(version)!r}), name={NAME!r}, http_port={http_port},"
            f" grpc_port={grpc_port}, replica={replica!r}, host={HOST!r})"
        )
        return [sys.executable, "-c", call]

    return command


@contextlib.contextmanager
def started(
    command: Callable[[int, int], list[str]],
    cpus: set[int] | None,
    ports: tuple[int, int] | None = None,
) -> Iterator[Server]:
    """Run a server, on some processors and ports if they are given, until the body ends."""
    http_port, grpc_port = ports or (free_port(), free_port())
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            on_cpus(cpus, command(http_port, grpc_port)), stdout=log, stderr=log
        )
        try:
            server = Server(f"http://{HOST}:{http_port}")
            _wait_until_ready(server, process)
            yield server
        except TimeoutError:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{server.url}/v2/models/{NAME}/ready", timeout=5).is_success:
                return
        time.sleep(0.2)
    raise TimeoutError(f"{' '.join(map(str, process.args))} did not become ready")  # type: ignore[arg-type]


def on_cpus(cpus: set[int] | None, command: list[str]) -> list[str]:
    """Keep a command to some processors, if any are given."""
    return command if cpus is None else ["taskset", "-c", ",".join(map(str, cpus)), *command]


def free_port() -> int:
    """Return a port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wrk(
    script: str, url: str, connections: int, seconds: int, cpus: set[int] | None = None
) -> Load:
    """Send requests over kept connections for some seconds; all must succeed."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
    command += ["-s", script, url]
    output = subprocess.run(
        on_cpus(cpus, command),
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    ).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("JSON "))
    requests, microseconds, p50, p99, failed = json.loads(line.removeprefix("JSON "))
    if failed or not requests:
        raise RuntimeError(f"{failed} of {requests} requests failed: {command}: {output}")
    return Load(requests / microseconds * 1e6, p50 / 1000, p99 / 1000)


def by_turns(
    servers: Mapping[str, Server],
    body: Any,
    connections: Sequence[int],
    *,
    seconds: int,
    rounds: int,
    cpus: set[int] | None = None,
) -> dict[int, dict[str, Load]]:
    """Load servers one after the other, so that what else the machine does meets them all.

    Args:
        servers: The servers, by what they are called.
        body: What each request sends, as JSON.
        connections: How many connections there are, one number after the other.
        seconds: How long each measurement is.
        rounds: How many there are; one more comes first, to warm up.
        cpus: The processors that `wrk` is kept to; None for all.

    Returns:
        The medians, by the number of connections and the server.
    """
    loads: dict[tuple[int, str], list[Load]] = {}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.format(body=json.dumps(body)))
        script.flush()
        for round_ in range(rounds + 1):
            for count in connections:
                for name, server in servers.items():
                    load = wrk(script.name, server.predict_url(), count, seconds, cpus)
                    if round_:
                        loads.setdefault((count, name), []).append(load)
    return {n: {name: median(loads[n, name]) for name in servers} for n in connections}


def median(loads: list[Load]) -> Load:
    """Return the median of each figure."""
    return Load(
        *(
            statistics.median(getattr(load, name) for load in loads)
            for name in ("requests_per_second", "p50", "p99")
        )
    )


def v2_binary(images: Any) -> dict[str, Any]:
    """Return the arguments of httpx for a V2 request in the binary tensor extension."""
    tensor = {
        "name": "images",
        "shape": list(images.shape),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": images.nbytes},
    }
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return {
        "url": f"/v2/models/{NAME}/infer",
        "content": header + images.tobytes(),
        "headers": {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(header)),
        },
    }
