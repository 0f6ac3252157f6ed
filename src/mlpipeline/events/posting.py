"""Posts events to Argo's events API, and asks again until each is accepted.

An event may be posted any number of times: its workflow is named after it. So whatever is in doubt
(no answer, a server that is starting or has too much to do) is simply tried again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import httpx

from mlpipeline.errors import EventError
from mlpipeline.events.schema import Event

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds
_CALL_SECONDS = 30.0
_LATER = {httpx.codes.TOO_MANY_REQUESTS, *range(500, 600)}


def post(event: Event, *, url: str, token: str, namespace: str, seconds: float) -> bool:
    """Post an event; return whether it is new, or had been posted before.

    Args:
        event: What is posted.
        url: Of Argo's server.
        token: Of a service account that may post events.
        namespace: Of the bindings and their workflows.
        seconds: For all attempts together.

    Raises:
        EventError: It was refused, or not accepted in time.
    """
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=_CALL_SECONDS) as client:
        found = _answer(client, "GET", f"/api/v1/workflow-event-bindings/{namespace}", seconds)
        names = {item["metadata"]["name"] for item in found.json().get("items") or ()}
        if event.kind not in names:  # it would be accepted, and nothing would happen
            raise EventError(
                f"no binding is called {event.kind!r} in the namespace {namespace}",
                expected=f"one of {', '.join(sorted(names)) or 'none'}",
                remedy="deploy manifests/components/events: overlays/kind has it",
            )
        content = event.model_dump(mode="json", exclude_unset=True)
        path = f"/api/v1/events/{namespace}/{event.kind}"
        # Argo's server says so with status 500, like anything else that it could not create.
        there = f'"{event.name}" already exists'
        answer = _answer(client, "POST", path, seconds, content, unless=there)
    return answer.is_success


def _answer(
    client: httpx.Client,
    method: str,
    path: str,
    seconds: float,
    content: object = None,
    unless: str | None = None,
) -> httpx.Response:
    """The first answer that is a success, or an error with a text that settles it, too."""
    end = time.monotonic() + seconds
    for wait in _waits():
        try:
            answer = client.request(method, path, json=content)
        except httpx.TransportError as error:
            last = f"{type(error).__name__}: {error}"
        else:
            said = _message(answer)
            if answer.is_success or (unless is not None and unless in said):
                return answer
            last = f"{answer.status_code}: {said}"
            if answer.status_code not in _LATER:
                raise EventError(
                    f"{client.base_url}{path} refused it with {last}",
                    expected="that it is accepted",
                    remedy="mend the event, or use a token of the service account `sender`",
                )
        if time.monotonic() + wait > end:
            break
        time.sleep(wait)
    raise EventError(
        f"{client.base_url}{path} has not accepted it in {seconds:.0f} s; at last {last}",
        expected="Argo's server, and that it takes the event",
        remedy="post it again: it is done once, however often it is posted",
    )


def _message(answer: httpx.Response) -> str:
    """What an answer says: Argo's are JSON, those of what is between need not be."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()


def _waits() -> Iterator[float]:
    """Seconds between attempts: longer and longer, and uneven, so that senders spread."""
    wait = _FIRST_WAIT
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(2 * wait, _LONGEST_WAIT)
