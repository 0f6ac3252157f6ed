"""Posting an event until it is accepted: to a real server that gives all kinds of answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlpipeline.backends.local.processes import free_ports
from mlpipeline.cli import app
from mlpipeline.errors import EventError
from mlpipeline.events import posting, schema
from mlpipeline.events.posting import Outcome
from mlpipeline.events.schema import Event
from support.sample_events import FEEDBACK, PREDICT, TRAIN

BINDINGS = {"items": [{"metadata": {"name": name}} for name in ("predict", "train", "feedback")]}
SAID = "main: Error (exit code 1): error: no folder\n  expected: one\n  to do:    make it"
THERE = (
    "failed to dispatch event: [failed to create workflow: workflows.argoproj.io "
    '"predict-monday" already exists, the server was not able to generate a unique name]'
)


@dataclass
class Server:
    """Stands for Argo's: gives one answer after the other to what is posted, then says yes."""

    url: str = ""
    bindings: dict[str, Any] = field(default_factory=lambda: BINDINGS)
    answers: list[tuple[int, str]] = field(default_factory=list)
    posted: list[tuple[str, str | None, Any]] = field(default_factory=list)
    workflow: tuple[int, dict[str, Any]] = (404, {"code": 5, "message": "not found"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/api/v1/workflows/mlpipeline/predict-monday":
                assert query == "fields=status.phase%2Cstatus.message%2Cstatus.nodes"
                assert self.headers["authorization"] == "Bearer secret"
                self._answer(made.workflow[0], json.dumps(made.workflow[1]))
                return
            assert self.path == "/api/v1/workflow-event-bindings/mlpipeline"
            self._answer(200, json.dumps(made.bindings))

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["content-length"])))
            made.posted.append((self.path, self.headers["authorization"], content))
            self._answer(*(made.answers.pop(0) if made.answers else (200, "{}")))

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(posting, "_FIRST_WAIT", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        made.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=[0.01])
        thread.start()
        yield made
        listening.shutdown()
        thread.join()


def event(content: dict[str, Any]) -> Event:
    return schema.parse(json.dumps(content), origin="test")


def post(server: Server, content: dict[str, Any] = PREDICT, seconds: float = 60) -> Outcome:
    return posting.post(
        event(content), url=server.url, token="secret", namespace="mlpipeline", seconds=seconds
    )


@pytest.mark.parametrize("content", [PREDICT, TRAIN, FEEDBACK], ids=lambda e: str(e["kind"]))
def test_what_is_posted_is_the_event_to_where_its_binding_listens(
    server: Server, content: dict[str, Any]
) -> None:
    assert post(server, content).is_new
    ((path, token, posted),) = server.posted
    assert path == f"/api/v1/events/mlpipeline/{content['kind']}"
    assert token == "Bearer secret"
    assert event(posted) == event(content)


def test_a_server_that_cannot_now_is_asked_again(server: Server) -> None:
    server.answers = [(503, "operation queue full"), (429, ""), (502, "<html>"), (500, "{}")]
    assert post(server).is_new
    assert len(server.posted) == 5


def test_what_had_been_posted_before_is_no_error(server: Server) -> None:
    server.answers = [(503, ""), (500, json.dumps({"code": 13, "message": THERE}))]
    assert post(server) == Outcome(is_new=False)  # nobody says how it went: it is gone
    assert len(server.posted) == 2


@pytest.mark.parametrize(
    ("phase", "has_failed"),
    [
        ("Pending", False),
        ("Running", False),
        ("Succeeded", False),
        ("Failed", True),
        ("Error", True),
    ],
)
def test_what_had_been_posted_before_is_said_how_it_went(
    server: Server, phase: str, has_failed: bool
) -> None:
    server.answers = [(500, json.dumps({"code": 13, "message": THERE}))]
    server.workflow = (200, {"status": {"phase": phase, "message": "why"}})
    outcome = post(server)
    assert outcome == Outcome(is_new=False, phase=phase, message="why")
    assert outcome.has_failed is has_failed


def test_a_token_that_may_not_look_how_it_went_is_no_error(server: Server) -> None:
    server.answers = [(500, json.dumps({"code": 13, "message": THERE}))]
    server.workflow = (403, {"code": 7, "message": "not allowed"})
    assert post(server) == Outcome(is_new=False)


def test_what_a_policy_refuses_is_not_tried_again(server: Server) -> None:
    message = (
        "failed to dispatch event: [failed to create workflow: workflows.argoproj.io "
        "\"train-week-7\" is forbidden: ValidatingAdmissionPolicy 'mlpipeline-braces' "
        "denied request: a parameter has double braces]"
    )
    server.answers = [(500, json.dumps({"code": 13, "message": message}))]
    with pytest.raises(EventError, match="a parameter has double braces"):
        post(server)
    assert len(server.posted) == 1


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number, content in enumerate((PREDICT, FEEDBACK)):
        paths.append(str(tmp_path / f"{number}.json"))
        Path(paths[-1]).write_text(json.dumps(content))
    return paths


def call(server: Server, *arguments: str) -> Result:
    options = ["--url", server.url, "--token", "secret", "--workspace", "workspace-kind"]
    return CliRunner().invoke(app.app, ["post-event", *options, *arguments])


def test_the_command_says_where_the_answer_to_a_prediction_will_be(
    server: Server, files: list[str]
) -> None:
    result = call(server, *files)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "predict-monday: accepted; its answer: workspace-kind/answers/predict-monday.csv",
        "feedback-ann-1: accepted",
    ]


