"""The page to try a model in a real browser, at a replica and at a front.

It loads by itself and without an error, prepares a picture as `mlpipeline predict` does, and can be
used by mouse, by keyboard, on a phone and in the dark.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from mlpipeline.backends.local.processes import python_m
from mlpipeline.cli import prediction
from mlpipeline.events import schema
from mlpipeline.image_files import ImageKind, Preparation
from mlpipeline.plan.commands import predictor_arguments
from mlpipeline.plan.config import Serving
from mlpipeline.serving import model as models
from mlpipeline.serving.model import PublishedModel
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.selection import Examples
from support import browsers
from support.browsers import (
    RESOLVED_COLOUR,
    WIDTHS,
    contrast,
    luminance,
    open_page,
    read_log,
    requests,
)
from support.model_servers import NAME, Ports, publish, started, started_front

ATTACK = "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
CLASSES = (ATTACK, "a_long_name_of_a_class_without_a_gap" * 4, *(f"class {n}" for n in range(8)))
IMAGES = np.random.default_rng(5).integers(0, 256, (10, 28, 28), np.uint8)
KIND = ImageKind((28, 28), 1, "pad", dark_ground=True)
SECONDS = 20
NAME_OF_OURS = "page.test"  # by plain HTTP, and so no secure context

pytestmark = pytest.mark.timeout(240)


@dataclass
class Service:
    """A replica that takes feedback, another that does not, and a front of each."""

    workspace: Workspace
    model: PublishedModel
    addresses: dict[str, str]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    logs = tmp_path_factory.mktemp("logs")
    folder = workspace.model(NAME, "v1").path
    examples = Examples.of(IMAGES, np.arange(10))
    publish(folder, IMAGES[:1], examples=examples, classes=CLASSES, preparation=KIND)
    places = {name: Ports() for name in ("replica", "mute", "front")}
    with contextlib.ExitStack() as stack:
        for name, feedback in (("replica", "inbox"), ("mute", "")):
            arguments = predictor_arguments(
                NAME,
                "v1",
                workspace=workspace,
                serving=Serving(feedback=feedback),
                port=places[name].http,
                grpc_port=places[name].grpc,
                replica=name,
            )
            server = stack.enter_context(started(python_m(arguments), logs / name))
            server.wait_until_ready()
        front = started_front([places["replica"]], places["front"], 1, logs / "front")
        stack.enter_context(front).wait_until_ready()
        addresses = {name: f"{ports.url}/" for name, ports in places.items()}
        yield Service(workspace, models.load(folder), addresses)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    names = f"--host-resolver-rules=MAP {NAME_OF_OURS} 127.0.0.1"
    with browsers.started(tmp_path_factory.mktemp("profile"), names) as driver:
        yield driver


@dataclass
class Page:
    """The page as somebody sees it."""

    browser: webdriver.Chrome

    def open(self, address: str, width: int = 1280, scheme: str = "light") -> Page:
        open_page(self.browser, address, width, scheme=scheme)
        self._until("return document.querySelectorAll('#thumbnails button').length")
        return self

    def choose(self, file: Path) -> str:
        return self.after(lambda: self.find("#file").send_keys(str(file)))

    def after(self, action: Any) -> str:
        """Do something that asks the model, and return what the answer begins with."""
        self.run("document.getElementById('status').textContent = ''")
        action()
        self._until("return document.getElementById('status').className === 'verdict '")
        return self.text("#status")

    def seen(self) -> NDArray[np.uint8]:
        """Return the image that the page shows as the model's."""
        pixels = self.run(
            "const c = document.getElementById('seen');"
            "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )
        return np.array(pixels, np.uint8).reshape(28, 28, 4)[..., 0]

    def probabilities(self) -> dict[str, float]:
        rows = self.browser.find_elements(By.CSS_SELECTOR, "#probabilities tr")
        texts = [
            [row.find_element(By.CSS_SELECTOR, each).text for each in ("th", ".number")]
            for row in rows
        ]
        return {name: float(percent.rstrip("%")) / 100 for name, percent in texts}

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until_text(self, selector: str, part: str) -> str:
        WebDriverWait(self.browser, SECONDS).until(lambda _: part in self.text(selector))
        return self.text(selector)

    def _until(self, script: str) -> None:
        WebDriverWait(self.browser, SECONDS).until(lambda _: self.run(script))


@pytest.fixture(params=["replica", "front"])
def page(browser: webdriver.Chrome, service: Service, request: pytest.FixtureRequest) -> Page:
    return Page(browser).open(service.addresses[request.param])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A trouser, dark on a bright ground, higher than wide."""
    picture = Image.new("RGB", (300, 400), "white")
    outline = [(90, 30), (210, 30), (230, 380), (165, 380), (150, 120), (135, 380), (70, 380)]
    ImageDraw.Draw(picture).polygon(outline, fill="navy")
    picture.save(file := tmp_path / "trouser.png")
    return file


# --- it loads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["replica", "front"])
def test_it_loads_without_an_error_and_asks_nobody_else(
    browser: webdriver.Chrome, service: Service, place: str
) -> None:
    read_log(browser, "browser")
    read_log(browser, "performance")

    Page(browser).open(service.addresses[place])

    assert read_log(browser, "browser") == []
    parts = ("", "page/page.css", "page/page.js", "page/preparation.js", "page/about.json")
    assert sorted(requests(browser)) == sorted(service.addresses[place] + part for part in parts)


def test_the_name_of_a_class_is_text_whatever_it_is(page: Page) -> None:
    assert page.text("#name") == NAME
    names = [each.text for each in page.browser.find_elements(By.CSS_SELECTOR, "#thumbnails span")]
    assert names == list(CLASSES)
    page.after(lambda: page.find("#thumbnails button").click())
    assert set(page.probabilities()) == set(CLASSES)
    assert page.run("return window.attacked") is None
    assert page.run("return document.images.length + document.scripts.length") == 1


# --- it is asked ------------------------------------------------------------------------------


def test_a_file_is_answered_as_predict_answers_it(page: Page, service: Service, file: Path) -> None:
    verdict = page.choose(file)

    read = prediction.read_image(file, service.model)
    (expected,) = service.model.predict(read.pixels[np.newaxis])
    assert np.abs(page.seen().astype(int) - read.pixels).max() <= 1
    assert verdict.startswith(CLASSES[expected.argmax()])
    shown = page.probabilities()
    assert list(shown) == [CLASSES[place] for place in np.argsort(-expected)]
    np.testing.assert_allclose([shown[name] for name in CLASSES], expected, atol=0.01)
    assert "inverted" in page.text("#notes")
    assert read.inverted
    assert "version v1" in page.text("#served-by")
    assert "replica" in page.text("#served-by")


def test_a_photo_that_was_held_on_its_side_is_turned(page: Page, tmp_path: Path) -> None:
    picture = Image.fromarray(np.repeat(np.repeat(IMAGES[0], 10, 0), 10, 1)).crop((0, 0, 280, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    page.choose(tmp_path / "photo.jpg")
    expected = Preparation.of(KIND).from_file((tmp_path / "photo.jpg").read_bytes()).pixels
    assert np.abs(page.seen().astype(int) - expected).mean() < 4, "decoders differ by a little"
    assert np.abs(page.seen()[::-1].astype(int) - expected).mean() > 20


_HANDED = """
const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "it.png", {type: "image/png"}));
const kind = arguments[1], options = {bubbles: true, cancelable: true};
document.body.dispatchEvent(kind === "drop"
  ? new DragEvent("drop", {...options, dataTransfer: data})
  : new ClipboardEvent("paste", {...options, clipboardData: data}));
