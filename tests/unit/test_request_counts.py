"""Requests for predictions are counted by what they were answered, also where that went wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode, aio
from starlette.types import ASGIApp, Receive, Scope, Send

from mlpipeline.serving import rest, rpc
from mlpipeline.serving.metrics import REQUESTS

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(autouse=True)
def _none_before() -> Iterator[None]:
    REQUESTS.clear()
    yield
    REQUESTS.clear()


def counted() -> dict[tuple[str, str], float]:
    """What was counted, by protocol and code, without what nothing was."""
    (family,) = REQUESTS.collect()
    return {
        (sample.labels["protocol"], sample.labels["code"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


def answering(status: int) -> ASGIApp:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    return app


async def failing(*_: Any) -> None:
    raise RuntimeError("a bug")


def ask(app: ASGIApp, *paths: str) -> None:
    async def sent(_: Any) -> None:
        pass

    async def requests() -> None:
        layer = rest._Counted(app, model="m")
        for path in paths:
            await layer({"type": "http", "path": path}, sent, sent)  # type: ignore[arg-type]

    asyncio.run(requests())


def test_predictions_of_both_protocols_of_rest_are_counted_and_nothing_else() -> None:
    ask(answering(200), "/v1/models/m:predict", "/v2/models/m/infer", "/v2/models/m/infer/")
    ask(answering(503), "/v1/models/m:predict", "/v2/health/ready", "/metrics", "/infer/x")
    assert counted() == {("rest", "200"): 3, ("rest", "503"): 1}


def test_an_error_that_nobody_handles_is_counted_as_the_answer_that_is_made_of_it() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        ask(failing, "/v1/models/m:predict")
    assert counted() == {("rest", "500"): 1}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, "OK"),
        (aio.AbortError(), "UNAVAILABLE"),
        (RuntimeError("a bug"), "UNKNOWN"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
def test_calls_of_grpc_are_counted_by_their_status(error: BaseException | None, code: str) -> None:
    context = SimpleNamespace(code=lambda: StatusCode.UNAVAILABLE)
    for method in (INFER, INFER.replace("ModelInfer", "ServerReady")):
        expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
        with expected, rpc._counted("m", context, method):
            if error:
                raise error
    assert counted() == {("grpc", code): 1}


def test_a_model_that_was_not_asked_yet_has_a_series_of_each_protocol() -> None:
    """A rate of what begins with its first request would miss that one."""
    rest._Counted(answering(200), model="m")
    rpc._Interceptor("replica-0", ["m"], room=SimpleNamespace())  # type: ignore[arg-type]
    (family,) = REQUESTS.collect()
    assert {sample.labels["code"] for sample in family.samples} == {"200", "OK"}
