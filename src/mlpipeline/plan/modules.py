"""Which modules code imports, directly or not: found without importing any of them.

Ours, and a user's own: every module whose source is neither Python's nor a library's, wherever it
lies. A library is what an installer has put into its folder: its version stands for its code.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from mlpipeline.errors import ConfigurationError

PACKAGE = __name__.partition(".")[0]
_LIBRARIES = {"site-packages", "dist-packages"}
# As Python's own finder looks for them: in a folder the first of these is the module.
_SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)


@dataclass(frozen=True)
class Reached:
    """What some modules need to be run.

    Attributes:
        modules: Themselves, and all modules that they import, directly or not: ours and the user's
            own, with the parents of these, which Python runs before them.
        libraries: The first part of the names of everything else that these import.
    """

    modules: frozenset[str]
    libraries: frozenset[str]

    @property
    def own(self) -> frozenset[str]:
        """The user's modules among them."""
        return frozenset(module for module in self.modules if not is_ours(module))


def is_ours(module: str) -> bool:
    """Tell whether a module is one of this package."""
    return module.partition(".")[0] == PACKAGE


@cache
def reached(*roots: str) -> Reached:
    """Return what modules need to be run.

    Args:
        roots: The modules' names.

    Raises:
        ConfigurationError: There is no such module, or one beside it is no Python.
    """
    always = {PACKAGE, *(root.partition(".")[0] for root in roots)}
    seen, libraries = set[str](), set[str]()
    queue = sorted(roots)
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        queue.extend(_parents(module))
        for imported in _imported(module, must_be_python=module.partition(".")[0] in always):
            top = imported.partition(".")[0]
            if top not in always and (is_ours(module) or _is_library(top)):
                libraries.add(top)
            elif (found := _nearest_module(imported)) is not None:
                queue.append(found)
    return Reached(frozenset(seen), frozenset(libraries))


@cache
def origin(module: str) -> Path | None:
    """Return the file of a module, found without importing its parents, and TensorFlow with them.

    Args:
        module: Its full name.

    Returns:
        Its source, a compiled module, or the archive that it is in; None where there is none, as
        for what is built into Python, or for a folder without `__init__.py`.
    """
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # also: no name at all, or `__main__`
        return None
    if spec is None:
        return None
    if not rest:
        return _file(Path(spec.origin)) if spec.has_location and spec.origin else None
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    files = [
        file
        for place in places
        for base in (place / "__init__", place)
        for file in (base.with_name(base.name + suffix) for suffix in _SUFFIXES)
    ]
    return next((file for file in files if file.is_file()), None)


def parse(module: str) -> ast.Module | None:
    """Return the code of a module; None where it is not source.

    Args:
        module: Its full name.

    Raises:
        ConfigurationError: There is no such module, or its source is no Python.
    """
    file = origin(module)
    if file is None:
        raise ConfigurationError(
            f"there is no Python module `{module}`",
            expected="a module that can be imported here",
            remedy="mend its name in the configuration, or install it or put it on PYTHONPATH",
        )
    if file.suffix not in SOURCE_SUFFIXES:
        return None
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError, RecursionError) as error:  # also: a null character
        raise ConfigurationError(
            f"the Python module `{module}` cannot be read: {error}",
            expected=f"Python that this interpreter understands in {file}",
            remedy="mend it there, or name another module in the configuration",
        ) from error


@cache
def distributions() -> dict[str, list[str]]:
    """Return the installed distributions that provide each name that can be imported."""
    return {name: sorted(found) for name, found in metadata.packages_distributions().items()}


def _file(path: Path) -> Path | None:
    """A path, or the archive that it is in."""
    return next((place for place in (path, *path.parents) if place.is_file()), None)


def _parse_if_python(module: str) -> ast.Module | None:
    try:
        return parse(module)
    except ConfigurationError:  # perhaps for another Python, and never imported: its bytes count
        return None


