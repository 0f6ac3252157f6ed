"""The log of requests: what is in it, what is left out, and that nobody waits for it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.errors import DamagedArtifactError
from mlpipeline.plan.commands import predictor_arguments
from mlpipeline.plan.config import RequestLogging, Serving
from mlpipeline.serving import request_log
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.request_log import RequestLog
from mlpipeline.steps import serving as servers
from mlpipeline.store import requests
from mlpipeline.store.layout import Workspace

CLASSES = ("dark", "bright")
ALL = RequestLogging(share=1, images_per_hour=10**6)


def brightness(images: Images) -> Probabilities:
    bright = images.reshape(len(images), -1).mean(axis=1) / 255
    return np.stack([1 - bright, bright], axis=1).astype(np.float32)


MODEL = PublishedModel("m-1", "0123", CLASSES, (4, 4), brightness)
IMAGES = np.random.default_rng(0).integers(0, 256, (5_000, 4, 4), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Workspace(tmp_path).requests("m")


def logged(folder: Path, settings: RequestLogging, *batches: Images) -> dict[str, float]:
    """Log some batches, close the log, and return what its metrics say."""
    log = RequestLog(folder, "m", MODEL, settings)
    for images in batches:
        log.observe(images, brightness(images), ())
    log.close()
    return told(log)


def told(log: RequestLog) -> dict[str, float]:
    samples = [sample for metric in log.collect() for sample in metric.samples]
    return {sample.labels.get("reason", "logged"): sample.value for sample in samples}


def shards(folder: Path) -> list[requests.Shard]:
    return list(requests.read(folder / "m-1"))


def test_what_was_asked_and_said_is_read_again(folder: Path) -> None:
    before = time.time()
    counts = logged(folder, ALL, IMAGES[:3], IMAGES[3:10])
    assert counts == {"logged": 10, "rate": 0, "queue": 0, "write": 0}
    (shard,) = shards(folder)
    assert (shard.version, shard.classes) == ("m-1", CLASSES)
    assert (shard.images == IMAGES[:10]).all()
    assert (shard.probabilities == brightness(IMAGES[:10])).all()
    assert ((before <= shard.seconds) & (shard.seconds <= time.time())).all()
    key = hashlib.sha256(IMAGES[7].tobytes()).hexdigest()  # as feedback names it
    assert shard.sha256[7].decode() == key


def test_a_shard_is_sealed_when_it_is_full_and_when_it_is_old(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_SHARD_IMAGES", 4)
    logged(folder, ALL, *np.split(IMAGES[:12], 6))
    assert sorted(len(shard.images) for shard in shards(folder)) == [4, 4, 4]
    monkeypatch.setattr(request_log, "_SHARD_SECONDS", 0.05)
    log = RequestLog(folder, "m", MODEL, ALL)
    log.observe(IMAGES[20:21], brightness(IMAGES[20:21]), ())
    end = time.monotonic() + 10
    while told(log)["logged"] < 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    log.close()
    assert len(shards(folder)) == 4


def test_a_share_is_kept(folder: Path) -> None:
    some = RequestLogging(share=0.2, images_per_hour=10**7)
    counts = logged(folder, some, *np.split(IMAGES, 50))
    assert 850 < counts["logged"] < 1_150  # 1,000, and five times what chance makes of it
    assert sum(len(shard.images) for shard in shards(folder)) == counts["logged"]


def test_no_more_than_an_hour_allows_is_kept_and_that_evenly(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("mlpipeline.serving.request_log.time.monotonic", lambda: now)
    log = RequestLog(folder, "m", MODEL, RequestLogging(share=1, images_per_hour=600))
    for _ in range(20):
        log.observe(IMAGES[:5], brightness(IMAGES[:5]), ())
    assert told(log)["rate"] == 90, "10 at once, a sixtieth"
    now += 30
    log.observe(IMAGES[:100], brightness(IMAGES[:100]), ())
    assert told(log)["rate"] == 90 + 95
    now += 3_600
    log.observe(IMAGES[:100], brightness(IMAGES[:100]), ())
    assert told(log)["rate"] == 90 + 95 + 90
    log.close()


def test_what_waits_is_bounded_and_nobody_waits_for_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, gate, begun = requests.write, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Path:
        begun.set()
        assert gate.wait(10)
        return write(*arguments)

    monkeypatch.setattr(requests, "write", slow)
    monkeypatch.setattr(request_log, "_HELD_BYTES", 10 * 16)
    monkeypatch.setattr(request_log, "_SHARD_IMAGES", 1)
    log = RequestLog(folder, "m", MODEL, ALL)
    log.observe(IMAGES[:4], brightness(IMAGES[:4]), ())
    assert begun.wait(10)
    for _ in range(3):  # while the first ones are being written: they count
        log.observe(IMAGES[:4], brightness(IMAGES[:4]), ())
    assert told(log) == {"logged": 0, "rate": 0, "queue": 6, "write": 0}
    gate.set()
    log.close()
    assert told(log)["logged"] == 10
    log = RequestLog(folder, "m", MODEL, ALL)  # room again
    log.observe(IMAGES[:10], brightness(IMAGES[:10]), ())
    log.close()
    assert told(log)["queue"] == 0


def test_a_disk_that_is_full_costs_its_images_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = requests.write

    def full(*_: Any) -> Path:
        monkeypatch.setattr(requests, "write", write)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(requests, "write", full)
    monkeypatch.setattr(request_log, "_SHARD_IMAGES", 2)
    counts = logged(folder, ALL, IMAGES[:2], IMAGES[2:4])
    assert counts == {"logged": 2, "rate": 0, "queue": 0, "write": 2}
    assert "2 images of requests are not logged" in caplog.text
    assert (shards(folder)[0].images == IMAGES[2:4]).all()


def test_the_oldest_files_go_of_all_versions_and_drafts_too(folder: Path) -> None:
    (folder / "m-0").mkdir(parents=True)
    oldest = folder / "m-0" / "0000000000000001-a.npz"
    draft = folder / "m-1" / ".0000000000000002-b.draft"
    draft.parent.mkdir()
    newest = folder / "m-1" / "9999999999999999-c.npz"
    for file in (oldest, draft, newest):
        file.write_bytes(b"x" * 100)
    requests.keep_within(folder, 300)
    assert oldest.exists()
    requests.keep_within(folder, 299)
    assert [oldest.exists(), draft.exists(), newest.exists()] == [False, True, True]
    requests.keep_within(folder, 199)
    assert [draft.exists(), newest.exists()] == [False, True]


def test_files_stay_within_what_is_configured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_SHARD_IMAGES", 100)
    settings = RequestLogging(share=1, images_per_hour=10**6, bytes=10_000)
    logged(folder, settings, *np.split(IMAGES[:1_000], 10))
    files = list((folder / "m-1").iterdir())
    assert 0 < sum(file.stat().st_size for file in files) <= 10_000
    assert (shards(folder)[0].images == IMAGES[900:1_000]).all(), "the newest ones stay"


def test_nobody_else_can_look_into_it(folder: Path) -> None:
    logged(folder, ALL, IMAGES[:1])
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


WRITER = """
import os, sys
from pathlib import Path
import numpy as np
from mlpipeline.steps import serving as servers
from mlpipeline.store import requests
def killed(*_):
    os.kill(os.getpid(), 9)
