"""Images that take several times the memory that a process may have: ingested, and trained on."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import own_project.scans as scans
from mlpipeline import artifacts
from mlpipeline.learning.cards import DatasetCard
from pipelines import Pipeline, configuration

pytestmark = pytest.mark.timeout(600)

PROJECT = Path(scans.__file__).parent
IMAGES, OF_TEST = 48_000, 500
BYTES = IMAGES * scans.SIZE**2
# Of what a process writes to, which is what counts as memory: code and files that are mapped to be
# read can always be dropped. TensorFlow alone takes about 400 MB of it.
LIMIT = 768 << 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A project with its images in files; removed in the end, because they are large."""
    recipe = {"batch_size": 128, "epochs": 1, "schedule": "constant", "learning_rate": 0.01}
    content = configuration(
        {"coarse": {"model": "own_project.networks:coarse"}},
        data={"dataset": "own_project.scans:mapped", "validation": 500, "shards": 8},
        recipe=recipe | {"precision": "float32"},
        training={"workers": 1, "cache": "none"},
    )
    pipeline = Pipeline(tmp_path_factory.mktemp("large"), content)
    shutil.copytree(PROJECT, pipeline.folder / PROJECT.name)
    scans.write(pipeline.folder / PROJECT.name / "scans", IMAGES, OF_TEST)
    yield pipeline
    shutil.rmtree(pipeline.folder)


def limited(pipeline: Pipeline, *arguments: str) -> tuple[int, int, str]:
    """Run a command in so much memory: its status, the most that was resident, its errors."""
    with pipeline.started(*arguments) as command:
        process = command.process
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (LIMIT, LIMIT))
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
    return process.returncode, ended[2].ru_maxrss << 10, command.errors


def test_images_that_do_not_fit_into_memory_are_ingested_and_trained_on(
    prepared: Pipeline,
) -> None:
    assert BYTES > 3 * LIMIT
    # What would hold them fails: so the limit is one.
    prepared.content["data"] |= {"dataset": "own_project.scans:loaded"}
    status, _, errors = limited(prepared, "ingest")
    assert status != 0
    assert "Unable to allocate" in errors

    prepared.content["data"] |= {"dataset": "own_project.scans:mapped"}
    status, of_ingestion, errors = limited(prepared, "ingest")
    assert status == 0, errors
    dataset = prepared.published("ingest")
    assert DatasetCard.load(dataset).counts["train"] == IMAGES - 500

    prepared.content["training"] |= {"cache": "memory"}
    status, _, errors = limited(prepared, "train", "--candidate", "coarse")
    assert status != 0

    prepared.content["training"] |= {"cache": "none"}
    status, of_training, errors = limited(prepared, "train", "--candidate", "coarse")
    assert status == 0, errors
    metrics = artifacts.read_json(prepared.published("train-coarse") / "metrics.json")
    assert metrics["validation_accuracy"] > 0.9
    peaks = {"ingest": of_ingestion >> 20, "train": of_training >> 20}
    print(f"MiB: images {BYTES >> 20}, limit {LIMIT >> 20}, resident at most {peaks}")
    assert max(of_ingestion, of_training) < BYTES / 2
