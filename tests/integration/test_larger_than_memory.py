"""Images that take several times the memory that a process may have: ingested, and trained on."""

from __future__ import annotations

import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import own_project.scans as scans
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from support.pipelines import Pipeline, configuration

pytestmark = pytest.mark.timeout(600)

PROJECT = Path(scans.__file__).parent
IMAGES, OF_TEST = 65_000, 500
BYTES = IMAGES * scans.SIZE**2
# Of what a process writes to, which is what counts as memory: code and files that are mapped to be
# read can always be dropped. A training takes up to 700 MiB of it, and not the same each time; what
# TensorFlow does where an allocation fails is anything, a segmentation fault included.
LIMIT = 1 << 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A project with its images in files; removed in the end, because they are large."""
    recipe = {"batch_size": 32, "epochs": 1, "schedule": "constant", "learning_rate": 0.01}
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
    peak = 0
    with pipeline.started(*arguments) as command:
        process = command.process
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (LIMIT, LIMIT))
        while process.poll() is None:
            peak = max(peak, resident_at_most(process.pid))
            time.sleep(0.02)
    return process.returncode, peak, command.errors


def resident_at_most(pid: int) -> int:
    """The peak of a process's resident memory so far, in bytes; 0 once it has ended."""
    # Not its `ru_maxrss`: that begins with what this process had when it forked.
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def test_images_that_do_not_fit_into_memory_are_ingested_and_trained_on(
    prepared: Pipeline,
) -> None:
    assert BYTES > 3 * LIMIT
    # What would hold them fails: so the limit is one.
    prepared.content["data"] |= {"dataset": "own_project.scans:loaded"}
    status, _, errors = limited(prepared, "step", "ingest")
    assert status != 0
    assert "Unable to allocate" in errors

    prepared.content["data"] |= {"dataset": "own_project.scans:mapped"}
    status, of_ingestion, errors = limited(prepared, "step", "ingest")
    assert status == 0, errors
    dataset = prepared.published("ingest")
    assert DatasetCard.load(DatasetFolder(dataset).card).counts["train"] == IMAGES - 500

    prepared.content["training"] |= {"cache": "memory"}
    status, _, errors = limited(prepared, "step", "train", "--candidate", "coarse")
    assert status != 0

    prepared.content["training"] |= {"cache": "none"}
    status, of_training, errors = limited(prepared, "step", "train", "--candidate", "coarse")
    assert status == 0, errors
    metrics = artifacts.read_json(prepared.published("train-coarse") / "metrics.json")
    assert metrics["validation_accuracy"] > 0.9
    peaks = {"ingest": of_ingestion >> 20, "train": of_training >> 20}
    print(f"MiB: images {BYTES >> 20}, limit {LIMIT >> 20}, resident at most {peaks}")
    assert max(of_ingestion, of_training) < BYTES / 2
