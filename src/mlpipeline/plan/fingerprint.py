"""The version of a step's code: a digest of everything that its result can depend on.

Taken from the code itself, so that nobody has to remember to raise a number: the step's module, all
modules of ours that it imports, directly or not, and the versions of the libraries that these name.
Comments, docstrings and formatting do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mlpipeline.errors import ConfigurationError

_PACKAGE = __name__.partition(".")[0]


@lru_cache
def code_version(*modules: str) -> str:
    """Return the digest of the code of `modules` and of what they import.

    A module outside of this package, such as one with a user's own model, is followed within its
    own top-level package.
    """
    own = {_PACKAGE} | {module.partition(".")[0] for module in modules}
    digest = hashlib.sha256()
    seen: set[str] = set()
    libraries: set[str] = set()
    queue = sorted(modules)
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        tree = _parse(module)
        for imported in _imports(tree, package=_package(module)):
            if imported.partition(".")[0] not in own:
                libraries.add(imported.partition(".")[0])
            elif (found := _nearest_module(imported)) is not None:
                queue.append(found)
    for module in sorted(seen):
        code = ast.unparse(_WithoutDocstrings().visit(_parse(module)))
        digest.update(f"{module}\n{code}\n".encode())
    for library, version in sorted(_versions(libraries).items()):
        digest.update(f"{library}=={version}\n".encode())
    return digest.hexdigest()


def module_of(reference: str) -> str | None:
    """Return the module that `package.module:function` names, or None for a built-in name."""
    module, separator, _ = reference.partition(":")
    return module if separator else None


@cache
def _origin(module: str) -> Path | None:
    """The source of a module, found without importing its parents, and TensorFlow with them."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # no name at all, or `__main__`
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    files = [file for p in places for file in (p.with_suffix(".py"), p / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


def _package(module: str) -> str:
    origin = _origin(module)
    is_package = origin is not None and origin.name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


def _parse(module: str) -> ast.Module:
    origin = _origin(module)
    if origin is None:
        raise ConfigurationError(
            f"there is no Python module `{module}`",
            expected="a module that can be imported here",
            remedy="mend its name in the configuration, or install it or put it on PYTHONPATH",
        )
    try:
        return ast.parse(origin.read_bytes(), filename=str(origin))
    except (SyntaxError, ValueError) as error:  # also: a null character
        raise ConfigurationError(
            f"the Python module `{module}` cannot be read: {error}",
            expected=f"Python that this interpreter understands in {origin}",
            remedy="mend it there, or name another module in the configuration",
        ) from error


def _imports(tree: ast.Module, *, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: `from .models import x`
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            # What is imported may be a module or a name in one: `_nearest_module` tells.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _nearest_module(name: str) -> str | None:
    """The longest prefix of a dotted name that is a module with source."""
    while name:
        if _origin(name) is not None:
            return name
        name = name.rpartition(".")[0]
    return None


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops strings that stand alone, those under fields too. What is left is never run."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        match node.value:
            case ast.Constant(value=str()):
                return None
        return node


def _versions(libraries: set[str]) -> dict[str, str]:
    """Versions of the installed distributions that provide the given import names."""
    distributions = _distributions()
    return {
        library: metadata.version(distributions[library][0])
        for library in libraries
        if library in distributions  # not the standard library
    }


@lru_cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(found) for name, found in metadata.packages_distributions().items()}
