"""Addresses of servers: IPv4, IPv6 and names, to listen on and to connect to."""

from __future__ import annotations

import socket
from typing import Any

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def join(host: str, port: int) -> str:
    """Return HOST:PORT as URLs and gRPC have it: IPv6 in brackets.

    Args:
        host: An address or a name.
        port: The port.

    Example:
        >>> join("::1", 8080), join("localhost", 8080)
        ('[::1]:8080', 'localhost:8080')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """Return where clients on this machine reach what listens on `host`.

    Args:
        host: An address to listen on, which may stand for all of them, or a name.
    """
    return _EVERYWHERE.get(host, host)


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address that a socket is bound to.

    Where a name has several addresses, all who listen on it take the same one.

    Args:
        host: An address or a name.
        port: The port.

    Raises:
        OSError: There is no such host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:  # no name that the DNS could have
        raise OSError(f"{host!r} is no name: {error}") from error
    family, _, _, _, address = found[0]
    return family, address
