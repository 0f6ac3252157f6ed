"""Events posted to Argo's server: each done once, a burst one after the other, none lost."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from mlpipeline.learning.data import datasets
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from support.workflows_on_kind import (
    CONTEXT,
    NAMESPACE,
    QUICK,
    ROOT,
    WORKSPACE,
    Run,
    call,
    configuration,
    get,
    kubectl,
    post,
    remove_artifacts,
    templates_of_the_image,
)

pytestmark = pytest.mark.timeout(1800)

BURST = 6


@pytest.fixture(autouse=True, scope="module")
def _templates_of_the_image() -> Iterator[None]:
    """What events start runs in the images that are tested."""
    with templates_of_the_image("predict", "feedback", "mlpipeline"):
        yield


@pytest.fixture
def identity() -> Iterator[str]:
    """What the test's events, model and folders have in their names; at the end they are gone."""
    made = f"e2e-{uuid.uuid4().hex[:8]}"
    yield made
    kubectl("delete", "inferenceservice", made, "--ignore-not-found")
    names = kubectl("get", "workflows", "--output=name").split()
    if own := [name for name in names if made in name]:
        kubectl("delete", *own)
    answers = (WORKSPACE / "answers").glob(f"predict-{made}*.csv")
    events = WORKSPACE / "feedback" / "events" / made
    remove_artifacts(WORKSPACE / "images" / made, events, *answers)


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
    answers = [WORKSPACE / "answers" / f"predict-{event['id']}.csv" for event in burst]
    where = [f"its answer: {answer.relative_to(ROOT)}" for answer in answers]
    assert sent == [
        f"predict-{event['id']}: {what}; {where[number]}"
        for what, events in (("accepted", burst), ("was posted before", burst[:2]))
        for number, event in enumerate(events)
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
        (node,) = runs[number].nodes("predict")
        (key,) = (p["value"] for p in node["outputs"]["parameters"] if p["name"] == "key")
        made = WORKSPACE / "predictions" / key / "predictions.csv"
        assert answers[number].read_bytes() == made.read_bytes()

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


def wait_for(name: str) -> str:
    """Wait for the end of the workflow that an event has started; return its message."""
    run = Run(name, {})
    assert run.wait() == "Failed", run.describe()
    (pod,) = run.step_pods(name.partition("-")[0].replace("train", "plan"))
    return kubectl("logs", pod["metadata"]["name"], "--container=main")


def post_raw(kind: str, event: dict[str, Any]) -> None:
    """Post an event as somebody does who has the sender's token and nothing of ours."""
    token = kubectl("create", "token", "sender", "--duration=10m").strip()
    command = ["kubectl", "--context", CONTEXT, "--namespace", NAMESPACE, "port-forward"]
    command += ["--address", "127.0.0.1", "service/argo-server", ":2746"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tunnel:
        try:
            assert tunnel.stdout is not None
            port = re.search(r"127\.0\.0\.1:(\d+)", tunnel.stdout.readline())
            assert port is not None
            httpx.post(
                f"http://127.0.0.1:{port[1]}/api/v1/events/{NAMESPACE}/{kind}",
                json=event,
                headers={"authorization": f"Bearer {token}"},
                timeout=60,
            ).raise_for_status()
        finally:
            tunnel.terminate()


def test_a_train_event_runs_nobodys_code(identity: str, tmp_path: Path) -> None:
    shell = {"model": "pydoc:pipepager", "options": {"cmd": "id > /workspace/owned.txt"}}
    content = configuration({"shell": shell}, name=identity)
    post(tmp_path, {"kind": "train", "id": identity, "configuration": content})
    assert "`pydoc:pipepager` may not be named here" in wait_for(f"train-{identity}")
    assert not (WORKSPACE / "owned.txt").exists()


@pytest.mark.parametrize(
    ("number", "changes", "problem"),
    [
        (0, {"model": "../models/fashion-mnist"}, "model: String should match"),
        (1, {"folder": None}, "folder: Input should be a valid string"),
        (2, {"folder": "../etc"}, "folder: Value error"),
        (3, {"folder": "images/{{workflow.name}}"}, "Argo would evaluate it"),
    ],
)
def test_a_raw_event_is_checked_where_it_is_done(
    identity: str, number: int, changes: dict[str, Any], problem: str
) -> None:
    event = {"kind": "predict", "id": f"{identity}-{number}", "model": "m", "folder": "images"}
    post_raw("predict", event | changes)
    assert problem in wait_for(f"predict-{identity}-{number}")


def test_an_event_that_has_failed_says_so_and_can_be_repeated(
    identity: str, tmp_path: Path
) -> None:
    event = {"kind": "predict", "id": identity, "model": identity, "folder": "images/none"}
    post(tmp_path, event)
    wait_for(f"predict-{identity}")
    again = [str(ROOT / "scripts/post.sh"), sys.executable, str(tmp_path / "0.json")]
    done = subprocess.run(again, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "was posted before, and failed: there are no files in " in done.stdout
    remedy = f"kubectl -n {NAMESPACE} delete workflow predict-{identity}"
    assert remedy in done.stderr
    call(*remedy.split())
    (line,) = post(tmp_path, event)
    assert line.startswith(f"predict-{identity}: accepted; its answer: ")
