"""Clients of a served model, while its pods die, roll, and grow in number."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpipeline.backends.cluster.pods import is_ready
from mlpipeline.errors import ServingError
from mlpipeline.serving.clients import Client, GrpcClient, V1Client, V2BinaryClient, V2JsonClient
from mlpipeline.store import artifacts
from support.workflows_on_kind import (
    ENGINE,
    GRPC,
    HTTP,
    QUICK,
    ROOT,
    Run,
    configuration,
    delete_pod,
    find,
    get,
    inference_is,
    kill_container,
    kubectl,
    wait_until,
)
from support.workflows_on_kind import (
    runs as started_runs,
)

pytestmark = pytest.mark.timeout(1200)

RESULTS = Path(os.environ.get("E2E_RESULTS", ROOT / "benchmarks" / "results")) / "e2e-serving.json"

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
ANSWER_SECONDS = 10.0
# A client asks so often: five of them leave the two processors of a small machine some time.
PAUSE_SECONDS = 0.1


@pytest.fixture(scope="module")
def published() -> Iterator[Run]:
    """A model with two replicas, reached from outside of the cluster."""
    with started_runs() as runs:
        run = runs.submit(configuration({"quick": QUICK}, serving={"replicas": 2}))
        run.assert_succeeds()
        with inference_is(run.content["name"]):
            yield run


def deployment(run: Run) -> dict[str, Any]:
    found = get("deployment", f"{run.content['name']}-predictor")
    assert found is not None
    return found


def predictors(run: Run) -> list[dict[str, Any]]:
    selector = f"serving.kserve.io/inferenceservice={run.content['name']}"
    return [p for p in find("pods", selector) if "deletionTimestamp" not in p["metadata"]]


def available(run: Run) -> int:
    return int(deployment(run)["status"].get("availableReplicas", 0))


def write_results(name: str, figures: dict[str, Any]) -> None:
    """Keep the figures of a test beside those of the others."""
    known = artifacts.read_json(RESULTS) if RESULTS.exists() else {}
    artifacts.write_json(RESULTS, known | {name: figures})
    print(f"{name}: {json.dumps(figures, indent=2)}")


# --- clients ------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of a client's requests.

    Attributes:
        sent: All of them.
        failures: When, in seconds since the beginning, and why.
        replicas: Who answered how many.
        longest: The most seconds from one answer to the next.
    """

    sent: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)
    replicas: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0


class Load:
    """Clients that ask again and again, each at its own pace, until they are told to stop."""

    def __init__(self, model: str, expected: Any) -> None:
        # As clients do it: on a connection that is kept, or on a new one for each question.
        self._clients: dict[str, tuple[Callable[[], Client], bool]] = {
            "V1, kept": (lambda: V1Client(HTTP, model), True),
            "V1, new each time": (lambda: V1Client(HTTP, model), False),
            "V2 JSON, kept": (lambda: V2JsonClient(HTTP, model), True),
            "V2 binary, kept": (lambda: V2BinaryClient(HTTP, model), True),
            "gRPC, kept": (lambda: GrpcClient(GRPC, model), True),
        }
        self.tallies = {name: Tally() for name in self._clients}
        self.expected = expected
        self._stop = threading.Event()
        self.began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._ask, args=(name,), daemon=True) for name in self._clients
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_SECONDS)

    @property
    def failed(self) -> int:
        return sum(len(tally.failures) for tally in self.tallies.values())

    def figures(self) -> dict[str, Any]:
        """What is written down."""
        return {
            name: {
                "sent": tally.sent,
                "failed": len(tally.failures),
                "longest_without_an_answer_seconds": round(tally.longest, 2),
                "failures": [f"{when:.1f} s: {why}" for when, why in tally.failures[:10]],
            }
            for name, tally in self.tallies.items()
        }

    def _ask(self, name: str) -> None:
        connect, keep = self._clients[name]
        tally = self.tallies[name]
        client = connect()
        last_answer = time.monotonic()
        while not self._stop.wait(PAUSE_SECONDS):
            if not keep:
                client.__exit__(None, None, None)
                client = connect()
            tally.sent += 1
            try:
                answer = client.predict(IMAGES, ANSWER_SECONDS)
                if self.expected is not None:
                    np.testing.assert_allclose(answer.probabilities, self.expected, atol=1e-4)
            except (ServingError, AssertionError) as error:
                tally.failures.append((time.monotonic() - self.began, str(error)[:300]))
            else:
                now = time.monotonic()
                tally.longest = max(tally.longest, now - last_answer)
                last_answer = now
                tally.replicas[answer.replica] += 1
        client.__exit__(None, None, None)


