"""The page to try a model: what a browser is given, and what is taken from it."""

from __future__ import annotations

import asyncio
import json
import re
from importlib import resources
from typing import Any

import fastapi
import httpx
import numpy as np
import pytest

from mlpipeline.errors import ConfigurationError, EventError
from mlpipeline.plan import config
from mlpipeline.plan.commands import predictor_arguments
from mlpipeline.plan.config import Serving
from mlpipeline.serving import page as pages
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.dataplane import FixedRepository, StrictDataPlane
from mlpipeline.serving.metrics import SharedMetrics
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.page import Page, ReplicaPage
from mlpipeline.serving.rest import SharedPortServer
from mlpipeline.serving.room import Room
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.selection import Examples

# isort: split
# KServe reads sys.argv when it is imported, unless `mlpipeline.serving` did so before.
from kserve import Model
from kserve.model_repository import ModelRepository

ATTACK = '</script><script>alert("x")</script>'
FILES = ("index.html", "page.css", "page.js", "preparation.js")
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
JSON = {"content-type": "application/json"}
FEEDBACK = "/page/feedback"
IMAGES = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


def _predict(images: Images) -> Probabilities:
    return np.zeros((len(images), 2), np.float32)


def _model() -> PublishedModel:
    examples = Examples.of(IMAGES, np.array([1, 0]))
    shape, classes = (2, 3), ("dark", ATTACK)
    return PublishedModel("v1", "f" * 64, classes, shape, _predict, examples=examples)


