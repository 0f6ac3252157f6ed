"""The pipeline on kind as a user runs it: `make submit`, the `curl` line it prints, and again."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.steps import verification
from mlpipeline.store import artifacts

ROOT = Path(__file__).parents[2]
WORKSPACE = ROOT / "workspace-kind"
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Submission:
    """A finished `make submit`."""

    output: str

    @property
    def record(self) -> dict[str, Any]:
        """What the workflow's exit handler wrote."""
        (name,) = set(re.findall(r"^(mlpipeline-\w+) is submitted", self.output, re.MULTILINE))
        record: dict[str, Any] = artifacts.read_json(WORKSPACE / "runs" / name / "run.json")
        return record

    @property
    def states(self) -> dict[str, str]:
        return {task["name"]: task["state"] for task in self.record["tasks"]}


@pytest.fixture(scope="module")
def first() -> Submission:
    return _submit()


@pytest.mark.timeout(1200)
def test_the_pipeline_succeeds(first: Submission) -> None:
    assert first.record["state"] == "succeeded"
    assert set(first.states.values()) == {"succeeded"}
    assert (WORKSPACE / "runs" / first.record["run"] / "report.html").is_file()
    # The cluster's own verification: every test image by gRPC, a sample by the other protocols.
    protocols = first.record["verification"]["protocols"]
    assert [protocol["images"] for protocol in protocols] == [1_000, 1_000, 1_000, 10_000]
    assert protocols[-1]["accuracy"] == pytest.approx(_decision(first)["test"]["accuracy"])
    for protocol in protocols:
        assert protocol["accuracy"] == pytest.approx(protocol["recorded_accuracy"])
        assert len(protocol["replicas"]) >= 2


def test_the_printed_curl_line_works(first: Submission) -> None:
    (line,) = re.findall(r"^curl .*$", first.output, re.MULTILINE)
    answer = subprocess.run(
        shlex.split(line), cwd=ROOT, capture_output=True, check=True, timeout=60, text=True
    )
    (probabilities,) = json.loads(answer.stdout)["predictions"]
    assert len(probabilities) == 10
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)


@pytest.mark.usefixtures("first")
def test_the_replicas_have_the_image_without_tensorflow() -> None:
    command = ["kubectl", "--namespace", "mlpipeline", "get", "pods"]
    command += ["--selector", "component=predictor", "--output", "jsonpath={..containers[*].image}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    assert (ROOT / ".image-predictor").read_text().strip() in set(done.stdout.split())


def test_all_test_images_get_the_recorded_accuracy_from_outside(first: Submission) -> None:
    """Through the node's port: V1, V2 as JSON and binary, gRPC, from at least two replicas."""
    keys = {task["name"]: task["key"] for task in first.record["tasks"]}
    selection = WORKSPACE / "selections" / keys["select"]
    split = StoredSplit(WORKSPACE / "datasets" / keys["ingest"], "test")
    accuracy = _decision(first)["test"]["accuracy"]
    figures = verification.verify(
        base_url=f"http://{ADDRESS}:30080",
        grpc_address=f"{ADDRESS}:30081",
        name="fashion-mnist",
        expected=verification.Expected(
            split, np.load(selection / "test_probabilities.npy"), accuracy, replicas=2
        ),
    )
    for protocol in figures.protocols:
        print(protocol)
        assert protocol.accuracy == pytest.approx(protocol.recorded_accuracy)
    assert figures.protocols[-1].accuracy == pytest.approx(accuracy)


def test_a_second_submission_hits_every_memo(first: Submission) -> None:
    second = _submit()
    keys = {task["name"]: task["key"] for task in first.record["tasks"]}
    assert {task["name"]: task["key"] for task in second.record["tasks"]} == keys
    memoized = {name: state for name, state in second.states.items() if name not in _NEVER}
    assert set(memoized.values()) == {"reused"}, second.states


_NEVER = {"plan", "gate"}  # they look at what is there, and at what is current


def _submit() -> Submission:
    done = subprocess.run(
        ["make", "--no-print-directory", "submit", "CONFIG=configs/quick.yaml"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return Submission(done.stdout)


def _decision(submission: Submission) -> dict[str, Any]:
    (select,) = (task for task in submission.record["tasks"] if task["name"] == "select")
    decision: dict[str, Any] = artifacts.read_json(
        WORKSPACE / "selections" / select["key"] / "decision.json"
    )
    return decision
