"""A network in small: what is sent to a port of its own is passed on, counted, or swallowed."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Relay:
    """Passes on connections, both ways.

    Args:
        target: `host:port` to which they are passed on.

    Attributes:
        address: `host:port` to connect to.
        passed: Bytes that were passed on, both ways.
    """

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.passed = 0
        self._counting = threading.Lock()
        self._cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # wakes up who waits in `accept`
        self._server.close()

    def cut(self) -> None:
        """From now on pass on nothing, and close nothing, as a network that is down."""
        self._cut.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near:
            try:
                far = socket.create_connection(self._target)
            except ConnectionError:  # not there yet: the one who asks will ask again
                return
            with far:
                back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
                back.start()
                self._pass_on(near, far)
                back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one of the ends was killed
            while content := source.recv(1 << 16):
                if not self._cut.is_set():
                    sink.sendall(content)
                    with self._counting:
                        self.passed += len(content)
            sink.shutdown(socket.SHUT_WR)
