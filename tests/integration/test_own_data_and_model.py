"""A data set and a model of one's own: each a function, and a line of the configuration."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import own_project.signs
from mlpipeline.store import artifacts
from support.pipelines import Pipeline, configuration, keys, states, wait_until

pytestmark = pytest.mark.timeout(900)

PROJECT = Path(own_project.signs.__file__).parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run with a project that lies beside the configuration."""
    content = configuration(
        {
            "own": {
                "model": "own_project.networks:strided",
                "options": {"width": 6},
                "epochs": 12,
                "learning_rate": 0.01,
            }
        },
        data={"dataset": "own_project.signs:signs", "validation": 200, "shards": 4},
    )
    pipeline = Pipeline(tmp_path_factory.mktemp("own"), content)
    shutil.copytree(PROJECT, pipeline.folder / PROJECT.name)
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors + command.output
    return pipeline


def test_the_whole_run_works_with_them(finished: Pipeline) -> None:
    record = finished.last_run()
    tasks = ("ingest", "train-own", "select", "gate", "serve", "verify")
    assert states(record) == dict.fromkeys(tasks, "succeeded")
    assert [p["images"] for p in record["verification"]["protocols"]] == [400] * 4
    assert finished.decision()["test"]["accuracy"] > 0.9
    model = finished.workspace / "models" / "toy" / finished.current() / "model.json"
    about = artifacts.read_json(model)
    assert about["classes"] == ["horizontal", "vertical", "falling", "rising"]
    assert about["synthetic_data"] is False


def test_the_served_model_knows_their_images(finished: Pipeline, tmp_path: Path) -> None:
    test = own_project.signs.signs().test
    url = f"http://127.0.0.1:{finished.content['serving']['port']}/v1/models/toy:predict"
    with finished.started("serve") as command:
        wait_until(lambda: re.search(r"^curl ", command.output, re.MULTILINE), command)
        answer = httpx.post(url, json={"instances": test.images.tolist()}, timeout=60)
    predicted = np.array(answer.raise_for_status().json()["predictions"]).argmax(axis=1)
    accuracy = float((predicted == test.labels).mean())
    assert accuracy == pytest.approx(finished.decision()["test"]["accuracy"], abs=1e-12)

    right = int(np.flatnonzero(predicted == test.labels)[0])
    file = tmp_path / "sign.png"
    Image.fromarray(test.images[right]).save(file)
    command = finished.call("predict", str(file))
    assert command.process.returncode == 0, command.errors
    assert (
        command.output.splitlines()[-3].split()[1]
        == ["horizontal", "vertical", "falling", "rising"][right % 4]
    )


def test_images_of_seven_channels_are_trained_served_and_shown(tmp_path: Path) -> None:
    """Only files cannot be asked: none has seven."""
    content = configuration(
        {"own": {"model": "own_project.networks:strided", "options": {"width": 6}, "epochs": 1}},
        data={"dataset": "own_project.signs:bands", "validation": 200, "shards": 4},
    )
    pipeline = Pipeline(tmp_path, content)
    shutil.copytree(PROJECT, pipeline.folder / PROJECT.name)
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors + command.output
    record = pipeline.last_run()
    assert [p["images"] for p in record["verification"]["protocols"]] == [400] * 4
    card = artifacts.read_json(
        pipeline.workspace / "datasets" / keys(record)["ingest"] / "dataset.json"
    )
    assert (card["shape"], card["preparation"]) == ([16, 12, 7], None)
    assert "data:image/png;base64," in (pipeline.workspace / "report.html").read_text()

    file = tmp_path / "sign.png"
    Image.fromarray(own_project.signs.signs().test.images[0]).save(file)
    command = pipeline.call("predict", str(file))
    assert command.process.returncode == 1
    assert "the model takes images of shape [16, 12, 7]" in command.errors
    assert "Traceback" not in command.errors


def test_8_bit_integers_are_served_and_verified_where_they_are_asked_for(
    finished: Pipeline, tmp_path: Path
) -> None:
    pipeline = finished.copy(tmp_path)
    pipeline.content["serving"]["precision"] = "int8"
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors + command.output
    assert states(pipeline.last_run())["train-own"] == "reused"
    served = pipeline.decision()["served"]
    exact, *quantized = served["variants"]
    assert served["variant"] in ("int8-dynamic", "int8-full"), served
    model = pipeline.workspace / "models" / "toy" / pipeline.current()
    assert (model / "model.tflite").stat().st_size < exact["bytes"]
    assert artifacts.read_json(model / "model.json")["variant"] == served["variant"]
    for protocol in pipeline.last_run()["verification"]["protocols"]:
        assert protocol["max_difference"] < 1e-6
    for variant in quantized:
        assert variant["name"] in (pipeline.workspace / "report.html").read_text()


