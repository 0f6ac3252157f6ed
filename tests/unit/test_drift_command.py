"""`mlpipeline drift`: a log of requests against the validation split of the current version."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.errors import ServingError
from mlpipeline.learning.data import Dataset, Split, datasets
from mlpipeline.plan.config import Data
from mlpipeline.serving import model as models
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel
from mlpipeline.steps import ingestion
from mlpipeline.store import artifacts, requests
from mlpipeline.store.layout import Workspace
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
    (row,) = (line for line in said.splitlines() if line.startswith("mean of pixels"))
    assert row.split()[-1] == "drift"
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


def test_of_a_few_images_nothing_is_said(workspace: Workspace) -> None:
    with pytest.raises(ServingError, match="0 images of requests"):
        drift(workspace)
    log(workspace, _images(19))
    log(workspace, _images(500), version="m-0")  # another version's are not its own
    with pytest.raises(ServingError, match="19 images of requests"):
        drift(workspace)
