"""The strings that stand under the fields of a class."""

from __future__ import annotations

import ast
import inspect
import textwrap


def of_fields(cls: type) -> dict[str, str]:
    """Return the string under each field of a class and of its bases, in one line each."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("mlpipeline"):
            found |= _own(base)
    return found


def _own(cls: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = _attributes(inspect.cleandoc(cls.__doc__ or ""))
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def _attributes(docstring: str) -> dict[str, str]:
    """The section `Attributes:` of a docstring in google style."""
    _, _, section = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if not line.strip():
            continue
        if not line.startswith("    "):
            break
        if not line.startswith("     ") and ":" in line:
            name, _, text = line.strip().partition(":")
            found[name] = text.strip()
        elif name:
            found[name] += " " + line.strip()
    return found


def summary(cls: type) -> str:
    """Return the first paragraph of a class's docstring, in one line."""
    return " ".join((inspect.cleandoc(cls.__doc__ or "")).split("\n\n")[0].split())
