"""A search in the cluster: a limit of trainings at once, which what is known already ignores."""

from __future__ import annotations

from typing import Any

import pytest

from support.pipelines import states
from support.workflows_on_kind import Run, Runs, configuration, limited, wait_until

pytestmark = pytest.mark.timeout(1200)


def search(*units: int) -> dict[str, Any]:
    space = {"options.widths": [[4, 8]], "options.units": list(units)}
    return {"tiny": {"model": "cnn", "method": "grid", "space": space}}


def trainings(run: Run) -> dict[str, dict[str, Any]]:
    """The nodes of its candidates by their keys."""
    found = {}
    for node in run.nodes("train", "DAG"):
        given = {p["name"]: p["value"] for p in node["inputs"]["parameters"]}
        found[given["key"]] = node
    return found


def test_trials_wait_for_their_turn_and_those_that_are_known_do_not(runs: Runs) -> None:
    content = configuration({}, search=search(8, 16))
    with limited("trainings") as limit:
        limit(1)
        first = runs.submit(content)
        record = first.assert_succeeds()
        pods = first.nodes("train-pod")
        assert len(pods) == 2
        assert pods[0]["finishedAt"] <= pods[1]["startedAt"], "both were trained at once"

        limit(0)
        second = runs.submit(content | {"search": search(8, 16, 32)})

        def new_one_waits() -> bool:
            assert second.phase() in ("", "Pending", "Running"), second.describe()
            messages = [node.get("message", "") for node in second.nodes("train-pod", "Retry")]
            return len(messages) == 1 and "limits/trainings" in messages[0]

        wait_until(new_one_waits, "one training that waits", 240)
        known = {t["key"] for t in record["tasks"] if t["step"] == "train"}
        nodes = trainings(second)
        assert {nodes[key]["phase"] for key in known} == {"Succeeded"}
        assert {nodes[key]["memoizationStatus"]["hit"] for key in known} == {True}
        assert second.jobs() == []

        limit(1)
        made = states(second.assert_succeeds())
    trained = {name: state for name, state in made.items() if name.startswith("train-")}
    assert sorted(trained.values()) == ["reused", "reused", "succeeded"]
    assert made["select"] == "succeeded", "selection is among all three"
