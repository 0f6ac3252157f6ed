"""What a webhook is told at the end of a run: real servers that answer in all kinds of ways."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.backends.local import commands
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.backends.local.processes import free_ports
from mlpipeline.errors import ProcessError
from mlpipeline.plan import config
from mlpipeline.runs import webhook
from mlpipeline.runs.webhook import FORM_VARIABLE, URL_VARIABLE, Webhook
from mlpipeline.store.layout import RunFolder, Workspace
from mlpipeline.store.schemas.run import Machine, ProtocolFigures, Run, Verification
from support.fabricated_run import GATE

pytestmark = pytest.mark.timeout(60)

SECRET = "T0-B0-very-secret"  # the part of a webhook's URL that is its credential

_OF_REST, _OF_GRPC = (
    ProtocolFigures(
        protocol=protocol,
        images=images,
        max_difference=0.0,
        accuracy=accuracy,
        seconds=1.0,
        images_per_second=10_000.0,
    )
    for protocol, images, accuracy in (("REST", 500, 0.938), ("gRPC", 10_000, 0.9304))
)
RUN = Run(
    run="20261130-150207-7298",
    started="2026-11-30T15:02:07+00:00",
    config_file="default.yaml",
    config={"name": "fashion-mnist", "candidates": {}},
    machine=Machine(),
    state="succeeded",
    seconds=84.2,
    tasks=(),
    verification=Verification(replicas=(), protocols=(_OF_REST, _OF_GRPC)),
)


class Server:
    """Takes what is posted, and answers as it is told."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str, Any]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = _status(200)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                media_type = self.headers["content-type"]
                server.posted.append((self.path, media_type, json.loads(content)))
                server.answer(self)

            def do_GET(self) -> None:  # what a redirect would become
                server.posted.append((self.path, "", None))
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _status(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def _hang(_: BaseHTTPRequestHandler) -> None:
    time.sleep(20)


def _trickle(handler: BaseHTTPRequestHandler) -> None:
    """A byte every so often: no time-out of a socket ends that."""
    for _ in range(200):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return Workspace(tmp_path).run(RUN.run)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that anybody logs, in which the credential must never be."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert SECRET not in caplog.text


def _tell(url: str, folder: RunFolder, form: str = "json", run: Run = RUN) -> None:
    Webhook(url, form).tell(run, folder)


# --- what is posted ---------------------------------------------------------------------------


def test_programs_are_told_what_matters_of_the_record(server: Server, folder: RunFolder) -> None:
    served = ({"version": "fashion-mnist-1", "candidate": "cnn", "seconds": 60.0},)
    tasks = ({"name": "gate", "step": "gate", "key": "", "state": "succeeded", "seconds": 1.0},)
    content = RUN.content() | {"served": served, "tasks": tasks}
    run = Run.parse(content, origin="a test")
    _tell(server.url, folder, run=run)
    ((path, media_type, posted),) = server.posted
    assert (path, media_type) == (f"/services/{SECRET}", "application/json")
    assert posted == {
        "run": "20261130-150207-7298",
        "model": "fashion-mnist",
        "state": "succeeded",
        "outcome": "succeeded",
        "started": "2026-11-30T15:02:07+00:00",
        "ended": "2026-11-30T15:03:31.200000+00:00",
        "seconds": 84.2,
        "version": "fashion-mnist-1",
        "candidate": "cnn",
        "accuracy": 0.9304,
        "gate": None,
        "canary": None,
        "tasks": {"gate": "succeeded"},
        "error": None,
    }


def test_people_are_told_in_slacks_form_in_which_nothing_is_a_command(
    server: Server, folder: RunFolder
) -> None:
    error = "<!channel> the disk is full & <https://elsewhere.test|click>\n" + "x" * 5_000
    failed = RUN.model_copy(update={"state": "failed", "error": error})
    _tell(server.url, folder, "slack", failed)
    ((_, _, posted),) = server.posted
    assert posted.keys() == {"text"}
    first, second, _ = posted["text"].splitlines()
    assert first == "*fashion-mnist*: failed after 84 s (run 20261130-150207-7298)"
    assert second.startswith("&lt;!channel&gt; the disk is full &amp; &lt;https")
    assert len(posted["text"]) < 1_500


def test_people_are_told_what_is_served_and_what_the_gate_held_back() -> None:
    served = {"version": "fashion-mnist-1", "candidate": "cnn", "seconds": 60.0}
    run = Run.parse(RUN.content() | {"served": (served,)}, origin="a test")
    assert webhook.slack(run)["text"].splitlines()[1] == (
        "served: fashion-mnist-1 (cnn, 93.04% on the test split)"
    )
    gate = GATE | {"verdict": "kept", "reason": "less accurate than the current one"}
    task = {"name": "gate", "step": "gate", "key": "", "state": "succeeded", "seconds": 1.0}
    held = Run.parse(RUN.content() | {"tasks": (task | {"gate": gate},)}, origin="a test")
    assert webhook.slack(held)["text"].splitlines()[1] == (
        "gate: less accurate than the current one"
    )
    assert webhook.summary(held)["gate"]["verdict"] == "kept"


# --- what becomes of it -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204])
def test_it_is_told_and_the_log_says_so(
    server: Server, folder: RunFolder, logged: pytest.LogCaptureFixture, status: int
) -> None:
    server.answer = _status(status)
    _tell(server.url, folder)
    assert logged.messages[-1] == f"the webhook was told of {RUN.run}"


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_one_that_refuses_is_not_asked_again(
    server: Server, folder: RunFolder, logged: pytest.LogCaptureFixture, status: int
) -> None:
    server.answer = _status(status)
    _tell(server.url, folder)
    assert len(server.posted) == 1
    assert logged.messages[-1] == (
        f"the webhook was not told of {RUN.run}: it answered with status {status}"
    )
    assert logged.records[-1].levelname == "WARNING"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    server: Server, folder: RunFolder, logged: pytest.LogCaptureFixture, status: int
) -> None:
    elsewhere = Server()
    try:
        server.answer = _status(status, Location=elsewhere.url)
        _tell(server.url, folder)
        assert elsewhere.posted == []
        assert f"it answered with status {status}" in logged.messages[-1]
    finally:
        elsewhere.close()