@pytest.fixture
def load(published: Run) -> Load:
    model = published.content["name"]
    with V1Client(HTTP, model) as client:
        expected = client.predict(IMAGES, ANSWER_SECONDS).probabilities
    return Load(model, expected)


# --- accidents ----------------------------------------------------------------------------------


def test_an_update_loses_no_request(published: Run, load: Load) -> None:
    model = published.content["name"]
    before = {pod["metadata"]["name"] for pod in predictors(published)}
    with load:
        time.sleep(5)
        note = {"spec": {"predictor": {"annotations": {"mlpipeline/e2e": "touched"}}}}
        kubectl("patch", "inferenceservice", model, "--type=merge", "-p", json.dumps(note))
        wait_until(
            lambda: not before & {pod["metadata"]["name"] for pod in predictors(published)},
            "new pods",
            120,
        )
        kubectl("rollout", "status", f"deployment/{model}-predictor", "--timeout=120s", seconds=130)
        seconds = time.monotonic() - load.began
        time.sleep(15)  # the last old pod's time to say goodbye
    write_results("rolling update", {"seconds": round(seconds, 1), "clients": load.figures()})
    assert load.failed == 0, load.figures()
    for name, tally in load.tallies.items():
        assert tally.sent >= 50, name
        assert set(tally.replicas) - before, f"{name} was never answered by a new pod"
        assert set(tally.replicas) & before, f"{name} was never answered by an old pod"


def test_a_new_version_is_published_without_losing_a_request(published: Run, load: Load) -> None:
    model = published.content["name"]
    before = {pod["metadata"]["name"] for pod in predictors(published)}
    load.expected = None  # another one halfway
    with started_runs() as runs, load:
        run = runs.submit(published.content | {"seed": published.content["seed"] + 1})
        runs.models.clear()  # it is the fixture's
        run.assert_succeeds()
        seconds = time.monotonic() - load.began
        time.sleep(5)
    service = get("inferenceservice", model)
    assert service is not None
    assert service["metadata"]["annotations"]["mlpipeline/version"] == run.keys()["select"]
    write_results("new version", {"seconds": round(seconds, 1), "clients": load.figures()})
    assert load.failed == 0, load.figures()
    for name, tally in load.tallies.items():
        assert set(tally.replicas) - before, f"{name} was never answered by a new pod"
        assert set(tally.replicas) & before, f"{name} was never answered by an old pod"


def lives(run: Run) -> set[tuple[str, int]]:
    """The replicas that answer; one that was started anew is another."""
    return {
        (pod["metadata"]["uid"], status["restartCount"])
        for pod in predictors(run)
        for status in pod["status"].get("containerStatuses", ())
        if status["ready"]
    }


@pytest.mark.parametrize(
    ("how", "kill"),
    [("pod deleted by force", partial(delete_pod, now=True)), ("process killed", kill_container)],
    ids=["deleted", "killed"],
)
def test_a_replica_that_dies_costs_its_own_connections_and_no_more(
    published: Run, load: Load, how: str, kill: Callable[[dict[str, Any]], None]
) -> None:
    wait_until(lambda: len(lives(published)) >= 2, "two replicas", 60)
    before, victim = lives(published), predictors(published)[0]
    with load:
        time.sleep(5)
        kill(victim)
        killed = time.monotonic() - load.began
        wait_until(lambda: len(lives(published) & before) < len(before), "one replica less", 30)
        wait_until(lambda: len(lives(published)) >= len(before), "as many as before", 120)
        mended = time.monotonic() - load.began
        time.sleep(5)
    figures = {
        "killed_at": round(killed, 1),
        "as_many_again_after_seconds": round(mended - killed, 1),
    }
    write_results(how, figures | {"clients": load.figures()})
    for name, tally in load.tallies.items():
        assert tally.sent >= 50, name
        # The request under way, and those until every node's proxy has heard of it.
        assert len(tally.failures) <= 10, (name, tally.failures)
        assert all(killed - 2 < when < killed + 5 for when, _ in tally.failures), tally.failures
        assert tally.longest < ANSWER_SECONDS, name


