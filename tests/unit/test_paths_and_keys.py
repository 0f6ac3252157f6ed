"""Only the store knows where things lie and what is in them: nobody else joins such a path by hand.

A file or folder of the workspace has its name in `store.layout`, and the keys of a JSON file are in
its type in `store.schemas`. So to rename one is one edit, and mypy finds every use.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
FOLDERS = {
    *("datasets", "candidates", "selections", "models", "predictions", "runs"),
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
        if isinstance(node, ast.Constant) and node.value in FILES and id(node) not in strings:
            yield f"line {node.lineno}: names the file {node.value!r}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            names = {n.value for n in ast.walk(node.right) if isinstance(n, ast.Constant)}
            for name in names & FOLDERS:
                yield f"line {node.lineno}: joins {name!r}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("read_json"):
            yield f"line {node.lineno}: reads JSON without a type"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.load", "json.loads"):
            given = ast.unparse(node)
            if "read_text" in given or "open(" in given:
                yield f"line {node.lineno}: reads a JSON file without a type"


@pytest.mark.parametrize("file", _modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_outside_the_store_joins_no_path_and_reads_no_json(file: Path) -> None:
    assert list(violations(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        'file = folder / "metrics.json"',
        'folder = root / "candidates" / key',
        'folder = root / f"runs/{run}" / "logs"',
        'metrics = artifacts.read_json(file)["loss"]',
        "metrics = json.loads(file.read_text())",
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
        'settings = config["candidates"]',
        "metrics = Metrics.load(folder.metrics)",
    ],
)
def test_the_check_lets_other_code_be(code: str) -> None:
    assert not list(violations(code))
