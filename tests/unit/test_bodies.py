"""Bodies of requests as a server's application gets them."""

from __future__ import annotations

import asyncio
import gzip
import selectors
import zlib
from collections.abc import Coroutine
from typing import Any

import pytest
from kserve.errors import InvalidInput
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from mlpipeline.serving.bodies import LEAST_RATE, PAUSE_SECONDS, Bodies
from mlpipeline.serving.refusals import Unavailable
from mlpipeline.serving.room import Room

LIMIT = 10_000_000


def _read(content: bytes, *codings: str, step: int = 1000, sized: bool = True) -> list[bytes]:
    """Return the pieces in which an application gets a body."""
    starts = range(0, max(len(content), 1), step)
    sent = [
        {"type": "http.request", "body": content[i : i + step], "more_body": i != starts[-1]}
        for i in starts
    ]
    pieces: list[bytes] = []
    seen: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(name for name, _ in scope["headers"])
        while True:
            message = await receive()
            pieces.append(message["body"])
            if not message["more_body"]:
                return

    async def receive() -> Any:
        return sent.pop(0)

    async def send(_: Any) -> None:
        raise AssertionError

    headers = [(b"content-encoding", coding.encode()) for coding in codings]
    if sized:
        headers.append((b"content-length", str(len(content)).encode()))
    scope = {"type": "http", "headers": headers}
    room = Room(LIMIT)
    try:
        asyncio.run(Bodies(application, LIMIT, room)(scope, receive, send))
    finally:
        assert room.held == 0, "all is given back, whatever the end was"
    assert not codings or not seen, "they are not true any more"
    return pieces


@pytest.mark.parametrize("step", [1, 7, 10**9])
@pytest.mark.parametrize(
    ("codings", "compress"),
    [
        (("gzip",), gzip.compress),
        (("X-GZIP",), gzip.compress),
        (("identity", "gzip"), gzip.compress),
        (("deflate",), zlib.compress),
        (("deflate",), lambda content: zlib.compress(content)[2:-4]),
        (("gzip",), lambda content: gzip.compress(content[:3]) + gzip.compress(content[3:])),
    ],
)
def test_a_body_comes_as_it_was(codings: tuple[str, ...], compress: Any, step: int) -> None:
    content = bytes(range(256)) * 10
    assert b"".join(_read(compress(content), *codings, step=step)) == content
    assert b"".join(_read(compress(b""), *codings, step=step)) == b""


def test_what_becomes_large_comes_a_little_at_a_time() -> None:
    pieces = _read(gzip.compress(bytes(LIMIT)), "gzip")
    assert sum(map(len, pieces)) == LIMIT
    assert max(map(len, pieces)) <= 2**20


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("codings", [(), ("gzip",)])
def test_what_is_too_large_is_refused(codings: tuple[str, ...], sized: bool) -> None:
    content = bytes(LIMIT + 1)
    with pytest.raises(HTTPException) as refused:
        _read(gzip.compress(content) if codings else content, *codings, sized=sized)
    assert refused.value.status_code == 413


def test_what_is_compressed_may_not_be_larger_than_the_limit_itself() -> None:
    empty_members = gzip.compress(b"", mtime=0) * (LIMIT // 20 + 1)
    with pytest.raises(HTTPException) as refused:
        _read(empty_members, "gzip", sized=False)
    assert refused.value.status_code == 413


@pytest.mark.parametrize(
    "content", [b"", b"x", gzip.compress(b"x", mtime=0)[:-1], zlib.compress(b"x")]
)
def test_what_is_not_what_it_says_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="got a body that is not gzip"):
        _read(content, "gzip")


@pytest.mark.parametrize("codings", [("br",), ("gzip", "gzip"), ("gzip, deflate",)])
def test_an_unknown_coding_is_refused(codings: tuple[str, ...]) -> None:
    with pytest.raises(HTTPException) as refused:
        _read(b"x", *codings)
    assert refused.value.status_code == 415
    assert refused.value.headers == {"accept-encoding": "gzip, deflate"}


class Upload:
    """A request whose body comes when the test says so."""

    def __init__(self, room: Room, *codings: str) -> None:
        self._pieces: asyncio.Queue[Any] = asyncio.Queue()
        self.may_answer = asyncio.Event()
        headers = [(b"content-encoding", coding.encode()) for coding in codings]
        scope = {"type": "http", "headers": headers}
        bodies = Bodies(self._application, LIMIT, room)
        self.task = asyncio.create_task(bodies(scope, self._pieces.get, self._send))

    async def send(self, content: bytes, *, more: bool = True) -> None:
        """Send some bytes, and wait until they were read."""
        self.put(content, more)
        for _ in range(20):
            await asyncio.sleep(0)

    def put(self, content: bytes, more: bool) -> None:
        """Send some bytes."""
        self._pieces.put_nowait({"type": "http.request", "body": content, "more_body": more})

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await self.may_answer.wait()

    async def _send(self, _: Any) -> None:
        raise AssertionError


