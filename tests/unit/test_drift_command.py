"""`mlpipeline drift`: a log of requests against the validation split of the current version."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.errors import EventError, ServingError
from mlpipeline.events import feedback, retraining, schema
from mlpipeline.learning.data import Dataset, Split, datasets
from mlpipeline.learning.data.drift import MATTERS
from mlpipeline.plan import config
from mlpipeline.plan.config import Data
from mlpipeline.serving import model as models
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel
from mlpipeline.steps import ingestion
from mlpipeline.store import artifacts, registry, requests
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.look import Look
from mlpipeline.store.schemas.run import Machine, Run
from support.stored_documents import model_card

CLASSES, VERSION = ("dark", "bright"), "m-1"
NOW = time.time()


def _images(count: int, *, dark: int = 50) -> Images:
    """Every other image is bright, of a brightness of its own."""
    images = np.full((count, 4, 4), dark, np.uint8)
    images[1::2] = 200
    return images + np.arange(count, dtype=np.uint8)[:, None, None] % 20


def _predict(images: Images) -> Probabilities:
    is_bright = images.reshape(len(images), -1).mean(axis=1) > 120
    return np.stack([1.0 - is_bright, is_bright], axis=1).astype(np.float32)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A version that is current, and the data set it was made of."""
    train, test = (Split(_images(n), np.arange(n, dtype=np.int64) % 2) for n in (1_000, 20))
    made = Dataset("halves", CLASSES, train, test, "made up", synthetic=True)
    monkeypatch.setitem(datasets.BUILTIN, "synthetic", lambda: made)
    data = Data(dataset="synthetic", validation=400, shards=2)
    workspace = Workspace(tmp_path)
    ingestion.ingest(data, workspace.dataset("ingest-1").path)
    with artifacts.publish(workspace.model("m", VERSION).path) as draft:
        card = model_card(name="m", version=VERSION, classes=CLASSES, dataset_key="ingest-1")
        card.save(draft / "model.json")
    artifacts.write_text(workspace.current_version("m"), f"{VERSION}\n")
    published = PublishedModel(VERSION, "0", CLASSES, (4, 4), _predict)
    monkeypatch.setattr(models, "load", lambda folder: published)
    return workspace


def log(workspace: Workspace, images: Images, *, age: float = 0, version: str = VERSION) -> None:
    seconds = np.full(len(images), NOW - age)
    shard = requests.Shard(
        version, CLASSES, seconds, images, _predict(images), requests.keys(images)
    )
    requests.write(workspace.requests("m") / version, shard)


def drift(workspace: Workspace, *options: str) -> tuple[int, str]:
    arguments = ["drift", "m", "--workspace", str(workspace), *options]
    done = CliRunner().invoke(app.app, arguments, catch_exceptions=False)
    return done.exit_code, done.output


def row(said: str, figure: str) -> list[str]:
    """The words of a figure's row."""
    (found,) = (line for line in said.splitlines() if line.startswith(figure))
    return found.split()


def test_what_is_like_the_validation_split_is_no_drift(workspace: Workspace) -> None:
    log(workspace, _images(200))
    status, said = drift(workspace, "--fail")
    assert status == 0
    assert f"{VERSION}: 200 images of requests" in said
    assert "against the 400 of its validation split" in said
    assert said.splitlines()[-1].startswith("no drift")


def test_what_is_not_is_named(workspace: Workspace) -> None:
    log(workspace, 255 - _images(200, dark=20))
    status, said = drift(workspace)
    assert status == 0
    assert said.splitlines()[-1].startswith("drift: mean of pixels (")
    assert row(said, "mean of pixels")[-1] == "drift"
    assert drift(workspace, "--fail")[0] == 1


def test_the_newest_images_are_looked_at_and_as_old_as_one_says(workspace: Workspace) -> None:
    log(workspace, np.zeros((500, 4, 4), np.uint8), age=7_200)
    log(workspace, _images(200), age=60)
    log(workspace, _images(100))
    assert "no drift" in drift(workspace, "--images", "300")[1]
    assert "150 images" in drift(workspace, "--images", "150")[1]
    assert "no drift" in drift(workspace, "--hours", "1")[1]
    status, said = drift(workspace, "--fail")
    assert status == 1
    assert "800 images" in said