"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page: Page, file: Path, kind: str) -> None:
    verdict = page.choose(file)
    content = base64.b64encode(file.read_bytes()).decode()
    page.after(lambda: page.find("#thumbnails button").click())
    assert page.after(lambda: page.run(_HANDED, content, kind)) == verdict


def test_a_drawing_is_answered_and_can_be_cleared(page: Page) -> None:
    drawing = page.find("#drawing")
    line = ActionChains(page.browser).move_to_element_with_offset(drawing, -80, -80)
    page.after(line.click_and_hold().move_by_offset(160, 160).release().perform)
    assert page.seen()[0, 27] == page.seen()[27, 0] == 0
    assert page.seen()[14, 14] == 255
    page.find("#clear").click()
    is_white = (
        "return arguments[0].getContext('2d').getImageData(0, 0, 280, 280).data"
        ".every(value => value === 255)"
    )
    assert page.run(is_white, drawing)


def test_what_is_no_image_is_said_to_be_none(page: Page, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear reader")
    page.find("#file").send_keys(str(tmp_path / "letter.png"))
    assert "letter.png" in page.until_text("#status", "cannot read")
    assert not page.find("#answer").is_displayed()


def test_the_keyboard_is_enough(page: Page) -> None:
    keys = ActionChains(page.browser)
    reached = []
    for _ in range(2 + len(CLASSES)):
        keys.send_keys(Keys.TAB).perform()
        reached.append(page.run("const e = document.activeElement; return e.id || e.textContent"))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert page.run(outline) == "solid" or reached[-1] == "file"  # that is its label's
    assert reached == ["file", "clear", *CLASSES]
    page.after(keys.send_keys(Keys.ENTER).perform)
    np.testing.assert_array_equal(page.seen(), IMAGES[-1])
    assert page.run("return document.activeElement.ariaPressed") == "true"


def test_everything_has_a_name_for_who_does_not_see_it(page: Page, file: Path) -> None:
    page.choose(file)
    page.browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    shown = [node for node in nodes if not node["ignored"]]
    names = [(node["role"]["value"], node["name"]["value"]) for node in shown if "name" in node]
    needed = {"button", "combobox", "heading", "image", "table"}
    assert {role for role, name in names if role in needed and name} == needed
    assert [role for role, name in names if role in needed and not name] == []


# --- the same preparation ---------------------------------------------------------------------

_PREPARED = """
const [content, width, height, kind, done] = arguments;
const bytes = Uint8ClampedArray.from(atob(content), letter => letter.charCodeAt(0));
import("/page/preparation.js").then(({prepare}) => {
  const {pixels, asInTheFile, notes} = prepare(new ImageData(bytes, width, height), kind);
  done([[...pixels], [...asInTheFile], notes]);
}).catch(error => done(String(error)));
"""


def _pictures() -> dict[str, Image.Image]:
    chance = np.random.default_rng(11)
    # Of less contrast, so that few values have to be cut off at 0 or 255 between the two passes of
    # the filter: which of them comes first, Pillow decides by the sizes, and not always alike.
    noise = chance.integers(64, 192, (61, 97, 3), np.uint8)
    y, x = np.mgrid[:90, :70]
    disc = (np.hypot(y - 45, x - 35) < 25).astype(np.uint8)
    soft = (255 * np.clip(26 - np.hypot(y - 45, x - 35), 0, 1)).astype(np.uint8)

    def cut_out(shade: int, opacity: NDArray[np.uint8]) -> Image.Image:
        grey = np.full((90, 70, 3), shade, np.uint8)
        return Image.fromarray(np.dstack([grey, opacity]))

    return {
        "noise": Image.fromarray(noise),
        "tall": Image.fromarray(noise.transpose(1, 0, 2)),
        "tiny": Image.fromarray(noise[:5, :3]),
        "one pixel": Image.fromarray(noise[:1, :1]),
        "long": Image.fromarray(noise[:3]),
        "smooth": Image.fromarray(np.dstack([y * 2, x * 3, 255 - y]).astype(np.uint8)),
        "dark on bright": Image.fromarray(np.dstack([255 - 200 * disc] * 3)),
        "bright on dark": Image.fromarray(np.dstack([200 * disc] * 3)),
        "blank": Image.new("RGB", (40, 40), (77, 78, 77)),
        "dark cut out": cut_out(30, soft),
        "bright cut out": cut_out(150, soft),
        "very bright cut out": cut_out(240, soft),
        "nothing": cut_out(0, 0 * soft),
        "veil": cut_out(160, np.full((90, 70), 90, np.uint8)),
    }


@pytest.mark.parametrize(
    "kind",
    [
        ImageKind((28, 28), 1, "stretch", dark_ground=True),
        ImageKind((28, 28), 1, "crop", dark_ground=True),
        ImageKind((28, 28), 1, "pad", dark_ground=True),
        ImageKind((28, 28), 1, "stretch"),
        ImageKind((32, 48), 3, "crop"),
        ImageKind((48, 32), 3, "pad", dark_ground=True),
        ImageKind((120, 130), 3, "stretch"),
    ],
    ids=lambda kind: f"{kind.size} {kind.channels} {kind.fit} {kind.dark_ground}",
)
def test_a_picture_becomes_the_image_that_pillow_makes_of_it(
    browser: webdriver.Chrome, service: Service, kind: ImageKind
) -> None:
    browser.get(service.addresses["mute"])
    browser.set_script_timeout(SECONDS)
    for name, picture in _pictures().items():
        with io.BytesIO() as stream:
            picture.save(stream, "PNG")
            expected = Preparation.of(kind).from_file(stream.getvalue())
        rgba = base64.b64encode(picture.convert("RGBA").tobytes()).decode()
        made = browser.execute_async_script(_PREPARED, rgba, *picture.size, asdict(kind))
        pixels, as_in_the_file, notes = made
        for mine, its in ((pixels, expected.pixels), (as_in_the_file, expected.as_in_the_file)):
            differences = np.abs(np.array(mine) - its.ravel().astype(int))
            assert differences.max() <= 16, name
            assert (differences > 1).mean() < 0.05, name
        assert [note.lower().rstrip(".") for note in notes] == list(expected.notes), name


# --- feedback ---------------------------------------------------------------------------------


def test_a_correction_comes_into_the_inbox(page: Page, service: Service, file: Path) -> None:
    page.choose(file)
    predicted = next(iter(page.probabilities()))
    choices = Select(page.find("#right"))
    assert predicted not in [each.text for each in choices.options]
    choices.select_by_visible_text("class 5" if predicted != "class 5" else "class 6")
    label = choices.first_selected_option.text
    page.find("#feedback button").click()
    said = page.until_text("#thanks", "Sent as")

    (posted,) = [each for each in service.workspace.inbox.waiting() if each.stem in said]
    event = schema.read_posted(posted)
    assert isinstance(event, schema.FeedbackEvent)
    assert {each.label for each in event.corrections} == {label}
    seen = page.seen()
    keys = {hashlib.sha256(each.tobytes()).hexdigest() for each in (seen, 255 - seen)}
    assert {each.image for each in event.corrections} == keys
    assert not page.find("#feedback button").is_enabled()


def test_there_is_no_button_where_it_is_not_allowed(
    browser: webdriver.Chrome, service: Service, file: Path
) -> None:
    page = Page(browser).open(service.addresses["mute"])
    page.choose(file)
    assert page.find("#answer").is_displayed()
    assert not page.find("#feedback").is_displayed()


def test_a_name_that_may_lead_elsewhere_tomorrow_takes_no_feedback(
    browser: webdriver.Chrome, service: Service, file: Path
) -> None:
    address = service.addresses["replica"].replace("127.0.0.1", NAME_OF_OURS)
    page = Page(browser).open(address)
    page.choose(file)
    assert not page.find("#feedback").is_displayed()
    assert "HTTPS or at localhost" in page.text("#no-feedback")
    posting = (
        "const done = arguments[0], headers = {'content-type': 'application/json'};"
        "fetch('page/feedback', {method: 'POST', headers, body: '{}'})"
        ".then(async response => done([response.status, await response.text()]))"
    )
    status, why = browser.execute_async_script(posting)
    assert status == 400
    assert f"from http://{NAME_OF_OURS}" in why


def test_what_the_test_split_says_cannot_be_corrected(page: Page) -> None:
    page.after(lambda: page.find("#thumbnails button").click())
    assert not page.find("#feedback").is_displayed()


# --- how it looks -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(
    browser: webdriver.Chrome, service: Service, file: Path, width: int
) -> None:
    page = Page(browser).open(service.addresses["replica"], width)
    page.choose(file)
    assert page.run("return innerWidth") == width
    outside = page.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => !e.closest('option, .visually-hidden'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    assert outside == []
    verdict = page.find("#status").rect
    assert 0 <= verdict["y"] - page.run("return scrollY") <= 900 - verdict["height"] or width > 600


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: webdriver.Chrome, service: Service, scheme: str) -> None:
    page = Page(browser).open(service.addresses["replica"], scheme=scheme)
    names = ("paper", "raised", "ink", "muted", "accent", "on-accent", "bad")
    colours = {name: luminance(page.run(RESOLVED_COLOUR, f"var(--{name})")) for name in names}
    assert (colours["paper"] > 0.5) == (scheme == "light")
    for ground in ("paper", "raised"):
        for text in ("ink", "muted", "bad"):
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
