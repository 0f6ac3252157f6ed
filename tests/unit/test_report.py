"""The report of a run: what it says, what it leaves out, and that it is safe to open anywhere."""

from __future__ import annotations

import base64
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlpipeline.runs import report
from mlpipeline.runs.report import evidence, figures, formats, measures
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Workspace
from mlpipeline.store.schemas.dataset import SPLITS, DatasetCard, SplitProfile
from mlpipeline.store.schemas.run import Run
from support import stored_documents as documents
from support.fabricated_run import CLASSES, artifact_of, fabricate, try_on_requests

_VOID = {"meta", "link", "br", "img"}
_LOADING = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")


class Page(HTMLParser):
    """A page taken apart: its text, its headings and its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self._words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self._words += data.split()
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(self._words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    return fabricate(tmp_path)


def _page(workspace: Path, run: dict[str, Any]) -> Page:
    page = Page(report.build(Workspace(workspace), Run.parse(run, origin="made up")))
    assert page.open == [], "every element is closed"
    return page


def _fail(run: dict[str, Any], name: str, error: str) -> None:
    """Turn a record into one of a run that a task made fail."""
    names = [task["name"] for task in run["tasks"]]
    for task in run["tasks"][names.index(name) :]:
        task.update(state="skipped", seconds=0.0)
        task.pop("gate", None)  # it did not come to that
    run["tasks"][names.index(name)].update(state="failed", error=error)
    run.update(state="failed", error=error, verification=None)


def test_a_complete_run_is_reported_in_all_its_parts(tmp_path: Path, run: dict[str, Any]) -> None:
    page = _page(tmp_path, run)

    parts = ["Candidates", "Learning", "Test", "Mistakes", "Gate", "Serving", "Time", "Data", "Run"]
    assert page.headings == parts
    assert len(page.all("img")) == 24
    assert len([name for name, _ in page.elements if name == "svg"]) >= 3
    assert "failed" not in page.text
    assert "Synthetic" not in page.text
    for expected in (*CLASSES, "✓ chosen", "place 2 of 3", "92.93%", "141\u202f642", "3 min 50 s"):
        assert expected.replace("\u202f", " ") in page.text.replace("\u202f", " ")
    assert "2 of 8 tasks reused" in page.text


def test_test_accuracy_is_computed_from_the_answers_with_its_interval(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    hits = round(400 * run["verification"]["protocols"][0]["accuracy"])
    low, high = measures.wilson_interval(hits, 400)

    text = _page(tmp_path, run).text

    assert f"{hits} of 400 test images" in text
    assert f"95% interval: {low:.2%} to {high:.2%} (Wilson score, 400 images)" in text


def test_it_says_when_each_version_went_into_service(tmp_path: Path, run: dict[str, Any]) -> None:
    run["served"] = [
        {"version": "shirts-1", "candidate": "cnn", "seconds": 41.0},
        {"version": "shirts-2", "candidate": "batch_norm", "seconds": 95.0},
    ]
    page = report.build(Workspace(tmp_path), Run.parse(run, origin="made up"))
    (said,) = re.findall("<p>Put into service: .*?</p>", page)
    assert said.index("cnn after 41") < said.index("shirts-1") < said.index("batch_norm after 1")


def test_only_the_chosen_candidate_has_a_test_accuracy(tmp_path: Path, run: dict[str, Any]) -> None:
    accuracy = f"{run['verification']['protocols'][0]['accuracy']:.2%}"
    rows = re.findall(r"<tr.*?</tr>", _page(tmp_path, run).html, re.DOTALL)

    def row_of(candidate: str) -> str:
        (row,) = [str(row) for row in rows if f'scope="row">{candidate}<' in row]
        return row

    assert accuracy in row_of("batch_norm")
    assert accuracy not in row_of("cnn")
    assert accuracy not in row_of("dropout")


def test_the_variants_and_why_one_is_served_are_in_the_page(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    page = _page(tmp_path, run)
    assert "LiteRT serves int8-dynamic : 47% of float32's time" in page.text
    rows = re.findall(r"<tr.*?</tr>", page.html, re.DOTALL)
    (chosen,) = [row for row in rows if 'scope="row">int8-dynamic<' in row]
    assert 'class="chosen"' in chosen
    assert all(figure in chosen for figure in ("136 kB", "0.036 ms", "2.30 ms", "99.88%", "✓"))
    (refused,) = [row for row in rows if 'scope="row">int8-full<' in row]
    assert "cannot be made: it has no operation Odd" in refused
    assert "chosen" not in refused


@pytest.mark.parametrize(
    ("reason", "variants"),
    [
        (
            "LiteRT cannot: it has no operation Odd",
            [{"name": "float32", "refused": "it has no operation Odd"}],
        ),
        ("as configured", []),
    ],
)
def test_that_tensorflow_serves_is_said_with_its_reason(
    tmp_path: Path, run: dict[str, Any], reason: str, variants: list[dict[str, str]]
) -> None:
    folder = artifact_of(tmp_path, run, "select")
    content = artifacts.read_json(folder / "decision.json")
    content["served"] = {
        "engine": "tensorflow",
        "variant": "float32",
        "precision": "float32",
        "reason": reason,
        "variants": variants,
    }
    kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}
    shutil.rmtree(folder)
    with artifacts.publish(folder) as draft:
        for name, data in kept.items():
            (draft / name).write_bytes(data)
        artifacts.write_json(draft / "decision.json", content)
    page = _page(tmp_path, run)
    assert f"TensorFlow serves the model ({reason})." in page.text
    assert ("Variants of the model" in page.html) == bool(variants)


def test_the_page_names_no_outside_address_and_runs_no_script(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    page = _page(tmp_path, run)

    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page.html)
    assert "@import" not in page.html
    assert "default-src 'none'" in page.html
    assert not page.all("script")
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in _LOADING:
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)


def test_the_page_can_be_read_without_seeing_it(tmp_path: Path, run: dict[str, Any]) -> None:
    page = _page(tmp_path, run)

    assert all(image["alt"] for image in page.all("img"))
    assert all("scope" in header for header in page.all("th"))
    assert all(
        "aria-label" in attributes
        for _, attributes in page.elements
        if attributes.get("role") in ("img", "region")
    )
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {link["href"] for link in page.all("a")}
    assert links <= {f"#{name}" for name in ids}


def test_the_card_of_the_model_is_linked_from_both_places_where_the_page_lies(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    workspace, record = Workspace(tmp_path), Run.parse(run, origin="made up")
    assert "card.md" not in report.build(workspace, record), "an older version has none"
    decision = artifacts.read_json(artifact_of(tmp_path, run, "select") / "decision.json")
    card = workspace.model(decision["name"], decision["version"]).page
    artifacts.write_text(card, "# fashion-mnist\n")
    own = report.write(workspace, record)
    for page in (own, workspace.report):
        links = [str(each["href"]) for each in Page(page.read_text(encoding="utf-8")).all("a")]
        (link,) = (link for link in links if link.endswith("card.md"))
        assert (page.parent / link).resolve() == card.resolve()


def test_the_page_is_small(tmp_path: Path, run: dict[str, Any]) -> None:
    assert len(report.build(Workspace(tmp_path), Run.parse(run, origin="made up"))) < 300_000


def test_write_keeps_the_runs_own_page_and_the_latest(tmp_path: Path, run: dict[str, Any]) -> None:
    first = report.write(Workspace(tmp_path), Run.parse(run, origin="made up"))
    second = report.write(
        Workspace(tmp_path), Run.parse(run | {"run": "the-next"}, origin="made up")
    )

    assert first == tmp_path / "runs" / run["run"] / "report.html"
    latest = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert latest == second.read_text(encoding="utf-8") != first.read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.draft"))


def test_the_same_run_gives_the_same_page(tmp_path: Path, run: dict[str, Any]) -> None:
    assert report.build(Workspace(tmp_path), Run.parse(run, origin="made up")) == report.build(
        Workspace(tmp_path), Run.parse(run, origin="made up")
    )


def test_a_failed_run_says_why_first_and_shows_what_was_finished(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    _fail(run, "train-dropout", "worker 1 died\n  to do:    see its log")

    page = _page(tmp_path, run)

    assert page.headings == ["Candidates", "Learning", "Time", "Data", "Run"]
    assert page.text.index("This run failed") < page.text.index("Model")
    assert page.text.count("worker 1 died") == 1
    assert "training failed" in page.text
    assert "no selection could be read" in page.text


def test_a_run_that_failed_at_once_is_reported(tmp_path: Path, run: dict[str, Any]) -> None:
    shutil.rmtree(artifact_of(tmp_path, run, "ingest"))
    _fail(run, "ingest", "no data source")
    page = _page(tmp_path, run)
    assert page.headings == ["Candidates", "Time", "Run"]
    assert "no data source" in page.text


PROFILE = SplitProfile(
    blank=0, repeated=0, leaked=0, contradicted=0, means=(9, 0), contrasts=(9, 0)
)


def test_what_is_expected_of_the_data_is_shown_with_what_was_found(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    leaked = PROFILE.model_copy(update={"leaked": 120})
    changes = {"profile": dict.fromkeys(SPLITS, PROFILE) | {"test": leaked}}
    card = DatasetCard.load(DatasetFolder(artifact_of(tmp_path, run, "ingest")).card)
    with artifacts.publish(Workspace(tmp_path).dataset("ingest-2").path) as draft:
        card.model_copy(update=changes).save(DatasetFolder(draft).card)
    run["tasks"][0]["key"] = "ingest-2"
    run["config"]["expectations"] = {"leakage": 0.005, "blank": None, "against": "ingest-1"}
    page = _page(tmp_path, run)
    said = "images of test that are also in a split before it"
    assert page.text.index("The data is not as expected") < page.text.index("Test accuracy")
    assert page.text.count(said) == 2
    assert "at most 0.005 ✗ no" in page.text
    assert "at least 0.1 ✓ yes" in page.text
    assert "blank" not in page.text.partition("Expectations")[2].partition("balance")[0]
    assert "Drift is not known" in page.text, "there is no ingest-1"


def test_data_that_a_run_failed_by_is_shown(tmp_path: Path, run: dict[str, Any]) -> None:
    _fail(run, "ingest", "the data is not as expected: balance")
    run["config"]["expectations"] = {"balance": 1, "fail": ["balance"]}
    page = _page(tmp_path, run)
    assert page.headings == ["Candidates", "Time", "Data", "Run"]
    assert "at least 1.0 ✓ yes" in page.text


@pytest.mark.parametrize("asked", [{"balance": "much"}, {"of later": 1}])
def test_expectations_that_this_version_does_not_know_are_left_out_and_said(
    tmp_path: Path, run: dict[str, Any], asked: dict[str, Any]
) -> None:
    run["config"]["expectations"] = asked
    page = _page(tmp_path, run)
    assert "Not everything could be read" in page.text
    assert "Images by class and split" in page.text


@pytest.mark.parametrize(
    ("state", "said"),
    [("interrupted", "This run was interrupted"), ("running", "This run goes on still")],
)
def test_a_run_without_an_end_says_so(
    tmp_path: Path, run: dict[str, Any], state: str, said: str
) -> None:
    run.update(state=state, tasks=[], verification=None)
    page = _page(tmp_path, run)
    assert said in page.text
    assert page.headings == ["Time", "Run"]


def test_a_candidate_that_failed_while_the_run_went_on_is_reported(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    run["tasks"][1].update(state="failed", error="out of memory")
    page = _page(tmp_path, run)
    assert "train-cnn failed out of memory" in page.text
    assert "This run failed" not in page.text


@pytest.mark.parametrize(
    ("task", "file", "gone"),
    [
        ("ingest", "dataset.json", {"Data"}),
        ("select", "test_probabilities.npy", {"Test", "Mistakes"}),
        ("select", "mistakes.npz", {"Test", "Mistakes"}),
        ("train-cnn", "history.json", set()),
    ],
)
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_artifact_is_named_and_left_out(
    tmp_path: Path, run: dict[str, Any], task: str, file: str, gone: set[str], damage: str
) -> None:
    before = set(_page(tmp_path, run).headings)
    damaged = artifact_of(tmp_path, run, task) / file
    if damage == "altered":
        damaged.write_bytes(b"{")
    else:
        damaged.unlink()

    page = _page(tmp_path, run)

    assert f"{damaged} is damaged" in page.text
    assert page.text.count("is damaged") == 1
    assert set(page.headings) == before - gone


def test_without_the_card_classes_have_numbers(tmp_path: Path, run: dict[str, Any]) -> None:
    (artifact_of(tmp_path, run, "ingest") / "dataset.json").unlink()
    found = evidence.collect(Workspace(tmp_path), Run.parse(run, origin="made up"))
    assert found.class_names[:2] == ["class 0", "class 1"]
    assert found.mistakes


def test_synthetic_data_is_said_before_any_figure(tmp_path: Path) -> None:
    page = _page(tmp_path, fabricate(tmp_path, synthetic=True))
    assert page.text.index("Synthetic data") < page.text.index("Test accuracy")


def test_a_verdict_is_a_place_or_a_reason() -> None:
    reason = "diverged: its loss was not finite at step 12"
    decision = documents.decision({"cnn": "cnn-1"}, rejected={"dropout": reason})
    assert evidence.verdict("dropout", "succeeded", decision) == reason
    assert evidence.verdict("cnn", "reused", decision) == "chosen"
    assert evidence.verdict("batch_norm", "failed", decision) == "training failed"


def test_candidates_of_one_model_are_told_apart_by_what_they_differ_in() -> None:
    recipes = {
        "plain": {"model": "dropout", "epochs": 9, "options": {}},
        "cnn-1": {"model": "cnn", "epochs": 3, "learning_rate": 0.1, "options": {"units": 32}},
        "cnn-2": {"model": "cnn", "epochs": 3, "learning_rate": 0.2, "options": {"units": 64}},
        "cnn-3": {"model": "cnn", "epochs": 3, "learning_rate": 0.2, "options": {}},
    }
    assert evidence.distinguish(recipes) == {
        "plain": "",
        "cnn-1": "learning rate 0.1, units 32",
        "cnn-2": "learning rate 0.2, units 64",
        "cnn-3": "learning rate 0.2",
    }


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    attack = "\"><script>alert('x')</script>"
    names = (attack, *CLASSES[1:])
    run = fabricate(tmp_path, classes=names, name=attack, source=attack)
    run["config"]["name"] = attack
    run["config"]["candidates"]["cnn"]["model"] = attack
    run["machine"]["packages"] = {attack: attack}
    run.update(error=attack, config_file=attack)

    page = _page(tmp_path, run)

    assert not page.all("script")
    assert "<script" not in page.html
    assert page.text.count("alert('x')") >= 7


def test_without_room_for_the_matrix_its_colours_and_the_confusions_remain(
    tmp_path: Path, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_CLASSES_IN_MATRIX", len(CLASSES) - 1)
    page = _page(tmp_path, run)
    assert {"class": "matrix"} not in page.all("table")
    assert "map" in [image.get("class") for image in page.all("img")]
    assert "Most frequent confusions" in page.text


@pytest.mark.parametrize(("classes", "joined"), [(26, 1), (100, 1), (1_000, 5)])
def test_many_classes_stay_readable(tmp_path: Path, classes: int, joined: int) -> None:
    names = tuple(f"species {number}" for number in range(classes))
    images = np.random.default_rng(0).integers(0, 255, (3_000, 8, 8), np.uint8)
    labels = np.arange(3_000) % classes
    run = fabricate(tmp_path, images=images, labels=labels, classes=names)
    page = _page(tmp_path, run)

    assert "The 20 weakest classes" in page.text
    assert f"All {classes:,}".replace(",", "\u202f") in page.html
    assert {"class": "matrix"} not in page.all("table")
    (heat_map,) = [image for image in page.all("img") if image.get("class") == "map"]
    stored = base64.b64decode(str(heat_map["src"]).partition(",")[2])
    assert Image.open(BytesIO(stored)).size == (classes // joined,) * 2
    assert (f"stands for {joined} neighbouring" in page.text) == (joined > 1)
    assert page.html.count("<details>") >= 2
    assert f"and {classes - 30} more" in page.text if classes > 30 else "more" not in page.text
    assert len(page.html) < 600_000


def test_names_of_classes_are_text_and_long_ones_are_cut(tmp_path: Path) -> None:
    names = ["<b>bold</b>", "a|b, c\nd", "x" * 500, *map(str, range(7))]
    run = fabricate(tmp_path, classes=tuple(names))
    page = _page(tmp_path, run)

    assert "<b>bold</b>" in page.text
    assert "<b>bold" not in page.html
    assert "a|b, c d" in page.text
    assert "x" * 500 not in page.text
    assert "x" * 500 in {attributes.get("title") for attributes in page.all("span")}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([400] * 4, "The whole test split was sent through every protocol"),
        ([100] * 3 + [400], "through one protocol, and a sample of it through the others"),
        ([100] * 4, "A sample of the test split was sent through every protocol"),
    ],
)
def test_it_says_how_many_images_were_sent_of_how_many(
    tmp_path: Path, run: dict[str, Any], sent: list[int], said: str
) -> None:
    run["verification"]["test_images"] = 400
    for protocol, images in zip(run["verification"]["protocols"], sent, strict=True):
        accuracy = protocol["accuracy"] if images == 400 else 0.75
        protocol |= {"images": images, "accuracy": accuracy, "recorded_accuracy": accuracy}
    page = _page(tmp_path, run)
    assert said in page.text
    assert page.text.count("✓ equal") == 4
    for images in sent:
        assert f"{images} of 400" in page.text
    run["verification"]["protocols"][0]["recorded_accuracy"] = 0.5
    assert "✗ recorded: 50.00%" in _page(tmp_path, run).text


def test_neighbouring_classes_are_joined_to_groups() -> None:
    matrix = np.arange(25).reshape(5, 5)
    np.testing.assert_array_equal(measures.coarse(matrix, 5), matrix)
    joined = measures.coarse(matrix, 3)
    assert joined.shape == (3, 3)
    assert joined.sum() == matrix.sum()
    assert joined[0, 0] == matrix[:2, :2].sum()
    assert joined[2, 2] == matrix[4, 4]


def test_large_colour_images_fit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (50, 300, 200, 3), dtype=np.uint8)
    page = _page(tmp_path, fabricate(tmp_path, images=images, labels=np.arange(50) % 10))
    assert all((image["src"] or "").startswith("data:image/png") for image in page.all("img"))
    assert len(page.html) < 1_500_000


@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,), (7,)])
@pytest.mark.parametrize("size", [(20, 9), (1, 30), (30, 1)])
def test_images_of_any_shape_are_drawn(size: tuple[int, int], channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, *channels), np.uint8)
    uri = figures.picture(image)
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    with Image.open(BytesIO(content)) as drawn:
        pixels = np.asarray(drawn)
    expected = image if not channels else image[..., :3] if channels >= (3,) else image[..., 0]
    np.testing.assert_array_equal(pixels, expected)


def test_one_epoch_is_drawn(tmp_path: Path) -> None:
    assert "Learning" in _page(tmp_path, fabricate(tmp_path, epochs=1)).headings


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (9250, 10_000, 0.91967, 0.93000)],
)
def test_wilson_interval_is_the_published_one(
    hits: int, total: int, low: float, high: float
) -> None:
    assert measures.wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("total", [7, 10, 12, 25, 299])
@pytest.mark.parametrize("right", [True, False])
def test_where_all_or_none_are_right_the_interval_holds_the_share(total: int, right: bool) -> None:
    low, high = measures.wilson_interval(total if right else 0, total)
    assert low <= right <= high, "its distances are drawn, and none may be negative"


def test_figures_per_class_come_from_the_matrix() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    predicted = np.array([0, 0, 0, 1, 1, 0, 3])

    matrix = measures.confusion_matrix(labels, predicted, 4)

    assert matrix.tolist() == [[3, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    rows = measures.per_class(matrix)
    assert [row.index for row in rows] == [1, 0, 2, 3]
    assert rows[1] == measures.ClassFigures(0, 4, precision=0.75, recall=0.75, f1=0.75)
    assert rows[2] == measures.ClassFigures(2, 0, precision=None, recall=None, f1=None)
    assert measures.confusions(matrix) == [
        measures.Confusion(0, 1, 1, 0.25),
        measures.Confusion(1, 0, 1, 0.5),
    ]


def test_calibration_compares_confidence_with_hits() -> None:
    probabilities = np.array([[0.75, 0.25]] * 4 + [[0.0, 1.0]] * 6, np.float32)
    labels = np.array([0, 0, 0, 1, *[1] * 3, *[0] * 3])

    calibration = measures.calibrate(probabilities, labels)

    assert [(b.confidence, b.accuracy, b.images) for b in calibration.bins] == [
        (0.75, 0.75, 4),
        (1.0, 0.5, 6),
    ]
    assert calibration.error == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (None, "\N{EN DASH}"),
    ],
)
def test_durations_are_written_as_a_person_says_them(seconds: float | None, text: str) -> None:
    assert formats.duration(seconds).replace("\u00a0", " ") == text


def test_shares_are_not_rounded_to_all_or_nothing() -> None:
    assert [formats.percent(share, 1) for share in (0, 1e-5, 0.5, 0.99999, 1)] == [
        "0.0%",
        "<0.1%",
        "50.0%",
        ">99.9%",
        "100.0%",
    ]


# --- the gate ---------------------------------------------------------------------------------


def _gate(run: dict[str, Any], **others: Any) -> None:
    """Change what the gate has said."""
    task = next(task for task in run["tasks"] if task["name"] == "gate")
    task["gate"] = task["gate"] | others


def test_the_gates_table_has_both_versions_and_the_limits(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    page = _page(tmp_path, run)
    assert "Gate" in page.headings
    assert "accuracy 92.93% 92.86% 91.86% ✓ yes" in page.text
    assert "size 135,568 bytes 504,300 bytes – ✓ yes" in page.text
    assert "Both were measured on the 5" in page.text
    assert "held" not in page.text


def test_what_the_gate_held_back_is_said_first(tmp_path: Path, run: dict[str, Any]) -> None:
    _gate(run, verdict="kept", reason="accuracy <b>low</b>")
    page = _page(tmp_path, run)
    said = "The gate held fashion-mnist-d2b7c6e5f4a39180 back: kept fashion-mnist-0a1b2c3d4e5f6071"
    assert said in page.text
    assert page.text.index(said) < page.text.index("Test accuracy")
    assert "not served: accuracy <b>low</b>." in page.text


def test_who_has_passed_the_gate_by_force_is_said_with_why_and_what_is_against_it(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    _gate(run, forced={"who": "ann", "reason": "a new class"}, faults=["accuracy 70%", "size"])
    page = _page(tmp_path, run)
    assert "Served by force" in page.text
    assert "in spite of the gate: a new class. Against it: accuracy 70%; size." in page.text


def test_where_the_gate_has_measured_nothing_there_is_no_table(
    tmp_path: Path, run: dict[str, Any]
) -> None:
    _gate(run, checks=[], reason="it is the current version")
    assert "Gate" not in _page(tmp_path, run).headings


# --- the trial --------------------------------------------------------------------------------


def test_without_a_trial_there_is_nothing_of_it(tmp_path: Path, run: dict[str, Any]) -> None:
    assert "Canary" not in _page(tmp_path, run).headings


def test_a_trial_has_its_counts_and_its_figures(tmp_path: Path, run: dict[str, Any]) -> None:
    try_on_requests(run)
    page = _page(tmp_path, run)
    assert "Canary" in page.headings
    assert "118 of 1" in page.text
    assert "3 requests were not compared" in page.text
    assert "took part: replica-0, replica-1." in page.text
    assert "same class 96.60% – 80.00% ✓ yes" in page.text
    assert "held" not in page.text


def test_what_a_trial_held_back_is_said_first(tmp_path: Path, run: dict[str, Any]) -> None:
    try_on_requests(run, verdict="kept", reason="canary: same class 12.00%")
    page = _page(tmp_path, run)
    said = "The canary held fashion-mnist-d2b7c6e5f4a39180 back: kept fashion-mnist-0a1b2c3d4e5f"
    assert page.text.index(said) < page.text.index("Test accuracy")
    assert "not served: canary: same class 12.00%." in page.text
