"""Artifacts: published whole or not at all, and never used when they are not what was published."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import DamagedArtifactError, MissingArtifactError
from mlpipeline.store import artifacts
from mlpipeline.store.artifacts import MANIFEST, is_whole, make_key, publish, verify

ARGO_KEY = re.compile(r"^[a-zA-Z0-9][-a-zA-Z0-9]*$")
PARAMETERS: dict[str, Any] = {"epochs": 3, "options": {"widths": [8, 16]}}


def _publish(target: Path, content: str = "weights") -> Path:
    with publish(target) as draft:
        (draft / "variables").mkdir()
        (draft / "variables" / "data").write_text(content)
        (draft / "metrics.json").write_text("{}")
    return target


def _siblings(target: Path) -> list[Path]:
    return [path for path in target.parent.iterdir() if path != target]


def test_a_published_folder_holds_what_was_written_and_is_whole(tmp_path: Path) -> None:
    target = _publish(tmp_path / "candidates" / "cnn-1")

    verify(target)
    assert (target / "variables" / "data").read_text() == "weights"
    assert set(json.loads((target / MANIFEST).read_text())["files"]) == {
        "metrics.json",
        "variables/data",
    }
    assert not _siblings(target)


def test_nothing_is_visible_at_the_target_before_everything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "cnn-1"
    with publish(target) as draft:
        (draft / "first").write_text("1")
        assert not target.exists()
        assert not is_whole(draft)
        (draft / "second").write_text("2")
    assert is_whole(target)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "cnn-1"

    def write() -> None:
        with publish(target) as draft:
            (draft / "half").write_text("wri")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_killed_leaves_no_artifact_and_does_not_hinder_the_next(
    tmp_path: Path,
) -> None:
    target = tmp_path / "cnn-1"
    killed = f"""
import os, pathlib
from mlpipeline.store.artifacts import publish
with publish(pathlib.Path({str(target)!r})) as draft:
    (draft / "half").write_text("wri")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", killed], timeout=60).returncode == -9

    assert not target.exists()
    assert is_whole(_publish(target))
    assert not (target / "half").exists()


def test_a_failed_writer_leaves_what_was_published_before(tmp_path: Path) -> None:
    target = _publish(tmp_path / "cnn-1")
    with pytest.raises(UnicodeEncodeError), publish(target) as draft:
        (draft / "half").write_text("wri\ud800", encoding="utf-8")
    assert is_whole(target)
    assert not _siblings(target)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: (path / "variables" / "data").write_text("weighty"), "variables/data"),
        (lambda path: (path / "variables" / "data").write_text(""), "variables/data"),
        (lambda path: (path / "metrics.json").unlink(), "metrics.json"),
        (lambda path: shutil.rmtree(path / "variables"), "variables/data"),
        (lambda path: (path / MANIFEST).unlink(), MANIFEST),
        (lambda path: (path / MANIFEST).write_text('{"files": {"metri'), MANIFEST),
        (lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe"), MANIFEST),
        (lambda path: (path / MANIFEST).write_text("{}"), MANIFEST),
        (lambda path: (path / MANIFEST).write_text("[]"), MANIFEST),
        (lambda path: (path / MANIFEST).write_text('{"files": ["metrics.json"]}'), MANIFEST),
    ],
    ids=[
        *("altered", "emptied", "missing", "folder-missing", "no-manifest", "cut-manifest"),
        *("binary-manifest", "empty-manifest", "list-manifest", "list-of-files"),
    ],
)
def test_damage_is_an_error_that_names_the_file(
    tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    target = _publish(tmp_path / "cnn-1")
    damage(target)

    with pytest.raises(DamagedArtifactError) as raised:
        verify(target)
    assert str(target / named) in raised.value.got
    assert not is_whole(target)


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_nothing_published_is_missing_not_damaged(tmp_path: Path, there: str) -> None:
    if there == "file":
        (tmp_path / "cnn-1").write_text("")
    with pytest.raises(MissingArtifactError, match="cnn-1"):
        verify(tmp_path / "cnn-1")


def test_a_file_that_a_reader_adds_does_no_harm(tmp_path: Path) -> None:
    target = _publish(tmp_path / "cnn-1")
    (target / ".DS_Store").write_text("")
    verify(target)


def test_a_damaged_artifact_is_replaced(tmp_path: Path) -> None:
    target = _publish(tmp_path / "cnn-1")
    (target / "variables" / "data").write_text("weighty")
    (target / "left-over").write_text("")

    _publish(target, "made anew")

    verify(target)
    assert (target / "variables" / "data").read_text() == "made anew"
    assert not (target / "left-over").exists()
    assert not _siblings(target)


def test_a_whole_artifact_published_in_the_meantime_stays(tmp_path: Path) -> None:
    target = tmp_path / "cnn-1"
    with publish(target) as draft:
        (draft / "data").write_text("the slower writer's")
        _publish(target, "the faster writer's")

    verify(target)
    assert (target / "variables" / "data").read_text() == "the faster writer's"
    assert not _siblings(target)


def test_a_whole_artifact_that_appears_at_the_last_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "cnn-1", Path.rename

    def lose_the_race(source: Path, destination: Path) -> Path:
        monkeypatch.undo()
        _publish(target, "the faster writer's")
        return rename(source, destination)

    with publish(target) as draft:
        (draft / "data").write_text("the slower writer's")
        monkeypatch.setattr(Path, "rename", lose_the_race)

    verify(target)
    assert (target / "variables" / "data").read_text() == "the faster writer's"
    assert not _siblings(target)


def test_a_damaged_artifact_may_be_replaced_by_two_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = _publish(tmp_path / "cnn-1"), Path.rename
    (target / "variables" / "data").write_text("weighty")

    def lose_the_race(source: Path, destination: Path) -> Path:
        monkeypatch.undo()
        assert source == target
        _publish(target, "the faster writer's")
        target.rename(tmp_path / "elsewhere")  # by a third one, which saw it damaged, too
        return rename(source, destination)

    monkeypatch.setattr(Path, "rename", lose_the_race)
    _publish(target, "the slower writer's")
    verify(target)
    assert (target / "variables" / "data").read_text() == "the slower writer's"


def test_a_target_that_cannot_be_replaced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, destination: Path) -> Path:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        _publish(tmp_path / "cnn-1")
    assert list(tmp_path.iterdir()) == []


