"""Measure the model server against named baselines, and print and record a table.

`python -m benchmarks.serving --model VERSION --int8 VERSION --output FILE.json`, two folders below
workspace/models/fashion-mnist: the second one selected with `serving: {precision: int8}`.

Single images go through V1 JSON over kept connections, sent by `wrk`; a thousand in one request go
through V2 binary and V1 JSON, sent by httpx. The baselines stand in `serving_baselines.py`. Each
figure is the median of several rounds, in which the servers take turns, so that what else the
machine does meets them all. One server answers at a time; the others are idle.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.servers import (
    NAME,
    Load,
    Server,
    by_turns,
    on_cpus,
    replica_command,
    started,
    v2_binary,
)
from mlpipeline.store import artifacts

CONNECTIONS = (1, 8, 32)
BATCH = 1000
OURS = {"float32": 0.7, "int8": 0.85}  # goals: of the requests of a server that does nothing
GOAL_BARE = {"V2 binary": 0.95, "V1 JSON": 0.85}  # of the images of the bare engine
BASELINES = Path(__file__).with_name("serving_baselines.py")


def main() -> None:
    """Measure, print, record."""
    arguments = _arguments()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed\n  to do:    apt-get install wrk")
    server_cpus, load_cpus = ({0}, {1}) if arguments.pin else (None, None)
    version = arguments.model
    with contextlib.ExitStack() as stack:
        commands = {
            "float32": replica_command(version),
            "int8": replica_command(arguments.int8),
            "keras": _baseline("keras-predict"),
            "nothing": _baseline("nothing"),
        }
        servers = {
            name: stack.enter_context(started(command, server_cpus))
            for name, command in commands.items()
        }
        bare = stack.enter_context(_bare(version, server_cpus))
        shape = _input_shape(servers["float32"])
        singles = _measure_singles(servers, shape, load_cpus, arguments)
        batches = _measure_batches(servers["float32"], bare, shape, arguments.rounds)
    results = {
        "models": [version.name, arguments.int8.name],
        "cpus": os.cpu_count(),
        "pinned": arguments.pin,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "single_images": [_single_result(connections, each) for connections, each in singles],
        "batches": _batch_results(batches),
    }
    _show(results)
    artifacts.write_json(arguments.output, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a registered version")
    parser.add_argument("--int8", type=Path, required=True, help="the same, of 8-bit integers")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of each measurement")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds, whose median is reported"
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        help="keep the servers on CPU 0 and the load on CPU 1; by default all may use all",
    )
    return parser.parse_args()


# --- servers ----------------------------------------------------------------------------------


def _baseline(kind: str) -> Callable[[int, int], list[str]]:
    def command(http_port: int, grpc_port: int) -> list[str]:
        ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        return [sys.executable, str(BASELINES), kind, "--name", NAME, *ports]

    return command


@contextlib.contextmanager
def _bare(version: Path, cpus: set[int] | None) -> Iterator[Callable[[int], float]]:
    command = [
        sys.executable,
        str(BASELINES),
        "bare",
        "--model",
        str(version),
    ]
    process = subprocess.Popen(
        on_cpus(cpus, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def seconds(count: int) -> float:
        print(count, file=process.stdin, flush=True)
        return float(process.stdout.readline())  # type: ignore[union-attr]

    try:
        yield seconds
    finally:
        process.kill()
        process.wait()


def _input_shape(server: Server) -> tuple[int, ...]:
    (about,) = httpx.get(f"{server.url}/v2/models/{NAME}", timeout=30).json()["inputs"]
    return tuple(about["shape"][1:])


# --- measurements -----------------------------------------------------------------------------


def _measure_singles(
    servers: dict[str, Server],
    shape: tuple[int, ...],
    cpus: set[int] | None,
    arguments: argparse.Namespace,
) -> list[tuple[int, dict[str, Load]]]:
    body = {"instances": np.random.default_rng(0).integers(0, 256, (1, *shape)).tolist()}
    for server in [*servers.values()] * 5:  # the first calls of `keras.Model.predict` take seconds
        httpx.post(server.predict_url(), json=body, timeout=60).raise_for_status()
    found = by_turns(
        servers, body, CONNECTIONS, seconds=arguments.seconds, rounds=arguments.rounds, cpus=cpus
    )
    return [*found.items()]


def _measure_batches(
    server: Server, bare: Callable[[int], float], shape: tuple[int, ...], rounds: int
) -> dict[str, float]:
    """Return images/s of one request after another."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *shape), dtype=np.uint8)
    seconds: dict[str, list[float]] = {"bare": [], "V2 binary": [], "V1 JSON": []}
    requests = {"V2 binary": v2_binary(images), "V1 JSON": _v1_json(images)}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for round_ in range(3 * rounds + 1):  # the first one warms up
            took = {"bare": bare(BATCH)}
            for protocol, request in requests.items():
                start = time.perf_counter()
                client.post(**request).raise_for_status()
                took[protocol] = time.perf_counter() - start
            for name in took if round_ else ():
                seconds[name].append(took[name])
    return {name: BATCH / statistics.median(each) for name, each in seconds.items()}


