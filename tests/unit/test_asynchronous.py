"""The order of things in an asynchronous run, with steps that do nothing but say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlpipeline.backends.local import replicas
from mlpipeline.backends.local.asynchronous import AsynchronousBackend
from mlpipeline.backends.local.display import Display
from mlpipeline.errors import PipelineError, ProcessError, ServingError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Config, Serving
from mlpipeline.plan.pipeline import Task
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

ACCURACY = {"a": 0.86, "b": 0.8, "c": 0.9, "d": 0.88}


class Stage(AsynchronousBackend):
    """A backend whose steps publish at once, one training after the other."""

    accuracy: Mapping[str, float]
    said: list[str]

    @classmethod
    def make(cls, folder: Path, accuracy: Mapping[str, float]) -> Stage:
        candidates = {name: {"model": "cnn", "options": {"units": ord(name)}} for name in accuracy}
        settings = config.parse({"name": "toy", "candidates": candidates}, origin="")
        file = folder / "config.yaml"
        record = RunRecord.begin(settings, file, Workspace(folder))
        display = Display(pipeline.plan(settings), Console(quiet=True))
        made = cls(settings, file, Workspace(folder), record, display)
        made.__dict__.update(accuracy=accuracy, said=[])  # it is frozen
        return made

    async def _train(self, task: Task, *, cpus: list[int]) -> None:
        name = str(task.candidate)
        for _ in range(200):  # as nothing here waits, the one before is published meanwhile
            await asyncio.sleep(0)
        if self.accuracy[name] < 0:
            raise ProcessError("it broke", expected="", remedy="")
        figures: dict[str, Any] = {
            "validation_accuracy": self.accuracy[name],
            "validation_loss": 1.0,
        }
        figures |= {"status": "trained", "parameters": 1}
        with artifacts.publish(self.workspace.root / task.publishes[0]) as draft:
            artifacts.write_json(draft / "metrics.json", figures)
        self.said.append(f"trained {name}")

    async def _run_process(self, task: Task, *extra: str) -> None:
        among = extra[extra.index("--among") + 1] if "--among" in extra else "all"
        if task.step is pipeline.INGEST:
            return
        self.said.append(f"{task.name} {among}")
        if task.step is pipeline.SELECT:
            settings = self.config.among("" if among == "all" else among)
            trained = {
                name: pipeline.plan(settings)[f"train-{name}"].key
                for name in settings.candidates
                if self.accuracy[name] >= 0
            }
            best = max(trained, key=lambda name: self.accuracy[name])
            decision = {"candidates": {name: {"key": key} for name, key in trained.items()}}
            for folder in task.publishes:
                with artifacts.publish(self.workspace.root / folder) as draft:
                    artifacts.write_json(draft / "decision.json", decision)
                    artifacts.write_json(draft / "model.json", {"candidate": best})
        if task.step is pipeline.VERIFY:
            artifacts.write_json(Path(extra[extra.index("--output") + 1]), {"among": among})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of the replicas, by the version that they serve."""
    said: list[str] = []

    @contextmanager
    def reserved(_: Serving) -> Iterator[None]:
        said.append("reserved")
        yield
        said.append("free")

    @asynccontextmanager
    async def started(
        _: Config, __: Path, version: str, *, logs: Path
    ) -> AsyncIterator[asyncio.Task[None]]:
        said.append(f"began {version}")
        yield asyncio.ensure_future(asyncio.sleep(100))
        said.append(f"ended {version}")

    monkeypatch.setattr(replicas, "reserved", reserved)
    monkeypatch.setattr(replicas, "started", started)
    return said


def version(backend: Stage, *names: str) -> str:
    return pipeline.plan(backend.config.among(",".join(names)))["select"].key


def test_the_best_so_far_is_served_and_only_a_better_one_replaces_it(
    tmp_path: Path, served: list[str]
) -> None:
    backend = Stage.make(tmp_path, ACCURACY)
    asyncio.run(backend.run())
    assert [line for line in backend.said if not line.startswith("verify")] == [
        "trained a",
        "select a",
        "trained b",
        "trained c",
        "select a,b,c",
        "trained d",
        "select all",
    ]
    first, second = version(backend, "a"), version(backend, "a", "b", "c")
    # The new one answers before the old one ends, on ports that are held all the time.
    assert served == [
        "reserved",
        f"began {first}",
        f"began {second}",
        f"ended {first}",
        f"ended {second}",
        "free",
    ]
    assert [(one.version, one.candidate) for one in backend.record.served] == [
        (first, "a"),
        (second, "c"),
    ]
    assert backend.record.verification == {"among": "a,b,c"}


def test_what_no_threshold_lets_pass_is_served_in_the_end_as_a_synchronous_run_would(
    tmp_path: Path, served: list[str]
) -> None:
    backend = Stage.make(tmp_path, {"a": 0.2, "b": 0.3})
    asyncio.run(backend.run())
    assert [one.version for one in backend.record.served] == [version(backend)]
    assert backend.said == ["trained a", "trained b", "select a,b", "verify a,b"]


def test_a_candidate_that_fails_is_left_out(tmp_path: Path, served: list[str]) -> None:
    backend = Stage.make(tmp_path, {"a": -1, "b": 0.9})
    asyncio.run(backend.run())
    assert [one.version for one in backend.record.served] == [version(backend, "b")]
    assert [task.state for task in backend.record.tasks if task.candidate == "a"] == ["failed"]


def test_again_nothing_is_selected_anew_and_the_best_is_served_at_once(
    tmp_path: Path, served: list[str]
) -> None:
    asyncio.run(Stage.make(tmp_path, ACCURACY).run())
    backend = Stage.make(tmp_path, ACCURACY)
    asyncio.run(backend.run())
    assert [one.candidate for one in backend.record.served] == ["c"]
    assert not [line for line in backend.said if line.startswith(("trained", "select"))]


def test_a_service_that_fails_ends_the_run_with_its_own_error(
    tmp_path: Path, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ServingError("it answers nonsense", expected="", remedy="")

    backend = Stage.make(tmp_path, ACCURACY)
    monkeypatch.setattr(Stage, "_verify", fail)
    with pytest.raises(PipelineError, match="nonsense"):
        asyncio.run(backend.run())
    assert served[-1] == "free"


def test_a_replica_that_ends_by_itself_ends_the_run(
    tmp_path: Path, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def started(*_: object, **__: Any) -> AsyncIterator[asyncio.Task[None]]:
        async def end() -> None:
            raise ProcessError("a replica ended by itself", expected="", remedy="")

        yield asyncio.ensure_future(end())

    monkeypatch.setattr(replicas, "started", started)
    with pytest.raises(ProcessError, match="by itself"):
        asyncio.run(Stage.make(tmp_path, ACCURACY).run())
