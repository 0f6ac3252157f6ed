"""A finished run made up in a moment: artifacts as the steps publish them, and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, SplitName

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_ACCURACY = {"cnn": 0.9121, "batch_norm": 0.9268, "dropout": 0.9213}
_CHOSEN = "batch_norm"

_SERVED = {
    "engine": "litert",
    "variant": "int8-dynamic",
    "precision": "auto",
    "reason": "47% of float32's time, 99.88% the same classes",
    "variants": [
        {
            "name": "float32",
            "bytes": 504_300,
            "milliseconds": 0.076,
            "batch_milliseconds": 4.9,
            "validation_accuracy": 0.9293,
            "agreement": 1.0,
        },
        {
            "name": "int8-dynamic",
            "bytes": 135_568,
            "milliseconds": 0.036,
            "batch_milliseconds": 2.3,
            "validation_accuracy": 0.9293,
            "agreement": 0.9988,
        },
        {"name": "int8-full", "refused": "cannot be made: it has no operation Odd"},
    ],
}

GATE = {
    "version": "fashion-mnist-d2b7c6e5f4a39180",
    "current": "fashion-mnist-0a1b2c3d4e5f6071",
    "verdict": "passed",
    "reason": "no worse than the gate allows",
    "images": 5_000,
    "checks": [
        {"what": "accuracy", "unit": "share", "new": 0.9293, "current": 0.9286, "limit": 0.9186},
        {"what": "class Shirt", "unit": "share", "new": 0.8, "current": 0.82, "limit": 0.72},
        {"what": "time of an image", "unit": "ms", "new": 0.041, "current": 0.08},
        {"what": "size", "unit": "bytes", "new": 135_568, "current": 504_300},
    ],
}


CANARY = {
    "version": "fashion-mnist-d2b7c6e5f4a39180",
    "current": "fashion-mnist-0a1b2c3d4e5f6071",
    "verdict": "passed",
    "reason": "canary: 118 of 1,181 requests, 96.6% of 118 images the same",
    "trials": [
        {
            "mode": "canary",
            "share": 0.1,
            "seconds": 120.0,
            "replicas": ["replica-0", "replica-1"],
            "requests": 1_181,
            "tried": 118,
            "images": 118,
            "dropped": 3,
            "checks": [
                {"what": "failed requests", "unit": "share", "new": 0.0, "limit": 0.01},
                {"what": "same class", "unit": "share", "new": 0.966, "limit": 0.8},
            ],
        }
    ],
}


def try_on_requests(run: dict[str, Any], **others: Any) -> None:
    """Add the trial of the version to a run's record, between its gate and its service."""
    place = [task["name"] for task in run["tasks"]].index("serve")
    task = _task("canary", "canary", "", "succeeded", 125.0) | {"rollout": CANARY | others}
    run["tasks"] = [*run["tasks"][:place], task, *run["tasks"][place:]]


