"""Data that takes no code: a folder of images through a whole run, and TensorFlow Datasets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.testing import DummyDataset, DummyMnist

import own_project.signs
from mlpipeline.errors import ConfigurationError, SourceError
from mlpipeline.learning.data import Dataset, datasets
from mlpipeline.plan.config import Data
from mlpipeline.store import artifacts
from support.pipelines import Pipeline, configuration, states

pytestmark = pytest.mark.timeout(900)


# --- a folder of images, from the files to what is served -----------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run on image files of several sizes and formats, some of which are damaged."""
    folder = tmp_path_factory.mktemp("files")
    write(folder / "my signs", own_project.signs.signs())
    content = configuration(
        {"cnn": {"model": "cnn", "options": {"widths": [8, 8]}, "epochs": 6}},
        data={
            "dataset": f"folder:{folder / 'my signs'}",
            "size": [16, 12],
            "fit": "pad",
            "unreadable": "skip",
            "validation": 100,
            "shards": 4,
        },
        recipe={"batch_size": 40, "learning_rate": 0.01, "precision": "float32"},
    )
    pipeline = Pipeline(folder, content)
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors + command.output
    return pipeline


def write(root: Path, dataset: Dataset) -> None:
    """Classes alone, without a test split: each image in another size and format."""
    for index, (image, label) in enumerate(
        zip(dataset.train.images, dataset.train.labels, strict=True)
    ):
        folder = root / dataset.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        if index % 3:
            picture = picture.resize((24, 32), Image.Resampling.NEAREST)
        picture.save(folder / f"{index}.{('png', 'webp', 'bmp')[index % 3]}")
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff no image")
    (root / dataset.classes[0] / "again.png").write_bytes((folder / "3.png").read_bytes())


def test_a_folder_of_images_is_trained_on_served_and_verified(finished: Pipeline) -> None:
    tasks = ("ingest", "train-cnn", "select", "gate", "serve", "verify")
    assert states(finished.last_run()) == dict.fromkeys(tasks, "succeeded")
    card = artifacts.read_json(finished.published("ingest") / "dataset.json")
    assert card["name"] == "my signs"
    assert card["shape"] == [16, 12, 3]
    assert sum(card["counts"].values()) == 1_201
    assert card["unreadable"]["count"] == 1
    assert card["unreadable"]["first"][0].startswith("rising/damaged.jpg: it is no image")
    assert card["duplicates"]["in_two_classes"] == 1
    assert card["preparation"]["fit"] == "pad"
    assert finished.decision()["test"]["accuracy"] > 0.8


def test_a_file_of_that_folder_is_predicted_as_it_was_trained_on(finished: Pipeline) -> None:
    files = sorted((finished.folder / "my signs" / "vertical").glob("*.webp"))[:3]
    said = [finished.call("predict", str(file)).output for file in files]
    assert sum("vertical" in text.splitlines()[-3] for text in said) >= 2, said


def test_a_run_again_reuses_it_and_says_what_was_compared(
    finished: Pipeline, tmp_path: Path
) -> None:
    command = finished.call("run")
    assert command.process.returncode == 0, command.errors
    assert states(finished.last_run())["ingest"] == "reused"
    assert "1,202 files" in " ".join(command.output.split())


# --- TensorFlow Datasets --------------------------------------------------------------------------


class Photographs(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder,  # type: ignore[misc]
    skip_registration=True,
):
    """Colour images of several sizes, without a test split, with a box that nobody needs."""

    VERSION = tfds.core.Version("2.1.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="small", description="A few."),
        tfds.core.BuilderConfig(name="validated", description="With a validation split."),
    )

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "bbox": tfds.features.BBoxFeature(),
                    "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
                }
            ),
        )

    def _split_generators(self, _: Any) -> Any:
        splits = {"train": self._generate_examples(40)}
        if self.builder_config.name == "validated":
            splits["validation"] = self._generate_examples(8)
        return splits

    def _generate_examples(self, count: int) -> Iterator[Any]:
        for index in range(count):
            shape = (20 + index % 3, 30, 3)
            photo = np.random.default_rng(index + count).integers(0, 256, shape, np.uint8)
            box = tfds.features.BBox(0.1, 0.1, 0.9, 0.9)
            yield index, {"photo": photo, "bbox": box, "kind": index % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which TFDS has prepared some sets."""
    folder = tmp_path_factory.mktemp("tfds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for builder in (
            DummyMnist(data_dir=folder),
            DummyDataset(data_dir=folder),
            Photographs(data_dir=folder, config="small"),
            Photographs(data_dir=folder, config="validated"),
        ):
            builder.download_and_prepare()
    return folder


@pytest.fixture
def tfds_folder(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


def load(reference: str, **data: Any) -> Dataset:
    return datasets.load(reference, data=Data(dataset=reference, **data))


@pytest.mark.usefixtures("tfds_folder")
def test_a_set_of_tfds_is_read() -> None:
    dataset = load("tfds:dummy_mnist")
    assert dataset.name == "dummy_mnist"
    assert dataset.classes == tuple("0123456789")
    assert dataset.train.images.shape == (20, 28, 28)
    assert np.bincount(dataset.test.labels).tolist() == [2] * 10
    assert "3.0.1" in dataset.source
    assert len(load("tfds:dummy_mnist:3.0.1").train.labels) == 20


@pytest.mark.usefixtures("tfds_folder")
@pytest.mark.parametrize(
    ("reference", "train", "test", "said"),
    [
        ("tfds:photographs/small", 36, 4, "cut as `test`"),
        ("tfds:photographs/validated:2.1.0", 40, 8, "taken as `test`"),
    ],
)
def test_a_configuration_without_a_test_split_gets_one(
    reference: str, train: int, test: int, said: str
) -> None:
    with pytest.raises(ConfigurationError, match="3 sizes"):
        load(reference)
    dataset = load(reference, size=(20, 30))
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.images.shape == (train, 20, 30, 3)
    assert len(dataset.test.labels) == test
    assert said in dataset.source


@pytest.mark.usefixtures("tfds_folder")
@pytest.mark.parametrize(
    ("reference", "kind", "reason"),
    [
        ("tfds:", ConfigurationError, "TFDS has no data set ``"),
        ("tfds:no_such_set", ConfigurationError, "no_such_set"),
        ("tfds:huggingface:somebody/code", ConfigurationError, "no name of its catalogue"),
        ("tfds:../dummy_mnist", ConfigurationError, "no name of its catalogue"),
        ("tfds:dummy_mnist:9.9.9", ConfigurationError, "dummy_mnist:9.9.9"),
        ("tfds:photographs/no_such", ConfigurationError, "photographs/no_such"),
        ("tfds:dummy_dataset", ConfigurationError, "no set to classify images with"),
    ],
)
def test_what_tfds_does_not_have_is_named(
    reference: str, kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        load(reference)


@pytest.mark.usefixtures("tfds_folder")
def test_a_damaged_set_of_tfds_is_named(prepared: Path) -> None:
    (file,) = (prepared / "dummy_mnist" / "3.0.1").glob("*train*")
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-20])
        with pytest.raises(SourceError, match="TFDS cannot read"):
            load("tfds:dummy_mnist")
    finally:
        file.write_bytes(whole)


def test_a_set_that_cannot_be_downloaded_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("mlpipeline.learning.data.sources.tfds._PREPARE_SECONDS", 2)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # refuses connections
    with pytest.raises(SourceError, match="TFDS cannot prepare cifar10: ") as raised:
        load("tfds:cifar10")
    assert "tfds build cifar10" in raised.value.remedy
