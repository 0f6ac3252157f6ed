"""A folder of image files: its key, and what is said of each file."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.errors import EventError, ServingError
from mlpipeline.image_files import ImageKind
from mlpipeline.plan import batch as predictions
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel
from mlpipeline.steps import batch_prediction
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.prediction import PredictionSummary
from support.stored_documents import model_card

CLASSES = ("dark", "bright")


def brightness(images: Images) -> Probabilities:
    """A model that is easily checked."""
    bright = images.reshape(len(images), -1).mean(axis=1, dtype=np.float32) / 255
    return np.stack([1 - bright, bright], axis=1)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a model, and a folder of three images and a file that is none."""
    publish(tmp_path, "toy-1")
    folder = tmp_path / "images" / "monday"
    (folder / "more").mkdir(parents=True)
    for name, value in (("b.png", 200), ("a.png", 10), ("more/c.png", 90)):
        pixels = np.zeros((4, 4), np.uint8)
        pixels[1:3, 1:3] = value
        Image.fromarray(255 - pixels if name == "b.png" else pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").write_text("not looked at")

    def load(folder: Path) -> PublishedModel:
        version = str(artifacts.read_json(folder / "model.json")["version"])
        fashion = ImageKind((4, 4), 1, dark_ground=True)
        return PublishedModel(version, "0123", CLASSES, (4, 4), brightness, fashion)

    monkeypatch.setattr(batch_prediction, "load", load)
    monkeypatch.setattr(batch_prediction, "rows_in_a_batch", lambda shape: 2)  # several batches
    return tmp_path


def publish(workspace: Path, version: str) -> None:
    with artifacts.publish(Workspace(workspace).model("toy", version).path) as draft:
        model_card(name="toy", version=version).save(draft / "model.json")
    registry.promote(Workspace(workspace), "toy", version)


def lines(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return {line["file"]: line for line in csv.DictReader(stream)}


def test_every_file_has_its_line_and_what_is_no_image_says_so(workspace: Path) -> None:
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    output = workspace / batch.publishes
    summary = batch_prediction.predict(batch, output)
    assert summary == PredictionSummary(model="toy", version="toy-1", files=4, unreadable=1)
    artifacts.verify(output)
    assert PredictionSummary.load(output / "summary.json") == summary
    found = lines(output)
    assert list(found) == ["a.png", "b.png", "more/c.png", "notes.txt"]
    for name, value in (("a.png", 10), ("b.png", 200), ("more/c.png", 90)):
        with Image.open(workspace / "images" / "monday" / name) as image:
            pixels = np.asarray(image)
        assert found[name]["image"] == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert float(found[name]["bright"]) == pytest.approx(value / 255 / 4, abs=1e-6)
        assert found[name]["class"] == "dark"
        assert found[name]["error"] == ""
        assert ("inverted" in found[name]["note"]) == (name == "b.png")
    assert found["notes.txt"]["class"] == ""
    assert "no image" in found["notes.txt"]["error"]


def test_a_file_that_is_too_large_for_a_picture_is_not_read_into_memory(workspace: Path) -> None:
    with (workspace / "images" / "monday" / "film.mp4").open("wb") as file:
        file.truncate((512 << 20) + 1)
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    tracemalloc.start()
    summary = batch_prediction.predict(batch, workspace / batch.publishes)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert summary.unreadable == 2
    line = lines(workspace / batch.publishes)["film.mp4"]
    assert line["error"] == "it has more than 512 MB, which no picture has"
    assert most < 256 << 20


def test_what_is_to_be_known_of_an_image_is_noted_beside_its_class(workspace: Path) -> None:
    (workspace / "odd").mkdir()
    first, second = Image.new("L", (4, 4), 9), Image.new("L", (4, 4), 200)
    first.save(workspace / "odd" / "two.tiff", save_all=True, append_images=[second])
    batch = predictions.plan(Workspace(workspace), "toy", "odd")
    batch_prediction.predict(batch, workspace / batch.publishes)
    line = lines(workspace / batch.publishes)["two.tiff"]
    assert line["note"] == (
        "only the first of the file's 2 pictures is looked at; "
        "the image is blank: it is all of one colour"
    )
    assert line["class"] == "dark"


def test_for_a_model_that_no_file_fits_nothing_is_published(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    multispectral = PublishedModel("toy-1", "0123", CLASSES, (4, 4, 7), brightness)
    monkeypatch.setattr(batch_prediction, "load", lambda _: multispectral)
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    with pytest.raises(ServingError, match=r"images of shape \[4, 4, 7\]"):
        batch_prediction.predict(batch, workspace / batch.publishes)
    assert list((workspace / "predictions").iterdir()) == []


def test_a_class_may_be_called_as_another_column(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PublishedModel(
        "toy-1",
        "0123",
        ("error", 'a, "b"\nc'),
        (4, 4),
        brightness,
        ImageKind((4, 4), 1, dark_ground=True),
    )
    monkeypatch.setattr(batch_prediction, "load", lambda folder: model)
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    output = workspace / batch.publishes
    assert batch_prediction.predict(batch, output).unreadable == 1
    found = lines(output)
    assert [line["error"] != "" for line in found.values()] == [False, False, False, True]
    assert float(found["b.png"]["probability of error"]) == pytest.approx(1 - 200 / 255 / 4)
    assert float(found["b.png"]['a, "b"\nc']) == pytest.approx(200 / 255 / 4)


def test_a_folder_of_which_nothing_can_be_read_is_a_result_too(workspace: Path) -> None:
    (workspace / "texts").mkdir()
    (workspace / "texts" / "a.txt").write_text("no image")
    batch = predictions.plan(Workspace(workspace), "toy", "texts")
    assert batch_prediction.predict(batch, workspace / batch.publishes).unreadable == 1
    assert lines(workspace / batch.publishes)["a.txt"]["error"]


def test_the_key_follows_from_the_files_and_the_version(workspace: Path) -> None:
    def key() -> str:
        return predictions.plan(Workspace(workspace), "toy", "images/monday").key

    first = key()
    assert key() == first
    (workspace / "images" / "monday" / ".hidden").write_text("still not looked at")
    assert key() == first
    (workspace / "images" / "monday" / "notes.txt").write_text("other notes")
    other = key()
    (workspace / "images" / "monday" / "notes.txt").rename(workspace / "images" / "monday" / "n")
    renamed = key()
    publish(workspace, "toy-2")
    assert len({first, other, renamed, key()}) == 4


def test_a_file_that_changes_meanwhile_publishes_nothing(workspace: Path) -> None:
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    (workspace / "images" / "monday" / "b.png").unlink()
    with pytest.raises(ServingError, match=r"b\.png has changed"):
        batch_prediction.predict(batch, workspace / batch.publishes)
    assert list((workspace / "predictions").iterdir()) == []


def test_a_folder_outside_or_without_files_is_refused(workspace: Path) -> None:
    (workspace / "empty").mkdir()
    (workspace / "outside").symlink_to("/usr")
    (workspace / "inside").symlink_to(workspace / "images")
    for folder, reason in (
        ("empty", "there are no files"),
        ("none", "there are no files"),
        ("outside", "is not below"),
        ("inside/monday", "is not below"),
        ("../", "is not below"),
        (".", "is not below"),
        ("/usr", "is not below"),
    ):
        with pytest.raises(ServingError, match=reason):
            predictions.plan(Workspace(workspace), "toy", folder)


def test_a_link_among_the_files_is_named_and_not_followed(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    monday = workspace / "images" / "monday"
    (monday / "a.png").rename(secret)
    (monday / "a.png").symlink_to(secret)
    (monday / "folder").symlink_to(secret.parent)
    (monday / "lost").symlink_to("nowhere")
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    assert batch.links == ("a.png", "folder", "lost")
    assert list(batch.files) == ["b.png", "more/c.png", "notes.txt"]
    summary = batch_prediction.predict(batch, workspace / batch.publishes)
    assert (summary.files, summary.unreadable) == (6, 4)
    found = lines(workspace / batch.publishes)
    assert list(found) == ["a.png", "b.png", "folder", "lost", "more/c.png", "notes.txt"]
    for name in batch.links:
        assert found[name]["error"] == "it is a link, which is not followed"
        assert found[name]["class"] == found[name]["image"] == ""


def test_a_file_that_becomes_a_link_meanwhile_publishes_nothing(workspace: Path) -> None:
    batch = predictions.plan(Workspace(workspace), "toy", "images/monday")
    file = workspace / "images" / "monday" / "b.png"
    file.rename(workspace / "the-same.png")
    file.symlink_to(workspace / "the-same.png")
    with pytest.raises(ServingError, match=r"b\.png has changed"):
        batch_prediction.predict(batch, workspace / batch.publishes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "../models/toy"}, "model: String should match"),
        ({"model": "."}, "model: String should match"),
        ({"folder": None}, "folder: Input should be a valid string"),
        ({"folder": ".."}, "folder: Value error"),
        ({"folder": "images/../../x"}, "folder: Value error"),
        ({"id": "../monday"}, "id: String should match"),
        ({"colour": "red"}, "colour: Extra inputs"),
    ],
)
@pytest.mark.parametrize("is_encoded", [False, True])
def test_an_event_that_nobody_has_looked_at_is_checked_where_it_is_done(
    workspace: Path, changes: dict[str, Any], problem: str, is_encoded: bool
) -> None:
    event = {"kind": "predict", "id": "a", "model": "toy", "folder": "images/monday"} | changes
    text = json.dumps(event)
    if is_encoded:  # as Argo hands it on
        text = base64.b64encode(text.encode()).decode()
    command = ["step", "predict-batch", f"--event={text}", "--workspace", str(workspace)]
    result = CliRunner().invoke(app.app, command)
    assert isinstance(result.exception, EventError)
    assert problem in str(result.exception)
    assert not (workspace / "predictions").exists()
    assert not (workspace / "answers").exists()


def test_without_a_folder_the_answer_is_not_that_of_all(workspace: Path) -> None:
    event = json.dumps({"kind": "predict", "id": "a", "model": "toy"})
    command = ["step", "predict-batch", f"--event={event}", "--workspace", str(workspace)]
    with pytest.raises(EventError, match="folder: Field required"):
        CliRunner().invoke(app.app, command, catch_exceptions=False)


def test_without_a_model_nothing_is_predicted(workspace: Path) -> None:
    with pytest.raises(ServingError, match="there is no model `other`"):
        predictions.plan(Workspace(workspace), "other", "images/monday")


def test_the_command_predicts_once_and_makes_anew_what_is_damaged(workspace: Path) -> None:
    event = {"kind": "predict", "id": "a", "model": "toy", "folder": "images/monday"}
    command = ["step", "predict-batch", "--event", json.dumps(event)]
    command += ["--workspace", str(workspace), "--output", str(workspace / "key")]
    first = CliRunner().invoke(app.app, command, catch_exceptions=False)
    assert "4 files, of which 1 could not be read, by version toy-1" in first.output
    key = (workspace / "key").read_text()
    again = CliRunner().invoke(app.app, command, catch_exceptions=False)
    assert f"{key} is there already" in again.output
    assert (workspace / "key").read_text() == key
    result = workspace / "predictions" / key / "predictions.csv"
    said = result.read_text()
    result.write_text("damaged")
    CliRunner().invoke(app.app, command, catch_exceptions=False)
    assert result.read_text() == said
