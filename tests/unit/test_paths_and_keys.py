"""Only the store knows where things lie and what is in them: nobody else joins such a path by hand.

A file or folder of the workspace has its name in `store.layout`, and the keys of a JSON file are in
its type in `store.schemas`. So to rename one is one edit, and mypy finds every use.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlpipeline.store import layout

PACKAGE = Path(layout.__file__).parents[1]
STORE = PACKAGE / "store"

FILES = {
    *("MANIFEST.json", "dataset.json", "metrics.json", "history.json", "decision.json"),
    *("model.json", "request.json", "summary.json", "run.json", "verification.json"),
    *("test_probabilities.npy", "test_labels.npy", "mistakes.npz", "predictions.csv"),
    *("lineage.jsonl", "report.html", "mlflow.db", "saved_model", "tensorboard"),
}
KINDS = {"datasets", "candidates", "selections", "models", "predictions", "runs"}
FOLDERS = {
    *KINDS,
    *("inbox", "feedback", "snapshots", "events", "serving", "checkpoints", "logs"),
    *("done", "failed", "current", ".lock", "config.yaml"),
}


def _modules() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if STORE not in file.parents]


def violations(code: str) -> Iterator[str]:
    """Say what a module does that only the store may."""
    tree = ast.parse(code)
    strings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in strings and _is_a_place(text):
                yield f"line {node.lineno}: names the file or folder {text!r}"
            case ast.BinOp(op=ast.Div(), right=right):
                for name in _names([right]) & FOLDERS:
                    yield f"line {node.lineno}: joins {name!r}"
            case ast.Call():
                yield from (f"line {node.lineno}: {problem}" for problem in _of_call(node))


def _of_call(node: ast.Call) -> Iterator[str]:
    function, whole = ast.unparse(node.func), ast.unparse(node)
    if function.endswith(("Path", "joinpath", "path.join", "glob")):
        for name in _names(node.args) & FOLDERS:
            yield f"joins {name!r}"
    if function.endswith("read_json"):
        yield "reads JSON without a type"
    reads = any(read in whole for read in ("read_text", "read_bytes", "open("))
    if function in ("json.load", "json.loads", "orjson.loads") and reads:
        yield "reads a JSON file without a type"


def _is_a_place(text: str) -> bool:
    """Whether a string is one of our files, or a path that begins with one of our folders."""
    first, slash, _ = text.removeprefix("/").partition("/")
    return text.rpartition("/")[2] in FILES or bool(slash and first in KINDS)


def _names(parts: Sequence[ast.expr]) -> set[str]:
    """The names that are in what is joined to a path; none of one that is not below another."""
    texts = [n.value for part in parts for n in ast.walk(part) if isinstance(n, ast.Constant)]
    relative = [text for text in texts if isinstance(text, str) and not text.startswith("/")]
    return {name for text in relative for name in text.split("/")}


@pytest.mark.parametrize("file", _modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_outside_the_store_joins_no_path_and_reads_no_json(file: Path) -> None:
    assert list(violations(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        'file = folder / "metrics.json"',
        'folder = root / "candidates" / key',
        'folder = root / f"runs/{run}" / "logs"',
        'folder = root.joinpath("candidates", key)',
        'folder = Path(root, "runs", run)',
        'file = folder / "logs/train.log"',
        'folders = root.glob("runs/*")',
        'file = f"{folder}/metrics.json"',
        'name = f"candidates/{key}"',
        'name = f"{root}/candidates/{key}"',
        'metrics = artifacts.read_json(file)["loss"]',
        "metrics = json.loads(file.read_text())",
        "metrics = orjson.loads(file.read_bytes())",
        'NAME = "decision.json"',
    ],
)
def test_the_check_finds_what_it_is_for(code: str) -> None:
    assert list(violations(code))


@pytest.mark.parametrize(
    "code",
    [
        '"""What lies in metrics.json."""',
        "half = size / 2",
        'url = f"{host}/v1/models/{name}:predict"',
        'text = ", ".join(names)',
        'settings = config["candidates"]',
        "metrics = Metrics.load(folder.metrics)",
    ],
)
def test_the_check_lets_other_code_be(code: str) -> None:
    assert not list(violations(code))
