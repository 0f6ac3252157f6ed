"""Selection: the rule and its ties, and what is recorded of the decision and of the model."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mlpipeline.errors import DamagedArtifactError, SelectionError
from mlpipeline.image_files import ImageKind
from mlpipeline.learning.data import Dataset, Split, datasets
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.learning.model import conversion, export
from mlpipeline.plan.config import Data, EngineChoice, Precision
from mlpipeline.plan.decision import RULE, choose
from mlpipeline.serving import model as serving
from mlpipeline.steps import ingestion, selection
from mlpipeline.store import artifacts, layout
from mlpipeline.store.layout import DatasetFolder, ModelFolder, SelectionFolder
from mlpipeline.store.schemas.candidate import Metrics
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.selection import Decision, Examples, ModelCard, ServedVariant
from support.stored_documents import metrics as metrics_of
from support.whole_split import read_split

SHAPE, CLASSES, TEST_IMAGES = (4, 3), ("left", "right"), 60


def _metrics(
    accuracy: float = 0.9, loss: float = 0.3, parameters: int = 1_000, **other: Any
) -> Metrics:
    others = {"validation_loss": loss, "parameters": parameters, "candidate": "a"} | other
    return metrics_of(accuracy, **others)


DIVERGED = _metrics().model_copy(
    update={
        "status": "diverged",
        "diverged_at_step": 12,
        "validation_accuracy": None,
        "validation_loss": None,
    }
)


@pytest.mark.parametrize(
    ("metrics", "ranking"),
    [
        ({"a": _metrics(0.91), "b": _metrics(0.93), "c": _metrics(0.92)}, ["b", "c", "a"]),
        # Accuracy comes before the loss, the loss before the size, the size before the name.
        ({"a": _metrics(0.91, 0.1, 1), "b": _metrics(0.92, 0.9, 9)}, ["b", "a"]),
        ({"a": _metrics(loss=0.4, parameters=1), "b": _metrics(loss=0.3)}, ["b", "a"]),
        ({"a": _metrics(parameters=9), "b": _metrics(parameters=8)}, ["b", "a"]),
        ({"b": _metrics(), "a": _metrics(), "c": _metrics()}, ["a", "b", "c"]),
        ({"only": _metrics(0.1)}, ["only"]),
        ({"a": _metrics(0.99, test_accuracy=0.1), "b": _metrics(0.9, test_accuracy=1)}, ["a", "b"]),
    ],
    ids=["accuracy", "not-loss", "loss", "parameters", "name", "one", "test-does-not-count"],
)
def test_the_best_on_the_validation_split_is_chosen(
    metrics: dict[str, Metrics], ranking: list[str]
) -> None:
    decision = choose(metrics)
    assert list(decision.ranking) == ranking
    assert decision.chosen == ranking[0]
    assert decision.rejected == {}


def test_the_reason_names_the_accuracy_and_the_second() -> None:
    assert choose({"a": _metrics(0.9123)}).reason == "validation accuracy 91.23%"
    reason = choose({"a": _metrics(0.9123), "b": _metrics(0.9)}).reason
    assert reason == "validation accuracy 91.23%, before b with 90.00%"


def test_a_candidate_that_diverged_loses_with_its_reason() -> None:
    decision = choose({"a": DIVERGED, "b": _metrics(0.1)})
    assert decision.chosen == "b"
    assert list(decision.ranking) == ["b"]
    assert decision.rejected == {"a": "diverged: its loss was not finite at step 12"}


def test_when_all_diverged_there_is_no_choice() -> None:
    with pytest.raises(SelectionError, match="no candidate can be selected") as raised:
        choose({"b": DIVERGED, "a": DIVERGED})
    assert "a diverged: its loss was not finite at step 12; b diverged" in raised.value.got


def test_without_candidates_there_is_no_choice() -> None:
    with pytest.raises(SelectionError, match="every training failed"):
        choose({})


def _figures(metrics: Metrics) -> dict[str, Any]:
    """What a decision keeps of a candidate's metrics."""
    return {name: value for name, value in metrics.content().items() if name != "schema_version"}


# --- the step ---------------------------------------------------------------------------------


