"""The page of all models and runs: what it says, where it leads, and what it does without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.store import artifacts, history, registry, requests
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.look import Looked
from mlpipeline.store.schemas.run import ProtocolFigures, Run, ServedVersion, Verification
from support import stored_documents as documents
from support.past_runs import add_run
from support.registered import NAME


def of_run(version: str, accuracy: float) -> dict[str, Any]:
    """What a run has served and verified: a sample by one protocol, all images by another."""
    protocols = tuple(
        ProtocolFigures(
            protocol=protocol,
            images=images,
            max_difference=0.0,
            accuracy=share,
            seconds=1.0,
            images_per_second=1.0,
        )
        for protocol, images, share in (("REST", 10, 0.5), ("gRPC", 100, accuracy))
    )
    served = (ServedVersion(version=version, candidate="cnn", seconds=1.0),)
    return {"served": served, "verification": Verification(replicas=(), protocols=protocols)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two versions that were current, and a third that the gate has held back."""
    workspace = Workspace(tmp_path)
    for day, accuracy in ((1, 0.9012), (2, 0.9134)):
        add_run(workspace, day, **of_run(f"{NAME}-{day}", accuracy))
        artifacts.write_text(workspace.run(f"run-{day}").report, "a report")
    held = add_run(workspace, 3, promote=False)
    history.hold_back(workspace, NAME, held, run="run-3", why="accuracy <b>30%</b>")
    artifacts.write_text(workspace.model(NAME, f"{NAME}-2").page, "a card")
    return workspace


def page_of(workspace: Workspace) -> str:
    done = CliRunner().invoke(
        app.app, ["site", "--workspace", str(workspace)], catch_exceptions=False
    )
    assert done.output == f"{workspace.site}\n"
    return workspace.site.read_text(encoding="utf-8")


def rows(page: str) -> dict[str, str]:
    """The text of each table row, by the name that it begins with."""
    texts = [
        " ".join(re.sub(r"<[^>]*>", " ", row).split())
        for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    ]
    return {text.split()[0]: text for text in reversed(texts) if text}


def test_every_version_and_every_run_has_its_figures(workspace: Workspace) -> None:
    page = page_of(workspace)
    found = rows(page)
    assert re.search(rf"{NAME}-2 cnn 90.00% 9[\d.]+% since \d{{4}}", found[f"{NAME}-2"])
    assert " to " in found[f"{NAME}-1"]
    assert found[f"{NAME}-3"].endswith("never, held back by the gate")
    assert found["run-1"].endswith(f"{NAME}-1 90.12%"), "of all images, not of the sample"
    assert found["run-2"].endswith(f"{NAME}-2 91.34%")
    assert "succeeded" in found["run-3"]
    assert list(found).index("run-3") > list(found).index("run-1"), "the newest run comes first"


def test_its_links_lead_to_what_there_is(workspace: Workspace) -> None:
    links = re.findall(r'href="([^"#]+)"', page_of(workspace))
    assert set(links) - {"data:,"} == {
        "runs/run-1/report.html",
        "runs/run-2/report.html",
        f"models/{NAME}/{NAME}-2/card.md",
    }
    assert all((workspace.root / link).is_file() for link in links if link != "data:,")


def test_it_runs_nothing_and_asks_nobody(workspace: Workspace) -> None:
    page = page_of(workspace)
    assert "<script" not in page
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "default-src 'none'" in page
    assert "&lt;b&gt;30%&lt;/b&gt;" in page, "what people write is no markup"


def test_what_cannot_be_read_is_said_and_the_rest_is_there(workspace: Workspace) -> None:
    workspace.run("run-1").record.write_text("{", encoding="utf-8")
    workspace.history(NAME).write_text("{", encoding="utf-8")
    page = page_of(workspace)
    assert "its record cannot be read" in rows(page)["run-1"]
    assert "What is known of it cannot be read" in page
    assert "run-2" in rows(page)


def test_without_a_run_it_says_how_to_begin(tmp_path: Path) -> None:
    page = page_of(Workspace(tmp_path))
    assert "0 models, 0 runs" in page
    assert "make run" in page


