"""Dependencies by extras: each import has one, and a command says which one it lacks."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mlpipeline.cli import extras
from mlpipeline.errors import MissingExtraError

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
CASES = [(extra, module) for extra, modules in extras.MODULES.items() for module in modules]


def _names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9_.-]+", requirement) for requirement in requirements)
    return {match[0].lower().replace("_", "-") for match in found if match}


@functools.cache
def _distributions() -> dict[str, set[str]]:
    """Return the distributions that a top-level module comes from."""
    found = importlib.metadata.packages_distributions()
    return {m: {d.lower().replace("_", "-") for d in names} for m, names in found.items()}


def _imported() -> set[str]:
    """Return the top-level modules of others that the package imports anywhere."""
    modules: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    of_the_template = {"my_project"}
    return modules - sys.stdlib_module_names - {"mlpipeline"} - of_the_template


def test_whatever_is_imported_is_in_the_base_or_has_an_extra_to_name() -> None:
    base = _names(PROJECT["dependencies"])
    named = {module for modules in extras.MODULES.values() for module in modules}
    of_base = {module for module in _imported() if _distributions()[module] & base}
    assert _imported() <= of_base | named
    assert not of_base & named


@pytest.mark.parametrize(("extra", "module"), CASES)
def test_the_extra_that_is_named_installs_the_module(extra: str, module: str) -> None:
    assert _distributions()[module] & _names(OPTIONAL[extra])


@pytest.mark.parametrize(("extra", "module"), CASES)
def test_a_missing_module_is_an_error_that_names_its_extra(extra: str, module: str) -> None:
    with (
        pytest.raises(MissingExtraError, match=re.escape(f'"mlpipeline[{extra}]"')),
        extras.named_when_missing(),
    ):
        raise ModuleNotFoundError(f"No module named {module}.part", name=f"{module}.part")


def test_a_module_that_no_extra_brings_fails_as_it_always_does() -> None:
    with pytest.raises(ModuleNotFoundError, match="my_own_model"), extras.named_when_missing():
        raise ModuleNotFoundError("No module named 'my_own_model'", name="my_own_model")


def _run(*arguments: str, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that cannot import the modules of some extras."""
    modules = [module for extra in without for module in extras.MODULES[extra]]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({modules})); "
        "from mlpipeline.cli.app import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [("--help",), ("cluster", "--help")])
def test_the_command_line_needs_no_extra(arguments: tuple[str, ...]) -> None:
    done = _run(*arguments, without=tuple(extras.MODULES))
    assert done.returncode == 0, done.stderr


def test_a_step_that_lacks_its_extra_says_which_one(tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "quick.yaml")
    done = _run(
        *("step", "ingest", "--config", config, "--workspace", str(tmp_path)),
        without=("train", "serve"),
    )
    assert done.returncode == 1
    assert re.search(r'pip install "mlpipeline\[(train|serve)\]"', done.stderr)
    assert "Traceback" not in done.stderr


def test_planning_in_a_cluster_needs_only_its_own_extra(tmp_path: Path) -> None:
    done = _run(
        *("cluster", "plan", "--configuration", (ROOT / "configs" / "quick.yaml").read_text()),
        *("--config", str(tmp_path / "config.yaml"), "--workspace", str(tmp_path)),
        *("--outputs", str(tmp_path / "outputs"), "--image", "mlpipeline:1", "--memo", "memo"),
        *("--templates", str(ROOT / "manifests" / "base" / "templates")),
        without=("train", "serve", "tracking"),
    )
    assert "needs the Python module" not in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_all_is_what_every_command_needs_and_no_more() -> None:
    (everything,) = OPTIONAL["all"]
    assert set(re.findall(r"[a-z]+", everything)) == {"mlpipeline", *extras.MODULES}


@pytest.mark.parametrize(
    ("lock", "present", "absent"),
    [
        ("cpu", ("tensorflow-cpu", "kserve", "mlflow-skinny", "kubernetes"), ("pytest", "hera")),
        ("gpu", ("tensorflow", "kserve", "mlflow-skinny", "kubernetes"), ("pytest", "hera")),
        ("light", ("kserve", "mlflow-skinny", "kubernetes"), ("tensorflow-cpu", "keras")),
        ("predictor", ("kserve", "ai-edge-litert"), ("tensorflow-cpu", "keras", "mlflow-skinny")),
    ],
)
def test_an_image_has_the_extras_that_its_steps_need(
    lock: str, present: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    text = (ROOT / "docker" / f"requirements-{lock}.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    assert set(present) <= pinned
    assert not set(absent) & pinned
