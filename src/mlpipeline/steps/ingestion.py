"""Ingestion: gets a data set, cuts the validation split, and publishes sharded TFRecord files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.data import corrections, datasets, duplicates, profile
from mlpipeline.learning.data.images import Dataset, Split, canonical_order, content_digest
from mlpipeline.learning.data.preparation import preparation_of, prepared
from mlpipeline.learning.data.tfrecords import write_shards
from mlpipeline.plan.config import Data
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, FeedbackFolder
from mlpipeline.store.schemas.dataset import (
    AppliedFeedback,
    DatasetCard,
    Duplicates,
    Shard,
    SplitName,
)
from mlpipeline.store.schemas.feedback import Snapshot

_log = logging.getLogger(__name__)

_VALIDATION = 5_000  # images, unless the configuration says how many
_EVALUATION_SHARDS = 4  # of validation and of test: several workers or threads can share them


class Part(NamedTuple):
    """What becomes one published split.

    Attributes:
        split: The images and labels to take from.
        rows: The rows to take, in the order to write them in: int64 `[N]`.
        shards: How many files to write at most.
    """

    split: Split
    rows: NDArray[np.int64]
    shards: int


Parts = dict[SplitName, Part]


def ingest(
    data: Data,
    output: Path,
    *,
    feedback: FeedbackFolder | None = None,
    confirm: Callable[[], None] = lambda: None,
    check: Callable[[Dataset], None] = lambda _: None,
) -> None:
    """Publish the data set that the configuration describes at `output`.

    Args:
        data: The data section of the configuration.
        output: The folder to be published.
        feedback: The corrected labels; `data.feedback` names the snapshot of them to use.
        confirm: Called once all was read, before anything is published.
        check: Called with the data set before anything is written.

    Raises:
        ConfigurationError: There is no such data set, or too few images for the splits or shards,
            or its images cannot be prepared as configured.
        SourceError: The data set cannot be had, or is not what it should be.
    """
    progress.report(0, 1, doing=f"reading {data.dataset}")
    dataset = datasets.load(data.dataset, data.source, data, output.parent)
    dataset = prepared(dataset, data, scratch=output.parent)
    check(dataset)
    groups, looks = profile.read(dataset)
    order = canonical_order(dataset.train)
    preparation = preparation_of(dataset.train.images, order, fit=data.fit)
    train, validation = cut_validation(dataset.train, order, count=data.validation, seed=data.seed)
    if data.shards > len(train):
        raise ConfigurationError(
            f"data.shards is {data.shards} for {len(train)} training images",
            expected="at least one image for each shard",
            remedy="lower data.shards or data.validation",
        )
    # After the cut, so that corrected labels leave every image in its split.
    applied: AppliedFeedback | None = None
    if data.feedback is not None:
        assert feedback is not None, "data.feedback needs the folder of snapshots"
        snapshot = Snapshot.find(feedback, data.feedback)
        dataset, applied = corrections.corrected(
            dataset, snapshot.corrections, snapshot=data.feedback
        )
    parts: Parts = {
        "train": Part(dataset.train, train, data.shards),
        "validation": Part(dataset.train, validation, _EVALUATION_SHARDS),
        "test": Part(dataset.test, canonical_order(dataset.test), _EVALUATION_SHARDS),
    }
    # As it is published: what was corrected contradicts nothing any more.
    equal = duplicates.find(dataset, groups)
    _tell(dataset, equal)
    with artifacts.publish(output) as draft:
        shards = _write(parts, draft, seed=data.seed)
        card = _card(dataset, parts, shards, seed=data.seed)
        known = {
            "feedback": applied,
            "preparation": preparation,
            "unreadable": dataset.unreadable,
            "duplicates": equal,
            "profile": profile.measure(groups, looks, *_all_rows(dataset, parts)),
        }
        card.model_copy(update=known).publish(DatasetFolder(draft))
        confirm()


def _all_rows(
    dataset: Dataset, parts: Parts
) -> tuple[NDArray[np.int64], dict[SplitName, NDArray[np.int64]]]:
    """Return the labels of all images, those of `train` first, and the rows of each split."""
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    of_test = parts["test"].rows + len(dataset.train.labels)
    return labels, {name: part.rows for name, part in parts.items()} | {"test": of_test}


def _tell(dataset: Dataset, equal: Duplicates | None) -> None:
    if left_out := dataset.unreadable:
        _log.warning("%d images cannot be read and are left out:", left_out.count)
        for name in left_out.first:
            _log.warning("  %s", name)
    if equal:
        _log.warning("equal images: %s", equal.summary)
        for names in (*equal.first_in_two_classes, *equal.first_in_train_and_test):
            _log.warning("  %s", names)


def cut_validation(
    split: Split, order: NDArray[np.int64], *, count: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose rows for validation, from each class in proportion to its size, and never all of one.

    Args:
        split: The images and their labels.
        order: All rows in an order that does not depend on where they came from: int64 `[N]`.
        count: How many rows to choose, exactly; None: a tenth, as far as each class keeps one.
        seed: Random seed of the choice within a class.

    Returns:
        The rows that remain, and the rows for validation: int64 `[N - M]` and `[M]`.

    Raises:
        ConfigurationError: A class would have nothing left to train on.
    """
    labels = split.labels[order]
    sizes = np.bincount(labels)
    most = int(np.maximum(sizes - 1, 0).sum())
    if count is None and most:
        count = min(_VALIDATION, max(1, len(order) // 10), most)
    if count is None or count > most:
        raise ConfigurationError(
            f"data.validation is {count or 'not said'} for {len(order)} training images of "
            f"{np.count_nonzero(sizes)} classes",
            expected=f"at most {most}, which leaves one of each class to train on",
            remedy="lower data.validation, or bring more images of each class",
        )
    quotas = _quotas(sizes, count)
    random = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            random.permutation(np.flatnonzero(labels == label))[:quota]
            for label, quota in enumerate(quotas)
        ]
    )
    return np.delete(order, chosen), order[np.sort(chosen)]


