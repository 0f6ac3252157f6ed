"""The place of a folder that a command writes for somebody: nothing is written over."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from mlpipeline.errors import ConfigurationError


def check(folder: Path, *, harmless: Set[str] = frozenset()) -> None:
    """See that a folder can be written.

    Args:
        folder: Where it is to be.
        harmless: Names of what may be in it already.

    Raises:
        ConfigurationError: There is something already.
    """
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    is_another = (folder.exists() or folder.is_symlink()) and not folder.is_dir()
    if is_another or set(found) - harmless:
        raise ConfigurationError(
            f"{folder} is there already"
            + (f", with {', '.join(found[:3])}{', …' * (len(found) > 3)}" if found else ""),
            expected="a folder that is not there yet, or is empty: nothing is written over",
            remedy="name another folder, or move this one out of the way",
        )
