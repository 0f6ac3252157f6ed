"""The files that a user's own code names are part of the key, and nothing is imported to see it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import ConfigurationError, SourceError
from mlpipeline.plan import config, data_files, modules, own_files, pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.fingerprint import code_version


def _forget() -> None:
    """As a new process would see all files."""
    importlib.invalidate_caches()
    for cached in (code_version, modules.origin, modules.reached):
        cached.cache_clear()
    data_files.forget()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder, which is the working folder, with data beside its code."""
    files = {
        "study/__init__.py": "",
        "study/own_data.py": "from study.paths import NAME\n\ndef data():\n    return NAME\n",
        "study/paths.py": '"""Not images/a.png."""\nNAME = "train.npz"\n',
        "study/own_model.py": "def model(inputs):\n    return inputs\n",
        "study/train.npz": "beside the module",
        "images/cat/a.png": "in a folder",
        "images/dog/b.png": "in a folder",
        "labels.csv": "in the working folder",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Without the steps' own code, which is read in a third of a second each time.
    monkeypatch.setattr(pipeline, "code_version", lambda _, *own: code_version(*own) if own else "")
    _forget()
    yield tmp_path
    _forget()
    assert not {name for name in sys.modules if name.startswith("study")}


def _config(**data: Any) -> Config:
    raw = {
        "name": "study",
        "data": {"dataset": "study.own_data:data", **data},
        "candidates": {"own": {"model": "study.own_model:model"}, "cnn": {"model": "cnn"}},
    }
    return config.parse(raw, origin="test")


def _keys(settings: Config | None = None) -> dict[str, str]:
    _forget()
    return {task.name: task.key for task in pipeline.plan(settings or _config()).values()}


def _changed(before: dict[str, str], settings: Config | None = None) -> set[str]:
    after = _keys(settings)
    return {name for name in before if before[name] != after[name]}


ALL = {"ingest", "train-own", "train-cnn", "select"}


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ('NAME = "train.npz"', "study/train.npz"),
        ('NAME = "labels.csv"', "labels.csv"),
        ('NAME = "images"', "images/dog/b.png"),
        ('NAME = "images/"', "images/dog/b.png"),
        ('NAME = "../images/dog"', "images/dog/b.png"),
        ('def name(base="images"):\n    return base + "/cat"', "images/dog/b.png"),
        ('NAME = {"where": ["study/train.npz"]}', "study/train.npz"),
    ],
)
def test_a_file_that_the_code_names_is_part_of_the_key(project: Path, code: str, file: str) -> None:
    (project / "study/paths.py").write_text(f"{code}\n")
    before = _keys()
    (project / file).write_text("changed")
    assert _changed(before) == ALL


def test_a_file_by_its_whole_path_is_part_of_the_key(project: Path, tmp_path: Path) -> None:
    (project / "study/paths.py").write_text(f"NAME = {str(tmp_path / 'labels.csv')!r}\n")
    before = _keys()
    (project / "labels.csv").write_text("changed")
    assert _changed(before) == ALL


def test_the_files_of_a_model_are_part_of_its_candidates_key(project: Path) -> None:
    (project / "study/own_model.py").write_text('WEIGHTS = "labels.csv"\n')
    before = _keys()
    (project / "labels.csv").write_text("changed")
    assert _changed(before) == {"train-own", "select"}


def test_the_files_that_a_models_options_name_are_part_of_the_key(project: Path) -> None:
    settings = _config()
    options: dict[str, Any] = {"start": {"from": ["labels.csv"]}}
    own = settings.candidates["own"].model_copy(update={"options": options})
    cnn = settings.candidates["cnn"].model_copy(update={"options": options})
    settings = settings.model_copy(update={"candidates": {"own": own, "cnn": cnn}})
    before = _keys(settings)
    (project / "labels.csv").write_text("changed")
    assert _changed(before, settings) == {"train-own", "select"}


@pytest.mark.parametrize(
    "code",
    [
        '"""Of images."""\n',
        '"images"\n',
        'NAME = "study"\n',
        'NAME = "."\n',
        'NAME = ".."\n',
        'NAME = "/"\n',
        'NAME = "/dev/null"\n',
        'NAME = "/tmp"\n',
        'NAME = "~"\n',
        'NAME = "workspace"\n',
        'NAME = "a\\0b"\n',
        f'NAME = "{"x" * 5_000}"\n',
    ],
)
def test_what_is_no_data_is_no_part_of_the_key(project: Path, code: str) -> None:
    for name in ("datasets", "runs"):
        (project / "workspace" / name).mkdir(parents=True)
    (project / "study/paths.py").write_text(code)
    assert own_files.found("study.own_data:data", _config().data) is None


def test_the_configuration_says_which_files_count(project: Path) -> None:
    settings = _config(files=["images/*/*.png", str(project / "labels.csv")])
    before = _keys(settings)
    (project / "study/train.npz").write_text("named by the code alone")
    assert not _changed(before, settings)
    (project / "images/cat/a.png").write_text("changed")
    assert _changed(before, settings) == ALL
    before = _keys(_config(files=[]))
    (project / "study/train.npz").write_text("changed again")
    assert not _changed(before, _config(files=[]))


def test_patterns_themselves_are_no_part_of_the_key(project: Path) -> None:
    (project / "study/paths.py").write_text("NAME = 'none'\n")
    assert _keys(_config(files=[])) == _keys()
    assert _keys(_config(files=["labels.*"])) == _keys(_config(files=["*.csv"]))