def _split(count: int, seed: int) -> Split:
    """Images whose brighter side says their class, but for every fourth, which is noise."""
    labels = np.arange(count) % 2
    images = np.random.default_rng(seed).integers(0, 40, (count, *SHAPE), dtype=np.uint8)
    strength = np.where(np.arange(count) % 4 == 0, 0, 150).astype(np.uint8)
    images[np.arange(count), :, labels * 2] += strength[:, np.newaxis]
    return Split(images, labels.astype(np.int64))


def _dataset() -> Dataset:
    return Dataset(
        "halves", CLASSES, _split(40, 0), _split(TEST_IMAGES, 1), "made up", synthetic=True
    )


def _predictor(factor: float) -> export.ExportableModel:
    """A model that compares left with right; with a factor below 0 it is always wrong."""
    inputs = keras.Input((*SHAPE, 1))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    kernel = np.zeros((*SHAPE, 2), np.float32)
    kernel[:, 0, 0] = kernel[:, 2, 1] = factor
    dense.set_weights([kernel.reshape(-1, 2)])
    return export.ExportableModel(model, SHAPE)


class Workspace:
    """A workspace in which three candidates were trained: `good`, `bad`, and one that diverged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset = root / "datasets" / "ingest-1"
        self.output = root / "selections" / "halves-1"
        self.model = layout.Workspace(root).model("halves", "halves-1").path
        ingestion.ingest(Data(dataset="synthetic", validation=8, shards=2), self.dataset)
        self.candidates = {
            "bad": self._publish("bad-1", _metrics(0.4), _predictor(-0.3)),
            "diverged": self._publish("diverged-1", DIVERGED, None),
            "good": self._publish("good-1", _metrics(0.9), _predictor(0.3)),
        }

    def _publish(
        self, key: str, metrics: Metrics, predictor: export.ExportableModel | None
    ) -> Path:
        target = self.root / "candidates" / key
        with artifacts.publish(target) as draft:
            metrics.save(draft / "metrics.json")
            if predictor:
                predictor.save(draft / "saved_model")
        return target

    def select(self) -> dict[str, Any]:
        """Run the step and return the decision that it published."""
        selection.select(
            "halves",
            self.candidates,
            dataset=self.dataset,
            output=self.output,
            model=self.model,
        )
        decision: dict[str, Any] = artifacts.read_json(self.output / "decision.json")
        return decision


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One that selection has run in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.BUILTIN, "synthetic", _dataset)
        made = Workspace(tmp_path_factory.mktemp("workspace"))
    made.select()
    return made


def test_selection_publishes_the_decision_and_the_model_whole(workspace: Workspace) -> None:
    artifacts.verify(workspace.output)
    artifacts.verify(workspace.model)


def test_the_model_knows_how_files_become_its_images(workspace: Workspace) -> None:
    """As its data set's card says; a model of an older version, as it was done then."""
    card = ModelCard.load(ModelFolder(workspace.model).card)
    of_data = DatasetCard.load(DatasetFolder(workspace.dataset).card).preparation
    assert card.preparation == of_data == ImageKind(SHAPE, 1, dark_ground=True)
    for preparation, expected in (
        (ImageKind(SHAPE, 1, "pad"), ImageKind(SHAPE, 1, "pad")),
        (None, ImageKind(SHAPE, 1, dark_ground=True)),
    ):
        other = workspace.root / "other"
        with artifacts.publish(other) as draft:
            shutil.copy(workspace.model / "model.tflite", draft)
            content = card.model_copy(update={"preparation": preparation}).content()
            artifacts.write_json(draft / "model.json", content)
        assert serving.load(other).preparation == expected
        shutil.rmtree(other)


def test_the_decision_is_recorded_with_every_candidates_figures(workspace: Workspace) -> None:
    decision = artifacts.read_json(workspace.output / "decision.json")
    assert decision["chosen"] == "good"
    assert decision["ranking"] == ["good", "bad"]
    assert decision["rejected"].keys() == {"diverged"}
    assert decision["rule"] == RULE
    assert (decision["name"], decision["version"]) == ("halves", "halves-1")
    assert decision["dataset"] == "ingest-1"
    assert decision["candidates"] == {
        "bad": {"key": "bad-1", **_figures(_metrics(0.4))},
        "diverged": {"key": "diverged-1", **_figures(DIVERGED)},
        "good": {"key": "good-1", **_figures(_metrics(0.9))},
    }


