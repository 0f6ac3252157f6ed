"""The events that a run leaves, and the way back from a version of its model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlpipeline.errors import ServingError
from mlpipeline.runs import lineage, trace
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run
from support import stored_documents as documents
from support.fabricated_run import artifact_of, fabricate, try_on_requests
from support.stored_documents import model_card

VERSION = "fashion-mnist-d2b7c6e5f4a39180"
CANDIDATE, DATA = "batch-norm-6c02fa9be1d47385", "fashion-mnist-0f3a5d7791c2be64"


def _run(workspace: Path, run: str = "first", *, made: bool = True) -> dict[str, Any]:
    """A finished run with a registered model; `made`: all of it, so that nothing was reused."""
    record = fabricate(workspace, epochs=1) | {"run": run, "source": "commit 0123abcd"}
    for task in record["tasks"]:
        task |= {"code": f"{task['step']}-code", "retries": []}
        if made:
            task |= {"state": "succeeded", "started": f"{record['started']}"}
        elif task["key"]:
            task |= {"state": "reused", "started": None, "seconds": 0.0}
    with artifacts.publish(Workspace(workspace).model("fashion-mnist", VERSION).path) as draft:
        card = model_card(
            name="fashion-mnist",
            version=VERSION,
            candidate="batch_norm",
            candidate_key=CANDIDATE,
            dataset_key=DATA,
            validation_accuracy=0.9268,
            test_accuracy=0.9279,
        )
        card.save(draft / "model.json")
    (workspace / "runs" / run).mkdir(parents=True)
    return record


def _events(workspace: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    text = lineage.write(Workspace(workspace), Run.parse(record, origin="made up")).read_text()
    return [json.loads(line) for line in text.splitlines()]


def _of(events: list[dict[str, Any]], task: str, kind: str) -> dict[str, Any]:
    name = f"fashion-mnist.{task}"
    (event,) = (e for e in events if e["job"]["name"] == name and e["eventType"] == kind)
    return event


def _trace(workspace: Path) -> tuple[str, list[str]]:
    tree, damaged = trace.trace(Workspace(workspace), VERSION)
    text = io.StringIO()
    Console(file=text, width=200, highlight=False).print(tree, markup=False)
    return text.getvalue(), damaged


# --- events -----------------------------------------------------------------------------------


def test_every_task_has_a_start_and_an_end_below_its_run(tmp_path: Path) -> None:
    events = _events(tmp_path, _run(tmp_path))
    whole = [e for e in events if e["job"]["name"] == "fashion-mnist"]
    assert [e["eventType"] for e in whole] == ["START", "COMPLETE"]
    assert (events[0], events[-1]) == (whole[0], whole[1])
    ids = {e["run"]["runId"] for e in whole}
    tasks = events[1:-1]
    assert [e["eventType"] for e in tasks] == ["START", "COMPLETE"] * 8
    assert {e["run"]["facets"]["parent"]["run"]["runId"] for e in tasks} == ids
    assert len({e["run"]["runId"] for e in events}) == 9


def test_what_a_task_reads_and_makes_is_named_by_its_folder_with_its_digest(
    tmp_path: Path,
) -> None:
    record = _run(tmp_path)
    decision = artifact_of(tmp_path, record, "select") / "decision.json"
    documents.decision({"cnn": "cnn-b41d88e0f6a9c357", "bn": CANDIDATE}).save(decision)
    events = _events(tmp_path, record)
    train = _of(events, "train-batch_norm", "COMPLETE")
    (data,) = train["inputs"]
    assert data["name"] == f"datasets/{DATA}"
    assert data["facets"]["version"]["datasetVersion"] == artifacts.digest(
        tmp_path / "datasets" / DATA
    )
    tags = {tag["key"]: tag["value"] for tag in data["facets"]["tags"]["tags"]}
    assert tags["digest"] == "9f2c7be1a4d05836" * 4
    assert tags["source"] == "Debian's package dataset-fashion-mnist"
    assert [o["name"] for o in train["outputs"]] == [f"candidates/{CANDIDATE}"]
    select = _of(events, "select", "COMPLETE")
    read = {f"datasets/{DATA}", "candidates/cnn-b41d88e0f6a9c357", f"candidates/{CANDIDATE}"}
    assert {i["name"] for i in select["inputs"]} == read
    model = f"models/fashion-mnist/{VERSION}"
    assert {o["name"] for o in select["outputs"]} == {f"selections/{VERSION}", model}
    assert [i["name"] for i in _of(events, "serve", "START")["inputs"]] == [model]
    assert model in {i["name"] for i in _of(events, "verify", "START")["inputs"]}


def test_the_gate_says_what_it_has_compared_and_what_came_of_it(tmp_path: Path) -> None:
    record = _run(tmp_path)
    gate = next(task for task in record["tasks"] if task["name"] == "gate")
    gate["gate"] = gate["gate"] | {
        "verdict": "kept",
        "reason": "accuracy 70.00%",
        "forced": {"who": "ann", "reason": "because"},
    }
    events = _events(tmp_path, record)
    done = _of(events, "gate", "COMPLETE")
    current = "models/fashion-mnist/fashion-mnist-0a1b2c3d4e5f6071"
    assert {i["name"] for i in done["inputs"]} == {
        *(f"models/fashion-mnist/{VERSION}", f"datasets/{DATA}", current)
    }
    tags = {tag["key"]: tag["value"] for tag in done["run"]["facets"]["tags"]["tags"]}
    assert (tags["gate.verdict"], tags["gate.reason"]) == ("kept", "accuracy 70.00%")
    assert (tags["gate.forced.who"], tags["gate.forced.reason"]) == ("ann", "because")
    assert tags["gate.accuracy"] == "92.93%, current 92.86%, limit 91.86%"
    whole = {tag["key"]: tag["value"] for tag in events[-1]["run"]["facets"]["tags"]["tags"]}
    assert whole["outcome"] == "succeeded, kept fashion-mnist-0a1b2c3d4e5f6071"


def test_a_trial_says_what_was_compared_and_what_came_of_it(tmp_path: Path) -> None:
    record = _run(tmp_path)
    try_on_requests(record, verdict="kept", reason="canary: same class 12.00%")
    done = _of(_events(tmp_path, record), "canary", "COMPLETE")
    current = "models/fashion-mnist/fashion-mnist-0a1b2c3d4e5f6071"
    assert {i["name"] for i in done["inputs"]} == {f"models/fashion-mnist/{VERSION}", current}
    tags = {tag["key"]: tag["value"] for tag in done["run"]["facets"]["tags"]["tags"]}
    assert (tags["canary.verdict"], tags["canary.reason"]) == ("kept", "canary: same class 12.00%")
    assert tags["canary.canary.same class"] == "96.60%, limit 80.00%"


def test_the_code_of_a_task_is_in_its_job(tmp_path: Path) -> None:
    job = _of(_events(tmp_path, _run(tmp_path)), "select", "COMPLETE")["job"]
    code = job["facets"]["sourceCodeLocation"]
    assert code["url"] == "urn:mlpipeline:mlpipeline.steps.selection"
    assert (code["version"], code["tag"]) == ("select-code", "commit 0123abcd")


def test_a_failed_task_says_why_and_has_made_nothing(tmp_path: Path) -> None:
    record = _run(tmp_path) | {"state": "failed", "error": "no room"}
    record["tasks"] = record["tasks"][:2]
    record["tasks"][1] |= {"state": "failed", "error": "no room", "seconds": 7.5}
    events = _events(tmp_path, record)
    failed = _of(events, "train-cnn", "FAIL")
    assert failed["run"]["facets"]["errorMessage"]["message"] == "no room"
    assert failed["outputs"] == []
    assert failed["eventTime"] == "2026-11-21T13:52:27.500000+00:00"
    assert events[-1]["eventType"] == "FAIL"


def test_a_task_that_never_began_has_no_event(tmp_path: Path) -> None:
    record = _run(tmp_path) | {"state": "interrupted", "error": "stopped by a signal"}
    record["tasks"][-1] |= {"state": "skipped"}
    events = _events(tmp_path, record)
    assert not [e for e in events if e["job"]["name"].endswith("verify")]
    assert events[-1]["eventType"] == "ABORT"


def test_written_again_they_replace_those_of_before(tmp_path: Path) -> None:
    record = _run(tmp_path)
    assert _events(tmp_path, record) == _events(tmp_path, record)
    assert [f.name for f in (tmp_path / "runs" / "first").iterdir()] == ["lineage.jsonl"]


def test_a_record_of_a_run_without_a_configuration_has_events(tmp_path: Path) -> None:
    record = _run(tmp_path) | {"config": {"candidates": {}}, "state": "failed", "error": "none"}
    record["tasks"] = [record["tasks"][0] | {"step": "plan", "name": "plan", "code": ""}]
    events = _events(tmp_path, record)
    assert [e["job"]["name"] for e in events] == [
        *("pipeline", "pipeline.plan", "pipeline.plan", "pipeline")
    ]


# --- the way back -----------------------------------------------------------------------------


def test_a_version_leads_to_its_run_candidate_data_and_code(tmp_path: Path) -> None:
    record = _run(tmp_path)
    card = artifact_of(tmp_path, record, "ingest") / "dataset.json"
    feedback = {"snapshot": "feedback-1", "corrections": 3}
    artifacts.write_json(card, artifacts.read_json(card) | {"feedback": feedback})
    _events(tmp_path, record)
    text, damaged = _trace(tmp_path)
    assert damaged == []
    digest = artifacts.digest(Workspace(tmp_path).model("fashion-mnist", VERSION).path)
    for said in (
        f"fashion-mnist, version {VERSION}",
        f"digest {digest}",
        "selected by run first, 2026-11-21T13:52:29, in 9.7 s",
        "code select-code of mlpipeline.steps.selection at commit 0123abcd",
        f"candidate batch_norm, {CANDIDATE}",
        "trained by run first",
        f"data set {DATA}",
        f"digest {'9f2c7be1a4d05836' * 4}",
        "Debian's package dataset-fashion-mnist",
        "feedback feedback-1, 3 corrections",
        "ingested by run first",
    ):
        assert said in text


def test_what_was_reused_is_traced_to_the_run_that_made_it(tmp_path: Path) -> None:
    _events(tmp_path, _run(tmp_path, "made"))
    _events(tmp_path, _run(tmp_path, "reused", made=False))
    text, _ = _trace(tmp_path)
    assert text.count("by run made") == 3
    assert "by run reused" not in text


def test_what_no_run_on_record_has_made_is_said(tmp_path: Path) -> None:
    _run(tmp_path)
    text, damaged = _trace(tmp_path)
    assert text.count("by no run on record") == 3
    assert damaged == []


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"eventType": "COMPLETE", "run": 7}', "\x00", "[" * 100_000],
    ids=lambda line: line[:9],
)
def test_a_damaged_line_is_named_and_the_others_count(tmp_path: Path, line: str) -> None:
    events = lineage.write(Workspace(tmp_path), Run.parse(_run(tmp_path), origin="made up"))
    lines = events.read_text().splitlines()
    events.write_text("\n".join([lines[0], line, *lines[1:]]))
    text, damaged = _trace(tmp_path)
    assert text.count("by run first") == 3
    assert len(damaged) == 1
    assert damaged[0].startswith(f"{events}, line 2: ")


def test_events_that_cannot_be_read_are_named_and_those_of_other_runs_count(tmp_path: Path) -> None:
    _events(tmp_path, _run(tmp_path))
    place = Workspace(tmp_path).run("second").lineage
    place.mkdir(parents=True)
    text, damaged = _trace(tmp_path)
    assert text.count("by run first") == 3
    assert damaged == [f"{place}: Is a directory"]


def test_a_damaged_card_is_named_and_the_rest_is_said(tmp_path: Path) -> None:
    record = _run(tmp_path)
    _events(tmp_path, record)
    card = artifact_of(tmp_path, record, "ingest") / "dataset.json"
    card.write_text("{")
    text, damaged = _trace(tmp_path)
    assert str(card) in damaged[0]
    assert text.count("by run first") == 3


def test_a_version_that_no_model_has_is_an_error_with_those_that_there_are(tmp_path: Path) -> None:
    _run(tmp_path)
    with pytest.raises(ServingError, match=VERSION):
        trace.trace(Workspace(tmp_path), "fashion-mnist-0000000000000000")