@pytest.mark.parametrize("answer", [_hang, _trickle])
def test_one_that_hangs_is_left_after_the_deadline(
    server: Server,
    folder: RunFolder,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    monkeypatch.setattr(webhook, "DEADLINE_SECONDS", 1.0)
    server.answer = answer
    began = time.monotonic()
    _tell(server.url, folder)
    assert time.monotonic() - began < 10  # either goes on for 20 s
    assert len(server.posted) == 1
    assert logged.messages[-1].startswith(f"the webhook was not told of {RUN.run}: ")


def test_where_nobody_listens_the_log_says_so(
    folder: RunFolder, logged: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    _tell(f"http://127.0.0.1:{port}/{SECRET}", folder)
    assert logged.messages[-1].endswith(": ConnectionRefusedError")


@pytest.mark.parametrize(
    "url",
    [
        SECRET,
        f"ftp://hooks.test/{SECRET}",
        f"file:///etc/{SECRET}",
        f"data:,{SECRET}",
        f"http://hooks.test:{SECRET}/x",
        f"http://[{SECRET}/x",
        f"http://hooks.test/{SECRET}\x00",
        f"http://hooks.test/{SECRET} with spaces",
        f"https:///{SECRET}",
        f"http://hooks..test/{SECRET}\udcff",
        f"http://user:{SECRET}@127.0.0.1/",
    ],
)
def test_a_url_that_is_none_fails_nothing_and_is_not_said(
    folder: RunFolder, logged: pytest.LogCaptureFixture, url: str
) -> None:
    _tell(url, folder)
    assert logged.messages[-1].startswith(f"the webhook was not told of {RUN.run}: ")


# --- once -------------------------------------------------------------------------------------


def test_an_end_is_told_once_and_another_end_of_the_same_run_too(
    server: Server, folder: RunFolder, logged: pytest.LogCaptureFixture
) -> None:
    failed = RUN.model_copy(update={"state": "failed"})
    _tell(server.url, folder, run=failed)
    _tell(server.url, folder, run=failed)  # the pod of the step was started again
    assert logged.messages[-1] == f"the webhook was told before that {RUN.run} has failed"
    _tell(server.url, folder)  # the workflow was tried again
    assert [content["state"] for *_, content in server.posted] == ["failed", "succeeded"]


def test_where_that_cannot_be_written_down_it_is_told_all_the_same(
    server: Server, folder: RunFolder
) -> None:
    folder.path.parent.mkdir(parents=True)
    folder.path.write_text("a file where the run's folder should be")
    _tell(server.url, folder)
    assert len(server.posted) == 1


# --- where it comes from ----------------------------------------------------------------------


def test_it_is_taken_out_of_the_environment_and_a_newline_at_its_end_does_not_count() -> None:
    variables = {URL_VARIABLE: f"https://hooks.test/{SECRET}\n", FORM_VARIABLE: "slack\n", "A": "b"}
    taken = Webhook.taken_from(variables)
    assert taken == Webhook(f"https://hooks.test/{SECRET}", "slack")
    assert variables == {"A": "b"}
    assert SECRET not in repr(taken)


@pytest.mark.parametrize("url", ["", " \n"])
def test_without_a_url_there_is_none(url: str) -> None:
    assert Webhook.taken_from({URL_VARIABLE: url, FORM_VARIABLE: "?"}) is None
    assert Webhook.taken_from({}) is None


def test_a_form_that_is_not_known_is_said_and_fails_nothing(
    logged: pytest.LogCaptureFixture,
) -> None:
    variables = {URL_VARIABLE: f"https://hooks.test/{SECRET}", FORM_VARIABLE: SECRET}
    assert Webhook.taken_from(variables) is None
    assert logged.messages == [f"no webhook is told: {FORM_VARIABLE} is none of json, slack"]
    assert variables == {}


# --- a run on this machine --------------------------------------------------------------------


CONFIG = {"name": "shirts", "data": {"dataset": "synthetic"}, "candidates": {"a": {"model": "cnn"}}}


def _run(workspace: Path, monkeypatch: pytest.MonkeyPatch, url: str, work: Any) -> None:
    async def run(*_: Any, **__: Any) -> None:
        assert URL_VARIABLE not in os.environ, "what it starts would have it, too"
        work()

    monkeypatch.setenv(URL_VARIABLE, url)
    monkeypatch.setattr(LocalBackend, "run", run)
    monkeypatch.setattr(commands, "_conclude", lambda record, *_: record.save())
    settings = config.parse(CONFIG, origin="a test")
    commands.run(settings, Path("default.yaml"), Workspace(workspace))


def _files_with(text: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_a_run_on_this_machine_tells_its_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path, monkeypatch, server.url, lambda: None)
    ((_, _, posted),) = server.posted
    assert (posted["model"], posted["state"]) == ("shirts", "succeeded")
    assert _files_with("shirts", tmp_path)
    assert _files_with(SECRET, tmp_path) == []


def test_a_run_that_fails_is_told_and_its_own_error_is_what_is_raised(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ProcessError("it broke", expected="that it works", remedy="mend it")

    with pytest.raises(ProcessError, match="it broke"):
        _run(tmp_path, monkeypatch, server.url, fail)
    ((_, _, posted),) = server.posted
    assert posted["state"] == "failed"
    assert posted["error"].startswith("it broke\n")


@pytest.mark.parametrize("url", ["nowhere", f"http://127.0.0.1:1/{SECRET}"])
def test_a_webhook_that_cannot_be_told_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    _run(tmp_path, monkeypatch, url, lambda: None)
    (folder,) = Workspace(tmp_path).runs()
    assert Run.load(folder.record).state == "succeeded"
