"""A data set of one's own: its function is called, and what it returns is looked at.

What is almost right is named with the function and what was expected; what means the same for sure,
such as labels of another type of integer, is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mlpipeline.errors import ConfigurationError, PipelineError, SourceError
from mlpipeline.learning.data.images import Dataset, Split
from mlpipeline.learning.plugins import described, refusal

_DATASET = "a Dataset of `from mlpipeline.learning.data import Dataset, Split`"


def call(function: Callable[..., Any], reference: str) -> Dataset:
    """Call a function that makes a data set.

    Args:
        function: The function.
        reference: What the configuration calls it.

    Returns:
        What it returned, the types of its fields checked; labels are int64.

    Raises:
        ConfigurationError: It takes arguments.
        SourceError: It raised an error, or returned something else.
    """
    if why := refusal(function):
        raise ConfigurationError(
            f"`{reference}` {why}",
            expected="a function that can be called without arguments",
            remedy="give each of them a default, or name a function that passes them",
        )
    try:
        returned = function()
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:
        raise SourceError(
            f"`{reference}` raised {described(error)}",
            expected=f"that it returns {_DATASET}",
            remedy="mend that function",
        ) from error
    if not isinstance(returned, Dataset):
        raise _unfit(reference, f"returned {type(returned).__name__}", _DATASET)
    return _checked(returned, reference)


def _checked(dataset: Dataset, reference: str) -> Dataset:
    for field in ("name", "source"):
        if not isinstance(value := getattr(dataset, field), str):
            raise _unfit(reference, f"returned {field}={_shown(value)}", "text")
    if not isinstance(dataset.synthetic, bool):
        raise _unfit(reference, f"returned synthetic={_shown(dataset.synthetic)}", "True or False")
    classes: Any = dataset.classes
    if not isinstance(classes, (tuple, list)) or not all(isinstance(c, str) for c in classes):
        raise _unfit(
            reference,
            f"returned classes={_shown(classes)}",
            "a tuple of names, such as `('cat', 'dog')`; of an array `tuple(map(str, array))`",
        )
    return replace(
        dataset,
        classes=tuple(classes),
        train=_split(dataset.train, "train", reference),
        test=_split(dataset.test, "test", reference),
    )


def _split(split: Any, name: str, reference: str) -> Split:
    if not isinstance(split, Split):
        raise _unfit(reference, f"returned {name}={_shown(split)}", "a Split(images, labels)")
    for field, kind in (
        ("images", "uint8 [N, height, width(, channels)]"),
        ("labels", "int64 [N]"),
    ):
        if not isinstance(value := getattr(split, field), np.ndarray):
            raise _unfit(
                reference,
                f"returned {name}.{field} that are {_shown(value)}",
                f"a NumPy array, {kind}",
            )
    labels: Any = split.labels
    if labels.dtype.kind not in "ui" or labels.dtype == np.int64:
        return split
    if labels.size and labels.max() > np.iinfo(np.int64).max:
        raise _unfit(reference, f"returned {name}.labels up to {labels.max()}", "int64")
    return replace(split, labels=labels.astype(np.int64))


def _unfit(reference: str, got: str, expected: str) -> SourceError:
    return SourceError(f"`{reference}` {got}", expected=expected, remedy="mend that function")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    if isinstance(value, (list, tuple)) and len(value) > 5:
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r} ({type(value).__name__})"[:120]
