"""What every backend does alike. `pytest tests/contract --backend local | kubernetes`

The local backend and the one on Kubernetes are built of the same steps and must not drift apart:
what a person learns from one is true of the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from mlpipeline.engines import Kind
from mlpipeline.store import artifacts
from support.backends import Backend, Kubernetes, Local, Record, planned_keys
from support.pipelines import configuration, keys, states

pytestmark = pytest.mark.timeout(1200)

SMALL = {"model": "cnn", "options": {"widths": [4, 8], "units": 16}, "epochs": 2}
BROKEN = SMALL | {"options": {"no_such_option": 1}}
STEPS = [
    "ingest",
    "train-broken",
    "train-small",
    "train-smaller",
    "select",
    "gate",
    "serve",
    "verify",
]


@pytest.fixture(scope="module")
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    if request.config.getoption("--backend") == "local":
        yield Local(tmp_path_factory.mktemp("contract"))
    else:
        kubernetes = Kubernetes()
        yield kubernetes
        kubernetes.remove("contract")


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    candidates = {"broken": BROKEN, "small": SMALL, "smaller": SMALL | {"epochs": 1}}
    made = configuration(candidates, name="contract")
    made["data"]["validation"] = 505  # of ten classes: no more than nearly even
    return made


@pytest.fixture(scope="module")
def first(backend: Backend, content: dict[str, Any]) -> Record:
    """A run that finds nothing, and one of whose candidates cannot be trained."""
    return backend.run(content)


@pytest.fixture(scope="module")
def served(backend: Backend, content: dict[str, Any], first: Record, engine: Kind) -> Record:
    """A run whose model the engine serves; by TensorFlow it is another, which trains nothing."""
    if engine == "litert":
        return first
    changed = _without_broken(content)
    changed["serving"]["engine"] = engine
    return backend.run(changed)


def test_a_run_goes_on_without_a_candidate_that_fails_and_says_why(first: Record) -> None:
    assert first["state"] == "succeeded"
    expected = dict.fromkeys(STEPS, "succeeded") | {"train-broken": "failed"}
    assert {name: states(first).get(name) for name in STEPS} == expected
    (failed,) = (task for task in first["tasks"] if task["name"] == "train-broken")
    assert "no_such_option" in failed["error"]


def test_what_a_run_publishes_is_whole_and_where_the_plan_says(
    first: Record, backend: Backend, content: dict[str, Any]
) -> None:
    planned = planned_keys(_without_broken(content))
    assert {name: keys(first)[name] for name in planned} == planned
    folders = {"ingest": "datasets", "select": "selections"}
    for name, key in planned.items():
        artifacts.verify(backend.workspace / folders.get(name, "candidates") / key)
    current = (backend.workspace / "models" / "contract" / "current").read_text().strip()
    assert current == planned["select"]


def test_what_is_served_was_verified_by_every_protocol(
    served: Record, backend: Backend, engine: Kind
) -> None:
    decision = _decision(served, backend)
    assert decision["served"]["engine"] == engine
    protocols = served["verification"]["protocols"]
    assert [p["protocol"] for p in protocols] == ["V1 JSON", "V2 JSON", "V2 binary", "V2 gRPC"]
    for protocol in protocols:
        assert protocol["images"] == decision["test"]["images"]
        assert protocol["accuracy"] == pytest.approx(decision["test"]["accuracy"], abs=1e-12)
        assert len(protocol["replicas"]) >= 2


def test_a_run_leaves_a_report(first: Record, backend: Backend) -> None:
    page = _report(first, backend)
    assert _decision(first, backend)["version"] in page
    assert "no_such_option" in page


def test_the_report_says_who_serves(served: Record, backend: Backend, engine: Kind) -> None:
    said = {"litert": "LiteRT serves", "tensorflow": "TensorFlow serves the model"}
    assert said[engine] in _report(served, backend)


def test_the_next_run_makes_only_what_changed_or_was_damaged(
    first: Record, backend: Backend, content: dict[str, Any]
) -> None:
    backend.damage(backend.workspace / "candidates" / keys(first)["train-small"] / "metrics.json")
    changed = _without_broken(content)
    changed["candidates"]["smaller"]["learning_rate"] = 2e-3
    second = backend.run(changed)
    assert second["state"] == "succeeded"
    assert states(second) | {"plan": ""} == {
        "plan": "",
        "ingest": "reused",
        "train-small": "succeeded",
        "train-smaller": "succeeded",
        "select": "succeeded",
        "gate": "succeeded",
        "serve": "succeeded",
        "verify": "succeeded",
    }
    assert keys(second)["train-small"] == keys(first)["train-small"]
    assert keys(second)["train-smaller"] != keys(first)["train-smaller"]


def test_a_run_without_a_candidate_that_can_be_trained_fails_and_keeps_what_is_served(
    first: Record, backend: Backend, content: dict[str, Any]
) -> None:
    pointer = backend.workspace / "models" / "contract" / "current"
    before = pointer.read_text()
    record = backend.run(content | {"candidates": {"broken": BROKEN}})
    assert record["state"] == "failed"
    assert "no_such_option" in record["error"]
    assert states(record)["ingest"] == "reused"
    assert pointer.read_text() == before


def test_data_that_is_there_is_held_to_a_stricter_limit_and_goes_on_without_it(
    first: Record, backend: Backend, content: dict[str, Any]
) -> None:
    changed = _without_broken(content)
    changed["candidates"]["smaller"]["learning_rate"] = 3e-3  # so there would be something to train
    planned = planned_keys(changed)
    trained = backend.workspace / "candidates" / planned["train-smaller"]
    ingested = backend.workspace / "datasets" / keys(first)["ingest"]
    before, made = _published(backend), ingested.stat().st_ino

    limits = {"balance": 1.0, "fail": ["balance"]}
    strict = backend.run(changed | {"expectations": limits})
    assert strict["state"] == "failed"
    assert states(strict)["ingest"] == "failed"
    assert "the data is not as expected: balance: images of" in strict["error"]
    assert "balance at least 1, as `expectations.fail` asks" in strict["error"]
    assert "the data is not as expected" in _report(strict, backend)
    assert _published(backend) == before
    assert not trained.exists()

    lax = backend.run(changed | {"expectations": {"balance": 1.0}})
    assert lax["state"] == "succeeded"
    assert states(lax)["ingest"] == "reused"
    assert states(lax)["train-small"] == "reused"
    assert states(lax)["train-smaller"] == "succeeded"
    assert keys(lax)["ingest"] == keys(first)["ingest"]
    assert ingested.stat().st_ino == made, "nothing was read again"
    assert _published(backend)["current"] == planned["select"]


def _published(backend: Backend) -> dict[str, str]:
    """What there is of the model: its versions, when each was made, and which one is current."""
    folder = backend.workspace / "models" / "contract"
    made = {place.name: str(place.stat().st_mtime_ns) for place in folder.iterdir()}
    return made | {"current": (folder / "current").read_text().strip()}


def _without_broken(content: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    del changed["candidates"]["broken"]
    return changed


def _report(record: Record, backend: Backend) -> str:
    return (backend.workspace / "runs" / str(record["run"]) / "report.html").read_text()


def _decision(record: Record, backend: Backend) -> dict[str, Any]:
    decision: dict[str, Any] = artifacts.read_json(
        backend.workspace / "selections" / keys(record)["select"] / "decision.json"
    )
    return decision
