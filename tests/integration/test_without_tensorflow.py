"""What answers, asks and verifies, where TensorFlow and its like cannot even be imported.

Nor what the image of replicas does without: docker/predictor-excludes.txt.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import keras
import pytest
import yaml
from PIL import Image

from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.learning.model.export import ExportableModel
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.steps import ingestion, selection
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import CandidateFolder, ModelFolder, Workspace
from support.model_servers import HOST, Ports, Server, started
from support.stored_documents import metrics

ABSENT = ("tensorflow", "keras", "mlflow", "tensorflow_datasets", "litert_quantizer")
_EXCLUDES = Path(__file__).parents[2] / "docker" / "predictor-excludes.txt"
EXCLUDED = {line for line in _EXCLUDES.read_text().splitlines() if line and line[0] != "#"}
LEFT_OUT = sorted(
    module
    for module, names in packages_distributions().items()
    if EXCLUDED & {name.lower().replace("_", "-").replace(".", "-") for name in names}
)
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys([*{ABSENT}, *{LEFT_OUT}]))  # each import of these fails
from mlpipeline.cli.app import main
main()
"""


@dataclass(frozen=True)
class Selected:
    """A workspace in which a model was selected, as the steps do it."""

    workspace: Workspace
    config: Path
    ports: Ports

    def command(self, *arguments: str, code: str = WITHOUT) -> list[str]:
        options = ["--config", str(self.config), "--workspace", str(self.workspace)]
        return [sys.executable, "-c", code, *arguments, *options]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Selected:
    root, ports = tmp_path_factory.mktemp("selected"), Ports()
    content = {
        "name": "patterns",
        "data": {"dataset": "synthetic"},
        "candidates": {"cnn": {"model": "cnn"}},
        "serving": {"host": HOST, "port": ports.http, "grpc_port": ports.grpc, "replicas": 1},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    config, workspace = configuration.load(root / "config.yaml"), Workspace(root / "workspace")
    tasks = pipeline.plan(config)
    keys = {name: task.key for name, task in tasks.items()}
    dataset = workspace.dataset(keys["ingest"]).path
    ingestion.ingest(config.data, dataset)
    inputs = keras.Input((28, 28, 1))
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs)))
    candidate = workspace.candidate(keys["train-cnn"]).path
    with artifacts.publish(candidate) as draft:
        metrics().save(CandidateFolder(draft).metrics)
        exported = ExportableModel(keras.Model(inputs, logits), (28, 28))
        exported.save(CandidateFolder(draft).saved_model)
    selection.select(
        config.name,
        {"cnn": candidate},
        dataset=dataset,
        output=workspace.selection(keys["select"]).path,
        model=workspace.model(config.name, keys["select"]).path,
    )
    return Selected(workspace, root / "config.yaml", ports)


@pytest.fixture(scope="module")
def replica(selected: Selected, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = selected.command("step", "serve", "--replica", "replica-0")
    with started(command, tmp_path_factory.mktemp("logs") / "replica") as server:
        server.wait_until_ready()
        yield server


def test_a_replica_answers_and_verification_finds_what_was_selected(
    selected: Selected, replica: Server, tmp_path: Path
) -> None:
    done = selected.run("step", "verify", "--output", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr + replica.log.read_text()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [each["images"] for each in figures["protocols"]] == [1_000] * 4
    for each in figures["protocols"]:
        assert each["accuracy"] == each["recorded_accuracy"]
        assert each["max_difference"] < 1e-6


def test_what_the_image_of_replicas_lacks_is_installed_here() -> None:
    """Otherwise the tests above would have nothing to leave out."""
    assert {"aiohttp", "grpc_tools", "websockets"} <= set(LEFT_OUT)
    assert len(LEFT_OUT) >= len(EXCLUDED)


def test_an_image_is_predicted(selected: Selected, tmp_path: Path) -> None:
    tasks = pipeline.plan(configuration.load(selected.config))
    registry.promote(selected.workspace, "patterns", tasks["select"].key)
    split = StoredSplit(selected.workspace.dataset(tasks["ingest"].key).path, "test")
    (image, *_), _ = next(split.batches(1))
    Image.fromarray(image).save(tmp_path / "image.png")
    done = selected.run("predict", str(tmp_path / "image.png"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pattern ") == 3


def test_where_they_are_installed_none_is_imported(selected: Selected) -> None:
    key = pipeline.plan(configuration.load(selected.config))["select"].key
    folder = selected.workspace.model("patterns", key).path
    code = f"""
import sys
from pathlib import Path
import numpy as np
import mlpipeline.steps.batch_prediction, mlpipeline.steps.serving, mlpipeline.steps.verification
import mlpipeline.cli.prediction, mlpipeline.learning.data.splits
from mlpipeline.serving import model
from mlpipeline.serving.predictor import Predictor
published = model.load(Path({str(folder)!r}), is_alone=True)
Predictor("patterns", published)
published.predict(np.zeros((3, 28, 28), np.uint8))
print(sorted(set({ABSENT}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_model_that_tensorflow_serves_says_which_extra_it_needs(
    selected: Selected, tmp_path: Path
) -> None:
    """In the predictor's image: it has no TensorFlow, and this model needs it."""
    key = pipeline.plan(configuration.load(selected.config))["select"].key
    card = artifacts.read_json(selected.workspace.model("patterns", key).card)
    with artifacts.publish(selected.workspace.model("patterns", "other").path) as draft:
        artifacts.write_json(ModelFolder(draft).card, card | {"engine": "tensorflow"})
    arguments = ("step", "serve", "--name", "patterns", "--version", "other")
    done = selected.run(*arguments)
    assert done.returncode == 1
    assert "the extra `train` of mlpipeline" in done.stderr
    assert "Traceback" not in done.stderr
