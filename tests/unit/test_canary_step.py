"""The step `canary`: it gives an order, hears replicas, and ends the trial for a reason."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import MissingArtifactError, ServingError, StoppedError
from mlpipeline.plan import rollout
from mlpipeline.plan.config import Rollout
from mlpipeline.steps import canary
from mlpipeline.steps.canary import Contest
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from mlpipeline.store.schemas.rollout import RolloutTable, TrialFigures, TrialOrder

NAME = "shirts"


def _times(count: int) -> tuple[int, ...]:
    return tuple([0] * rollout.interval(0.005) + [count])


TIMES = _times(50)
GOOD: dict[str, Any] = {
    "requests": 200,
    "tried": 50,
    "images": 50,
    "agreed": 50,
    "champion_times": TIMES,
    "challenger_times": TIMES,
}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(canary, "_LAST_SECONDS", 0.1)
    monkeypatch.setattr(canary, "ANSWER_SECONDS", 1.0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path)
    history.move(found, NAME, "old", "published", by="run-1")
    return found


@contextmanager
def _replica(
    workspace: Workspace,
    name: str,
    say: Callable[[TrialOrder], dict[str, Any]],
    *,
    count: str = "",
    only: str = "",
) -> Iterator[list[TrialOrder]]:
    """A replica that follows orders as its own do, and says what it is told to.

    Args:
        workspace: Where the order is.
        name: What it is called.
        say: Returns what it has counted.
        count: What it calls its count; by default as it is called.
        only: The one mode that it follows orders of; empty for all.
    """
    heard: list[TrialOrder] = []
    over = threading.Event()
    file = workspace.trial_order(NAME)

    def follow() -> None:
        while not over.wait(0.02):
            if not file.exists():
                continue
            try:
                order = TrialOrder.load(file)
            except MissingArtifactError:  # it was taken back meanwhile
                continue
            if only and order.mode != only:
                continue
            if not heard or heard[-1].token != order.token:
                heard.append(order)
            figures = TrialFigures(id=count or name, replica=name, **say(order))
            assert _post(f"http://{order.report_to}/{order.token}", figures.content()) in (204, 404)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()


def _post(url: str, content: Any) -> int:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:  # the conductor has ended
        return 404


def _conduct(
    workspace: Workspace,
    asked: dict[str, Any],
    stop: threading.Event | None = None,
    **about: Any,
) -> RolloutTable:
    contest = Contest(workspace, NAME, "old", "new", "127.0.0.1:9", **about)
    settings = Rollout(**({"timeout_seconds": 0.1} | asked))
    table = canary.conduct(settings, contest, who="run-2", stop=stop)
    assert not workspace.trial_order(NAME).exists(), "the order is taken back"
    assert not workspace.trial_lease(NAME).exists()
    return table


def test_a_good_one_is_tried_for_its_time_and_passes(workspace: Workspace) -> None:
    began = time.monotonic()
    with _replica(workspace, "replica-0", lambda _: GOOD) as heard:
        table = _conduct(workspace, {"canary": {"share": 0.25, "seconds": 0.5}})
    assert time.monotonic() - began >= 0.5
    (order,) = heard
    assert (order.mode, order.champion, order.challenger) == ("canary", "old", "new")
    assert (order.share, order.address) == (0.25, "127.0.0.1:9")
    assert order.until > time.time() + 10
    assert table.verdict == "passed"
    assert table.reason == "canary: 50 of 200 requests, 100.0% of 50 images the same"
    (trial,) = table.trials
    assert (trial.replicas, trial.faults) == (("replica-0",), ())


def test_a_shadow_comes_before_the_canary_each_with_an_order_of_its_own(
    workspace: Workspace,
) -> None:
    asked = {"canary": {"seconds": 0.2}, "shadow": {"seconds": 0.2, "share": 1.0}}
    with _replica(workspace, "replica-0", lambda _: GOOD) as heard:
        table = _conduct(workspace, asked)
    assert [(order.mode, order.share) for order in heard] == [("shadow", 1.0), ("canary", 0.1)]
    assert [trial.mode for trial in table.trials] == ["shadow", "canary"]
    assert len({order.token for order in heard}) == 2


def test_what_fails_as_a_shadow_answers_nobody(workspace: Workspace) -> None:
    asked = {"canary": {"seconds": 0.2}, "shadow": {"seconds": 60}}
    with _replica(workspace, "replica-0", lambda _: GOOD | {"agreed": 3}) as heard:
        table = _conduct(workspace, asked)
    assert [order.mode for order in heard] == ["shadow"]
    assert table.verdict == "kept"
    assert table.reason.startswith("shadow: same class 6.00%, at least 80.00% must be")


def test_a_bad_one_is_ended_long_before_its_time(workspace: Workspace) -> None:
    began = time.monotonic()
    stopped = GOOD | {"failed": 5, "failure": "no answer", "stopped": "5 failures in a row"}
    with _replica(workspace, "replica-0", lambda _: stopped):
        table = _conduct(workspace, {"canary": {"seconds": 600}, "required": True})
    assert time.monotonic() - began < 20
    assert table.verdict == "refused"
    assert "replica-0 has given up on it: 5 failures in a row" in table.reason


def test_figures_of_all_replicas_count(workspace: Workspace) -> None:
    few = GOOD | {"tried": 12, "requests": 100, "images": 12, "agreed": 12}
    few |= {"challenger_times": _times(12)}
    with (
        _replica(workspace, "replica-0", lambda _: few),
        _replica(workspace, "replica-1", lambda _: few),
    ):
        table = _conduct(workspace, {"canary": {"seconds": 0.5, "requests": 20}})
    assert table.verdict == "passed"
    assert table.trials[0].replicas == ("replica-0", "replica-1")
    assert table.trials[0].tried == 24


@pytest.mark.parametrize(("untried", "verdict"), [("hold", "kept"), ("serve", "passed")])
def test_too_few_requests(workspace: Workspace, untried: str, verdict: str) -> None:
    few = GOOD | {"tried": 2, "requests": 21, "images": 2, "agreed": 2}
    few |= {"challenger_times": _times(2)}
    with _replica(workspace, "replica-0", lambda _: few):
        table = _conduct(workspace, {"canary": {"seconds": 0.2}, "untried": untried})
    assert table.verdict == verdict
    assert table.reason == (
        "not tried: canary: 2 of 21 requests in 0.2 s, at least 20 must be tried"
    )


def test_where_nobody_serves_there_is_nothing_to_try_by(workspace: Workspace) -> None:
    table = _conduct(workspace, {"canary": {"seconds": 60}})
    assert (table.verdict, table.reason) == ("passed", "not tried: nobody serves old here")


def test_where_somebody_must_serve_and_is_not_heard_it_is_untried(workspace: Workspace) -> None:
    table = _conduct(workspace, {"canary": {"seconds": 60}}, is_served=True)
    assert table.verdict == "kept"
    assert "no replica of old has heard of it within 1 s" in table.reason


def test_what_must_not_answer_is_a_shadow_in_both(workspace: Workspace) -> None:
    with _replica(workspace, "replica-0", lambda _: GOOD) as heard:
        _conduct(workspace, {"canary": {"seconds": 0.2}}, only_shadow="it is sharded")
    assert [order.mode for order in heard] == ["shadow"]


def test_a_fault_of_its_replica_ends_it(workspace: Workspace) -> None:
    with _replica(workspace, "replica-0", lambda _: GOOD):
        table = _conduct(
            workspace, {"canary": {"seconds": 60}}, find_fault=lambda: "its pod has crashed"
        )
    assert (table.verdict, table.reason) == ("kept", "its pod has crashed")


def test_a_rollback_meanwhile_ends_it(workspace: Workspace) -> None:
    def roll_back(_: TrialOrder) -> dict[str, Any]:
        history.move(workspace, NAME, "older", "rolled back", by="ann")
        return GOOD

    with _replica(workspace, "replica-0", roll_back):
        table = _conduct(workspace, {"canary": {"seconds": 60}})
    assert (table.verdict, table.reason) == ("kept", "older has become current meanwhile")


def test_whoever_is_told_to_end_takes_the_order_back(workspace: Workspace) -> None:
    stop = threading.Event()

    def say(_: TrialOrder) -> dict[str, Any]:
        stop.set()
        return GOOD

    with _replica(workspace, "replica-0", say), pytest.raises(StoppedError):
        _conduct(workspace, {"canary": {"seconds": 60}}, stop)
    assert not workspace.trial_order(NAME).exists()
    assert not workspace.trial_lease(NAME).exists()


def test_one_version_is_tried_at_a_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Lease(workspace.trial_lease(NAME), "run-1")
    assert other.take() is None
    monkeypatch.setattr(canary, "LONGEST_WAIT_SECONDS", 0.5)
    with pytest.raises(ServingError, match=r"run-1 .* tries another version of `shirts`"):
        canary.conduct(
            Rollout.model_validate({"canary": {}}),
            Contest(workspace, NAME, "old", "new", "127.0.0.1:9"),
            who="run-2",
        )


def test_what_is_no_report_is_refused(workspace: Workspace) -> None:
    statuses: list[int] = []

    def say(order: TrialOrder) -> dict[str, Any]:
        url = f"http://{order.report_to}"
        if not statuses:
            statuses.append(_post(f"{url}/", TrialFigures(id="x", replica="x").content()))
            statuses.append(
                _post(f"{url}/another-token", TrialFigures(id="x", replica="x").content())
            )
            statuses.append(_post(f"{url}/{order.token}", b"{}"))
            statuses.append(_post(f"{url}/{order.token}", b"no JSON"))
            statuses.append(_post(f"{url}/{order.token}", b" " * 200_000))
        return GOOD

    with _replica(workspace, "replica-0", say):
        table = _conduct(workspace, {"canary": {"seconds": 0.5}})
    assert statuses[:4] == [404, 404, 400, 400]
    assert statuses[4] in (413, 404)  # or the connection is closed before all is sent
    assert table.trials[0].replicas == ("replica-0",)


def test_whoever_waits_for_another_trial_hears_that_it_is_to_end(workspace: Workspace) -> None:
    other = Lease(workspace.trial_lease(NAME), "run-1")
    assert other.take() is None
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        canary.conduct(
            Rollout.model_validate({"canary": {}}),
            Contest(workspace, NAME, "old", "new", "127.0.0.1:9"),
            who="run-2",
            stop=stop,
        )


def test_one_that_has_answered_nothing_yet_does_not_pass(workspace: Workspace) -> None:
    hangs = GOOD | {"images": 0, "agreed": 0, "challenger_times": ()}
    with _replica(workspace, "replica-0", lambda _: hangs):
        table = _conduct(workspace, {"canary": {"seconds": 0.2}})
    assert table.verdict == "kept"
    assert table.reason.startswith("not tried: canary: 0 of 200 requests")


def test_where_a_shadow_was_heard_somebody_serves(workspace: Workspace) -> None:
    asked = {"canary": {"seconds": 60}, "shadow": {"seconds": 0.2, "share": 1.0}}
    with _replica(workspace, "replica-0", lambda _: GOOD, only="shadow"):
        table = _conduct(workspace, asked)
    assert table.verdict == "kept"
    assert "has heard of it" in table.reason
    assert [trial.mode for trial in table.trials] == ["shadow", "canary"]


def test_a_replica_that_was_started_anew_counts_beside_what_it_had_counted(
    workspace: Workspace,
) -> None:
    few = GOOD | {"tried": 12, "requests": 100, "images": 12, "agreed": 12}
    few |= {"challenger_times": _times(12)}
    with (
        _replica(workspace, "replica-0", lambda _: few),
        _replica(workspace, "replica-0", lambda _: few, count="anew"),
    ):
        table = _conduct(workspace, {"canary": {"seconds": 0.5, "requests": 20}})
    assert table.trials[0].tried == 24
    assert table.trials[0].replicas == ("replica-0",)
