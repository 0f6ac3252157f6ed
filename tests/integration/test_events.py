"""Events by real processes: a watched folder that trains, predicts and takes feedback."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlpipeline.learning.data import datasets
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from support.pipelines import Command, Pipeline, configuration, keys, states, wait_until

pytestmark = pytest.mark.timeout(900)

TINY = {"model": "cnn", "options": {"widths": [4, 8], "units": 16}, "epochs": 1}
SECONDS_TO_STOP = 120
BURST = 3


@contextmanager
def watched(pipeline: Pipeline) -> Iterator[Command]:
    """Watch the inbox; it ends by Ctrl-C, and leaves no process behind."""
    pipeline.folder.mkdir(exist_ok=True)
    arguments = ["-m", "mlpipeline", "watch", "--workspace", str(pipeline.workspace)]
    with pipeline.started_program(arguments) as command:
        yield command
        command.process.send_signal(signal.SIGINT)
        assert command.wait(SECONDS_TO_STOP) == 0, command.output + command.errors
        assert command.members() == []


def drop(pipeline: Pipeline, event: dict[str, Any], name: str = "event.json") -> None:
    draft = pipeline.workspace / f"{name}.part"
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(json.dumps(event))
    (pipeline.workspace / "inbox").mkdir(exist_ok=True)
    draft.rename(pipeline.workspace / "inbox" / name)


def ended(pipeline: Pipeline, name: str) -> bool:
    failed = pipeline.workspace / "inbox" / "failed"
    assert not failed.exists(), [file.read_text() for file in failed.glob("*.txt")]
    return (pipeline.workspace / "inbox" / "done" / f"{name}.json").exists()


def make_images(folder: Path, count: int) -> dict[str, int]:
    """Write images of the training data; return the label of each file."""
    folder.mkdir(parents=True)
    train = datasets.synthetic().train
    for number in range(count):
        Image.fromarray(train.images[number]).save(folder / f"{number:02}.png")
    (folder / "notes.txt").write_text("no image")
    return {f"{number:02}.png": int(train.labels[number]) for number in range(count)}


def lines(pipeline: Pipeline, key: Path) -> list[dict[str, str]]:
    with (key / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_model_is_trained_asked_corrected_and_trained_again_by_events(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, configuration({"one": TINY}))
    train = {"kind": "train", "id": "first", "configuration": pipeline.content}
    drop(pipeline, train)  # before anybody watches

    # Ctrl-C in its middle leaves it to be done: between two steps, as this model's training, once
    # its workers have started, may be over before the signal comes.
    with watched(pipeline) as command:
        wait_until(lambda: list(pipeline.workspace.glob("datasets/ingest-*")), command)
    assert (pipeline.workspace / "inbox" / "event.json").exists()
    assert pipeline.last_run()["state"] == "interrupted"

    with watched(pipeline) as command:
        wait_until(lambda: ended(pipeline, "train-first"), command)
        first = pipeline.last_run()
        assert states(first) == dict.fromkeys(
            ("train-one", "select", "gate", "serve", "verify"), "succeeded"
        ) | {"ingest": "reused"}
        assert pipeline.current() == keys(first)["select"]

        # A burst: some folders, each asked for twice with one id and once with another.
        labels = [make_images(pipeline.workspace / f"images/{n}", 3 + n) for n in range(BURST)]
        for number in range(BURST):
            event = {"kind": "predict", "model": "toy", "folder": f"images/{number}"}
            for copy, identity in enumerate((f"a{number}", f"a{number}", f"b{number}")):
                drop(pipeline, event | {"id": identity}, f"{number}-{copy}.json")
        names = [f"predict-{which}{number}" for which in "ab" for number in range(BURST)]
        wait_until(lambda: all(ended(pipeline, name) for name in names), command)
        wait_until(lambda: not list((pipeline.workspace / "inbox").glob("*.json")), command)
        assert command.errors.count("begun") == 1 + len(names)
        results = sorted(pipeline.workspace.glob("predictions/*"))
        assert len(results) == BURST  # the second id finds what the first has made
        for result in results:
            artifacts.verify(result)
            found = lines(pipeline, result)
            number = len(found) - 4  # 3 + n images and the notes
            assert [line["file"] for line in found] == [*labels[number], "notes.txt"]
            assert all(line["class"].startswith("pattern ") for line in found[:-1])
            assert "no image" in found[-1]["error"]
            for name in (f"predict-a{number}", f"predict-b{number}"):
                answer = pipeline.workspace / "answers" / f"{name}.csv"
                assert answer.read_bytes() == (result / "predictions.csv").read_bytes()

        # What was predicted is corrected, and the next run has it.
        wrong = [line["image"] for line in lines(pipeline, results[0])[:3]]
        drop(
            pipeline,
            {
                "kind": "feedback",
                "id": "ann-1",
                "model": "toy",
                "time": "2026-11-24T09:00:00Z",
                "corrections": [{"image": image, "label": "pattern 9"} for image in wrong],
            },
        )
        drop(pipeline, train | {"id": "second"}, "later.json")
        wait_until(lambda: ended(pipeline, "train-second"), command)
    second = pipeline.last_run()
    assert states(second) == dict.fromkeys(
        ("ingest", "train-one", "select", "gate", "serve", "verify"), "succeeded"
    )
    assert not set(keys(first).values()) & set(keys(second).values())
    card = DatasetCard.load(
        DatasetFolder(pipeline.workspace / "datasets" / keys(second)["ingest"]).card
    )
    assert card.feedback is not None
    assert card.feedback.corrections == 3
    assert card.feedback.snapshot == second["config"]["data"]["feedback"]
    before = DatasetCard.load(
        DatasetFolder(pipeline.workspace / "datasets" / keys(first)["ingest"]).card
    )
    nine = sum(card.per_class[name][9] for name in ("train", "validation"))
    assert nine == 3 + sum(before.per_class[name][9] for name in ("train", "validation"))
    images = datasets.synthetic().train.images[:3]
    assert wrong == [hashlib.sha256(np.ascontiguousarray(i).tobytes()).hexdigest() for i in images]
    assert pipeline.leftovers() == []


def test_an_event_runs_only_code_that_the_person_who_watches_allows(tmp_path: Path) -> None:
    owned = tmp_path / "owned.txt"
    shell = {"model": "pydoc:pipepager", "options": {"cmd": f"id > {owned}"}}
    pipeline = Pipeline(tmp_path, configuration({"shell": shell}))
    drop(pipeline, {"kind": "train", "id": "shell", "configuration": pipeline.content})
    failed = pipeline.workspace / "inbox" / "failed"
    with watched(pipeline) as command:
        wait_until((failed / "event.txt").exists, command)
    reason = (failed / "event.txt").read_text()
    assert "`pydoc:pipepager` may not be named here" in reason
    assert f"mv {failed}/event.json " in reason
    assert not owned.exists()
