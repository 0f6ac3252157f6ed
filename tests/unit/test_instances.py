"""The quick reader of V1 requests: what it takes, the strict one takes as well, and alike."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from mlpipeline.serving import dataplane, images, instances  # isort: skip  # before KServe
from kserve.errors import InvalidInput

SHAPE = (2, 3)
IMAGE = [[0, 1, 2], [253, 254, 255]]
CHANGES = [bytes([letter]) for letter in b'0123456789[]{},:" \n-.eE+\\nul\xef\x00']
CHANGES += [b"true", b"false", b"true,", b"9" * 19, b"9" * 25]


def _strictly(body: bytes, shape: tuple[int, ...] = SHAPE) -> Any:
    """What the strict reader makes of a body; None where it refuses it."""
    try:
        payload = dataplane._v1_request(body)
        return images.from_instances(payload["instances"], shape)
    except (InvalidInput, KeyError, TypeError):
        return None


@pytest.mark.parametrize(
    "shape", [(1, 2, 3), (4, 2, 3), (3, 1, 1), (1, 28, 28, 3), (2, 5), (1, 1), (7,), (2, 1, 1, 1)]
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n\t", " : ")])
def test_lists_of_equal_lengths_become_an_array(
    shape: tuple[int, ...], separators: tuple[str, str]
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    body = json.dumps({"instances": array.tolist()}, separators=separators).encode()
    request = instances.read(body)
    assert request is not None
    assert request["instances"].dtype == np.uint8
    np.testing.assert_array_equal(request["instances"], array)


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": []}',
        '{"instances": [[]]}',
        '{"instances": [[[]]]}',
        '{"instances": [[], [1]]}',
        '{"instances": [[1], []]}',
        '{"instances": [[1, 2], [3]]}',
        '{"instances": [[1, 2, 3], [4], [5, 6]]}',
        '{"instances": [[[1], [2]], [[3]]]}',
        '{"instances": [[1], [[2]]]}',
        '{"instances": [[[1]], [2]]}',
        '{"instances": [256]}',
        '{"instances": [-1]}',
        '{"instances": [-0]}',
        '{"instances": [1.0]}',
        '{"instances": [1e2]}',
        '{"instances": [18446744073709551616]}',
        '{"instances": [184467440737095516160]}',
        '{"instances": [%s]}' % ("9" * 5000),
        '{"instances": [01]}',
        '{"instances": [1 2]}',
        '{"instances": [1,]}',
        '{"instances": [,1]}',
        '{"instances": [1,,2]}',
        '{"instances": [1]} 2',
        '3 {"instances": [1]}',
        '{"instances": 5[1]}',
        '{"instances" 5: [1]}',
        '{"instances": [1] 5}',
        '{5 "instances": [1]}',
        '{"inst1ances": [1]}',
        '{"instances ": [1]}',
        '{"instances": [1], "instances": [2]}',
        '{"instances": [1], "signature_name": "serving_default"}',
        '{"instances": [null]}',
        '{"instances": [true]}',
        '{"instances": ["1"]}',
        '{"instances": [NaN]}',
        '{"instances": {"0": 1}}',
        '{"instances": 1}',
        '{"instances": [[1]}',
        '{"instances": [1]]}',
        '{"instances": [1}',
        '[{"instances": [1]}]',
        "\ufeff" + '{"instances": [1]}',
        '{"instances": [1\x0c]}',
        '{"instances": [١]}',
        "",
        "{",
        "[" * 100_000,
        '{"instances": ' + "[" * 100_000 + "}",
        '{"instances": ' + "[" * 2_000 + "1" + "]" * 2_000 + "}",
        '{"instances": ' + "[" * 100_000 + "1" + "]" * 100_000 + "}",
    ],
    ids=lambda body: body[:40],
)
def test_whatever_else_is_left_to_the_strict_reader(body: str) -> None:
    assert instances.read(body.encode()) is None


def test_requests_do_not_share_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one parser, with its memory, reads one after another: small, large and wrong ones."""
    monkeypatch.setattr(instances, "_KEPT_BYTES", 20_000)
    chance = np.random.default_rng(0)
    kept = []
    for count in (1, 3, 300, 2, 1_000, 1):
        array = chance.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        body = json.dumps({"instances": array.tolist()}).encode()
        assert instances.read(body[:-2] + b"x]}") is None
        kept.append((array, instances.read(body)))
    for array, request in kept:
        assert request is not None
        np.testing.assert_array_equal(request["instances"], array)


def test_an_array_of_another_shape_is_refused_as_lists_are() -> None:
    for payload in ([IMAGE[0]], [[[1, 2]]], [1, 2]):
        request = instances.read(json.dumps({"instances": payload}).encode())
        assert request is not None
        texts = []
        for given in (request["instances"], payload):
            with pytest.raises(InvalidInput) as refused:
                images.from_instances(given, SHAPE)
            texts.append(str(refused.value))
        assert texts[0] == texts[1]


def test_what_the_quick_reader_takes_of_changed_requests_the_strict_one_takes_alike() -> None:
    chance = random.Random(5)
    taken = 0
    for _ in range(20_000):
        array = np.array([IMAGE] * chance.randint(1, 3), np.uint8)
        separators = chance.choice([(",", ":"), (", ", ": ")])
        body = bytearray(json.dumps({"instances": array.tolist()}, separators=separators).encode())
        for _ in range(chance.randint(0, 3)):
            place = chance.randrange(len(body))
            change = chance.randint(0, 2)
            body[place : place + min(change, 1)] = chance.choice(CHANGES) * (change < 2)
        request = instances.read(bytes(body))
        if request is not None:
            taken += 1
            strict = _strictly(bytes(body), request["instances"].shape[1:])
            assert strict is not None, body
            np.testing.assert_array_equal(request["instances"], strict)
    assert taken > 4_000
