"""What counts as images, and what a client is told otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlpipeline.serving import images  # isort: skip  # before KServe, which reads sys.argv
from kserve.errors import InvalidInput

SHAPE = (2, 3)
IMAGE = [[0, 1, 2], [253, 254, 255]]


def test_nested_integers_become_uint8() -> None:
    result = images.from_instances([IMAGE, IMAGE], SHAPE)
    assert result.dtype == np.uint8
    assert result.tolist() == [IMAGE, IMAGE]


def test_integral_floats_are_integers() -> None:
    floats = [[float(value) for value in row] for row in IMAGE]
    assert images.from_instances([floats], SHAPE).tolist() == [IMAGE]


def test_images_with_channels() -> None:
    image = [[[1, 2, 3], [4, 5, 6]]]
    assert images.from_instances([image], (1, 2, 3)).tolist() == [image]


@pytest.mark.parametrize(
    ("instances", "told"),
    [
        (None, "NoneType"),
        ({}, "dict"),
        ("abc", "str"),
        ([], "no images"),
        ([[]], "shape [1,0]"),
        ([1], "shape [1]"),
        ([IMAGE[0]], "shape [1,3]"),
        ([[[1, 2]]], "shape [1,1,2]"),
        ([IMAGE, [[1, 2, 3], [4, 5]]], "unequal lengths"),
        ([IMAGE, IMAGE[0]], "unequal lengths"),
        ([[[0, 1, 2], [3, 4, 256]]], "the value 256"),
        ([[[0, 1, 2], [3, 4, -1]]], "the value -1"),
        ([[[0, 1, 2], [3, 4, 0.5]]], "the value 0.5"),
        ([[[0, 1, 2], [3, 4, float("nan")]]], "the value nan"),
        ([[[0, 1, 2], [3, 4, float("inf")]]], "the value inf"),
        ([[[0, 1, 2], [3, 4, 10**30]]], "not all numbers"),
        ([[[0, 1, 2], [3, 4, "5"]]], "not all numbers"),
        ([[[0, 1, 2], [3, 4, None]]], "not all numbers"),
        ([[[0, 1, 2], [3, 4, {}]]], "not all numbers"),
        ([[[True, True, False]] * 2], "not all numbers"),
        ([["abc", "def"]], "not all numbers"),
        ([5, 6], "shape [2]"),
    ],
)
def test_anything_else_is_refused(instances: Any, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        images.from_instances(instances, SHAPE)
    text = str(refused.value)
    assert told in text
    assert "expected" in text
    assert "to do" in text


@pytest.mark.parametrize(
    "data", [bytes(range(12)), list(range(12)), [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]
)
def test_a_tensor_is_bytes_or_a_flat_or_nested_list(data: Any) -> None:
    result = images.from_tensor(data, [2, 2, 3], SHAPE)
    assert result.tolist() == np.arange(12).reshape(2, 2, 3).tolist()


@pytest.mark.parametrize(
    ("data", "claimed", "told"),
    [
        (bytes(6), [], "shape []"),
        (bytes(6), [6], "shape [6]"),
        (bytes(6), [1, 3, 2], "shape [1,3,2]"),
        (b"", [0, 2, 3], "shape [0,2,3]"),
        (bytes(6), [-1, 2, 3], "shape [-1,2,3]"),
        (bytes(5), [1, 2, 3], "5 values"),
        (bytes(7), [1, 2, 3], "7 values"),
        (b"", [10**20, 2, 3], "0 values"),
        ([1, 2], [1, 2, 3], "2 values"),
        ([1, 2, 3, 4, 5, 256], [1, 2, 3], "the value 256"),
        ([1, 2, 3, 4, 5, "6"], [1, 2, 3], "not all numbers"),
        ([[1], [2, 3], 4, 5, 6], [1, 2, 3], "unequal lengths"),
    ],
)
def test_a_tensor_that_is_not_what_it_claims_is_refused(
    data: Any, claimed: list[int], told: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        images.from_tensor(data, claimed, SHAPE)
    assert told in str(refused.value)
