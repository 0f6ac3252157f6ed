"""How requests are read before a model sees them; over the wire `test_protocols.py` asks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from mlpipeline.serving import images  # isort: skip  # before KServe, which reads sys.argv
from kserve.errors import InvalidInput
from kserve.model_repository import ModelRepository

from mlpipeline.serving import messages
from mlpipeline.serving.dataplane import StrictDataPlane

SHAPE = (2, 3)
PLANE = StrictDataPlane(ModelRepository())


def _decode(request: dict[str, Any], protocol: str) -> Any:
    decoded, _ = PLANE.decode(orjson.dumps(request), {}, protocol, "toy")
    return decoded


def _v2(data: Any, **others: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, *SHAPE], "datatype": "UINT8", "data": data}
    return {"inputs": [tensor], **others}


@pytest.mark.parametrize(
    "image",
    [
        [[True, 2, 3], [4, 5, 6]],
        [[1, 2, 3], [4, 5, False]],
        [[1.0, True, 0.0], [4, 5, 6]],
        [[True, False, True], [False, True, False]],
    ],
)
def test_true_and_false_are_no_numbers(image: list[list[Any]]) -> None:
    flat = [value for row in image for value in row]
    for request, protocol in (
        ({"instances": [[[0, 0, 0], [0, 0, 0]], image]}, "v1"),
        (_v2(flat), "v2"),
        (_v2([image]), "v2"),
    ):
        with pytest.raises(InvalidInput, match=r"got (true|false) among the values") as refused:
            _decode(request, protocol)
        assert "expected integers 0..255" in str(refused.value)


def test_true_and_false_elsewhere_are_let_pass() -> None:
    image = [[1, 0, 1], [0, 255, 7]]
    v1 = _decode({"instances": [image], "about": [True, "false"]}, "v1")
    assert images.from_instances(v1["instances"], SHAPE).tolist() == [image]
    v2 = _decode(_v2([image], id="true", parameters={"binary_data_output": True}), "v2")
    assert images.from_tensor(v2.inputs[0].data, [1, *SHAPE], SHAPE).tolist() == [image]


@pytest.mark.parametrize("instances", [True, None, "true", {"a": True}, 1])
def test_what_is_no_list_is_refused_where_images_are_read(instances: Any) -> None:
    decoded = _decode({"instances": instances, "x": True}, "v1")
    with pytest.raises(InvalidInput, match=type(instances).__name__):
        images.from_instances(decoded["instances"], SHAPE)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_what_is_read_is_not_held_as_lists_until_it_is_answered(protocol: str) -> None:
    image = [[1, 0, 1], [0, 255, 7]]
    request = {"instances": [image]} if protocol == "v1" else _v2([image])
    decoded = _decode(request, protocol)
    read = messages.read(decoded, SHAPE)
    messages.let_go(decoded)
    assert read.tolist() == [image]
    assert (decoded if protocol == "v1" else decoded.inputs[0].data) in ({}, [])
