"""The pipeline as data: its steps, their order, what each reads and publishes, and its cache key.

Read this first. All that needs to know the order is derived from `STEPS`: the local backend, the
asynchronous mode, the workflow, the lineage, the report and the record.

    ingest ──► train × candidates ──► select ──► gate ──► canary ──► serve ──► verify
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlpipeline.plan import own_files, permissions
from mlpipeline.plan.commands import step_arguments
from mlpipeline.plan.config import Candidate, Config, Data, module_of
from mlpipeline.plan.fingerprint import code_version
from mlpipeline.store.artifacts import is_whole, make_key
from mlpipeline.store.layout import CANDIDATES, DATASETS, MODELS, SELECTIONS, Workspace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """A kind of artifact: what one step publishes, and others read."""

    folder: str
    """The folder of the workspace with one folder for each key."""
    is_named: bool = False
    """Whether there is a folder for each model's name in between."""

    def path(self, key: str, model: str) -> Path:
        """Return the path below the workspace of what is published under a key.

        Args:
            key: The cache key of the task that publishes it.
            model: The model's name, as configured.
        """
        return self.place(model) / key

    def place(self, model: str) -> Path:
        """Return the folder that all of them are in, below the workspace.

        Args:
            model: The model's name, as configured.
        """
        return Path(self.folder, model) if self.is_named else Path(self.folder)


DATASET = Artifact(DATASETS)
CANDIDATE = Artifact(CANDIDATES)
SELECTION = Artifact(SELECTIONS)
MODEL = Artifact(MODELS, is_named=True)


class Identity(NamedTuple):
    """What the result of a task depends on, beside the package's own code and what it reads."""

    prefix: str
    """The beginning of its cache key, for the reader's sake."""
    parameters: Mapping[str, Any] = {}
    plugin: str = ""
    """The user's own code that it calls, as `package.module:function`, or a built-in name."""
    reads: Data | Candidate | None = None
    """The section that says which files this code reads, if it says so."""


# They say where to look: what is found there is part of the key, if anything is.
_FILES = {"files", "files_digest"}


def _of_nothing(config: Config, candidate: str | None) -> Identity:
    return Identity("")


def _of_data(config: Config, candidate: str | None) -> Identity:
    # What is not given, such as feedback where there is none, is no part of the key.
    data = config.data.model_dump(exclude_none=True, exclude=_FILES)
    if config.data.unreadable == "fail":  # nothing was unreadable, then
        del data["unreadable"]
    return Identity("ingest", data, plugin=config.data.dataset, reads=config.data)


def _of_candidate(config: Config, candidate: str | None) -> Identity:
    settings = config.candidates[str(candidate)]
    parameters = {"seed": config.seed, **settings.model_dump(exclude=_FILES)}
    if config.training.strategy == "parameter_server":  # all others end alike
        parameters["strategy"] = config.training.strategy
    return Identity(str(candidate), parameters, plugin=settings.model, reads=settings)


def _of_model(config: Config, candidate: str | None) -> Identity:
    serving = config.serving.model_dump(include={"engine", "precision"})
    said = config.card.model_dump(exclude_defaults=True)
    return Identity(
        config.name, {"name": config.name, **serving} | ({"card": said} if said else {})
    )


@dataclass(frozen=True)
class Step:
    """One kind of work. `python -m mlpipeline step NAME` does it."""

    name: str
    purpose: str
    module: str
    """Where the work is done: its code, with all that it imports, is part of the cache key."""
    reads: tuple[Artifact, ...] = ()
    """What it reads of what earlier steps have published."""
    publishes: tuple[Artifact, ...] = ()
    """What it makes, named by its key; nothing for a step that is never memoized."""
    after: tuple[Step, ...] = ()
    """Steps that it waits for without reading an artifact of theirs."""
    per: Literal["run", "candidate"] = "run"
    """Whether there is one task of it, or one for each candidate."""
    identity: Callable[[Config, str | None], Identity] = _of_nothing
    """What its key is made of, for a configuration and a candidate."""
    is_wanted: Callable[[Config], bool] = lambda _: True
    """Whether a configuration asks for it; otherwise there is no task of it."""
    typical_seconds: float = 10
    """A guess of how long it takes on two cores, for a first estimate of the time that is left."""

    @property
    def folder(self) -> str | None:
        """Folder of the workspace that it publishes to first; None where it publishes nothing."""
        return self.publishes[0].folder if self.publishes else None

    def task_name(self, candidate: str | None) -> str:
        """Return what its task for a candidate is called, such as `train-cnn`."""
        return self.name if candidate is None else f"{self.name}-{candidate}"


