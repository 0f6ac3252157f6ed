"""An image file of one's own, as the model takes it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mlpipeline.cli.prediction import describe, read_image
from mlpipeline.errors import ServingError
from mlpipeline.image_files import ImageKind, kind
from mlpipeline.plan import config
from mlpipeline.plan.config import Candidate, Config
from mlpipeline.serving import model
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace

GREY, COLOUR = (28, 28), (28, 28, 3)


def _model(shape: tuple[int, ...], kind: ImageKind | None) -> PublishedModel:
    def predict(images: Images) -> Probabilities:
        return np.full((len(images), 2), 0.5, np.float32)

    return PublishedModel("7", "0123", ("a", "b"), shape, predict, kind)


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a file as a model takes it whose images have that shape."""
    return read_image(file, _model(shape, ImageKind.of_shape(shape))).pixels


def _shirt(size: int = 28, *, dark: int = 0, bright: int = 200) -> NDArray[np.uint8]:
    """A bright shape on a dark ground, other above than below."""
    image = np.full((size, size), dark, np.uint8)
    image[size // 4 : size // 2, size // 4 : -size // 4] = bright
    return image


def _save(folder: Path, pixels: NDArray[np.uint8], name: str = "image.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_an_image_of_the_models_own_kind_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = _read(_save(tmp_path, _shirt()), GREY)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, _shirt())


@pytest.mark.parametrize("shape", [GREY, (28, 28, 1), COLOUR, (20, 30), (20, 30, 3)])
@pytest.mark.parametrize("colours", [True, False], ids=["colour", "grey"])
def test_any_size_and_colour_becomes_the_models_shape(
    tmp_path: Path, shape: tuple[int, ...], colours: bool
) -> None:
    pixels = _shirt(100)
    if colours:
        pixels = np.stack([pixels, pixels // 2, pixels // 4], axis=-1)
    read = _read(_save(tmp_path, pixels), shape)
    assert read.shape == shape
    assert read[shape[0] // 3, shape[1] // 2].max() > 80  # the shape, in its place
    assert read[-1].max() < 20


def test_what_is_to_be_known_of_the_image_is_said_before_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with artifacts.publish(Workspace(tmp_path).model("shirts", "7").path):
        pass
    registry.promote(Workspace(tmp_path), "shirts", "7")
    fashion = replace(ImageKind.of_shape(GREY), dark_ground=True)
    published = PublishedModel(
        "7", "0123", ("shirt", "coat"), GREY, lambda _: np.array([[0.9, 0.1]], np.float32), fashion
    )
    monkeypatch.setattr(model, "load", lambda _, is_alone: published)
    config = Config(name="shirts", candidates={"cnn": Candidate(model="cnn")})

    def said(pixels: NDArray[np.uint8]) -> list[str]:
        return list(describe(config, Workspace(tmp_path), _save(tmp_path, pixels)))

    asked = "shirts, version 7"
    classes = [" 90.00%  shirt", " 10.00%  coat"]
    assert said(_shirt()) == [asked, *classes]
    first, note, *rest = said(255 - _shirt())
    assert "inverted" in note
    assert [first, *rest] == [asked, *classes]
    first, note, *rest = said(np.zeros(GREY, np.uint8))
    assert "blank" in note
    assert [first, *rest] == [asked, *classes]


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_a_model_of_other_channels_than_files_have_refuses_every_file(
    tmp_path: Path, channels: int
) -> None:
    with pytest.raises(ServingError, match=f"images of shape .28, 28, {channels}.") as raised:
        read_image(_save(tmp_path, _shirt()), _model((28, 28, channels), None))
    assert "1 or 3 channels" in raised.value.expected


def test_of_a_thousand_classes_the_most_probable_are_shown_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"species\n{number}\x1b[31m" for number in range(1_000))
    probabilities = (np.arange(1_000)[np.newaxis] / 499_500).astype(np.float32)
    known = PublishedModel(
        "toy-1", "0", names, GREY, lambda images: probabilities, ImageKind.of_shape(GREY)
    )
    monkeypatch.setattr(model, "load", lambda folder, is_alone: known)
    monkeypatch.setattr(registry, "current", lambda workspace, name: "toy-1")
    candidates = {"cnn": {"model": "cnn"}}
    settings = config.parse({"name": "toy", "candidates": candidates}, origin="")
    lines = list(describe(settings, Workspace(tmp_path), _save(tmp_path, _shirt())))
    assert lines.pop(0) == "toy, version toy-1"
    assert [line.split("species ")[1] for line in lines] == [f"{n} [31m" for n in (999, 998, 997)]
    assert all(line.isprintable() for line in lines)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [_cut, _altered, lambda _: b"", lambda _: b"GIF89a", lambda _: b"hello"],
    ids=["cut", "altered", "empty", "header-only", "text"],
)
def test_a_file_that_is_no_image_is_an_error_that_names_it(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    file = _save(tmp_path, np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ServingError, match=r"cannot read .*image\.png"):
        _read(file, GREY)


@pytest.mark.parametrize("name", ["none.png", "."])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServingError, match="cannot read"):
        _read(tmp_path / name, GREY)


def test_an_image_may_come_through_a_pipe(tmp_path: Path) -> None:
    Image.fromarray(_shirt()).save(tmp_path / "shirt.png")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cp", tmp_path / "shirt.png", tmp_path / "pipe"]):
        read = _read(tmp_path / "pipe", GREY)
    np.testing.assert_array_equal(read, _read(tmp_path / "shirt.png", GREY))


@pytest.mark.timeout(20)
def test_what_has_no_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "_LARGEST_FILE", 1 << 20)
    with pytest.raises(ServingError, match="cannot read /dev/zero: it has more than 1 MB"):
        _read(Path("/dev/zero"), GREY)
