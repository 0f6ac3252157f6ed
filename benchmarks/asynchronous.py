"""Measure the time to a first served model: the asynchronous mode beside the synchronous one.

    python -m benchmarks.asynchronous --output benchmarks/results/asynchronous.json

The same configuration, each mode in a workspace of its own with the data set in it already. What is
served, and when all its replicas answer, is in the record of every run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mlpipeline.backends.local.processes import python_m
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.plan.commands import run_arguments, step_arguments
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run
from mlpipeline.store.schemas.selection import Decision

_MODES: dict[str, list[str]] = {"synchronous": [], "asynchronous": ["--asynchronous"]}


def main(
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    config: Path = Path("configs/default.yaml"),
    dataset: Annotated[
        Path | None, typer.Option(help="A workspace that holds the data set; else it is made.")
    ] = None,
) -> None:
    """Run both modes, print a table, and write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        workspaces = {mode: Path(folder, mode) for mode in _MODES}
        ingested = pipeline.plan(configuration.load(config))["ingest"].publishes[0]
        source = dataset or Path(folder, "ingested")
        if not (source / ingested).exists():
            _mlpipeline(step_arguments("ingest", config=config, workspace=str(source)))
        for workspace in workspaces.values():
            shutil.copytree(source / ingested, workspace / ingested)
        figures = {
            mode: _measure(config, workspaces[mode], options) for mode, options in _MODES.items()
        }
    _show(config, figures)
    artifacts.write_json(
        output,
        {"machine": describe_machine().model_dump(), "config": config.name, "modes": figures},
    )


def _measure(config: Path, workspace: Path, options: list[str]) -> dict[str, Any]:
    _mlpipeline([*run_arguments(config=config, workspace=str(workspace)), *options])
    (run,) = Workspace(workspace).runs()
    record = Run.load(run.record)
    select = [task.key for task in record.tasks if task.step == "select"][-1]
    decision = Decision.load(Workspace(workspace).selection(select).decision)
    validation = {name: c.validation_accuracy for name, c in decision.candidates.items()}
    served = [
        {
            "candidate": one.candidate,
            "validation_accuracy": validation[one.candidate],
            "seconds": one.seconds,
        }
        for one in record.served
    ]
    return {"served": served, "chosen": decision.chosen, "seconds": record.seconds}


def _mlpipeline(arguments: Sequence[str]) -> None:
    subprocess.run(python_m(arguments), check=True, timeout=1800)


def _show(config: Path, figures: dict[str, Any]) -> None:
    table = Table(title=f"Seconds from the start of a run of {config.name}", box=None)
    for heading in ("", "first served", "last served", "whole run"):
        table.add_column(heading, justify="right" if heading else "left")
    for mode, measured in figures.items():
        first, last = (
            f"{one['seconds']:.0f} ({one['candidate']}, {one['validation_accuracy']:.2%})"
            for one in (measured["served"][0], measured["served"][-1])
        )
        table.add_row(mode, first, last, f"{measured['seconds']:.0f}")
    Console(width=110).print(table)  # also where it is no terminal


if __name__ == "__main__":
    typer.run(main)