def test_what_nobody_has_published_yet_is_no_current_version(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    version = add_run(workspace, 1, promote=False)
    assert "Current version" not in page_of(workspace)
    registry.promote(workspace, NAME, version, run="run-1")
    assert "Current version" in page_of(workspace)


def in_service(page: str) -> str:
    """The text of the section of requests, up to the one of versions."""
    _, found = page.split(">In service</h3>")
    return " ".join(re.sub(r"<[^>]*>", " ", found.split(">Versions</h3>")[0]).split())


def test_what_the_model_was_asked_is_there_as_it_was_found_last(workspace: Workspace) -> None:
    current = f"{NAME}-2"
    looked = documents.look(model=NAME, version=current)
    looked.save(workspace.look(NAME))
    page = page_of(workspace)
    said = in_service(page)
    assert "✗ Drift: predicted classes." in said
    assert "at 100 logged images" in said
    assert "from 24 November 2026, 08:00 UTC to 24 November 2026, 09:00 UTC" in said
    assert "1% of all looks" in said
    assert "predicted classes ✗ drift – – population stability index 0.170 0.100 0.0002" in said
    assert "confidence ✓ below the limit 0.80 0.70 to 0.90 0.80" in said
    assert "dark 30.0% 50.0% bright 70.0% 50.0%" in said
    assert "shirts-1 90 75.0%" in said
    assert "shirts-0 30 25.0%" in said
    assert "earlier version" not in said
    assert "data:image" not in page, "no image of the log"
    calm = [each.model_copy(update={"is_drift": False}) for each in looked.figures]
    looked.model_copy(update={"figures": tuple(calm)}).save(workspace.look(NAME))
    assert "✓ No drift." in (said := in_service(page_of(workspace)))
    assert "predicted classes ✓ may be chance" in said


def test_a_look_at_a_version_that_is_not_current_any_more_is_called_one(
    workspace: Workspace,
) -> None:
    documents.look(version=f"{NAME}-1").save(workspace.look(NAME))
    assert f"earlier version {NAME}-1 was current when somebody looked" in in_service(
        page_of(workspace)
    )


def test_of_many_classes_those_are_shown_that_differ_most(workspace: Workspace) -> None:
    counts = {"asked": (4,) * 24 + (30,), "validation": (4,) * 25}
    looked = {
        split: Looked(images=sum(predicted), predicted=predicted, spreads={})
        for split, predicted in counts.items()
    }
    classes = tuple(f"class-{number}" for number in range(25))
    documents.look(classes=classes, **looked).save(workspace.look(NAME))
    said = in_service(page_of(workspace))
    assert "5 more are left out" in said
    assert "class-24 23.8% 4.0% class-0" in said
    assert "class-19" not in said


@pytest.mark.parametrize(
    ("share", "logged", "expected"),
    [
        (0.0, False, "The log of requests is off"),
        (0.5, False, "on, and there is nothing in it yet"),
        (0.5, True, "nobody has looked at it yet"),
        (0.0, True, "nobody has looked at it yet"),
    ],
)
def test_where_nobody_has_looked_it_says_what_there_is_to_look_at(
    workspace: Workspace, share: float, logged: bool, expected: str
) -> None:
    serving = {"log": {"share": share}}
    run = workspace.run("run-2").record
    known = Run.load(run)
    config = known.config | {"serving": serving}
    known.model_copy(update={"config": config}).save(run)
    folder = workspace.requests(NAME) / f"{NAME}-2"
    artifacts.write_text(folder / ".1-1.draft", "begun")
    if logged:
        images = np.zeros((2, 4, 4), np.uint8)
        said = np.ones((2, 1), np.float32)
        shard = requests.Shard("", ("a",), np.zeros(2), images, said, requests.keys(images))
        requests.write(folder, shard)
    said_of_it = in_service(page_of(workspace))
    assert expected in said_of_it
    assert f"mlpipeline drift {NAME}" in said_of_it


def test_a_log_that_is_closed_to_whoever_makes_the_page_is_said_to_be(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(folder: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(requests, "is_empty", closed)
    assert "closed to who has made this page" in in_service(page_of(workspace))


def test_a_damaged_look_is_said_to_be_one(workspace: Workspace) -> None:
    artifacts.write_text(workspace.look(NAME), "{")
    said = in_service(page_of(workspace))
    assert "What was found in its requests cannot be read" in said
    assert f"Look again: mlpipeline drift {NAME}" in said
