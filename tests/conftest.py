"""What all tests need of the process that they run in."""

import signal

import pytest

from support.not_tested import pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]  # hooks

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
# The tests that press Ctrl-C must find it as it is in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=["local", "kubernetes"],
        default="local",
        help="Whom the contract suite is about; kubernetes needs `make cluster image deploy`.",
    )
