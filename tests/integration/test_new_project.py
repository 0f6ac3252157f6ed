"""A new project works as it stands: its test, its run, linters; and it comes with the wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from mlpipeline.backends.local.processes import free_ports
from support.not_tested import needs

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
_LIMIT_SECONDS = 600


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project, by the command."""
    folder = tmp_path_factory.mktemp("new") / "my-birds"
    call("mlpipeline", "new", str(folder), cwd=folder.parent)
    return folder


def call(program: str, *arguments: str, cwd: Path, seconds: float = _LIMIT_SECONDS) -> str:
    """Run a program of this environment as someone who has activated it; return its output."""
    return _run([program, *arguments], cwd, _activated(), seconds)


def _activated() -> dict[str, str]:
    return os.environ | {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": "",
    }


def _run(command: list[str], cwd: Path, environment: Mapping[str, str], seconds: float) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
    return done.stdout


def test_its_test_passes(birds: Path) -> None:
    assert "3 passed" in call("pytest", "-q", "-p", "no:cacheprovider", cwd=birds)


def test_linters_have_nothing_to_say(birds: Path) -> None:
    """By ruff's own settings and ours, and by mypy's strict ones."""
    ours = ("--config", str(ROOT / "pyproject.toml"), "--ignore", "D103")  # a test's name says it
    for options in ((), ours):
        call("ruff", "check", "--no-cache", *options, ".", cwd=birds)
    call("ruff", "format", "--check", "--no-cache", ".", cwd=birds)
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", os.devnull)
    call("mypy", *settings, "my_birds", "test_my_birds.py", cwd=birds)


def test_its_dockerfile_is_in_order(birds: Path) -> None:
    call("hadolint", "Dockerfile", cwd=birds)


@needs("make", to_do="install make")
def test_its_image_is_named_by_what_is_in_it(birds: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(birds, tmp_path / "my-birds")

    def name() -> str:
        commands = call("make", "-n", "image", "submit", cwd=copy)
        (found,) = set(re.findall(r"my-birds:[0-9a-f]{12}", commands))
        return str(found)

    before = name()
    (copy / "my_birds" / "__pycache__").mkdir(exist_ok=True)
    (copy / "my_birds" / "__pycache__" / "x.pyc").write_text("x")
    (copy / "configs" / "default.yaml").write_text("name: other\n")
    assert name() == before
    (copy / "my_birds" / "data.py").write_text("CLASSES = ()\n")
    assert name() != before


@needs("make", to_do="install make")
def test_it_runs_as_it_stands_and_what_has_not_changed_is_reused(birds: Path) -> None:
    file = birds / "configs" / "default.yaml"
    content = yaml.safe_load(file.read_text())
    http, grpc = free_ports(2)  # the only change: these may be in use here
    content["serving"] = {"port": http, "grpc_port": grpc}
    file.write_text(yaml.safe_dump(content))
    first = call("make", cwd=birds)
    assert re.search(r"^succeeded after .*report: workspace/runs/", first, re.MULTILINE)

    again = call("make", cwd=birds)
    assert re.search(r"↺ ingest +reused +0\.0 s  2 modules are as they were", again)

    # Not the package's: a module beside it counts all the same, and so does a file that it names.
    (birds / "palette.py").write_text("BRIGHT = 256\nNAMES = 'names.txt'\n")
    (birds / "names.txt").write_text("wren")
    data = birds / "my_birds" / "data.py"
    data.write_text("from palette import BRIGHT\n" + data.read_text().replace("256", "BRIGHT"))
    assert "✔ ingest" in call("make", cwd=birds)
    assert re.search(
        r"↺ ingest +reused +0\.0 s  3 modules and 1 file \(0\.0 MB, by content\) are as they were",
        call("make", cwd=birds),
    )
    (birds / "names.txt").write_text("heron")
    assert "✔ ingest" in call("make", cwd=birds)


def test_the_templates_are_in_the_wheel(tmp_path: Path) -> None:
    _run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        ROOT,
        os.environ,
        _LIMIT_SECONDS,
    )
    (wheel,) = tmp_path.glob("*.whl")
    package = ROOT / "src"
    expected = {
        file.relative_to(package).as_posix()
        for file in (package / "mlpipeline" / "cli").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
