"""A folder for a small machine: the current model, and a program that asks it.

The program needs LiteRT and Pillow, not this package. It prepares an image by the very code that
prepared the training images, of which the folder has a copy: written anew in a few lines, it would
differ from that for some images, and nobody would see it.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from importlib import resources
from pathlib import Path
from string import Template

from mlpipeline.cli import new_folder
from mlpipeline.cli.prediction import on_one_line
from mlpipeline.errors import MissingArtifactError, ServingError
from mlpipeline.image_files import ImageKind, Preparation
from mlpipeline.plan.config import Config
from mlpipeline.store import registry
from mlpipeline.store.layout import ModelFolder, Workspace
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.selection import ModelCard

_CODE = "mlpipeline.image_files"
_FIT = {
    "crop": "of one of other proportions, its middle",
    "pad": "one of other proportions is continued in the colour of its border",
    "stretch": "one of other proportions is stretched",
}


def write(config: Config, workspace: Workspace, folder: Path) -> list[str]:
    """Write the folder.

    Args:
        config: The configuration, which names the model.
        workspace: The folder of all artifacts.
        folder: Where to write it; not there yet, or empty.

    Returns:
        What is in it.

    Raises:
        ConfigurationError: There is something already.
        ServingError: There is no model, or none for LiteRT, or it takes no image files.
        DamagedArtifactError: The model is not what was published.
    """
    new_folder.check(folder)
    folder = folder.resolve()
    model = workspace.model(config.name, registry.current(workspace, config.name))
    card = ModelCard.load(model.card)
    kind = _kind_of_files(card)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.draft")
    draft.mkdir(parents=True)
    try:
        _fill(draft, model, card, kind, _data(workspace, card))
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return sorted(f"{each.name}/" if each.is_dir() else each.name for each in folder.iterdir())


def _kind_of_files(card: ModelCard) -> ImageKind:
    """Return how files become images for the model, if it is one for the folder."""
    if card.engine != "litert":
        raise ServingError(
            f"version {card.version} of `{card.name}` is served by TensorFlow: "
            + card.engine_reason,
            expected="a model that LiteRT serves",
            remedy="let LiteRT serve it (`serving.engine`), change the network if it cannot, and "
            "run again",
        )
    if card.preparation is None:
        raise ServingError(
            f"version {card.version} of `{card.name}` takes images of a kind that no file has",
            expected="1 or 3 channels, as image files have them",
            remedy="give `model.tflite` raw pixels, by a program of your own",
        )
    return card.preparation


def _data(workspace: Workspace, card: ModelCard) -> str:
    """Say what the model was trained on, as a cell of a table."""
    made_up = "; **made-up data: the accuracy says nothing of real images**" * card.synthetic_data
    try:
        data = DatasetCard.load(workspace.dataset(card.dataset_key).card)
    except MissingArtifactError:  # it was cleared away: the model does without
        return f"`{card.dataset_key}`{made_up}"
    return f"`{on_one_line(data.name)}`, SHA-256 of the content `{data.digest}`{made_up}"


def _fill(draft: Path, model: ModelFolder, card: ModelCard, kind: ImageKind, data: str) -> None:
    content = model.tflite.read_bytes()
    values = {
        "name": card.name,
        "version": card.version,
        "count": len(card.classes),
        "accuracy": f"{card.test_accuracy:.2%}",
        "variant": card.variant,
        "bytes": f"{len(content):,}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "data": data,
        "steps": _steps(kind),
        "shape": list(kind.shape),
        "preparation": repr(Preparation.of(kind)).replace("'", '"'),
    }
    (draft / "model.tflite").write_bytes(content)
    labels = "".join(f"{on_one_line(name)}\n" for name in card.classes)
    (draft / "labels.txt").write_text(labels, encoding="utf-8")
    templates = resources.files(__package__)
    for file, template in (("classify.py", "classify"), ("README.md", "README")):
        text = (templates / f"{template}.template").read_text(encoding="utf-8")
        (draft / file).write_text(Template(text).substitute(values), encoding="utf-8")
    package = draft / _CODE.rpartition(".")[2]
    package.mkdir()
    for source in resources.files(_CODE).iterdir():
        if source.name.endswith(".py"):
            code = source.read_text(encoding="utf-8").replace(_CODE, package.name)
            (package / source.name).write_text(code, encoding="utf-8")


def _steps(kind: ImageKind) -> str:
    """Say what becomes of a file, as a list."""
    height, width = kind.size
    colour = "grey" if kind.channels == 1 else "RGB"
    steps = [
        "It is turned upright as its EXIF says.",
        "What is transparent becomes white, or black where that shows more of a drawing.",
        f"It becomes {colour}, {width} pixels wide and {height} high; {_FIT[kind.fit]}.",
    ]
    if kind.dark_ground:
        steps.append("One with a bright ground is inverted: that of the training images is dark.")
    return "\n".join(f"- {step}" for step in steps)
