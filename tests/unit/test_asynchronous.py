"""The order of things in an asynchronous run, with steps that do nothing but say so."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlpipeline.backends.local import backend as local
from mlpipeline.backends.local import processes, replicas
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.backends.local.display import Display
from mlpipeline.errors import GateError, PipelineError, ProcessError, ServingError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Config, Serving
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import artifacts
from mlpipeline.store.layout import CandidateFolder, DatasetFolder, Workspace
from mlpipeline.store.schemas.gate import Forced, GateTable, Verdict
from mlpipeline.store.schemas.run import Run
from mlpipeline.store.schemas.selection import ModelCard
from support import stored_documents as documents

ACCURACY = {"a": 0.86, "b": 0.8, "c": 0.9, "d": 0.88}


class Stage:
    """A run whose steps publish at once, one training after the other."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, accuracy: Mapping[str, float]
    ) -> None:
        candidates = {name: {"model": "cnn", "options": {"units": ord(name)}} for name in accuracy}
        self.config = config.parse({"name": "toy", "candidates": candidates}, origin="")
        self.workspace, file = Workspace(folder), folder / "config.yaml"
        self.record = RunRecord.begin(self.config, file, self.workspace)
        display = Display(pipeline.plan(self.config), Console(quiet=True))
        self.backend = LocalBackend(self.config, file, self.workspace, self.record, display)
        self.accuracy = accuracy
        self.said: list[str] = []
        self.verified: list[str] = []
        self.judged: list[str] = []
        self.held: Mapping[str, Verdict] = {}
        """What the gate says of a candidate, if not that it may be served."""
        self.forced: Forced | None = None
        self.orders: list[str] = []
        """The files that the verification was told to have the order to pass the gate from."""
        monkeypatch.setattr(processes, "run", self.run_process)
        monkeypatch.setattr(local, "TrainingProcesses", partial(Training, self))

    def run(self, *, asynchronous: bool = True) -> None:
        asyncio.run(self.backend.run(asynchronous=asynchronous))

    def states(self) -> list[tuple[str, str]]:
        """What became of the tasks after the trainings."""
        return [(t.name, t.state) for t in self.record.tasks if t.step not in ("ingest", "train")]

    async def train(self, name: str) -> None:
        for _ in range(200):  # as nothing here waits, the one before is published meanwhile
            await asyncio.sleep(0)
        if self.accuracy[name] < 0:
            raise ProcessError("it broke", expected="", remedy="")
        key = pipeline.plan(self.config)[f"train-{name}"].key
        with artifacts.publish(self.workspace.candidate(key).path) as draft:
            documents.metrics(self.accuracy[name]).save(CandidateFolder(draft).metrics)
        self.said.append(f"trained {name}")

    async def run_process(self, command: list[str], **_: Any) -> None:
        step, options = command[4], command[5:]
        among = next((o.removeprefix("--among=") for o in options if o.startswith("--among=")), "")
        if step == pipeline.INGEST.name:
            key = pipeline.plan(self.config)["ingest"].key
            with artifacts.publish(self.workspace.dataset(key).path) as draft:
                documents.dataset_card().save(DatasetFolder(draft).card)
            return
        if step == pipeline.GATE.name:
            self._judge(options)
            return
        self.said.append(f"{step} {among or 'all'}")
        if step == pipeline.SELECT.name:
            self._select(among)
        if step == pipeline.VERIFY.name:
            told = [o.removeprefix("--version=") for o in options if o.startswith("--version=")]
            self.verified += told
            output = Path(options[options.index("--output") + 1])
            documents.verification(among).save(output)
            if "--forced" in options:
                self.orders.append(options[options.index("--forced") + 1])

    def _judge(self, options: list[str]) -> None:
        (version,) = (o.removeprefix("--version=") for o in options if o.startswith("--version="))
        candidate = ModelCard.load(self.workspace.model("toy", version).card).candidate
        self.judged.append(candidate)
        passed: Verdict = "passed"
        verdict = self.held.get(candidate, passed)
        table = GateTable(
            version=version,
            current="toy-0",
            verdict=verdict,
            reason="as played",
            forced=self.forced,
        )
        table.save(Path(options[options.index("--output") + 1]))
        assert options[options.index("--forced") + 1] == str(self.record.folder.forced)
        assert f"--run={self.record.run}" in options

    def _select(self, among: str) -> None:
        tasks = pipeline.plan(self.config.among(among))
        trained = {
            str(task.candidate): task.key
            for task in tasks.values()
            if task.candidate and self.accuracy[task.candidate] >= 0
        }
        best = max(trained, key=lambda name: self.accuracy[name])
        decision = documents.decision(trained)
        for folder in tasks["select"].publishes:
            with artifacts.publish(self.workspace.artifact(folder).path) as draft:
                decision.save(draft / "decision.json")
                documents.model_card(candidate=best).save(draft / "model.json")


class Training:
    """Stands for the processes of one training."""

    def __init__(self, stage: Stage, name: str, *_: Any, **__: Any) -> None:
        self._stage, self._name = stage, name

    async def run(self) -> None:
        await self._stage.train(self._name.removeprefix("train-"))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Stage]:
    return partial(Stage, monkeypatch, tmp_path)


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
        _: Config, __: Path, version: str, *, logs: Path, end_signal: Callable[[], int]
    ) -> AsyncIterator[asyncio.Task[None]]:
        said.append(f"began {version}")
        yield asyncio.ensure_future(asyncio.sleep(100))
        said.append(f"ended {version} by {signal.Signals(end_signal()).name}")

    monkeypatch.setattr(replicas, "reserved", reserved)
    monkeypatch.setattr(replicas, "started", started)
    return said


