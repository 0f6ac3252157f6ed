"""The model card: what it says of data, figures, limits and lineage, and that two say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlpipeline.plan import modules
from mlpipeline.plan.config import Card
from mlpipeline.plan.pipeline import INGEST, SELECT, TRAIN
from mlpipeline.steps import model_card
from mlpipeline.store.layout import ModelFolder
from mlpipeline.store.schemas.dataset import (
    AppliedFeedback,
    DatasetCard,
    Duplicates,
    SplitName,
    Unreadable,
)
from support import stored_documents as documents

CLASSES = ("dark", "bright", "a | b")
COUNTS: dict[SplitName, int] = {"train": 50_000, "validation": 5_000, "test": 8}
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
#                  one dark image is taken for `a | b`, two for bright; one bright one for dark
PREDICTED = np.array([0, 2, 1, 1, 1, 1, 1, 0])


def _write(folder: Any, said: Card | None = None, source: str = "folder:x", **data: Any) -> str:
    content: dict[str, Any] = {
        "name": "shirts_2026",
        "source": "/home/ann/photos on the machine that ingested them",
        "synthetic": False,
        "digest": "9f2c7be1a4d05836" * 4,
        "seed": 17,
        "classes": CLASSES,
        "shape": (28, 20),
        "counts": COUNTS,
        "per_class": dict.fromkeys(COUNTS, (0, 0, 0)),
        "shards": dict.fromkeys(COUNTS, ()),
    }
    subject = model_card.Subject(
        documents.model_card(classes=CLASSES, validation_accuracy=0.9123, test_accuracy=0.5),
        DatasetCard(**content | data),
        source,
        np.eye(3, dtype=np.float32)[PREDICTED],
        LABELS,
    )
    model = ModelFolder(folder)
    model_card.write(model, subject, said or Card())
    return model.page.read_text(encoding="utf-8")


def test_it_says_all_that_people_should_know(tmp_path: Any) -> None:
    said = Card(
        licence="CC BY 4.0, by Ann",
        intended_use="Sorting returned goods.\n\nNot for people.",
        limits="Photos by *flash* were never tried.",
    )
    assert (
        _write(tmp_path, said)
        == f"""# shirts

Version `shirts-1`: says of an image, 20 pixels wide, 28 high and grey, which of 3 classes it is.

## Intended use

Sorting returned goods.

Not for people.

## Data

- Data set: shirts\\_2026
- Licence: CC BY 4.0, by Ann
- Images: 50,000 train, 5,000 validation, 8 test
- SHA-256 of all images and labels: `{"9f2c7be1a4d05836" * 4}`

## Figures

| split | images | accuracy |
| --- | --- | --- |
| validation | 5,000 | 91.23% |
| test | 8 | 50.00% |

By class, on the test split. Found: the share of its images that are said to be of it. Right: the
share of what is said to be of it that is.

| class | images | found | right |
| --- | --- | --- | --- |
| dark | 4 | 25.00% | 50.00% |
| bright | 4 | 75.00% | 60.00% |
| a \\| b | 0 | – | 0.00% |

## Limits

- It says one of its classes of whatever it is shown, also of what is none of them. Its \
probabilities are its own estimate.
- The candidate was chosen by the accuracy on the validation split, which is a little too good \
for that; the test split was looked at once.
- The class that it finds least is dark (25.00%), most often taken for bright.

Photos by *flash* were never tried.

## Lineage

- Candidate: cnn, `candidates/cnn-1`
- Data: `datasets/ingest-1`
- Selection, with all candidates and why it is this one: `selections/shirts-1`
- Served by: tensorflow, float32

Which runs made it or used it, when, and by which code, is no part of the version, because a later
run that comes to the same finds it here: `mlpipeline lineage shirts-1` says it.
"""
    )


def test_two_of_the_same_say_the_same_wherever_they_were_made(tmp_path: Any) -> None:
    first = _write(tmp_path / "a")
    assert _write(tmp_path / "b", source="folder:x") == first
    assert "/home/ann" not in first, "another machine may have the same images elsewhere"


@pytest.mark.parametrize(
    ("source", "said", "expected"),
    [
        ("fashion_mnist", "", "MIT, © 2017 Zalando SE"),
        ("fashion_mnist", "ours", "ours"),
        ("synthetic", "", "none is needed"),
        ("folder:fashion_mnist", "", "Not said: `card.licence` of the configuration is empty."),
    ],
)
def test_the_licence_is_the_one_that_is_known_or_what_is_said(
    tmp_path: Any, source: str, said: str, expected: str
) -> None:
    assert f"- Licence: {expected}" in _write(tmp_path, Card(licence=said), source)


def test_what_is_wrong_with_the_data_is_said(tmp_path: Any) -> None:
    card = _write(
        tmp_path,
        synthetic=True,
        feedback=AppliedFeedback(snapshot="0" * 16, corrections=1_200),
        unreadable=Unreadable(count=7),
        duplicates=Duplicates(in_two_classes=3, in_train_and_test=11),
    )
    assert "**Made-up data: its figures say nothing of real images.**" in card
    assert "- Labels that were corrected: 1,200" in card
    assert "- Left out, because they could not be read: 7" in card
    assert (
        "- Of its data, 3 images are in more than one class, 11 are in train and in test." in card
    )
    assert "## Intended use\n\nNot said: `card.intended_use` of the configuration" in card


def test_a_change_of_its_text_is_no_reason_to_train_anything() -> None:
    """It is in no code of a step but the one that writes it, whose artifact it is part of."""
    module = model_card.__name__
    assert module in modules.reached(SELECT.module).modules
    for step in (INGEST, TRAIN):
        assert module not in modules.reached(step.module).modules
