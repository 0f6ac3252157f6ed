"""The report in a real browser: it loads by itself, without an error, on phone and desktop."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from mlpipeline.runs import report
from mlpipeline.runs.report import site
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run
from support import browsers, registered
from support import stored_documents as documents
from support.browsers import (
    RESOLVED_COLOUR,
    WIDTHS,
    contrast,
    luminance,
    open_page,
    read_log,
    requests,
)
from support.fabricated_run import CLASSES, fabricate
from support.past_runs import add_run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browsers.started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    workspace = tmp_path_factory.mktemp("workspace")
    return report.write(Workspace(workspace), Run.parse(fabricate(workspace), origin="")).as_uri()


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_loads_without_an_error_or_a_request(browser: webdriver.Chrome, address: str) -> None:
    read_log(browser, "browser")
    read_log(browser, "performance")

    browser.get(address)

    assert read_log(browser, "browser") == []
    assert requests(browser) == [address]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_its_parts_are_there(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)

    headings = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert headings[:4] == ["Candidates", "Learning", "Test", "Mistakes"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".candidates tbody tr")) == 3
    assert len(browser.find_elements(By.CSS_SELECTOR, ".matrix tbody td")) == len(CLASSES) ** 2
    assert "batch_norm" in browser.find_element(By.CSS_SELECTOR, "tr.chosen").text


def test_its_images_and_figures_are_drawn(
    browser: webdriver.Chrome, address: str, width: int
) -> None:
    open_page(browser, address, width)

    images = browser.execute_script(
        "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.width])"
    )
    assert len(images) == 24
    assert all(natural == [28, 28] and shown > 50 for *natural, shown in images)
    figures = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(f => {"
        " const box = f.getBoundingClientRect(); return [box.width, box.height] })"
    )
    assert len(figures) == 3
    assert all(figure_width > 300 and height > 150 for figure_width, height in figures)


@pytest.mark.parametrize(
    "names",
    [
        CLASSES,
        ["a_long_name_of_a_class_without_a_gap"] * 10,
        ["endless" * 50] * 10,
        [f"species {number}" for number in range(100)],
        [f"a_long_name_of_a_class_without_a_gap_{number}" for number in range(1_000)],
    ],
    ids=["few", "long", "endless", "100", "1000"],
)
def test_nothing_is_wider_than_the_screen(
    browser: webdriver.Chrome, tmp_path: Path, width: int, names: Sequence[str]
) -> None:
    run = fabricate(tmp_path, classes=tuple(names))
    run["error"] = run["config_file"] = "a/very/long/path/of/a/file" * 10
    open_page(browser, report.write(Workspace(tmp_path), Run.parse(run, origin="")).as_uri(), width)
    assert_fits(browser, width)


def test_nothing_of_the_page_of_all_models_is_wider_than_the_screen(
    browser: webdriver.Chrome, tmp_path: Path, width: int
) -> None:
    workspace, name = Workspace(tmp_path), "a_long_name_of_a_class_without_a_gap" * 5
    version = add_run(workspace, 1)
    looked = documents.look(version=version, classes=(name, "bright"))
    looked.save(workspace.look(registered.NAME))
    open_page(browser, site.write(workspace).as_uri(), width)
    assert "✗ Drift: predicted classes" in browser.find_element(By.TAG_NAME, "main").text
    assert_fits(browser, width)


def assert_fits(browser: webdriver.Chrome, width: int) -> None:
    """Nothing of a page is beyond the edge of the screen but what scrolls in a frame of its own."""
    assert browser.execute_script("return innerWidth") == width
    too_wide = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert browser.execute_script(too_wide) <= 0
    # Only a table's own frame may scroll.
    outside = browser.execute_script(
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter(e => !e.closest('.scroll > *') && !e.closest('svg') && !e.closest('details'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    assert outside == []


def test_with_a_hundred_classes_the_matrix_is_a_picture_beside_the_weakest(
    browser: webdriver.Chrome, tmp_path: Path, scheme: str
) -> None:
    names = tuple(f"species {number}" for number in range(100))
    labels = np.arange(3_000) % 100
    images = np.zeros((3_000, 28, 28), np.uint8)
    run = fabricate(tmp_path, images=images, labels=labels, classes=names)
    address = report.write(Workspace(tmp_path), Run.parse(run, origin="")).as_uri()
    open_page(browser, address, 1280, scheme=scheme)

    drawn, left, table = browser.execute_script(
        "const map = document.querySelector('img.map'), box = map.getBoundingClientRect();"
        "const table = document.querySelector('[aria-label=\"Figures per class\"]');"
        "return [[map.naturalWidth, box.width, box.height], box.left,"
        " table.getBoundingClientRect().right]"
    )
    natural, width, height = drawn
    assert natural == 100
    assert width == pytest.approx(height)
    assert width > 400
    assert left > table, "side by side"
    # The diagonal is darker than what is beside it, on either paper.
    image = Image.open(
        io.BytesIO(browser.find_element(By.CSS_SELECTOR, "img.map").screenshot_as_png)
    )
    cell = image.width / 100

    def shade(row: float, column: float) -> Any:
        pixel = image.convert("RGB").getpixel((int(column * cell), int(row * cell)))
        return np.asarray(pixel, float)

    paper = shade(40.5, 90.5)
    assert all(np.abs(shade(i + 0.5, i + 0.5) - paper).max() > 60 for i in range(0, 100, 7))


def test_text_has_contrast_in_both_schemes(
    browser: webdriver.Chrome, address: str, scheme: str
) -> None:
    open_page(browser, address, 1280, scheme=scheme)

    colours = {
        name: luminance(browser.execute_script(RESOLVED_COLOUR, f"var(--{name})"))
        for name in ("paper", "ink", "muted", "accent", "good", "bad", "warn", *_series())
    }

    assert (colours["paper"] > 0.5) == (scheme == "light")
    faint = {
        name: round(ratio, 2)
        for name, colour in colours.items()
        if name != "paper" and (ratio := contrast(colour, colours["paper"])) < 4.5
    }
    assert faint == {}, "WCAG AA asks for 4.5"


def test_figures_take_the_schemes_colours(browser: webdriver.Chrome, address: str) -> None:
    stroke = "return getComputedStyle(document.querySelector('#accuracy-line2d_1 path')).stroke"
    open_page(browser, address, 1280, scheme="light")
    light = browser.execute_script(stroke)
    open_page(browser, address, 1280, scheme="dark")
    assert browser.execute_script(stroke) != light


def _series() -> list[str]:
    return [f"series-{place}" for place in range(6)]