def version(backend: Stage, *names: str) -> str:
    return pipeline.plan(backend.config.among(",".join(names)))["select"].key


def test_the_best_so_far_is_served_and_only_a_better_one_replaces_it(
    stage: Callable[..., Stage], served: list[str]
) -> None:
    backend = stage(ACCURACY)
    backend.run()
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
        f"ended {first} by SIGTERM",  # its clients find the second one meanwhile
        f"ended {second} by SIGINT",
        "free",
    ]
    assert [(one.version, one.candidate) for one in backend.record.served] == [
        (first, "a"),
        (second, "c"),
    ]
    assert backend.verified == [first, second], "what is served, whatever is trained by then"
    assert backend.record.verification == documents.verification("a,b,c")


def test_what_no_threshold_lets_pass_is_served_in_the_end_as_a_synchronous_run_would(
    stage: Callable[..., Stage], served: list[str]
) -> None:
    backend = stage({"a": 0.2, "b": 0.3})
    backend.run()
    assert [one.version for one in backend.record.served] == [version(backend)]
    assert backend.said == ["trained a", "trained b", "select all", "verify all"]


def test_a_candidate_that_fails_is_left_out(stage: Callable[..., Stage], served: list[str]) -> None:
    backend = stage({"a": -1, "b": 0.9})
    backend.run()
    assert [one.version for one in backend.record.served] == [version(backend, "b")]
    assert [task.state for task in backend.record.tasks if task.candidate == "a"] == ["failed"]


def test_again_nothing_is_selected_anew_and_the_best_is_served_at_once(
    stage: Callable[..., Stage], served: list[str]
) -> None:
    stage(ACCURACY).run()
    backend = stage(ACCURACY)
    backend.run()
    assert [one.candidate for one in backend.record.served] == ["c"]
    assert not [line for line in backend.said if line.startswith(("trained", "select"))]


def test_what_the_gate_holds_back_is_registered_and_not_served(
    stage: Callable[..., Stage], served: list[str]
) -> None:
    backend = stage(ACCURACY)
    backend.held = {"c": "kept"}
    backend.run(asynchronous=False)
    assert backend.states() == [
        *(("select", "succeeded"), ("gate", "succeeded")),
        *(("serve", "skipped"), ("verify", "skipped")),
    ]
    assert (served, backend.record.served, backend.verified) == ([], [], [])
    run = backend.record.content()
    assert run.gate
    assert run.gate.version == version(backend)
    assert run.outcome == "running, kept toy-0"
    assert backend.workspace.model("toy", version(backend)).card.exists()
    assert Run.load(backend.record.folder.record).gate == run.gate


@pytest.mark.parametrize("forced", [None, Forced(who="ann", reason="because")])
def test_the_history_is_told_of_force_only_where_it_was_needed(
    stage: Callable[..., Stage], served: list[str], forced: Forced | None
) -> None:
    backend = stage(ACCURACY)
    backend.forced = forced
    backend.run(asynchronous=False)
    assert backend.orders == ([str(backend.record.folder.forced)] if forced else [])


def test_where_the_gate_is_required_the_run_fails_and_serves_nothing(
    stage: Callable[..., Stage], served: list[str]
) -> None:
    backend = stage(ACCURACY)
    backend.held = {"c": "refused"}
    with pytest.raises(GateError, match="is held back: as played"):
        backend.run(asynchronous=False)
    assert backend.states()[1:] == [
        *(("gate", "succeeded"), ("serve", "skipped"), ("verify", "skipped")),
    ]
    assert served == []
    run = backend.record.content()
    assert run.gate
    assert run.gate.verdict == "refused"


@pytest.mark.parametrize("verdict", ["kept", "refused"])
def test_an_early_candidate_that_is_held_back_leaves_the_way_to_a_better_one(
    stage: Callable[..., Stage], served: list[str], verdict: Verdict
) -> None:
    backend = stage(ACCURACY)
    backend.held = {"a": verdict}
    backend.run()
    assert backend.judged[0] == "a"
    assert backend.judged[-1] == "c"
    assert {one.candidate for one in backend.record.served} == {"c"}
    run = backend.record.content()
    assert run.gate
    assert (run.gate.verdict, run.outcome) == ("passed", "running")


def test_a_better_candidate_that_is_held_back_leaves_the_early_one_in_service(
    stage: Callable[..., Stage], served: list[str]
) -> None:
    backend = stage(ACCURACY)
    backend.held = {"c": "kept"}
    backend.run()
    first = version(backend, "a")
    assert [one.version for one in backend.record.served] == [first]
    assert served[1:] == [f"began {first}", f"ended {first} by SIGINT", "free"]
    assert backend.judged == ["a", "c", "c"], "anew, when all are trained"
    assert backend.record.content().outcome == "running, kept toy-0"


def test_a_service_that_fails_ends_the_run_with_its_own_error(
    stage: Callable[..., Stage], served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = stage(ACCURACY)

    async def run(command: list[str], **_: Any) -> None:
        if pipeline.VERIFY.name in command:
            raise ServingError("it answers nonsense", expected="", remedy="")
        await backend.run_process(command)

    monkeypatch.setattr(processes, "run", run)
    with pytest.raises(PipelineError, match="nonsense"):
        backend.run()
    assert served[-1] == "free"


def test_a_replica_that_ends_by_itself_ends_the_run(
    stage: Callable[..., Stage], served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def started(*_: object, **__: Any) -> AsyncIterator[asyncio.Task[None]]:
        async def end() -> None:
            raise ProcessError("a replica ended by itself", expected="", remedy="")

        yield asyncio.ensure_future(end())

    monkeypatch.setattr(replicas, "started", started)
    with pytest.raises(ProcessError, match="by itself"):
        stage(ACCURACY).run()