class Client:
    """Asks a replica's application, without a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, page: Page | None) -> None:
        self._app = fastapi.FastAPI()
        monkeypatch.setattr("kserve.model_server.app", self._app)
        models = ModelRepository()
        models.update(Model("shirts"))  # which messages name
        SharedPortServer(
            "",
            StrictDataPlane(models),
            FixedRepository(models),
            0,
            replica="a",
            max_body=2**20,
            room=Room(2**20),
            linger=0,
            metrics=SharedMetrics("x:1", "a"),
            page=page,
            on_ready=lambda: None,
        ).create_application()

    def ask(
        self, method: str, path: str, *, at: str = "127.0.0.1:8080", **options: Any
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{at}") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(monkeypatch, ReplicaPage("shirts", _model()))


# --- what is shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_is_shown_the_page(client: Client, method: str) -> None:
    response = client.ask(method, "/", headers=HTML)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not [each for each in policy if "unsafe" in each]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["vary"] == "accept"


def test_whoever_else_asks_is_told_that_the_server_lives(client: Client) -> None:
    assert client.ask("GET", "/").json() == {"status": "alive"}


@pytest.mark.parametrize("name", FILES[1:])
def test_the_files_of_the_page_have_their_types_and_the_policy(client: Client, name: str) -> None:
    response = client.ask("GET", f"/page/{name}")
    kind = {"css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["__init__.py", "..%2F__init__.py", "nothing", ""])
def test_there_are_no_others(client: Client, name: str) -> None:
    response = client.ask("GET", f"/page/{name}")
    assert response.status_code == 404
    assert "to do" in response.json()["error"]


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, None)
    assert client.ask("GET", "/", headers=HTML).json() == {"status": "alive"}
    assert client.ask("GET", "/page/about.json").status_code == 404
    assert client.ask("POST", FEEDBACK, json={}).status_code == 404


def test_a_front_of_replicas_without_a_page_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        async def part(self, name: str) -> pages.Part | None:
            return None

        async def post(self, event: bytes) -> None:
            raise AssertionError(event)

    client = Client(monkeypatch, Nothing())
    assert client.ask("GET", "/", headers=HTML).json() == {"status": "alive"}
    assert client.ask("GET", "/page/about.json").status_code == 404


def test_it_is_told_what_the_model_is(client: Client) -> None:
    response = client.ask("GET", "/page/about.json")
    assert response.headers["content-type"] == "application/json"
    about = response.json()
    assert about.pop("examples") == Examples.of(IMAGES, np.array([1, 0])).content()
    assert about == {
        "name": "shirts",
        "version": "v1",
        "classes": ["dark", ATTACK],
        "shape": [2, 3],
        "preparation": None,
        "feedback": "",
    }


def test_a_version_without_examples_has_a_page_all_the_same() -> None:
    model = PublishedModel("v1", "f" * 64, ("a",), (2, 3), _predict)
    part = asyncio.run(ReplicaPage("shirts", model).part("about.json"))
    assert part is not None
    assert json.loads(part.content)["examples"] is None


def test_no_name_can_become_a_part_of_the_page() -> None:
    files = {name: (resources.files(pages) / name).read_text() for name in FILES}
    for name, text in files.items():
        without_comments = re.sub(r"^\s*(//|\*|/\*).*$", "", text, flags=re.MULTILINE)
        assert "//" not in re.sub(r" // .*$", "", without_comments, flags=re.MULTILINE), name
    assert not re.findall(r"\son\w+=|\sstyle=|<script>|<style", files["index.html"])
    for name in ("page.js", "preparation.js"):
        assert not re.findall(r"HTML\b|\beval\b|document\.write|Function\(", files[name]), name


# --- feedback ---------------------------------------------------------------------------------


def test_no_feedback_is_taken_unless_it_is_configured(client: Client) -> None:
    response = client.ask("POST", FEEDBACK, json={})
    assert response.status_code == 400
    assert "serving.feedback" in response.json()["error"]


@pytest.fixture
def posted() -> list[str]:
    return []


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch, posted: list[str]) -> Client:
    return Client(monkeypatch, ReplicaPage("shirts", _model(), post=posted.append))


@pytest.mark.parametrize("at", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "10.0.0.7"])
def test_feedback_is_taken_of_the_servers_own_page(
    taking: Client, posted: list[str], at: str
) -> None:
    assert taking.ask("GET", "/page/about.json").json()["feedback"] == "page/feedback"
    headers = JSON | {"origin": f"http://{at}"}
    response = taking.ask("POST", FEEDBACK, at=at, headers=headers, content='{"a": 1}')
    assert response.status_code == 202
    assert posted == ['{"a": 1}']


@pytest.mark.parametrize(
    ("at", "headers"),
    [
        ("127.0.0.1:8080", JSON | {"origin": "https://elsewhere.example"}),
        ("127.0.0.1:8080", JSON | {"origin": "null"}),
        ("127.0.0.1:8080", JSON | {"origin": "http://127.0.0.1:9090"}),
        ("127.0.0.1:8080", {"content-type": "text/plain"}),
        ("127.0.0.1:8080", {}),
        ("elsewhere.example", JSON | {"origin": "http://elsewhere.example"}),
        ("localhost.elsewhere.example:8080", JSON),
        ("127.0.0.1:8080", JSON | {"host": "["}),
        ("127.0.0.1:8080", JSON | {"host": ""}),
    ],
)
def test_feedback_of_another_sites_page_is_not(
    taking: Client, posted: list[str], at: str, headers: dict[str, str]
) -> None:
    response = taking.ask("POST", FEEDBACK, at=at, headers=headers, content="{}")
    assert response.status_code == 400
    assert "open the page there" in response.json()["error"]
    assert posted == []


@pytest.mark.parametrize("content", [b" " * (2**16 + 1), b"\xff"])
def test_feedback_that_is_too_large_or_no_text_is_refused(
    taking: Client, posted: list[str], content: bytes
) -> None:
    response = taking.ask("POST", FEEDBACK, headers=JSON, content=content)
    assert response.status_code == 400
    assert posted == []


def test_who_posts_what_is_no_event_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise EventError("a coat", expected="a shirt", remedy="look again")

    client = Client(monkeypatch, ReplicaPage("shirts", _model(), post=refuse))
    response = client.ask("POST", FEEDBACK, headers=JSON, content="{}")
    assert response.status_code == 400
    assert response.json() == {"error": "got a coat; expected a shirt; to do: look again"}


@pytest.mark.parametrize(
    ("feedback", "allowed"),
    [
        ("https://events.example/feedback", "'self' https://events.example"),
        ("http://[::1]:9000/x", "'self' http://[::1]:9000"),
        ("/events/feedback", "'self'"),
    ],
)
def test_the_page_may_post_where_the_configuration_says(feedback: str, allowed: str) -> None:
    page = ReplicaPage("shirts", _model(), feedback=feedback)
    part = asyncio.run(page.part("about.json"))
    assert part is not None
    assert json.loads(part.content)["feedback"] == feedback
    assert f"; connect-src {allowed};" in part.policy


# --- the configuration ------------------------------------------------------------------------


def test_the_configuration_reaches_a_replica() -> None:
    def arguments(serving: Serving) -> list[str]:
        return predictor_arguments("m", "m-1", workspace=Workspace.parse("w"), serving=serving)

    plain = arguments(Serving())
    assert arguments(Serving(page=False)) == [*plain, "--no-page"]
    assert arguments(Serving(feedback="inbox")) == [*plain, "--feedback", "inbox"]


@pytest.mark.parametrize(
    "feedback",
    [
        "inboxes",
        "events",
        "ftp://x/",
        "javascript:x",
        "https://x; script-src *",
        "/a b",
        "//x",
        "/'",
    ],
)
def test_what_is_no_address_of_feedback_is_refused(feedback: str) -> None:
    raw = {"name": "m", "candidates": {"a": {"model": "cnn"}}, "serving": {"feedback": feedback}}
    with pytest.raises(ConfigurationError, match=r"serving\.feedback"):
        config.parse(raw, origin="a test")
