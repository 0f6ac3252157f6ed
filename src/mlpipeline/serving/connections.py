"""HTTP connections that stay with HTTP/1.1, whatever else a client offers to speak.

Java's `HttpClient` and `curl --http2` send `Upgrade: h2c` with their first request. A server may
ignore that, but the parser below uvicorn stops after the headers of such a request, and its body is
lost. Here the request is read again without the header.
https://www.rfc-editor.org/rfc/rfc9110.html#name-upgrade
"""

from __future__ import annotations

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlpipeline.serving.refusals import explain

_OF_AN_UPGRADE = {b"upgrade", b"http2-settings"}


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's connection without upgrades, and with our form of a refusal."""

    def data_received(self, data: bytes) -> None:
        """Read what has come; asyncio calls it."""
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("a request that is not HTTP/1.1")

    def on_headers_complete(self) -> None:
        """Start to answer, unless the headers are to be read again; the parser calls it."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body, unless there is none yet; the parser calls it."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close the connection.

        Args:
            msg: What was got.
        """
        text = explain(
            msg,
            expected="a request as HTTP/1.1 has it",
            remedy="check the request line, the headers and their lengths",
        )
        body = orjson.dumps({"error": text})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", body]))
        self.transport.close()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("no proxy") from None
            (end_of_headers,) = stopped.args
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self._feed(head + data[end_of_headers:])

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(each for each in tokens if each.lower() not in _OF_AN_UPGRADE)
            if name not in _OF_AN_UPGRADE and (value or name != b"connection"):
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])