def test_what_another_has_published_is_taken_over_whole(tmp_path: Path) -> None:
    source, target = _publish(tmp_path / "work" / "result"), tmp_path / "candidates" / "cnn-1"
    artifacts.take_over(source, target)
    verify(target)
    assert not source.exists()


def test_what_is_taken_over_replaces_what_is_damaged_and_nothing_else(tmp_path: Path) -> None:
    damaged, whole = _publish(tmp_path / "a"), _publish(tmp_path / "b", "others")
    (damaged / "metrics.json").unlink()
    for target, content in ((damaged, "weights"), (whole, "others")):
        artifacts.take_over(_publish(tmp_path / "work" / target.name), target)
        verify(target)
        assert (target / "variables" / "data").read_text() == content


def _link_a_file(result: Path, secret: Path) -> None:
    (result / "metrics.json").unlink()
    (result / "metrics.json").symlink_to(secret / "metrics.json")


def _link_a_folder(result: Path, secret: Path) -> None:
    shutil.rmtree(result / "variables")
    (result / "variables").symlink_to(secret / "variables", target_is_directory=True)


def _link_all_of_it(result: Path, secret: Path) -> None:
    shutil.rmtree(result)
    result.symlink_to(secret, target_is_directory=True)


def _hide_a_link(result: Path, secret: Path) -> None:
    (result / "variables" / "more").symlink_to(secret)


def _add_a_file(result: Path, secret: Path) -> None:
    (result / "variables" / "more").write_text("not in the manifest")


def _add_a_pipe(result: Path, secret: Path) -> None:
    os.mkfifo(result / "pipe")


def _make_the_manifest_a_pipe(result: Path, secret: Path) -> None:
    (result / MANIFEST).unlink()
    os.mkfifo(result / MANIFEST)


def _name(result: Path, name: str) -> None:
    files = json.loads((result / MANIFEST).read_text())
    files["files"][name] = next(iter(files["files"].values()))
    (result / MANIFEST).write_text(json.dumps(files))


def _name_what_is_elsewhere(result: Path, secret: Path) -> None:
    _name(result, "../../secret/metrics.json")


def _name_what_is_anywhere(result: Path, secret: Path) -> None:
    _name(result, str(secret / "metrics.json"))


def _change_a_file(result: Path, secret: Path) -> None:
    (result / "metrics.json").write_text("{ }")


def _remove_the_manifest(result: Path, secret: Path) -> None:
    (result / MANIFEST).unlink()


