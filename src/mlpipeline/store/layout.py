"""Every path of a workspace: the folder that holds all that a pipeline makes.

    datasets/KEY/           dataset.json  README.md  SPLIT-00000-of-00004.tfrecord …
    candidates/KEY/         metrics.json  history.json  saved_model/  checkpoints/  tensorboard/
    candidates/.KEY.work/   the same while it is trained, with progress.json; result/ is what a
                            TFJob has made of it
    */.KEY.lease            who makes it (`store.leases`)
    selections/KEY/         decision.json  test_probabilities.npy  test_labels.npy  mistakes.npz
    models/NAME/VERSION/    model.json  card.md  request.json  examples.json  model.tflite
                            saved_model/
    models/NAME/current     the version that is served
    models/NAME/changes.json
                            which version was current when, and why
    models/NAME/trial.json  which version its replicas try on requests, while they do
    models/NAME/pinned      versions that are never removed, one a line
    predictions/KEY/        predictions.csv  summary.json
    answers/EVENT.csv       the predictions.csv that an event has asked for last
    runs/RUN/               run.json  config.yaml  verification.json  lineage.jsonl  report.html
                            gate.json  rollout.json  forced.json  logs/
    inbox/                  NAME.json (to do)  done/  failed/  logs/
    feedback/               events/MODEL/ID.json  snapshots/DIGEST.json
    requests/MODEL/VERSION/ what it was asked, where that is logged (`store.requests`)
    looks/MODEL.json        what `mlpipeline drift` has found in that last: figures, no image
    serving/                logs of `mlpipeline serve`; of a version that is tried in trial/, and
                            of `rollback` in rollback/
    report.html             the latest run's
    index.html              all runs and versions, with their figures and reports
    mlflow.db               what MLflow knows, where it has no server

Each folder with a KEY or a VERSION is an artifact: published whole, with a manifest, and never
changed afterwards (`store.artifacts`). What is in the JSON files, `store.schemas` says. No other
module joins a path of the workspace by hand: a function that needs one takes a `Workspace`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DATASETS = "datasets"
CANDIDATES = "candidates"
SELECTIONS = "selections"
MODELS = "models"
PREDICTIONS = "predictions"
ANSWERS = "answers"
RUNS = "runs"
FEEDBACK = "feedback"
REQUESTS = "requests"
LOOKS = "looks"

ARTIFACTS = (DATASETS, CANDIDATES, SELECTIONS, MODELS, PREDICTIONS)
"""The folders of all that is published."""
MADE = (*ARTIFACTS, ANSWERS, RUNS, FEEDBACK, LOOKS)
"""The folders that steps write to."""
NO_REQUESTS = f"{REQUESTS}/.none"
"""An empty folder: it is mounted over `REQUESTS`, which may hold people's pictures, for steps that
see all else and run other people's code."""

MANIFEST = "MANIFEST.json"
"""The file in every artifact that has the SHA-256 of each of its other files."""
_SIGNATURE = f"{MANIFEST}.sig"
TRIAL_ORDER = "trial.json"


