"""Image files as a published model takes them. Only this needs Pillow, no replica does."""

from __future__ import annotations

from mlpipeline.errors import ServingError
from mlpipeline.image_files import ImageFile, Preparation
from mlpipeline.serving.model import PublishedModel


def read(content: bytes, model: PublishedModel) -> ImageFile:
    """Make one image of the content of a file, as ingestion made the training images.

    Args:
        content: The bytes of the file.
        model: The model that is to be asked.

    Returns:
        The image; its pixels are uint8 of the model's `input_shape`.

    Raises:
        ServingError: The model's images are of a kind that no file has.
        UnreadableImageError: The file is no image, or a damaged one.
    """
    if model.preparation is None:
        raise ServingError(
            f"the model takes images of shape {list(model.input_shape)}",
            expected="1 or 3 channels, as image files have them",
            remedy="send raw pixels to the server, which `mlpipeline serve` starts",
        )
    image = Preparation.of(model.preparation).from_file(content)
    return image._replace(pixels=image.pixels.reshape(model.input_shape))
