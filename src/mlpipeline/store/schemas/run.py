"""`run.json` and `verification.json`: what happened in a run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from mlpipeline.store.schemas.document import Document, Part
from mlpipeline.store.schemas.gate import GateCheck, GateTable, Judgement
from mlpipeline.store.schemas.rollout import RolloutTable

RunState = Literal["running", "succeeded", "failed", "interrupted"]
TaskState = Literal["reused", "succeeded", "failed", "skipped"]


def _is_iso(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Moment = Annotated[str, AfterValidator(_is_iso)]
"""A point in time, as ISO 8601 writes it."""


class ProtocolFigures(Part):
    """What one protocol answered.

    Attributes:
        protocol: What the protocol is called.
        images: How many images were sent.
        max_difference: The largest difference between a served and a recorded probability.
        accuracy: The share of served classes that were right, 0 to 1.
        recorded_accuracy: The share of recorded classes of the same images that were right; None
            in a record from before samples were sent, when all images were.
        seconds: Time for all images.
        images_per_second: Rate over several connections at once.
        replicas: Who answered, sorted.
    """

    protocol: str
    images: int
    max_difference: float
    accuracy: float
    recorded_accuracy: float | None = None
    seconds: float
    images_per_second: float
    replicas: tuple[str, ...] = ()


class Verification(Document):
    """The content of `verification.json`.

    Attributes:
        replicas: All replicas that answered, by whatever protocol, sorted.
        protocols: The figures of each protocol.
        test_images: How many images the test split has; None in a record from before samples were
            sent, when every protocol sent all of them.
    """

    CALLED: ClassVar[str] = "verification"

    replicas: tuple[str, ...]
    protocols: tuple[ProtocolFigures, ...]
    test_images: int | None = None

    @property
    def accuracy(self) -> float | None:
        """The accuracy by the protocol that sent most images; None where none sent any."""
        most = max(self.protocols, key=lambda figures: figures.images, default=None)
        return most.accuracy if most else None


class TaskRecord(Part):
    """What a task did.

    Attributes:
        name: The task: the step's name, with the candidate's where there is one for each.
        step: The name of its step.
        candidate: The candidate that it is about, if any.
        key: The key of what it publishes; empty where nothing is memoized.
        state: How it ended.
        seconds: How long its work took.
        error: Why it failed.
        retries: Why earlier attempts failed, where the backend tried again.
        started: When its first attempt began; None for one that was reused or never began.
        code: The version of the code that does it; empty where that is not part of any key.
        where: The pod of its last attempt and that pod's node; None where it is the run's own
            machine.
        gate: What the gate has measured and said; None of every other step.
        rollout: What came of the trial of a version; likewise.
    """

    name: str
    step: str
    candidate: str | None = None
    key: str
    state: TaskState
    seconds: float
    error: str | None = None
    retries: tuple[str, ...] = ()
    started: Moment | None = None
    code: str = ""
    where: str | None = None
    gate: GateTable | None = None
    rollout: RolloutTable | None = None

    @property
    def judgement(self) -> Judgement | None:
        """What it says of a new version, if it judges one."""
        return self.gate or self.rollout

    @property
    def said(self) -> dict[str, str]:
        """What it says of a new version in words, and who has had it pass by force; if it does."""
        if (said := self.judgement) is None:
            return {}
        words = {name: getattr(said, name) for name in ("verdict", "reason", "version", "current")}
        if self.gate and self.gate.forced:
            words |= {"forced.who": self.gate.forced.who, "forced.reason": self.gate.forced.reason}
        return {name: text for name, text in words.items() if text}

    @property
    def checks(self) -> dict[str, GateCheck]:
        """The figures that it judges a version by; those of a trial with its mode before them."""
        if self.gate:
            return {check.what: check for check in self.gate.checks}
        trials = self.rollout.trials if self.rollout else ()
        return {f"{trial.mode}.{check.what}": check for trial in trials for check in trial.checks}

    @property
    def has_published(self) -> bool:
        """Whether what it publishes was there when it ended."""
        return self.state in ("succeeded", "reused")


class ServedVersion(Part):
    """A version that was put into service.

    Attributes:
        version: The version.
        candidate: The name of the candidate that it is; empty where that is not known any more.
        seconds: Time from the start of the run until all its replicas answered.
    """

    version: str
    candidate: str
    seconds: float


class Machine(Part):
    """Where a run was carried out.

    Attributes:
        host: The machine's name.
        cpus: The number of its processors.
        python: The version of Python.
        platform: The operating system and the kind of processor.
        packages: The versions of the libraries that results depend on, by name.
    """

    host: str = ""
    cpus: int | None = None
    python: str = ""
    platform: str = ""
    packages: dict[str, str] = Field(default_factory=dict)


class Run(Document):
    """The content of `run.json`.

    Attributes:
        run: The name of the run.
        started: When it began.
        config_file: The name of the file that it was configured by.
        config: The configuration, complete with defaults; as far as known where it could not be
            read.
        machine: Where it was carried out.
        source: Where the code came from: a commit, or the image of the steps.
        state: How it ended.
        seconds: How long it took.
        tasks: What its tasks did, in the order in which they ended.
        served: What was put into service, in that order: several versions in an asynchronous run.
        verification: The figures of the last verification, if there was one.
        error: Why it failed.
    """

    CALLED: ClassVar[str] = "run's record"

    run: str
    started: Moment
    config_file: str
    config: dict[str, Any]
    machine: Machine
    source: str = ""
    state: RunState
    seconds: float
    tasks: tuple[TaskRecord, ...]
    served: tuple[ServedVersion, ...] = ()
    verification: Verification | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """What the model is called; `pipeline` for a run that failed before it was configured."""
        return str(self.config.get("name", "pipeline"))

    @property
    def candidates(self) -> dict[str, dict[str, Any]]:
        """The recipes of the configured candidates, by name."""
        candidates: dict[str, dict[str, Any]] = self.config["candidates"]
        return candidates

    def settings(self, section: str) -> dict[str, Any]:
        """Return a section of the configuration; empty where it was not configured."""
        settings: dict[str, Any] = self.config.get(section) or {}
        return settings

    @property
    def gate(self) -> GateTable | None:
        """What the gate said last: an asynchronous run asks it before every publication."""
        return next((task.gate for task in reversed(self.tasks) if task.gate), None)

    @property
    def rollout(self) -> RolloutTable | None:
        """What came of the last trial of a version."""
        return next((task.rollout for task in reversed(self.tasks) if task.rollout), None)

    @property
    def judgement(self) -> Judgement | None:
        """What was said last of a version that was to be served."""
        return next((t.judgement for t in reversed(self.tasks) if t.judgement), None)

    @property
    def outcome(self) -> str:
        """How it ended, and what was kept in service, if anything was.

        Such as `succeeded, kept fashion-mnist-d2b7c6e5f4a39180`.
        """
        kept = self.judgement.kept if self.judgement else ""
        return f"{self.state}, {kept}" if kept else self.state

    @property
    def ended(self) -> str:
        """When it ended, as ISO 8601."""
        return later(self.started, self.seconds)

    @field_validator("config")
    @classmethod
    def _has_candidates(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("candidates"), dict):
            raise ValueError("it has no candidates")
        return config


def later(moment: str, seconds: float) -> str:
    """Return the time so many seconds after a moment, as ISO 8601."""
    return (datetime.fromisoformat(moment) + timedelta(seconds=seconds)).isoformat()
