"""The pipeline as data: its steps, their order, what each reads and publishes, and its cache key.

Read this first. Both backends are built from it: the local one starts a process for each task, the
Kubernetes one a container, and both run the same command.

    ingest ──► train × candidates ──► select ──► serve ──► verify
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpipeline.plan.config import Config
from mlpipeline.plan.fingerprint import code_version, module_of
from mlpipeline.store import layout
from mlpipeline.store.artifacts import is_whole, make_key
from mlpipeline.store.layout import Workspace


@dataclass(frozen=True)
class Step:
    """One kind of work. `python -m mlpipeline NAME` does it."""

    name: str
    purpose: str
    module: str
    """Where the work is done: its code, with all that it imports, is part of the cache key."""
    folder: str | None = None
    """Folder of the workspace that it publishes to; None for a step that is never memoized."""
    typical_seconds: float = 10
    """A guess of how long it takes on two cores, for a first estimate of the time that is left."""


INGEST = Step(
    "ingest",
    "fetch the data set, split it, write sharded TFRecords",
    module="mlpipeline.steps.ingestion",
    folder=layout.DATASETS,
    typical_seconds=13,
)
TRAIN = Step(
    "train",
    "train one candidate on several workers, export it",
    module="mlpipeline.steps.training",
    folder=layout.CANDIDATES,
    typical_seconds=55,
)
SELECT = Step(
    "select",
    "choose the best candidate on the validation split, test it once, register the model",
    module="mlpipeline.steps.selection",
    folder=layout.SELECTIONS,
    typical_seconds=12,
)
SERVE = Step(
    "serve",
    "start the replicas of the registered model",
    module="mlpipeline.serving.server",
    typical_seconds=10,
)
VERIFY = Step(
    "verify",
    "send the whole test split through every protocol and compare",
    module="mlpipeline.steps.verification",
    typical_seconds=16,
)
STEPS = (INGEST, TRAIN, SELECT, SERVE, VERIFY)


@dataclass(frozen=True)
class Task:
    """A step applied: one node of the workflow's graph."""

    name: str
    step: Step
    needs: tuple[str, ...] = ()
    """Names of the tasks whose results it reads."""
    key: str = ""
    """Cache key of what it publishes; empty where nothing is memoized."""
    publishes: tuple[Path, ...] = ()
    """Folders below the workspace that it publishes, the one named by its key first."""
    candidate: str | None = None

    def command(self, config: Path, workspace: Workspace) -> list[str]:
        """The command line that does the work, the same in a process and in a pod."""
        command = [sys.executable, "-m", "mlpipeline", self.step.name]
        command += ["--config", str(config), "--workspace", str(workspace)]
        return command if self.candidate is None else [*command, "--candidate", self.candidate]

    def is_done(self, workspace: Workspace) -> bool:
        """Whether all that it publishes is there and whole: only then is a memo a hit."""
        return bool(self.publishes) and all(
            is_whole(workspace.artifact(p).path) for p in self.publishes
        )


def plan(config: Config, *, without: Collection[str] = ()) -> dict[str, Task]:
    """Expand the steps into tasks for one configuration, in an order that fits their needs.

    Args:
        config: The configuration.
        without: Candidates that failed: selection then goes on with the others, under another key.
    """
    # What is not given, such as feedback where there is none, is no part of the key.
    data = config.data.model_dump(exclude_none=True)
    key = _key(INGEST, data, plugin=config.data.dataset)
    ingest = Task("ingest", INGEST, key=key, publishes=(Path(layout.DATASETS, key),))

    trainings = {}
    for name, candidate in config.candidates.items():
        parameters = {"seed": config.seed, **candidate.model_dump()}
        if config.training.strategy == "parameter_server":  # all others end alike
            parameters["strategy"] = config.training.strategy
        key = _key(TRAIN, parameters, ingest, prefix=name, plugin=candidate.model)
        trainings[name] = Task(
            f"train-{name}",
            TRAIN,
            needs=(ingest.name,),
            key=key,
            publishes=(Path(layout.CANDIDATES, key),),
            candidate=name,
        )

    usable = [task for name, task in trainings.items() if name not in without]
    key = _key(SELECT, {"name": config.name}, *usable, prefix=config.name)
    select = Task(
        "select",
        SELECT,
        needs=tuple(task.name for task in usable),
        key=key,
        publishes=(Path(layout.SELECTIONS, key), Path(layout.MODELS, config.name, key)),
    )
    serve = Task("serve", SERVE, needs=(select.name,))
    verify = Task("verify", VERIFY, needs=(serve.name,))
    return {t.name: t for t in (ingest, *trainings.values(), select, serve, verify)}


def plan_of_finished(config: Config, workspace: Workspace) -> dict[str, Task]:
    """The plan without the candidates whose training failed for good."""
    tasks = plan(config)
    trainings = [(t.candidate, t) for t in tasks.values() if t.candidate]
    missing = {name for name, task in trainings if not task.is_done(workspace)}
    for name in sorted(missing):
        print(f"without candidate {name}: it was not trained", flush=True)
    return plan(config, without=missing)


def code_of(task: Task, config: Config) -> str:
    """Return the version of the code that does a task, a plugin of the user's own included."""
    plugin = config.candidates[task.candidate].model if task.candidate else ""
    if task.step is INGEST:
        plugin = config.data.dataset
    return _code(task.step, plugin)


def _code(step: Step, plugin: str) -> str:
    own_module = module_of(plugin)
    return code_version(step.module, *([own_module] if own_module else []))


def _key(
    step: Step, parameters: dict[str, Any], *inputs: Task, prefix: str = "", plugin: str = ""
) -> str:
    code = _code(step, plugin)
    keys = [task.key for task in inputs]
    return make_key(prefix or step.name, code=code, parameters=parameters, inputs=keys)
