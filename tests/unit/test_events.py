"""What an event may say."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import EventError
from mlpipeline.events import schema
from support.sample_events import FEEDBACK, PREDICT, TRAIN


@pytest.mark.parametrize("event", [PREDICT, TRAIN, FEEDBACK], ids=lambda e: str(e["kind"]))
def test_an_event_of_each_kind_is_read(tmp_path: Path, event: dict[str, Any]) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event))
    assert schema.read(file).name == f"{event['kind']}-{event['id']}"
    file.write_text(json.dumps(event), encoding="utf-8-sig")  # as editors of Windows save it
    assert schema.read(file).name == f"{event['kind']}-{event['id']}"


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (PREDICT | {"kind": "guess"}, "'predict', 'train', 'feedback'"),
        ({"id": "monday"}, "Unable to extract tag using discriminator 'kind'"),
        (PREDICT | {"id": "Monday"}, "id: String should match"),
        (PREDICT | {"id": "../monday"}, "id: String should match"),
        (PREDICT | {"id": "x" * 41}, "id: String should have at most 40"),
        (PREDICT | {"model": "a/b"}, "model: String should match"),
        (PREDICT | {"colour": "red"}, "colour: Extra inputs"),
        (
            PREDICT | {"folder": "/etc"},
            "folder: Value error, expected a folder below the workspace",
        ),
        (PREDICT | {"folder": "a/../../b"}, "folder: Value error"),
        (PREDICT | {"folder": "."}, "folder: Value error"),
        (PREDICT | {"folder": "a\0b"}, "folder: Value error"),
        (TRAIN | {"configuration": {"name": "shirts"}}, "configuration.candidates: Field required"),
        (FEEDBACK | {"time": "2026-11-24T09:00:00"}, "time: Input should have timezone info"),
        (FEEDBACK | {"time": "0001-01-01T00:00:00+14:00"}, "time: Value error, expected a time"),
        (FEEDBACK | {"corrections": []}, "corrections: Tuple should have at least 1 item"),
        (
            FEEDBACK | {"corrections": FEEDBACK["corrections"] * 501},
            "corrections: Tuple should have at most 500 items",
        ),
        (
            FEEDBACK | {"corrections": [{"image": "0" * 63, "label": "Coat"}]},
            "corrections.0.image: String should match",
        ),
        ([PREDICT], "Input should be a valid dictionary"),
    ],
)
def test_what_is_no_event_is_refused_with_the_place(event: Any, problem: str) -> None:
    with pytest.raises(EventError) as raised:
        schema.parse(json.dumps(event), origin="the event")
    assert "the event is not an event:\n" in str(raised.value)
    assert problem in str(raised.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(EventError) as raised:
        schema.parse(json.dumps(PREDICT | {"id": "", "model": 3, "folder": ".."}), origin="it")
    assert [line.split(":")[0] for line in raised.value.got.splitlines()[1:]] == [
        "  - id",
        "  - model",
        "  - folder",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '{"kind": "predict", "id": "a", "model": "m", "folder": "x", "folder": "y"}',
            "'folder' twice",
        ),
        (
            '{"kind": "train", "id": "a", "configuration": {"name": "m", "name": "n"}}',
            "'name' twice",
        ),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str, problem: str) -> None:
    with pytest.raises(EventError, match=problem):
        schema.parse(text, origin="it")


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (PREDICT | {"folder": "a/{{workflow.name}}"}, "folder"),
        (PREDICT | {"{{=1}}": "a"}, "a key"),
        (
            TRAIN | {"configuration": {"data": {"revision": "{{=1+1}}"}}},
            "configuration.data.revision",
        ),
        (FEEDBACK | {"corrections": [{"image": "0" * 64, "label": "a {{"}]}, "corrections.0.label"),
    ],
)
def test_what_argo_would_evaluate_is_refused_with_the_place(
    event: dict[str, Any], place: str
) -> None:
    escaped = json.dumps(event).replace("{{", "\\u007b\\u007b") if "{{=1}}" not in event else None
    for text in filter(None, (json.dumps(event), escaped)):
        with pytest.raises(EventError, match=r"Argo would evaluate it") as raised:
            schema.parse(text, origin="it")
        assert f"in {place}:" in raised.value.got


def test_an_argument_is_json_or_that_in_base64() -> None:
    text = json.dumps(FEEDBACK, indent=2)
    encoded = base64.b64encode(text.encode()).decode()
    assert "{" not in encoded
    expected = schema.parse(text, origin="it")
    assert schema.parse_argument(text, origin="it") == expected
    assert schema.parse_argument(encoded, origin="it") == expected


@pytest.mark.parametrize("text", ["", "null", "[]", "e30", "=", "/w==", "bnVsbA==", "ä"])
def test_an_argument_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(EventError, match="it is n"):
        schema.parse_argument(text, origin="it")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'["\\ud800"]'])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "event.json").write_bytes(content)
    with pytest.raises(EventError, match=r"event\.json"):
        schema.read(tmp_path / "event.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EventError, match=r"cannot read .*none\.json"):
        schema.read(tmp_path / "none.json")


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_an_event_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "event.json")
    with pytest.raises(EventError, match="is no file"):
        schema.read_posted(tmp_path / "event.json")