def test_a_pattern_that_fits_nothing_is_an_error(project: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`pictures/\*`, which fits nothing"):
        pipeline.plan(_config(files=["pictures/*"]))


@pytest.mark.parametrize(
    "raw",
    [
        {"data": {"files": ["x"]}},
        {"candidates": {"cnn": {"model": "cnn", "files": []}}},
    ],
)
def test_only_own_functions_read_files(raw: dict[str, Any]) -> None:
    minimal: dict[str, Any] = {"name": "x", "candidates": {"cnn": {"model": "cnn"}}}
    with pytest.raises(ConfigurationError, match="files: expected a function of your own"):
        config.parse(minimal | raw, origin="test")


def test_a_run_keeps_to_the_files_that_it_began_with(project: Path, tmp_path: Path) -> None:
    """Its steps may not see them, or they change meanwhile: the keys are the run's own."""
    pinned = own_files.pinned(_config())
    assert _keys(pinned) == _keys()
    config.write(pinned, file := tmp_path / "written.yaml")
    before = _keys(pinned)
    (project / "study/train.npz").write_text("changed")
    assert not _changed(before, config.load(file))
    # A new run looks again, whatever its configuration was copied from.
    assert _keys(own_files.pinned(config.load(file))) == _keys()


def test_no_files_are_kept_to_as_well(project: Path) -> None:
    pinned = own_files.pinned(_config())
    (project / "study/own_model.py").write_text("def model(inputs):\n    return 'new.npy'\n")
    before = _keys(pinned)
    (project / "new.npy").write_text("there is one now")
    assert not _changed(before, pinned)


def test_a_configuration_without_own_code_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "compare", lambda *_, **__: pytest.fail("looked"))
    settings = config.parse({"name": "x", "candidates": {"cnn": {"model": "cnn"}}}, origin="test")
    assert own_files.pinned(settings) == settings
    (ingest, train, *_) = pipeline.plan(settings).values()
    assert pipeline.compared(ingest, settings) == pipeline.compared(train, settings) == ""


def test_files_that_changed_while_they_were_read_are_an_error(project: Path) -> None:
    for begin in (lambda config: config, own_files.pinned):
        _forget()
        settings = begin(_config())
        pipeline.plan(settings)
        own_files.confirm("study.own_data:data", settings.data)
        (project / "study/train.npz").write_text(f"changed after {begin}")
        with pytest.raises(SourceError, match=r"study\.own_data:data are not what they were"):
            own_files.confirm("study.own_data:data", settings.data)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("NAME = 1\n", "3 modules are as they were"),
        ("NAME = 'images'\n", "3 modules and 2 files (0.0 MB, by content) are as they were"),
        ("NAME = 'labels.csv'\n", "3 modules and 1 file (0.0 MB, by content) are as they were"),
    ],
)
def test_one_line_says_what_was_compared(project: Path, code: str, line: str) -> None:
    (project / "study/paths.py").write_text(code)
    settings = _config()
    tasks = pipeline.plan(settings)
    assert pipeline.compared(tasks["ingest"], settings) == line
    assert pipeline.compared(tasks["train-own"], settings) == "2 modules are as they were"
    assert pipeline.compared(tasks["select"], settings) == ""


def test_what_a_model_reads_below_a_folder_is_told_by_folders(project: Path) -> None:
    (project / "study/own_model.py").write_text(
        'NAMES = ["study/train.npz", "images", "images/dog", "labels.csv", "/etc/hostname"]\n'
    )
    candidates = _config().candidates
    assert own_files.below(project, candidates["own"]) == [
        Path("images"),
        Path("labels.csv"),
        Path("study"),
    ]
    assert own_files.below(project / "images", candidates["own"]) == [Path("dog")]
    assert own_files.below(project, candidates["cnn"]) == []


def test_what_the_configuration_says_a_model_reads_is_told_too(project: Path) -> None:
    own = _config().candidates["own"].model_copy(update={"files": ["images/*/*.png"]})
    assert own_files.below(project, own) == [Path("images/cat"), Path("images/dog")]


def test_what_a_model_was_asked_is_for_nobodys_function(project: Path) -> None:
    (project / "requests" / "m").mkdir(parents=True)
    (project / "link").symlink_to("requests")
    for name in ("requests", "requests/m", "link"):
        own = _config().candidates["own"].model_copy(update={"files": [str(project / name)]})
        assert Path("requests") not in own_files.below(project, own)
        assert Path("requests/m") not in own_files.below(project, own)


@pytest.mark.parametrize("how", ["files", "code"])
def test_where_links_lead_is_told_as_well_as_where_they_are(project: Path, how: str) -> None:
    for name in ("data", "store", "more"):
        (project / name).mkdir()
    (project / "store" / "weights.npz").write_text("weights")
    (project / "more" / "b.npz").write_text("weights")
    (project / "data" / "weights.npz").symlink_to("../store/weights.npz")
    (project / "data" / "b.npz").symlink_to("../more/b.npz")
    own = _config().candidates["own"]
    names = [str(project / "data" / "weights.npz"), str(project / "data")]
    if how == "files":
        own = own.model_copy(update={"files": names})
    else:
        (project / "study/own_model.py").write_text(f"NAMES = {names!r}\n")
    assert own_files.below(project, own) == [Path("data"), Path("more"), Path("store")]
