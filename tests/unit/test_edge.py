"""`mlpipeline edge`: what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app, edge
from mlpipeline.errors import ConfigurationError, DamagedArtifactError, ServingError
from mlpipeline.image_files import ImageKind
from mlpipeline.plan.config import Candidate, Config
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import DatasetFolder, ModelFolder, Workspace
from mlpipeline.store.schemas.dataset import DatasetCard
from support.stored_documents import model_card

ROOT = Path(__file__).parents[2]
CONFIG = Config(name="shirts", candidates={"cnn": Candidate(model="cnn")})
FASHION = ImageKind((28, 28), 1, "stretch", dark_ground=True)
MODEL = b"what LiteRT would load"
FILES = ["README.md", "classify.py", "image_files/", "labels.txt", "model.tflite"]


def _publish(root: Path, **others: Any) -> Workspace:
    """A workspace with a current model, whose card says what `others` say."""
    workspace = Workspace(root / "workspace")
    with artifacts.publish(workspace.model("shirts", "shirts-1").path) as draft:
        (draft / "model.tflite").write_bytes(MODEL)
        about = {"engine": "litert", "preparation": FASHION, "synthetic_data": False}
        model_card(**about | others).save(ModelFolder(draft).card)
    registry.promote(workspace, "shirts", "shirts-1")
    return workspace


def _publish_data(workspace: Workspace, **others: Any) -> None:
    content: dict[str, Any] = {
        **{"name": "photos", "source": "/home/me/photos", "synthetic": False, "digest": "4f0c"},
        **{"seed": 1, "classes": ("dark", "bright"), "shape": (28, 28)},
        **{"counts": {}, "per_class": {}, "shards": {}},
    }
    with artifacts.publish(workspace.dataset("ingest-1").path) as draft:
        DatasetCard(**content | others).save(DatasetFolder(draft).card)


def _write(workspace: Workspace, folder: Path) -> dict[str, str]:
    """The texts of the folder that is written."""
    edge.write(CONFIG, workspace, folder)
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


def test_the_program_knows_the_model_and_how_it_takes_images(tmp_path: Path) -> None:
    texts = _write(_publish(tmp_path), tmp_path / "edge")
    program = texts["classify.py"]
    assert f'SHA256 = "{hashlib.sha256(MODEL).hexdigest()}"' in program
    expected = 'Preparation(size=(28, 28), channels=1, fit="stretch", dark_ground=True)'
    assert f"PREPARATION = {expected}\n" in program
    assert "by the model shirts" in program
    assert len([line for line in program.splitlines() if line]) < 25
    assert texts["labels.txt"] == "dark\nbright\n"
    assert (tmp_path / "edge" / "model.tflite").read_bytes() == MODEL


def test_its_code_is_that_which_prepared_the_training_images(tmp_path: Path) -> None:
    _write(_publish(tmp_path), tmp_path / "edge")
    package = ROOT / "src" / "mlpipeline" / "image_files"
    sources = {file.name: file.read_text() for file in package.glob("*.py")}
    copied = {file.name: file.read_text() for file in (tmp_path / "edge/image_files").iterdir()}
    assert copied == {
        name: text.replace("mlpipeline.image_files", "image_files")
        for name, text in sources.items()
    }
    assert not [name for name, text in copied.items() if "import mlpipeline" in text]
    assert not [name for name, text in copied.items() if "from mlpipeline" in text]


def test_readme_says_what_the_model_is(tmp_path: Path) -> None:
    workspace = _publish(tmp_path, variant="int8-full", test_accuracy=0.92714)
    _publish_data(workspace)
    readme = _write(workspace, tmp_path / "edge")["README.md"]
    for expected in (
        "# shirts, on a small machine\n",
        "version `shirts-1`",
        "which of 2 classes",
        "Accuracy on the test images: 92.71%\n",
        "Precision: int8-full\n",
        f"{len(MODEL)} bytes, SHA-256 `{hashlib.sha256(MODEL).hexdigest()}`\n",
        "Trained on: `photos`, SHA-256 of the content `4f0c`\n",
        "- It becomes grey, 28 pixels wide and 28 high; one of other proportions is stretched.\n",
        "- One with a bright ground is inverted",
        "uint8 `[28, 28]`",
    ):
        assert expected in readme
    assert "/home/me" not in readme  # where the data lay is nobody's business
    assert "made-up data" not in readme


def test_readme_says_of_other_kinds_what_becomes_of_images(tmp_path: Path) -> None:
    pad = _publish(tmp_path / "pad", preparation=ImageKind((20, 30), 3, "pad"))
    readme = _write(pad, tmp_path / "edge-pad")["README.md"]
    assert (
        "It becomes RGB, 30 pixels wide and 20 high; one of other proportions is continued"
        in readme
    )
    assert "uint8 `[20, 30, 3]`" in readme
    assert "inverted" not in readme
    crop = _publish(tmp_path / "crop", preparation=ImageKind((20, 30), 1, "crop"))
    assert (
        "; of one of other proportions, its middle.\n"
        in _write(crop, tmp_path / "edge")["README.md"]
    )


def test_without_its_data_set_the_model_names_that_by_its_key(tmp_path: Path) -> None:
    readme = _write(_publish(tmp_path), tmp_path / "edge")["README.md"]
    assert "Trained on: `ingest-1`\n" in readme


def test_of_made_up_data_readme_warns(tmp_path: Path) -> None:
    readme = _write(_publish(tmp_path, synthetic_data=True), tmp_path / "edge")["README.md"]
    assert "**made-up data: the accuracy says nothing of real images**" in readme


def test_a_label_is_one_line_whatever_a_class_is_called(tmp_path: Path) -> None:
    names = ("one\ntwo", "three\u2028four", "\x1b[31mred", "", "Größe 5 $name")
    labels = _write(_publish(tmp_path, classes=names), tmp_path / "edge")["labels.txt"]
    assert labels.splitlines() == ["one two", "three four", " [31mred", "", "Größe 5 $name"]


def test_what_readme_installs_is_what_we_need_of_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    template = (ROOT / "src/mlpipeline/cli/edge/README.template").read_text()
    (command,) = re.findall(r"^\.venv/bin/pip install (.+)$", template, re.MULTILINE)
    installed = re.findall(r'"([^"]+)"', command)
    assert len(installed) == 2
    assert set(installed) <= set(needed)


def test_the_command_says_what_it_has_written(tmp_path: Path) -> None:
    workspace = _publish(tmp_path)
    (tmp_path / "config.yaml").write_text("name: shirts\ncandidates: {cnn: {model: cnn}}\n")
    options = ["--config", str(tmp_path / "config.yaml"), "--workspace", str(workspace)]
    output = tmp_path / "a" / "b"
    done = CliRunner().invoke(app.app, ["edge", "--output", str(output), *options])
    assert done.exit_code == 0, done.output
    assert f"{output}: {', '.join(FILES)}\n" in done.output


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        (
            {"engine": "tensorflow", "engine_reason": "LiteRT cannot: it has no operation Cumsum"},
            "is served by TensorFlow: LiteRT cannot: it has no operation Cumsum",
        ),
        ({"preparation": None}, "takes images of a kind that no file has"),
    ],
)
def test_a_model_that_the_program_could_not_ask_is_refused(
    tmp_path: Path, others: dict[str, Any], problem: str
) -> None:
    workspace = _publish(tmp_path, **others)
    with pytest.raises(ServingError, match=f"version shirts-1 of `shirts` {problem}"):
        edge.write(CONFIG, workspace, tmp_path / "edge")
    assert not (tmp_path / "edge").exists()


def test_without_a_model_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="there is no model `shirts`"):
        edge.write(CONFIG, Workspace(tmp_path / "workspace"), tmp_path / "edge")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    workspace = _publish(tmp_path)
    file = workspace.model("shirts", "shirts-1").tflite
    file.write_bytes(MODEL.replace(b"load", b"Load"))
    with pytest.raises(DamagedArtifactError, match=r"model\.tflite"):
        edge.write(CONFIG, workspace, tmp_path / "edge")
    assert not (tmp_path / "edge").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    workspace = _publish(tmp_path)
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "classify.py").write_text("mine")
    (tmp_path / "lost").symlink_to("nowhere")
    edge.write(CONFIG, workspace, tmp_path / "written")
    before = sorted(tmp_path.rglob("*"))
    for name in ("a-file", "folder", "lost", "written"):
        with pytest.raises(ConfigurationError, match="is there already"):
            edge.write(CONFIG, workspace, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "folder" / "classify.py").read_text() == "mine"


def test_an_empty_folder_is_filled_and_so_is_one_that_a_link_leads_to(tmp_path: Path) -> None:
    workspace = _publish(tmp_path)
    for name in ("empty", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("empty", "link"):
        assert edge.write(CONFIG, workspace, tmp_path / name) == FILES
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "labels.txt").is_file()


def test_what_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    with artifacts.publish(workspace.model("shirts", "shirts-1").path) as draft:  # no model in it
        model_card(engine="litert", preparation=FASHION).save(ModelFolder(draft).card)
    registry.promote(workspace, "shirts", "shirts-1")
    with pytest.raises(FileNotFoundError):
        edge.write(CONFIG, workspace, tmp_path / "edge")
    assert [entry.name for entry in tmp_path.iterdir()] == ["workspace"]
