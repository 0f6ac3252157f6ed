"""The usual V1 request, `{"instances": [image, ...]}`, without a Python object for each pixel.

A request of a thousand images of 28x28 has 784,000 numbers: to make lists of them, and an array of
these, takes half as long as the model itself. Here simdjson writes them into a buffer, in a quarter
of that time. The buffer is flat, so the shape is taken from what remains of the text without its
digits: `[[,,],[,,]]` of 2x3 numbers.

This reads only what is certainly right. Of everything else, be it odd or wrong, `dataplane` makes
lists, and has an answer or a reason for each.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import simdjson

from mlpipeline.serving.arrays import Images

_DIGITS_AND_SPACE = b"0123456789 \t\r\n"
_BEGIN, _END = b'{"instances":', b"}"
_LARGEST = np.iinfo(np.uint8).max
_DEEPEST = 8  # lists in lists: images have four dimensions at most
_KEPT_BYTES = 4 << 20  # of a body; a parser takes about eight times that


class _Own(threading.local):
    """A thread's parser, with the memory that it has: to get it anew takes longer than to parse."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_OWN = _Own()


def read(body: bytes) -> dict[str, Images] | None:
    """Return a request whose instances are integers 0..255 in lists of equal lengths.

    Args:
        body: The request.

    Returns:
        The request, its instances as one array; None for any other.
    """
    skeleton = body.translate(None, _DIGITS_AND_SPACE)
    if not (skeleton.startswith(_BEGIN) and skeleton.endswith(_END)):
        return None
    shape = _shape(skeleton[len(_BEGIN) : -len(_END)])
    if shape is None:
        return None
    numbers = _numbers(body)
    # An empty list looks as if there were a number in it: then there are too few.
    if numbers is None or len(numbers) != math.prod(shape) or numbers.max() > _LARGEST:
        return None
    return {"instances": numbers.astype(np.uint8).reshape(shape)}


def _shape(skeleton: bytes) -> tuple[int, ...] | None:
    """Return the shape of lists that are all like the first one; None if they are not."""
    inner = skeleton.lstrip(b"[")
    depth = len(skeleton) - len(inner)
    if depth > _DEEPEST:
        return None
    if depth < 2:
        return (len(skeleton) - 1,) if skeleton == b"[%b]" % (b"," * (len(skeleton) - 2)) else None
    end = skeleton.find(b"]" * (depth - 1)) + depth - 1
    first = skeleton[1:end]
    count = len(skeleton) // (len(first) + 1)
    if not first or skeleton != b"[%b]" % ((first + b",") * count)[:-1]:
        return None
    rest = _shape(first)
    return (count, *rest) if rest else None


def _numbers(body: bytes) -> Any:
    """Return all numbers of the instances, one after another; None if it is not such JSON."""
    parser = _OWN.parser if len(body) <= _KEPT_BYTES else simdjson.Parser()
    try:
        request: Any = parser.parse(body)
        return np.frombuffer(request["instances"].as_buffer(of_type="u"), np.uint64)
    except (KeyError, RuntimeError, TypeError, ValueError):  # no JSON, or a number beyond 64 bits
        return None
