"""A new project: a folder that runs, is tested and deployed as it stands, to be changed from there.

What is in it lies in the folder `template`, itself a project that is called `my-project`.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mlpipeline.cli import new_folder
from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import modules
from mlpipeline.plan.config import ModelName

_TEMPLATE = "template"
_NAME, _PACKAGE = "my-project", "my_project"
_MODEL = TypeAdapter[str](ModelName)
_ALLOWED = re.compile(r"[a-z][a-z0-9_-]*")
_HARMLESS = {".git"}
_FOLDERS = {"configs", "workspace"}  # of every project: the code would be mixed with what is there


def write(folder: Path) -> list[Path]:
    """Write a new project; its name is that of the folder.

    Args:
        folder: Where to write it; not there yet, or empty.

    Returns:
        The files that were written, relative to the folder.

    Raises:
        ConfigurationError: There is something already, or its name is none for a Python package or
            for a model.
    """
    folder = folder.absolute()
    name, package = folder.name.replace("_", "-"), folder.name.replace("-", "_")
    _check_name(folder.name, package)
    new_folder.check(folder, harmless=_HARMLESS)
    written = []
    for path, text in _files(resources.files(__package__) / _TEMPLATE):
        path, text = (each.replace(_NAME, name).replace(_PACKAGE, package) for each in (path, text))
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(Path(path))
    return sorted(written)


def _files(folder: Traversable, below: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every file of the template."""
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _files(entry, f"{below}{entry.name}/")
        elif entry.is_file():
            # By its own name Git and the build of the package would go by it here.
            name = ".gitignore" if entry.name == "gitignore" else entry.name
            yield f"{below}{name}", entry.read_text(encoding="utf-8")


def _check_name(name: str, package: str) -> None:
    if not _ALLOWED.fullmatch(name) or not _is_of_a_model(name.replace("_", "-")):
        problem = "is no name for a model and a Python package"
    elif keyword.iskeyword(package):
        problem = "is a word of Python's own"
    elif package in _FOLDERS:
        problem = f"is that of a folder for other things: {package}/"
    elif (
        package in sys.stdlib_module_names
        or package in modules.distributions()
        or modules.origin(package) is not None
    ):
        problem = f"is called like the Python module `{package}`, which there is already"
    else:
        return
    raise ConfigurationError(
        f"the project's name `{name}` {problem}",
        expected=f"up to 40 small letters, digits and -, a letter first: {_NAME}",
        remedy="name it otherwise",
    )


def _is_of_a_model(name: str) -> bool:
    try:
        _MODEL.validate_python(name)
    except ValidationError:
        return False
    return True