def test_the_test_accuracy_is_that_of_the_recorded_answers(workspace: Workspace) -> None:
    decision = artifacts.read_json(workspace.output / "decision.json")
    probabilities = np.load(workspace.output / "test_probabilities.npy")
    labels = np.load(workspace.output / "test_labels.npy")
    images, expected_labels = read_split(workspace.dataset, "test")

    np.testing.assert_array_equal(labels, expected_labels)
    assert probabilities.shape == (TEST_IMAGES, 2)
    np.testing.assert_allclose(probabilities, _predictor(0.3).predict(images), rtol=1e-5)
    hits = int((probabilities.argmax(axis=1) == labels).sum())
    assert 0.75 * TEST_IMAGES <= hits < TEST_IMAGES
    assert decision["test"] == {
        "images": TEST_IMAGES,
        "hits": hits,
        "accuracy": hits / TEST_IMAGES,
    }


def test_the_mistakes_are_the_wrong_answers_the_surest_first(workspace: Workspace) -> None:
    images, labels = read_split(workspace.dataset, "test")
    probabilities = np.load(workspace.output / "test_probabilities.npy")
    with np.load(workspace.output / "mistakes.npz") as mistakes:
        index, probability = mistakes["index"], mistakes["probability"]
        np.testing.assert_array_equal(mistakes["images"], images[index])
        np.testing.assert_array_equal(mistakes["labels"], labels[index])
        predicted = mistakes["predicted"]

    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    assert len(wrong) > 2
    assert sorted(index) == sorted(wrong)
    assert (predicted != labels[index]).all()
    np.testing.assert_array_equal(probability, probabilities[index].max(axis=1))
    assert (np.diff(probability) <= 0).all()


def test_the_registered_model_is_the_chosen_ones(workspace: Workspace) -> None:
    images, _ = read_split(workspace.dataset, "test")
    recorded = np.load(workspace.output / "test_probabilities.npy")
    served = serving.load(workspace.model).predict(images)
    np.testing.assert_array_equal(served, recorded)
    for_others = export.predict(export.load(workspace.model / "saved_model"), images)
    np.testing.assert_allclose(for_others, recorded, atol=1e-5)

    facts = artifacts.read_json(workspace.model / "model.json")
    decision = artifacts.read_json(workspace.output / "decision.json")
    assert facts == {
        "schema_version": 1,
        "name": "halves",
        "version": "halves-1",
        "classes": list(CLASSES),
        "candidate": "good",
        "candidate_key": "good-1",
        "dataset_key": "ingest-1",
        "synthetic_data": True,
        "validation_accuracy": decision["served"]["variants"][0]["validation_accuracy"],
        "test_accuracy": decision["test"]["accuracy"],
        "preparation": {
            "size": list(SHAPE),
            "channels": 1,
            "fit": "stretch",
            "dark_ground": True,
        },
        "engine": "litert",
        "variant": "float32",
        "engine_reason": "as configured",
    }


def test_the_card_is_part_of_the_artifact_and_the_same_whenever_it_is_made(
    workspace: Workspace, tmp_path: Path
) -> None:
    page = ModelFolder(workspace.model).page
    manifest = artifacts.read_json(workspace.model / "MANIFEST.json")
    assert "card.md" in manifest["files"]
    decision = artifacts.read_json(workspace.output / "decision.json")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# halves\n\nVersion `halves-1`")
    assert f"| test | {TEST_IMAGES} | {decision['test']['accuracy']:.2%} |" in text
    again = tmp_path / "halves-1"
    selection.select(
        "halves",
        workspace.candidates,
        dataset=workspace.dataset,
        output=tmp_path / "selection",
        model=again,
    )
    assert ModelFolder(again).page.read_bytes() == page.read_bytes()


