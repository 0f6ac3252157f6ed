"""A release: whatever does not agree is an error that says what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import release
from support.not_tested import needs

pytestmark = needs("git", to_do="install Git")
ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-01-02

### Added

- A thing.

## [1.2.2] - 2026-01-01

- Old.
"""


def _git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository that is ready for its release 1.2.3."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mlpipeline"\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "Makefile").write_text("DEFAULT_CONTAINER := mlpipeline:1.2.3\n")
    (tmp_path / "replica.yaml").write_text("image: mlpipeline-predictor:1.2.3\n")
    (tmp_path / "pod.yaml").write_text("a: 1\nimage: registry.example.com/mlpipeline:1.2.3\n")
    _git(tmp_path, "init", "--quiet")
    _commit(tmp_path)
    return tmp_path


def _commit(root: Path, tag: str = "v1.2.3") -> None:
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "a", "--allow-empty")
    if tag:
        _git(root, "tag", "--force", tag)


def _problems(root: Path) -> list[str]:
    version = release.project_version(root)
    return [*release.version_problems(root, version), *release.commit_problems(root, version)]


def test_what_agrees_has_no_problem(root: Path) -> None:
    assert _problems(root) == []


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("Makefile", "mlpipeline"),
        ("pod.yaml", "mlpipeline"),
        ("replica.yaml", "mlpipeline-predictor"),
    ],
)
def test_another_version_in_a_file_is_named_with_its_line(
    root: Path, file: str, image: str
) -> None:
    path = root / file
    path.write_text(path.read_text().replace("1.2.3", "1.2.2"))
    _commit(root)
    (problem,) = _problems(root)
    line = len(path.read_text().splitlines())
    assert problem.startswith(f"{file}:{line} names {image}:1.2.2\n")
    assert "to do:    make release-version" in problem


def test_the_version_is_written_into_every_file(root: Path) -> None:
    release.set_version(root, "2.0.0")
    assert "mlpipeline:2.0.0" in (root / "Makefile").read_text()
    assert "mlpipeline:2.0.0" in (root / "pod.yaml").read_text()
    assert "mlpipeline-predictor:2.0.0" in (root / "replica.yaml").read_text()
    assert (root / "CHANGELOG.md").read_text() == CHANGELOG


@pytest.mark.parametrize(
    "changelog",
    [
        CHANGELOG.replace("[1.2.3]", "[1.2.4]"),
        CHANGELOG.replace(" - 2026-01-02", ""),  # no date
        CHANGELOG.replace("### Added\n\n- A thing.\n\n", ""),  # nothing in it
    ],
)
def test_a_changelog_without_the_entry_is_an_error(root: Path, changelog: str) -> None:
    (root / "CHANGELOG.md").write_text(changelog)
    _commit(root)
    (problem,) = _problems(root)
    assert problem.startswith("CHANGELOG.md has no entry of 1.2.3")


def test_what_is_not_committed_is_an_error(root: Path) -> None:
    (root / "new.txt").touch()
    (problem,) = _problems(root)
    assert "not clean: `?? new.txt`" in problem


def test_another_tag_and_none_are_errors(root: Path) -> None:
    _commit(root, tag="")
    (problem,) = _problems(root)
    assert problem.startswith("this commit has no tag\n  expected: the tag v1.2.3")
    _commit(root, tag="v1.2.4")
    (problem,) = _problems(root)
    assert problem.startswith("this commit has the tag v1.2.4\n")


def test_the_notes_are_those_of_the_version(root: Path) -> None:
    assert release.notes(root, "1.2.3") == "### Added\n\n- A thing."
    assert release.notes(root, "1.2.2") == "- Old."


def test_this_repository_names_one_version_everywhere() -> None:
    assert list(release.version_problems(ROOT, release.project_version(ROOT))) == []