def _parents(module: str) -> Iterator[str]:
    """The packages that a module of the user's own is in, as far as they have code."""
    while not is_ours(module) and (module := module.rpartition(".")[0]):
        if origin(module) is not None:
            yield module


@cache
def _is_library(top: str) -> bool:
    """Whether a module is Python's, or is where an installer has put it.

    That is so in a folder of one's own, too (`pip install --target`); but not for what is
    installed to be edited: its files are elsewhere, or there is no record of them.
    """
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return True
    if spec is None:  # not here: only a version that it gets later can make a difference
        return True
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    places = places or ([Path(spec.origin).parent] if spec.has_location and spec.origin else [])
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    installed = [_record_folder(name) for name in distributions().get(top, ())]
    return all(
        _LIBRARIES & {*place.parts}
        or any(known in (place, *place.parents) for known in python)
        # Directly in it: a project may well have an environment of its own below itself.
        or any(folder in (place, place.parent) for folder in installed)
        for place in places
    )


def _record_folder(distribution: str) -> Path | None:
    """Where an installer has put a distribution, of whose files it has kept a record."""
    found = metadata.distribution(distribution)
    is_recorded = found.read_text("RECORD") is not None
    return Path(str(found.locate_file(""))) if is_recorded else None


@cache  # most modules are reached from several roots
def _imported(module: str, *, must_be_python: bool) -> frozenset[str]:
    tree = parse(module) if must_be_python else _parse_if_python(module)
    return frozenset(_imports(tree, module)) if tree else frozenset()


def _imports(tree: ast.Module, module: str) -> Iterator[str]:
    """The full names that a module imports: of modules, or of something in one."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = _absolute("." * level + (name or ""), module)
                # What is imported may be a module or a name in one: `_nearest_module` tells.
                yield from (f"{base}.{alias.name}" for alias in names)
                if any(alias.name == "*" for alias in names) and not is_ours(module):
                    yield from (f"{base}.{name}" for name in _exported(base))
            case ast.Call(func=function, args=[argument, *_]) if not is_ours(module):
                if _last_name(function) in ("import_module", "__import__", *_other_names(tree)):
                    yield from _by_name(argument, module)


def _by_name(argument: ast.expr, module: str) -> Iterator[str]:
    """The modules that `importlib.import_module` gets: of a computed name, all that it may be."""
    match argument:
        case ast.Constant(value=str(name)):
            yield _absolute(name, module)
        case (
            ast.JoinedStr(values=[ast.Constant(value=str(name)), *_])
            | ast.BinOp(left=ast.Constant(value=str(name)))
        ):
            package = _absolute(name.rpartition(".")[0], module)
            file = origin(package) if package else None
            if file is not None:
                yield from (f"{package}.{beside.stem}" for beside in file.parent.glob("*.py"))


def _last_name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _other_names(tree: ast.Module) -> Iterator[str]:
    """What `import_module` is called in a module that imports it by another name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "importlib":
            yield from (alias.asname for alias in node.names if alias.asname)


def _exported(package: str) -> Iterator[str]:
    """The names in a package's `__all__`, which a star imports, be they modules."""
    tree = _parse_if_python(package)
    for node in ast.walk(tree) if tree else ():
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AugAssign(target=ast.Name(id="__all__"), value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=value)
            ) if value is not None:
                constants = (n.value for n in ast.walk(value) if isinstance(n, ast.Constant))
                yield from (name for name in constants if isinstance(name, str))


def _absolute(name: str, module: str) -> str:
    """A name as an import in a module means it: `.models` in `shop.training` is `shop.models`."""
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    file = origin(module)
    is_package = file is not None and file.name.partition(".")[0] == "__init__"
    package = (module if is_package else module.rpartition(".")[0]).split(".")
    parents = package[: max(0, len(package) - level + 1)]
    return ".".join([*parents, name[level:]]).rstrip(".")


def _nearest_module(name: str) -> str | None:
    """The longest prefix of a dotted name that is a module with a file."""
    while name:
        if origin(name) is not None:
            return name
        name = name.rpartition(".")[0]
    return None
