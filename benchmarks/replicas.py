"""Measure what more replicas bring: to many small requests, and to one large request that is cut.

    python -m benchmarks.replicas --model workspace/models/fashion-mnist/VERSION --output FILE.json

Replicated: 1, 2 and 3 replicas behind one address, single images by V1 JSON over kept connections,
sent by `wrk`. The baseline is one replica. Sharded: one request of 10 000 images by V2 binary,
answered by 1, 2 and 3 replicas behind a front. The baselines are the front with one replica, and
one replica asked straight. Every replica has one processor and so one thread; what sends the
requests, and the front, run where there is room. So more replicas than processors bring nothing.
Each figure is the median of several rounds, in which the variants take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.servers import (
    HOST,
    NAME,
    SCRIPT,
    START_SECONDS,
    Load,
    Server,
    free_port,
    median,
    replica_command,
    started,
    v2_binary,
    wrk,
)
from mlpipeline.backends.local.processes import python_m
from mlpipeline.plan.commands import front_arguments
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts

COUNTS = (1, 2, 3)
CONNECTIONS = 32
IMAGES = 10_000


def main() -> None:
    """Measure, print, record."""
    arguments = _arguments()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed\n  to do:    apt-get install wrk")
    replicated = _measure_replicated(arguments)
    sharded = _measure_sharded(arguments)
    results = {
        "machine": describe_machine().model_dump(),
        "model": str(arguments.model),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "connections": CONNECTIONS,
        "images": IMAGES,
        "replicated": {count: vars(load) for count, load in replicated.items()},
        "sharded": sharded,
    }
    _show(replicated, sharded)
    artifacts.write_json(arguments.output, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a registered version")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--seconds", type=int, default=4, help="seconds of each measurement with wrk"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of rounds, whose median is reported"
    )
    return parser.parse_args()


def _cpu(index: int) -> set[int]:
    available = sorted(os.sched_getaffinity(0))
    return {available[index % len(available)]}


# --- replicated -------------------------------------------------------------------------------


def _measure_replicated(arguments: argparse.Namespace) -> dict[int, Load]:
    body = {"instances": np.random.default_rng(0).integers(0, 256, (1, 28, 28)).tolist()}
    loads: dict[int, list[Load]] = {count: [] for count in COUNTS}
    with contextlib.ExitStack() as stack:
        groups = {c: stack.enter_context(_sharing_a_port(arguments.model, c)) for c in COUNTS}
        script = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".lua"))
        script.write(SCRIPT.format(body=json.dumps(body)))
        script.flush()
        for round_ in range(arguments.rounds + 1):  # the first one warms up
            for count, server in groups.items():
                load = wrk(script.name, server.predict_url(), CONNECTIONS, arguments.seconds)
                if round_:
                    loads[count].append(load)
    return {count: median(each) for count, each in loads.items()}


@contextlib.contextmanager
def _sharing_a_port(version: Path, count: int) -> Iterator[Server]:
    ports, names = (free_port(), free_port()), {f"replica-{index}" for index in range(count)}
    with contextlib.ExitStack() as stack:
        for index, name in enumerate(sorted(names)):
            command = replica_command(version, name)
            server = stack.enter_context(started(command, _cpu(index), ports))
        seen: set[str] = set()
        end = time.monotonic() + START_SECONDS
        while seen != names:  # the first to be ready answers for those that still start
            if time.monotonic() > end:
                raise TimeoutError(f"{names - seen} did not answer")
            seen.add(httpx.get(f"{server.url}/v2/health/live", timeout=30).headers["x-served-by"])
        yield server


# --- sharded ----------------------------------------------------------------------------------


def _measure_sharded(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the seconds that one request takes, by who answers it."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)
    request = v2_binary(images)
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(started(replica_command(arguments.model, f"shard-{i}"), _cpu(i)))
            for i in range(max(COUNTS))
        ]
        servers = {"no front": replicas[0]} | {
            _shards(count): stack.enter_context(_front(replicas[:count])) for count in COUNTS
        }
        clients = {
            name: stack.enter_context(httpx.Client(base_url=server.url, timeout=300))
            for name, server in servers.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in clients}
        for round_ in range(arguments.rounds + 1):
            for name, client in clients.items():
                start = time.perf_counter()
                client.post(**request).raise_for_status()
                if round_:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _shards(count: int) -> str:
    return f"{count} shard{'s' if count > 1 else ''}"


@contextlib.contextmanager
def _front(replicas: list[Server]) -> Iterator[Server]:
    def command(http_port: int, grpc_port: int) -> list[str]:
        return python_m(
            front_arguments(
                NAME,
                [replica.url.removeprefix("http://") for replica in replicas],
                at_least=len(replicas),
                host=HOST,
                port=http_port,
                grpc_port=grpc_port,
            )
        )

    with started(command, None) as server:
        yield server


# --- results ----------------------------------------------------------------------------------


def _show(replicated: dict[int, Load], sharded: dict[str, float]) -> None:
    table = Table(title=f"Replicated: single images, V1 JSON, {CONNECTIONS} connections")
    for heading in ("replicas", "requests/s", "p50 / p99 ms", "× one replica"):
        table.add_column(heading, justify="right")
    for count, load in replicated.items():
        ratio = load.requests_per_second / replicated[1].requests_per_second
        times = f"{load.p50:.1f} / {load.p99:.1f}"
        table.add_row(str(count), f"{load.requests_per_second:.0f}", times, f"{ratio:.2f}")
    large = Table(title=f"Sharded: one request of {IMAGES} images, V2 binary")
    for heading in ("answered by", "s", "images/s", "× 1 shard", "× no front"):
        large.add_column(heading, justify="right")
    for name, took in sharded.items():
        ratios = (f"{sharded[baseline] / took:.2f}" for baseline in ("1 shard", "no front"))
        large.add_row(name, f"{took:.2f}", f"{IMAGES / took:.0f}", *ratios)
    Console(width=110).print(table, large)


if __name__ == "__main__":
    main()
