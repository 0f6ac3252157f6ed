"""Measure what Kubernetes costs: from `argo submit` to the first right answer, and a second submit.

    make cluster image deploy bench-cluster

The time is split into work, when a process of a step (ingest, a worker of train, select) or the
first replica that loads the model was running, and overhead, which is the rest: plan, scheduling,
the start of containers, Argo, the operators, KServe; by cause, as `benchmarks.overhead` says. A
seed of its own makes the first run begin without a memo. The model that is served is taken out of
service first. Of several rounds the mean is shown.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import overhead
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run

NAMESPACE, NAME = "mlpipeline", "fashion-mnist"
WORKSPACE = Workspace(Path("workspace-kind"))
URL = f"http://127.0.0.1:30080/v1/models/{NAME}:predict"
GOALS = {"overhead": 15.0, "memoized": 8.0}
DEADLINE_SECONDS = 1800.0

Seconds = dict[str, float]


def main(
    config: Path = Path("configs/default.yaml"),
    image: str = "mlpipeline:0.2.0",
    predictor_image: str = "mlpipeline-predictor:0.2.0",
    rounds: int = 3,
    output: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON.")] = None,
) -> None:
    """Measure a first and a second submission of a configuration."""
    images = {"image": image, "predictor-image": predictor_image}
    measured = [_measure(yaml.safe_load(config.read_text()), images) for _ in range(rounds)]
    first, memoized = (_mean(times) for times in zip(*measured, strict=True))
    work = {cause: first.pop(cause) for cause in overhead.WORK}
    figures = {
        "config": config.name,
        "rounds": rounds,
        "seconds": sum(work.values()) + sum(first.values()),
        "work": work,
        "overhead": sum(first.values()),
        "overhead_by_cause": first,
        "memoized": sum(memoized.values()),
        "memoized_by_cause": memoized,
        "goals": GOALS,
    }
    _show(figures)
    if output:
        artifacts.write_json(output, figures)


def _measure(content: dict[str, Any], images: Mapping[str, str]) -> tuple[Seconds, Seconds]:
    """Return the seconds by cause to the first right answer, and of the same run once more."""
    seed = {"seed": random.randrange(1 << 30)}
    content = content | seed | {"data": content.get("data", {}) | seed}
    _kubectl("delete", "inferenceservice", NAME, "--ignore-not-found")
    # Its pods still answer for some seconds.
    label = f"serving.kserve.io/inferenceservice={NAME}"
    _kubectl("wait", "pods", "-l", label, "--for=delete", "--timeout=120s")
    began = time.time()
    run = _submit(content, images)
    answer, answered = _first_answer(run)
    _wait(run)
    _check(run, answer)
    first = overhead.by_cause(_objects(), began, answered)
    began = time.time()
    _wait(_submit(content, images))
    ended = time.time()
    return first, overhead.by_cause(_objects(), began, ended)


def _objects() -> list[dict[str, Any]]:
    kinds = "pods,tfjobs,inferenceservices"
    objects: list[dict[str, Any]] = json.loads(_kubectl("get", kinds, "-o", "json"))["items"]
    return objects


def _mean(times: Sequence[Seconds]) -> Seconds:
    return {cause: statistics.fmean(time[cause] for time in times) for cause in times[0]}


def _submit(content: dict[str, Any], images: Mapping[str, str]) -> str:
    command = ["argo", "submit", "-n", NAMESPACE, "-o", "name", "workflows/pipeline.yaml"]
    for name, value in {**images, "configuration": yaml.safe_dump(content)}.items():
        command += ["-p", f"{name}={value}"]
    return _output(*command).strip()


def _wait(run: str) -> None:
    _output("argo", "wait", "-n", NAMESPACE, run)


def _first_answer(run: str) -> tuple[list[float], float]:
    """Return the probabilities of a black image, and when they came."""
    body = {"instances": [np.zeros((28, 28), int).tolist()]}
    end = time.time() + DEADLINE_SECONDS
    while time.time() < end:
        try:
            response = httpx.post(URL, json=body, timeout=5)
            if response.status_code == httpx.codes.OK:
                return response.json()["predictions"][0], time.time()
        except httpx.HTTPError:  # nobody answers yet
            pass
        time.sleep(0.2)
    raise SystemExit(f"error: {run} gave no answer within {DEADLINE_SECONDS:.0f} s: make status")


def _check(run: str, answer: list[float]) -> None:
    """See that the answer was this run's model's, and not one of an earlier run."""
    from mlpipeline.serving import model

    record = Run.load(WORKSPACE.run(run).record)
    version = next(task.key for task in record.tasks if task.step == "select")
    published = model.load(WORKSPACE.model(NAME, version).path)
    np.testing.assert_allclose(
        answer, published.predict(np.zeros((1, 28, 28), np.uint8))[0], atol=1e-5
    )


def _show(figures: dict[str, Any]) -> None:
    table = Table(title=f"argo submit of {figures['config']}", box=None)
    for heading in ("", "s", "goal"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("to the first right answer", f"{figures['seconds']:.1f}", "")
    for name, seconds in figures["work"].items():
        table.add_row(f"  work: {name}", f"{seconds:.1f}", "")
    table.add_row("  overhead", f"{figures['overhead']:.1f}", f"≤ {GOALS['overhead']:.0f}")
    _add_causes(table, figures["overhead_by_cause"])
    table.add_row(
        "again, all memoized, to Succeeded",
        f"{figures['memoized']:.1f}",
        f"≤ {GOALS['memoized']:.0f}",
    )
    _add_causes(table, figures["memoized_by_cause"])
    Console().print(table)


def _add_causes(table: Table, causes: Seconds) -> None:
    for cause, seconds in sorted(causes.items(), key=lambda item: -item[1]):
        if seconds:
            table.add_row(f"    {cause}", f"{seconds:.1f}", "")


def _kubectl(*arguments: str) -> str:
    return _output("kubectl", "-n", NAMESPACE, *arguments)


def _output(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command[:4])} …: {done.stderr or done.stdout}")
    return done.stdout


if __name__ == "__main__":
    typer.run(main)
