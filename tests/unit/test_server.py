"""A replica's server: what it and KServe log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from mlpipeline import logs
from mlpipeline.serving.server import ReplicaServer, ServerSettings


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged as in a pod."""
    root, ours = logging.getLogger(), logging.getLogger("mlpipeline")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    stream = io.StringIO()
    logs.configure(step="serve", stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_kserve_and_uvicorn_log_in_our_form_and_their_chatter_is_left_out(
    log: io.StringIO,
) -> None:
    ReplicaServer(ServerSettings("127.0.0.1", 8080, 8081, "replica-0"), on_ready=lambda: None)
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        assert not logging.getLogger(name).handlers, name
        logging.getLogger(name).info("chat")
        logging.getLogger(name).error("%s is broken", name)
    lines = log.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        f'level=ERROR msg="{name} is broken" step=serve'
        for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access")
    ]
