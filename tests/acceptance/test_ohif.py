"""The OHIF viewer, served by the worker, in a real browser: the study, its images, the heat map and the report.

Skipped where the viewer is not installed (`make ohif`; another folder by OHIF=...).
`python -m tests.acceptance.test_ohif FOLDER`, a part of `make screenshots`, writes the pictures of docs/screenshots.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.testbed import filled
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.testbed.filled import Filled
from worker.db import tokens
from worker.db.tables import SeriesRow, StudyResultRow, TokenRole
from worker.inference.bundle import default_bundle, verified_identity
from worker.web import ohif
from worker.web.app import create_app
from worker.web.guard import COOKIE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

INSTALLED = Path(os.environ.get("OHIF", Path(__file__).parents[2] / "var" / "ohif")).resolve()
WAIT = 120_000  # ms: the viewer draws without a graphics card, on a machine that may be busy
# Its viewports are WebGL, which without a graphics card is computed.
WEBGL = [one for one in FLAGS if one != "--disable-gpu"]
WEBGL += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
LISTED = "[data-cy='study-browser-thumbnail-no-image']"  # series without pictures: report and key objects
PANES = "[data-cy='viewport-pane']"
IMAGES_READ = "Images read: 48"
GREY, ORANGE = "r > 100 && r == g && g == b", "r > 230 && g > 150 && b < 110"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(not (INSTALLED / "index.html").is_file(), reason="OHIF is not installed: make ohif"),
]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Any, str, list[str], Filled]]:
    """A browser that has not signed in, a token, and what was refused or strange; and what the worker has.

    That is a study with its report and picture: a head with a mass on T1 and FLAIR, and a localizer.
    """
    content = filled.fill(folder, datetime.now(UTC), 0, key_objects=True)
    (content.settings.worker.data_dir / ohif.FOLDER).symlink_to(INSTALLED)
    web = content.settings.web.model_copy(update={"require_token": True})
    settings = content.settings.model_copy(update={"web": web})
    with content.database.write() as session:
        _, token = tokens.add_token(session, "reading-room", TokenRole.READ, datetime.now(UTC), None)
    app = create_app(settings, content.database)
    faults: list[str] = []
    with filled.served(app) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=WEBGL, timeout=WAIT)
        context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda one: faults.append(one.text) if "Content Security Policy" in one.text else None)
        page.on("response", lambda one: faults.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        ours = (address, "data:", "blob:")
        page.on("request", lambda one: None if one.url.startswith(ours) else faults.append(one.url))
        yield page, token, faults, content
        browser.close()
    content.database.close()


def sign_in(page: Any, token: str) -> None:
    page.fill("[name=token]", token)
    page.click("button")


def open_head(page: Any, token: str) -> Any:
    """From the list of studies to the head's images; the views, once they have all been drawn."""
    page.goto("/ohif/")
    sign_in(page, token)
    page.click("text=Confirm and hide")
    page.get_by_text("Fontaine, Hugo").dblclick()
    return drawn(page)


def drawn(page: Any) -> Any:
    """The views of images, picture and report, once they have all been drawn."""
    page.wait_for_function(_on_a_canvas(GREY, 0))
    page.wait_for_function(_on_a_canvas(ORANGE, 1))  # the bar above the heat map: no grey image has it
    page.get_by_text("Imaging Measurement Report").wait_for()
    return page.locator(PANES)


def _on_a_canvas(colour: str, place: int) -> str:
    """True when the view at that place shows a pixel of such a colour."""
    return f"""() => {{
        const canvas = document.querySelectorAll("{PANES}")[{place}]?.querySelector('canvas.cornerstone-canvas');
        const {{data}} = canvas?.getContext('2d').getImageData(0, 0, canvas.width, canvas.height) ?? {{data: []}};
        for (let i = 0; i < data.length; i += 4) {{
            const [r, g, b] = data.subarray(i, i + 3);
            if ({colour}) return true;
        }}
        return false;
    }}"""


