"""Events posted to Argo's server: each done once, a burst one after the other, none lost."""

from __future__ import annotations

import csv
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlpipeline.learning.data import datasets
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from support.workflows_on_kind import (
    IMAGE,
    QUICK,
    ROOT,
    WORKSPACE,
    Run,
    call,
    configuration,
    get,
    kubectl,
    remove_artifacts,
)

pytestmark = pytest.mark.timeout(1800)

BURST = 6


@pytest.fixture(autouse=True, scope="module")
def _templates_of_the_image() -> Iterator[None]:
    """What events start runs in the image that is tested."""
    names = ("predict", "feedback", "mlpipeline")
    before = {name: _parameters(name) for name in names}

    def put(name: str, parameters: list[dict[str, Any]]) -> None:
        patch = {"spec": {"arguments": {"parameters": parameters}}}
        kubectl("patch", "workflowtemplate", name, "--type=merge", "-p", json.dumps(patch))

    for name, parameters in before.items():
        put(name, [p | {"value": IMAGE} if p["name"] == "image" else p for p in parameters])
    yield
    for name, parameters in before.items():
        put(name, parameters)


def _parameters(template: str) -> list[dict[str, Any]]:
    found = get("workflowtemplate", template)
    assert found is not None, f"no template {template}: `make deploy` applies it"
    parameters: list[dict[str, Any]] = found["spec"]["arguments"]["parameters"]
    return parameters


@pytest.fixture
def identity() -> Iterator[str]:
    """What the test's events, model and folders have in their names; at the end they are gone."""
    made = f"e2e-{uuid.uuid4().hex[:8]}"
    yield made
    kubectl("delete", "inferenceservice", made, "--ignore-not-found")
    names = kubectl("get", "workflows", "--output=name").split()
    if own := [name for name in names if made in name]:
        kubectl("delete", *own)
    remove_artifacts(WORKSPACE / "images" / made, WORKSPACE / "feedback" / "events" / made)


def post(folder: Path, *events: dict[str, Any]) -> list[str]:
    """Post events as a person does; return a line for each."""
    files = []
    for number, event in enumerate(events):
        files.append(folder / f"{number}.json")
        files[-1].write_text(json.dumps(event))
    sent = call(str(ROOT / "scripts/post.sh"), sys.executable, *map(str, files), seconds=300)
    return sent.splitlines()


def make_images(identity: str, number: int) -> str:
    """Write some training images, and a file that is none; return their folder."""
    folder = Path("images", identity, str(number))
    (WORKSPACE / folder).mkdir(parents=True)
    for index, image in enumerate(datasets.synthetic().train.images[: 2 + number]):
        Image.fromarray(image).save(WORKSPACE / folder / f"{index}.png")
    (WORKSPACE / folder / "notes.txt").write_text("no image")
    return folder.as_posix()


def lines(run: Run) -> list[dict[str, str]]:
    """What a workflow has predicted."""
    (node,) = run.nodes("predict")
    (key,) = (p["value"] for p in node["outputs"]["parameters"] if p["name"] == "key")
    artifacts.verify(WORKSPACE / "predictions" / key)
    text = (WORKSPACE / "predictions" / key / "predictions.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def most_at_once(runs: list[Run]) -> int:
    """How many of the runs' pods were there at the same moment."""
    nodes = [node for run in runs for node in run.nodes("predict")]
    spans = [(str(node["startedAt"]), str(node["finishedAt"])) for node in nodes]
    return max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)


def test_events_train_predict_and_correct_each_of_them_once(identity: str, tmp_path: Path) -> None:
    content = configuration({"one": QUICK}, name=identity)
    train = {"kind": "train", "id": identity, "configuration": content}
    assert post(tmp_path, train, train) == [
        f"train-{identity}: accepted",
        f"train-{identity}: was posted before",
    ]
    first = Run(f"train-{identity}", content)
    first.assert_succeeds()

    folders = [make_images(identity, number) for number in range(BURST)]
    burst = [
        {"kind": "predict", "id": f"{identity}-{number}", "model": identity, "folder": folder}
        for number, folder in enumerate(folders)
    ]
    sent = post(tmp_path, *burst, *burst[:2])
    assert sent == [f"predict-{event['id']}: accepted" for event in burst] + [
        f"predict-{event['id']}: was posted before" for event in burst[:2]
    ]
    runs = [Run(f"predict-{event['id']}", {}) for event in burst]
    assert [run.wait() for run in runs] == ["Succeeded"] * BURST
    semaphores = get("configmap", "events")
    assert semaphores is not None
    assert most_at_once(runs) <= int(semaphores["data"]["predict"])
    for number, run in enumerate(runs):
        *images, notes = lines(run)
        assert [line["file"] for line in images] == [f"{n}.png" for n in range(2 + number)]
        assert all(line["class"] for line in images)
        assert "no image" in notes["error"]

    wrong = [line["image"] for line in lines(runs[0])[:-1]]
    feedback = {
        "kind": "feedback",
        "id": identity,
        "model": identity,
        "time": "2026-11-24T09:00:00Z",
        "corrections": [{"image": image, "label": "pattern 9"} for image in wrong],
    }
    post(tmp_path, feedback)
    assert Run(f"feedback-{identity}", {}).wait() == "Succeeded"
    post(tmp_path, train | {"id": f"{identity}-again"})
    second = Run(f"train-{identity}-again", content)
    record = second.assert_succeeds()
    assert second.keys()["ingest"] != first.keys()["ingest"]
    card = DatasetCard.load(DatasetFolder(WORKSPACE / "datasets" / second.keys()["ingest"]).card)
    assert card.feedback is not None
    assert card.feedback.corrections == len(wrong) == 2
    assert card.feedback.snapshot == record["config"]["data"]["feedback"]
    assert (
        DatasetCard.load(
            DatasetFolder(WORKSPACE / "datasets" / first.keys()["ingest"]).card
        ).feedback
        is None
    )