def _select(
    workspace: Workspace,
    place: Path,
    precision: Precision = "float32",
    engine: EngineChoice = "auto",
) -> ServedVariant:
    """Run the step anew, and return what is served."""
    selection.select(
        "halves",
        workspace.candidates,
        dataset=workspace.dataset,
        output=place / "selection",
        model=place / "model",
        engine=engine,
        precision=precision,
    )
    served = Decision.load(SelectionFolder(place / "selection").decision).served
    assert served
    card = ModelCard.load(ModelFolder(place / "model").card)
    assert (card.engine, card.variant) == (served.engine, served.variant)
    assert card.engine_reason == served.reason
    images, _ = read_split(workspace.dataset, "test")
    np.testing.assert_array_equal(  # served is what was selected, exactly
        serving.load(place / "model").predict(images),
        np.load(place / "selection" / "test_probabilities.npy"),
    )
    return served


def test_float32_is_served_unless_8_bits_are_asked_for(workspace: Workspace) -> None:
    served = Decision.load(SelectionFolder(workspace.output).decision).served
    assert served
    assert (served.engine, served.variant, served.precision) == ("litert", "float32", "float32")
    (only,) = served.variants
    assert only.bytes == (workspace.model / "model.tflite").stat().st_size
    assert only.agreement == 1
    assert only.milliseconds
    assert only.batch_milliseconds