def deciding_series(content: Filled) -> tuple[str, str]:
    """UID and description of the series that decided the answer for the study."""
    with content.database.read() as session:
        of_study = select(StudyResultRow.deciding)
        row = session.scalars(select(SeriesRow).where(SeriesRow.series_instance_uid.in_(of_study))).one()
        return row.series_instance_uid, row.series_description


def test_a_study_opens_on_the_series_that_decided_with_picture_and_report(tmp_path: Path) -> None:
    with serving(tmp_path) as (page, token, faults, content):
        images, picture, report = open_head(page, token).all()
        uid, description = deciding_series(content)
        shown = images.inner_text()
        assert description in shown
        [number] = re.findall(r"I:\s*(\d+)", shown)  # that of a slice of the picture
        for overlay in ("AI brain MRI summary, picture", "W:", "1/1"):  # it would lie over the picture's own words
            assert overlay not in picture.inner_text()
        assert "W:" in shown
        said = report.inner_text()
        identity = verified_identity(default_bundle())
        lesions = [answer.finding for answer in (*identity.classes, identity.undetermined) if answer is not None]
        assert any(f"Finding: {finding.meaning}\n" in said for finding in lesions if finding is not None)
        for part in (
            "AI, unverified, research use only. Not for diagnosis.",
            "AI study classification",
            "Series 1: Localizer: not assessed, localizer.",
            "series 5: T2 FLAIR axial",
            "series 7: T1 axial post contrast",
            "Neoplasm: Present",
            "Probability, Finding Glioma: 0.",
            "Probability, Lesion Absent: 0.",
            f"AI key slice {number} of 24, series",
            IMAGES_READ,
        ):
            assert part in said
        assert "not supported" not in page.inner_text("body")
        assert faults == []

        # The link of a series' page: that series, beside the same picture and report.
        assert uid != content.mass
        page.goto(f"/ohif/viewer?StudyInstanceUIDs={content.study}&initialSeriesInstanceUID={content.mass}")
        page.wait_for_function(_on_a_canvas(GREY, 0))
        images, _, report = drawn(page).all()
        assert "T1 axial post contrast" in images.inner_text()
        assert faults == []

        # The report into another view, and its tags; the key objects, which OHIF does not open, are in nobody's way.
        key_objects, sr = (page.locator(LISTED).filter(has_text=one) for one in (", key images", "SR"))
        assert key_objects.count() == 1
        images.click(position={"x": 200, "y": 400})
        sr.dblclick()
        page.wait_for_function("count => document.body.innerText.split('" + IMAGES_READ + "').length == count", arg=3)
        sr.hover()
        sr.locator("[aria-haspopup]").last.click()
        page.get_by_text("Tag Browser").click()
        page.get_by_placeholder("Search metadata").fill("Imaging Measurement Report")
        page.get_by_text("Imaging Measurement Report", exact=True).last.wait_for()
        assert faults == []

        # A session that has ended, in a viewer that is open: its next question leads to the form, and back.
        page.goto("/ohif/")
        page.get_by_text("Fontaine, Hugo").first.wait_for()
        page.context.clear_cookies(name=COOKIE)
        page.get_by_text("Fontaine, Hugo").dblclick()
        sign_in(page, token)
        page.get_by_text("Imaging Measurement Report").wait_for()
        assert {one.partition(" ")[0] for one in faults} == {"401"}


def main(folder: Path) -> None:
    """A study as it opens, and its report in the large view."""
    with tempfile.TemporaryDirectory() as data, serving(Path(data)) as (page, token, _, _):
        images, _, _ = open_head(page, token).all()
        page.mouse.move(600, 850)  # off the list of series
        page.wait_for_timeout(5_000)
        page.screenshot(path=folder / "ohif.png")
        images.click(position={"x": 200, "y": 400})
        page.locator(LISTED).filter(has_text="SR").dblclick()
        page.wait_for_timeout(2_000)
        page.screenshot(path=folder / "ohif-report.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