def test_what_was_found_is_written_down_for_the_page_of_all_models(workspace: Workspace) -> None:
    log(workspace, _images(100), age=7_200, version="m-0")
    log(workspace, _images(50), age=60, version="m-0")
    log(workspace, 255 - _images(200, dark=20), age=30)
    log(workspace, 255 - _images(200, dark=20))
    drift(workspace, "--images", "300", "--hours", "1")
    look = Look.load(workspace.look("m"))
    assert (look.model, look.version, look.classes) == ("m", VERSION, CLASSES)
    assert look.drifted == ["mean of pixels"]
    assert (look.asked.images, look.asked.predicted) == (300, (150, 150))
    assert (look.validation.images, sum(look.validation.predicted)) == (400, 400)
    asked, validation = (each.spreads["mean of pixels"] for each in (look.asked, look.validation))
    assert asked.three_quarters > validation.three_quarters
    assert validation.quarter < validation.half < validation.three_quarters
    assert {each.what for each in look.figures if each.limit == MATTERS} >= set(look.asked.spreads)
    assert [(each.version, each.images) for each in look.logged] == [(VERSION, 400), ("m-0", 50)]
    seconds = [datetime.fromisoformat(each).timestamp() for each in (look.first, look.last)]
    assert seconds == pytest.approx([NOW - 30, NOW], abs=1.1)
    assert datetime.fromisoformat(look.time).timestamp() == pytest.approx(time.time(), abs=60)
    drift(workspace)
    assert Look.load(workspace.look("m")).asked.images == 400, "the last look takes its place"


