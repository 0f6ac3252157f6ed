"""Puts events into the inbox of a workspace: for programs, and for who can only ask a server."""

from __future__ import annotations

from collections.abc import Collection

from mlpipeline.errors import EventError
from mlpipeline.events import schema
from mlpipeline.store import artifacts
from mlpipeline.store.layout import InboxFolder

_MOST_WAITING = 1_000  # of somebody who posts for ever, whoever that is


def put(inbox: InboxFolder, event: schema.Event) -> bool:
    """Put an event into the inbox; return whether it is new.

    One that was put there before stays as it is, whatever became of it.

    Args:
        inbox: The inbox.
        event: What is to be done.
    """
    file = inbox.waits(event.name)
    if any(before.exists() for before in (file, inbox.done(event.name), inbox.failed(file))):
        return False
    artifacts.write_json(file, event.model_dump(mode="json", exclude_unset=True))
    return True


def drop(inbox: InboxFolder, text: str, *, model: str, classes: Collection[str]) -> None:
    """Put a `feedback` event of a model into the inbox. The same one again changes nothing.

    Args:
        inbox: The inbox.
        text: The event, as JSON.
        model: The model's name.
        classes: The names of its classes.

    Raises:
        EventError: It is no such event, or another one has its id, or too many wait.
    """
    event = schema.parse(text, origin="what was posted")
    if not isinstance(event, schema.FeedbackEvent) or event.model != model:
        raise _unfit(f"a `{event.kind}` event", f"a `feedback` event of {model}")
    if unknown := {each.label for each in event.corrections} - set(classes):
        raise _unfit(f"the label {min(unknown)!r}", f"a class of {model}")
    file = inbox.waits(event.name)
    if file.exists():
        if schema.read_posted(file) != event:
            raise _unfit(f"another event with the id {event.id}", "an id for each event")
    elif sum(1 for _ in inbox.waiting()) >= _MOST_WAITING:
        raise EventError(
            f"{_MOST_WAITING} events that wait already",
            expected="fewer",
            remedy="have them done: mlpipeline watch",
        )
    else:
        artifacts.write_json(file, event.model_dump(mode="json"))


def _unfit(got: str, expected: str) -> EventError:
    return EventError(got, expected=expected, remedy="mend it, and post it again")
