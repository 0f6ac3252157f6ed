"""Every error that has a remedy: what it says, what was expected, what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from reference import tables

_ROOMS = {
    "plan": "Configuration and plan",
    "store": "Artifacts",
    "learning": "Data, models, training",
    "engines": "What computes a model",
    "steps": "Steps",
    "serving": "Serving",
    "backends/local": "Runs on one machine",
    "backends/cluster": "Runs on Kubernetes",
    "events": "Events",
    "runs": "Records, MLflow",
    "cli": "Command line",
}


def render(package: Path) -> str:
    """Return a table for each room of the package.

    Args:
        package: Folder of the package's source.
    """
    parts = []
    for room, title in _ROOMS.items():
        rows = [
            row
            for file in sorted((package / room).rglob("*.py"))
            for row in _of_module(ast.parse(file.read_text(encoding="utf-8")))
        ]
        if rows:
            unique = list(dict.fromkeys(rows))
            parts += [f"### {title}", tables.table(("it says", "expected", "to do"), unique)]
    return "\n\n".join(parts)


def _of_module(module: ast.Module) -> Iterator[tuple[str, str, str]]:
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if not {"expected", "remedy"} <= named.keys():
            continue
        got = node.args[0] if node.args else named.get("got")
        texts = [_text(part) if part else "" for part in (got, named["expected"], named["remedy"])]
        if all(texts):  # what only hands on another's text has none of its own
            yield texts[0], texts[1], texts[2]


def _text(node: ast.expr) -> str:
    """The text of an expression, with `…` for what is known only then; empty for none at all."""
    match node:
        case ast.Constant(value=str(text)):
            return " ".join(text.split())
        case ast.JoinedStr(values=values):
            parts = [v.value if isinstance(v, ast.Constant) else "…" for v in values]
            joined = " ".join("".join(str(part) for part in parts).split())
            return joined if joined.strip("…:,. ") else ""
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_text(left)} {_text(right) or '…'}".strip()
    return ""
