"""Several runs publish one model at once: the last to end is served, current, and what it says.

The workflow's own YAML is carried out by a small Argo: its DAG, its memo, its mutex. The steps are
the real ones, on a cluster in memory; the model server and its verification alone are played.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlpipeline.backends.cluster import api, inference_service, pods, rollout
from mlpipeline.cli import app
from mlpipeline.cli import cluster as commands
from mlpipeline.errors import PipelineError
from mlpipeline.plan import config, pipeline
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace
from support.operators import OperatedCluster
from support.stored_documents import dataset_card, model_card

ROOT = Path(__file__).parents[2]
TEMPLATES = {
    template["name"]: template
    for template in yaml.safe_load((ROOT / "workflows" / "pipeline.yaml").read_text())["spec"][
        "templates"
    ]
}
NAME = "shirts"
SEEDS = {"a": 1, "b": 2, "c": 3, "broken": 4, "wrong": 5}
"""Of the configurations: `broken` is a version whose pods crash, `wrong` one that lies."""


def _content(which: str) -> dict[str, Any]:
    return {
        "name": NAME,
        "seed": SEEDS[which],
        "data": {"dataset": "synthetic"},
        "candidates": {"cnn": {"model": "cnn"}},
    }


@functools.cache
def _version(which: str) -> str:
    return pipeline.plan(config.parse(_content(which), origin=""))["select"].key


class _FailedError(Exception):
    """A step of a run did not succeed."""


@dataclass
class Run:
    """A workflow, which goes on one step at a time."""

    name: str
    which: str
    argo: Argo
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    phase: str = "Running"

    def __post_init__(self) -> None:
        self._steps = self._walk()

    def go_on(self) -> None:
        """Do its next step."""
        next(self._steps, None)

    def _walk(self) -> Iterator[None]:
        self._do("plan", {})
        yield
        try:
            for task in TEMPLATES["publish"]["dag"]["tasks"]:
                if task["name"] == "canary":  # nothing is to be tried: no pod runs
                    assert self.outputs["gate"]["canary"] == "false"
                elif task["template"] not in ("undo", "refuse"):
                    self._do(task["template"], task, name=task["name"])
                if task["name"] == "serve":
                    yield
            self.phase = "Succeeded"
        except _FailedError as failed:
            self.phase = "Failed"
            if failed.args == ("verify",):
                with pytest.raises(_FailedError):
                    self._do("undo", {})
        self.argo.ended.append(self)
        self.argo.assert_one_and_the_same()

    def _do(self, template: str, task: dict[str, Any], *, name: str = "") -> None:
        """Do a task; a memoized one as Argo does, with no look at what its entry is worth."""
        found = TEMPLATES[template]
        given = {
            p["name"]: self._fill(str(p["value"]))
            for p in task.get("arguments", {}).get("parameters", ())
        }
        key = self._fill(found.get("memoize", {}).get("key", ""), given)
        if key and (entry := self.argo.memo().get(key)):
            parameters = (json.loads(entry)["outputs"] or {}).get("parameters") or ()
            self.outputs[name] = {p["name"]: p["value"] for p in parameters}
            return
        pod = TEMPLATES[found["dag"]["tasks"][0]["template"]] if "dag" in found else found
        args = [self._fill(argument, given) for argument in pod["container"]["args"]]
        self.outputs[name or template] = done = self.argo.run_pod(self, args)
        if key:
            self.argo.remember(key, done)

    def _fill(self, text: str, given: dict[str, str] | None = None) -> str:
        values = {
            "workflow.name": self.name,
            "workflow.uid": "uid",
            "workflow.namespace": "mlpipeline",
            "workflow.parameters.image": "mlpipeline:1",
            "workflow.parameters.predictor-image": "mlpipeline-predictor:1",
            "workflow.parameters.pending-seconds": "10",
            "inputs.parameters.name": NAME,
            "inputs.parameters.among": "",
        }
        values |= {f"inputs.parameters.{k}": v for k, v in (given or {}).items()}
        values |= {
            f"tasks.{step}.outputs.parameters.{name}": value
            for step, outputs in self.outputs.items()
            for name, value in outputs.items()
        }
        return re.sub(r"\{\{([\w.-]+)\}\}", lambda match: values[match[1]], text)


@dataclass
class Argo:
    """Carries out workflows on a cluster in memory."""

    cluster: OperatedCluster
    workspace: Path
    ended: list[Run] = field(default_factory=list)

    def submit(self, which: str, name: str) -> Run:
        text = yaml.safe_dump(_content(which))
        parameters = [{"name": "configuration", "value": text}]
        spec = {"arguments": {"parameters": parameters}}
        self.cluster.put({"kind": "Workflow", "metadata": {"name": name}, "spec": spec})
        return Run(name, which, self)

    def carry_out(self, runs: Sequence[Run], order: Sequence[int]) -> None:
        """Have runs go on in an order of their indices."""
        for place in order:
            runs[place].go_on()
        assert {run.phase for run in runs} <= {"Succeeded", "Failed"}

    def memo(self) -> dict[str, str]:
        memo: dict[str, str] = self.cluster.objects["ConfigMap", "memo"].get("data") or {}
        return memo

    def remember(self, key: str, outputs: dict[str, str]) -> None:
        parameters = [{"name": name, "value": value} for name, value in outputs.items()]
        times = dict.fromkeys(("creationTimestamp", "lastHitTimestamp"), "2026-11-30T00:34:33Z")
        entry = {"nodeID": "node", "outputs": {"parameters": parameters}} | times
        self.cluster.objects["ConfigMap", "memo"].setdefault("data", {})[key] = json.dumps(entry)

    def run_pod(self, run: Run, args: list[str]) -> dict[str, str]:
        """Do what a pod does; return its outputs."""
        if args[:2] == ["step", "verify"]:
            return self._verify(run)
        outputs = self.workspace / "outputs" / run.name
        places = {
            "/workspace": str(self.workspace),
            "/tmp/outputs": str(outputs),
            "/etc/mlpipeline/templates": str(ROOT / "manifests" / "base" / "templates"),
        }
        for place, here in places.items():
            args = [re.sub(f"^{place}", here, argument) for argument in args]
        done = CliRunner().invoke(app.app, args)
        if isinstance(done.exception, PipelineError):
            raise _FailedError(args[1]) from done.exception
        if done.exception:
            raise done.exception
        return {file.name: file.read_text() for file in outputs.iterdir()}

    def _verify(self, run: Run) -> dict[str, str]:
        served = self.served()
        if served != _version(run.which) or run.which == "wrong":
            raise _FailedError("verify")
        registry.promote(Workspace(self.workspace), NAME, served)
        return {"figures": "{}"}

    def served(self) -> str:
        """The version that all pods have loaded; empty for none."""
        deployment = self.cluster.objects.get(("Deployment", f"{NAME}-predictor"))
        if deployment is None:
            return ""
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert deployment["status"]["replicas"] == deployment["status"]["updatedReplicas"]
        args: list[str] = container["args"]
        return args[args.index("--version") + 1]

    def current(self) -> str:
        try:
            return registry.current(Workspace(self.workspace), NAME)
        except PipelineError:
            return ""

    def assert_one_and_the_same(self) -> None:
        """Assert what has to be true whenever nobody publishes."""
        good = [run for run in self.ended if run.phase == "Succeeded"]
        if not good:
            return
        last = good[-1]
        service = self.cluster.get("InferenceService", NAME)
        assert self.served() == self.current() == inference_service.version(service)
        assert self.served() == _version(last.which) == last.outputs["serve"]["version"]


@pytest.fixture
def argo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Argo]:
    """Makes an Argo on a cluster of its own, on which everything has been trained and selected."""
    places = itertools.count()
    trained = tmp_path / "trained"
    for which in SEEDS:
        for task in pipeline.plan(config.parse(_content(which), origin="")).values():
            for folder in task.publishes:
                with artifacts.publish(trained / folder) as draft:
                    (draft / "content").write_text(which)
                    model_card(engine="litert").save(draft / "model.json")
                    dataset_card().save(draft / "dataset.json")

    def make() -> Argo:
        cluster = OperatedCluster()
        workspace = shutil.copytree(trained, tmp_path / str(next(places)))
        cluster.is_broken = lambda service: inference_service.version(service) == _version("broken")
        monkeypatch.setattr(api, "connect", lambda: cluster)
        monkeypatch.setattr(rollout, "time", cluster.clock)
        watch = functools.partial(pods.StartWatch, clock=cluster.clock.monotonic)
        monkeypatch.setattr(rollout, "StartWatch", watch)
        return Argo(cluster, workspace)

    monkeypatch.setattr(commands, "stop_event", threading.Event)
    return make


@functools.cache
def _orders(count: int) -> list[tuple[int, ...]]:
    """The orders in which so many runs can do their steps: plan, serve, verify. Of many, some."""
    steps = [run for run in range(count) for _ in range(3)]
    orders = sorted({order for order in itertools.permutations(steps) if _is_possible(order)})
    return random.Random(0).sample(orders, min(len(orders), 10))


def _is_possible(order: Sequence[int]) -> bool:
    """Whether one run at a time publishes: after its second step none does its own but it."""
    done: Counter[int] = Counter()
    publishing: int | None = None
    for run in order:
        done[run] += 1
        if done[run] > 1 and publishing not in (None, run):
            return False
        publishing = {1: publishing, 2: run, 3: None}[done[run]]
    return True


def _try(argo: Callable[[], Argo], before: Sequence[str], at_once: Sequence[str]) -> None:
    """Carry out runs in all orders, on top of what was run before."""
    for order in _orders(len(at_once)):
        made = argo()
        for number, which in enumerate(before):
            made.carry_out([made.submit(which, f"before-{number}")], [0, 0, 0])
        runs = [made.submit(which, f"run-{place}") for place, which in enumerate(at_once)]
        made.carry_out(runs, order)
        expected = ["Succeeded" if which in "abc" else "Failed" for which in at_once]
        assert [run.phase for run in runs] == expected


@pytest.mark.parametrize(
    ("before", "at_once"),
    [
        ("", "ab"),
        ("a", "ab"),
        ("ba", "ab"),  # both were served: everything is remembered of both
        ("ab", "aa"),
        (["a"], ["broken", "a"]),
        (["a", "b"], ["wrong", "a"]),
        (["a"], ["wrong", "broken"]),
    ],
    ids=str,
)
def test_of_two_runs_the_last_to_end_is_served_current_and_what_it_says(
    argo: Callable[[], Argo], before: Sequence[str], at_once: Sequence[str]
) -> None:
    _try(argo, before, at_once)


def test_so_it_is_of_three(argo: Callable[[], Argo]) -> None:
    _try(argo, "cba", "abc")


def test_a_memo_of_what_was_served_would_be_found_out(
    argo: Callable[[], Argo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model finds the fault: were serve remembered by its version, another would be served."""
    memoized = TEMPLATES["serve"] | {"memoize": {"key": "serve-{{workflow.parameters.version}}"}}
    monkeypatch.setitem(TEMPLATES, "serve", memoized)
    fill = Run._fill

    def with_version(self: Run, text: str, given: dict[str, str] | None = None) -> str:
        return fill(
            self, text.replace("{{workflow.parameters.version}}", _version(self.which)), given
        )

    monkeypatch.setattr(Run, "_fill", with_version)
    with pytest.raises(AssertionError):
        _try(argo, "ba", "ab")
