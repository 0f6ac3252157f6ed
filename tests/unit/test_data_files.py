"""The digest of data files: it changes with what they hold, and not with where they lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import data_files
from mlpipeline.plan.data_files import compare


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """As a new process finds the files."""
    data_files.forget()
    yield
    data_files.forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "pets"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three files are more than may be read."""
    monkeypatch.setattr(data_files, "_CONTENT_FILES", 2)


def fingerprint_of(paths: list[Path]) -> str:
    return compare({str(number): path for number, path in enumerate(paths)}).digest


def _changed(folder: Path, change: Callable[[Path], object]) -> bool:
    before = fingerprint_of([folder])
    change(folder)
    data_files.forget()
    return fingerprint_of([folder]) != before


def _moved(folder: Path) -> None:
    (folder / "dog/1.png").rename(folder / "dog/3.png")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda folder: (folder / "cat/1.png").write_text("CAT/1.PNG"),
    "one more": lambda folder: (folder / "cat/3.png").write_text("cat"),
    "one less": lambda folder: (folder / "cat/1.png").unlink(),
    "name": _moved,
    "class": lambda folder: (folder / "dog").rename(folder / "hound"),
    "link to nothing": lambda folder: (folder / "cat/3.png").symlink_to("nowhere"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_changes_with_a_small_set(folder: Path, change: Callable[[Path], object]) -> None:
    assert _changed(folder, change)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_changes_with_a_large_set(folder: Path, change: Callable[[Path], object]) -> None:
    assert _changed(folder, change)


def test_a_small_set_counts_by_content(folder: Path) -> None:
    assert compare({"pets": folder}).by == "content"
    assert not _changed(folder, lambda folder: os.utime(folder / "cat/1.png", (1, 1)))


@pytest.mark.usefixtures("large")
def test_a_large_set_counts_by_size_and_time_and_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "sha256", lambda _: pytest.fail("it was read"))
    found = compare({"pets": folder})
    assert (found.files, found.size, found.by) == (3, 27, "size and time")
    assert _changed(folder, lambda folder: os.utime(folder / "cat/1.png", (1, 1)))


def test_many_bytes_are_large_too(folder: Path) -> None:
    with (folder / "film").open("wb") as file:
        file.truncate(data_files._CONTENT_BYTES)
    assert compare({"pets": folder}).by == "size and time"


def test_it_does_not_change_with_the_place_or_with_what_is_no_data(
    folder: Path, tmp_path: Path
) -> None:
    before = fingerprint_of([folder])
    copy = tmp_path / "elsewhere" / "animals"
    shutil.copytree(folder, copy)
    (copy / ".DS_Store").write_text("x")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "data.pyc").write_text("x")
    assert fingerprint_of([copy]) == before


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "1.png").write_text("1")
    (folder / "bird").symlink_to(other)
    (folder / "cat" / "up").symlink_to(folder)
    assert compare({"pets": folder}).files == 4
    assert _changed(folder, lambda _: (other / "1.png").write_text("2"))


def test_what_cannot_be_read_counts_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    readable = fingerprint_of([folder])
    data_files.forget()
    monkeypatch.setattr(data_files, "sha256", refuse)
    assert fingerprint_of([folder]) != readable
    assert fingerprint_of([folder / "missing"]) != fingerprint_of([folder / "cat"])


def test_a_process_sees_one_state(folder: Path) -> None:
    before = fingerprint_of([folder])
    (folder / "cat/1.png").write_text("other")
    assert fingerprint_of([folder]) == before


def test_several_are_one_set(folder: Path) -> None:
    first, second = folder / "cat", folder / "dog"
    assert fingerprint_of([first, second]) != fingerprint_of([second, first])
    assert compare({"a": first, "b": second}).files == 3


def test_a_folder_with_too_many_is_an_error_that_says_what_to_do(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"more than 2 files(.|\n)*`files`"):
        compare({"pets": folder}, limit=2)
