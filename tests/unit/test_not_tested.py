"""What was left out is listed with its reason; in CI it fails the run, unless it may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.not_tested import needs

TESTS = Path(__file__).parents[1]
FILE = """
import pytest
from support.not_tested import leave_out, needs

@needs("no-such-program", to_do="install it")
def test_marked(): ...

def test_left_out():
    leave_out("mount", why="no  right\\nto", to_do="be root")

def test_passes(): ...
"""


def _run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_file.py").write_text(FILE)
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull)
    return subprocess.run(
        [*command, "-p", "support.not_tested", "--rootdir", str(folder), "test_file.py"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_left_out_is_listed_at_the_end_and_in_a_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = _run(tmp_path, NOT_TESTED=str(kept))
    assert done.returncode == 0
    lines = [
        "test_file.py::test_left_out: mount: no right to; to do: be root",
        "test_file.py::test_marked: no-such-program: it is not installed; to do: install it",
    ]
    assert kept.read_text().splitlines() == lines
    assert done.stdout.index("NOT TESTED") < done.stdout.index(lines[0])
    assert lines[1] in done.stdout


@pytest.mark.parametrize(
    ("may_skip", "status"), [("", 1), ("mount", 1), ("mount no-such-program", 0)]
)
def test_in_ci_it_fails_the_run_unless_it_may_be(
    tmp_path: Path, may_skip: str, status: int
) -> None:
    assert _run(tmp_path, CI="true", MAY_SKIP=may_skip).returncode == status


def test_a_program_that_is_there_leaves_nothing_out() -> None:
    assert needs("sh", to_do="").args == (False,)