def fabricate(
    workspace: Path,
    *,
    images: NDArray[np.uint8] | None = None,
    labels: NDArray[np.int64] | None = None,
    epochs: int = 8,
    **card: Any,
) -> dict[str, Any]:
    """Publish the artifacts of a complete run and return its record.

    Args:
        workspace: Where to publish.
        images: The test images; noise unless given.
        labels: Their classes; likewise.
        epochs: How long each candidate was trained.
        card: What the data set's card says otherwise.
    """
    random = np.random.default_rng(3)
    if images is None or labels is None:
        images = random.integers(0, 255, (400, 28, 28), dtype=np.uint8)
        labels = random.integers(0, len(card.get("classes", CLASSES)), len(images))
    tasks = [
        _task("ingest", "ingest", "fashion-mnist-0f3a5d7791c2be64", "reused", 0.42),
        _task("train-cnn", "train", "cnn-b41d88e0f6a9c357", "reused", 0.11, "cnn"),
        _task("train-batch_norm", "train", "batch-norm-6c02fa9be1d47385", "succeeded", 96, _CHOSEN),
        _task("train-dropout", "train", "dropout-95e7d1c3b08f2a46", "succeeded", 88.4, "dropout"),
        _task("select", "select", "fashion-mnist-d2b7c6e5f4a39180", "succeeded", 9.7),
        _task("gate", "gate", "", "succeeded", 2.8) | {"gate": GATE},
        _task("serve", "serve", "", "succeeded", 13.2),
        _task("verify", "verify", "", "succeeded", 21.9),
    ]
    _publish_dataset(workspace / "datasets" / tasks[0]["key"], len(images), card)
    for task in tasks[1:4]:
        _publish_candidate(workspace / "candidates" / task["key"], task["candidate"], epochs)
    accuracy = _publish_selection(
        workspace / "selections" / tasks[4]["key"],
        images,
        labels,
        random,
        len(card.get("classes", CLASSES)),
    )
    return _record(tasks, len(images), accuracy, epochs)


def artifact_of(workspace: Path, run: dict[str, Any], name: str) -> Path:
    """Return the folder of a task's artifact, for a test to damage."""
    task = next(task for task in run["tasks"] if task["name"] == name)
    folders = {"ingest": "datasets", "train": "candidates", "select": "selections"}
    return workspace / folders[task["step"]] / str(task["key"])


def _task(
    name: str, step: str, key: str, state: str, seconds: float, candidate: str | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "step": step,
        "candidate": candidate,
        "key": key,
        "state": state,
        "seconds": seconds,
        "error": None,
    }


def _publish_dataset(target: Path, test_images: int, changes: dict[str, Any]) -> None:
    counts: dict[SplitName, int] = {"train": 55_000, "validation": 5_000, "test": test_images}
    classes = len(changes.get("classes", CLASSES))
    card = DatasetCard(
        name="fashion_mnist",
        source="Debian's package dataset-fashion-mnist",
        synthetic=False,
        digest="9f2c7be1a4d05836" * 4,
        seed=17,
        classes=CLASSES,
        shape=(28, 28),
        counts=counts,
        per_class={split: (images // classes,) * classes for split, images in counts.items()},
        shards=dict.fromkeys(counts, ()),
    )
    with artifacts.publish(target) as draft:
        card.model_copy(update=changes).publish(DatasetFolder(draft))


def _publish_candidate(target: Path, name: str, epochs: int) -> None:
    final = _ACCURACY[name]
    pace = {"cnn": 1.6, "batch_norm": 1.1, "dropout": 2.1}[name]
    history = []
    for epoch in range(1, epochs + 1):
        error = (1 - final) * (1 + 2.2 * np.exp(-epoch / pace) + 0.04 * np.sin(3 * epoch))
        training = error * (1.25 - 0.09 * epoch)
        history.append(
            {
                "epoch": epoch,
                "step": 430 * epoch,
                "loss": float(3.1 * training),
                "accuracy": float(1 - training),
                "validation_loss": float(2.8 * error),
                "validation_accuracy": float(1 - error),
                "learning_rate": 1e-3,
                "seconds": 11.6 * epoch,
                "cpu_seconds": 22.1 * epoch,
            }
        )
    metrics: dict[str, Any] = {
        "candidate": name,
        "status": "trained",
        "diverged_at_step": None,
        "validation_accuracy": history[-1]["validation_accuracy"],
        "validation_loss": history[-1]["validation_loss"],
        "parameters": {"cnn": 93_322, "batch_norm": 141_642, "dropout": 139_850}[name],
        "workers": 2,
        "communication": "auto",
        "chief_device": "2 processors",
        "sent_bytes_per_step": {"cnn": 373_288, "batch_norm": 566_568, "dropout": 559_400}[name],
        "seconds": history[-1]["seconds"],
        "cpu_seconds": history[-1]["cpu_seconds"],
        "recipe": {},
    }
    with artifacts.publish(target) as draft:
        artifacts.write_json(draft / "history.json", history)
        artifacts.write_json(draft / "metrics.json", metrics)


def _publish_selection(
    target: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    random: np.random.Generator,
    classes: int,
) -> float:
    probabilities = _probabilities(labels, random, classes)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1))][:40]
    hits = int((predicted == labels).sum())
    with artifacts.publish(target) as draft:
        np.save(draft / "test_probabilities.npy", probabilities)
        np.save(draft / "test_labels.npy", labels)
        np.savez(
            draft / "mistakes.npz",
            index=surest,
            images=images[surest],
            labels=labels[surest],
            predicted=predicted[surest],
            probability=probabilities[surest].max(axis=1),
        )
        artifacts.write_json(
            draft / "decision.json",
            {
                "chosen": _CHOSEN,
                "reason": "validation accuracy 92.93%, before dropout with 92.03%",
                "rule": "highest validation accuracy; of equal ones the lower validation loss",
                "ranking": [_CHOSEN, "dropout", "cnn"],
                "rejected": {},
                "name": "fashion-mnist",
                "version": "20261121135220-d2b7c6e5",
                "candidates": {},
                "dataset": "fashion-mnist-0f3a5d7791c2be64",
                "test": {"images": len(labels), "hits": hits, "accuracy": hits / len(labels)},
                "served": _SERVED,
            },
        )
    return hits / len(labels)


