"""Whose code a configuration may name: `package.module:function` of which packages.

Whoever writes a configuration says which function is called, with which arguments. On one's own
machine that is nobody else, and everything that can be imported may be named. Where one of these
variables is set, to nothing even, only what is in them may, and what installed packages declare:

    MLPIPELINE_PLUGINS          packages, by spaces: an image's `ENV`, or a person's own environment
    MLPIPELINE_CLUSTER_PLUGINS  the same for all pods: the ConfigMap `plugins`, the operator's
    [project.entry-points."mlpipeline.plugins"]  of a package's pyproject.toml: NAME = "my_project"

A package stands for all of its modules.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan.config import Config, module_of

VARIABLE, OF_CLUSTER = "MLPIPELINE_PLUGINS", "MLPIPELINE_CLUSTER_PLUGINS"
GROUP = "mlpipeline.plugins"
_OWN = "mlpipeline.learning"  # all that has a built-in name is there


def restrict() -> None:
    """Let this process, and those that it starts, name no more than is allowed expressly."""
    os.environ.setdefault(VARIABLE, "")


def check(references: Iterable[str]) -> None:
    """Check that functions may be named here; nothing is imported.

    Args:
        references: Built-in names, which may, and `package.module:function`.

    Raises:
        ConfigurationError: Some may not; names them all.
    """
    allowed = _allowed()
    if allowed is None:
        return
    refused = [r for r in references if (m := module_of(r)) is not None and not _is_in(m, allowed)]
    if refused:
        raise _refused(", ".join(f"`{reference}`" for reference in dict.fromkeys(refused)), allowed)


def check_configuration(config: Config) -> None:
    """Check every function that a configuration names.

    Raises:
        ConfigurationError: Some may not be named here; names them all.
    """
    check([config.data.dataset, *(each.model for each in config.candidates.values())])


def check_function(reference: str, function: Any) -> None:
    """Check where a function was written: a module also has the names that it imports itself.

    Args:
        reference: How it is named, for the message.
        function: What has that name.

    Raises:
        ConfigurationError: It is another package's.
    """
    allowed = _allowed()
    if allowed is None:
        return
    written = inspect.unwrap(getattr(function, "func", function))  # of a functools.partial
    module = getattr(written, "__module__", None)
    if module is not None and not _is_in(str(module), allowed):
        raise _refused(f"`{reference}`, which is `{module}`'s,", allowed)


def _allowed() -> list[str] | None:
    """Return the packages and modules that may be named; None where all may."""
    told = [os.environ[name] for name in (VARIABLE, OF_CLUSTER) if name in os.environ]
    if not told:
        return None
    return sorted({_OWN, *_declared(), *" ".join(told).replace(",", " ").split()})


@functools.cache
def _declared() -> frozenset[str]:
    points = metadata.entry_points(group=GROUP)
    return frozenset(point.value.partition(":")[0].strip() for point in points)


def _is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _refused(what: str, allowed: list[str]) -> ConfigurationError:
    others = [package for package in allowed if package != _OWN]
    return ConfigurationError(
        f"{what} may not be named here",
        expected="a built-in name, or `package.module:function` of "
        + (f"the packages {', '.join(others)}" if others else "a package that is allowed: none is"),
        remedy=f"who builds the image allows its package there (ENV {VARIABLE}=my_project), who "
        "runs the cluster in the ConfigMap `plugins`: docs/how-to/own-model.md",
    )
