"""The report in a real browser: it loads by itself, without an error, and fits phone and desktop.

In Chromium or Chrome with its driver (Debian: chromium, chromium-driver), or else in what
Selenium's own manager fetches.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.selenium_manager import SeleniumManager

from mlpipeline.runs import report
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run
from support.fabricated_run import CLASSES, fabricate
from support.not_tested import leave_out

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # for root, as in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_TO_DO = "install a browser and its driver: apt-get install chromium chromium-driver"
_WIDTHS = (390, 1280)  # a phone, a desktop

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location, driver_path = _installed() or _fetched()
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    workspace = tmp_path_factory.mktemp("workspace")
    return report.write(Workspace(workspace), Run.parse(fabricate(workspace), origin="")).as_uri()


@pytest.fixture(params=_WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_loads_without_an_error_or_a_request(browser: webdriver.Chrome, address: str) -> None:
    _read_log(browser, "browser")
    _read_log(browser, "performance")

    browser.get(address)

    assert _read_log(browser, "browser") == []
    assert _requests(browser) == [address]
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
    _open(browser, address, width)

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
    _open(browser, report.write(Workspace(tmp_path), Run.parse(run, origin="")).as_uri(), width)

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
    _open(browser, address, 1280, scheme=scheme)

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
    _open(browser, address, 1280, scheme=scheme)

    colours = {
        name: _luminance(browser.execute_script(_RESOLVED_COLOUR, f"var(--{name})"))
        for name in ("paper", "ink", "muted", "accent", "good", "bad", "warn", *_series())
    }

    assert (colours["paper"] > 0.5) == (scheme == "light")
    faint = {
        name: round(ratio, 2)
        for name, colour in colours.items()
        if name != "paper" and (ratio := _contrast(colour, colours["paper"])) < 4.5
    }
    assert faint == {}, "WCAG AA asks for 4.5"


def test_figures_take_the_schemes_colours(browser: webdriver.Chrome, address: str) -> None:
    stroke = "return getComputedStyle(document.querySelector('#accuracy-line2d_1 path')).stroke"
    _open(browser, address, 1280, scheme="light")
    light = browser.execute_script(stroke)
    _open(browser, address, 1280, scheme="dark")
    assert browser.execute_script(stroke) != light


_RESOLVED_COLOUR = """
const probe = document.body.appendChild(document.createElement('i'));
probe.style.color = arguments[0];
const colour = getComputedStyle(probe).color;
probe.remove();
return colour.match(/\\d+/g).slice(0, 3).map(Number);
"""


def _installed() -> tuple[str, str] | None:
    """Return the browser and the driver of this machine."""
    browser = _first("chromium", "chromium-browser", "google-chrome")
    driver = _first("chromedriver")
    return (browser, driver) if browser and driver else None


def _first(*programs: str) -> str | None:
    return next(filter(None, map(shutil.which, programs)), None)


def _fetched() -> tuple[str, str]:
    """Return a browser and a driver that Selenium's manager has fetched, into ~/.cache/selenium.

    It fits one to the other, and takes the browser of this machine where only the driver lacks.
    """
    os.environ["SE_AVOID_STATS"] = "true"  # nobody is told
    try:
        found = SeleniumManager().binary_paths(["--browser", "chrome"])
    except WebDriverException as error:
        leave_out("browser", why=f"Selenium's manager says: {error.msg}", to_do=_TO_DO)
    # A machine without a desktop may lack the libraries that a browser needs.
    version = [found["browser_path"], "--version"]
    started = subprocess.run(version, capture_output=True, text=True, check=False)
    if started.returncode:
        leave_out("browser", why=f"the fetched one does not start: {started.stderr}", to_do=_TO_DO)
    return found["browser_path"], found["driver_path"]


def _open(browser: webdriver.Chrome, address: str, width: int, *, scheme: str = "light") -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)


def _read_log(browser: webdriver.Chrome, kind: str) -> list[Any]:
    # Selenium types the method for remote drivers only.
    return list(browser.get_log(kind))  # type: ignore[no-untyped-call]


def _requests(browser: webdriver.Chrome) -> list[str]:
    """Return what the browser asked for since the log was last read, other than data URIs."""
    events = [
        json.loads(entry["message"])["message"] for entry in _read_log(browser, "performance")
    ]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in asked if not url.startswith("data:")]


def _series() -> list[str]:
    return [f"series-{place}" for place in range(6)]


def _luminance(colour: list[int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
