"""`tfds:NAME`: an image classification set of TensorFlow Datasets.

NAME may have a configuration and a version: `tfds:NAME/CONFIG:VERSION`. What has been prepared
before is read from TFDS's folder; otherwise TFDS downloads and prepares it there.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlpipeline.errors import ConfigurationError, SourceError
from mlpipeline.learning.data.sources.collection import Collection, Item, Part
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import Reference

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.-]+)?(:[0-9]+\.[0-9]+\.[0-9]+)?")
_PREPARE_SECONDS = 2 * 3_600


def find(reference: Reference, data: Data) -> Collection:
    """Return the images of a set of TensorFlow Datasets.

    Raises:
        ConfigurationError: There is no such set, or it is not of labelled images.
        SourceError: It cannot be had.
    """
    builder = _builder(reference.rest)
    image, label = _keys(builder)
    if not builder.is_prepared():
        _download(reference.rest)
        builder = _builder(reference.rest)
    parts = {}
    for part, names in {
        "train": ("train",),
        "validation": ("validation", "valid", "val"),
        "test": ("test",),
    }.items():
        for name in names:
            if name in builder.info.splits:
                parts[part] = _part(builder, name, image, label)
    if "train" not in parts:
        raise _unfit(reference.rest, f"its splits are {', '.join(builder.info.splits) or 'none'}")
    info = builder.info
    return Collection.of(
        info.name,
        f"TFDS, {info.full_name}",
        tuple(info.features[label].names),
        parts,
    )


def _part(builder: Any, split: str, image: str, label: str) -> Part:
    import tensorflow_datasets as tfds

    names = builder.info.features[label].names

    def items() -> Iterator[Item]:
        examples = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(
                {image: True, label: True}, decoders={image: tfds.decode.SkipDecoding()}
            ),
            shuffle_files=False,
        )
        try:
            for number, example in enumerate(tfds.as_numpy(examples)):
                yield Item(f"{split}[{number}]", names[example[label]], bytes(example[image]))
        except Exception as error:  # TFDS and TensorFlow raise a dozen kinds for a damaged folder
            raise SourceError(
                f"TFDS cannot read {builder.data_dir}: {_first_line(error)}",
                expected="a folder that TFDS wrote whole",
                remedy="remove it",
            ) from error

    return Part(builder.info.splits[split].num_examples, items)


def _builder(name: str) -> Any:
    # Imported where it is needed: seconds, for a source that most runs do not use.
    import tensorflow_datasets as tfds

    try:
        if not _NAME.fullmatch(name):  # TFDS would fetch and run what others have published
            raise ValueError("it is no name of its catalogue")
        return tfds.builder(name, data_dir=_root())
    except Exception as error:  # unknown, or a version that there is not, each of its own kind
        raise ConfigurationError(
            f"TFDS has no data set `{name}`: {_first_line(error)}",
            expected="NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION of "
            "https://www.tensorflow.org/datasets/catalog",
            remedy="mend data.dataset; a private set must have been prepared in TFDS_DATA_DIR",
        ) from error


def _keys(builder: Any) -> tuple[str, str]:
    """Return what the image and the label of an example are called."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)
        and feature.np_dtype in (np.uint8, np.uint16)  # floats are packed into four channels
    ]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if supervised := builder.info.supervised_keys:
        images = [key for key in images if key in supervised] or images
        labels = [key for key in labels if key in supervised] or labels
    if len(images) != 1 or len(labels) != 1:
        described = ", ".join(f"{key} ({type(f).__name__})" for key, f in features.items())
        raise _unfit(builder.info.full_name, f"its examples have {described}")
    return images[0], labels[0]


def _download(name: str) -> None:
    _log.info("TFDS downloads and prepares %s, which may take long", name)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # killed when left
            pool.apply_async(_prepare, [name, _root()]).get(timeout=_PREPARE_SECONDS)
    except (OSError, multiprocessing.TimeoutError) as error:
        raise SourceError(
            f"TFDS cannot prepare {name}: {_first_line(error)}",
            expected=f"that it is downloaded and prepared in {_PREPARE_SECONDS} s",
            remedy="connect this machine to the Internet, or set http_proxy; or prepare it "
            f"elsewhere with `tfds build {name}`, and name the folder with TFDS_DATA_DIR",
        ) from error


def _prepare(name: str, root: Path | None) -> None:
    """Runs in a process of its own, as nothing else can end a transfer that stalls."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        tfds.builder(name, data_dir=root).download_and_prepare(download_config=config)
    except Exception as error:  # not every kind can be sent to the parent
        raise OSError(_first_line(error)) from None


def _root() -> Path | None:
    """Return the folder that TFDS keeps prepared sets in; None for its own default."""
    named = os.environ.get("TFDS_DATA_DIR")
    return Path(os.path.expanduser(named)) if named else None  # noqa: PTH111


def _unfit(name: str, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"`tfds:{name}` is no set to classify images with: {got}",
        expected="a split `train`, and one image and one class label in each example",
        remedy="take another set, or write a function for it: docs/how-to/own-data.md",
    )


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
