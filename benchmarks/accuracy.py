"""Measure accuracy on the test split, and its cost: configs of ours, and the book's recipe.

    python benchmarks/accuracy.py --workspace workspace/bench --output accuracy.json

The default run starts from an empty workspace, because its whole time is a figure. The baseline is
the book's own recipe, trained for as much processor time as the default run's chosen candidate.
fast.yaml and best.yaml are trained with several seeds, because one moves accuracy by 0.15 points;
best.yaml takes half an hour each time. Once trained they are reused.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from mlpipeline.backends.local.processes import python_m
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.commands import run_arguments
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.candidate import Metrics, TrainingHistory
from mlpipeline.store.schemas.run import Run
from mlpipeline.store.schemas.selection import Decision

_CALIBRATION_EPOCHS = 2


def main(
    workspace: Annotated[
        Path, typer.Option(help="Folder that holds a workspace for each configuration.")
    ],
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    seeds: Annotated[
        int, typer.Option(help="How often fast.yaml and best.yaml are trained, too.")
    ] = 3,
) -> None:
    """Measure, print a table, and write JSON."""
    first = workspace / "first"
    shutil.rmtree(first, ignore_errors=True)
    default = _run(Path("configs/default.yaml"), first)
    figures = {"default.yaml": default}
    figures["book.yaml, equal CPU time"] = _book(workspace, default["cpu_seconds"])
    for name in ("fast.yaml", "best.yaml") if seeds else ():
        figures[name] = _over_seeds(Path("configs") / name, workspace / "seeds", seeds)
    _show(figures)
    artifacts.write_json(output, {"machine": describe_machine().model_dump(), "figures": figures})


def _over_seeds(file: Path, folder: Path, seeds: int) -> dict[str, Any]:
    """Run a configuration with its own seed and the next ones; return the mean, and each."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    runs = []
    for seed in range(content["seed"], content["seed"] + seeds):
        seeded = folder / f"{file.stem}-{seed}.yaml"
        artifacts.write_text(seeded, yaml.safe_dump(content | {"seed": seed}))
        runs.append(_run(seeded, folder))
    figures = (
        *("validation_accuracy", "test_accuracy"),
        *("training_seconds", "cpu_seconds", "run_seconds"),
    )
    mean = {figure: statistics.fmean(run[figure] for run in runs) for figure in figures}
    reused = [name for run in runs for name in run["reused"]]
    return runs[0] | mean | {"reused": reused, "seeds": runs}


def _book(workspace: Path, cpu_seconds: float) -> dict[str, Any]:
    """Train the book's recipe for so much processor time."""
    folder = workspace / "book"
    calibration = _run(_with_epochs(folder, _CALIBRATION_EPOCHS), folder)
    before, after = (epoch["cpu_seconds"] for epoch in calibration["history"][-2:])
    epochs = _CALIBRATION_EPOCHS + round((cpu_seconds - after) / (after - before))
    return _run(_with_epochs(folder, max(1, epochs)), folder)


def _with_epochs(folder: Path, epochs: int) -> Path:
    content = yaml.safe_load(Path("configs/book.yaml").read_text(encoding="utf-8"))
    content["recipe"]["epochs"] = epochs
    file = folder / f"book-{epochs}-epochs.yaml"
    artifacts.write_text(file, yaml.safe_dump(content))
    return file


def _run(file: Path, folder: Path) -> dict[str, Any]:
    """Run the pipeline with a configuration, and return what became of its chosen candidate."""
    arguments = run_arguments(config=file, workspace=str(folder))
    subprocess.run(python_m(arguments), check=True)
    workspace = Workspace(folder)
    record = Run.load(max(run.record for run in workspace.runs()))  # the newest
    tasks = pipeline.plan(config.load(file))
    decision = Decision.load(workspace.selection(tasks["select"].key).decision)
    chosen = workspace.candidate(tasks[f"train-{decision.chosen}"].key)
    metrics = Metrics.load(chosen.metrics)
    return {
        "candidate": decision.chosen,
        "parameters": metrics.parameters,
        "epochs": metrics.recipe["epochs"],
        "validation_accuracy": metrics.validation_accuracy,
        "test_accuracy": decision.test.accuracy,
        "training_seconds": metrics.seconds,
        "cpu_seconds": metrics.cpu_seconds,
        "run_seconds": record.seconds,
        "reused": [task.name for task in record.tasks if task.state == "reused"],
        "history": [asdict(epoch) for epoch in TrainingHistory.load(chosen.history).epochs],
    }


def _show(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(title="Accuracy of the chosen candidate", box=None)
    table.add_column("configuration")
    headings = (
        "candidate",
        "parameters",
        "epochs",
        "validation",
        "test",
        "training CPU s",
        "run s",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, f in figures.items():
        table.add_row(
            name,
            f["candidate"],
            f"{f['parameters']:,}",
            str(f["epochs"]),
            f"{f['validation_accuracy']:.2%}",
            f"{f['test_accuracy']:.2%}",
            f"{f['cpu_seconds']:.0f}",
            f"{f['run_seconds']:.0f}" + (" (reused)" if f["reused"] else ""),
        )
    Console(width=110).print(table)  # also where it is no terminal


if __name__ == "__main__":
    typer.run(main)
