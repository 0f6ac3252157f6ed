"""Events: what may be asked for from outside, on this machine and in a cluster.

An event is a JSON object. It is posted to Argo's events API, or dropped into `workspace/inbox`:

    {"kind": "predict",  "id": "monday", "model": "fashion-mnist", "folder": "images/monday"}
    {"kind": "train",    "id": "week-7", "configuration": {…, "data": {"revision": "week-7"}}}
    {"kind": "feedback", "id": "ann-1",  "model": "fashion-mnist", "time": "2026-11-24T09:00:00Z",
     "corrections": [{"image": "SHA-256 of its pixels", "label": "Coat"}]}

Whoever makes an event chooses its id. The same id again is the same event, and is done once; so who
has got no answer asks again.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, ValidationError

from mlpipeline.errors import EventError
from mlpipeline.plan import braces
from mlpipeline.plan.config import Config, ModelName
from mlpipeline.plan.section import FixedKeys
from mlpipeline.store.files import parse_json


def _below_the_workspace(folder: str) -> str:
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in folder:
        raise ValueError("expected a folder below the workspace, such as images/monday")
    return path.as_posix()


def _has_a_utc(time: datetime) -> datetime:
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time of the years 1 to 9999 in UTC") from None
    return time


# It becomes part of a Kubernetes name and of file names.
Id = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)]
Folder = Annotated[str, AfterValidator(_below_the_workspace)]


class _Event(FixedKeys):
    """What all events have."""

    id: Id
    """Chosen by who makes the event: the same id again is the same event."""
    kind: str
    """What is asked for; it also names the event binding in a cluster."""

    @property
    def name(self) -> str:
        """Name among the events of all kinds: its workflow's in a cluster, its file's here.

        Example:
            `predict-monday`, of the kind `predict` with the id `monday`.
        """
        return f"{self.kind}-{self.id}"


class PredictEvent(_Event):
    """Predict a folder of image files by the current version of a model."""

    kind: Literal["predict"]
    model: ModelName
    """The model whose current version predicts."""
    folder: Folder
    """The folder of the image files, relative to the workspace: `images/monday`."""


class TrainEvent(_Event):
    """Run the pipeline: on new data, or in another way."""

    kind: Literal["train"]
    configuration: Config
    """A whole configuration, as a configuration file has it."""


class CorrectedLabel(FixedKeys):
    """The right label of one image."""

    image: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of its raw pixels, as `learning.data.corrections` says."""
    label: str
    """The name of a class."""


class FeedbackEvent(_Event):
    """Corrected labels, which the next run of the model's pipeline joins with its data."""

    kind: Literal["feedback"]
    model: ModelName
    """The model that had predicted other labels."""
    time: Annotated[AwareDatetime, AfterValidator(_has_a_utc)]
    """When the labels were corrected: the later of two corrections of an image holds."""
    corrections: Annotated[tuple[CorrectedLabel, ...], Field(min_length=1, max_length=500)]
    """More of them come as several events: each is handed to its step as one argument."""


Event = PredictEvent | TrainEvent | FeedbackEvent
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read(file: Path) -> Event:
    """Read and check an event.

    Args:
        file: A file of one JSON object, in UTF-8, with or without a mark that says so.

    Raises:
        EventError: There is no such file, or it is not an event; names every problem.
    """
    try:
        return parse(file.read_text(encoding="utf-8-sig"), origin=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(f"cannot read {file}: {error}") from error


def read_posted(file: Path) -> Event:
    """Read an event that somebody else has put where it lies: as `read`, but no link or pipe.

    Args:
        file: A file of one JSON object, in UTF-8.

    Raises:
        EventError: There is no such file, or a link or a pipe, or it is not an event.
    """
    if file.is_symlink():
        raise _unusable(f"{file} is a link, and may lead to a file that is not its sender's")
    if not file.is_file():  # a pipe would be waited for, and all other events with it
        raise _unusable(f"{file} is no file")
    return read(file)


def as_argument(event: Event) -> str:
    """Return what `parse_argument` reads, in base64: Argo finds no double braces in it."""
    return base64.b64encode(event.model_dump_json(exclude_unset=True).encode()).decode()


def parse_argument(text: str, *, origin: str) -> Event:
    """Check an event that comes as an argument of a command line: JSON, or that in base64.

    Argo evaluates what stands between double braces in any argument. In base64 there are none.

    Args:
        text: One JSON object, or its encoding.
        origin: What messages call it: the option that it came by.

    Raises:
        EventError: It is not an event; names every problem.
    """
    if not text.lstrip().startswith("{"):
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, ValueError) as error:  # also: not UTF-8
            raise _unusable(f"{origin} is neither JSON nor that in base64: {error}") from error
    return parse(text, origin=origin)


def parse(text: str, *, origin: str) -> Event:
    """Check the JSON text of an event.

    Args:
        text: One JSON object.
        origin: What messages call it: a file's path, or the option that it came by.

    Raises:
        EventError: It is not an event; names every problem.

    Example:
        >>> text = '{"kind": "predict", "id": "monday", "model": "m", "folder": "images/monday"}'
        >>> parse(text, origin="an example").name
        'predict-monday'
    """
    try:
        content = parse_json(text)
        if places := braces.places(content):
            raise _unusable(
                f"{origin} has `{braces.OPEN}` in {', '.join(places)}: Argo would evaluate it"
            )
        return _EVENT.validate_python(content)
    except ValidationError as error:
        problems = "\n".join(f"  - {_describe(problem)}" for problem in error.errors())
        raise _unusable(f"{origin} is not an event:\n{problems}") from error
    except ValueError as error:
        raise _unusable(f"{origin} is not JSON: {error}") from error


def _describe(problem: Any) -> str:
    # The place begins with the kind, by which the schema was chosen.
    place = ".".join(str(part) for part in problem["loc"][1:])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


def _unusable(got: str) -> EventError:
    return EventError(
        got,
        expected="one JSON object, as src/mlpipeline/events/schema.py describes",
        remedy="mend it, and post it again",
    )
