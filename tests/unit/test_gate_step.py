"""The step `gate`: two real versions measured on the same images, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.engines import Kind
from mlpipeline.errors import GateError
from mlpipeline.learning.data import Dataset, Split, datasets
from mlpipeline.learning.model import conversion
from mlpipeline.plan.config import Data
from mlpipeline.steps import ingestion
from mlpipeline.store import artifacts, history, registry
from mlpipeline.store.layout import ModelFolder, Workspace
from mlpipeline.store.schemas.gate import Forced, GateTable
from support.small_models import save
from support.stored_documents import model_card

SHAPE, CLASSES, VALIDATION = (2, 2), ("dark", "bright"), 40
COMPARED: dict[str, Any] = {"worse_by": 0.01, "class_worse_by": 0.1}


def _split(count: int) -> Split:
    """Images of one brightness each, from 0 on; the brighter half is the class `bright`."""
    labels = np.arange(count) % 2
    images = np.full((count, *SHAPE), 50, np.uint8)
    images[labels == 1] = 200
    return Split(images, labels.astype(np.int64))


def _bright_from(limit: float) -> Callable[[Any], Any]:
    """A model that calls bright what is brighter than a limit: from 255 on it never does."""

    def probabilities(images: Any) -> dict[str, Any]:
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
        is_bright = tf.cast(mean > limit, tf.float32)
        return {"probabilities": tf.stack([1.0 - is_bright, is_bright], axis=1)}

    return probabilities


GOOD, BLIND = _bright_from(120.0), _bright_from(300.0)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Dataset("halves", CLASSES, _split(100), _split(20), "made up", synthetic=True)
    monkeypatch.setitem(datasets.BUILTIN, "synthetic", lambda: made)
    data = Data(dataset="synthetic", validation=VALIDATION, shards=2)
    ingestion.ingest(data, Workspace(tmp_path).dataset("ingest-1").path)
    return Workspace(tmp_path)


@pytest.fixture
def publish(workspace: Workspace) -> Callable[..., ModelFolder]:
    def make(version: str, function: Any, engine: Kind = "litert", **card: Any) -> ModelFolder:
        target = workspace.model("shirts", version)
        with artifacts.publish(target.path) as draft:
            folder = ModelFolder(draft)
            shape = card.pop("shape", SHAPE)
            save(folder.saved_model, function, tf.TensorSpec([None, *shape], tf.uint8, "images"))
            if engine == "litert":
                folder.tflite.write_bytes(conversion.convert(folder.saved_model))
            model_card(version=version, engine=engine, **card).save(folder.card)
        return target

    return make


@pytest.fixture
def judge(workspace: Workspace, tmp_path: Path) -> Callable[..., GateTable]:
    def run(version: str, *options: str, **gate: Any) -> GateTable:
        config = tmp_path / "config.yaml"
        raw = {"name": "shirts", "candidates": {"cnn": {"model": "cnn"}}, "gate": gate}
        config.write_text(yaml.safe_dump(raw))
        outputs = tmp_path / "outputs"
        arguments = ["step", "gate", "--config", str(config), "--workspace", str(workspace)]
        arguments += [f"--version={version}", "--output", str(tmp_path / "gate.json")]
        arguments.append("--run=monday")
        done = CliRunner().invoke(app.app, [*arguments, "--outputs", str(outputs), *options])
        if done.exception:
            raise done.exception
        table = GateTable.load(tmp_path / "gate.json")
        handed = {file.name: file.read_text() for file in outputs.iterdir()}
        assert handed.keys() == {"version", "verdict", "said", "table", "forced", "canary"}
        file = options[options.index("--forced") + 1] if table.forced else "nobody"
        assert handed["forced"] == file, "the file that says who, and why"
        assert (handed["version"], handed["verdict"]) == (version, table.verdict)
        assert GateTable.model_validate_json(handed["table"]) == table
        assert handed["said"] == table.summary
        assert table.summary in done.output
        return table

    return run


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_both_are_measured_on_the_same_images_whatever_computes_them(
    workspace: Workspace, publish: Any, judge: Any, engine: Kind
) -> None:
    publish("old", GOOD, engine)
    registry.promote(workspace, "shirts", "old")
    new = publish("new", BLIND)
    table = judge("new", **COMPARED)
    assert (table.verdict, table.current, table.images) == ("kept", "old", VALIDATION)
    figures = {check.what: (check.new, check.current) for check in table.checks}
    assert figures["accuracy"] == (0.5, 1.0)
    assert figures["class dark"] == (1.0, 1.0)
    assert figures["class bright"] == (0.0, 1.0)
    assert figures["size"][0] == new.tflite.stat().st_size
    assert figures["size"][1]
    assert all(figures["time of an image"])
    assert len(table.faults) == 2
    assert registry.current(workspace, "shirts") == "old"
    (held,) = history.read(workspace, "shirts").held_back
    assert (held.version, held.run, held.why) == ("new", "monday", table.reason)


def test_one_that_is_as_good_passes_and_so_does_the_current_one_without_a_look(
    workspace: Workspace, publish: Any, judge: Any
) -> None:
    publish("old", GOOD)
    publish("new", _bright_from(100.0))
    registry.promote(workspace, "shirts", "old")
    assert judge("new", **COMPARED).verdict == "passed"
    assert history.read(workspace, "shirts").held_back == ()
    again = judge("old", minimum=1.0, **COMPARED)
    assert (again.verdict, again.reason, again.checks) == (
        "passed",
        "it is the current version",
        (),
    )
    nothing = judge("new")
    assert (nothing.verdict, nothing.checks) == ("passed", ())
    assert nothing.current == "old"


def test_the_first_version_has_to_meet_the_limits_alone(publish: Any, judge: Any) -> None:
    publish("new", BLIND)
    assert judge("new", **COMPARED).verdict == "passed"
    assert judge("new", minimum=0.5, **COMPARED).verdict == "passed"
    table = judge("new", minimum=0.6, required=True)
    assert (table.verdict, table.current) == ("refused", "")
    assert judge("new", bytes=10).verdict == "kept"


def _other_classes(publish: Any, workspace: Workspace) -> None:
    publish("old", GOOD, classes=("dark", "grey"))
    registry.promote(workspace, "shirts", "old")


def _other_shape(publish: Any, workspace: Workspace) -> None:
    publish("old", GOOD, shape=(3, 2))
    registry.promote(workspace, "shirts", "old")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_other_classes, "version old has other classes, or in another order: gone: grey; new: b"),
        (_other_shape, "version old takes images of 3 × 2, the new one of 2 × 2"),
    ],
)
def test_another_kind_of_model_is_not_replaced_unless_the_configuration_says_so(
    workspace: Workspace, publish: Any, judge: Any, make: Any, said: str
) -> None:
    make(publish, workspace)
    publish("new", GOOD)
    table = judge("new", **COMPARED)
    assert table.verdict == "kept"
    assert said in table.reason
    passed = judge("new", incomparable="serve", **COMPARED)
    assert passed.verdict == "passed"
    assert said in passed.not_compared


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: folder.tflite.write_bytes(b"no model"),
        lambda folder: folder.card.unlink(),
        lambda folder: folder.path.rename(folder.path.with_name("gone")),
        lambda folder: folder.path.with_name("current").write_text("/../"),
    ],
    ids=["altered", "without-card", "gone", "pointer"],
)
def test_a_current_version_that_cannot_be_served_either_holds_nothing_back(
    workspace: Workspace, publish: Any, judge: Any, damage: Any
) -> None:
    old = publish("old", GOOD)
    registry.promote(workspace, "shirts", "old")
    publish("new", BLIND)
    damage(old)
    table = judge("new", **COMPARED)
    assert table.verdict == "passed"
    assert table.not_compared.startswith("it cannot be evaluated: ")
    assert judge("new", minimum=0.9, **COMPARED).verdict == "kept", "the limits hold all the same"


def test_a_current_version_that_is_whole_and_no_such_model_holds_nothing_back(
    workspace: Workspace, publish: Any, judge: Any
) -> None:
    publish("old", lambda images: {"other": tf.reduce_sum(images)}, "tensorflow")
    registry.promote(workspace, "shirts", "old")
    publish("new", BLIND)
    table = judge("new", **COMPARED)
    assert (table.verdict, table.current) == ("passed", "old")
    assert "has outputs named ['other']" in table.not_compared


def test_by_force_it_passes_if_the_file_is_there(
    workspace: Workspace, publish: Any, judge: Any, tmp_path: Path
) -> None:
    publish("old", GOOD)
    registry.promote(workspace, "shirts", "old")
    publish("new", BLIND)
    file = tmp_path / "forced.json"
    assert judge("new", "--forced", str(file), **COMPARED).verdict == "kept"
    forced = Forced(who="ann", reason="a new class {{is}} coming")
    forced.save(file)
    table = judge("new", "--forced", str(file), **COMPARED)
    assert (table.verdict, table.forced) == ("passed", forced)
    assert len(table.faults) == 2


def test_refuse_fails_with_what_can_be_done() -> None:
    done = CliRunner().invoke(app.app, ["step", "refuse"])
    assert isinstance(done.exception, GateError)
    assert "parameter `force`" in str(done.exception)


@pytest.mark.parametrize("options", [["--force"], ["--why", "because"], ["--force", "--why", " "]])
def test_a_run_is_forced_with_a_reason_or_not_at_all(tmp_path: Path, options: list[str]) -> None:
    done = CliRunner().invoke(app.app, ["run", "--workspace", str(tmp_path), *options])
    assert done.exit_code == 2
    assert "go together" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_rollback_is_forced_with_a_reason_or_not_at_all(tmp_path: Path) -> None:
    done = CliRunner().invoke(app.app, ["rollback", "--workspace", str(tmp_path), "--force"])
    assert done.exit_code == 2
    assert "--force needs --why" in done.output
