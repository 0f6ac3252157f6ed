"""Measure what it costs to watch a model: metrics of it, and a log of all that it is asked.

`python -m benchmarks.observing --model VERSION --output FILE.json`, a folder below
workspace/models/fashion-mnist. Single images go through V1 JSON, sent by `wrk`, as in
`benchmarks.serving`: replicas that differ in nothing else take turns, so that what else the machine
does meets them all, and each figure is the median of several rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.servers import HOST, NAME, by_turns, started
from mlpipeline.store import artifacts

CONNECTIONS = (1, 8, 32)
KINDS = {
    "nothing": "metrics=False",
    "metrics": "metrics=True",
    "metrics and log": "metrics=True, log=(Path({folder!r}), RequestLogging(share=1,"
    " images_per_hour=10**9))",
}


def main() -> None:
    """Measure, print, record."""
    arguments = _arguments()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = {
            kind: stack.enter_context(started(_command(arguments.model, how, folder), None))
            for kind, how in KINDS.items()
        }
        (about,) = httpx.get(f"{servers['nothing'].url}/v2/models/{NAME}").json()["inputs"]
        height, width = about["shape"][1:]
        body = {"instances": [[[7] * width] * height]}
        loads = by_turns(
            servers, body, CONNECTIONS, seconds=arguments.seconds, rounds=arguments.rounds
        )
    results: dict[str, Any] = {
        "model": arguments.model.name,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "single_images": {
            str(connections): {kind: asdict(load) for kind, load in by_kind.items()}
            for connections, by_kind in loads.items()
        },
    }
    _show(results)
    artifacts.write_json(arguments.output, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a registered version")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median is reported")
    return parser.parse_args()


def _command(version: Path, how: str, folder: str) -> Callable[[int, int], list[str]]:
    def command(http_port: int, grpc_port: int) -> list[str]:
        call = (
            "from pathlib import Path; from mlpipeline.plan.config import RequestLogging;"
            "from mlpipeline.steps.serving import serve;"
            f"serve(Path({str(version)!r}), name={NAME!r}, http_port={http_port},"
            f" grpc_port={grpc_port}, replica='benchmark', host={HOST!r},"
            f" {how.format(folder=f'{folder}/requests/{NAME}')})"
        )
        return [sys.executable, "-c", call]

    return command


def _show(results: dict[str, Any]) -> None:
    table = Table(title="single images")
    columns = ("connections", "what is kept", "requests/s", "p50", "p99")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[1] else "right")
    for connections, kinds in results["single_images"].items():
        for kind, load in kinds.items():
            figures = [f"{load['requests_per_second']:,.0f}"]
            figures += [f"{load[each]:.2f} ms" for each in ("p50", "p99")]
            table.add_row(connections, kind, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
