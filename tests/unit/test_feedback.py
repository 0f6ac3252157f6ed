"""Corrected labels: kept once, joined with the next run's data, and never with the test split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpipeline.errors import DamagedArtifactError, EventError, MissingArtifactError
from mlpipeline.events import feedback, schema
from mlpipeline.learning.data import corrections, datasets
from mlpipeline.learning.data.images import Dataset, Split
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Config, Data
from mlpipeline.steps.ingestion import ingest
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Workspace
from mlpipeline.store.schemas.dataset import SPLITS, DatasetCard
from mlpipeline.store.schemas.feedback import Correction, Snapshot
from support.whole_split import read_split

SETTINGS = Data(dataset="synthetic", validation=205, shards=4)
CONTENT = {"name": "toy", "data": SETTINGS.model_dump(), "candidates": {"cnn": {"model": "cnn"}}}


def settings(**changes: Any) -> Config:
    return config.parse(CONTENT | changes, origin="test")


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def an_event(
    identity: str = "one",
    model: str = "toy",
    time: str = "2026-11-24T09:00:00+00:00",
    labels: dict[str, str] | None = None,
) -> schema.FeedbackEvent:
    event = {
        "kind": "feedback",
        "id": identity,
        "model": model,
        "time": time,
        "corrections": [
            {"image": image, "label": label}
            for image, label in (labels or {"0" * 64: "pattern 1"}).items()
        ],
    }
    parsed = schema.parse(json.dumps(event), origin="test")
    assert isinstance(parsed, schema.FeedbackEvent)
    return parsed


# --- kept --------------------------------------------------------------------------------------


def test_an_event_is_kept_once(tmp_path: Path) -> None:
    assert feedback.add(Workspace(tmp_path), an_event())
    assert not feedback.add(Workspace(tmp_path), an_event(labels={"1" * 64: "pattern 2"}))
    (kept,) = (file for file in tmp_path.rglob("*") if file.is_file())
    assert schema.read(kept) == an_event()


def test_without_feedback_nothing_changes(tmp_path: Path) -> None:
    feedback.add(Workspace(tmp_path), an_event(model="another"))
    before = settings()
    assert feedback.joined(before, Workspace(tmp_path)) == before
    assert pipeline.plan(before)["ingest"].key == pipeline.plan(settings())["ingest"].key


def test_a_run_takes_all_until_then_under_a_key_of_its_own(tmp_path: Path) -> None:
    feedback.add(Workspace(tmp_path), an_event())
    one = feedback.joined(settings(), Workspace(tmp_path))
    assert feedback.joined(settings(), Workspace(tmp_path)) == one
    feedback.add(Workspace(tmp_path), an_event("two"))
    two = feedback.joined(settings(), Workspace(tmp_path))
    keys = {pipeline.plan(each)["ingest"].key for each in (settings(), one, two)}
    assert len(keys) == 3
    assert one.data.feedback is not None
    found = Snapshot.find(Workspace(tmp_path).feedback, one.data.feedback).corrections
    assert [correction.event for correction in found] == ["one"]


def test_a_snapshot_that_is_named_is_the_one_that_is_taken(tmp_path: Path) -> None:
    feedback.add(Workspace(tmp_path), an_event())
    one = feedback.joined(settings(), Workspace(tmp_path))
    feedback.add(Workspace(tmp_path), an_event("two"))
    assert feedback.joined(one, Workspace(tmp_path)) == one


def test_another_state_of_the_data_is_another_data_set() -> None:
    data = CONTENT["data"]
    assert isinstance(data, dict)
    revisions = [settings(data=data | {"revision": name}) for name in (None, "week-6", "week-7")]
    keys = [pipeline.plan(each)["ingest"].key for each in revisions]
    assert len(set(keys)) == 3
    assert keys[0] == pipeline.plan(settings())["ingest"].key


def test_the_configuration_of_the_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    feedback.add(Workspace(tmp_path), an_event())
    joined = feedback.joined(settings(), Workspace(tmp_path))
    config.write(joined, tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == joined


def test_times_of_other_zones_are_compared_as_times(tmp_path: Path) -> None:
    feedback.add(Workspace(tmp_path), an_event("later", time="2026-11-24T08:30:00-01:00"))
    feedback.add(Workspace(tmp_path), an_event("earlier", time="2026-11-24T09:00:00Z"))
    joined = feedback.joined(settings(), Workspace(tmp_path))
    assert joined.data.feedback is not None
    found = Snapshot.find(Workspace(tmp_path).feedback, joined.data.feedback).corrections
    assert [correction.event for correction in found] == ["earlier", "later"]


def test_what_is_damaged_is_an_error_that_names_it(tmp_path: Path) -> None:
    feedback.add(Workspace(tmp_path), an_event())
    joined = feedback.joined(settings(), Workspace(tmp_path))
    assert joined.data.feedback is not None
    (snapshot,) = (tmp_path / "feedback" / "snapshots").iterdir()
    artifacts.write_json(snapshot, [])
    with pytest.raises(DamagedArtifactError, match=snapshot.name):
        Snapshot.find(Workspace(tmp_path).feedback, joined.data.feedback)
    snapshot.unlink()
    with pytest.raises(MissingArtifactError, match=snapshot.name):
        Snapshot.find(Workspace(tmp_path).feedback, joined.data.feedback)
    (kept,) = tmp_path.glob("feedback/events/toy/*.json")
    kept.write_text("{")
    with pytest.raises(EventError, match=r"one\.json is not JSON"):
        feedback.joined(settings(), Workspace(tmp_path))


# --- joined ------------------------------------------------------------------------------------


@pytest.fixture
def dataset() -> Dataset:
    """Four images for training, of which two are the same, and one of them for the test, too."""
    images = np.stack([np.full((2, 2), value, np.uint8) for value in (1, 2, 2, 3)])
    train = Split(images, np.array([0, 0, 0, 1]))
    return Dataset("tiny", ("a", "b"), train, Split(images[:1], np.array([0])), "here")


def correction(image: np.ndarray, label: str, time: str = "1", event: str = "e") -> Correction:
    return Correction(time, event, digest(image), label)


def test_every_copy_of_an_image_gets_the_label_and_nothing_else_changes(dataset: Dataset) -> None:
    images = dataset.train.images
    joined, card = corrections.corrected(dataset, [correction(images[1], "b")], snapshot="s")
    assert joined.train.labels.tolist() == [0, 1, 1, 1]
    assert dataset.train.labels.tolist() == [0, 0, 0, 1]
    assert (card.snapshot, card.corrections, card.overruled, card.ignored) == ("s", 2, 0, ())


def test_the_test_split_is_never_changed(dataset: Dataset) -> None:
    joined, _ = corrections.corrected(
        dataset, [correction(dataset.test.images[0], "b")], snapshot="s"
    )
    assert joined.test is dataset.test
    assert joined.train.labels.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_two_labels_for_an_image_the_later_one_holds(
    dataset: Dataset, order: Sequence[int]
) -> None:
    image = dataset.train.images[0]
    made = [
        correction(image, "a", "2026-01-01", "early"),
        correction(image, "b", "2026-01-03", "late"),
        correction(image, "no class", "2026-01-04", "wrong"),
    ]
    joined, card = corrections.corrected(dataset, [made[n] for n in order], snapshot="s")
    assert joined.train.labels[0] == 1
    assert (card.corrections, card.overruled) == (1, 1)
    assert card.ignored == ("wrong: no class is called 'no class'",)


def test_an_image_that_is_not_there_is_named_and_stops_nothing(dataset: Dataset) -> None:
    made = [Correction("1", "lost", "f" * 64, "b"), correction(dataset.train.images[3], "a")]
    joined, card = corrections.corrected(dataset, made, snapshot="s")
    assert joined.train.labels.tolist() == [0, 0, 0, 0]
    assert card.ignored == ("lost: no training image is ffffffffffff…",)


def test_the_published_data_set_has_the_labels_and_says_where_from(tmp_path: Path) -> None:
    given = datasets.synthetic()
    wrong = {digest(image): "pattern 9" for image in given.train.images[:40]}
    wrong[digest(given.test.images[0])] = "pattern 9"
    feedback.add(Workspace(tmp_path), an_event(labels=wrong))
    joined = feedback.joined(settings(), Workspace(tmp_path)).data
    plain, other = tmp_path / "plain", tmp_path / "other"
    ingest(SETTINGS, plain)
    ingest(joined, other, feedback=Workspace(tmp_path).feedback)

    changed = 0
    for name in SPLITS:
        images, labels = read_split(plain, name)
        images_then, labels_then = read_split(other, name)
        np.testing.assert_array_equal(images, images_then)  # every image stays in its split
        for image, label, now in zip(images, labels, labels_then, strict=True):
            assert now == (9 if digest(image) in wrong and name != "test" else label)
        changed += int((labels != labels_then).sum())

    card = DatasetCard.load(DatasetFolder(other).card)
    assert card.feedback is not None
    assert card.feedback.snapshot == joined.feedback
    assert card.feedback.corrections == changed == 36  # four of the forty were right
    assert card.feedback.ignored == (
        f"one: no training image is {digest(given.test.images[0])[:12]}…",
    )
    assert sum(card.per_class["train"]) == 3_795
    assert card.digest != DatasetCard.load(DatasetFolder(plain).card).digest
    assert (
        f"36 labels of `train` and `validation` were corrected, by snapshot\n  `{joined.feedback}`"
        in (other / "README.md").read_text()
    )
    assert DatasetCard.load(DatasetFolder(plain).card).feedback is None
    assert "Feedback" not in (plain / "README.md").read_text()
