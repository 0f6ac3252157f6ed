"""What is to be served while some candidates are still trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlpipeline.errors import SelectionError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.succession import judge
from mlpipeline.store import artifacts, layout
from support import stored_documents as documents

NAMES = ("a", "b", "c")


def settings(threshold: float = 0.85, names: tuple[str, ...] = NAMES) -> Config:
    raw = {
        "name": "shirts",
        "candidates": {name: {"model": "cnn", "options": {"units": ord(name)}} for name in names},
        "asynchronous": {"threshold": threshold},
    }
    return config.parse(raw, origin="")


class Workspace:
    """Candidates are trained, and selected among, in a moment."""

    def __init__(self, folder: Path) -> None:
        self.layout = layout.Workspace(folder)

    def train(self, name: str, accuracy: float, *, status: str = "trained") -> None:
        task = pipeline.plan(settings())[f"train-{name}"]
        figures = documents.metrics(accuracy, status=status, diverged_at_step=7)
        with artifacts.publish(self.layout.root / task.publishes[0]) as draft:
            figures.save(draft / "metrics.json")

    def select(self, *names: str) -> str:
        """Publish the selection among some; return its version."""
        tasks = pipeline.plan(settings().among(",".join(names)))
        keys = {str(t.candidate): t.key for t in tasks.values() if t.candidate}
        with artifacts.publish(self.layout.root / tasks["select"].publishes[0]) as draft:
            documents.decision(keys).save(draft / "decision.json")
        return tasks["select"].key


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_nothing_is_served_below_the_threshold_but_the_last_is(workspace: Workspace) -> None:
    workspace.train("b", 0.84)
    found = judge(settings(), workspace.layout, "", last=False)
    assert (found.replaces, found.among) == (False, ())
    assert "84.00% is below 85.00%" in found.reason
    found = judge(settings(), workspace.layout, "", last=True)
    assert (found.replaces, found.among) == (True, ("b",))


@pytest.mark.parametrize("accuracy", [0.85, 0.9])
def test_the_first_that_passes_the_threshold_is_served(
    workspace: Workspace, accuracy: float
) -> None:
    workspace.train("c", accuracy)
    found = judge(settings(), workspace.layout, "", last=False)
    assert (found.replaces, found.among) == (True, ("c",))


def test_a_better_one_replaces_it(workspace: Workspace) -> None:
    workspace.train("c", 0.9)
    served = workspace.select("c")
    workspace.train("a", 0.91)
    found = judge(settings(), workspace.layout, served, last=False)
    assert (found.replaces, found.among) == (True, ("a", "c"))


@pytest.mark.parametrize("accuracy", [0.5, 0.9], ids=["worse", "equal"])
@pytest.mark.parametrize("last", [False, True])
def test_a_worse_or_equal_one_replaces_nothing(
    workspace: Workspace, accuracy: float, last: bool
) -> None:
    workspace.train("a", 0.9)
    served = workspace.select("a")
    workspace.train("c", accuracy)
    found = judge(settings(), workspace.layout, served, last=last)
    assert (found.replaces, found.among) == (False, ("a",))


def test_one_that_diverged_is_passed_over_and_no_reason_to_fail_before_the_end(
    workspace: Workspace,
) -> None:
    workspace.train("a", 0.0, status="diverged")
    assert not judge(settings(), workspace.layout, "", last=False).replaces
    with pytest.raises(SelectionError, match="diverged"):
        judge(settings(), workspace.layout, "", last=True)
    workspace.train("b", 0.9)
    assert judge(settings(), workspace.layout, "", last=False).among == ("a", "b")


def test_a_damaged_candidate_does_not_count(workspace: Workspace) -> None:
    workspace.train("a", 0.99)
    workspace.train("b", 0.9)
    folder = workspace.layout.root / pipeline.plan(settings())["train-a"].publishes[0]
    (folder / "metrics.json").write_text("{}")
    assert judge(settings(), workspace.layout, "", last=True).among == ("b",)


@pytest.mark.parametrize("served", ["shirts-0123456789abcdef", "other"])
def test_a_version_of_another_configuration_is_replaced(workspace: Workspace, served: str) -> None:
    """By the first that passes the threshold, however good it is: its data may be other data."""
    workspace.train("a", 0.9)
    if served == "other":
        workspace.train("b", 0.99)
        served = workspace.select("a", "b")
        assert judge(settings(names=("a",)), workspace.layout, served, last=False).replaces
    else:
        assert judge(settings(), workspace.layout, served, last=False).replaces


def test_the_last_word_is_what_a_synchronous_run_selects(workspace: Workspace) -> None:
    for name, accuracy in {"a": 0.86, "b": 0.9, "c": 0.88}.items():
        workspace.train(name, accuracy)
    found = judge(settings(), workspace.layout, workspace.select("a"), last=True)
    planned = pipeline.plan(settings().among(",".join(found.among)))
    assert found.replaces
    assert planned["select"].key == pipeline.plan(settings())["select"].key
