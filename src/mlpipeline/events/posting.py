"""Posts events to Argo's events API, and tries again until each is accepted.

An event may be posted any number of times, because its workflow is named after it. So whatever is
in doubt (no answer, a server that is starting or has too much to do) is simply tried again.
https://argo-workflows.readthedocs.io/en/stable/events/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential,
    wait_random_exponential,
)

from mlpipeline.errors import EventError
from mlpipeline.events.schema import Event

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds
_CALL_SECONDS = 30.0
_TRANSIENT = {httpx.codes.TOO_MANY_REQUESTS, *range(500, 600)}
# Argo's server hands on an admission policy's refusal with status 500, like a failure of its own.
_REFUSED = "denied request"
_FAILED = ("Failed", "Error")
# Steps that tell of a failure, or come after one: `undo` always fails.
_AFTERWARDS = ("undo", "record")


class _TransientError(Exception):
    """An answer that says nothing of the event: a later one may be another."""


@dataclass(frozen=True)
class Outcome:
    """What became of an event that was posted.

    Attributes:
        is_new: Whether it starts a workflow now: otherwise one of its name is there already.
        phase: How that other one is, in Argo's words, such as `Running`; empty if nobody says.
        message: What the step that failed first has said, or else what Argo says of the workflow.
    """

    is_new: bool
    phase: str = ""
    message: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether it was posted before, and was not done: posted again it is not done either."""
        return self.phase in _FAILED


def post(event: Event, *, url: str, token: str, namespace: str, seconds: float) -> Outcome:
    """Post an event; return whether it is new, or how it went when it was posted before.

    Args:
        event: What is posted.
        url: Address of Argo's server, such as `https://localhost:2746`.
        token: Bearer token of a service account that may post events.
        namespace: Kubernetes namespace of the event bindings and their workflows.
        seconds: Time-out of all attempts of one call together.

    Raises:
        EventError: It was refused, or not accepted in time.

    Example:
        What `mlpipeline cluster post` does::

            event = schema.read(Path("monday.json"))
            outcome = post(event, url=url, token=token, namespace="mlpipeline", seconds=60)
    """
    headers = {"authorization": f"Bearer {token}"}
    with _client(url, headers) as client:
        _check_binding(client, event.kind, namespace, seconds)
        response = _request(
            client,
            "POST",
            f"/api/v1/events/{namespace}/{event.kind}",
            seconds,
            content=event.model_dump(mode="json", exclude_unset=True),
            # Argo's server says so with status 500, like anything else that it could not create.
            settled_by=f'"{event.name}" already exists',
        )
        if response.is_success:
            return Outcome(is_new=True)
        return _before(client, event.name, namespace, seconds)


def _before(client: httpx.Client, name: str, namespace: str, seconds: float) -> Outcome:
    """Return how the workflow is that an event has started before."""
    path = f"/api/v1/workflows/{namespace}/{name}"
    try:
        fields = "status.phase,status.message,status.nodes"
        response = _request(client, "GET", path, seconds, query={"fields": fields})
    except EventError:  # gone since; or the token's rights are those of an earlier version
        return Outcome(is_new=False)
    status = response.json().get("status") or {}
    return Outcome(is_new=False, phase=str(status.get("phase", "")), message=_why(status))


def _why(status: Mapping[str, Any]) -> str:
    """Why a step has failed: the workflow itself says only that it was not tried again.

    The first one that has: what failed after it may have failed because of it.
    """
    nodes: Mapping[str, Mapping[str, Any]] = status.get("nodes") or {}
    retried = {name for node in nodes.values() for name in _attempts(node, nodes)}
    failed = [
        node
        for name, node in nodes.items()
        if node.get("type") in ("Pod", "Retry")
        and node.get("phase") in _FAILED
        and node.get("templateName") not in _AFTERWARDS
        and name not in retried
    ]
    for node in sorted(failed, key=_ended):
        attempts = [nodes[name] for name in _attempts(node, nodes)]
        for one in (*sorted(attempts, key=_ended, reverse=True), node):  # the last one says most
            if message := one.get("message"):
                return str(message)
    return str(status.get("message") or "")


def _attempts(node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The pods of what is tried again, by name: its children, but not the steps that follow."""
    if node.get("type") != "Retry":
        return []
    template = node.get("templateName")
    children = [name for name in node.get("children") or () if name in nodes]
    return [name for name in children if nodes[name].get("templateName") == template]


def _ended(node: Mapping[str, Any]) -> str:
    """When a node ended; one that never began has no such time, and is the last."""
    return str(node.get("finishedAt") or node.get("startedAt") or "~")


def _client(url: str, headers: dict[str, str]) -> httpx.Client:
    """Return a client, which asks the user's proxy for an address that is not of this machine.

    Raises:
        EventError: There cannot be one for such an address, or such a proxy.
    """
    try:
        return httpx.Client(base_url=url, headers=headers, timeout=_CALL_SECONDS)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise EventError(
            f"{url} cannot be asked: {error}",
            expected="a URL such as http://127.0.0.1:2746, and a proxy that speaks HTTP, or none",
            remedy="mend --url, or `unset all_proxy` and its like",
        ) from error


def _check_binding(client: httpx.Client, kind: str, namespace: str, seconds: float) -> None:
    """Check that something listens: without a binding an event is accepted, and nothing happens."""
    path = f"/api/v1/workflow-event-bindings/{namespace}"
    bindings = _request(client, "GET", path, seconds).json().get("items") or ()
    names = {binding["metadata"]["name"] for binding in bindings}
    if kind not in names:
        raise EventError(
            f"no binding is called {kind!r} in the namespace {namespace}",
            expected=f"one of {', '.join(sorted(names)) or 'none'}",
            remedy="deploy manifests/components/events: overlays/kind has it",
        )


def _request(
    client: httpx.Client,
    method: str,
    path: str,
    seconds: float,
    content: object = None,
    settled_by: str | None = None,
    query: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Return the first response that is a success, or an error with the text `settled_by`."""

    def attempt() -> httpx.Response:
        response = client.request(method, path, json=content, params=query)
        message = _message(response)
        if response.is_success or (settled_by is not None and settled_by in message):
            return response
        status = f"{response.status_code}: {message}"
        if response.status_code in _TRANSIENT and _REFUSED not in message:
            raise _TransientError(status)
        raise EventError(
            f"{client.base_url}{path} refused it with {status}",
            expected="that it is accepted",
            remedy="mend the event, or use a token of the service account `sender`",
        )

    # Half of each wait is random, so that senders that failed together spread.
    half = {"multiplier": _FIRST_WAIT / 2, "max": _LONGEST_WAIT / 2}
    retrying = Retrying(
        retry=retry_if_exception_type((httpx.TransportError, _TransientError)),
        wait=wait_exponential(**half) + wait_random_exponential(**half),
        stop=stop_before_delay(seconds),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except _TransientError as error:
        last = str(error)
    except httpx.TransportError as error:
        last = f"{type(error).__name__}: {error}"
    raise EventError(
        f"{client.base_url}{path} has not accepted it in {seconds:.0f} s; at last {last}",
        expected="Argo's server, and that it takes the event",
        remedy="post it again: it is done once, however often it is posted",
    )


def _message(response: httpx.Response) -> str:
    """Return what a response says: Argo's are JSON, those of what is between need not be."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()
