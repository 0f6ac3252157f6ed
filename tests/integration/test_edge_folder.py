"""An edge folder, where nothing is installed but LiteRT and Pillow: it says what `predict` says."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from mlpipeline.cli import prediction
from mlpipeline.image_files import ImageKind
from mlpipeline.learning.model import conversion
from mlpipeline.learning.model.export import ExportableModel
from mlpipeline.plan import config as configuration
from mlpipeline.plan.config import Config
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import ModelFolder, Workspace
from support.stored_documents import model_card

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
# A model as Fashion-MNIST's, and one of colours.
KINDS = {
    "grey": ImageKind((28, 28), 1, "stretch", dark_ground=True),
    "colour": ImageKind((20, 30), 3, "crop"),
}
CLASSES = tuple(f"class {number}" for number in range(10))
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Edge:
    """A model, and the folder that was written of it.

    Attributes:
        folder: The folder.
        config: What names the model.
        workspace: Where it is published.
    """

    folder: Path
    config: Config
    workspace: Workspace


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with LiteRT, Pillow and what they need, as they are locked."""
    environment = tmp_path_factory.mktemp("edge") / "environment"
    uv = shutil.which("uv") or str(PROGRAMS / "uv")
    call(uv, "venv", "--python", sys.executable, str(environment))
    here = ("--python", str(environment), "--constraint", str(ROOT / "requirements.lock"))
    call(uv, "pip", "install", *here, "ai-edge-litert", "pillow")
    return environment / "bin" / "python"


@pytest.fixture(scope="module", params=list(KINDS))
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Edge:
    kind = KINDS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    config = {"name": "things", "candidates": {"cnn": {"model": "cnn"}}}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    workspace = Workspace(root / "workspace")
    publish(workspace.model("things", "things-1"), kind)
    registry.promote(workspace, "things", "things-1")
    command = [sys.executable, "-m", "mlpipeline", "edge", "--output", str(root / "on the edge")]
    call(*command, "--config", str(root / "config.yaml"), "--workspace", str(workspace))
    return Edge(root / "on the edge", configuration.load(root / "config.yaml"), workspace)


def publish(model: ModelFolder, kind: ImageKind) -> None:
    """Publish a model of random weights, which look at every pixel and are sure of themselves."""
    inputs = keras.Input((*kind.size, kind.channels))
    weights = keras.initializers.RandomNormal(stddev=0.1, seed=3)
    logits = keras.layers.Dense(10, kernel_initializer=weights)(keras.layers.Flatten()(inputs))
    exported = ExportableModel(keras.Model(inputs, logits), kind.shape)
    with artifacts.publish(model.path) as draft:
        folder = ModelFolder(draft)
        exported.save(folder.saved_model)
        folder.tflite.write_bytes(conversion.convert(folder.saved_model))
        about = {"name": "things", "version": "things-1", "classes": CLASSES}
        model_card(**about, engine="litert", preparation=kind).save(folder.card)


def call(*command: str, status: int = 0) -> str:
    """Run a program; return what it printed, or of one that has to fail its errors."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def ask(python: Path, folder: Path, *arguments: str | Path, status: int = 0) -> str:
    """Run the folder's program, whatever this process has set for Python."""
    program = (str(python), "-E", str(folder / "classify.py"))
    return call(*program, *map(str, arguments), status=status)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images that an own preparation in a few lines would get wrong, and plain ones."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    plain = np.zeros((28, 28), np.uint8)
    plain[8:20, 5:16] = random.integers(100, 256, (12, 11))
    photo = random.integers(0, 256, (60, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    shape = np.zeros((90, 70, 4), np.uint8)
    shape[20:60, 10:40] = (250, 240, 230, 255)
    deep = random.integers(0, 65_536, (40, 50), np.uint16)
    Image.fromarray(plain).save(folder / "plain.png")
    Image.fromarray(255 - plain).save(folder / "bright ground.png")
    Image.fromarray(photo).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(photo).save(folder / "as the camera was held.jpg")
    Image.fromarray(shape).save(folder / "transparent.png")
    Image.fromarray(deep).save(folder / "16 bits.png")
    series = [Image.fromarray(photo[start:]) for start in (0, 100)]
    series[0].save(folder / "series.gif", save_all=True, append_images=series[1:])
    return sorted(folder.iterdir())


def test_nothing_else_is_installed(python: Path) -> None:
    """Of what this project needs: neither TensorFlow nor KServe, nor the project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needed = itertools.chain(project["dependencies"], *extras)
    ours = {match[0] for each in needed if (match := _NAME.match(each))}
    assert {"tensorflow", "keras", "kserve", "mlpipeline"} <= ours
    code = """
import importlib.metadata as all, json
print(json.dumps([each.name.lower().replace("_", "-") for each in all.distributions()]))
"""
    installed = set(json.loads(call(str(python), "-E", "-c", code)))
    assert installed & ours == {"ai-edge-litert", "numpy", "pillow"}


def test_it_says_what_predict_says(edge: Edge, python: Path, images: list[Path]) -> None:
    said = ask(python, edge.folder, *images).splitlines()
    expected = []
    for image in images:
        _, *notes, best, _, _ = prediction.describe(edge.config, edge.workspace, image)
        probability, name = best.split(maxsplit=1)
        expected.append("; ".join([f"{image}: {name} {probability}", *notes]))
    assert said == expected
    answers = [line.partition(": ")[2] for line in said]
    assert len(set(answers)) == len(images)  # so that what is done to each image is seen


def test_what_it_cannot_tell_is_refused(edge: Edge, python: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 0.5, np.float32)).save(tmp_path / "floating.tiff")
    (tmp_path / "text.png").write_text("hello")
    for name, why in (
        ("floating.tiff", "it has numbers of mode F and does not say their range"),
        ("text.png", "it is no image of a known format"),
        ("none.png", "No such file"),
    ):
        errors = ask(python, edge.folder, tmp_path / name, status=1)
        assert f"error: cannot read {tmp_path / name}: " in errors
        assert why in errors
        assert "Traceback" not in errors
    assert "python classify.py IMAGE..." in ask(python, edge.folder, status=1)


def test_a_damaged_model_is_refused(
    edge: Edge, python: Path, images: list[Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(edge.folder, tmp_path / "copy")
    content = bytearray((copy / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.tflite").write_bytes(content)
    errors = ask(python, copy, images[0], status=1)
    assert "model.tflite is damaged" in errors


def test_linters_have_nothing_to_say(edge: Edge) -> None:
    """By ruff's own settings and ours; it is a program that prints, and no package."""
    ruff, ours = str(PROGRAMS / "ruff"), ("--config", str(ROOT / "pyproject.toml"))
    for options in ((), ours):
        call(ruff, "check", "--no-cache", *options, "--ignore", "T201,INP001", str(edge.folder))
    call(ruff, "format", "--check", "--no-cache", *ours, str(edge.folder))
