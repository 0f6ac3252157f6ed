"""The base of all types for JSON files: reading, checking, writing, and schema versions.

Each file says by `schema_version` which version of its type it has. A file that was written before
there were versions counts as version 0. When a type changes so that older files do not fit any
more, its `NEWEST` goes up and `_upgrade` says what the older ones mean now; where they cannot be
understood, reading ends in an error that says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mlpipeline.errors import ArtifactError, DamagedArtifactError, UnknownSchemaError
from mlpipeline.store import files


class Part(BaseModel):
    """A part of a document. Keys that this code does not know are left out on reading."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Document(Part):
    """The content of one JSON file.

    Attributes:
        schema_version: The version of the type that the content has.
    """

    NEWEST: ClassVar[int] = 1
    """The version that this code writes, and the newest that it can read."""
    CALLED: ClassVar[str] = "document"
    """What a message calls the content: `FILE is not a CALLED`."""

    schema_version: int = 1

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a file.

        Args:
            file: Where it is.

        Raises:
            MissingArtifactError: There is no such file.
            DamagedArtifactError: It is not JSON, or its content does not fit.
            UnknownSchemaError: It was written by a newer version of this code.
        """
        return cls.parse(files.read_json(file), origin=str(file))

    @classmethod
    def parse(cls, content: Any, *, origin: str) -> Self:
        """Check content that was read from JSON.

        Args:
            content: What was read.
            origin: The file, or whatever else messages are to name.

        Raises:
            DamagedArtifactError: It does not fit.
            UnknownSchemaError: It was written by a newer version of this code.
        """
        version = content.get("schema_version", 0) if isinstance(content, dict) else 0
        if not isinstance(version, int) or version < 0:
            raise cls._unfit(origin, f"its schema_version is {version!r}", version=None)
        if version > cls.NEWEST:
            raise UnknownSchemaError(
                f"{origin} has schema version {version}",
                expected=f"at most {cls.NEWEST}, the newest that this code knows",
                remedy="upgrade mlpipeline to the version that wrote it, or a later one",
            )
        try:
            content = cls._upgrade(content, version)
            if not isinstance(content, dict):
                raise TypeError(f"a {type(content).__name__} in place of an object")
            return cls.model_validate(content | {"schema_version": cls.NEWEST})
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors()
            )
            raise cls._unfit(origin, problems, version=version) from error
        except (KeyError, TypeError, ValueError) as error:
            raise cls._unfit(origin, f"{error}", version=version) from error

    def save(self, file: Path) -> None:
        """Write the content so that a reader sees the old file or the whole new one."""
        files.write_json(file, self.content())

    def content(self) -> dict[str, Any]:
        """Return what is written, as JSON has it: objects, lists, text and numbers."""
        return self.model_dump(mode="json")

    @classmethod
    def _upgrade(cls, content: Any, version: int) -> Any:
        """Return content of an older version as the newest has it; as it is where it still fits."""
        return content

    @classmethod
    def _unfit(cls, origin: str, problems: str, *, version: int | None) -> ArtifactError:
        of_version = f", written as schema version {version}" if version is not None else ""
        return DamagedArtifactError(
            f"{origin} is not a {cls.CALLED}: {problems}",
            expected=f"schema version {cls.NEWEST} of it{of_version}",
            remedy="run the step again; `make run` makes damaged artifacts anew",
        )
