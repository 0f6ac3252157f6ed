"""The page to try a model with: `GET /` for a browser, and what that page asks for.

    index.html       what is to be seen
    page.css
    page.js          asks the model by V2, as any client does
    preparation.js   makes an image of a picture, as `mlpipeline.image_files` does
    about.json       what the model is, with a test image of each class
    feedback         takes a `feedback` event, where that is allowed

All addresses are relative, and none is outside: it works behind a path, and without a network. Text
gets into it by `textContent` alone: the name of a class may be anything.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from importlib import resources
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import fastapi
import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from kserve.protocol.dataplane import DataPlane
from starlette.exceptions import HTTPException

from mlpipeline.errors import EventError
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.refusals import refusal

INDEX = "index.html"
ABOUT = "about.json"
FEEDBACK = "feedback"
FOLDER = "/page"
POLICY_HEADER = "content-security-policy"

_TYPES = {
    INDEX: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "preparation.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "cache-control": "no-cache",  # the next version has other classes
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'{}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LARGEST_EVENT = 64 * 2**10  # bytes: what the page posts has some hundred


class Part(NamedTuple):
    """A file of the page.

    Attributes:
        content: Its bytes.
        content_type: What they are.
        policy: What the page may load and ask: its `Content-Security-Policy`.
    """

    content: bytes
    content_type: str
    policy: str


class Page(Protocol):
    """What answers a browser: a replica itself, or a front by its replicas."""

    async def part(self, name: str) -> Part | None:
        """Return a file of the page; None if there is none of that name, or no page."""

    async def post(self, event: bytes) -> None:
        """Take a `feedback` event.

        Args:
            event: Its JSON.

        Raises:
            InvalidInput: It is not accepted.
        """


class ReplicaPage:
    """The page of a replica. All of it is held in memory."""

    def __init__(
        self,
        name: str,
        model: PublishedModel,
        *,
        feedback: str = "",
        post: Callable[[str], None] | None = None,
    ) -> None:
        """Make a page.

        Args:
            name: What the model is called in URLs.
            model: What predicts.
            feedback: The address that the page posts feedback to; empty for none.
            post: Takes feedback here, instead; it raises `EventError` for what it does not accept.
        """
        self._post = post
        if post:
            feedback = f"{FOLDER}/{FEEDBACK}".removeprefix("/")
        self._about = orjson.dumps(
            {
                "name": name,
                "version": model.version,
                "classes": model.classes,
                "shape": model.input_shape,
                "preparation": model.preparation and asdict(model.preparation),
                "examples": model.examples and model.examples.content(),
                "feedback": feedback,
            }
        )
        place = urlsplit(feedback)
        origin = f" {place.scheme}://{place.netloc}" if place.netloc else ""
        self._policy = _POLICY.format(origin)
        folder = resources.files(__name__)
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}

    async def part(self, name: str) -> Part | None:
        """Return a file of the page; None if there is none of that name."""
        if name == ABOUT:
            return Part(self._about, "application/json", self._policy)
        if name not in self._files:
            return None
        return Part(self._files[name], _TYPES[name], self._policy)

    async def post(self, event: bytes) -> None:
        """Take a `feedback` event.

        Args:
            event: Its JSON.

        Raises:
            InvalidInput: It is not accepted.
        """
        if self._post is None:
            raise refusal(
                "a `feedback` event",
                expected="none: this model server keeps no feedback",
                remedy="set `serving.feedback`, or post it where events are taken",
            )
        try:
            await asyncio.to_thread(self._post, event.decode())  # it waits for the disk
        except UnicodeDecodeError as error:
            raise refusal(f"{error}", expected="JSON, as UTF-8", remedy="mend it") from None
        except EventError as error:
            raise refusal(error.got, expected=error.expected, remedy=error.remedy) from None


class PageEndpoints:
    """Answers a browser; whoever else asks for `/` is told that the server lives, by KServe."""

    def __init__(self, page: Page, dataplane: DataPlane) -> None:
        """Make endpoints.

        Args:
            page: What is shown.
            dataplane: What answers others.
        """
        self._page = page
        self._dataplane = dataplane

    def register(self, app: fastapi.FastAPI) -> None:
        """Add them to an application: before KServe's, as the first that fits an address answers.

        Args:
            app: The application.
        """
        # Not FastAPI's kind of route: see `SharedPortServer`.
        app.add_route("/", self._index, methods=["GET"])
        app.add_route(f"{FOLDER}/{FEEDBACK}", self._feedback, methods=["POST"])
        app.add_route(FOLDER + "/{part}", self._part, methods=["GET"])

    async def _index(self, request: Request) -> Response:
        is_browser = "text/html" in request.headers.get("accept", "")
        part = await self._page.part(INDEX) if is_browser else None
        response = _shown(part) if part else JSONResponse(await self._dataplane.live())
        response.headers["vary"] = "accept"
        return response

    async def _part(self, request: Request) -> Response:
        part = await self._page.part(request.path_params["part"])
        if part is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _shown(part)

    async def _feedback(self, request: Request) -> Response:
        _check_sender(request.headers)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LARGEST_EVENT:
                raise refusal(
                    f"an event of more than {_LARGEST_EVENT} bytes",
                    expected="at most that",
                    remedy="post it to the inbox, or to Argo",
                )
        await self._page.post(body)
        return Response(status_code=HTTPStatus.ACCEPTED)


def _shown(part: Part) -> Response:
    headers = _HEADERS | {POLICY_HEADER: part.policy}
    return Response(part.content, media_type=part.content_type, headers=headers)


def _check_sender(headers: Mapping[str, str]) -> None:
    """Refuse what another site's page makes a browser post.

    A browser asks first before it sends JSON to another site, and is told no. And a name that leads
    here today may have been another server's a moment ago, whose page it is then.
    https://owasp.org/www-community/attacks/DNS_Rebinding

    Raises:
        InvalidInput: It is such a request, or may be one.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    kind = headers.get("content-type", "")
    is_json = kind.partition(";")[0].strip() == "application/json"
    is_own = origin in (None, f"http://{host}", f"https://{host}")
    if not (is_json and is_own and _is_fixed(host)):
        raise refusal(
            f"feedback from {origin or 'no page'} to {host or 'no host'}, as {kind or 'no type'}",
            expected="application/json, from this server's page, opened at localhost or an IP",
            remedy="open the page there",
        )


def _is_fixed(host: str) -> bool:
    """Whether a request's `Host` is no name that may lead elsewhere tomorrow."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