LIES = [
    *(_link_a_file, _link_a_folder, _link_all_of_it, _hide_a_link, _add_a_file, _add_a_pipe),
    *(_make_the_manifest_a_pipe, _name_what_is_elsewhere, _name_what_is_anywhere),
    *(_change_a_file, _remove_the_manifest),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_just_what_its_manifest_names_is_not_taken_over(
    tmp_path: Path, lie: Callable[[Path, Path], None]
) -> None:
    result, secret = _publish(tmp_path / "work" / "result"), _publish(tmp_path / "secret")
    lie(result, secret)
    with pytest.raises(DamagedArtifactError):
        artifacts.take_over(result, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()
    verify(secret)
    artifacts.remove(result)
    assert not os.path.lexists(result)
    verify(secret)


def test_a_folder_that_cannot_be_looked_into_is_not_taken_over(tmp_path: Path) -> None:
    """By somebody who may not do everything, as the pods' user."""
    script = """
import os, pathlib, sys
from mlpipeline.errors import DamagedArtifactError
from mlpipeline.store import artifacts
result, taken = map(pathlib.Path, sys.argv[1:])
os.setuid(1000)
try:
    artifacts.take_over(result, taken)
except DamagedArtifactError as error:
    print(error.got)
"""
    if os.getuid() != 0:
        script = script.replace("os.setuid(1000)", "")
    for hidden, mode in (("variables", 0o111), ("metrics.json", 0o000)):
        result = _publish(tmp_path / hidden / "result")
        for path in (tmp_path, *tmp_path.parents[:-2], tmp_path / hidden):
            path.chmod(path.stat().st_mode | 0o077)
        (result / hidden).chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", script, str(result), str(tmp_path / "taken")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Permission denied" in done.stdout, done.stderr


def test_what_nobody_has_handed_over_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError):
        artifacts.take_over(tmp_path / "result", tmp_path / "taken")


def test_a_file_written_again_is_the_old_one_until_it_is_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "run.json"
    artifacts.write_json(file, {"state": "running"})
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(file, {"loss": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        artifacts.write_text(file, "half \ud800")

    assert artifacts.read_json(file) == {"state": "running"}
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_is_no_json_is_damaged_and_one_that_is_not_there_missing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "metrics.json"
    with pytest.raises(MissingArtifactError, match=r"metrics\.json"):
        artifacts.read_json(file)
    for content in (b'{"accuracy": 0.9', b"\xff", b"[" * 100_000, b'["\\uD800"]'):
        file.write_bytes(content)
        with pytest.raises(DamagedArtifactError, match=r"metrics\.json is damaged"):
            artifacts.read_json(file)


def test_a_folder_in_a_files_place_is_damage_that_a_run_mends(tmp_path: Path) -> None:
    _publish(target := tmp_path / "cnn-1")
    (target / MANIFEST).unlink()
    (target / MANIFEST).mkdir()
    with pytest.raises(DamagedArtifactError, match=MANIFEST):
        artifacts.verify(target)
    assert not artifacts.is_whole(target)
    _publish(target)
    assert artifacts.is_whole(target)


@pytest.mark.parametrize("name", ["cnn", "batch_norm", "Ärger.2", "_x_", "a" * 40])
def test_a_key_is_one_that_argo_accepts(name: str) -> None:
    key = make_key(name, code="0", parameters=PARAMETERS, inputs=["ingest-1"])
    assert ARGO_KEY.match(key)
    assert len(key) <= 63  # the longest label of Kubernetes


def test_a_key_begins_with_the_name() -> None:
    key = make_key("batch_norm", code="0", parameters={}, inputs=[])
    assert key.startswith("batch-norm-")


@pytest.mark.parametrize(
    "change",
    [
        {"code": "1"},
        {"parameters": {**PARAMETERS, "epochs": 4}},
        {"parameters": {**PARAMETERS, "options": {"widths": [16, 8]}}},
        {"parameters": {**PARAMETERS, "new": None}},
        {"inputs": ["ingest-2"]},
        {"inputs": ["ingest-1", "ingest-2"]},
        {"inputs": []},
        {"name": "dropout"},
    ],
    ids=str,
)
def test_a_key_changes_with_all_that_the_result_depends_on(change: dict[str, Any]) -> None:
    identity: dict[str, Any] = {
        "name": "cnn",
        "code": "0",
        "parameters": PARAMETERS,
        "inputs": ["ingest-1"],
    }
    assert make_key(**identity | change) != make_key(**identity)


def test_a_key_does_not_depend_on_the_order_of_parameters() -> None:
    backwards = dict(reversed(PARAMETERS.items()))
    first, second = (
        make_key("cnn", code="0", parameters=p, inputs=()) for p in (PARAMETERS, backwards)
    )
    assert first == second


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    as_first_written = "batch-norm-e09145277f3a3d84"
    key = make_key("batch_norm", code="0", parameters=PARAMETERS, inputs=["ingest-1"])
    assert key == as_first_written
