"""The command line: every command with its arguments and options."""

from __future__ import annotations

import inspect
import socket
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from mlpipeline.cli.app import app
from mlpipeline.plan.config import RequestLogging
from mlpipeline.store.layout import Workspace
from reference import tables

_NONE = type(None)
_WORDS = {str: "text", int: "integer", float: "number", Path: "path", Workspace: "path"}
_WORDS |= {RequestLogging: "JSON"}


def render() -> str:
    """Return a heading, the usage and a table for each command."""
    return "\n\n".join(_describe(path, command) for path, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with the words that call it."""
    yield from _below("mlpipeline", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        if not below.hidden:
            yield from _below(f"{path} {name}", below)


def _describe(path: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = [path, "[OPTIONS]" if options else ""]
    words += [f"{a.name.upper()}{'...' if a.nargs == -1 else ''}" for a in arguments]
    parts = [
        f"## {path}",
        inspect.cleandoc(command.help or "").replace("\f", ""),
        f"```text\n{' '.join(filter(None, words))}\n```",
    ]
    if arguments:
        rows = [(f"`{a.name.upper()}`", _type(a), a.help or "") for a in arguments]
        parts.append(tables.table(("argument", "type", "meaning"), rows))
    if options:
        rows4 = [(_names(o), _type(o), _default(o), _meaning(o)) for o in options]
        parts.append(tables.table(("option", "type", "default", "meaning"), rows4))
    return "\n\n".join(part for part in parts if part)


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _type(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    annotation = parameter.type_descriptor.annotation
    kinds = [kind for kind in typing.get_args(annotation) or [annotation] if kind is not _NONE]
    limits = [
        f"{sign} {limit}"
        for sign, limit in (("≥", parameter.min), ("≤", parameter.max))
        if limit is not None
    ]
    several = ["several"] if parameter.nargs == -1 or parameter.multiple else []
    return ", ".join([_WORDS.get(kinds[0], kinds[0].__name__), *limits, *several])


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    if value == socket.gethostname():
        return "the host's name"
    if value is None or value == "" or "UNSET" in repr(value):
        return ""
    if getattr(option, "is_flag", False):
        return "on" if value else "off"
    return f"`{value}`"


def _meaning(option: Any) -> str:
    variable = f" Or the variable `{option.envvar}`." if option.envvar else ""
    return f"{option.help or ''}{variable}"
