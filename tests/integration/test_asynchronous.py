"""`run --asynchronous` on this machine: who is served when, and that no client notices."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlpipeline.store import artifacts
from support.load_client import Asking
from support.pipelines import Command, Pipeline, configuration, keys, states, wait_until

pytestmark = pytest.mark.timeout(900)

# Its training goes on once the test lets it, so it is under way when the first version is served.
SLOW = """
import time
from pathlib import Path

from keras import layers

class Gated(layers.Dense):
    def call(self, inputs, training=None):  # it is built without, before any worker starts
        end = time.monotonic() + 300
        while training and not Path(__file__).with_name("gate").exists():
            assert time.monotonic() < end, "nobody opened the gate"
            time.sleep(0.1)
        return super().call(inputs)

def network(inputs):
    return Gated(32, activation="relu")(layers.Flatten()(inputs))
"""
SMALL = {"model": "cnn", "options": {"widths": [4, 8], "units": 16}, "epochs": 1}
CANDIDATES = {
    "first": SMALL | {"learning_rate": 1e-7},  # it learns nothing
    # The gate is no data, though its code names it.
    "second": {"model": "own_model:network", "files": [], "epochs": 4, "learning_rate": 3e-3},
    "third": SMALL | {"learning_rate": 1e-6},
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    content = configuration(CANDIDATES, asynchronous={"threshold": 0})
    content["training"] |= {"workers": 1, "peer_timeout_seconds": 600}
    folder = tmp_path_factory.mktemp("asynchronous")
    (folder / "own_model.py").write_text(SLOW)
    return Pipeline(folder, content)


def served(pipeline: Pipeline) -> list[dict[str, Any]]:
    with contextlib.suppress(IndexError):  # it has not begun yet
        found: list[dict[str, Any]] = pipeline.last_run()["served"]
        return found
    return []


@pytest.fixture(scope="module")
def client(pipeline: Pipeline) -> Asking:
    """What a client has seen, from the first version's service to the second's, in a whole run."""
    url = f"http://127.0.0.1:{pipeline.content['serving']['port']}"

    def answers(command: Command) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(url, timeout=10).status_code == httpx.codes.OK
        return False

    with pipeline.started("run", "--asynchronous") as command:
        wait_until(lambda: answers(command), command)
        with Asking(url, "toy") as asking:
            wait_until(lambda: asking.versions and served(pipeline), command)
            (pipeline.folder / "gate").touch()
            # Then the replicas of the first version are gone, and the second's are verified.
            wait_until(lambda: len(served(pipeline)) == 2, command)
        assert command.wait() == 0, command.errors + command.output
        assert command.members() == []
    return asking


def test_the_first_good_enough_is_served_at_once_and_a_better_one_takes_its_place(
    pipeline: Pipeline, client: Asking
) -> None:
    record = pipeline.last_run()
    poor, good = record["served"]
    assert (poor["candidate"], good["candidate"]) == ("first", "second")
    order = [task["name"] for task in record["tasks"]]
    assert order.index("serve") < order.index("train-second")
    assert set(states(record).values()) == {"succeeded"}
    assert pipeline.current() == good["version"]


def test_no_client_notices(pipeline: Pipeline, client: Asking) -> None:
    assert client.failures == []
    assert client.sent > 10
    assert client.versions == [one["version"] for one in pipeline.last_run()["served"]]


def test_the_report_says_when_each_version_went_into_service(
    pipeline: Pipeline, client: Asking
) -> None:
    page = (pipeline.workspace / "report.html").read_text()
    for one in pipeline.last_run()["served"]:
        assert one["version"] in page


def test_in_the_end_it_has_selected_what_a_synchronous_run_selects(
    pipeline: Pipeline, client: Asking, tmp_path: Path
) -> None:
    asynchronous, decision = pipeline.last_run(), pipeline.decision()
    synchronous = pipeline.copy(tmp_path)
    command = synchronous.call("run")
    assert command.process.returncode == 0, command.errors
    record = synchronous.last_run()
    assert keys(record) == keys(asynchronous)
    memoized = {name: state for name, state in states(record).items() if name in keys(record)}
    assert set(memoized.values()) == {"reused"}, "also the selection among all"
    models = synchronous.workspace / "models" / "toy"
    last = asynchronous["served"][-1]["version"]
    made_of = {
        artifacts.read_json(models / version / "model.json")["candidate_key"]
        for version in (last, synchronous.current())
    }
    assert made_of == {decision["candidates"]["second"]["key"]}
