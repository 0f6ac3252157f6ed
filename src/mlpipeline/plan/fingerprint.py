"""The version of a step's code: a digest of everything that its result can depend on.

Taken from the code itself, so that nobody has to remember to raise a number: the step's module, all
modules of ours and of the user's own that it imports, directly or not, and the versions of the
libraries that these name. Comments, docstrings and formatting do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import metadata

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import modules as sources
from mlpipeline.store.files import sha256


@lru_cache
def code_version(*modules: str) -> str:
    """Return the digest of the code of `modules` and of what they import.

    A module that is not source, such as a compiled one, counts by its content.

    Raises:
        ConfigurationError: There is no such module, or it is no Python.
    """
    reached = sources.reached(*modules)
    digest = hashlib.sha256()
    for module in sorted(reached.modules):
        digest.update(f"{module}\n{_code(module)}\n".encode(errors="surrogatepass"))
    for library, version in sorted(_versions(reached.libraries).items()):
        digest.update(f"{library}=={version}\n".encode())
    return digest.hexdigest()


def without_docstrings(tree: ast.Module) -> ast.AST:
    """Drop strings that stand alone, those under fields too. What is left is never run."""
    return _WithoutDocstrings().visit(tree)  # type: ignore[no-any-return]


@cache  # most modules are in the code of several steps
def _code(module: str) -> str:
    """Return what a module does, whatever its comments, docstrings and formatting are."""
    try:
        tree = sources.parse(module)
        if tree is not None:
            return ast.unparse(without_docstrings(tree))
    except (ConfigurationError, RecursionError):  # whoever may not have that was told before
        pass
    file = sources.origin(module)
    return sha256(file) if file else ""


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        match node.value:
            case ast.Constant(value=str()):
                return None
        return node


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of the installed distributions that provide the given import names."""
    distributions = sources.distributions()
    return {
        library: metadata.version(distributions[library][0])
        for library in libraries
        if library in distributions  # not the standard library
    }
