"""What all tests need of the process that they run in."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from mlpipeline.engines import Kind
from support.not_tested import pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]  # hooks

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
# The tests that press Ctrl-C must find it as it is in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Ended by SIGTERM, tests end what they have started, as at Ctrl-C.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# Servers here are asked directly, whatever proxy this machine has for others.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(
        [*filter(None, [os.environ.get(_name)]), "localhost,127.0.0.1,::1"]
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=["local", "kubernetes"],
        default="local",
        help="Whom the contract suite is about; kubernetes needs `make cluster image deploy`.",
    )


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def engine(request: pytest.FixtureRequest) -> Kind:
    """Who computes the answers: a test that asks for it, by itself or by a fixture, runs with both.

    These ask for it: what a run selects, serves and verifies, on both backends; what replicas
    answer and refuse, and how they end; a front's pieces; `serve` and `predict`. All others are
    about what is the same with either, because it comes before a model is made (data, training,
    keys) or sees only its array of probabilities (batches of images, events, a front's accidents,
    how requests are read). They run once, as configured: with LiteRT.
    """
    kind: Kind = request.param
    return kind


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command of ours that ran in this process has set up for its log."""
    root, ours = logging.getLogger(), logging.getLogger("mlpipeline")
    before = root.handlers[:], root.level, ours.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
