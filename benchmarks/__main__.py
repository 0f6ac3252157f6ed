"""All benchmarks, one after the other: what `make bench` runs.

    python -m benchmarks

Each prints its table, figures beside their baselines, and writes benchmarks/results/NAME.json.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from mlpipeline import environment
from mlpipeline.backends.local.processes import python_m
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.commands import run_arguments
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace

RESULTS = Path("benchmarks/results")
CONFIG = Path("configs/default.yaml")
WORKSPACE = Path("workspace/bench")


def main() -> None:
    """Run every benchmark in a process of its own, so that none disturbs another."""
    environment.prepare()  # the benchmarks inherit it
    _run("accuracy", "--workspace", WORKSPACE)
    settings = config.load(CONFIG)
    finished = WORKSPACE / "first"
    dataset = finished / pipeline.plan(settings)["ingest"].publishes[0]
    _run("workers", "--dataset", dataset)
    _run("training_peers", "--dataset", dataset)
    _run("strategies", "--dataset", dataset)
    rate = artifacts.read_json(RESULTS / "workers.json")["images_per_second"]["two workers"]
    _run("input_pipeline", "--dataset", dataset, "--training-rate", rate)
    version = registry.current(Workspace(finished), settings.name)
    model = Workspace(finished).model(settings.name, version).path
    _run("serving_peers", "--model", model)  # while it is the current one, as `make serve` has it
    _run("serving", "--model", model, "--int8", _of_8_bits(finished))
    _run("observing", "--model", model)
    _run("drift", "--workspace", finished)
    _run("replicas", "--model", model)
    _run("size")


def _of_8_bits(finished: Path) -> Path:
    """Select once more, and return the version that is made of 8-bit integers."""
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    content["serving"] |= {"precision": "int8"}
    file = finished / "int8.yaml"
    artifacts.write_text(file, yaml.safe_dump(content))
    subprocess.run(python_m(run_arguments(config=file, workspace=str(finished))), check=True)
    workspace, name = Workspace(finished), content["name"]
    return workspace.model(name, registry.current(workspace, name)).path


def _run(name: str, *arguments: object) -> None:
    print(f"\n== {name} ==", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    output = ["--output", str(RESULTS / f"{name}.json")]
    subprocess.run([*command, *output], check=True)


if __name__ == "__main__":
    main()
