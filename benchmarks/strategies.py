"""Compare all-reduce and a parameter server: images/s, accuracy, and what a dead worker costs.

    python benchmarks/strategies.py --dataset workspace/datasets/KEY --output strategies.json

The same candidate, as many epochs, as many workers, started as the local backend does. Each is
trained twice: undisturbed, and with one worker killed when half of the steps are done. What that
costs is the difference of the two times, from the first process's start to the published candidate.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from mlpipeline.backends.local import processes
from mlpipeline.backends.local.training import TrainingProcesses
from mlpipeline.plan import config, pipeline
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Workspace
from mlpipeline.store.schemas.candidate import TrainingHistory
from mlpipeline.store.schemas.dataset import DatasetCard

_CONFIG = Path("configs/default.yaml")
_CANDIDATE = "cnn"
_STRATEGIES = {"all-reduce": "multi_worker_mirrored", "parameter server": "parameter_server"}
_WORKERS = 2


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a published Fashion-MNIST.")],
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    epochs: Annotated[int, typer.Option(help="Number of epochs of each training.")] = 3,
) -> None:
    """Measure, print a table, and write JSON."""
    figures = {}
    for name, strategy in _STRATEGIES.items():
        undisturbed = asyncio.run(_train(dataset, strategy, epochs, kill=False))
        disturbed = asyncio.run(_train(dataset, strategy, epochs, kill=True))
        figures[name] = undisturbed | {
            "with_a_dead_worker": disturbed,
            "cost_seconds": disturbed["seconds"] - undisturbed["seconds"],
        }
    _show(figures, epochs)
    machine = describe_machine().model_dump() | {"load": os.getloadavg()}
    artifacts.write_json(output, {"machine": machine, "epochs": epochs, "figures": figures})


async def _train(dataset: Path, strategy: str, epochs: int, *, kill: bool) -> dict[str, Any]:
    """Train once; return what came of it, and how long it took."""
    messages: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace, victims = Path(folder), [1] if kill else []
        link = Workspace(workspace).dataset(dataset.name).path
        link.parent.mkdir()
        link.symlink_to(dataset.resolve())
        file = workspace / "config.yaml"
        file.write_text(yaml.safe_dump(_config(strategy, epochs)), encoding="utf-8")
        settings = config.load(file)
        task = pipeline.plan(settings)[f"train-{_CANDIDATE}"]

        def on_progress(values: dict[str, str]) -> None:
            if victims and int(values["done"]) >= int(values["total"]) / 2:
                _kill_worker(victims.pop(), folder)

        began = time.monotonic()
        await TrainingProcesses(
            task.name,
            processes.python_m(task.arguments(file, Workspace(workspace))),
            settings.training,
            logs=workspace / "logs",
            say=messages.append,
            on_progress=on_progress,
        ).run()
        seconds = time.monotonic() - began
        history = Workspace(workspace).candidate(task.key).history
        first, *_, last = TrainingHistory.load(history).epochs
        images = DatasetCard.load(DatasetFolder(dataset).card).counts["train"]
    assert not victims, "training was over before a worker was killed"
    return {
        "seconds": seconds,
        "images_per_second": images * (epochs - 1) / (last.seconds - first.seconds),
        "validation_accuracy": last.validation_accuracy,
        "messages": messages,
    }


def _kill_worker(index: int, folder: str) -> None:
    """Kill the process that trains in a workspace as worker number `index`."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:  # it may end at any moment
            if folder not in (process / "cmdline").read_text():
                continue
            pairs = (process / "environ").read_text().split("\0")
        except OSError:
            continue
        environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        task = json.loads(environment.get("TF_CONFIG", "{}")).get("task")
        if task == {"type": "worker", "index": index}:
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise RuntimeError(f"there is no worker {index} to kill")


def _config(strategy: str, epochs: int) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))
    content["candidates"] = {_CANDIDATE: content["candidates"][_CANDIDATE] | {"epochs": epochs}}
    content["training"] = {"strategy": strategy, "workers": _WORKERS}
    return content


def _show(figures: dict[str, dict[str, Any]], epochs: int) -> None:
    title = f"{_CANDIDATE}, {epochs} epochs, {_WORKERS} workers"
    table = Table(title=title, box=None)
    table.add_column("")
    for heading in ("images/s", "validation", "s", "s with a dead worker", "that costs s"):
        table.add_column(heading, justify="right")
    for name, f in figures.items():
        table.add_row(
            name + (" (baseline)" if name == "all-reduce" else ""),
            f"{f['images_per_second']:,.0f}",
            f"{f['validation_accuracy']:.2%}",
            f"{f['seconds']:.0f}",
            f"{f['with_a_dead_worker']['seconds']:.0f}",
            f"{f['cost_seconds']:.0f}",
        )
    console = Console(width=110)  # also where it is no terminal
    console.print(table)
    for name, f in figures.items():
        console.print(f"{name}: {'; '.join(f['with_a_dead_worker']['messages'])}")


if __name__ == "__main__":
    typer.run(main)
