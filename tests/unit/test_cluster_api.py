"""The Kubernetes API, played by a small server: what is sent to it, and what its answers become."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes
import pytest
import yaml
from kubernetes.client import ApiException

from mlpipeline.backends.cluster import api
from mlpipeline.errors import RETRY_STATUS, ClusterError
from support.fake_cluster import discovery

JOBS = "/apis/kubeflow.org/v1/namespaces/shirts/tfjobs"
PODS = "/api/v1/namespaces/shirts/pods"
JOB = {"kind": "TFJob", "metadata": {"name": "cnn"}, "spec": {"a": 1}}
SECONDS = 10  # for what takes a millisecond


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    content: str | None
    body: Any


@dataclass
class Server:
    """Answers each request with the next answer there is, the last one again and again.

    What is asked for the resources that there are (discovery) it answers as an API server does.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    answers: list[tuple[int, Any]] = field(default_factory=list)
    pieces: Iterator[bytes | None] | None = None
    """The pieces of a log, sent as they come; None for a connection that breaks."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if (resources := discovery(url.path)) is not None:
                self._send(200, resources)
                return
            server.requests.append(
                Request(
                    self.command,
                    url.path,
                    parse_qs(url.query),
                    self.headers.get("Content-Type"),
                    json.loads(body) if body else None,
                )
            )
            if server.pieces is not None:
                self._stream(server.pieces)
                return
            answers = server.answers
            self._send(*(answers.pop(0) if len(answers) > 1 else answers[0]))

        def _send(self, status: int, content: Any) -> None:
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PATCH = do_DELETE = _answer  # noqa: N815

        def _stream(self, pieces: Iterator[bytes | None]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            for piece in pieces:
                if piece is None:
                    return
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    made.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield made
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def use_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], None]:
    """Return what writes the only kube config there is."""
    file = tmp_path / "kubeconfig"
    monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    monkeypatch.setattr(api, "_NAMESPACE_FILE", tmp_path / "not in a pod")
    monkeypatch.delenv("NAMESPACE", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def write(content: dict[str, Any]) -> None:
        file.write_text(yaml.safe_dump(content))

    return write


def _kube_config(port: int, **context: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"} | context}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }


@pytest.fixture
def cluster(server: Server, use_context: Callable[[dict[str, Any]], None]) -> Iterator[api.Cluster]:
    use_context(_kube_config(server.port, namespace="shirts"))
    made = api.connect()
    yield made
    made._client.rest_client.pool_manager.clear()  # closes its connections


def _refusal(status: int, message: str) -> tuple[int, Any]:
    return status, {"kind": "Status", "status": "Failure", "message": message, "code": status}


def test_an_object_is_read_by_its_kind_and_name(server: Server, cluster: api.Cluster) -> None:
    server.answers = [(200, JOB)]
    assert cluster.get("TFJob", "cnn") == JOB
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", f"{JOBS}/cnn")


def test_what_is_not_there_is_none(server: Server, cluster: api.Cluster) -> None:
    server.answers = [_refusal(404, 'tfjobs.kubeflow.org "cnn" not found')]
    assert cluster.get("TFJob", "cnn") is None


def test_objects_are_found_by_their_labels(server: Server, cluster: api.Cluster) -> None:
    server.answers = [(200, {"metadata": {}, "items": [JOB]})]
    assert cluster.find("Pod", "app=x,tier=y") == [JOB]
    assert cluster.find("Pod") == [JOB]
    labelled, every = server.requests
    limit = {"limit": ["100"]}
    assert (labelled.path, labelled.query) == (PODS, limit | {"labelSelector": ["app=x,tier=y"]})
    assert every.query == limit


def test_objects_are_found_page_by_page(server: Server, cluster: api.Cluster) -> None:
    pages = [{"metadata": {"continue": rest}, "items": [{"of": rest}]} for rest in ("b", "c", "")]
    server.answers = [(200, page) for page in pages]
    found = cluster.each("Pod", "app=x")
    assert next(found) == {"of": "b"}
    assert len(server.requests) == 1  # the next page is asked for when it is needed
    assert list(found) == [{"of": "c"}, {"of": ""}]
    first, *others = (request.query for request in server.requests)
    assert first == {"labelSelector": ["app=x"], "limit": ["100"]}
    assert others == [first | {"continue": [rest]} for rest in ("b", "c")]


def test_a_manifest_is_applied_by_the_server_as_the_owner_of_its_fields(
    server: Server, cluster: api.Cluster
) -> None:
    applied = JOB | {"status": {}}
    server.answers = [(201, applied)]
    assert cluster.apply(JOB) == applied
    (request,) = server.requests
    assert (request.method, request.path) == ("PATCH", f"{JOBS}/cnn")
    assert request.content == "application/apply-patch+yaml"
    assert request.query == {"fieldManager": ["mlpipeline"], "force": ["true"]}
    assert request.body == JOB


def test_fields_are_changed_by_a_merge_patch_in_which_null_removes(
    server: Server, cluster: api.Cluster
) -> None:
    server.answers = [(200, {"data": {}})]
    assert cluster.patch("ConfigMap", "memo", {"data": {"key": None}}) == {"data": {}}
    (request,) = server.requests
    assert request.path == "/api/v1/namespaces/shirts/configmaps/memo"
    assert request.content == "application/merge-patch+json"
    assert request.body == {"data": {"key": None}}


@pytest.mark.parametrize("answer", [(200, JOB), _refusal(404, "not found")])
def test_an_object_is_deleted_with_what_it_owns_if_it_is_there(
    server: Server, cluster: api.Cluster, answer: tuple[int, Any]
) -> None:
    server.answers = [answer]
    cluster.delete("TFJob", "cnn")
    (request,) = server.requests
    assert (request.method, request.path) == ("DELETE", f"{JOBS}/cnn")
    assert request.body["propagationPolicy"] == "Background"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, cluster: api.Cluster, status: int) -> None:
    server.answers = [(status, "busy"), (200, JOB)]
    assert cluster.apply(JOB) == JOB
    assert [request.method for request in server.requests] == ["PATCH", "PATCH"]


@pytest.mark.parametrize(
    "refused",
    [
        lambda cluster: cluster.get("TFJob", "cnn"),
        lambda cluster: cluster.find("TFJob"),
        lambda cluster: cluster.apply(JOB),
        lambda cluster: cluster.delete("TFJob", "cnn"),
        lambda cluster: list(cluster.follow_log("cnn-worker-0")),
    ],
    ids=["get", "find", "apply", "delete", "follow_log"],
)
def test_a_refusal_is_an_error_with_the_servers_reason_and_where_rights_are_given(
    server: Server, cluster: api.Cluster, refused: Callable[[api.Cluster], object]
) -> None:
    server.answers = [_refusal(403, "tfjobs is forbidden: the account may not")]
    with pytest.raises(ClusterError) as raised:
        refused(cluster)
    assert raised.value.got.endswith("tfjobs is forbidden: the account may not")
    assert "/namespaces/shirts/" in raised.value.got
    assert raised.value.status == 403
    assert "manifests/base/roles.yaml" in raised.value.remedy
    assert len(server.requests) == 1, "it would be refused again"


def test_a_webhook_that_does_not_answer_is_an_operator_that_is_down() -> None:
    answer = ApiException(status=500)
    answer.body = json.dumps({"message": 'failed calling webhook "validator.tfjob": refused'})
    error = api.refused("PATCH", "/tfjobs/cnn", answer)
    assert error.exit_status == RETRY_STATUS
    assert error.got.endswith('failed calling webhook "validator.tfjob": refused')
    assert "`make deploy` mends it" in error.remedy


@pytest.mark.parametrize("body", ["<html>a proxy's own page</html>", "[]", "{}", ""])
def test_a_refusal_by_something_else_is_an_error_too(
    server: Server, cluster: api.Cluster, body: str
) -> None:
    server.answers = [(400, body)]
    with pytest.raises(ClusterError, match="400") as raised:
        cluster.get("TFJob", "cnn")
    assert raised.value.status == 400


def test_a_server_that_cannot_be_reached_is_an_error(
    use_context: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=pauses.append))
    use_context(_kube_config(1))
    with pytest.raises(ClusterError, match=r"GET /apis/.*refused"):
        api.connect().get("TFJob", "cnn")
    assert 30 < sum(pauses) < 120, "it may be back in a moment"


# --- logs -------------------------------------------------------------------------------------


def test_a_log_is_followed_line_by_line_while_it_is_written(
    server: Server, cluster: api.Cluster
) -> None:
    seen = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first\nsec"
        # The rest is not written before the first line has been seen.
        assert seen.wait(SECONDS)
        yield b"ond: \xe2\x80"
        yield b"\xa6\nthird\n"

    server.pieces = pieces()
    lines = cluster.follow_log("cnn-worker-0")
    assert next(lines) == "first"
    seen.set()
    assert list(lines) == ["second: …", "third"]
    (request,) = server.requests
    assert (request.path, request.query) == (f"{PODS}/cnn-worker-0/log", {"follow": ["true"]})


def test_the_last_line_counts_though_nothing_ended_it(server: Server, cluster: api.Cluster) -> None:
    server.pieces = iter([b"first\nlast words"])
    assert list(cluster.follow_log("cnn-worker-0")) == ["first", "last words"]


def test_a_log_whose_connection_breaks_ends(server: Server, cluster: api.Cluster) -> None:
    server.pieces = iter([b"first\n", None])
    assert list(cluster.follow_log("cnn-worker-0")) == ["first"]


def test_the_last_lines_of_a_log_are_read(server: Server, cluster: api.Cluster) -> None:
    server.answers = [(200, "one\ntwo \xff…\n")]
    assert cluster.last_lines("cnn-worker-0", 2) == ["one", "two \xff…"]
    (request,) = server.requests
    assert (request.path, request.query) == (f"{PODS}/cnn-worker-0/log", {"tailLines": ["2"]})


def test_a_pod_without_a_log_has_no_last_lines(server: Server, cluster: api.Cluster) -> None:
    server.answers = [_refusal(400, "container is waiting to start")]
    assert cluster.last_lines("cnn-worker-0") == []


# --- connecting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "namespace"), [({}, "mlpipeline"), ({"namespace": "shirts"}, "shirts")]
)
def test_outside_of_a_pod_it_is_the_current_kube_context(
    use_context: Callable[[dict[str, Any]], None], context: dict[str, str], namespace: str
) -> None:
    use_context(_kube_config(1, **context))
    assert api.connect().namespace == namespace


def test_a_context_that_names_no_namespace_leaves_it_to_the_environment(
    use_context: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMESPACE", "other")
    use_context(_kube_config(1))
    assert api.connect().namespace == "other"
    use_context(_kube_config(1, namespace="shirts"))
    assert api.connect().namespace == "shirts"


def test_without_any_context_the_error_says_how_to_get_one(
    use_context: Callable[[dict[str, Any]], None],
) -> None:
    with pytest.raises(ClusterError, match="no cluster to connect to") as raised:
        api.connect()
    assert "make cluster" in raised.value.remedy


def test_a_kube_config_without_a_current_context_is_that_error_too(
    use_context: Callable[[dict[str, Any]], None],
) -> None:
    content = _kube_config(1)
    del content["current-context"]
    use_context(content)
    with pytest.raises(ClusterError, match="no cluster to connect to"):
        api.connect()


def test_the_client_comes_without_what_no_step_needs() -> None:
    """Both are installed here, and would take longer than all the rest: seconds of every step."""
    program = "import sys; from mlpipeline.backends.cluster import api; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(done.stdout.split())
    assert "kubernetes.dynamic" in imported
    assert not imported & {"google.auth", "kubernetes_validate"}