def test_bodies_share_room_until_they_are_answered() -> None:
    async def share() -> None:
        room = Room(100)
        first, second, third = (Upload(room) for _ in range(3))
        await first.send(bytes(60))
        await second.send(bytes(40), more=False)
        assert room.held == 100
        await third.send(bytes(1))
        with pytest.raises(Unavailable, match="got 1 bytes more, with 100 bytes of requests"):
            await third.task
        await first.send(b"", more=False)  # the end takes no room
        assert room.held == 100, "neither is answered yet"
        second.may_answer.set()
        await second.task
        assert room.held == 60
        fourth = Upload(room)
        await fourth.send(bytes(40), more=False)
        for upload in (first, fourth):
            upload.may_answer.set()
            await upload.task
        assert room.held == 0

    asyncio.run(share())


def test_a_body_takes_as_much_room_as_it_has_when_it_is_decompressed() -> None:
    async def share() -> None:
        room = Room(1_000)
        upload = Upload(room, "gzip")
        await upload.send(gzip.compress(bytes(900)), more=False)
        assert room.held == 900
        other = Upload(room, "gzip")
        await other.send(gzip.compress(bytes(900)), more=False)
        with pytest.raises(Unavailable):
            await other.task
        upload.task.cancel()  # its client has gone
        with pytest.raises(asyncio.CancelledError):
            await upload.task
        assert room.held == 0

    asyncio.run(share())


class _Clock(asyncio.SelectorEventLoop):
    """An event loop on which no time passes but that which everybody waits for."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def skip(timeout: float | None = None) -> Any:
            self.now += timeout or 0
            return select(0)

        selector.select = skip  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def _on_clock(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Clock) as runner:
        runner.run(test)


@pytest.mark.parametrize("codings", [(), ("gzip",)])
def test_a_body_that_stops_coming_is_refused_and_gives_its_room_back(
    codings: tuple[str, ...],
) -> None:
    async def stall() -> None:
        room = Room(LIMIT)
        content = bytes(LIMIT - 100)
        upload = Upload(room, *codings)
        await upload.send(gzip.compress(content) if codings else content)
        assert room.held == len(content)
        await asyncio.sleep(PAUSE_SECONDS - 0.1)
        assert not upload.task.done()
        with pytest.raises(HTTPException, match="bytes of a body after 11 s") as refused:
            await asyncio.wait_for(upload.task, 2)
        assert refused.value.status_code == 408
        assert refused.value.headers == {"connection": "close"}
        assert room.held == 0

    _on_clock(stall())


@pytest.mark.parametrize(("rate", "arrives"), [(1.1, True), (0.5, False)])
def test_a_body_may_come_slowly_but_not_too_slowly(rate: float, arrives: bool) -> None:
    async def trickle() -> None:
        room = Room(LIMIT)
        upload = Upload(room)
        upload.may_answer.set()
        for _ in range(20):  # 100 s, and no pause that is too long
            await upload.send(bytes(int(5 * rate * LEAST_RATE)))
            await asyncio.sleep(5)
        if arrives:
            await upload.send(b"", more=False)
            await upload.task
        else:
            with pytest.raises(HTTPException) as refused:
                await upload.task
            assert refused.value.status_code == 408
        assert room.held == 0

    _on_clock(trickle())


def test_a_byte_now_and_then_is_not_enough() -> None:
    async def drip() -> None:
        upload = Upload(Room(LIMIT))
        for _ in range(30):  # each of them sooner than any time-out
            await upload.send(b"x")
            await asyncio.sleep(0.5)
        with pytest.raises(HTTPException, match=r"bytes of a body after 1[01] s"):
            await upload.task

    _on_clock(drip())


def test_the_server_itself_may_take_its_time() -> None:
    async def work() -> None:
        room = Room(LIMIT)
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        for more in (True, True, False):
            pieces.put_nowait({"type": "http.request", "body": b"x", "more_body": more})

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive())["more_body"]:
                await asyncio.sleep(10 * PAUSE_SECONDS)
            # It has come, so a client that waits for its answer is not hurried.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 10 * PAUSE_SECONDS)

        async def send(_: Any) -> None:
            raise AssertionError

        await Bodies(application, LIMIT, room)({"type": "http", "headers": []}, pieces.get, send)

    _on_clock(work())


def test_bytes_that_came_while_the_event_loop_was_busy_are_read() -> None:
    async def be_busy() -> None:
        upload = Upload(Room(LIMIT))
        upload.may_answer.set()
        await upload.send(bytes(LEAST_RATE))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Clock)
        loop.now += PAUSE_SECONDS + 0.5  # timers are looked at first, and so see that it is late
        loop.call_later(0.1, upload.put, b"", False)
        await upload.task

    _on_clock(be_busy())


def test_a_body_that_is_there_at_once_starts_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[float] = []
    timeout = asyncio.timeout

    def count(seconds: float) -> asyncio.Timeout:
        started.append(seconds)
        return timeout(seconds)

    monkeypatch.setattr(asyncio, "timeout", count)
    _read(bytes(1000))
    _read(gzip.compress(bytes(1000)), "gzip")
    assert started == []
    _read(bytes(2000))
    assert started == [PAUSE_SECONDS]