INGEST = Step(
    "ingest",
    "fetch the data set, split it, write sharded TFRecords",
    module="mlpipeline.steps.ingestion",
    publishes=(DATASET,),
    identity=_of_data,
    typical_seconds=5,
)
TRAIN = Step(
    "train",
    "train one candidate on several workers, export it",
    module="mlpipeline.steps.training",
    reads=(DATASET,),
    publishes=(CANDIDATE,),
    per="candidate",
    identity=_of_candidate,
    typical_seconds=25,
)
SELECT = Step(
    "select",
    "choose the best candidate on the validation split, make what is served, test it once",
    module="mlpipeline.steps.selection",
    reads=(DATASET, CANDIDATE),
    publishes=(SELECTION, MODEL),
    identity=_of_model,
    typical_seconds=5,
)
# Without a key: what it says depends on what is current when its turn has come.
GATE = Step(
    "gate",
    "compare the registered model with the current one: it is served only if it is no worse",
    module="mlpipeline.steps.gate",
    reads=(MODEL, DATASET),
    typical_seconds=2,
)
CANARY = Step(
    "canary",
    "try the registered model on a share of the requests to the current one",
    module="mlpipeline.steps.canary",
    reads=(MODEL,),
    after=(GATE,),
    is_wanted=lambda config: bool(config.rollout.trials),
    typical_seconds=60,
)
SERVE = Step(
    "serve",
    "start the replicas of the registered model",
    module="mlpipeline.serving.server",
    reads=(MODEL,),
    after=(GATE, CANARY),
    typical_seconds=2,
)
VERIFY = Step(
    "verify",
    "send the test split to what is served, by every protocol, and compare",
    module="mlpipeline.steps.verification",
    reads=(MODEL, DATASET),
    after=(SERVE,),
    typical_seconds=3,
)
STEPS = (INGEST, TRAIN, SELECT, GATE, CANARY, SERVE, VERIFY)
"""All steps, each after those whose results it needs."""


def producer_of(artifact: Artifact) -> Step:
    """Return the step that publishes a kind of artifact."""
    return next(step for step in STEPS if artifact in step.publishes)


def needs_of(step: Step) -> tuple[Step, ...]:
    """Return the steps that a step has to wait for: not those that one of these waits for."""
    needed = {producer_of(artifact) for artifact in step.reads} | set(step.after)
    behind = {further for one in needed for further in _all_needs_of(one)}
    return tuple(one for one in STEPS if one in needed - behind)


def _all_needs_of(step: Step) -> set[Step]:
    direct = needs_of(step)
    return set(direct).union(*(_all_needs_of(one) for one in direct))


@dataclass(frozen=True)
class Task:
    """A step applied: one node of the workflow's graph."""

    name: str
    step: Step
    reads: tuple[str, ...] = ()
    """Names of the tasks whose artifacts it reads."""
    needs: tuple[str, ...] = ()
    """Names of the tasks that it has to wait for."""
    key: str = ""
    """Cache key of what it publishes; empty where nothing is memoized."""
    publishes: tuple[Path, ...] = ()
    """Folders below the workspace that it publishes, in the order of `Step.publishes`."""
    candidate: str | None = None
    among: tuple[str, ...] = ()
    """The candidates that count, where some do not; empty where all of them do."""

    def arguments(
        self,
        config: str | Path,
        workspace: str | Workspace,
        *,
        version: str | None = None,
        output: str | Path | None = None,
        forced: str | Path | None = None,
        run: str | None = None,
    ) -> list[str]:
        """Return the command line that does it, the same in a process and in a pod.

        Args:
            config: The run's configuration file.
            workspace: The folder of all artifacts.
            version: The version of the model that it is about, for a step after the selection.
            output: File for figures that it hands back, if the step has any.
            forced: The file that may say that the gate is to be passed, for the gate; or says that
                it was, for the step that verifies.
            run: The run that publishes the version, for both of these steps.
        """
        return step_arguments(
            self.step.name,
            config=config,
            workspace=workspace,
            candidate=self.candidate,
            among=",".join(self.among) or None,
            version=version,
            output=output,
            forced=forced,
            run=run,
        )

    def is_done(self, workspace: Workspace) -> bool:
        """Tell whether all that it publishes is there and undamaged: only then is a memo a hit."""
        folders = [workspace.artifact(name).path for name in self.publishes]
        return bool(folders) and all(is_whole(folder) for folder in folders)


