"""The page in a real browser, over a worker's data folder with a classified head and every other outcome.

`python -m tests.acceptance.test_pages FOLDER`, which is `make screenshots`, writes the pictures of docs/screenshots.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.testbed import filled
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.testbed.filled import Filled
from worker.web.app import create_app
from worker.web.monthly_report import write_report, written_months

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
WAIT = 60_000  # ms: a machine may be busy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@dataclass(frozen=True)
class Web:
    """The served pages and a browser."""

    address: str
    filled: Filled
    browser: Any

    def pages(self) -> dict[str, str]:
        series = f"/series/{self.filled.mass}"
        refused = f"/series/{self.filled.refused}"
        study = f"/studies/{self.filled.study}"
        names = {"worklist": "/", "study": study, "series": series, "refused": refused}
        names |= {
            "reports": "/reports",
            "report": f"/reports/{written_months(self.filled.settings.worker.data_dir)[0]}",
        }
        return names | {name: f"/{name}" for name in ("queue", "peers", "models", "activity", "api")}


@contextmanager
def serving(folder: Path, others: int) -> Iterator[Web]:
    now = datetime.now(UTC)
    content = filled.fill(folder, now, others)
    write_report(content.database, content.settings.worker.data_dir, f"{now:%Y-%m}", now)
    app = create_app(content.settings, content.database)
    with filled.served(app) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=WAIT)
        yield Web(address, content, browser)
        browser.close()
    content.database.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("pages"), others=52) as running:
        yield running


@pytest.fixture(params=["desktop-light", "phone-dark"])
def page(web: Web, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of one size and scheme that fails on any script error, refused policy or request to another host."""
    with _open(web, *request.param.split("-")) as (page, faults):
        yield page
        assert faults == []


@contextmanager
def _open(web: Web, size: str, scheme: str) -> Iterator[tuple[Any, list[str]]]:
    width, height = SIZES[size]
    context = web.browser.new_context(
        base_url=web.address,
        viewport={"width": width, "height": height},
        has_touch=size == "phone",
        color_scheme=scheme,
        timezone_id="UTC",
    )
    context.set_default_timeout(WAIT)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda line: faults.append(line.text) if "Content Security" in line.text or "a drag" in line.text else None,
    )
    page.on("request", lambda sent: None if sent.url.startswith((web.address, "data:")) else faults.append(sent.url))
    try:
        yield page, faults
    finally:
        context.close()


# Words of tables and cards that stand on two lines; UIDs, hashes and names of files may.
BROKEN_WORDS = """[...document.querySelectorAll("td, th, .series-card")].flatMap((cell) => {
  const broken = [];
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    if (texts.currentNode.parentElement.closest("code, .breaks")) continue;
    for (const word of texts.currentNode.data.matchAll(/[^\\s/-]+/g)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
    }
  }
  return broken;
})"""


