"""Names in a configuration that stand for functions: built-in ones, and a user's own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from mlpipeline.errors import ConfigurationError, PipelineError
from mlpipeline.plan import permissions


def described(error: BaseException) -> str:
    """Return an error's kind, its first line, and where it was raised."""
    said = str(error).strip().splitlines()
    what = type(error).__name__ + (f": {said[0]}" if said else "")
    frames = traceback.extract_tb(error.__traceback__)
    return f"{what} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else what


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
    """Return why a function cannot be called with some arguments; None where it can.

    Args:
        function: The function, which is not called.
        *arguments: What it would be given by position.
        **options: What it would be given by name.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: nobody knows
        return None
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        return f"takes {signature}: {error}"
    return None


def resolve(
    reference: str, builtin: Mapping[str, Callable[..., Any]], *, kind: str
) -> Callable[..., Any]:
    """Return the function that a name stands for.

    Args:
        reference: A key of `builtin`, or `package.module:function`.
        builtin: The functions that have a name of their own.
        kind: What the functions make, for messages.

    Raises:
        ConfigurationError: There is no such function, or it may not be named here.
    """
    if reference in builtin:
        return builtin[reference]
    module, separator, name = reference.partition(":")
    if not separator:
        near = difflib.get_close_matches(reference, builtin, n=1, cutoff=0.5)
        raise ConfigurationError(
            f"unknown {kind} `{reference}`" + (f"; did you mean `{near[0]}`?" if near else ""),
            expected=f"one of {', '.join(sorted(builtin))}, or `package.module:function`",
            remedy=f"mend the {kind}'s name in the configuration",
        )
    permissions.check([reference])  # an import runs code, too
    try:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ModuleNotFoundError(f"`{module}` is no module's name")
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the {kind} `{reference}` cannot be imported: {error}",
            expected="`package.module:function` of a module that can be imported here",
            remedy="mend the name, or install the module or put it on PYTHONPATH",
        ) from error
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # of the module's own code
        raise ConfigurationError(
            f"the {kind} `{reference}` cannot be imported: its module raised {described(error)}",
            expected="a module that can be imported anywhere, and reads nothing until it is called",
            remedy="mend that place, or move it into the function",
        ) from error
    if not callable(function):
        raise ConfigurationError(
            f"the {kind} `{reference}` is a {type(function).__name__}",
            expected="a function",
            remedy="name the function that makes it",
        )
    permissions.check_function(reference, function)
    return function  # type: ignore[no-any-return]
