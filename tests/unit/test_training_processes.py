"""Which of the processes that train together are started again when one of them is lost."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from mlpipeline.backends.local.processes import ExitError
from mlpipeline.backends.local.training import TrainingProcesses
from mlpipeline.errors import ProcessError
from mlpipeline.plan.config import Training

pytestmark = pytest.mark.timeout(60)

# Notes that it was started, then meets its fate: each start takes one status of those it is given.
# With none left it ends well as soon as the chief has published, which does so when all others have
# met theirs.
PROCESS = """
import json, os, pathlib, sys, time

folder, fates = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
cluster, task = json.loads(os.environ["TF_CONFIG"]).values()
name = "{type}-{index}".format(**task)
published = folder / "published"

def starts(name):
    file = folder / f"{name}.starts"
    return len(file.read_text().splitlines()) if file.exists() else 0

with (folder / f"{name}.starts").open("a") as file:
    print(json.dumps(cluster), file=file)
fate = fates.get(name, [])
if starts(name) <= len(fate):
    sys.exit(fate[starts(name) - 1])
if name == ("chief-0" if "chief" in cluster else "worker-0"):
    while any(starts(other) <= len(fate) for other, fate in fates.items()):
        time.sleep(0.01)
    published.touch()
while not published.exists():
    time.sleep(0.01)
"""


class Group:
    """Processes with a fate, and how often each of them was started."""

    def __init__(self, folder: Path, settings: Training, fates: dict[str, list[int]]) -> None:
        self.folder, self.said = folder, list[str]()
        self._training = TrainingProcesses(
            "train-cnn",
            [sys.executable, "-c", PROCESS, str(folder), json.dumps(fates)],
            settings,
            logs=folder / "logs",
            say=self.said.append,
            on_progress=lambda _: None,
        )

    def run(self) -> Counter[str]:
        asyncio.run(self._training.run())
        return self.starts()

    def starts(self) -> Counter[str]:
        files = self.folder.glob("*.starts")
        return Counter({file.stem: len(self.clusters(file.stem)) for file in files})

    def clusters(self, name: str) -> list[dict[str, list[str]]]:
        """The addresses that a process was given at each of its starts."""
        lines = (self.folder / f"{name}.starts").read_text().splitlines()
        return [json.loads(line) for line in lines]


SERVERS = Training(strategy="parameter_server", parameter_servers=1, workers=2, attempts=3)
ONCE = Counter({"chief-0": 1, "ps-0": 1, "worker-0": 1, "worker-1": 1})


def test_chief_parameter_servers_and_workers_are_started_as_one_cluster(tmp_path: Path) -> None:
    group = Group(tmp_path, SERVERS, {})
    assert group.run() == ONCE
    first, *others = (group.clusters(name)[0] for name in ONCE)
    assert others == [first] * 3
    assert {role: len(places) for role, places in first.items()} == {
        "chief": 1,
        "ps": 1,
        "worker": 2,
    }
    assert group.said == []


def test_a_lost_worker_is_started_again_alone_at_its_address(tmp_path: Path) -> None:
    group = Group(tmp_path, SERVERS, {"worker-1": [143, 137]})
    assert group.run() == ONCE + Counter({"worker-1": 2})
    first, *later = group.clusters("worker-1")
    assert later == [first, first]
    assert [said.partition(" (")[0] for said in group.said] == [
        "train-cnn: worker 1 was lost; it alone is started again"
    ] * 2


@pytest.mark.parametrize("lost", ["chief-0", "ps-0"])
def test_without_chief_or_parameter_server_all_are_started_again(tmp_path: Path, lost: str) -> None:
    group = Group(tmp_path, SERVERS, {lost: [143]})
    starts = group.run()
    assert starts[lost] == 2
    # Some had not come up yet when the first attempt was over.
    assert all(1 <= starts[name] <= 2 for name in ONCE)
    before, after = group.clusters(lost)
    assert before != after
    assert all(group.clusters(name)[-1] == after for name in ONCE)
    (said,) = group.said
    assert "all are started again (attempt 2 of 3)" in said


def test_all_reduce_starts_all_workers_again_when_one_is_lost(tmp_path: Path) -> None:
    group = Group(tmp_path, Training(workers=2, attempts=3), {"worker-1": [143]})
    assert group.run()["worker-1"] == 2
    assert group.clusters("worker-0")[-1] == group.clusters("worker-1")[-1]
    (said,) = group.said
    assert "a worker was lost; all are started again (attempt 2 of 3)" in said


@pytest.mark.parametrize("name", ["chief-0", "ps-0", "worker-0"])
def test_an_error_that_is_not_of_a_lost_process_is_final(tmp_path: Path, name: str) -> None:
    group = Group(tmp_path, SERVERS, {name: [1]})
    with pytest.raises(ExitError, match="ended with status 1"):
        group.run()
    assert group.starts()[name] == 1
    assert group.said == []


def test_there_is_an_end_to_starting_again(tmp_path: Path) -> None:
    settings = SERVERS.model_copy(update={"attempts": 2})
    group = Group(tmp_path, settings, {"chief-0": [143] * 9})
    with pytest.raises(ExitError, match="ended with status 143"):
        group.run()
    assert group.starts()["chief-0"] == 2


def test_training_that_is_not_done_in_time_is_ended(tmp_path: Path) -> None:
    settings = SERVERS.model_copy(update={"deadline_seconds": 1})
    # The chief waits for somebody who is not there.
    group = Group(tmp_path, settings, {"worker-7": []})
    with pytest.raises(ProcessError, match="not done after 1 s"):
        group.run()
