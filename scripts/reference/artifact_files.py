"""The workspace: its folders, and a table of the fields of every JSON file in them."""

from __future__ import annotations

import inspect
import pkgutil
import textwrap
from importlib import import_module

from mlpipeline.store import layout, schemas
from mlpipeline.store.schemas.document import Document
from reference import docstrings, tables

# In the order in which a run makes them; what is not named comes last.
_ORDER = (
    *("dataset", "candidate", "selection", "gate", "rollout", "run"),
    *("prediction", "feedback", "manifest"),
)


def tree() -> str:
    """Return the folders and files of a workspace as the module of all paths draws them."""
    _, _, below = inspect.cleandoc(layout.__doc__ or "").partition("\n\n")
    drawn, _, _ = below.partition("\n\n")
    return f"```text\n{textwrap.dedent(drawn)}\n```"


def render() -> str:
    """Return a heading and a table for each type of file, and for the types of its parts."""
    parts: list[str] = []
    for module in sorted(pkgutil.iter_modules(schemas.__path__), key=_place):
        namespace = vars(import_module(f"{schemas.__name__}.{module.name}"))
        documents = [cls for cls in namespace.values() if _is_own_document(cls, module.name)]
        for cls in documents:
            parts += _describe(cls, namespace)
    return "\n\n".join(dict.fromkeys(parts))


def _place(module: pkgutil.ModuleInfo) -> int:
    return _ORDER.index(module.name) if module.name in _ORDER else len(_ORDER)


def _is_own_document(cls: object, module: str) -> bool:
    return (
        inspect.isclass(cls)
        and issubclass(cls, Document)
        and cls.__module__.rpartition(".")[2] == module
        and cls is not Document
        and "CALLED" in vars(cls)  # others are what several have in common
    )


def _describe(cls: type[Document], namespace: dict[str, object]) -> list[str]:
    schema = cls.model_json_schema(mode="serialization")
    parts = [f"## {cls.__name__}", docstrings.summary(cls), _fields(schema, cls)]
    for name, definition in schema.get("$defs", {}).items():
        part = namespace.get(name)
        if inspect.isclass(part) and "properties" in definition:
            text = f"### {name}\n\n{docstrings.summary(part)}\n\n{_fields(definition, part)}"
            parts.append(text)
    return parts


def _fields(schema: dict[str, object], cls: type) -> str:
    return tables.fields(schema, docstrings.of_fields(cls), with_defaults=False)