def test_every_page_is_accessible_fits_and_says_research_use(web: Web, page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for path in web.pages().values():
        assert page.goto(path).status == 200
        assert "Research use only" in page.inner_text("body > .warning")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"
        assert page.evaluate(BROKEN_WORDS) == [], path
        violations = Axe().run(page).response["violations"]
        serious = [
            (violation["id"], violation["nodes"][0]["html"])
            for violation in violations
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == [], path


def test_search_filters_and_pages(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, _):
        page.goto("/")
        rows = page.locator("tbody.study")
        assert rows.count() == 50
        page.get_by_role("link", name="Older").click()
        page.get_by_role("link", name="Newer").wait_for()
        assert 0 < rows.count() < 50
        page.get_by_label("Search").fill("fontaine^hugo")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Clear").wait_for()
        assert "Fontaine, Hugo" in rows.first.inner_text()
        page.get_by_label("Search").fill("%")
        page.keyboard.press("Enter")
        page.get_by_text("No study matches").wait_for()


def test_a_row_unfolds_to_its_series_without_a_script_and_stays_so(web: Web) -> None:
    context = web.browser.new_context(base_url=web.address, java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto("/?text=Fontaine+Hugo")
    row = page.locator("tbody.study").first
    assert "2 of 4" in row.locator("tr").first.inner_text()
    assert [mark.inner_text() for mark in row.locator(".mark").all()] == ["MR", "FLAIR", "T1 +C"]
    series = row.get_by_role("link", name="Localizer")
    assert not series.is_visible()
    row.locator("summary").click()
    assert series.is_visible()
    assert "refused" in row.locator(".of-study").inner_text()
    context.close()
    with _open(web, "desktop", "light") as (page, faults):
        page.goto("/")
        page.locator("summary").nth(2).click()
        opened = page.locator("details[open]").get_attribute("id")
        page.evaluate("htmx.ajax('GET', '/', {target: '#list', select: '#list', swap: 'outerHTML'})")
        page.wait_for_function("() => !document.querySelector('.htmx-request')")
        assert page.locator("details[open]").get_attribute("id") == opened
        assert faults == []


def test_slices_scroll_by_keyboard_and_the_map_lies_on_the_key_slices(web: Web) -> None:
    with _open(web, "desktop", "dark") as (page, _):
        page.goto(f"/series/{web.filled.mass}")
        viewer, position = page.locator("#viewer"), page.locator("#position")
        count = int(viewer.get_attribute("data-count"))
        assert count == 24
        assert page.locator("#viewer .map").is_visible()
        page.locator("#place").get_by_text("mm").wait_for()
        letters = {
            name: page.locator(f"[data-edge={name}]").inner_text() for name in ("left", "right", "top", "bottom")
        }
        assert letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
        page.keyboard.press("Home")
        assert position.inner_text() == f"1 / {count}"
        page.locator("#viewer .slice[src$='/0.png']").wait_for()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        assert position.inner_text() == f"2 / {count}"
        page.locator("#viewer .slice[src$='/1.png']").wait_for()
        assert page.locator("#viewer .slice").evaluate("image => image.naturalWidth") >= 240
        page.mouse.move(*_middle(page))
        page.mouse.wheel(0, 120)
        page.wait_for_function("position.textContent.startsWith('3 /')")
        assert page.evaluate("scrollY") == 0
        viewer.focus()
        page.keyboard.press("PageDown")
        assert position.inner_text() == f"8 / {count}"


def test_key_slices_are_marked_on_the_scroll_bar_and_the_map_lies_on_them_or_beside(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, faults):
        page.goto(f"/series/{web.filled.mass}")
        key_slices = [int(text) for text in page.locator("#viewer").get_attribute("data-key-slices").split()]
        bar, marks = page.locator("#slice").bounding_box(), page.locator(".key-mark")
        for ordinal, mark in zip(key_slices, marks.all(), strict=True):
            box = mark.bounding_box()
            expected = bar["x"] + 8 + (bar["width"] - 16) * ordinal / 23
            assert abs(box["x"] + box["width"] / 2 - expected) < 1
        page.keyboard.press("Home")
        for ordinal in [*key_slices, key_slices[0]]:
            page.keyboard.press("k")
            assert page.locator("#position").inner_text() == f"{ordinal + 1} / 24"
        page.keyboard.press("Shift+K")
        assert page.locator("#key-slice").is_visible()
        marks.first.click(force=True)
        assert page.locator("#position").inner_text() == f"{key_slices[0] + 1} / 24"
        laid = page.locator("#viewer .map")
        assert laid.is_visible()
        page.keyboard.press("m")
        assert not laid.is_visible()
        page.get_by_role("button", name="Map", exact=False).first.click()
        assert laid.is_visible()
        page.keyboard.press("b")
        page.locator("#viewer .copy[src]").wait_for()
        left, right = (page.locator(f"#viewer {name}").bounding_box() for name in (".copy", ".map"))
        assert left["x"] + left["width"] <= right["x"] + 1
        assert (left["width"], left["height"]) == (right["width"], right["height"])
        page.keyboard.press("Home")
        page.locator("#viewer .copy[src$='/0.png']").wait_for()
        assert faults == []


def test_window_and_level_are_numbers_of_the_image_with_presets(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, faults):
        page.goto(f"/series/{web.filled.mass}")
        window, level, preset = (page.locator(f"#{name}") for name in ("window-value", "level-value", "preset"))
        page.locator("#window-value:enabled").wait_for()
        width, center = float(window.input_value()), float(level.input_value())
        shown = page.request.get(f"/series/{web.filled.mass}/slices/17.json").json()["range"]
        assert (width, center) == (round(shown[1] - shown[0]), round(sum(shown) / 2))
        window.fill(str(width / 2))
        window.press("Tab")
        page.locator("#viewer .slice[src*='?low=0.2'][src*='high=0.7']").wait_for()
        level.fill(str(shown[0]))
        level.press("Tab")
        page.locator("#viewer .slice[src*='?low=-0.2'][src*='high=0.2']").wait_for()
        assert preset.input_value() == ""
        preset.select_option("Low contrast")
        assert float(window.input_value()) == pytest.approx(2 * width, abs=1)
        page.locator("#viewer").focus()
        page.keyboard.press("w")
        assert preset.locator("option:checked").inner_text() == "Bright"
        page.keyboard.press("r")
        assert (preset.locator("option:checked").inner_text(), float(window.input_value())) == ("As stored", width)
        assert faults == []


def test_the_picture_is_enlarged_and_moved_by_mouse_keys_and_two_fingers(web: Web) -> None:
    transform = "new DOMMatrix(getComputedStyle(document.querySelector('#viewer .slice').parentElement).transform)"

    def view(page: Any) -> tuple[float, float, float]:
        return tuple(page.evaluate(f"(m => [m.a, m.e, m.f])({transform})"))

    with _open(web, "desktop", "light") as (page, faults):
        page.goto(f"/series/{web.filled.mass}")
        x, y = _middle(page)
        page.mouse.move(x, y)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -210)
        page.keyboard.up("Control")
        page.wait_for_function(f"{transform}.a > 1.9")
        before = view(page)
        assert before[1:] == pytest.approx((-x / 1 + page.locator("#viewer").bounding_box()["x"],) * 2, rel=0.1)
        page.keyboard.down("Shift")
        page.mouse.down()
        page.mouse.move(x + 50, y + 30, steps=3)
        page.mouse.up()
        page.keyboard.up("Shift")
        assert view(page) == pytest.approx((before[0], before[1] + 50, before[2] + 30), abs=1)
        assert _window_and_level(page) == (100, 50)
        page.keyboard.press("Shift+ArrowRight")
        assert view(page)[1] < before[1] + 50
        page.keyboard.press("f")
        assert view(page) == (1, 0, 0)
        page.keyboard.press("+")
        assert view(page)[0] == 1.25
        assert faults == []
    with _open(web, "phone", "light") as (page, faults):
        page.goto(f"/series/{web.filled.mass}")
        page.locator("#viewer").scroll_into_view_if_needed()
        x, y = _middle(page)
        touch = page.context.new_cdp_session(page)

        def send(kind: str, *xs: float) -> None:
            points = [{"x": place, "y": y, "id": number} for number, place in enumerate(xs)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        send("touchStart", x - 20)
        send("touchStart", x - 20, x + 20)
        for step in range(1, 7):
            send("touchMove", x - 20 - 5 * step, x + 20 + 5 * step)
        send("touchEnd")
        scale, left, _ = view(page)
        assert scale == pytest.approx(2.5, abs=0.2)
        assert _window_and_level(page) == (100, 50)
        send("touchStart", x)
        send("touchMove", x + 10)
        send("touchMove", x + 40)
        send("touchEnd")
        assert view(page)[1] > left + 20, "a finger moves an enlarged picture"
        assert _window_and_level(page) == (100, 50)
        assert faults == []


def test_a_picture_that_arrives_late_does_not_replace_the_window_chosen_since(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, _):
        page.goto(f"/series/{web.filled.mass}")
        page.locator("#viewer").focus()
        page.keyboard.press("Home")
        page.locator("#viewer .slice[src$='/0.png']").wait_for()
        held: list[Any] = []
        page.route("**/23.png", lambda route: held.append(route))
        page.keyboard.press("End")
        page.locator("#window").fill("50")
        page.locator("#viewer .slice[src*='/23.png?low=']").wait_for()
        with page.expect_response("**/23.png"):
            held.pop().continue_()
        page.wait_for_timeout(500)  # in which it would be shown
        assert "low=" in (page.locator("#viewer .slice").get_attribute("src") or "")


def test_dragging_changes_window_and_level_until_the_pointer_is_released(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, faults):
        page.goto(f"/series/{web.filled.mass}")
        page.locator("#viewer .slice[src$='.png']").wait_for()
        page.evaluate("addEventListener('dragstart', event => event.defaultPrevented || console.error('a drag'))")
        x, y = _middle(page)
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(1, 7):
            page.mouse.move(x + 10 * step, y + 5 * step)
        assert _window_and_level(page) == (100 + 60 / 3, 50 - 30 / 5)
        page.mouse.move(x + 5000, y)  # outside of the viewer and of the browser's window
        assert _window_and_level(page)[0] == 400
        page.mouse.move(x - 30, y - 25)
        page.mouse.up()
        assert _window_and_level(page) == (90, 55)
        for step in range(4):
            page.mouse.move(x + 20 * step, y)
        assert _window_and_level(page) == (90, 55), "hovering changes nothing"
        page.locator("#viewer .slice[src*='low=']").wait_for()
        assert faults == []


def test_a_finger_that_moves_sideways_changes_the_window_and_one_that_moves_up_scrolls(web: Web) -> None:
    with _open(web, "phone", "dark") as (page, _):
        page.goto(f"/series/{web.filled.mass}")
        page.locator("#viewer").scroll_into_view_if_needed()
        x, y = _middle(page)
        touch = page.context.new_cdp_session(page)

        def swipe(dx: float, dy: float) -> None:
            touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
            for step in range(1, 11):
                point = {"x": x + dx * step / 10, "y": y + dy * step / 10}
                touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        swipe(-90, 0)
        assert _window_and_level(page) == (70, 50)
        before = page.evaluate("scrollY")
        swipe(0, -150)
        page.wait_for_function("before => scrollY > before", arg=before)
        assert _window_and_level(page) == (70, 50)


def _middle(page: Any) -> tuple[float, float]:
    box = page.locator("#viewer").bounding_box()
    return box["x"] + box["width"] // 2, box["y"] + box["height"] // 2


def _window_and_level(page: Any) -> tuple[float, float]:
    return float(page.locator("#window").input_value()), float(page.locator("#level").input_value())


def test_a_label_is_corrected_and_a_second_reader_is_told(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, faults), _open(web, "phone", "dark") as (late, _):
        for reader in (page, late):
            reader.goto(f"/series/{web.filled.mass}")
        page.get_by_label("Slices that show it").fill("9-11")
        page.get_by_role("textbox", name="Comment").fill("dural tail")
        page.get_by_label("Slices that show it").press("Enter")
        assert page.locator(".finding").count() == 0, "Enter saves nothing"
        page.locator(".classes button[value=other]").dblclick()
        page.locator("#reading-part .status.corrected").wait_for()
        assert page.locator(".finding").count() == 1, "saved once"
        assert page.locator("#reading-part [role=alert]").count() == 0
        assert "slices marked: 3" in page.locator("#reading-part").inner_text()
        late.get_by_role("textbox", name="Comment").fill("typed by another")
        late.locator(".classes button[value=glioma]").click()
        late.get_by_text("has read this series since you looked at it").wait_for()
        assert late.get_by_role("textbox", name="Comment").input_value() == "typed by another"
        assert "dural tail" in late.locator(".finding").first.inner_text()
        late.locator(".classes button[value=glioma]").click()
        late.get_by_text("1 earlier").wait_for()
        late.get_by_role("button", name="Undo").click()
        late.locator(".status.withdrawn").wait_for(state="attached")
        assert "dural tail" in late.locator(".finding").first.inner_text(), "the finding before stands again"
        page.goto("/?reading=corrected")
        assert faults == []


def test_studies_are_read_by_keys_alone_a_correction_in_one_key_and_three_seconds(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, faults):
        page.goto(f"/studies/{web.filled.study}")
        assert page.locator(".series-card[aria-current]").get_by_text("decides").count() == 1
        assert page.locator("#key-slice").is_visible()
        page.keyboard.press("x")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("x")
        assert page.locator("#marked").is_visible()
        assert page.locator(".reader-mark").count() == 2
        first = int(page.locator("#viewer").get_attribute("data-shown")) + 1
        assert page.locator("#marked-slices").input_value() == f"{first}-{first + 1}"
        page.locator(".series-card", has_text="FLAIR").get_by_text("5 ·").wait_for()
        started = time.monotonic()
        page.keyboard.press("2")
        page.locator(".finding .status.corrected").wait_for()
        assert time.monotonic() - started < 3
        said = page.locator(".finding").first.inner_text()
        assert "Meningioma" in said
        flair = page.locator("#viewer").get_attribute("data-base").split("/")[2]
        read = page.request.get(f"/api/v1/series/{flair}/readings").json()["readings"]
        assert (read[0]["label"], read[0]["slices"]) == ("meningioma", [first - 1, first])
        page.keyboard.press("s")
        page.locator(".series-card[aria-current]").get_by_text("7 ·").wait_for()
        assert page.locator(".reader-mark").count() == 0
        page.keyboard.press("Shift+S")
        page.locator(".series-card[aria-current]").get_by_text("5 ·").wait_for()
        assert page.locator(".reader-mark").count() == 2
        page.keyboard.press("g")
        page.keyboard.press("a")
        page.locator(".saved").get_by_text("Fontaine, Hugo").wait_for()
        assert web.filled.study not in page.url.split("?")[0]
        assert page.get_by_label("Save and open the next unread study").is_checked(), "the browser remembers it"
        page.keyboard.press("u")
        page.locator(".finding .status.withdrawn").wait_for(state="attached")
        assert web.filled.study in page.url.split("?")[0]
        assert "Meningioma" in page.locator(".finding").first.inner_text(), "the finding before stands again"
        page.keyboard.press("u")
        page.get_by_text("Unread", exact=True).wait_for()
        page.locator("summary", has_text="2 earlier").click()
        assert page.locator(".finding .status.withdrawn").count() == 2
        page.keyboard.press("c")
        page.keyboard.type("agx1")
        assert page.get_by_role("textbox", name="Comment").input_value() == "agx1", "keys are typed in a field"
        page.locator("#viewer").focus()
        page.keyboard.press("?")
        page.get_by_role("dialog").get_by_label("Single keys act on this page").uncheck()
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        page.keyboard.press("ArrowDown")
        assert "Unread" in page.locator("#reading-part").inner_text(), "single keys are off"
        page.keyboard.press("?")
        assert not page.get_by_role("dialog").is_visible()
        assert faults == []


def test_a_study_is_read_series_by_series_and_the_next_unread_comes(web: Web) -> None:
    with _open(web, "phone", "light") as (page, faults):
        page.goto("/?status=classified")
        page.get_by_role("link", name="Next unread").click()
        page.locator(".series-card[aria-current]").wait_for()
        assert web.filled.study in page.url
        page.get_by_role("link", name="Next series").click()
        page.locator(".series-card[aria-current]").get_by_text("7 ·").wait_for()
        assert not page.get_by_role("button", name="Mark this slice").is_visible(), "it was read by itself"
        page.get_by_role("link", name="This series by itself").click()
        page.get_by_role("link", name="Study with all its series").click()
        page.get_by_role("button", name="Agree:").dblclick()
        page.locator(".finding .status.confirmed").wait_for()
        read = page.request.get(f"/api/v1/studies/{web.filled.study}/readings").json()["readings"]
        assert [reading["withdrawn_at"] is None for reading in read] == [True, False, False], "saved once"
        first = page.url
        page.get_by_label("Save and open the next unread study").check()
        page.get_by_role("textbox", name="Comment").fill("necrotic")
        page.locator(".classes button[value=glioma]").click()
        page.locator(".saved").wait_for()
        assert page.url.split("?")[0] != first.split("?")[0]
        page.goto(first)
        assert "necrotic" in page.locator(".finding").first.inner_text()
        page.get_by_role("link", name="Worklist", exact=True).last.click()
        page.locator("table.studies").wait_for()
        assert faults == []


def test_a_parked_job_is_retried_from_the_queue(web: Web) -> None:
    with _open(web, "desktop", "light") as (page, _):
        page.goto("/queue")
        page.get_by_role("button", name="Retry all parked").click()
        page.get_by_text("1 will be retried").wait_for()
        assert page.locator(".status.parked").count() == 0


def test_echo_says_that_a_peer_does_not_answer(web: Web) -> None:
    with _open(web, "phone", "light") as (page, faults):
        page.goto("/peers")
        page.get_by_role("button", name="Echo pacs").click()
        page.locator("#echo-pacs.bad").wait_for()
        assert faults == []


def main(folder: Path) -> None:
    """Every page at both sizes in light; worklist and series in dark, too."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, serving(Path(temporary), others=75) as web:
        views = [(size, "light", name) for size in SIZES for name in web.pages()]
        views += [(size, "dark", name) for size in SIZES for name in ("worklist", "study", "series")]
        for size, scheme, name in views:
            with _open(web, size, scheme) as (page, _):
                page.goto(web.pages()[name], wait_until="networkidle", timeout=5 * WAIT)
                file = folder / f"{name}-{size}-{scheme}.png"
                page.screenshot(path=file)
                if name not in ("study", "series"):  # a slice needs its greys
                    with Image.open(file) as picture:
                        picture.quantize(256, Image.Quantize.FASTOCTREE).save(file, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