def test_the_command_fails_for_an_event_that_has_failed_and_says_how_to_repeat_it(
    server: Server, files: list[str]
) -> None:
    server.answers = [(500, json.dumps({"code": 13, "message": THERE}))]
    argos = "retryStrategy.expression evaluated to false"
    nodes = _tried(
        "predict", [("Failed", "07", "OOMKilled (exit code 137)"), ("Failed", "08", SAID)]
    )
    nodes |= _tried("notify", [("Succeeded", "09", "")])
    status = {"phase": "Failed", "message": argos, "nodes": nodes}
    server.workflow = (200, {"status": status})
    result = call(server, *files)
    assert isinstance(result.exception, EventError)
    assert "kubectl -n mlpipeline delete workflow predict-monday" in result.exception.remedy
    assert result.output.splitlines() == [
        "predict-monday: was posted before, and failed: no folder",
        "  expected: one",
        "  to do:    make it",
        "feedback-ann-1: accepted",  # the others are posted all the same
    ]


def _tried(template: str, attempts: list[tuple[str, str | None, str]]) -> dict[str, Any]:
    """The nodes of a step that is tried again: a Retry, whose message is Argo's, and its pods."""
    pods = {
        f"{template}-{number}": {
            **{"type": "Pod", "templateName": template, "phase": phase},
            **{"startedAt": "01", "finishedAt": ended, "message": message},
        }
        for number, (phase, ended, message) in enumerate(attempts)
    }
    phase, ended, _ = attempts[-1]
    retry = {"type": "Retry", "templateName": template, "phase": phase, "finishedAt": ended}
    of_argo = {"message": "retryStrategy.expression evaluated to false", "children": list(pods)}
    return {template: retry | of_argo} | pods


@pytest.mark.parametrize("after", ["undo", "record", "report"])
def test_why_is_what_the_first_step_that_failed_has_said(after: str) -> None:
    mended = _tried("train", [("Failed", "02", "evicted"), ("Succeeded", "03", "")])
    verify = _tried("verify", [("Failed", "04", "evicted"), ("Failed", "06", SAID)])
    later = _tried(after, [("Failed", "08", "it was not verified")])
    verify["verify"]["children"].append("other")  # Argo lists what follows among the attempts
    other = {"other": {"type": "Pod", "templateName": "other", "phase": "Failed", "message": "no"}}
    status = {"message": "Argo's", "nodes": later | other | mended | verify}
    assert posting._why(status) == SAID


def test_why_is_known_without_a_retry_without_a_time_and_without_a_step() -> None:
    pod = {"type": "Pod", "phase": "Error", "finishedAt": None, "message": "no room"}
    undo = {"templateName": "undo", "finishedAt": "02"}
    nodes: dict[str, Any] = {"plan": pod | {"templateName": "plan"}, "undo": pod | undo}
    assert posting._why({"message": "Argo's", "nodes": nodes}) == "no room"
    del nodes["plan"]
    assert posting._why({"message": "Argo's", "nodes": nodes}) == "Argo's"
    silent = {"plan": {"type": "Pod", "phase": "Failed", "templateName": "plan"}}
    assert posting._why({"message": "Argo's", "nodes": silent}) == "Argo's"
    assert posting._why({"message": None, "nodes": None}) == ""


def test_another_workflow_that_is_there_already_says_nothing_of_this_one(server: Server) -> None:
    other = json.dumps({"code": 13, "message": THERE.replace("monday", "tuesday")})
    server.answers = [(500, other)]
    assert post(server).is_new
    assert len(server.posted) == 2


def test_a_refusal_is_final_and_says_why(server: Server) -> None:
    server.answers = [(403, json.dumps({"code": 7, "message": "not allowed"}))]
    with pytest.raises(EventError, match="refused it with 403: not allowed"):
        post(server)
    assert len(server.posted) == 1


def test_after_its_time_it_says_what_the_last_answer_was(server: Server) -> None:
    server.answers = [(503, "operation queue full")] * 1_000
    with pytest.raises(EventError, match=r"not accepted it in 0 s; at last 503: operation queue"):
        post(server, seconds=0.2)


def test_without_a_binding_nothing_is_posted(server: Server) -> None:
    server.bindings = {"items": None}
    with pytest.raises(EventError, match="no binding is called 'predict'"):
        post(server)
    assert server.posted == []


def test_a_server_that_is_not_there_is_named() -> None:
    (port,) = free_ports(1)
    with pytest.raises(EventError, match=rf"127\.0\.0\.1:{port}.*at last ConnectError"):
        posting.post(
            event(PREDICT),
            url=f"http://127.0.0.1:{port}",
            token="secret",
            namespace="mlpipeline",
            seconds=0.1,
        )


def test_a_pod_posts_an_event_by_the_token_of_its_account(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    monkeypatch.setattr("mlpipeline.cli.cluster._TOKEN", token)
    event = schema.parse(json.dumps(PREDICT), origin="test")
    command = ["cluster", "post", "--event", schema.as_argument(event), "--url", server.url]

    def said() -> str:
        made = CliRunner().invoke(
            app.app, [*command, "--namespace", "mlpipeline"], catch_exceptions=False
        )
        assert made.exit_code == 0, made.output
        return made.output.splitlines()[-1]

    assert said() == "predict-monday: accepted"
    assert server.posted == [("/api/v1/events/mlpipeline/predict", "Bearer secret", PREDICT)]
    server.answers = [(500, THERE)]
    server.workflow = (200, {"status": {"phase": "Failed", "message": "no folder"}})
    assert said() == "predict-monday: was posted before, and failed: no folder"