def plan(config: Config, *, without: Collection[str] = ()) -> dict[str, Task]:
    """Expand the steps into tasks for one configuration, in an order that fits their needs.

    Args:
        config: The configuration.
        without: Candidates that failed: what comes after the trainings goes on with the others,
            under another key.

    Raises:
        ConfigurationError: It names a function that may not be named here, or is in no module.
    """
    permissions.check_configuration(config)
    tasks: dict[str, Task] = {}
    for step in STEPS:
        if not step.is_wanted(config):
            continue
        candidates = tuple(config.candidates) if step.per == "candidate" else (None,)
        made = [_task(step, candidate, config, tasks, without) for candidate in candidates]
        tasks |= {task.name: task for task in made}
    return tasks


def _task(
    step: Step,
    candidate: str | None,
    config: Config,
    earlier: Mapping[str, Task],
    without: Collection[str],
) -> Task:
    own = (None, candidate) if step.per == "candidate" else (None, *config.candidates)
    usable = {
        name: task
        for name, task in earlier.items()
        if task.candidate in own and task.candidate not in without
    }
    reads = [name for name, task in usable.items() if {*step.reads} & {*task.step.publishes}]
    waits = [name for name, task in usable.items() if task.step in step.after]
    needs = _direct({*reads, *waits}, usable)
    identity = step.identity(config, candidate)
    key = ""
    if step.publishes:
        inputs = [usable[name].key for name in needs]
        code = _code(step, identity.plugin)
        parameters = dict(identity.parameters)
        if identity.reads and (digest := own_files.digest(identity.plugin, identity.reads)):
            parameters["files"] = digest
        key = make_key(identity.prefix, code=code, parameters=parameters, inputs=inputs)
    left_out = step.per == "run" and any(task.candidate for task in earlier.values()) and without
    return Task(
        step.task_name(candidate),
        step,
        reads=tuple(reads),
        needs=needs,
        key=key,
        publishes=tuple(artifact.path(key, config.name) for artifact in step.publishes),
        candidate=candidate,
        among=tuple(n for n in config.candidates if n not in without) if left_out else (),
    )


def _direct(names: Collection[str], tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """Leave out what one of the others needs already; in the order of the tasks."""
    behind = set(_ancestors(names, tasks))
    return tuple(name for name in tasks if name in names and name not in behind)


def _ancestors(names: Iterable[str], tasks: Mapping[str, Task]) -> Iterator[str]:
    for name in names:
        yield from tasks[name].needs
        yield from _ancestors(tasks[name].needs, tasks)


def plan_of_finished(config: Config, workspace: Workspace) -> dict[str, Task]:
    """Return the plan without the candidates whose training failed for good.

    It reads, and compares with its checksum, every file of every trained candidate, each time
    that it is called: tens of megabytes. Whoever has the plan at hand passes it on.

    Args:
        config: The configuration.
        workspace: The folder of all artifacts.
    """
    trainings = [task for task in plan(config).values() if task.candidate]
    missing = {str(task.candidate) for task in trainings if not task.is_done(workspace)}
    for name in sorted(missing):
        _log.info("without candidate %s: it was not trained", name)
    return plan(config, without=missing)


def code_of(task: Task, config: Config) -> str:
    """Return the version of the code that does a task, a plugin of the user's own included."""
    return _code(task.step, task.step.identity(config, task.candidate).plugin)


def compared(task: Task, config: Config) -> str:
    """Return what of the user's own a task's key was compared by; empty where it has none.

    Such as `3 modules and 2 files (41 MB, by size and time) are as they were`.

    Args:
        task: One whose result is there, and is reused.
        config: The configuration that it was planned with.
    """
    identity = task.step.identity(config, task.candidate)
    if identity.reads is None:
        return ""
    return own_files.compared(identity.plugin, identity.reads)


def _code(step: Step, plugin: str) -> str:
    own_module = module_of(plugin)
    return code_version(step.module, *([own_module] if own_module else []))