def test_what_litert_cannot_serve_is_served_by_tensorflow_and_said(tmp_path: Path) -> None:
    content = configuration(
        {"own": {"model": "own_project.networks:unusual", "epochs": 1}},
        data={"dataset": "own_project.signs:signs", "validation": 200, "shards": 4},
    )
    content["serving"] |= {"precision": "auto"}
    pipeline = Pipeline(tmp_path, content)
    shutil.copytree(PROJECT, pipeline.folder / PROJECT.name)
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors + command.output
    reason = "LiteRT cannot: it has no operation BesselI0e"
    served = pipeline.decision()["served"]
    assert (served["engine"], served["reason"]) == ("tensorflow", reason)
    for protocol in pipeline.last_run()["verification"]["protocols"]:
        assert protocol["max_difference"] < 1e-6
    assert reason in (pipeline.workspace / "report.html").read_text()
    model = pipeline.workspace / "models" / "toy" / pipeline.current()
    assert not (model / "model.tflite").exists()
    assert artifacts.read_json(model / "model.json")["engine_reason"] == reason

    before = pipeline.current()
    pipeline.content["serving"]["engine"] = "litert"
    command = pipeline.call("run")
    assert command.process.returncode == 1
    record = pipeline.last_run()
    assert (states(record)["train-own"], states(record)["select"]) == ("reused", "failed")
    for said in (command.errors, record["error"]):
        assert "LiteRT cannot serve" in said
        assert "it has no operation BesselI0e" in said
    assert pipeline.current() == before


@pytest.mark.parametrize(
    ("module", "old", "new", "changed"),
    [
        ("networks", "Dense(32", "Dense(24", {"train-own", "select"}),
        ("signs", "(0, 40,", "(0, 50,", {"ingest", "train-own", "select"}),
        ("networks", "that halve", "which halve", set()),  # in a docstring
    ],
)
def test_their_code_is_part_of_the_key(
    finished: Pipeline, tmp_path: Path, module: str, old: str, new: str, changed: set[str]
) -> None:
    pipeline = finished.copy(tmp_path)
    file = pipeline.folder / PROJECT.name / f"{module}.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    got = planned_keys(pipeline)
    before = keys(finished.last_run())
    assert got.keys() == before.keys()
    assert {name for name, key in got.items() if key != before[name]} == changed


def planned_keys(pipeline: Pipeline) -> dict[str, str]:
    """The keys that a run would use now."""
    program = (
        "import sys; from pathlib import Path; from mlpipeline.plan import config, pipeline;"
        "plan = pipeline.plan(config.load(Path(sys.argv[1])));"
        "[print(task.name, task.key) for task in plan.values() if task.key]"
    )
    arguments = ["-c", program, str(pipeline.write_config())]
    with pipeline.started_program(arguments) as command:
        assert command.wait() == 0, command.errors
    return dict(line.split() for line in command.output.splitlines())


ALMOST_RIGHT = """
import numpy as np
from keras import layers
from mlpipeline.learning.data import Dataset
from own_project.signs import signs

def with_classes_in_an_array():
    given = signs()
    return Dataset("x", np.array(given.classes), given.train, given.test, "x")

def unpooled(inputs):
    return layers.Conv2D(4, 3)(inputs)
"""


@pytest.mark.parametrize("is_ingested", [False, True])
def test_a_model_that_is_almost_right_ends_the_run_before_any_worker_starts(
    finished: Pipeline, tmp_path: Path, is_ingested: bool
) -> None:
    pipeline = finished.copy(tmp_path)
    if not is_ingested:
        shutil.rmtree(pipeline.workspace)
    (pipeline.folder / "almost.py").write_text(ALMOST_RIGHT)
    pipeline.content["candidates"]["wrong"] = {"model": "almost:unpooled"}
    command = pipeline.call("run")
    assert command.process.returncode == 1
    assert "the function of model `almost:unpooled` returned ['N', 14, 10, 4]" in command.errors
    assert "Traceback" not in command.errors
    logs = pipeline.workspace / "runs" / str(pipeline.last_run()["run"]) / "logs"
    assert [log.name for log in logs.iterdir() if log.name.startswith("train")] == []
    assert any((pipeline.workspace / "datasets").iterdir()) == is_ingested
    assert pipeline.leftovers() == []


def test_data_that_is_almost_right_ends_the_run_before_anything_is_written(
    finished: Pipeline, tmp_path: Path
) -> None:
    pipeline = finished.copy(tmp_path)
    shutil.rmtree(pipeline.workspace)
    (pipeline.folder / "almost.py").write_text(ALMOST_RIGHT)
    pipeline.content["data"]["dataset"] = "almost:with_classes_in_an_array"
    command = pipeline.call("run")
    assert command.process.returncode == 1
    assert "`almost:with_classes_in_an_array` returned classes=an array <U10 [4]" in command.errors
    assert "Traceback" not in command.errors
    assert not any((pipeline.workspace / "datasets").iterdir())
