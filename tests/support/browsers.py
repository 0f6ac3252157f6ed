"""A real browser for tests of pages: Chromium or Chrome with its driver.

Those of this machine (Debian: chromium, chromium-driver), or else what Selenium's own manager
fetches.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.selenium_manager import SeleniumManager

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

WIDTHS = (390, 1280)  # a phone, a desktop

RESOLVED_COLOUR = """
const probe = document.body.appendChild(document.createElement('i'));
probe.style.color = arguments[0];
const colour = getComputedStyle(probe).color;
probe.remove();
return colour.match(/\\d+/g).slice(0, 3).map(Number);
"""
"""A script that returns red, green and blue of a colour as CSS has it, such as `var(--ink)`."""


@contextlib.contextmanager
def started(profile: Path, *flags: str) -> Iterator[webdriver.Chrome]:
    """Start a browser with a new profile and more flags; it is over when the body is."""
    options = webdriver.ChromeOptions()
    options.binary_location, driver_path = _installed() or _fetched()
    for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        yield driver
    finally:
        driver.quit()


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
    ran = subprocess.run(version, capture_output=True, text=True, check=False)
    if ran.returncode:
        leave_out("browser", why=f"the fetched one does not start: {ran.stderr}", to_do=_TO_DO)
    return found["browser_path"], found["driver_path"]


def open_page(
    browser: webdriver.Chrome, address: str, width: int, *, scheme: str = "light"
) -> None:
    """Load a page at a width and in a colour scheme."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)


def read_log(browser: webdriver.Chrome, kind: str) -> list[Any]:
    """Return what a log says since it was last read: `browser` or `performance`."""
    # Selenium types the method for remote drivers only.
    return list(browser.get_log(kind))  # type: ignore[no-untyped-call]


def requests(browser: webdriver.Chrome) -> list[str]:
    """Return what the browser asked for since the log was last read, other than data URIs."""
    events = [json.loads(entry["message"])["message"] for entry in read_log(browser, "performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in asked if not url.startswith("data:")]


def luminance(colour: list[int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    """Contrast of two luminances as WCAG 2 defines it."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
