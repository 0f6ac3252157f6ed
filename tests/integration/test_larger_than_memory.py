"""Images that take several times the memory that a process may have, from ingestion to serving."""

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
from mlpipeline.store.schemas.run import Verification
from support.pipelines import Command, Pipeline, configuration, wait_until

pytestmark = pytest.mark.timeout(600)

PROJECT = Path(scans.__file__).parent
IMAGES, OF_VALIDATION, OF_TEST = 45_500, 22_000, 22_000
BYTES = (IMAGES + OF_TEST) * scans.SIZE**2
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
        data={
            "dataset": "own_project.scans:mapped",
            "validation": OF_VALIDATION,
            "shards": 8,
        },
        recipe=recipe | {"precision": "float32"},
        training={"strategy": "single", "workers": 1, "cache": "none"},
    )
    content["serving"] |= {"replicas": 1}
    pipeline = Pipeline(tmp_path_factory.mktemp("large"), content)
    shutil.copytree(PROJECT, pipeline.folder / PROJECT.name)
    scans.write(pipeline.folder / PROJECT.name / "scans", IMAGES, OF_TEST)
    yield pipeline
    shutil.rmtree(pipeline.folder)


def limited(pipeline: Pipeline, *arguments: str) -> tuple[int, int, str]:
    """Run a command in so much memory: its status, the most that was resident, its errors."""
    with pipeline.started(*arguments) as command:
        resource.prlimit(command.process.pid, resource.RLIMIT_DATA, (LIMIT, LIMIT))
        peak = watch(command)
    return command.process.returncode, peak, command.errors


def watch(command: Command) -> int:
    """Wait until a command has ended; return the most that was resident."""
    peak = 0
    while command.process.poll() is None:
        peak = max(peak, resident_at_most(command.process.pid))
        time.sleep(0.02)
    return peak


def resident_at_most(pid: int) -> int:
    """The peak of a process's resident memory so far, in bytes; 0 once it has ended."""
    # Not its `ru_maxrss`: that begins with what this process had when it forked.
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def test_images_that_do_not_fit_into_memory_go_from_ingestion_to_serving(
    prepared: Pipeline,
) -> None:
    of_training = IMAGES - OF_VALIDATION
    assert min(of_training, OF_VALIDATION, OF_TEST) * scans.SIZE**2 > LIMIT, "no split fits"
    # What would hold them fails: so the limit is one.
    prepared.content["data"] |= {"dataset": "own_project.scans:loaded"}
    status, _, errors = limited(prepared, "step", "ingest")
    assert status != 0
    assert "Unable to allocate" in errors

    peaks: dict[str, int] = {}
    prepared.content["data"] |= {"dataset": "own_project.scans:mapped"}
    status, peaks["ingest"], errors = limited(prepared, "step", "ingest")
    assert status == 0, errors
    (dataset,) = prepared.workspace.glob("datasets/ingest-*")
    card = DatasetCard.load(DatasetFolder(dataset).card)
    assert card.counts == {"train": of_training, "validation": OF_VALIDATION, "test": OF_TEST}

    prepared.content["training"] |= {"cache": "memory"}
    status, _, errors = limited(prepared, "step", "train", "--candidate", "coarse")
    assert status != 0

    prepared.content["training"] |= {"cache": "none"}
    status, peaks["train"], errors = limited(prepared, "step", "train", "--candidate", "coarse")
    assert status == 0, errors
    (candidate,) = prepared.workspace.glob("candidates/coarse-*")
    metrics = artifacts.read_json(candidate / "metrics.json")
    assert metrics["validation_accuracy"] > 0.9

    status, peaks["select"], errors = limited(prepared, "step", "select")
    assert status == 0, errors

    output = prepared.folder / "figures.json"
    # Threads by the dozen, with 8 MiB each for a stack that is never filled: no limit, but a look.
    with prepared.started("step", "serve", "--replica", "replica-0") as server:
        wait_until(lambda: "ready=replica-0" in server.output, server)
        with prepared.started("step", "verify", "--output", str(output)) as verification:
            peaks["verify"] = watch(verification)
        assert verification.process.returncode == 0, verification.errors
        peaks["serve"] = resident_at_most(server.process.pid)
    figures = Verification.load(output)
    assert figures.test_images == OF_TEST
    assert [p.images for p in figures.protocols] == [1_000, 1_000, 1_000, OF_TEST]

    print(f"MiB: images {BYTES >> 20}, limit {LIMIT >> 20}")
    print(f"MiB resident at most: { {step: peak >> 20 for step, peak in peaks.items()} }")
    # The libraries take up to 800 MiB; with a split of the images in it, it would be 1.8 GiB.
    assert max(peaks.values()) < 1.4 * LIMIT
