"""Markdown tables of the fields of pydantic models, from their JSON schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "null": "none",
    "object": "mapping",
    "array": "list",
}
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "maxLength": "at most {} characters",
    "minLength": "at least {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "minProperties": "at least {}",
    "pattern": "matches `{}`",
}


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table; line breaks and bars in a cell are made harmless."""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def type_of(schema: dict[str, Any]) -> str:
    """Return in words what a field's JSON schema accepts, with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name == "JsonValue":
            return "any value"
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(option) for option in schema[key]))
    words = _TYPES.get(schema.get("type", ""), "any value")
    by_name = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    if values := [value for value in by_name if isinstance(value, dict)]:
        words = f"mapping of names to {type_of(values[0])}"
        if patterns := list(schema.get("patternProperties", {})):
            words += f"; a name matches `{patterns[0]}`"
    elif items := schema.get("prefixItems"):  # of so many, which its limits only repeat
        return f"list of {len(items)}: {'; '.join(dict.fromkeys(map(type_of, items)))}"
    elif schema.get("type") == "array" and schema.get("items"):
        words = f"list of {type_of(schema['items'])}"
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    return ", ".join([words, *limits])


def default_of(schema: dict[str, Any], *, required: bool) -> str:
    """Return a field's default as YAML writes it."""
    if required:
        return "required"
    value = schema.get("default")
    if value is None:
        return "none"
    if isinstance(value, dict | list) and value:
        return "see there"
    return f"`{json.dumps(value)}`"


def fields(
    schema: dict[str, Any],
    meanings: dict[str, str],
    *,
    without: tuple[str, ...] = (),
    with_defaults: bool = True,
) -> str:
    """Return the table of an object's fields.

    Args:
        schema: The object's JSON schema.
        meanings: What the fields mean, by their names.
        without: Fields that are left out.
        with_defaults: Whether there is a column of defaults.
    """
    required = schema.get("required", [])
    rows: list[tuple[str, ...]] = [
        (
            f"`{name}`",
            type_of(field),
            default_of(field, required=name in required),
            meanings.get(name, ""),
        )
        for name, field in schema["properties"].items()
        if name not in without
    ]
    head: tuple[str, ...] = ("key", "what it may be", "default", "meaning")
    if not with_defaults:
        head, rows = head[:2] + head[3:], [row[:2] + row[3:] for row in rows]
    return table(head, rows)
