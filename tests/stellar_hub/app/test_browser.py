"""The page in Chromium, as a person uses it: mouse, keyboard, a phone.

`APP_SCREENSHOT=docs/images/app.png python -m pytest tests/stellar_hub/app/test_browser.py -k screenshot` keeps a
picture of the page.
"""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stellar_hub.app.desk import Desk
from stellar_hub.app.models import Models

from .running import running, uploads_folder

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)"),
]
DESKTOP, PHONE = (1280, 900), (390, 844)
SECONDS = 60_000  # ms that anything may take on a busy machine
DECODED = "#decoding img[src]"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(Desk(Models(["stellar-tiny"], "cpu")), uvicorn) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """One window on the page, which notes what should not happen.

    Attributes:
        page: Playwright's page.
        faults: Errors in the console, failed answers, and requests to other hosts.
    """

    def __init__(self, browser: Any, address: str, size: tuple[int, int] = DESKTOP, scheme: str = "light"):
        window = {"width": size[0], "height": size[1]}
        self.page = browser.new_context(viewport=window, color_scheme=scheme).new_page()
        self.page.set_default_timeout(SECONDS)
        self.faults: list[str] = []
        own = (address, "data:", "blob:")
        self.page.on("console", lambda line: line.type == "error" and self.faults.append(line.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda sent: sent.url.startswith(own) or self.faults.append(sent.url))
        self.page.on("response", lambda got: got.status >= 400 and self.faults.append(f"{got.status} {got.url}"))
        self.page.goto(address)
        self.page.wait_for_selector(DECODED)

    def decoding(self) -> str:
        """The address of the decoded image, which holds its pixels."""
        return str(self.page.locator("#decoding img").get_attribute("src"))

    def changed(self, before: str) -> str:
        """Waits until the decoded image is another one; returns its caption."""
        self.page.wait_for_function(
            "before => document.querySelector('#decoding img').getAttribute('src') !== before", arg=before
        )
        return str(self.page.locator("#decoding figcaption").inner_text())

    def click_image(self, board: str, across: float, down: float) -> None:
        """Clicks a place, in shares of the image, and waits until its token is chosen."""
        frame = self.page.locator(f"#{board} .frame")
        box = frame.bounding_box()
        frame.click(position={"x": across * box["width"], "y": down * box["height"]})
        self.page.wait_for_selector("#maps button[aria-pressed=true]")

    def leave(self) -> None:
        """Closes the window; nothing may have gone wrong."""
        self.page.context.close()
        assert self.faults == []


def test_visit__upload_click_drop_undo(browser: Any, address: str, photo: Path) -> None:
    visit = Visit(browser, address)
    before = visit.decoding()
    visit.page.locator("#upload input").set_input_files(str(photo))
    visit.changed(before)
    assert "my coffee.jpg" in visit.page.locator("#photograph figcaption").inner_text()
    assert not list(uploads_folder().rglob("*.jpg"))
    visit.click_image("photograph", 0.5, 0.5)
    uploaded = visit.decoding()
    visit.page.click("#drop")
    assert "edited" in visit.changed(uploaded)
    assert "drop_tokens(encoding, tokens=[" in visit.page.locator("#code .cm-content").inner_text()
    dropped = visit.decoding()
    visit.page.click("#undo")
    visit.changed(dropped)
    assert visit.decoding() == uploaded
    visit.leave()


def test_visit__drags_a_token_with_the_mouse(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    frame = visit.page.locator("#decoding .frame")
    frame.scroll_into_view_if_needed()
    box, before = frame.bounding_box(), visit.decoding()
    visit.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    visit.page.mouse.up()
    visit.changed(before)
    assert float(visit.page.locator("#columns input[type=number]").input_value()) > 0
    visit.leave()


def test_visit__works_by_keyboard_alone(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    visit.page.locator("#maps button").nth(3).focus()
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#maps button[aria-pressed=true][data-key='3']")
    visit.page.locator("#photograph .frame").focus()
    for key in ("ArrowRight", "ArrowDown", "Delete", "Control+z", "Control+z"):
        before = visit.decoding()
        visit.page.keyboard.press(key)
        visit.changed(before)
    before = visit.decoding()
    visit.page.locator("#columns input[type=range]").focus()
    visit.page.keyboard.press("ArrowRight")
    visit.changed(before)
    before = visit.decoding()
    visit.page.locator("#reset").focus()
    visit.page.keyboard.press("Enter")
    visit.changed(before)
    visit.leave()


def test_visit__damaged_file_is_a_sentence(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    before = visit.decoding()
    file = {"name": "<img src=x onerror=alert(1)>.jpg", "mimeType": "image/jpeg", "buffer": b"no image"}
    visit.page.locator("#upload input").set_input_files([file])
    visit.page.wait_for_selector("#message textarea")
    assert "cannot be read as an image" in visit.page.locator("#message textarea").input_value()
    assert visit.decoding() == before
    assert visit.page.locator("img[src=x]").count() == 0
    visit.page.locator("#examples button").first.click()
    visit.changed(before)
    visit.leave()


def test_visit__transplants_and_compares(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    visit.page.get_by_role("tab", name="Second image").click()
    visit.page.locator("#examples-second button").nth(4).click()
    visit.page.wait_for_selector("#second img[src]")
    before = visit.decoding()
    visit.page.click("#transplant")
    visit.changed(before)
    assert visit.page.locator("#maps button").count() == 17
    visit.page.get_by_role("tab", name="Compare").click()
    visit.page.click("#compare")
    visit.page.wait_for_selector("#comparison img")
    visit.leave()


def test_two_visits__do_not_mix(browser: Any, address: str) -> None:
    one, other = Visit(browser, address), Visit(browser, address)
    before = other.decoding()
    one.page.locator("#examples button").nth(1).click()
    one.changed(before)
    other.click_image("tokens", 0.5, 0.5)
    assert other.decoding() == before
    one.leave()
    other.leave()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone__needs_no_scrolling_to_the_side(browser: Any, address: str, scheme: str) -> None:
    visit = Visit(browser, address, PHONE, scheme)
    visit.click_image("photograph", 0.5, 0.5)
    for tab in ("Second image", "Compare", "Python"):
        visit.page.get_by_role("tab", name=tab).click()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    visit.leave()


def test_screenshot__is_kept_where_it_is_asked_for(browser: Any, address: str) -> None:
    target = os.environ.get("APP_SCREENSHOT")
    visit = Visit(browser, address, (1100, 900))
    before = visit.decoding()
    visit.page.locator("#examples button").nth(3).click()
    visit.changed(before)
    visit.click_image("photograph", 0.1, 0.65)
    picture = Image.open(io.BytesIO(visit.page.screenshot(full_page=True)))
    assert picture.width == 1100
    if target:
        picture.convert("RGB").save(target, optimize=True)
    visit.leave()
