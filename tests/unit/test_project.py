"""`mlpipeline new`: what it writes, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app, project
from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import config, modules, pipeline

ROOT = Path(__file__).parents[2]
FILES = [
    ".gitignore",
    "Dockerfile",
    "Makefile",
    "README.md",
    "configs/default.yaml",
    "my_birds/__init__.py",
    "my_birds/data.py",
    "my_birds/model.py",
    "test_my_birds.py",
]


def _texts(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


@pytest.mark.parametrize(("name", "model"), [("my-birds", "my-birds"), ("my_birds", "my-birds")])
def test_everything_is_called_like_the_project(tmp_path: Path, name: str, model: str) -> None:
    project.write(tmp_path / "below" / name)
    texts = _texts(tmp_path / "below" / name)
    assert sorted(texts) == FILES
    assert not [
        file for file, text in texts.items() if "my-project" in text or "my_project" in text
    ]
    assert config.load(tmp_path / "below" / name / "configs/default.yaml").name == model
    assert "COPY --chown=1000:1000 my_birds /app/my_birds" in texts["Dockerfile"]
    assert "ENV MLPIPELINE_PLUGINS=my_birds" in texts["Dockerfile"]


def test_it_can_be_planned_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project.write(Path("my-birds"))
    monkeypatch.syspath_prepend(tmp_path / "my-birds")
    tasks = pipeline.plan(config.load(Path("my-birds/configs/default.yaml")))
    assert list(tasks) == [
        "ingest",
        "train-narrow",
        "train-wide",
        "select",
        "gate",
        "serve",
        "verify",
    ]


def test_its_image_is_from_that_of_this_version() -> None:
    """`make release-version` writes it, because the file names the image."""
    template = ROOT / "src/mlpipeline/cli/template"
    version = next(
        line.split('"')[1]
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("version = ")
    )
    assert f"ARG BASE=mlpipeline:{version}\n" in (template / "Dockerfile").read_text()


def test_the_command_says_what_it_has_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(app.app, ["new", str(tmp_path / "my-birds")])
    assert done.exit_code == 0
    assert ", ".join(FILES) in done.output


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("3d", "is no name for a model"),
        ("My-Birds", "is no name for a model"),
        ("my birds", "is no name for a model"),
        ("vögel", "is no name for a model"),
        ("-birds", "is no name for a model"),
        ("birds-", "is no name for a model"),
        ("_birds", "is no name for a model"),
        ("b" * 41, "is no name for a model"),
        ("lambda", "a word of Python's own"),
        ("json", "called like the Python module `json`"),
        ("sys", "called like the Python module `sys`"),
        ("numpy", "called like the Python module `numpy`"),
        ("workspace", "that of a folder for other things: workspace/"),
        ("configs", "that of a folder for other things: configs/"),
        ("mlpipeline", "called like the Python module `mlpipeline`"),
        ("google", "called like the Python module `google`"),
        ("tensorflow-datasets", "called like the Python module `tensorflow_datasets`"),
    ],
)
def test_a_name_that_cannot_be_a_package_or_a_model_is_refused(
    tmp_path: Path, name: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        project.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "README.md").write_text("mine")
    (tmp_path / "lost").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name in ("a-file", "birds", "lost"):
        with pytest.raises(ConfigurationError, match="is there already"):
            project.write(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "birds" / "README.md").read_text() == "mine"


def test_an_empty_folder_and_a_new_repository_are_filled(tmp_path: Path) -> None:
    (tmp_path / "birds" / ".git").mkdir(parents=True)
    project.write(tmp_path / "birds")
    assert (tmp_path / "birds" / "Makefile").is_file()


def test_the_command_line_finds_the_modules_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlpipeline run` in a project, as `python -m mlpipeline run` does."""
    (tmp_path / "module_beside_a_configuration.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    found: list[Any] = []
    monkeypatch.setattr(
        app, "app", lambda: found.append(modules.origin("module_beside_a_configuration"))
    )
    app.main()
    assert found == [tmp_path / "module_beside_a_configuration.py"]
    modules.origin.cache_clear()
