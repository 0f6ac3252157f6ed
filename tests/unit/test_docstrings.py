"""Docstrings and help texts: plain sentences, and examples that hold.

That public names have docstrings, and their arguments lines, is ruff's (`D` in pyproject.toml).
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

# "Of the draws.", "For all of it." hang on the name above them. "For each image, its label is …" is
# a sentence: there a comma parts the opening from its subject and verb.
_BARE = re.compile(r"(Of|For|In)\s(?![^.:;]*,\s)")
_ENTRY = re.compile(r"^ {4}\*{0,2}\w+: (.*)$", re.MULTILINE)


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings (also of attributes), their lines of arguments, and help texts."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text), lineno=line)):
                text = text if text.startswith("\n") else f"\n{text}"
                first, _, rest = text.strip().partition("\n")
                yield line, first
                for entry in _ENTRY.finditer(_dedent(rest)):
                    yield line, entry.group(1)
            case ast.keyword(arg="help", value=ast.Constant(value=str(text), lineno=line)):
                yield line, text


def _dedent(text: str) -> str:
    lines = text.splitlines()
    margins = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    margin = min(margins, default=0)
    return "\n".join(line[margin:] for line in lines)


def _bare(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in _texts(ast.parse(source)) if _BARE.match(text)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_text_begins_with_a_bare_of_for_or_in(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert [f"{file}:{line}: {text}" for line, text in _bare(source)] == []


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ('def f():\n    """Of the next step."""', ["Of the next step."]),
        ('seed: int\n"""Of everything random."""', ["Of everything random."]),
        (
            'def f(a, b):\n    """Do it.\n\n    Args:\n        a: For all of it.\n'
            '        *b: In seconds.\n    """',
            ["For all of it.", "In seconds."],
        ),
        ('x = option("--queue", help="Of Kueue; empty: none.")', ["Of Kueue; empty: none."]),
        ('def f():\n    """Offsets of each.\n\n    Args:\n        a: Formats it.\n    """', []),
        ('def f():\n    """For each image, the label is kept."""', []),
    ],
    ids=["function", "attribute", "arguments", "help", "other words", "sentence"],
)
def test_bare_texts_are_found_and_sentences_are_not(source: str, texts: list[str]) -> None:
    assert [text for _, text in _bare(source)] == texts


WITH_EXAMPLES = [file for file in FILES if ">>> " in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_examples_hold(file: Path) -> None:
    name = ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
