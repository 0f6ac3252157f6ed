"""A version that is tried on real requests in a cluster, before it takes the place of another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from mlpipeline.errors import ServingError
from mlpipeline.serving.clients import V2BinaryClient
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from support.pipelines import states
from support.workflows_on_kind import (
    HTTP,
    QUICK,
    WORKSPACE,
    Run,
    Runs,
    argo,
    configuration,
    find,
    get,
    inference_is,
    kubectl,
    patched,
    task_of,
    wait_until,
)
from support.workflows_on_kind import runs as started_runs

pytestmark = pytest.mark.timeout(1800)

SHARE = 0.25
TRIAL = {"share": SHARE, "seconds": 15, "requests": 10}
# It learns what the data is: so two of them say the same.
LEARNS = QUICK | {"epochs": 6, "learning_rate": 3e-3}
LEARNS_NOTHING = QUICK | {"learning_rate": 1e-9}


class Traffic:
    """A client that asks a few times a second, each time on a connection of its own or a kept one.

    Attributes:
        versions: How many answers were of which version.
        failures: What was no answer.
    """

    def __init__(self, model: str) -> None:
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._model = model
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        dice = np.random.default_rng(0)
        while not self._over.is_set():
            with V2BinaryClient(HTTP, self._model) as client:
                for _ in range(5):
                    images = dice.integers(0, 256, (2, 28, 28), dtype=np.uint8)
                    try:
                        self.versions[client.predict(images, 30).version] += 1
                    except (ServingError, httpx.HTTPError) as error:
                        self.failures.append(repr(error))
                    if self._over.wait(0.05):
                        return


@pytest.fixture(scope="module")
def module_runs() -> Iterator[Runs]:
    with started_runs() as made:
        yield made


@pytest.fixture(scope="module")
def first(module_runs: Runs) -> Run:
    """A model that is served by two replicas."""
    run = module_runs.submit(configuration({"one": LEARNS}, serving={"replicas": 2}))
    run.assert_succeeds()
    return run


@pytest.fixture(scope="module")
def traffic(first: Run) -> Iterator[Traffic]:
    with inference_is(first.content["name"]), Traffic(first.content["name"]) as traffic:
        yield traffic
    assert traffic.failures == []


def _version(run: Run) -> str:
    return run.keys()["select"]


def _answers(run: Run, traffic: Traffic) -> int:
    """How many answers the version of a run has given; none before it is selected."""
    return traffic.versions[run.keys().get("select", "")]


def _challengers() -> list[dict[str, Any]]:
    return find("inferenceservices", "app.kubernetes.io/component=challenger")


def _asked(first: Run, candidate: dict[str, Any], **rollout: Any) -> dict[str, Any]:
    asked = {"canary": TRIAL} | rollout
    return first.content | {"candidates": {"one": candidate}, "rollout": asked}


def _is_kept(first: Run, run: Run, why: str) -> None:
    record = run.assert_succeeds()
    left_out = {"canary": "succeeded", "serve": "skipped", "verify": "skipped"}
    assert states(record).items() >= left_out.items()
    assert record["tasks"]
    table = task_of(record, "canary")["rollout"]
    assert table["verdict"] == "kept"
    assert why in table["reason"]
    workspace, model = Workspace(WORKSPACE), first.content["name"]
    assert history.pointed_at(workspace, model) == _version(first)
    held = history.held_back(workspace, model, _version(run))
    assert held is not None
    assert held.by == "canary"
    wait_until(lambda: not _challengers(), "the end of the challenger", 60)
    assert not workspace.trial_order(model).exists()


def test_one_that_says_something_else_answers_its_share_and_is_kept_out(
    first: Run, traffic: Traffic, module_runs: Runs
) -> None:
    before = traffic.versions.total()
    run = module_runs.submit(_asked(first, LEARNS_NOTHING, canary=TRIAL | {"agreement": 0.95}))
    _is_kept(first, run, "same class")
    new = traffic.versions[_version(run)]
    assert 0 < new <= SHARE * (traffic.versions.total() - before)
    assert traffic.failures == []


def test_nobody_sees_what_a_shadow_says(first: Run, traffic: Traffic, module_runs: Runs) -> None:
    content = _asked(first, LEARNS_NOTHING | {"learning_rate": 2e-9}, canary=None)
    content["rollout"]["shadow"] = TRIAL | {"share": 1.0, "agreement": 0.95}
    run = module_runs.submit(content)
    _is_kept(first, run, "shadow: same class")
    assert _version(run) not in traffic.versions
    assert traffic.failures == []


def test_one_whose_replica_does_not_start_answers_nothing(
    first: Run, traffic: Traffic, module_runs: Runs
) -> None:
    crashes = {"name": "kserve-container", "command": ["sh", "-c", "exit 3"]}
    with patched("inference-service", {"spec": {"predictor": {"containers": [crashes]}}}):
        run = module_runs.submit(_asked(first, LEARNS_NOTHING | {"learning_rate": 3e-9}))
        _is_kept(first, run, "its replica does not start")
    assert _version(run) not in traffic.versions
    assert traffic.failures == []


def test_one_that_is_killed_while_it_is_tried_costs_nobody_an_answer(
    first: Run, traffic: Traffic, module_runs: Runs
) -> None:
    trial = TRIAL | {"seconds": 600, "agreement": None}
    content = _asked(first, LEARNS_NOTHING | {"learning_rate": 4e-9}, canary=trial)
    run = module_runs.submit(content)
    wait_until(lambda: _answers(run, traffic) > 3, "answers of the challenger")
    name = f"{first.content['name']}-challenger"
    (pod,) = find("pods", f"serving.kserve.io/inferenceservice={name}")
    kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "kill -KILL -1", seconds=60)
    run.wait()
    _is_kept(first, run, "")
    assert traffic.failures == []


def test_a_workflow_that_is_stopped_ends_the_trial(
    first: Run, traffic: Traffic, module_runs: Runs
) -> None:
    trial = TRIAL | {"seconds": 600, "agreement": None}
    content = _asked(first, LEARNS_NOTHING | {"learning_rate": 5e-9}, canary=trial)
    run = module_runs.submit(content)
    wait_until(lambda: _answers(run, traffic) > 3, "answers of the challenger")
    argo("stop", run.name)
    run.wait()
    wait_until(lambda: not _challengers(), "the end of the challenger", 60)
    assert not Workspace(WORKSPACE).trial_order(first.content["name"]).exists()
    served = get("inferenceservice", first.content["name"])
    assert served is not None
    assert served["metadata"]["annotations"]["mlpipeline/version"] == _version(first)
    assert traffic.failures == []


def test_a_good_one_takes_the_place(first: Run, traffic: Traffic, module_runs: Runs) -> None:
    """It differs by one epoch."""
    trial = TRIAL | {"agreement": 0.3, "errors": 0.05, "slower_by": None}
    run = module_runs.submit(_asked(first, LEARNS | {"epochs": 7}, canary=trial))
    record = run.assert_succeeds()
    assert states(record)["verify"] == "succeeded"
    table = task_of(record, "canary")["rollout"]
    assert table["verdict"] == "passed"
    (tried,) = table["trials"]
    assert len(tried["replicas"]) == 2
    assert 10 <= tried["tried"] <= SHARE * tried["requests"]
    assert history.pointed_at(Workspace(WORKSPACE), first.content["name"]) == _version(run)
    version = _version(run)
    before = traffic.versions[version]
    wait_until(lambda: traffic.versions[version] > before + 50, "answers of what is served", 60)
    assert traffic.failures == []