requests.sync = killed
images = np.zeros((3, 4, 4), np.uint8)
shard = requests.Shard("m-1", ("a", "b"), np.ones(3), images, np.ones((3, 2), np.float32),
                       requests.keys(images))
requests.write(Path(sys.argv[1]), shard)
"""


def test_what_a_killed_writer_leaves_is_skipped_by_its_name(folder: Path) -> None:
    logged(folder, ALL, IMAGES[:2])
    command = [sys.executable, "-c", WRITER, str(folder / "m-1")]
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -9
    drafts = [file.name for file in (folder / "m-1").iterdir() if file.suffix != ".npz"]
    assert len(drafts) == 1
    assert drafts[0].startswith(".")
    (shard,) = shards(folder)
    assert len(shard.images) == 2


@pytest.fixture
def file(folder: Path) -> Path:
    logged(folder, ALL, IMAGES[:200])
    (found,) = (folder / "m-1").iterdir()
    return found


@pytest.mark.parametrize("damage", ["truncated", "altered", "something else"])
def test_a_damaged_shard_is_an_error_that_names_it(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "altered":
        content[len(content) // 2] ^= 0xFF
    damaged = {"truncated": content[:-100], "altered": content, "something else": b"hello"}
    file.write_bytes(bytes(damaged[damage]))
    with pytest.raises(DamagedArtifactError, match=file.name):
        list(requests.read(file.parent))


def test_a_shard_of_arrays_that_do_not_fit_is_damaged(file: Path) -> None:
    with np.load(file) as arrays:
        content = dict(arrays)
    np.savez(file, **(content | {"seconds": content["seconds"][1:]}))
    with pytest.raises(DamagedArtifactError, match="arrays of"):
        list(requests.read(file.parent))


def test_what_was_never_logged_is_nothing(tmp_path: Path) -> None:
    assert list(requests.read(tmp_path / "none")) == []


def test_it_is_off_by_default_and_costs_nothing_then() -> None:
    assert Serving().log.share == 0
    assert json.loads(RequestLogging().model_dump_json())["share"] == 0


def test_a_replicas_command_line_says_what_is_logged_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(servers, "serve", lambda *_, **options: served.update(options))

    def serve(serving: Serving) -> tuple[Any, Any]:
        arguments = predictor_arguments("m", "m-1", workspace=Workspace(tmp_path), serving=serving)
        result = CliRunner().invoke(app.app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return served["metrics"], served["log"]

    assert serve(Serving()) == (True, None)
    assert serve(Serving(metrics=False, log=ALL)) == (False, (tmp_path / "requests" / "m", ALL))