# --- load ---------------------------------------------------------------------------------------


def autoscaler(run: Run) -> dict[str, Any]:
    found = get("hpa", f"{run.content['name']}-predictor")
    assert found is not None
    return found


def utilization(scaler: dict[str, Any]) -> int | None:
    """How much of the requested processor is used, in percent, as the autoscaler sees it."""
    for metric in scaler["status"].get("currentMetrics") or ():
        value: int | None = metric.get("resource", {}).get("current", {}).get("averageUtilization")
        return value
    return None


def start_of_the_newest(run: Run) -> dict[str, float]:
    """How long the newest of those that answer took to its container, and from there to ready."""
    answering = filter(is_ready, predictors(run))  # one more may have been made meanwhile
    pod = max(answering, key=lambda p: str(p["metadata"]["creationTimestamp"]))
    (container,) = pod["status"]["containerStatuses"]
    (ready,) = (c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    moments = (
        pod["metadata"]["creationTimestamp"],
        container["state"]["running"]["startedAt"],
        ready["lastTransitionTime"],
    )
    made, began, answers = (datetime.fromisoformat(moment).timestamp() for moment in moments)
    return {"pod_to_container_seconds": began - made, "container_to_ready_seconds": answers - began}


def be_quick_to_shrink(run: Run) -> None:
    """Not after five quiet minutes, as usual. KServe takes this back when it next looks."""
    change = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}}}}
    name = f"{run.content['name']}-predictor"
    kubectl("patch", "hpa", name, "--type=merge", "-p", json.dumps(change))


def be_easily_loaded(run: Run) -> None:
    """At a fifth of the requested processor: a small machine shares its own with the clients."""
    change = {"spec": {"predictor": {"scaleTarget": 20}}}
    model = run.content["name"]
    kubectl("patch", "inferenceservice", model, "--type=merge", "-p", json.dumps(change))

    def is_known() -> bool:
        (metric,) = autoscaler(run)["spec"]["metrics"]
        target: int = metric["resource"]["target"]["averageUtilization"]
        return target == 20

    wait_until(is_known, "the autoscaler's new target", 60)


def test_replicas_grow_in_number_under_load_and_become_few_again(published: Run) -> None:
    be_easily_loaded(published)
    minimum: int = autoscaler(published)["spec"]["minReplicas"]
    model = published.content["name"]
    many = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)
    stop = threading.Event()
    sent, failures = Counter[str](), Counter[str]()

    def ask(name: str) -> None:
        while not stop.is_set():
            with V1Client(HTTP, model) as client:  # anew from time to time, to reach new replicas
                for _ in range(50):
                    if stop.is_set():
                        return
                    sent[name] += 1
                    try:
                        client.predict(many, ANSWER_SECONDS)
                    except ServingError as error:
                        failures[str(error)[:200]] += 1

    def is_reached() -> bool:
        scaler = autoscaler(published)
        seen.append((utilization(scaler), int(scaler["status"].get("currentReplicas", 0))))
        return seen[-1][1] > minimum and available(published) > minimum

    seen: list[tuple[int | None, int]] = []
    threads = [threading.Thread(target=ask, args=(str(n),), daemon=True) for n in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        wait_until(is_reached, f"more than {minimum} replicas: {seen[-3:]}", 240)
    finally:
        stop.set()
        for thread in threads:
            thread.join(ANSWER_SECONDS + 1)
    grown = time.monotonic() - began
    most = available(published)
    newest = start_of_the_newest(published)

    def is_left() -> bool:
        be_quick_to_shrink(published)
        return len(predictors(published)) == minimum

    began = time.monotonic()
    wait_until(is_left, f"{minimum} replicas", 240)
    figures = {
        "minimum": minimum,
        "replicas_under_load": most,
        "highest_utilization_percent": max(u for u, _ in seen if u is not None),
        "seconds_until_more_answered": round(grown, 1),
        **newest,
        "seconds_until_few_again": round(time.monotonic() - began, 1),
        "sent": sum(sent.values()),
        "failed": sum(failures.values()),
        "failures": dict(failures),
    }
    write_results("load" if ENGINE == "auto" else f"load, {ENGINE}", figures)
    assert most > minimum
    assert not failures
