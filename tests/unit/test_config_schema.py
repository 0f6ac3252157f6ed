"""The JSON schema by which an editor completes and checks a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import reference_pages

CONFIGS = sorted((reference_pages.ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_an_editor_can_check_the_configurations(file: Path) -> None:
    first, _, _ = file.read_text().partition("\n")
    assert first == "# yaml-language-server: $schema=schema.json"
    jsonschema.validate(yaml.safe_load(file.read_text()), schema())


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"lerning_rate": 0.1}},
        {"candidates": {"cnn": {"model": "cnn", "epochs": 0}}},
        {"candidates": {"Not A Name": {"model": "cnn"}}},
        {"training": {"cache": "tape"}},
        {"trainig": {}},
    ],
)
def test_an_editor_finds_what_the_pipeline_would_refuse(change: dict[str, Any]) -> None:
    content = yaml.safe_load((reference_pages.ROOT / "configs" / "quick.yaml").read_text()) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema())


def schema() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(reference_pages.SCHEMA.read_text())
    return content
