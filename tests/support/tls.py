"""A server that speaks TLS, with a certificate of ten days that nobody has signed but itself."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_HOST = "127.0.0.1"


@contextlib.contextmanager
def tls_server(folder: Path) -> Iterator[str]:
    """Answer TLS while the body runs; yield the address.

    Args:
        folder: Where its key and certificate are written.
    """
    key, certificate = folder / "key", folder / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "10", "-subj", "/CN=a", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                connection, _ = listener.accept()
                connection.settimeout(5)
                with connection, context.wrap_socket(connection, server_side=True):
                    pass

    with socket.create_server((_HOST, 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        yield f"{_HOST}:{listener.getsockname()[1]}"
