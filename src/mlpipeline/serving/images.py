"""Images out of requests: nested lists of numbers or raw bytes become one checked uint8 array.

Shapes are those of one image, such as (28, 28); every function returns uint8 of shape (N, *shape).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from kserve.errors import InvalidInput

from mlpipeline.serving.arrays import Images
from mlpipeline.serving.refusals import refusal


def from_instances(instances: Any, shape: tuple[int, ...]) -> Images:
    """Read the `instances` of the V1 protocol.

    Args:
        instances: One nested list of integers 0..255 for each image, or such an array.
        shape: The shape of one image.

    Raises:
        InvalidInput: They are anything else.
    """
    if isinstance(instances, np.ndarray):
        images = instances
    elif not isinstance(instances, list) or not instances:
        got = "no images" if instances == [] else f"`instances` of type {type(instances).__name__}"
        raise _wrong(got, shape)
    else:
        images = _array_of(instances, shape)
    if images.shape[1:] != shape:
        raise _wrong(f"numbers of shape {_text(images.shape)}", shape)
    return images


def from_tensor(
    data: Sequence[Any] | bytes, claimed: Sequence[int], shape: tuple[int, ...]
) -> Images:
    """Read a UINT8 tensor of the V2 protocol.

    Args:
        data: Its bytes, or its numbers as a list, flat or nested.
        claimed: The shape that the request claims for it.
        shape: The shape of one image.

    Raises:
        InvalidInput: The claim is not (N, *shape) with N > 0, or the data is something else.
    """
    if len(claimed) == 0 or claimed[0] < 1 or tuple(claimed[1:]) != shape:
        raise _wrong(f"a tensor of shape {_text(claimed)}", shape)
    if not isinstance(data, bytes):
        data = _array_of(data, shape).tobytes()
    if len(data) != math.prod(claimed):
        raise refusal(
            f"{len(data)} values for a tensor of shape {_text(claimed)}",
            expected=f"{math.prod(claimed)}",
            remedy="send as many values as the shape says",
        )
    return np.frombuffer(data, np.uint8).reshape(claimed)


def _array_of(values: Sequence[Any], shape: tuple[int, ...]) -> Images:
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        raise _wrong("lists of unequal lengths", shape) from None
    if array.dtype.kind not in "iuf":
        raise _wrong(f"values that are not all numbers (as an array: {array.dtype})", shape)
    with np.errstate(invalid="ignore"):  # NaN is not equal to whatever it becomes
        images = array.astype(np.uint8)
    same = images == array
    if not same.all():
        raise _wrong(f"the value {array[~same][0]}", shape)
    return images


def _wrong(got: str, shape: tuple[int, ...]) -> InvalidInput:
    return refusal(
        got,
        expected=f"one or more images of shape {_text(shape)}, each value an integer 0..255",
        remedy="send raw pixels, unscaled; GET /v2/models/NAME shows the model's input",
    )


def _text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
