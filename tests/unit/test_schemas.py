"""The documents of a workspace: written and read again, damaged, older and newer ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import DamagedArtifactError, MissingArtifactError, UnknownSchemaError
from mlpipeline.store.layout import FeedbackFolder
from mlpipeline.store.schemas.candidate import Epoch, Metrics, TrainingHistory, TrainingProgress
from mlpipeline.store.schemas.document import Document
from mlpipeline.store.schemas.feedback import Correction, Snapshot
from mlpipeline.store.schemas.history import Change, HeldBack, ModelHistory
from mlpipeline.store.schemas.manifest import Manifest
from mlpipeline.store.schemas.prediction import PredictionSummary
from mlpipeline.store.schemas.run import Run, Verification
from mlpipeline.store.schemas.selection import Decision, ModelCard
from support import stored_documents as documents
from support.fabricated_run import fabricate

EPOCH = Epoch(1, 430, 0.9, 0.7, 0.8, 0.75, 1e-3, 11.6, None)
CORRECTIONS = (Correction("2026-11-24T09:00:00+00:00", "one", "f" * 64, "Coat"),)
CHANGE = Change(version="toy-1", time="2026-11-24T09:00:00+00:00", how="rolled back", by="ann")
HELD = HeldBack(version="toy-2", time=CHANGE.time, run="monday", why="accuracy 70.00%")
DOCUMENTS: list[Document] = [
    documents.metrics(workers=2, recipe={"model": "cnn", "options": {"units": 3}}),
    documents.metrics(None, status="diverged", validation_loss=None, diverged_at_step=7),
    documents.decision({"cnn": "cnn-1", "dropout": "dropout-1"}),
    documents.model_card(),
    documents.verification("a", "b"),
    TrainingHistory(epochs=(EPOCH,)),
    TrainingProgress(
        step=1, steps=2, epoch=1, loss=0.5, accuracy=0.8, images_per_second=9.5, step_seconds=0.1
    ),
    Manifest(files={"saved_model/saved_model.pb": "0" * 64}),
    PredictionSummary(model="toy", version="toy-1", files=4, unreadable=1),
    Snapshot(corrections=CORRECTIONS),
    ModelHistory(changes=(CHANGE,), held_back=(HELD,), planned=CHANGE),
    documents.look(),
]
IDS = [type(document).__name__ for document in DOCUMENTS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_what_was_written_is_read_again(tmp_path: Path, document: Document) -> None:
    document.save(file := tmp_path / "document.json")
    assert type(document).load(file) == document
    assert json.loads(file.read_text())["schema_version"] == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_one_that_was_written_before_there_were_versions_is_read(document: Document) -> None:
    content = document.content()
    del content["schema_version"]
    assert type(document).parse(content, origin="old") == document


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_a_newer_one_is_an_error_that_says_what_to_do(tmp_path: Path, document: Document) -> None:
    file = tmp_path / "document.json"
    file.write_text(json.dumps(document.content() | {"schema_version": 2}))
    with pytest.raises(UnknownSchemaError) as raised:
        type(document).load(file)
    assert raised.value.got == f"{file} has schema version 2"
    assert raised.value.expected.startswith("at most 1,")
    assert "upgrade mlpipeline" in raised.value.remedy


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
@pytest.mark.parametrize("content", ["{", "7", '"text"', "{}", '{"schema_version": "one"}'])
def test_a_damaged_one_is_an_error_that_names_it(
    tmp_path: Path, document: Document, content: str
) -> None:
    file = tmp_path / "document.json"
    file.write_text(content)
    with pytest.raises(DamagedArtifactError, match=str(file)):
        type(document).load(file)


def test_a_damaged_one_says_what_is_missing_and_what_it_should_be() -> None:
    content = documents.model_card().content()
    del content["classes"], content["schema_version"]
    with pytest.raises(DamagedArtifactError) as raised:
        ModelCard.parse(content, origin="model.json")
    assert raised.value.got == "model.json is not a model's card: classes: Field required"
    assert raised.value.expected == "schema version 1 of it, written as schema version 0"


def test_one_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"decision\.json"):
        Decision.load(tmp_path / "decision.json")


def test_a_history_that_is_a_mere_list_is_version_0(tmp_path: Path) -> None:
    epochs = TrainingHistory(epochs=(EPOCH,)).content()["epochs"]
    assert TrainingHistory.parse(epochs, origin="history.json").epochs == (EPOCH,)


def test_a_document_cannot_be_changed() -> None:
    metrics = documents.metrics()
    with pytest.raises(ValueError, match="frozen"):
        metrics.parameters = 7


# --- snapshots --------------------------------------------------------------------------------


def test_a_snapshot_lies_under_its_digest_whatever_its_version(tmp_path: Path) -> None:
    folder, snapshot = FeedbackFolder(tmp_path), Snapshot(corrections=CORRECTIONS)
    digest = snapshot.keep(folder)
    assert Snapshot.find(folder, digest) == snapshot
    folder.snapshot(digest).write_text(json.dumps(snapshot.content()["corrections"]))
    assert Snapshot.find(folder, digest) == snapshot


def test_a_snapshot_with_other_corrections_than_its_name_says_is_damaged(tmp_path: Path) -> None:
    folder = FeedbackFolder(tmp_path)
    digest = Snapshot(corrections=CORRECTIONS).keep(folder)
    Snapshot(corrections=CORRECTIONS * 2).save(folder.snapshot(digest))
    with pytest.raises(DamagedArtifactError, match="its content has the digest"):
        Snapshot.find(folder, digest)


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    return fabricate(tmp_path)


def test_a_record_keeps_the_configuration_as_it_is(tmp_path: Path, record: dict[str, Any]) -> None:
    run = Run.parse(record, origin="run.json")
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run
    assert json.loads((tmp_path / "run.json").read_text())["config"] == record["config"]
    assert run.name == "fashion-mnist"
    assert list(run.candidates) == ["cnn", "batch_norm", "dropout"]
    assert run.settings("data")["dataset"] == "fashion_mnist"
    assert run.settings("serving") == {}


def test_a_run_without_a_configuration_is_called_pipeline(record: dict[str, Any]) -> None:
    run = Run.parse(record | {"config": {"candidates": {}}}, origin="run.json")
    assert run.name == "pipeline"


def test_a_run_ends_so_many_seconds_after_it_began(record: dict[str, Any]) -> None:
    assert Run.parse(record, origin="").ended == "2026-11-21T13:56:09.700000+00:00"


@pytest.mark.parametrize(
    "change",
    [
        {"started": "yesterday"},
        {"state": "finished"},
        {"config": {"name": "fashion-mnist"}},
        {"tasks": [{"state": "succeeded"}]},
        {"verification": {"replicas": ["a"]}},
    ],
    ids=["time", "state", "candidates", "task", "verification"],
)
def test_a_record_that_says_what_cannot_be_is_damaged(
    record: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(DamagedArtifactError, match="is not a run's record"):
        Run.parse(record | change, origin="run.json")


def test_a_verification_may_come_from_anywhere() -> None:
    figures = documents.verification("a").content()
    assert Verification.parse(figures, origin="the output of a step").replicas == ("a",)
    with pytest.raises(DamagedArtifactError, match="the output of a step is not a verification"):
        Verification.parse([], origin="the output of a step")


def test_metrics_say_what_was_not_known_then() -> None:
    metrics = Metrics.parse(
        {
            "status": "trained",
            "validation_accuracy": 0.9,
            "validation_loss": 0.3,
            "parameters": 7,
        },
        origin="metrics.json",
    )
    assert (metrics.workers, metrics.cpu_seconds, metrics.recipe) == (None, None, {})


def test_the_figures_of_a_candidate_are_one_readable_line() -> None:
    trained = documents.metrics(0.9164, validation_loss=0.25134, parameters=421642, seconds=19.4)
    assert trained.summary == (
        "validation accuracy 91.64%, loss 0.2513, 421,642 parameters, trained in 19 s"
    )
    diverged = documents.metrics(None, status="diverged", validation_loss=None, diverged_at_step=7)
    assert diverged.summary == "diverged at step 7"