def _quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return how many of each class to choose: in proportion, `count` in all, one stays of each."""
    # The largest remainders: whole numbers in proportion that sum up exactly.
    quotas, remainders = np.divmod(sizes * count, sizes.sum())
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    limits = np.maximum(sizes - 1, 0)
    surplus = int((quotas - limits).clip(0).sum())
    quotas = np.minimum(quotas, limits)
    for _ in range(surplus):  # from the class that has most left
        quotas[np.argmax(limits - quotas)] += 1
    return quotas


def _write(parts: Parts, folder: Path, *, seed: int) -> dict[SplitName, tuple[Shard, ...]]:
    shards: dict[SplitName, tuple[Shard, ...]] = {}
    done, total = 0, sum(len(part.rows) for part in parts.values())
    for name, (split, rows, limit) in parts.items():
        shards[name] = ()
        count = min(limit, len(rows))
        for shard in write_shards(split, rows, folder, name, shards=count, seed=seed):
            shards[name] += (shard,)
            done += shard.count
            progress.report(done, total, doing=f"writing {name}")
    return shards


def _card(
    dataset: Dataset, parts: Parts, shards: dict[SplitName, tuple[Shard, ...]], *, seed: int
) -> DatasetCard:
    def per_class(split: Split, rows: NDArray[np.int64]) -> tuple[int, ...]:
        return tuple(np.bincount(split.labels[rows], minlength=len(dataset.classes)).tolist())

    contents = [content_digest(dataset.train), content_digest(dataset.test)]
    return DatasetCard(
        name=dataset.name,
        source=dataset.source,
        synthetic=dataset.synthetic,
        digest=hashlib.sha256(json.dumps([dataset.classes, *contents]).encode()).hexdigest(),
        seed=seed,
        classes=dataset.classes,
        shape=dataset.train.images.shape[1:],
        counts={name: len(part.rows) for name, part in parts.items()},
        per_class={name: per_class(part.split, part.rows) for name, part in parts.items()},
        shards=shards,
    )
