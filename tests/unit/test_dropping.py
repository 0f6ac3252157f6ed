"""Feedback that a model server puts into the inbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import EventError
from mlpipeline.events import dropping, schema
from mlpipeline.store.layout import InboxFolder

EVENT = {
    "kind": "feedback",
    "id": "ann-1",
    "model": "shirts",
    "time": "2026-11-24T09:00:00Z",
    "corrections": [{"image": "0" * 64, "label": "Coat"}],
}


def _drop(folder: Path, **changes: Any) -> None:
    text = json.dumps(EVENT | changes)
    dropping.drop(InboxFolder(folder), text, model="shirts", classes=("Coat", "Shirt"))


def test_an_event_is_put_where_it_is_done(tmp_path: Path) -> None:
    _drop(tmp_path / "inbox")
    (file,) = InboxFolder(tmp_path / "inbox").waiting()
    assert file.name == "feedback-ann-1.json"
    assert schema.read_posted(file) == schema.parse(json.dumps(EVENT), origin="a test")


def test_the_same_again_changes_nothing_and_another_one_of_its_id_is_refused(
    tmp_path: Path,
) -> None:
    _drop(tmp_path)
    _drop(tmp_path)
    with pytest.raises(EventError, match="another event with the id ann-1"):
        _drop(tmp_path, corrections=[{"image": "0" * 64, "label": "Shirt"}])
    assert "Coat" in (tmp_path / "feedback-ann-1.json").read_text()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "hats"}, "of shirts"),
        ({"corrections": [{"image": "0" * 64, "label": "Hat"}]}, "the label 'Hat'"),
        ({"id": "../x"}, "id: "),
        ({"time": "now"}, "time: "),
    ],
)
def test_what_is_no_feedback_of_the_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(EventError, match=why):
        _drop(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_event_of_another_kind_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"kind": "predict", "id": "x", "model": "shirts", "folder": "images"})
    with pytest.raises(EventError, match="a `predict` event"):
        dropping.drop(InboxFolder(tmp_path), text, model="shirts", classes=("Coat",))


def test_not_so_many_wait_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "_MOST_WAITING", 2)
    _drop(tmp_path, id="a")
    _drop(tmp_path, id="b")
    with pytest.raises(EventError, match="2 events that wait already"):
        _drop(tmp_path, id="c")
    _drop(tmp_path, id="a")
