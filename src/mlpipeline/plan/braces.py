"""Double braces, between which Argo Workflows evaluates what it finds, in any parameter's value.

What is submitted would not be what runs, and some expressions keep the controller from ever ending
the workflow. There is no way to quote them, so text that has them is refused wherever it comes in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

OPEN = "{{"


def places(content: Any) -> list[str]:
    """Return where double braces open, such as `data.revision`.

    Args:
        content: What JSON or YAML says, keys included.
    """
    return sorted(set(_places(content, "")))


def _places(content: Any, place: str) -> Iterator[str]:
    if isinstance(content, str):
        if OPEN in content:
            yield place or "it"
    elif isinstance(content, Mapping):
        for name, value in content.items():
            inner = f"{place}.{name}" if place else str(name)
            yield from _places(str(name), f"a key of {place}" if place else "a key")
            yield from _places(value, inner)
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _places(value, f"{place}.{number}" if place else str(number))
