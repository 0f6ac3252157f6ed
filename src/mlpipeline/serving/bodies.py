"""Bodies of requests: not too large, not too many, not too slow, and decompressed."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus

from kserve.errors import InvalidInput
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlpipeline.serving.refusals import refusal
from mlpipeline.serving.room import Room, Share

CODINGS = ("gzip", "deflate")
"""What a body may be compressed with, as `Content-Encoding` names it."""

PAUSE_SECONDS = 10.0
"""How long the next bytes of a body may be in coming."""

LEAST_RATE = 64 * 2**10
"""Bytes a second of a body, on average, not counting the first `PAUSE_SECONDS`."""

_AGAIN_SECONDS = 1.0
_ALSO = {"x-gzip": "gzip"}  # https://www.rfc-editor.org/rfc/rfc9110.html#name-gzip-coding
_PIECE = 2**20
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Bodies:
    """Hands on each request's body as it was before it was compressed.

    A body that is too large is refused: by its own account, or as soon as it is. That goes for
    what it was compressed from, too. One for which there is no room beside the others is refused
    for now: as it comes, so that who only announces a large one keeps nobody else away. One that
    has begun to come must go on coming, or it is refused and holds its room no longer.
    """

    def __init__(self, app: ASGIApp, max_body: int, room: Room) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            max_body: The most bytes that a body may have.
            room: What the bodies of all requests share, until they are answered.
        """
        self._app = app
        self._max_body = max_body
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; uvicorn calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        receive = _in_time(receive)
        with self._room.share() as share:
            headers = Headers(scope=scope)
            length = headers.get("content-length")
            if length is None:  # sent in chunks; otherwise uvicorn reads no more than was announced
                receive = self._limited(receive)
            elif int(length) > self._max_body:
                receive = _too_large
            codings = ",".join(headers.getlist("content-encoding")).lower().split(",")
            named = [each.strip() for each in codings]
            coding = ", ".join(each for each in named if each not in ("", "identity"))
            if coding:
                receive = self._limited(_decoded(receive, _ALSO.get(coding, coding)))
                headers_of_the_coded = (b"content-encoding", b"content-length")
                kept = [each for each in scope["headers"] if each[0] not in headers_of_the_coded]
                scope = {**scope, "headers": kept}
            await self._app(scope, _held(receive, share), send)

    def _limited(self, receive: Receive) -> Receive:
        size = 0

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message if size <= self._max_body else await _too_large()

        return counting


def _in_time(receive: Receive) -> Receive:
    """Refuse a body that stops coming, or comes too slowly.

    Only what a client is waited for counts, not how long its bytes are worked on. A body that is
    there at once starts no timer; one of which nothing has come yet holds no room.
    """
    received, waited, coming = 0, 0.0, False

    async def hurrying() -> Message:
        nonlocal received, waited, coming
        if coming:
            now = asyncio.get_running_loop().time
            began = now()
            left = PAUSE_SECONDS + received / LEAST_RATE - waited
            message = await _soon(receive, min(PAUSE_SECONDS, left)) if left > 0 else None
            waited += now() - began
            if message is None:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"{received} bytes of a body after {waited:.0f} s, and not its end",
                    {"connection": "close"},
                )
        else:
            message = await receive()
        received += len(message.get("body", b""))
        coming = message.get("more_body", False)
        return message

    return hurrying


async def _soon(receive: Receive, seconds: float) -> Message | None:
    # Twice: if the event loop was busy all the time, what has come is not read yet.
    for limit in (seconds, _AGAIN_SECONDS):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                return await receive()
    return None


def _held(receive: Receive, share: Share) -> Receive:
    async def holding() -> Message:
        message = await receive()
        share.take(len(message.get("body", b"")))
        return message

    return holding


async def _too_large() -> Message:
    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _decoded(receive: Receive, coding: str) -> Receive:
    if coding in CODINGS:
        return _decode(receive, coding).__anext__

    async def refusing() -> Message:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding: {coding}",
            {"accept-encoding": ", ".join(CODINGS)},
        )

    return refusing


async def _decode(receive: Receive, coding: str) -> AsyncIterator[Message]:
    decoder, more = _Decoder(coding), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            yield message
            continue
        more = message.get("more_body", False)
        for piece in decoder.feed(message.get("body", b"")):
            yield {"type": "http.request", "body": piece, "more_body": True}
            await asyncio.sleep(0)  # others get their turn
    decoder.end()
    yield {"type": "http.request", "body": b"", "more_body": False}
    while True:
        yield await receive()


class _Decoder:
    """Decompresses a body piece by piece, as little of it at a time as is asked for."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._decompressor: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what comes of some more bytes, `_PIECE` bytes at a time.

        Raises:
            InvalidInput: They are not what the coding's name says.
        """
        while data:
            if self._decompressor is None:
                self._decompressor = zlib.decompressobj(self._format(data[0]))
            try:
                piece = self._decompressor.decompress(data, _PIECE)
            except zlib.error as error:
                raise self._wrong(str(error)) from None
            if piece:
                yield piece
            data = self._decompressor.unconsumed_tail
            if self._decompressor.eof:
                data = self._decompressor.unused_data
                if data and self._coding != "gzip":
                    raise self._wrong(f"{len(data)} bytes after its end")
                if data:  # a file of gzip may have several members
                    self._decompressor = None

    def end(self) -> None:
        """Check that it was all.

        Raises:
            InvalidInput: The body ended too early.
        """
        if self._decompressor is None or not self._decompressor.eof:
            raise self._wrong("it ends too early")

    def _format(self, first: int) -> int:
        if self._coding == "gzip":
            return _GZIP
        # It means zlib's format, but some clients send what is in it without its header.
        return _ZLIB if first & 0x0F == zlib.DEFLATED else _RAW

    def _wrong(self, why: str) -> InvalidInput:
        return refusal(
            f"a body that is not {self._coding}: {why}",
            expected=f"what `Content-Encoding: {self._coding}` says",
            remedy="compress the whole body once, or leave the header out",
        )
