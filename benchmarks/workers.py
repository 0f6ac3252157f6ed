"""Measure images per second of two workers on one processor each, beside one process on both.

    python benchmarks/workers.py --dataset workspace/datasets/KEY --output workers.json

The same candidate, the same global batch; the very command that a pod runs. The two take turns, so
that whatever else the machine does is shared between them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from mlpipeline.backends.local import processes
from mlpipeline.learning.training.cluster_spec import to_environment
from mlpipeline.plan.commands import step_arguments
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

_CONFIG = Path("configs/default.yaml")
_CANDIDATE = "batch_norm"
_MODES = {"one process": 1, "two workers": 2}


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a published Fashion-MNIST.")],
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    rounds: Annotated[int, typer.Option(help="Number of rounds, whose median is reported.")] = 3,
) -> None:
    """Measure, print a table, and write JSON."""
    cpus = two_processors()
    measured: dict[str, list[float]] = {mode: [] for mode in _MODES}
    for _ in range(rounds):
        for mode, workers in _MODES.items():
            measured[mode].append(asyncio.run(measure(dataset, workers, cpus)))
    rates = {mode: statistics.median(values) for mode, values in measured.items()}
    ratios = [b / a for a, b in zip(*measured.values(), strict=True)]
    table = Table(title=f"Training {_CANDIDATE} on two processors", box=None)
    for heading in ("", "images/s", "rounds", "ratio", "goal"):
        table.add_column(heading, justify="right" if heading else "left")
    for mode, rate in rates.items():
        values = " ".join(f"{value:,.0f}" for value in measured[mode])
        baseline = mode == "one process"
        ratio = "baseline" if baseline else f"{statistics.median(ratios):.2f}"
        table.add_row(mode, f"{rate:,.0f}", values, ratio, "" if baseline else "≥ 0.9")
    Console(width=110).print(table)  # also where it is no terminal
    artifacts.write_json(
        output,
        {
            "machine": describe_machine().model_dump(),
            "images_per_second": rates,
            "rounds": measured,
            "ratio": statistics.median(ratios),
        },
    )


def two_processors() -> list[int]:
    """Return the numbers of two processors of this process, or end it where it has one."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        raise SystemExit("error: got one processor, expected two; run it on a larger machine")
    return cpus


async def measure(dataset: Path, workers: int, cpus: list[int]) -> float:
    """Train one epoch from nothing; return the median rate of the calls after the first."""
    rates: list[float] = []

    def on_progress(values: dict[str, str]) -> None:
        rates.append(float(values["images_per_second"]))

    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        link = Workspace(workspace).dataset(dataset.name).path
        link.parent.mkdir()
        link.symlink_to(dataset.resolve())
        config = workspace / "config.yaml"
        config.write_text(yaml.safe_dump(_config(workers)), encoding="utf-8")
        command = processes.python_m(
            step_arguments("train", config=config, workspace=folder, candidate=_CANDIDATE)
        )
        addresses = [f"127.0.0.1:{port}" for port in processes.free_ports(workers)]
        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for index in range(workers):
                group.create_task(
                    processes.run(
                        command,
                        log=workspace / f"worker-{index}.log",
                        environment=to_environment(addresses, index),
                        cpus=cpus if workers == 1 else [cpus[index]],
                        on_progress=on_progress,
                    )
                )
    return statistics.median(rates[1:])


def _config(workers: int) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))
    # Of one optimizer, which the peers have, too.
    own = content["candidates"][_CANDIDATE] | {"epochs": 1, "optimizer": "sgd"}
    content["candidates"] = {_CANDIDATE: own}
    content["training"] = {"workers": workers}
    return content


if __name__ == "__main__":
    typer.run(main)