def test_8_bits_are_measured_and_served_where_they_are_asked_for(
    workspace: Workspace, tmp_path: Path
) -> None:
    served = _select(workspace, tmp_path, "int8")
    assert [each.name for each in served.variants] == ["float32", "int8-dynamic", "int8-full"]
    assert served.variant in ("int8-dynamic", "int8-full")
    (chosen,) = (each for each in served.variants if each.name == served.variant)
    assert chosen.agreement == 1  # the classes are far apart
    assert chosen.validation_accuracy == served.variants[0].validation_accuracy
    assert served.reason.endswith("100.00% the same classes")


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_8_bits_that_fail_the_gate_are_never_served(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    def wrong(model: bytes) -> bytes:
        """A model that compares right with left."""
        _predictor(-0.3).save(tmp_path / "wrong")
        return conversion.convert(tmp_path / "wrong")

    def impossible(model: bytes, images: object) -> bytes:
        raise conversion.ConversionError("it is full already")

    monkeypatch.setattr(conversion, "with_dynamic_range", wrong)
    monkeypatch.setattr(conversion, "with_full_integers", impossible)
    served = _select(workspace, tmp_path, precision)
    assert served.variant == "float32"
    assert served.reason == "no variant of 8-bit integers is fit"
    _, dynamic, full = served.variants
    assert "points lower" in dynamic.refused
    assert "the same classes, 99% must be" in dynamic.refused
    assert full.refused == "cannot be made: it is full already"


@pytest.mark.parametrize("why", ["unknown", "unfaithful"])
def test_what_litert_cannot_do_is_served_by_tensorflow(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    convert = conversion.convert

    def failing(saved_model: Path) -> bytes:
        if why == "unknown":
            raise conversion.ConversionError("it has no operation BesselI0e")
        _predictor(0.2).save(tmp_path / "another")
        return convert(tmp_path / "another")

    monkeypatch.setattr(conversion, "convert", failing)
    served = _select(workspace, tmp_path, "auto")
    assert (served.engine, served.variant) == ("tensorflow", "float32")
    expected = {"unknown": "no operation BesselI0e", "unfaithful": "probabilities would be up to"}
    assert served.reason.startswith("LiteRT cannot: it")
    assert expected[why] in served.reason
    assert not (tmp_path / "model" / "model.tflite").exists()


def test_what_litert_cannot_do_is_an_error_where_litert_is_asked_for(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _select(workspace, tmp_path / "possible", engine="litert").engine == "litert"

    def failing(saved_model: Path) -> bytes:
        raise conversion.ConversionError("it has no operation BesselI0e")

    monkeypatch.setattr(conversion, "convert", failing)
    with pytest.raises(SelectionError, match="it has no operation BesselI0e") as raised:
        _select(workspace, tmp_path / "impossible", engine="litert")
    assert str(workspace.candidates["good"]) in raised.value.got
    assert "`serving.engine`" in raised.value.expected
    assert not (tmp_path / "impossible").exists()


def test_tensorflow_serves_where_it_is_asked_for(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(conversion, "convert")  # nothing is made for LiteRT, then
    served = _select(workspace, tmp_path, engine="tensorflow")
    assert (served.engine, served.variant, served.reason) == (
        "tensorflow",
        "float32",
        "as configured",
    )
    assert served.variants == ()
    assert not (tmp_path / "model" / "model.tflite").exists()
    accuracy = Metrics.load(workspace.candidates["good"] / "metrics.json").validation_accuracy
    assert ModelCard.load(tmp_path / "model" / "model.json").validation_accuracy == accuracy


def test_the_registered_model_has_a_request_to_try_it_with(workspace: Workspace) -> None:
    request = json.loads((layout.ModelFolder(workspace.model).example).read_text())
    images, _ = read_split(workspace.dataset, "test")
    assert request == {"instances": [images[0].tolist()]}


def test_the_registered_model_has_an_example_of_each_class(workspace: Workspace) -> None:
    examples = Examples.load(layout.ModelFolder(workspace.model).examples)
    images, labels = read_split(workspace.dataset, "test")
    assert examples.labels == (0, 1)
    firsts = [images[list(labels).index(label)] for label in examples.labels]
    assert base64.b64decode(examples.images) == np.array(firsts).tobytes()


@pytest.mark.parametrize(("room", "labels"), [(SHAPE[0] * SHAPE[1], (0,)), (1, None)])
def test_examples_are_as_many_as_there_is_room_for(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    labels: tuple[int, ...] | None,
) -> None:
    monkeypatch.setattr(selection, "_EXAMPLES_BYTES", room)
    _select(workspace, tmp_path)
    file = layout.ModelFolder(tmp_path / "model").examples
    assert (Examples.load(file).labels if file.exists() else None) == labels
    served = serving.load(tmp_path / "model").examples
    assert (served and served.labels) == labels


def test_only_the_chosen_candidate_is_tested(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    load = export.load

    def remember(folder: Path) -> Any:
        loaded.append(folder)
        return load(folder)

    monkeypatch.setattr(export, "load", remember)
    selection.select(
        "halves",
        workspace.candidates,
        dataset=workspace.dataset,
        output=tmp_path / "halves-1",
        model=tmp_path / "models" / "halves-1",
    )
    assert loaded == [workspace.candidates["good"] / "saved_model"]


def test_at_most_so_many_mistakes_are_kept(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_MISTAKES_KEPT", 2)
    with np.load(workspace.output / "mistakes.npz") as mistakes:
        surest = mistakes["index"][:2]
    selection.select(
        "halves",
        workspace.candidates,
        dataset=workspace.dataset,
        output=tmp_path / "halves-1",
        model=tmp_path / "models" / "halves-1",
    )
    with np.load(tmp_path / "halves-1" / "mistakes.npz") as mistakes:
        np.testing.assert_array_equal(mistakes["index"], surest)


def test_a_model_without_a_mistake_can_be_recorded(workspace: Workspace, tmp_path: Path) -> None:
    split = StoredSplit(workspace.dataset, "test")
    _, labels = read_split(workspace.dataset, "test")
    probabilities = np.eye(2, dtype=np.float32)[labels]
    selection._save_mistakes(tmp_path / "mistakes.npz", split, labels, probabilities)
    with np.load(tmp_path / "mistakes.npz") as mistakes:
        assert {name: len(mistakes[name]) for name in mistakes.files} == dict.fromkeys(
            ["index", "images", "labels", "predicted", "probability"], 0
        )


@pytest.mark.parametrize("loser", ["bad", "good"])
def test_a_damaged_candidate_is_named_and_nothing_published(
    workspace: Workspace, tmp_path: Path, loser: str
) -> None:
    damaged = tmp_path / "candidate"
    with artifacts.publish(damaged) as draft:
        _metrics(0.1).save(draft / "metrics.json")
    _metrics(1.0).save(damaged / "metrics.json")
    with pytest.raises(DamagedArtifactError, match=r"metrics\.json is damaged"):
        selection.select(
            "halves",
            workspace.candidates | {loser: damaged},
            dataset=workspace.dataset,
            output=tmp_path / "selection",
            model=tmp_path / "model",
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidate"]
