"""The OHIF viewer, served by the worker, in a real browser: the study, its images, the heat map and the report.

Skipped where the viewer is not installed (`make ohif`; another folder by OHIF=...).
`python -m tests.acceptance.test_ohif FOLDER` writes the picture of docs/screenshots.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import filled
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.testbed.filled import Filled
from worker.query import ohif
from worker.query.api import create_app
from worker.viewer import web_parts

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

INSTALLED = Path(os.environ.get("OHIF", Path(__file__).parents[2] / "var" / "ohif")).resolve()
WAIT = 120_000  # ms: the viewer draws without a graphics card, on a machine that may be busy
# Its viewports are WebGL, which without a graphics card is computed.
WEBGL = [one for one in FLAGS if one != "--disable-gpu"]
WEBGL += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
THUMBNAIL, LISTED = "[data-cy='study-browser-thumbnail']", "[data-cy='study-browser-thumbnail-no-image']"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(not (INSTALLED / "index.html").is_file(), reason="OHIF is not installed: make ohif"),
]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Any, Filled, list[str]]]:
    """A page over a folder with a classified head; what was refused to it or asked of another host."""
    content = filled.fill(folder, datetime.now(UTC), 0)
    (content.settings.worker.data_dir / ohif.FOLDER).symlink_to(INSTALLED)
    app = create_app(content.settings, content.database, parts=web_parts(content.settings))
    faults: list[str] = []
    with filled.served(app) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=WEBGL, timeout=WAIT)
        context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 860})
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda one: faults.append(one.text) if "Content Security Policy" in one.text else None)
        page.on("response", lambda one: faults.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        ours = (address, "data:", "blob:")
        page.on("request", lambda one: None if one.url.startswith(ours) else faults.append(one.url))
        yield page, content, faults
        browser.close()
    content.database.close()


def open_head(page: Any) -> None:
    """From the list of studies to the head's images."""
    page.goto("/ohif/")
    page.click("text=Confirm and hide")
    page.get_by_text("Fontaine, Hugo").dblclick()
    page.locator(THUMBNAIL).nth(1).wait_for()


def _on_a_canvas(colour: str) -> str:
    """True when a viewport shows a pixel of such a colour."""
    return f"""() => [...document.querySelectorAll('canvas.cornerstone-canvas')].some(canvas => {{
        const {{data}} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < data.length; i += 4) {{
            const [r, g, b] = data.subarray(i, i + 3);
            if ({colour}) return true;
        }}
        return false;
    }})"""


def test_ohif_lists_the_study_and_shows_its_images_the_heat_map_and_the_report(tmp_path: Path) -> None:
    with serving(tmp_path) as (page, _, faults):
        open_head(page)
        page.get_by_text("T1 axial post contrast").first.wait_for()
        page.wait_for_function(_on_a_canvas("r > 100 && r == g && g == b"))
        page.get_by_text("AI brain MRI heat map").first.dblclick()
        # The bar above the picture is of one orange: no grey image has it.
        page.wait_for_function(_on_a_canvas("r > 230 && g > 150 && b < 110"))
        report = page.locator(LISTED)
        assert "AI brain MRI, unverified, research use" in report.inner_text()
        report.hover()
        report.locator("[aria-haspopup]").last.click()
        page.get_by_text("Tag Browser").click()
        page.get_by_placeholder("Search metadata").fill("Imaging Measurement Report")
        page.get_by_text("Imaging Measurement Report", exact=True).first.wait_for()
        assert faults == []


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as data, serving(Path(data)) as (page, _, _):
        open_head(page)
        page.get_by_text("AI brain MRI heat map").first.dblclick()
        page.wait_for_timeout(10_000)
        page.screenshot(path=folder / "ohif.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
