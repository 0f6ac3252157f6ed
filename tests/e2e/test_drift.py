"""The loop: requests drift, answers are corrected, the model is trained anew, the gate lets it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlpipeline.learning.data import datasets
from mlpipeline.serving.batching import Array
from mlpipeline.store import requests
from mlpipeline.store.schemas.look import Look
from mlpipeline.store.schemas.run import Run as Record
from support.workflows_on_kind import (
    HTTP,
    IMAGE,
    ROOT,
    WORKSPACE,
    Run,
    argo,
    configuration,
    inference_is,
    kubectl,
    post,
    remove_artifacts,
    templates_of_the_image,
    wait_until,
)

pytestmark = pytest.mark.timeout(2400)

DATA = datasets.synthetic()
RIGHT, WRONG = 3, 7  # most images of a class have the label of another one
_OF_CLASS = np.flatnonzero(DATA.train.labels == RIGHT)
MISLABELLED = np.delete(_OF_CLASS, np.s_[::5])
LEARNS = {"model": "cnn", "options": {"widths": [8, 16], "units": 32}, "epochs": 10}
TEMPLATE = ROOT / "manifests" / "components" / "drift" / "drift.yaml"
_TOGETHER = 100  # images in a request


@pytest.fixture
def name() -> Iterator[str]:
    """A model with training data of its own, of which most of a class have another's label."""
    made = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = DATA.train.labels.copy()
    labels[MISLABELLED] = WRONG
    file = WORKSPACE / f"{made}.npz"
    np.savez(
        file,
        x_train=DATA.train.images,
        y_train=labels,
        x_test=DATA.test.images,
        y_test=DATA.test.labels,
        classes=np.array(DATA.classes),
    )
    try:
        yield made
    finally:
        kubectl("delete", "inferenceservice", made, "--ignore-not-found")
        names = kubectl("get", "workflows", "--output=name").split()
        if own := [workflow for workflow in names if made in workflow]:
            kubectl("delete", *own)
        requests_of, labels_of = WORKSPACE / "requests" / made, WORKSPACE / "feedback" / "events"
        found = WORKSPACE / "looks" / f"{made}.json"
        remove_artifacts(file, requests_of, labels_of / made, found)


@pytest.fixture
def _deployed() -> Iterator[None]:
    """The component `drift`, in the image that is tested; without the clock."""
    kubectl("apply", "--filename", str(TEMPLATE))
    try:
        argo("cron", "suspend", "drift")
        with templates_of_the_image("drift", "feedback", "mlpipeline"):
            yield
    finally:
        kubectl("delete", "--filename", str(TEMPLATE))


def ask(name: str, images: Array) -> Array:
    """Return the classes that the model says of some images, asked as clients ask."""
    said = []
    for start in range(0, len(images), _TOGETHER):
        body = {"instances": images[start : start + _TOGETHER].tolist()}
        done = httpx.post(f"{HTTP}/v1/models/{name}:predict", json=body, timeout=60)
        said += done.raise_for_status().json()["predictions"]
    classes: Array = np.array(said).argmax(axis=1)
    return classes


def is_all_logged() -> bool:
    """Whether the only replica has written all that it was asked into its log."""
    text = httpx.get(f"{HTTP}/metrics", timeout=60).raise_for_status().text

    def total(metric: str) -> int:
        found = re.findall(rf"^mlpipeline_{metric}_total\{{.*\}} ([\d.e+]+)$", text, re.MULTILINE)
        return sum(int(float(number)) for number in found)

    return total("logged_images") == total("predictions") > 0


def look() -> str:
    """Have somebody look for drift; return what the workflow's steps have said."""
    options = ("-p", f"image={IMAGE}", "-p", "images=1000")
    made = argo("submit", "--output=name", "--from", "workflowtemplate/drift", *options)
    run = Run(made.strip(), {})
    assert run.wait() == "Succeeded", run.describe()
    said = run.step_log("find-drift")
    return said + (run.step_log("post") if run.step_pods("post") else "")


def succeeded(workflow: str, content: dict[str, Any]) -> Record:
    """Wait for the end of a run; return its record."""
    Run(workflow, content).assert_succeeds()
    return Record.load(WORKSPACE / "runs" / workflow / "run.json")


def accuracy(record: Record) -> float:
    """The accuracy on the test split, whose labels were right all the time."""
    assert record.verification is not None
    assert record.verification.accuracy is not None
    return record.verification.accuracy


@pytest.mark.usefixtures("_deployed")
def test_requests_drift_and_the_model_is_trained_anew_with_what_people_have_corrected(
    name: str, tmp_path: Path
) -> None:
    content = configuration(
        {"one": LEARNS},
        name=name,
        data={"dataset": f"npz:/workspace/{name}.npz", "validation": 500, "shards": 4},
        serving={"replicas": 1, "log": {"share": 1.0, "images_per_hour": 600_000}},
        gate={"worse_by": 0.01},
    )
    post(tmp_path, {"kind": "train", "id": name, "configuration": content})
    before = succeeded(f"train-{name}", content)

    with inference_is(name):
        # Of verification, which asks what the validation split is like.
        assert not re.search(rf"train-drift-\d+-{name}", look())
        mislabelled = DATA.train.images[MISLABELLED]
        asked = np.concatenate([mislabelled] * 4)
        assert (ask(name, asked) == WRONG).mean() > 0.5
        corrections = [
            {"image": image.decode(), "label": DATA.classes[RIGHT]}
            for image in requests.keys(mislabelled).tolist()
        ]
        event = {"kind": "feedback", "id": name, "model": name, "corrections": corrections}
        post(tmp_path, event | {"time": "2026-11-24T09:00:00Z"})
        assert Run(f"feedback-{name}", {}).wait() == "Succeeded"
        wait_until(is_all_logged, "the log of what was asked", 180)

        said = look()
        (posted,) = re.findall(rf"^(train-drift-\d+-{name}): accepted$", said, re.MULTILINE)
        assert "answers known to be wrong" in said
        assert "predicted classes" in said
        assert f"{posted}: was posted before" in look(), "one in a day is enough"
        found = Look.load(WORKSPACE / "looks" / f"{name}.json")
        assert (found.version, found.is_drift) == (before.served[-1].version, True)
        after = succeeded(posted, content)

        assert after.gate is not None
        assert after.gate.verdict == "passed", after.gate
        assert after.served[-1].version != before.served[-1].version
        wait_until(
            lambda: (ask(name, mislabelled) == RIGHT).mean() > 0.5, "answers of the new version", 60
        )
    assert accuracy(before) + 0.05 < accuracy(after)
    print(json.dumps({"before": accuracy(before), "after": accuracy(after)}))
