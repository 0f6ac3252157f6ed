"""Measure how fast we train beside Keras's `fit`, PyTorch and JAX with Flax.

`python -m benchmarks.training_peers --dataset workspace/datasets/KEY --output FILE.json`

The same network (`batch_norm`), images, batch, optimizer and augmentation, on the same two
processors, from memory; each peer as its own guide shows it (benchmarks/peers), in an environment
of its own below workspace/bench/peers. Each is measured in its variants (precision, compiled or
not), and its best one counts. Ours: two workers of one processor each, and one process on both. The
median of several rounds, in which all take turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import environments, workers
from mlpipeline.learning.data import records
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts

_OURS = {"two workers": 2, "one process": 1}
_SECONDS = 600  # for a variant: it compiles, and takes three hundred steps
_PRECISIONS = ("float32", "bfloat16")
# The program, what its environment has beside Python (None: it is ours), and its variants.
_PEERS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "Keras fit": (
        "keras_fit.py",
        None,
        tuple(f"{precision} {jit}" for precision in _PRECISIONS for jit in ("jit", "nojit")),
    ),
    "PyTorch": (
        "torch_train.py",
        "torch==2.15.0 numpy==2.4.6",
        tuple(f"{precision} {mode}" for precision in _PRECISIONS for mode in ("compile", "eager")),
    ),
    "JAX": ("flax_train.py", "jax==0.10.2 flax==0.12.8 optax==0.2.8", _PRECISIONS),
}


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a published Fashion-MNIST.")],
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    rounds: Annotated[int, typer.Option(help="Number of rounds, whose median is reported.")] = 3,
) -> None:
    """Measure, print a table, and write JSON."""
    cpus = workers.two_processors()
    os.sched_setaffinity(0, cpus)  # what is started from here inherits it
    for name, (_, requirements, _) in _PEERS.items():
        if requirements:
            environments.make(name, requirements)
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_arrays(dataset, Path(folder))
        for _ in range(rounds):
            for name, count in _OURS.items():
                rate = asyncio.run(workers.measure(dataset, count, cpus))
                _note(measured, f"ours, {name}", rate)
            for name, (program, requirements, variants) in _PEERS.items():
                for variant in variants:
                    rate = _measure(name, program, variant, Path(folder), own=requirements is None)
                    _note(measured, f"{name}, {variant}", rate)
    rates = {name: statistics.median(values) for name, values in measured.items()}
    _show(rates)
    best = max((name for name in rates if not name.startswith("ours")), key=rates.__getitem__)
    artifacts.write_json(
        output,
        {
            "machine": describe_machine().model_dump(),
            "peers": {name: requirements for name, (_, requirements, _) in _PEERS.items()},
            "images_per_second": rates,
            "rounds": measured,
            "best_peer": best,
            "ratios": {n: rates[n] / rates[best] for n in rates if n.startswith("ours")},
        },
    )


def _note(measured: dict[str, list[float]], name: str, rate: float) -> None:
    measured.setdefault(name, []).append(rate)
    print(f"{name}: {rate:,.0f} images/s", flush=True)  # a round takes minutes


def _write_arrays(dataset: Path, folder: Path) -> None:
    batches = list(records.split_batches(dataset, "train", 1000))
    np.save(folder / "images.npy", np.concatenate([images for images, _ in batches]))
    np.save(folder / "labels.npy", np.concatenate([labels for _, labels in batches]))


def _measure(name: str, program: str, variant: str, data: Path, *, own: bool) -> float:
    python = sys.executable if own else str(environments.programs(name) / "python")
    done = subprocess.run(
        [python, program, *variant.split()],
        cwd=environments.PROGRAMS,
        env={**os.environ, "DATA": str(data), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode:
        raise SystemExit(f"error: {name}, {variant}: status {done.returncode}\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not figures["losses"][-1] < figures["losses"][0]:  # it may be NaN
        raise SystemExit(f"error: {name}, {variant} does not learn: {figures['losses']}")
    return float(figures["rate"])


def _show(rates: Mapping[str, float]) -> None:
    best = max(rate for name, rate in rates.items() if not name.startswith("ours"))
    table = Table(title="Training batch_norm on two processors", box=None)
    for heading in ("", "images/s", "÷ best peer"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / best:.2f}")
    Console(width=110).print(table)  # also where it is no terminal


if __name__ == "__main__":
    typer.run(main)
