"""Addresses to listen on and to connect to."""

from __future__ import annotations

import socket

import pytest

from mlpipeline import addresses
from mlpipeline.backends.local.processes import free_ports, reserved_port
from mlpipeline.errors import ProcessError
from support.not_tested import leave_out


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("a.example", "a.example:80")],
)
def test_ipv6_is_in_brackets_before_a_port(host: str, expected: str) -> None:
    assert addresses.join(host, 80) == expected


def test_what_listens_everywhere_is_reached_here() -> None:
    assert addresses.reachable("0.0.0.0") == "127.0.0.1"
    assert addresses.reachable("::") == "::1"
    assert addresses.reachable("a.example") == "a.example"


def test_an_address_is_of_its_family() -> None:
    assert addresses.resolve("127.0.0.1", 80) == (socket.AF_INET, ("127.0.0.1", 80))
    assert addresses.resolve("::1", 80)[0] == socket.AF_INET6


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "\udcff"])
def test_a_name_that_cannot_be_is_an_error_of_the_system(host: str) -> None:
    with pytest.raises(OSError, match=r".+"):
        addresses.resolve(host, 80)


@pytest.mark.parametrize("host", ["::1", "::", "0.0.0.0", "localhost"])
def test_a_port_of_any_host_is_held_and_found_taken(host: str) -> None:
    (port,) = free_ports(1)
    family, address = addresses.resolve(host, 0)
    try:
        with socket.socket(family) as probe:
            probe.bind(address)
    except OSError as error:
        leave_out("IPv6", why=str(error), to_do="turn it on in the kernel")
    with (
        reserved_port(host, port),
        pytest.raises(ProcessError, match=str(port)),
        reserved_port(host, port),
    ):
        pass


def test_a_host_that_is_not_there_is_an_error_that_names_it() -> None:
    with (
        pytest.raises(ProcessError, match=r"a\.\.b cannot be listened on"),
        reserved_port("a..b", 80),
    ):
        pass
