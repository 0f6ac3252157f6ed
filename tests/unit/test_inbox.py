"""The inbox: what becomes of a file in it. The commands that would do the work are only noted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.backends.local import processes
from mlpipeline.backends.local.inbox import Inbox
from mlpipeline.errors import EventError, ProcessError
from mlpipeline.store.layout import Workspace
from support.sample_events import FEEDBACK, PREDICT, TRAIN


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """Its commands only note that they were called; in the folder `broken` they fail."""

    async def run(
        command: Sequence[str],
        *,
        log: Path,
        on_output: Callable[[str], None],
        grace_seconds: float,
    ) -> None:
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as file:
            print(shlex.join(command[3:]), file=file)
        on_output("a line")
        on_output("the result")
        if any('"folder":"broken"' in word for word in command):
            raise ProcessError("it broke", expected="that it works", remedy="mend it")

    monkeypatch.setattr(processes, "run", run)
    made = Inbox(Workspace(tmp_path))
    made.folder.mkdir()
    return made


def drop(inbox: Inbox, name: str, event: Any) -> Path:
    draft = inbox.folder / f".{name}"
    draft.write_text(json.dumps(event))
    return draft.rename(inbox.folder / name)


def do_all(inbox: Inbox) -> None:
    asyncio.run(inbox.do_all())


def called(inbox: Inbox, name: str) -> list[str]:
    log = inbox.folder / "logs" / f"{name}.log"
    return log.read_text().splitlines() if log.exists() else []


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.*")}


def test_each_kind_is_done_by_its_command(inbox: Inbox) -> None:
    for event in (PREDICT, TRAIN, FEEDBACK):
        drop(inbox, f"{event['kind']}.json", event)
    do_all(inbox)
    workspace = f"--workspace {inbox.workspace}"
    (predict,) = called(inbox, "predict-monday")
    assert predict.startswith("step predict-batch '--event=")
    assert shlex.split(predict)[2] == "--event=" + json.dumps(
        {name: PREDICT[name] for name in ("id", "kind", "model", "folder")}, separators=(",", ":")
    )
    (train,) = called(inbox, "train-week-7")
    assert train.startswith("run --config ")
    assert train.endswith(f"train-week-7.yaml {workspace}")
    (feedback,) = called(inbox, "feedback-ann-1")
    assert feedback.startswith("step feedback '--event=")
    assert names(inbox.folder) == set()
    assert names(inbox.folder / "done") == {
        "predict-monday.json",
        "train-week-7.json",
        "feedback-ann-1.json",
    }


def test_the_oldest_is_done_first(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for age, name in enumerate(("b", "c", "a")):
        os.utime(drop(inbox, f"{name}.json", PREDICT | {"id": name}), (age, age))
    do_all(inbox)
    said = [record.getMessage() for record in caplog.records]
    begun = [line for line in said if line.endswith("begun")]
    assert begun == ["predict-b: begun", "predict-c: begun", "predict-a: begun"]
    assert said[1] == "predict-b: done: the result", "what the command has printed last"


def test_a_repeated_event_is_done_once(inbox: Inbox) -> None:
    for name in ("a.json", "b.json"):
        drop(inbox, name, PREDICT)
    do_all(inbox)
    drop(inbox, "c.json", dict(reversed(PREDICT.items())))
    do_all(inbox)
    assert len(called(inbox, "predict-monday")) == 1
    assert names(inbox.folder / "done") == {"predict-monday.json"}
    assert not (inbox.folder / "failed").exists()


def test_another_event_with_a_used_id_fails(inbox: Inbox) -> None:
    drop(inbox, "a.json", PREDICT)
    do_all(inbox)
    drop(inbox, "b.json", PREDICT | {"folder": "images/tuesday"})
    do_all(inbox)
    assert len(called(inbox, "predict-monday")) == 1
    assert "the id 'monday' was that of another" in (inbox.folder / "failed" / "b.txt").read_text()


def test_what_fails_is_moved_with_the_reason_and_the_rest_is_done(inbox: Inbox) -> None:
    drop(inbox, "a.json", PREDICT | {"id": "broken", "folder": "broken"})
    drop(inbox, "b.json", PREDICT | {"id": "B"})
    drop(inbox, "c.json", PREDICT)
    do_all(inbox)
    assert names(inbox.folder / "failed") == {"a.json", "a.txt", "b.json", "b.txt"}
    reason = (inbox.folder / "failed" / "a.txt").read_text()
    assert "it broke" in reason
    assert f"mv {inbox.folder}/failed/a.json {inbox.folder}/" in reason, "how to do it again"
    assert "id: String should match" in (inbox.folder / "failed" / "b.txt").read_text()
    assert names(inbox.folder / "done") == {"predict-monday.json"}


def test_what_failed_is_done_when_it_is_dropped_again(inbox: Inbox) -> None:
    drop(inbox, "a.json", PREDICT | {"folder": "broken"})
    do_all(inbox)
    (inbox.folder / "failed" / "a.json").write_text(json.dumps(PREDICT))  # mended
    (inbox.folder / "failed" / "a.json").rename(inbox.folder / "a.json")
    do_all(inbox)
    assert len(called(inbox, "predict-monday")) == 2
    assert names(inbox.folder / "done") == {"predict-monday.json"}
    assert names(inbox.folder / "failed") == set(), "nothing says any more that it failed"


def test_what_is_asked_for_again_is_told_where_the_answer_is(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    drop(inbox, "a.json", PREDICT)
    drop(inbox, "b.json", PREDICT)
    do_all(inbox)
    answer = inbox.workspace.answer("predict-monday")
    assert f"predict-monday: done before: {answer}" in caplog.messages


def test_a_link_among_the_events_is_no_event(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text(json.dumps(PREDICT))
    (inbox.folder / "a.json").symlink_to(tmp_path / "elsewhere.json")
    do_all(inbox)
    assert called(inbox, "predict-monday") == []
    assert "is a link" in (inbox.folder / "failed" / "a.txt").read_text()
    assert (tmp_path / "elsewhere.json").exists()


def test_what_is_being_written_is_not_looked_at(inbox: Inbox) -> None:
    (inbox.folder / ".a.json").write_text("{")
    (inbox.folder / "b.json.part").write_text("{")
    do_all(inbox)
    assert names(inbox.folder) == {".a.json", "b.json.part"}


def test_an_event_that_was_stopped_is_still_there(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        async def stopped(*_: Any, **__: Any) -> None:
            raise asyncio.CancelledError

        patch.setattr(processes, "run", stopped)
        drop(inbox, "a.json", PREDICT)
        with pytest.raises(asyncio.CancelledError):
            do_all(inbox)
    assert names(inbox.folder) == {"a.json"}
    do_all(inbox)
    assert names(inbox.folder / "done") == {"predict-monday.json"}


def test_a_watch_does_what_was_there_and_what_comes(inbox: Inbox) -> None:
    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)

    async def watched() -> None:
        watching = asyncio.create_task(inbox.watch())
        try:
            for number in range(3):
                done = inbox.folder / "done" / f"predict-{number}.json"
                await until(done.exists)
                drop(inbox, "next.json", PREDICT | {"id": str(number + 1)})
            with pytest.raises(EventError, match="is watched by another process"):
                await inbox.watch()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    drop(inbox, "first.json", PREDICT | {"id": "0"})
    asyncio.run(watched())
