"""Measure the memory of every process of a whole run on large images.

    python -m benchmarks.size --output size.json

20,000 images of 224x224x3 are written into memory-mapped files (3 GB, and 3 GB again as records),
then a run as anybody's: two workers, two replicas, a small model, nothing cached. What counts is
the peak of each process's resident memory, which has the pages of mapped files in it, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from numpy.lib.format import open_memmap
from rich.console import Console
from rich.table import Table

from mlpipeline.backends.local.processes import free_ports
from mlpipeline.runs.record import describe_machine
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run

_SIZE, _CLASSES, _AT_A_TIME = 224, 10, 200
_GOAL = 2 << 30
_STEP = re.compile(r"\b(step (\w+)|run)\b")
_PROJECT = """
from pathlib import Path

import numpy as np
from keras import layers

from mlpipeline.learning.data import Dataset, Split

HERE = Path(__file__).parent


def images():
    def split(name):
        return Split(
            np.load(HERE / f"{name}_images.npy", mmap_mode="r"),
            np.load(HERE / f"{name}_labels.npy"),
        )

    names = tuple(f"pattern {number}" for number in range(10))
    return Dataset("large", names, split("train"), split("test"), "drawn", synthetic=True)


def strided(inputs):
    x = layers.Conv2D(16, 7, strides=4, activation="relu")(inputs)
    x = layers.Conv2D(32, 3, strides=2, activation="relu")(x)
    return layers.Flatten()(layers.AveragePooling2D(9)(x))
"""


def main(
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    train: Annotated[int, typer.Option(help="Training images, 2,000 for validation.")] = 16_000,
    test: Annotated[int, typer.Option(help="Test images.")] = 4_000,
) -> None:
    """Measure, print a table, and write JSON."""
    with tempfile.TemporaryDirectory(prefix="mlpipeline-size-") as folder:
        project = Path(folder)
        _write(project, train, test)
        run, peaks = _run(project)
    table = Table(title=f"A run on {train + test:,} images of {_SIZE}x{_SIZE}x3", box=None)
    for heading in ("process", "resident at most, MiB", "goal"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name, peak in sorted(peaks.items()):
        table.add_row(name, f"{peak >> 20:,}", f"< {_GOAL >> 20:,}")
    Console(width=110).print(table)  # also where it is no terminal
    artifacts.write_json(
        output,
        {
            "machine": describe_machine().model_dump(),
            "images": {"train": train, "test": test, "shape": [_SIZE, _SIZE, 3]},
            "seconds": {task.name: task.seconds for task in run.tasks},
            "verification": run.verification.content() if run.verification else None,
            "resident_at_most_bytes": peaks,
        },
    )
    if run.state != "succeeded" or max(peaks.values()) >= _GOAL:
        raise SystemExit(f"error: the run has {run.state}, with at most {max(peaks.values())} B")


def _write(project: Path, train: int, test: int) -> None:
    """Write noise under a coarse pattern for each class, and what reads it."""
    (project / "large_images.py").write_text(_PROJECT)
    random = np.random.default_rng(0)
    blocks = random.integers(0, 160, (_CLASSES, 7, 7, 3))
    patterns = np.kron(blocks, np.ones((1, 32, 32, 1), int)).astype(np.uint8)
    for name, count in (("train", train), ("test", test)):
        labels = np.arange(count) % _CLASSES
        np.save(project / f"{name}_labels.npy", labels)
        shape = (count, _SIZE, _SIZE, 3)
        images = open_memmap(project / f"{name}_images.npy", "w+", np.uint8, shape)
        for start in range(0, count, _AT_A_TIME):
            own = patterns[labels[start : start + _AT_A_TIME]]
            images[start : start + _AT_A_TIME] = own + random.integers(0, 96, own.shape, np.uint8)
        images.flush()


def _run(project: Path) -> tuple[Run, dict[str, int]]:
    """Run the pipeline; return its record and the peak of each kind of process, in bytes."""
    http, grpc = free_ports(2)
    content: dict[str, Any] = {
        "name": "large",
        "data": {"dataset": "large_images:images", "validation": 2_000},
        "recipe": {"epochs": 1, "batch_size": 64, "precision": "float32"},
        "candidates": {"strided": {"model": "large_images:strided"}},
        "training": {"workers": 2, "cache": "none"},
        "serving": {"port": http, "grpc_port": grpc},
    }
    (project / "config.yaml").write_text(yaml.safe_dump(content))
    options = ["--config", "config.yaml", "--workspace", "workspace"]
    command = subprocess.Popen([sys.executable, "-m", "mlpipeline", "run", *options], cwd=project)
    peaks: dict[str, int] = {}
    while command.poll() is None:
        for process in _family(command.pid):
            name, peak = _look_at(process)
            peaks[name] = max(peaks.get(name, 0), peak)
        time.sleep(0.1)
    (folder,) = Workspace(project / "workspace").runs()
    return Run.load(folder.record), peaks


def _family(pid: int) -> list[Path]:
    """The folders in /proc of a process and of all that descend from it."""
    own = Path(f"/proc/{pid}")
    try:
        children = (own / f"task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:  # it has ended
        return []
    return [own, *(one for child in children for one in _family(int(child)))]


def _look_at(process: Path) -> tuple[str, int]:
    """Return which process of the run it is, and its peak so far; of one that ended 0."""
    try:
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        status = (process / "status").read_text(encoding="ascii")
    except OSError:
        return "run", 0
    found = _STEP.search(command)
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return (found[2] or "run") if found else "others", int(peak[1]) << 10 if peak else 0


if __name__ == "__main__":
    typer.run(main)
