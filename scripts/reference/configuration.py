"""The configuration: a table of each section, and a JSON schema for editors."""

from __future__ import annotations

from typing import Any

from mlpipeline.plan import config, search
from mlpipeline.plan.config import Config
from reference import docstrings, tables

_SECTIONS: dict[str, tuple[type, str]] = {
    "Config": (config.Config, "the whole file"),
    "Data": (config.Data, "`data:`"),
    "Expectations": (config.Expectations, "`expectations:`"),
    "Recipe": (config.Recipe, "`recipe:`, and every candidate"),
    "Candidate": (config.Candidate, "`candidates: NAME:`"),
    "Search": (search.Search, "`search: NAME:`"),
    "Dimension": (search.Dimension, "`search: NAME: space: KEY:`"),
    "Training": (config.Training, "`training:`"),
    "Asynchronous": (config.Asynchronous, "`asynchronous:`"),
    "Gate": (config.Gate, "`gate:`"),
    "Rollout": (config.Rollout, "`rollout:`"),
    "Trial": (config.Trial, "`rollout: shadow:`"),
    "Canary": (config.Canary, "`rollout: canary:`"),
    "Serving": (config.Serving, "`serving:`"),
    "RequestLogging": (config.RequestLogging, "`serving: log:`"),
    "Card": (config.Card, "`card:`"),
    "Verify": (config.Verify, "`verify:`"),
}


def render() -> str:
    """Return a heading and a table for each section."""
    definitions = _definitions()
    parts = []
    for name, (cls, place) in _SECTIONS.items():
        without = tuple(config.Recipe.model_fields) if cls is config.Candidate else ()
        parts += [
            f"## {name}",
            f"{place[0].upper()}{place[1:]}. {docstrings.summary(cls)}".strip(),
            tables.fields(definitions[name], docstrings.of_fields(cls), without=without),
        ]
        if without:
            parts.append("Every key of [Recipe](#recipe) may stand here, too, for this candidate.")
    return "\n\n".join(parts)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file as a person writes it.

    It differs from the model's in what happens before the check: a search takes the place of
    candidates, and a list is short for the values of a dimension.
    """
    definitions = _definitions()
    for name, (cls, _) in _SECTIONS.items():
        if about := docstrings.summary(cls):
            definitions[name]["description"] = about
        for field, text in docstrings.of_fields(cls).items():
            if field in definitions[name]["properties"]:
                definitions[name]["properties"][field]["description"] = text
    dimension = definitions["Dimension"]
    definitions["Dimension"] = {"anyOf": [{"type": "array", "minItems": 1}, dimension]}
    whole = definitions.pop("Config")
    whole["required"] = ["name"]
    whole["anyOf"] = [{"required": ["candidates"]}, {"required": ["search"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": "Configuration of mlpipeline",
        "$defs": definitions,
    }


def _definitions() -> dict[str, Any]:
    raw = Config.model_json_schema()
    for mapping in (raw["properties"]["candidates"], raw["properties"]["search"]):
        mapping["additionalProperties"] = False  # names that do not match are refused
    definitions: dict[str, Any] = raw.pop("$defs")
    return {"Config": raw, **definitions}
