"""Which files a user's own data or code reads, as far as it can be told without running it.

Text in the code, or in its options, that is the path of a file or folder which is there names data.
Where the code computes its paths, or names what is no data, the configuration's key `files` says
what counts.
"""

from __future__ import annotations

import ast
import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from mlpipeline.errors import ConfigurationError, SourceError
from mlpipeline.plan import data_files, modules, permissions, sources
from mlpipeline.plan.config import Candidate, Config, Data, module_of
from mlpipeline.plan.data_files import Compared
from mlpipeline.plan.fingerprint import without_docstrings
from mlpipeline.store.layout import DATASETS, REQUESTS, RUNS

_LIMIT = 1_000_000  # ten seconds of looking
_LONGEST = 1_000
_NO_FILES = 16 * "0"  # known, and not to be looked for again
_SYSTEM = tuple(Path(name) for name in ("/proc", "/sys", "/dev"))
_PASSING = {Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm")}


def found(reference: str, section: Data | Candidate) -> Compared | None:
    """Return what the files of a function are like; None where it has none.

    Args:
        reference: `package.module:function`, a source such as `folder:PATH`, or a built-in name,
            which has no files.
        section: The section of the configuration that names it, and may say which files count.

    Raises:
        ConfigurationError: A pattern fits nothing, nothing lies where a source should, or a folder
            is too large to be data.
        SourceError: A source's table of paths cannot be read.
    """
    if source := sources.parse(reference):
        return sources.compare(source)
    named = _named(reference, section)
    # Somebody has said that these count, however many they are.
    limit = _LIMIT if section.files is None else None
    return data_files.compare(named, limit=limit) if named else None


def below(root: Path, candidate: Candidate) -> list[Path]:
    """Return the folders below a root that hold what a candidate's function reads.

    Of what lies at the root itself it is the files. Requests are for nobody's function.

    Args:
        root: A folder.
        candidate: The section of the configuration that names the function.

    Returns:
        Paths from the root; none is below another.

    Raises:
        ConfigurationError: A pattern of its `files` fits nothing.
    """
    root = root.resolve()
    named = _named(candidate.model, candidate)
    # As it is written, and where links lead: whoever opens the one needs the other, too.
    written = [Path(os.path.abspath(Path(text).expanduser())) for text in named]  # noqa: PTH100
    places = {place for path in (*written, *named.values()) for place in _with_targets(path)}
    inside = [
        path
        for path in places
        if root in path.parents and root / REQUESTS not in {path, *path.parents} and path.exists()
    ]
    holding = {p if p.is_dir() or p.parent == root else p.parent for p in inside}
    return sorted(p.relative_to(root) for p in holding if not holding & {*p.parents})


def _with_targets(path: Path) -> Iterator[Path]:
    """A path, and what it and the links below it lead to."""
    yield path
    yield path.resolve()
    if path.is_dir():
        yield from (each.resolve() for each in path.rglob("*") if each.is_symlink())


def _named(reference: str, section: Data | Candidate) -> dict[str, Path]:
    """The files and folders that a function reads, by their names."""
    module = module_of(reference)
    if module is None:
        return {}
    if section.files is not None:
        return _fitting(section.files)
    options = section.options if isinstance(section, Candidate) else {}
    return _named_by(module, set(_texts_in(options)))


def digest(reference: str, section: Data | Candidate) -> str | None:
    """Return the digest of what `found` finds, or found when the run began; None for no files.

    Args:
        reference: The function that a section of the configuration names.
        section: That section.
    """
    if section.files_digest is not None:
        return None if section.files_digest == _NO_FILES else section.files_digest
    files = found(reference, section)
    return files.digest if files else None


def pinned(config: Config) -> Config:
    """Return the configuration of a run that is about to begin: with what its files are like.

    So all steps of a run have the same keys, also where a step does not see the files, or they
    change in the meantime.

    Args:
        config: A configuration, as its file has it.

    Raises:
        ConfigurationError: It names a function that may not be named here; or what `found` raises.
    """
    permissions.check_configuration(config)  # before anything that it names is looked at
    data = _pinned(config.data, config.data.dataset)
    candidates = {name: _pinned(each, each.model) for name, each in config.candidates.items()}
    return config.model_copy(update={"data": data, "candidates": candidates})


def confirm(reference: str, section: Data | Candidate) -> None:
    """Look again, after the files were read.

    Args:
        reference: The function that a section of the configuration names.
        section: That section.

    Raises:
        SourceError: They are not what they were: what was read has no key.
    """
    before = digest(reference, section)
    data_files.forget()
    if digest(reference, section.model_copy(update={"files_digest": None})) != before:
        raise SourceError(
            f"the files of {reference} are not what they were when the run began",
            expected="that its steps see them, and that nobody changes them while it is under way",
            remedy="run again; or say which files count: `files` in the configuration",
        )


def compared(reference: str, section: Data | Candidate) -> str:
    """Say what a function's modules and files were compared by; empty for a built-in name.

    Args:
        reference: `package.module:function`, a source such as `folder:PATH`, or a built-in name.
        section: The section of the configuration that names it.
    """
    of_data = found(reference, section)
    module = module_of(reference)
    if module is None:
        return f"{_described(of_data)} are as they were" if of_data else ""
    count = len(modules.reached(module).own)
    line = f"{count} module{'s' * (count > 1)}"
    if of_data:
        return f"{line} and {_described(of_data)} are as they were"
    return f"{line} {'are as they were' if count > 1 else 'is as it was'}"


def _described(files: Compared) -> str:
    size = files.size / 1e6
    count = f"{files.files:,} file{'s' * (files.files != 1)}"
    return f"{count} ({size:.{0 if size >= 10 else 1}f} MB, by {files.by})"


_SectionT = TypeVar("_SectionT", Data, Candidate)


def _pinned(section: _SectionT, reference: str) -> _SectionT:
    if module_of(reference) is None and sources.parse(reference) is None:
        return section
    files = found(reference, section)
    return section.model_copy(update={"files_digest": files.digest if files else _NO_FILES})


def _fitting(patterns: Iterable[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for pattern in patterns:
        # Path.glob takes no absolute pattern.
        paths = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207
        if not paths:
            raise ConfigurationError(
                f"`files` has the pattern `{pattern}`, which fits nothing",
                expected=f"files or folders, absolute or below {Path.cwd()}",
                remedy="mend the pattern, or take it out",
            )
        named |= {path: Path(path) for path in paths}
    return named


def _named_by(module: str, options: set[str]) -> dict[str, Path]:
    """The files and folders that a module, its options and its imports name, by their names."""
    named: dict[str, Path] = {}
    places = set[Path]()
    for own in sorted(modules.reached(module).own):
        texts = filter(_may_be_a_path, _texts(own) | (options if own == module else set()))
        for text in sorted(texts):
            for path in _paths(text, own):
                if path not in places:
                    places.add(path)
                    # Where a text names several, each counts: which one is read is not known.
                    named[f"{text}#{len(places)}" if text in named else text] = path
    return named


def _texts(module: str) -> set[str]:
    """The texts in a module's code."""
    try:
        tree = modules.parse(module)
    except ConfigurationError:  # it counts by its bytes
        return set()
    nodes = ast.walk(without_docstrings(tree)) if tree else ()
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return {value for value in values if isinstance(value, str)}


def _texts_in(value: JsonValue) -> Iterator[str]:
    """The texts anywhere in a value of a configuration."""
    match value:
        case str():
            yield value
        case dict():
            yield from (text for each in value.values() for text in _texts_in(each))
        case list():
            yield from (text for each in value for text in _texts_in(each))


def _may_be_a_path(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and text.isprintable()


def _paths(text: str, module: str) -> Iterator[Path]:
    """What a text in a module may mean: below one of its folders, the working folder, or `/`."""
    for base in _bases(module):
        try:
            path = (base / Path(text).expanduser()).resolve()
            is_data = path.is_file() or (path.is_dir() and not _is_no_data(path, module))
        except (OSError, RuntimeError):  # too long; no such user; links in a circle
            continue
        if is_data and not any(path.is_relative_to(place) for place in _SYSTEM):
            yield path


def _bases(module: str) -> list[Path]:
    """The module's folder and those that it is below of, up to where it is imported from."""
    file = modules.origin(module)
    if file is None:
        return [Path.cwd()]
    depth = module.count(".") + (file.name.partition(".")[0] == "__init__")
    above = file.resolve().parents
    return list(dict.fromkeys([*above[: depth + 1], Path.cwd()]))


def _is_no_data(folder: Path, module: str) -> bool:
    """Whether a folder holds the code, or changes by itself: the home folder, a workspace."""
    files = (modules.origin(own) for own in modules.reached(module).own)
    held = (file.resolve() for file in files if file)
    return (
        any(place.is_relative_to(folder) for place in (Path.cwd(), Path.home(), *held))
        or folder in _PASSING | {Path(tempfile.gettempdir()).resolve()}
        or all((folder / name).is_dir() for name in (DATASETS, RUNS))
    )