def _is_open(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


@dataclass(frozen=True)
class Folder:
    """A folder whose files have fixed names.

    Attributes:
        path: Where it is; it need not be there yet.
    """

    path: Path

    @property
    def manifest(self) -> Path:
        """The manifest, which is there only once the folder is published as an artifact."""
        return self.path / MANIFEST

    @property
    def lease(self) -> Path:
        """Held by the run that makes it."""
        return self.path.with_name(f".{self.path.name}.lease")


@dataclass(frozen=True)
class DatasetFolder(Folder):
    """A data set: its card, and its images and labels as TFRecord files (shards)."""

    @property
    def card(self) -> Path:
        """What is in the data set, for programs."""
        return self.path / "dataset.json"

    @property
    def readme(self) -> Path:
        """What is in the data set, for people."""
        return self.path / "README.md"

    def shard(self, name: str) -> Path:
        """Return the TFRecord file that the card calls `name`."""
        return self.path / name


@dataclass(frozen=True)
class CandidateFolder(Folder):
    """A trained candidate, or one whose training diverged: that has no saved model."""

    @property
    def metrics(self) -> Path:
        """Its figures on the validation split, and how it was trained."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """Its figures after each epoch."""
        return self.path / "history.json"

    @property
    def progress(self) -> Path:
        """How far its training is; there only while it goes on, or if it was killed."""
        return self.path / "progress.json"

    @property
    def saved_model(self) -> Path:
        """The model as TensorFlow's SavedModel, a folder."""
        return self.path / "saved_model"

    @property
    def checkpoints(self) -> Path:
        """TensorFlow's checkpoints, from which an interrupted training goes on: a folder."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The history as TensorBoard reads it, a folder."""
        return self.path / "tensorboard"

    @property
    def work(self) -> CandidateFolder:
        """Where it is trained before it is published, on storage that all workers share."""
        return CandidateFolder(self.path.with_name(f".{self.path.name}.work"))

    @property
    def result(self) -> CandidateFolder:
        """Where workers publish it who may write to the folder it is trained in, and no other."""
        return CandidateFolder(self.path / "result")


@dataclass(frozen=True)
class SelectionFolder(Folder):
    """The choice among candidates, and what the chosen one says of the test split."""

    @property
    def decision(self) -> Path:
        """Which candidate was chosen, why, and its figures on the test split."""
        return self.path / "decision.json"

    @property
    def test_probabilities(self) -> Path:
        """The chosen model's probabilities for the test split: float32 `[images, classes]`."""
        return self.path / "test_probabilities.npy"

    @property
    def test_labels(self) -> Path:
        """The labels of the test split in the same order: int64 `[images]`."""
        return self.path / "test_labels.npy"

    @property
    def mistakes(self) -> Path:
        """The test images that the model is most wrong about, with labels: NumPy's `.npz`."""
        return self.path / "mistakes.npz"


@dataclass(frozen=True)
class ModelFolder(Folder):
    """A registered version of a model; the folder's name is the version."""

    @property
    def model(self) -> str:
        """The name of the model that it is a version of."""
        return self.path.parent.name

    @property
    def signature(self) -> Path:
        """The signature of its manifest, if somebody has signed it: see `store.signatures`."""
        return self.path / _SIGNATURE

    @property
    def version(self) -> str:
        """The version."""
        return self.path.name

    @property
    def order(self) -> Path:
        """What its replicas are to try another version by, if anybody has said so."""
        return self.path.parent / TRIAL_ORDER

    @property
    def card(self) -> Path:
        """What the model is, and what it was made from, for programs."""
        return self.path / "model.json"

    @property
    def page(self) -> Path:
        """The same for people, with figures and limits; there is none in older versions."""
        return self.path / "card.md"

    @property
    def example(self) -> Path:
        """A request of the V1 protocol with one test image, to try the model with."""
        return self.path / "request.json"

    @property
    def examples(self) -> Path:
        """A test image of each class; none in older versions, and none of very large images."""
        return self.path / "examples.json"

    @property
    def tflite(self) -> Path:
        """The model as LiteRT serves it; there is none where LiteRT cannot."""
        return self.path / "model.tflite"

    @property
    def saved_model(self) -> Path:
        """The model as TensorFlow's SavedModel, a folder."""
        return self.path / "saved_model"


@dataclass(frozen=True)
class PredictionsFolder(Folder):
    """What a version of a model says of every file in a folder."""

    @property
    def table(self) -> Path:
        """A line for each file: class and probabilities, or why it could not be read."""
        return self.path / "predictions.csv"

    @property
    def summary(self) -> Path:
        """How many files there were, and which version predicted them."""
        return self.path / "summary.json"


@dataclass(frozen=True)
class RunFolder(Folder):
    """What is known of one run; the folder's name is the run's."""

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.path.name

    @property
    def record(self) -> Path:
        """What every task did, how long it took, and what failed and why."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """The configuration as the steps read it, complete with defaults."""
        return self.path / "config.yaml"

    @property
    def verification(self) -> Path:
        """The figures of the step `verify`."""
        return self.path / "verification.json"

    @property
    def gate(self) -> Path:
        """The table of the step `gate`."""
        return self.path / "gate.json"

    @property
    def rollout(self) -> Path:
        """The table of the step `canary`."""
        return self.path / "rollout.json"

    @property
    def forced(self) -> Path:
        """Who wants its version served whatever the gate says; there only if somebody does."""
        return self.path / "forced.json"

    @property
    def lineage(self) -> Path:
        """OpenLineage events, one a line."""
        return self.path / "lineage.jsonl"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """The logs of all processes, a folder."""
        return self.path / "logs"

    def log(self, name: str) -> Path:
        """Return the log of a process, such as `train-cnn`."""
        return self.logs / f"{name}.log"

    @property
    def told(self) -> Path:
        """How the run had ended when a webhook was told last."""
        return self.path / ".told"

    @property
    def lock(self) -> Path:
        """Held by the process that carries the run out."""
        return self.path / ".lock"


@dataclass(frozen=True)
class InboxFolder(Folder):
    """Events to do: each a JSON file, put here by rename."""

    def waiting(self) -> Iterator[Path]:
        """Yield the events that are to be done, in no order."""
        return self.path.glob("[!.]*.json")

    def waits(self, name: str) -> Path:
        """Return where a program puts the event `name`; people may call the file what they like."""
        return self.path / f"{name}.json"

    def done(self, name: str) -> Path:
        """Return where the event `name` lies once it is done."""
        return self.path / "done" / f"{name}.json"

    def failed(self, file: Path) -> Path:
        """Return where an event's file lies once it has failed."""
        return self.path / "failed" / file.name

    def reason(self, file: Path) -> Path:
        """Return the text that says why an event's file has failed."""
        return self.path / "failed" / f"{file.stem}.txt"

    def log(self, name: str) -> Path:
        """Return the log of the command that does the event `name`."""
        return self.path / "logs" / f"{name}.log"

    def logs(self) -> list[Path]:
        """Return the logs of all events that are there, sorted by name."""
        return sorted((self.path / "logs").glob("*.log"))

    @property
    def lock(self) -> Path:
        """Held by the process that does the events."""
        return self.path / ".lock"


@dataclass(frozen=True)
class FeedbackFolder(Folder):
    """Corrected labels: as they came, and as runs have used them."""

    def event(self, model: str, event: str) -> Path:
        """Return where the corrections are kept that the event with this id has brought."""
        return self.path / "events" / model / f"{event}.json"

    def events(self, model: str) -> list[Path]:
        """Return all that were kept for a model, sorted by their ids."""
        return sorted((self.path / "events" / model).glob("*.json"))

    def snapshot(self, digest: str) -> Path:
        """Return all corrections of a model when a run began, by the digest of their content."""
        return self.path / "snapshots" / f"{digest}.json"


@dataclass(frozen=True)
class Workspace:
    """A folder of artifacts and runs.

    Attributes:
        root: Where it is.
    """

    root: Path

    @classmethod
    def parse(cls, root: object) -> Workspace:
        """Return the workspace that an argument of a command line names."""
        return cls(Path(str(root)))

    def __str__(self) -> str:
        """Return the root, for messages and command lines."""
        return str(self.root)

    def prepare(self, model: str) -> None:
        """Make the folders that pods mount each for itself, and that nobody else would make.

        What Kubernetes has made in our place is root's, and closed to us on some storage: where it
        is empty, it is made anew.

        Args:
            model: The model's name.

        Raises:
            PermissionError: One is closed to us, and not empty.
        """
        inner = (Path(MODELS, model), Path(REQUESTS, model), Path(NO_REQUESTS))
        outer = (*MADE, REQUESTS)
        for name in (*inner, *outer):
            folder = self.root / name
            if folder.is_dir() and not _is_open(folder):
                with suppress(OSError):
                    folder.rmdir()
        for name in (*outer, *inner):
            folder = self.root / name
            folder.mkdir(mode=0o700 if name == REQUESTS else 0o777, parents=True, exist_ok=True)
            if not _is_open(folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    def artifact(self, name: str | Path) -> Folder:
        """Return an artifact's folder by its name, which is its path below the root.

        Args:
            name: The name, such as `datasets/KEY`; lineage calls artifacts so.
        """
        return Folder(self.root / name)

    def dataset(self, key: str) -> DatasetFolder:
        """Return the data set that is published under a key."""
        return DatasetFolder(self.root / DATASETS / key)

    def candidate(self, key: str) -> CandidateFolder:
        """Return the candidate that is published under a key."""
        return CandidateFolder(self.root / CANDIDATES / key)

    def trainings(self) -> list[tuple[str, CandidateFolder]]:
        """Return the folders of candidates that are trained now, or were not to the end, by key."""
        folders = (self.root / CANDIDATES).glob(".*.work")
        return [
            (folder.name.removeprefix(".").removesuffix(".work"), CandidateFolder(folder))
            for folder in sorted(folders)
        ]

    def selection(self, key: str) -> SelectionFolder:
        """Return the selection that is published under a key; the key is the model's version."""
        return SelectionFolder(self.root / SELECTIONS / key)

    def model(self, name: str, version: str) -> ModelFolder:
        """Return a version of a model."""
        return ModelFolder(self.root / MODELS / name / version)

    def models(self) -> list[ModelFolder]:
        """Return all versions of all models that are there."""
        folders = (self.root / MODELS).glob("*/[!.]*")
        return [ModelFolder(folder) for folder in sorted(folders) if folder.is_dir()]

    def model_names(self) -> list[str]:
        """Return the names of the models that have a version, sorted."""
        return sorted({folder.model for folder in self.models()})

    def versions(self, name: str) -> list[str]:
        """Return all versions of a model that are there, sorted."""
        return [folder.version for folder in self.models() if folder.model == name]

    def current_version(self, name: str) -> Path:
        """Return the file that holds the current version of a model."""
        return self.root / MODELS / name / "current"

    def current_lease(self, name: str) -> Path:
        """Return what the process holds that changes the current version of a model."""
        return self.root / MODELS / name / ".current.lease"

    def history(self, name: str) -> Path:
        """Return the file that says which version of a model was current when, and why."""
        return self.root / MODELS / name / "changes.json"

    def pinned(self, name: str) -> Path:
        """Return the file in which people name versions of a model that are to stay."""
        return self.root / MODELS / name / "pinned"

    def trial_order(self, name: str) -> Path:
        """Return the file by which replicas of a model try another version, while one is tried."""
        return self.root / MODELS / name / TRIAL_ORDER

    def trial_lease(self, name: str) -> Path:
        """Return what the process holds that tries a version of a model."""
        return self.root / MODELS / name / ".trial.lease"

    def rollback_lease(self, name: str) -> Path:
        """Return what the process holds that goes back to another version of a model."""
        return self.root / MODELS / name / ".rollback.lease"

    def predictions(self, key: str) -> PredictionsFolder:
        """Return the batch predictions that are published under a key."""
        return PredictionsFolder(self.root / PREDICTIONS / key)

    def answer(self, event: str) -> Path:
        """Return the file that answers a predict event, given its name, such as predict-monday."""
        return self.root / ANSWERS / f"{event}.csv"

    def run(self, run: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.root / RUNS / run)

    def runs(self) -> list[RunFolder]:
        """Return the folders of all runs that are there, sorted by name."""
        folders = (self.root / RUNS).glob("[!.]*")
        return [RunFolder(folder) for folder in sorted(folders) if folder.is_dir()]

    @property
    def removal_lease(self) -> Path:
        """Held by the process that removes what nobody needs; runs wait until it is free."""
        return self.root / RUNS / ".removal.lease"

    @property
    def inbox(self) -> InboxFolder:
        """The folder in which every file is an event."""
        return InboxFolder(self.root / "inbox")

    @property
    def feedback(self) -> FeedbackFolder:
        """The folder of corrected labels."""
        return FeedbackFolder(self.root / FEEDBACK)

    def requests(self, model: str) -> Path:
        """Return the folder of what a model was asked: a folder for each of its versions."""
        return self.root / REQUESTS / model

    def look(self, model: str) -> Path:
        """Return the file that says what was found in a model's requests last.

        It is not beside them: they are closed to others, and these are figures, for everybody.
        """
        return self.root / LOOKS / f"{model}.json"

    @property
    def serving_logs(self) -> Path:
        """The folder of the logs of `mlpipeline serve`."""
        return self.root / "serving"

    @property
    def rollback_logs(self) -> Path:
        """The folder of the logs of `mlpipeline rollback`."""
        return self.serving_logs / "rollback"

    @property
    def trial_logs(self) -> Path:
        """The folder of the logs of a version that is tried on this machine."""
        return self.serving_logs / "trial"

    @property
    def rollback_verification(self) -> Path:
        """What the last rollback has verified (`store.schemas.run.Verification`)."""
        return self.rollback_logs / "verification.json"

    def ports_lease(self, host: str, port: int) -> Path:
        """Return what the run holds that serves on a port of a host."""
        return self.serving_logs / f".{host}-{port}.lease"

    @property
    def site(self) -> Path:
        """The page of all runs and versions."""
        return self.root / "index.html"

    @property
    def report(self) -> Path:
        """The report of the latest run."""
        return self.root / "report.html"

    @property
    def mlflow_database(self) -> Path:
        """The SQLite file that MLflow keeps runs in, where it has no server."""
        return self.root / "mlflow.db"

    @property
    def mlflow_lock(self) -> Path:
        """Held by the process that sends runs to MLflow."""
        return self.root / RUNS / ".tracking.lock"
