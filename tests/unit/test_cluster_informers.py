"""Objects that watches keep current, over HTTP: also when a watch ends as it should not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from mlpipeline.backends.cluster import informers
from mlpipeline.backends.cluster.api import Cluster
from mlpipeline.backends.cluster.informers import Selection, View
from mlpipeline.errors import ClusterError, ClusterUnreachableError
from support.watched_server import WatchedServer, serving

SECONDS = 10.0  # for what takes milliseconds
PODS = Selection("Pod", "app=x")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WatchedServer, Cluster]]:
    monkeypatch.setattr(informers, "_PAUSE_SECONDS", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as (server, cluster):
        yield server, cluster


@pytest.fixture
def server(served: tuple[WatchedServer, Cluster]) -> WatchedServer:
    return served[0]


@pytest.fixture
def cluster(served: tuple[WatchedServer, Cluster]) -> Cluster:
    return served[1]


def _names(view: View) -> list[str]:
    return [pod["metadata"]["name"] for pod in view.find("Pod")]


def _wait(view: View, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        view.wait(0.5)


def _opened(server: WatchedServer) -> None:
    assert server.opened.acquire(timeout=SECONDS), "no watch was opened"


def test_objects_are_listed_once_and_then_told(server: WatchedServer, cluster: Cluster) -> None:
    server.change_in_silence("a", "ADDED", app="x")
    with cluster.watching(PODS) as view:
        assert _names(view) == ["a"]
        _opened(server)
        server.change("b", "ADDED", app="x", tier="y")
        _wait(view, lambda: _names(view) == ["a", "b"])
        assert [p["metadata"]["name"] for p in view.find("Pod", "app=x,tier=y")] == ["b"]
        server.change("a", "DELETED")
        _wait(view, lambda: view.get("Pod", "a") is None)
        server.change("b", app="z")
        _wait(view, lambda: view.find("Pod", "app=z") != [])
    assert server.lists == [{"labelSelector": ["app=x"]}]
    (watch,) = server.watches
    assert watch["labelSelector"] == ["app=x"]
    assert watch["resourceVersion"] == ["101"], "from where the list ended"
    assert watch["timeoutSeconds"] == ["300"], "no watch is without an end"


def test_one_object_is_selected_by_its_name(server: WatchedServer, cluster: Cluster) -> None:
    with cluster.watching(Selection("Pod", name="a")):
        _opened(server)
    assert server.lists == [{"fieldSelector": ["metadata.name=a"]}]
    assert server.watches[0]["fieldSelector"] == ["metadata.name=a"]


def test_a_change_wakes_who_waits(server: WatchedServer, cluster: Cluster) -> None:
    with cluster.watching(PODS) as view:
        _opened(server)
        view.wait(0)  # the list was a change, too
        server.change("a", "ADDED")
        began = time.monotonic()
        view.wait(SECONDS)
        assert time.monotonic() - began < SECONDS / 2
        assert _names(view) == ["a"]
        began = time.monotonic()
        view.wait(0.1)
        assert time.monotonic() - began >= 0.09


@pytest.mark.parametrize("how", ["end_watch", "break_watch", "expire"])
def test_after_a_watch_has_ended_all_is_listed_anew(
    server: WatchedServer, cluster: Cluster, how: str
) -> None:
    server.change_in_silence("a", "ADDED")
    with cluster.watching(PODS) as view:
        _opened(server)
        server.change_in_silence("a", "DELETED")
        server.change_in_silence("b", "ADDED")
        getattr(server, how)()
        _wait(view, lambda: _names(view) == ["b"])
        _opened(server)
        server.change("c", "ADDED")
        _wait(view, lambda: _names(view) == ["b", "c"])
    assert len(server.lists) == 2
    assert [watch["resourceVersion"] for watch in server.watches] == [["101"], ["103"]]


@pytest.mark.parametrize(("status", "error"), [(503, ClusterUnreachableError), (403, ClusterError)])
def test_who_waits_hears_that_the_api_server_stays_away_or_refuses(
    server: WatchedServer, cluster: Cluster, status: int, error: type[ClusterError]
) -> None:
    with cluster.watching(PODS) as view:
        _opened(server)
        server.refuse_lists = status
        server.break_watch()
        with pytest.raises(error, match="no list") as raised:
            _wait(view, lambda: bool(view.find("Pod")))
    assert type(raised.value) is error
    assert raised.value.status == status


def test_a_watch_that_may_not_be_is_an_error(server: WatchedServer, cluster: Cluster) -> None:
    server.refuse_watches = 403
    with cluster.watching(PODS) as view, pytest.raises(ClusterError, match="no watch") as raised:
        _wait(view, lambda: bool(view.find("Pod")))
    assert raised.value.status == 403
    assert "manifests/base/roles.yaml" in raised.value.remedy


def test_a_watch_that_is_refused_for_a_while_is_replaced_by_lists(
    server: WatchedServer, cluster: Cluster
) -> None:
    server.refuse_watches = 503
    with cluster.watching(PODS) as view:
        server.change_in_silence("a", "ADDED")
        _wait(view, lambda: _names(view) == ["a"])
        server.refuse_watches = 0
        _opened(server)
        server.change("b", "ADDED")
        _wait(view, lambda: _names(view) == ["a", "b"])


def test_a_list_that_is_refused_at_the_beginning_is_an_error_at_once(
    server: WatchedServer, cluster: Cluster
) -> None:
    server.refuse_lists = 403
    with pytest.raises(ClusterError, match="no list"), cluster.watching(PODS):
        pass
    assert server.watches == []


def test_a_kind_that_the_cluster_does_not_know_says_what_is_missing(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="does not know Workload") as raised:
        cluster.find("Workload")
    assert raised.value.status == 404, "which the watch of queues takes for: there is no Kueue"
    assert "make deploy" in raised.value.remedy


def test_an_open_watch_is_ended_when_nobody_looks_any_more(
    server: WatchedServer, cluster: Cluster
) -> None:
    began = time.monotonic()
    with cluster.watching(PODS) as view:
        _opened(server)
    (informer,) = view._informers.values()
    assert not informer._thread.is_alive()
    assert time.monotonic() - began < SECONDS / 2
