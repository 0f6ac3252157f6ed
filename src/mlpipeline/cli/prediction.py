"""What the current model sees in an image file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from mlpipeline import image_files
from mlpipeline.errors import ServingError
from mlpipeline.plan.config import Config
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace

_SHOWN = 3


def describe(config: Config, workspace: Workspace, image: Path) -> Iterator[str]:
    """Yield a line for each of the most probable classes, the most probable one first.

    Args:
        config: The configuration, which names the model.
        workspace: The folder of all artifacts.
        image: The image file.

    Raises:
        ServingError: There is no model, or the file is no image.
    """
    version = registry.current(workspace, config.name)
    from mlpipeline.serving import model  # TensorFlow

    model.use_available_processors()
    published = model.load(workspace.model(config.name, version).path)
    pixels = read_image(image, published.input_shape)
    (probabilities,) = published.predict(pixels[np.newaxis])
    for index in probabilities.argsort()[::-1][:_SHOWN]:
        yield f"{probabilities[index]:7.2%}  {_on_one_line(published.classes[index])}"


def _on_one_line(name: str) -> str:
    """Return a name without what a terminal would obey; class names are the data's own."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


def read_image(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an image file as the model takes it.

    Args:
        file: The image file, of any size.
        shape: The shape of one of the model's images: `[height, width]` or with channels.

    Returns:
        Its pixels as uint8 of that shape, bright on a dark ground.

    Raises:
        ServingError: The file is no image.
    """
    try:
        pixels, inverted = image_files.decode(file.read_bytes(), shape)
    except image_files.UNREADABLE as error:
        raise ServingError(
            f"cannot read {file}: {error}",
            expected="an image, such as a PNG or JPEG file",
            remedy="name another file: make predict IMAGE=some.png",
        ) from error
    if inverted:
        typer.echo("the background is bright, the data set's is dark: the image is inverted")
    return pixels