def test_a_damaged_log_of_an_earlier_version_does_not_keep_anybody_from_looking(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    log(workspace, _images(200))
    log(workspace, _images(50), version="m-0")
    (shard,) = (workspace.requests("m") / "m-0").iterdir()
    shard.write_bytes(b"damaged")
    assert drift(workspace)[0] == 0
    assert "what is older is not counted" in caplog.text
    assert [each.version for each in Look.load(workspace.look("m")).logged] == [VERSION]


def test_who_may_not_write_looks_all_the_same(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    log(workspace, _images(200))
    artifacts.write_text(workspace.look("m").parent, "no folder")
    status, said = drift(workspace)
    assert (status, said.splitlines()[-1][:8]) == (0, "no drift")
    assert "is not kept" in caplog.text


def correct(workspace: Workspace, images: Images, label: str) -> None:
    corrections = [{"image": key.decode(), "label": label} for key in requests.keys(images)]
    event = {"kind": "feedback", "id": "ann-1", "model": "m", "corrections": corrections}
    posted = schema.parse(json.dumps(event | {"time": "2026-11-24T09:00:00Z"}), origin="test")
    assert isinstance(posted, schema.FeedbackEvent)
    feedback.add(workspace, posted)


def test_answers_that_people_have_corrected_count(workspace: Workspace) -> None:
    images = _images(200)
    log(workspace, images)
    bright = np.unique(images[1::2], axis=0)
    correct(workspace, bright, "bright")  # a hundred answers, which were right
    status, said = drift(workspace, "--fail")
    assert status == 0
    assert row(said, "answers known to be wrong")[-2:] == ["0.000", "1.0000"]
    workspace.feedback.event("m", "ann-1").unlink()
    correct(workspace, bright, "dark")
    status, said = drift(workspace, "--fail")
    assert status == 1
    assert said.splitlines()[-1].startswith("drift: answers known to be wrong (")
    assert row(said, "answers known to be wrong")[-4:] == ["0.500", "<", "0.0001", "drift"]


def published_by_a_run(workspace: Workspace) -> dict[str, Any]:
    """Have a run have published the version, with what such a run adds to its configuration."""
    content = {
        "name": "m",
        "data": {"dataset": "synthetic", "feedback": "0" * 16, "files_digest": "1" * 16},
        "candidates": {"cnn": {"model": "cnn", "files_digest": "2" * 16}},
        "expectations": {"against": "ingest-1"},
    }
    Run(
        run="run-1",
        started="2026-11-24T09:00:00+00:00",
        config_file="m.yaml",
        config=config.parse(content, origin="t").model_dump(mode="json"),
        machine=Machine(),
        state="succeeded",
        seconds=1.0,
        tasks=(),
    ).save(workspace.run("run-1").record)
    workspace.current_version("m").unlink()
    registry.promote(workspace, "m", VERSION, run="run-1")
    data = {"dataset": "synthetic", "feedback": None, "files_digest": None}
    others = {"candidates": {"cnn": {"model": "cnn"}}, "expectations": {}}
    return content | {"data": data} | others


def inbox(workspace: Workspace) -> dict[str, Any]:
    """The events that wait, by the names of their files."""
    return {file.stem: schema.read_posted(file) for file in workspace.inbox.waiting()}


def test_where_there_is_drift_a_train_event_is_posted_once_in_a_period(
    workspace: Workspace,
) -> None:
    content = published_by_a_run(workspace)
    log(workspace, _images(200))
    assert "event" not in drift(workspace, "--train")[1]
    assert inbox(workspace) == {}
    log(workspace, 255 - _images(1_000, dark=20))
    _, said = drift(workspace, "--train")
    (name, event), *others = inbox(workspace).items()
    assert not others
    assert said.splitlines()[-1] == f"{name}: waits in the inbox"
    assert event.name == name
    assert event.configuration == config.parse(content, origin="t"), "of no other day"
    assert drift(workspace, "--train")[1].splitlines()[-1] == f"{name}: was posted before"
    artifacts.write_text(workspace.inbox.done(name), "")
    workspace.inbox.waits(name).unlink()
    assert drift(workspace, "--train")[1].splitlines()[-1] == f"{name}: was posted before"
    assert inbox(workspace) == {}


def test_a_version_of_nobodys_run_is_not_trained_anew(workspace: Workspace) -> None:
    log(workspace, 255 - _images(200, dark=20))
    with pytest.raises(EventError, match="which run has published the current version"):
        drift(workspace, "--train")
    assert inbox(workspace) == {}


def test_of_all_models_those_that_have_drifted_are_trained_anew(
    workspace: Workspace, tmp_path: Path
) -> None:
    published_by_a_run(workspace)
    with artifacts.publish(workspace.model("unasked", "u-1").path) as draft:
        model_card(name="unasked", version="u-1", dataset_key="ingest-1").save(draft / "model.json")
    artifacts.write_text(workspace.current_version("unasked"), "u-1\n")
    events = tmp_path / "events"
    command = ["step", "find-drift", "--workspace", str(workspace), "--output", str(events)]
    log(workspace, _images(200))
    CliRunner().invoke(app.app, command, catch_exceptions=False)
    assert json.loads(events.read_text()) == []
    log(workspace, 255 - _images(1_000, dark=20))
    done = CliRunner().invoke(app.app, command, catch_exceptions=False)
    assert f"{VERSION}: drift: mean of pixels" in done.output
    assert Look.load(workspace.look("m")).is_drift
    assert not workspace.look("unasked").exists()
    (text,) = json.loads(events.read_text())
    event = schema.parse_argument(text, origin="test")
    assert isinstance(event, schema.TrainEvent)
    assert event.configuration.name == "m"
    assert not inbox(workspace)


def test_an_id_names_the_model_and_the_period() -> None:
    at = datetime(2026, 11, 30, 18, tzinfo=UTC)
    assert retraining._id("m", at) == "drift-26113018-m"
    longest = "a" * 25
    assert retraining._id(longest, at) == f"drift-26113018-{longest}"
    two = {retraining._id("a" * 20 + "-" * 10 + end, at) for end in "bc"}
    assert len(two) == 2
    for made in two:
        assert re.fullmatch(r"drift-26113018-a{16}-[0-9a-f]{8}", made)


def test_of_a_few_images_nothing_is_said(workspace: Workspace) -> None:
    with pytest.raises(ServingError, match="0 images of requests"):
        drift(workspace)
    log(workspace, _images(19))
    log(workspace, _images(500), version="m-0")  # another version's are not its own
    with pytest.raises(ServingError, match="19 images of requests"):
        drift(workspace)