def _v1_json(images: Any) -> dict[str, Any]:
    return {
        "url": f"/v1/models/{NAME}:predict",
        "content": orjson.dumps({"instances": images}, option=orjson.OPT_SERIALIZE_NUMPY),
        "headers": {"content-type": "application/json"},
    }


# --- results ----------------------------------------------------------------------------------


def _single_result(connections: int, loads: dict[str, Load]) -> dict[str, Any]:
    rates = {name: load.requests_per_second for name, load in loads.items()}
    return {
        "connections": connections,
        **{name: vars(load) for name, load in loads.items()},
        "ratio_to_keras": {name: rates[name] / rates["keras"] for name in OURS},
        "ratio_to_nothing": {name: rates[name] / rates["nothing"] for name in OURS},
        "goal_to_nothing": OURS,
    }


def _batch_results(rates: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "protocol": protocol,
            "images": BATCH,
            "images_per_second": rates[protocol],
            "bare_images_per_second": rates["bare"],
            "ratio_to_bare": rates[protocol] / rates["bare"],
            "goal_to_bare": goal,
        }
        for protocol, goal in GOAL_BARE.items()
    ]


def _show(results: dict[str, Any]) -> None:
    table = Table(title="Serving: single images, V1 JSON (req/s; p50 / p99 in ms)")
    names = [*OURS, "keras", "nothing"]
    table.add_column("connections", justify="right")
    for heading in (*names, *(f"{name} ÷ nothing, goal {goal}" for name, goal in OURS.items())):
        table.add_column(heading, justify="right")
    for row in results["single_images"]:
        loads = (row[name] for name in names)
        table.add_row(
            str(row["connections"]),
            *(f"{x['requests_per_second']:.0f}; {x['p50']:.2f} / {x['p99']:.2f}" for x in loads),
            *(_verdict(row["ratio_to_nothing"][name], goal) for name, goal in OURS.items()),
        )
    batches = Table(title=f"Serving: {BATCH} images in one request, float32 (images/s)")
    for heading in ("protocol", "ours", "bare engine", "ours ÷ bare", "goal"):
        batches.add_column(heading, justify="right")
    for row in results["batches"]:
        batches.add_row(
            row["protocol"],
            f"{row['images_per_second']:.0f}",
            f"{row['bare_images_per_second']:.0f}",
            _verdict(row["ratio_to_bare"], row["goal_to_bare"]),
            str(row["goal_to_bare"]),
        )
    console = Console(width=130)  # also where it is no terminal
    console.print(table, batches)


def _verdict(ratio: float, goal: float) -> str:
    return f"[{'green' if ratio >= goal else 'red'}]{ratio:.2f}"


if __name__ == "__main__":
    main()