def _probabilities(
    labels: NDArray[np.int64], random: np.random.Generator, classes: int
) -> NDArray[np.float32]:
    """Answers of a fair model that takes upper garments and shoes for each other now and then.

    Of more than ten classes each ten are like these, and one attracts many others.
    """
    likeness = np.full((classes, classes), -4.0)
    for first in range(0, classes, 10):
        for group, close in (((0, 2, 3, 4, 6), 1.9), ((5, 7, 9), 0.9)):
            known = [first + one for one in group if first + one < classes]
            likeness[np.ix_(known, known)] = close
    np.fill_diagonal(likeness, 6.1)
    weak = np.arange(6, classes, 10)
    likeness[weak, weak] = 4.6
    if classes > 10:
        likeness[::3, 17] = 3.5
    scores = likeness[labels] + random.gumbel(scale=1.15, size=(len(labels), classes))
    exponents = np.exp(1.2 * (scores - scores.max(axis=1, keepdims=True)))
    shares: NDArray[np.float32] = exponents / exponents.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)


def _record(
    tasks: list[dict[str, Any]], images: int, accuracy: float, epochs: int
) -> dict[str, Any]:
    rates = {"V1 JSON": 4_310, "V2 JSON": 5_870, "V2 binary": 18_420, "V2 gRPC": 21_300}
    return {
        "run": "20261121-135220",
        "state": "succeeded",
        "started": "2026-11-21T13:52:20+00:00",
        "seconds": 229.7,
        "config_file": "configs/default.yaml",
        "config": {
            "name": "fashion-mnist",
            "seed": 17,
            "data": {"dataset": "fashion_mnist", "source": "auto", "validation": 5_000},
            "candidates": {
                name: {"model": name, "epochs": epochs, "options": {}} for name in _ACCURACY
            },
        },
        "machine": {
            "cpus": 2,
            "python": "3.11.2",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "packages": {"tensorflow": "2.21.0", "keras": "3.15.1", "kserve": "0.21.0"},
        },
        "tasks": tasks,
        "verification": {
            "replicas": ["replica-0", "replica-1"],
            "protocols": [
                {
                    "protocol": protocol,
                    "images": images,
                    "accuracy": accuracy,
                    "max_difference": 2.4e-7,
                    "seconds": images / rate,
                    "images_per_second": rate,
                }
                for protocol, rate in rates.items()
            ],
        },
        "error": None,
    }
