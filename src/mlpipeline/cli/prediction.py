"""What the current model sees in an image file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlpipeline.errors import ServingError
from mlpipeline.image_files import UNREADABLE, ImageFile, content_of
from mlpipeline.plan.config import Config
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace

if TYPE_CHECKING:
    from mlpipeline.serving.model import PublishedModel

_SHOWN = 3


def describe(config: Config, workspace: Workspace, image: Path) -> Iterator[str]:
    """Yield which model is asked, what is to be known of the image, and the most probable classes.

    Args:
        config: The configuration, which names the model.
        workspace: The folder of all artifacts.
        image: The image file.

    Raises:
        ServingError: There is no model, or the file is no image.
    """
    version = registry.current(workspace, config.name)
    from mlpipeline.serving import model  # KServe, which takes two seconds

    published = model.load(workspace.model(config.name, version).path, is_alone=True)
    read = read_image(image, published)
    yield f"{config.name}, version {version}"
    yield from read.notes
    (probabilities,) = published.predict(read.pixels[np.newaxis])
    for index in probabilities.argsort()[::-1][:_SHOWN]:
        yield f"{probabilities[index]:7.2%}  {on_one_line(published.classes[index])}"


def on_one_line(name: str) -> str:
    """Return a name without line breaks and what a terminal would obey: it is the data's own."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


def read_image(file: Path, model: PublishedModel) -> ImageFile:
    """Read an image file as a model takes it.

    Args:
        file: The image file, of any size.
        model: The model.

    Raises:
        ServingError: The file is no image, or the model takes images of a kind that no file has.
    """
    from mlpipeline.serving import files  # KServe

    try:
        return files.read(content_of(file), model)
    except UNREADABLE as error:
        raise ServingError(
            f"cannot read {file}: {error}",
            expected="an image, such as a PNG or JPEG file",
            remedy="name another file: make predict IMAGE=some.png",
        ) from error
