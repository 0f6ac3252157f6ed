"""How large libraries are imported: without a look for garbage, and without what nobody asked for.

To import TensorFlow, and Keras with it, takes seconds of every process that trains.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Keras imports these where they are installed, as KServe's and the report's libraries are, and does
# without where they are not: all that it has of them are plots, and kinds of input to its `fit`.
_BESIDE_KERAS = ("matplotlib", "pandas", "sklearn")


@contextmanager
def large_libraries() -> Iterator[None]:
    """Import libraries in the body: what they make stays, and is never looked through for garbage.

    TensorFlow makes half a million objects, which Python would look through again and again: for a
    quarter of the time of its import, and later on whenever a process has made many more.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import libraries in the body as if others were not installed, which they can do without.

    Whoever imports one of these later, such as code of the user's own, gets it.

    Args:
        *names: The others; one that is imported already stays.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # as not installed
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def tensorflow() -> Iterator[None]:
    """Import TensorFlow in the body, and Keras without what it does not need: in two thirds."""
    with without(*_BESIDE_KERAS), large_libraries():
        yield
