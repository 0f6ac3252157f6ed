"""Fashion-MNIST, from whichever source answers: the bytes are the same from each.

70 000 grey images of 28x28 pixels in ten classes: Xiao, Rasul and Vollgraf, Fashion-MNIST,
arXiv:1708.07747, https://github.com/zalandoresearch/fashion-mnist
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from mlpipeline.errors import SourceError
from mlpipeline.learning.data import debian
from mlpipeline.learning.data.idx import read_idx
from mlpipeline.learning.data.images import Dataset, Split, content_digest

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Digests of the decoded images and labels, so that they hold for every format these come in.
_DIGESTS = {
    "train": "f126f8e0184380f32b587e0a67ea404ae741f16c9b4dade10f17f0b513e4269a",
    "test": "6bb66b30ed27683178e4405f174968eebeccb65c4a65870a460df3f7c592827d",
}
_PROBE_SECONDS = 5
_DOWNLOAD_SECONDS = 600  # 31 MB, and half a minute for TFDS to encode it as PNG

_log = logging.getLogger(__name__)


def fashion_mnist(source: str = "auto") -> Dataset:
    """Return Fashion-MNIST, checked against the known digest of its content.

    Args:
        source: `tfds`, `download`, `idx` or `debian`; `auto` tries them in this order.

    Raises:
        SourceError: No source answered; lists each that was tried, and why it was of no use.
    """
    tried = SOURCES if source == "auto" else {source: SOURCES[source]}
    failures = {}
    for name, read in tried.items():
        try:
            dataset = read()
            _check_content(dataset)
            return dataset
        except SourceError as error:
            failures[name] = error
            _log.warning("fashion_mnist: source `%s` is of no use: %s", name, error.got)
    raise SourceError(
        "no source of fashion_mnist answered:\n"
        + "\n".join(
            f"  - {name}: {error.got}; expected {error.expected}; {error.remedy}"
            for name, error in failures.items()
        ),
        expected=f"one of {', '.join(tried)} to answer with the 70 000 known images",
        remedy=f"the shortest way on Debian or Ubuntu: apt-get install {debian.PACKAGE}",
    )


def from_tfds() -> Dataset:
    """Read a data set that TFDS has prepared before; needs no network.

    Raises:
        SourceError: There is none in TFDS_DATA_DIR, or it cannot be read.
    """
    root = _tfds_root()
    prepared = sorted((root / "fashion_mnist").glob("*/dataset_info.json"))
    if not prepared:
        raise SourceError(
            f"there is no prepared fashion_mnist in {root}",
            expected="a TFDS folder",
            remedy="name one with TFDS_DATA_DIR",
        )
    folder = prepared[-1].parent
    # Imported where it is needed: seconds, for sources that most runs do not use.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        batches = {
            name: list(tfds.as_numpy(builder.as_dataset(split=name, batch_size=1_000)))
            for name in ("train", "test")
        }
    except Exception as error:  # TFDS and TensorFlow raise a dozen kinds for a damaged folder
        raise SourceError(
            f"TFDS cannot read {folder}: {_first_line(error)}",
            expected="a folder that TFDS wrote whole",
            remedy="remove it",
        ) from error
    splits = {
        name: Split(
            np.concatenate([batch["image"][..., 0] for batch in parts]),
            np.concatenate([batch["label"] for batch in parts]).astype(np.int64),
        )
        for name, parts in batches.items()
    }
    return _dataset(splits["train"], splits["test"], f"TFDS, {folder}")


def from_download() -> Dataset:
    """Let TFDS download and prepare it into its own folder, where it is found the next time.

    Raises:
        SourceError: The server does not answer, or not in time.
    """
    import tensorflow_datasets as tfds

    url = tfds.builder_cls("fashion_mnist").URL
    try:
        # TFDS sets no time limit and tries ten times; without network that takes minutes.
        probe = f"{url}t10k-labels-idx1-ubyte.gz"
        httpx.head(probe, timeout=_PROBE_SECONDS, follow_redirects=True).raise_for_status()
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # killed when left
            pool.apply_async(_prepare, [_tfds_root()]).get(timeout=_DOWNLOAD_SECONDS)
    except _NO_ANSWER as error:
        raise SourceError(
            f"cannot download from {url}: {_first_line(error)}",
            expected=f"an answer in {_PROBE_SECONDS} s, all of it in {_DOWNLOAD_SECONDS} s",
            remedy="connect this machine to the Internet, or set http_proxy",
        ) from error
    return from_tfds()


def from_idx() -> Dataset:
    """Read the four IDX files in MLPIPELINE_IDX_DIR, or of Debian's installed package.

    Raises:
        SourceError: There is no such folder, or its files cannot be read.
    """
    folder = Path(os.environ.get("MLPIPELINE_IDX_DIR", debian.FOLDER))
    if not folder.is_dir():
        raise SourceError(
            f"there is no folder {folder}",
            expected="the four IDX files",
            remedy=f"apt-get install {debian.PACKAGE}, or name a folder with MLPIPELINE_IDX_DIR",
        )
    return _read_folder(folder, f"IDX files in {folder}")


def from_debian() -> Dataset:
    """Read the IDX files of Debian's package, fetched without installing it.

    Raises:
        SourceError: It cannot be fetched.
    """
    return _read_folder(debian.fetch(), f"Debian's package {debian.PACKAGE}")


# ImportError, ValueError: of a proxy of a kind that httpx does not know.
_NO_ANSWER = (httpx.HTTPError, OSError, ImportError, ValueError, multiprocessing.TimeoutError)

SOURCES: dict[str, Callable[[], Dataset]] = {
    "tfds": from_tfds,
    "download": from_download,
    "idx": from_idx,
    "debian": from_debian,
}


def _check_content(dataset: Dataset) -> None:
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        if (got := content_digest(split)) != _DIGESTS[name]:
            raise SourceError(
                f"{dataset.source}: the {name} split ({len(split.labels)} images) is not "
                f"Fashion-MNIST's: SHA-256 {got[:12]}…",
                expected=f"SHA-256 {_DIGESTS[name][:12]}… of the known images and labels",
                remedy="remove that data and fetch it again",
            )


def _tfds_root() -> Path:
    try:
        return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    except RuntimeError as error:
        raise SourceError(
            f"the folder of TensorFlow Datasets is nowhere: {error}",
            expected="a home, or the folder's name",
            remedy="set HOME or TFDS_DATA_DIR",
        ) from error


def _prepare(root: Path) -> None:
    """Runs in a process of its own, as nothing else can end a transfer that stalls."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        # The copy in Google's cloud storage is one more address that may not answer.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder = tfds.builder("fashion_mnist", data_dir=root)
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # not every kind can be sent to the parent
        raise OSError(_first_line(error)) from None


def _read_folder(folder: Path, source: str) -> Dataset:
    train, test = (
        Split(
            read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3),
            read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1).astype(np.int64),
        )
        for prefix in ("train", "t10k")
    )
    return _dataset(train, test, source)


def _dataset(train: Split, test: Split, source: str) -> Dataset:
    return Dataset("fashion_mnist", CLASSES, train, test, source)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
