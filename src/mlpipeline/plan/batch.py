"""Batch predictions as artifacts: the files of a folder, and the key of what a model says of them.

The key follows from the content of the files and the version of the model. So to ask again costs
nothing, and a folder that has changed, or another current version, is another prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlpipeline.errors import ServingError
from mlpipeline.plan.fingerprint import code_version
from mlpipeline.store import artifacts, registry
from mlpipeline.store.files import sha256
from mlpipeline.store.layout import PREDICTIONS, Workspace


@dataclass(frozen=True)
class Batch:
    """A folder of files to predict.

    Attributes:
        folder: The folder of the files.
        files: The SHA-256 of each file by its path in the folder, sorted.
        links: Paths of what is a link, or behind one, in the folder: these are not followed.
        model: What the model is called.
        published: The folder of the version that predicts.
        key: The key of the predictions: they are published in `predictions/KEY`.
    """

    folder: Path
    files: dict[str, str]
    model: str
    published: Path
    key: str
    links: tuple[str, ...] = ()

    @property
    def publishes(self) -> Path:
        """The predictions' folder below the workspace."""
        return Path(PREDICTIONS, self.key)


def plan(workspace: Workspace, model: str, folder: str) -> Batch:
    """Return what is to be predicted by the current version of a model.

    Args:
        workspace: The folder of all artifacts.
        model: What the model is called.
        folder: The files' folder below the workspace; hidden files are left out.

    Raises:
        ServingError: There is no such folder or no file in it, or no current model.
    """
    place = workspace.root / folder
    root = workspace.root.resolve()
    # Whoever can write below the workspace must not reach by a link what only this step can read.
    if place.resolve() != root / folder or root not in place.resolve().parents:
        raise _no_files(f"{place} is not below {workspace}, or behind a link")
    paths = {
        path.relative_to(place).as_posix(): path
        for path in place.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(place).parts)
    }
    links = tuple(sorted(name for name, path in paths.items() if path.is_symlink()))
    found = {n: path for n, path in paths.items() if n not in links and path.is_file()}
    if not found and not links:
        raise _no_files(f"there are no files in {place}")
    digests = {name: sha256(path) for name, path in sorted(found.items())}
    version = registry.current(workspace, model)
    code = code_version("mlpipeline.steps.batch_prediction")
    parameters = {"files": digests} | ({"links": links} if links else {})
    return Batch(
        folder=place,
        files=digests,
        model=model,
        published=workspace.model(model, version).path,
        key=artifacts.make_key(model, code=code, parameters=parameters, inputs=[version]),
        links=links,
    )


def _no_files(got: str) -> ServingError:
    return ServingError(
        got,
        expected="a folder of image files below the workspace",
        remedy="put the images there first, then ask again",
    )
