"""Measure images per second of the input pipeline, beside `tfds.load` with batches as large.

    python benchmarks/input_pipeline.py --dataset workspace/datasets/KEY --output input.json

All pipelines shuffle, batch and prefetch, and are read in turn in one process, a second at a time,
so that whatever else the machine does is shared between them. `tfds.load` keeps a data set as small
as this one decoded in memory by itself; without that, it decodes PNG anew in each epoch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tensorflow_datasets as tfds
import typer
from rich.console import Console
from rich.table import Table
from tensorflow_datasets.image_classification.mnist import FashionMNIST

from mlpipeline.learning.data import debian
from mlpipeline.learning.data.tfrecords import training_batches
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard

_BATCH_SIZE = 128
_BASELINES = {
    "ours, cache: memory": "tfds.load",
    "ours, cache: disk": "tfds.load",
    "ours, cache: none": "tfds.load, no cache",
}


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a published Fashion-MNIST.")],
    output: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    seconds: Annotated[float, typer.Option(help="Seconds for which each pipeline is read.")] = 5,
    training_rate: Annotated[
        float | None, typer.Option(help="Images/s that training consumes, for comparison.")
    ] = None,
) -> None:
    """Measure, print a table, and write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        first, later = measure(
            pipelines(dataset, scratch), DatasetCard.load(DatasetFolder(dataset).card), seconds
        )
    figures = {
        name: {
            "first_epoch": first[name],
            "later_epochs": later[name],
            **({"baseline": baseline, "ratio": later[name] / later[baseline]} if baseline else {}),
            **({"training_rates": later[name] / training_rate} if training_rate else {}),
        }
        for name, baseline in ((name, _BASELINES.get(name)) for name in first)
    }
    show(figures)
    artifacts.write_json(
        output,
        {
            "batch_size": _BATCH_SIZE,
            "training_images_per_second": training_rate,
            "images_per_second": figures,
        },
    )


def pipelines(dataset: Path, scratch: Path) -> dict[str, Callable[[], Any]]:
    """Return functions that build an endless `tf.data.Dataset` of batches, by name.

    Args:
        dataset: Folder of a published Fashion-MNIST.
        scratch: Folder for caches and for what TFDS prepares.
    """
    shards = DatasetCard.load(DatasetFolder(dataset).card).shards["train"]

    def ours(cache: Any) -> Any:
        return training_batches(
            dataset,
            shards=shards,
            rows_per_shard=_BATCH_SIZE // len(shards),
            seed=0,
            cache=cache,
            cache_folder=scratch / "cache",
        )

    tfds.disable_progress_bar()
    prepare_tfds(scratch)

    def theirs(*, cached: bool) -> Any:
        rows = tfds.load(
            "fashion_mnist",
            split="train[:55000]",
            data_dir=scratch,
            shuffle_files=True,
            as_supervised=True,
            download=False,
            read_config=tfds.ReadConfig(try_autocache=cached),
        )
        return rows.shuffle(55_000).repeat().batch(_BATCH_SIZE).prefetch(-1)

    return {
        "tfds.load": lambda: theirs(cached=True),
        "tfds.load, no cache": lambda: theirs(cached=False),
        "ours, cache: none": lambda: ours("none"),
        "ours, cache: disk": lambda: ours("disk"),
        "ours, cache: memory": lambda: ours("memory"),
    }


def prepare_tfds(folder: Path) -> None:
    """Let TFDS prepare its own Fashion-MNIST from Debian's files, as if it had downloaded them."""
    FashionMNIST.URL = f"{debian.FOLDER if debian.FOLDER.is_dir() else debian.fetch()}/"
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    FashionMNIST(data_dir=folder).download_and_prepare(download_config=config)


def measure(
    pipelines: dict[str, Callable[[], Any]], card: DatasetCard, seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the images per second of the first epoch and of later ones, by name.

    The first epoch includes all that it takes to start.

    Args:
        pipelines: Functions that build the pipelines, by name.
        card: The data set's card.
        seconds: How long each pipeline is read in later epochs.
    """
    first: dict[str, float] = {}
    streams: dict[str, Iterator[Any]] = {}
    for name, build in pipelines.items():
        started = time.perf_counter()
        streams[name] = iter(build())
        images = sum(
            len(next(streams[name])[1]) for _ in range(card.counts["train"] // _BATCH_SIZE)
        )
        first[name] = images / (time.perf_counter() - started)
    for stream in streams.values():  # into the second epoch
        next(stream)
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(max(1, round(seconds))):
        for name, stream in streams.items():
            rates[name].append(rate(stream, 1.0))
    return first, {name: statistics.median(measured) for name, measured in rates.items()}


def rate(stream: Iterator[Any], seconds: float) -> float:
    """Return the images per second of a stream of batches, over so many seconds."""
    images, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        images += len(next(stream)[1])
    return images / passed


def show(figures: dict[str, dict[str, Any]]) -> None:
    """Print the table of all pipelines' figures."""
    table = Table(title=f"Input pipeline: images/s in batches of {_BATCH_SIZE}, 55 000 images")
    table.add_column("pipeline")
    for heading in ("first epoch", "later epochs", "against the baseline", "training's rates"):
        table.add_column(heading, justify="right")
    for name, figure in figures.items():
        table.add_row(
            name,
            f"{figure['first_epoch']:,.0f}",
            f"{figure['later_epochs']:,.0f}",
            f"{figure['ratio']:.1f} x {figure['baseline']}" if "ratio" in figure else "",
            f"{figure['training_rates']:.0f} x" if "training_rates" in figure else "",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
