"""What operators do on the pages, in a real browser: every page guarded by tokens, at both sizes.

`python -m tests.acceptance.test_operator_pages FOLDER` writes a picture of each page at each size and scheme.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.acceptance.test_pages import BROKEN_WORDS, SIZES, WAIT
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, encoded, later, mr_instance, write_series
from tests.testbed.shown_bundle import make_shown_bundle
from tests.testbed.web_site import fill, serving, settings_of
from worker.audit.recorder import recording
from worker.config.sections import PeerSection
from worker.db import tokens
from worker.db.engine import Database
from worker.db.instances import instances_of
from worker.db.tables import SeriesRow, TokenRole
from worker.dicom.standard import derive_uid
from worker.inference.bundle import verified_identity
from worker.send.destinations.c_store import CStoreDestination

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

# What a page looks like after each of these was done to it, for the pictures.
VIEWS: dict[str, Callable[[Any], None]] = {}


@dataclass(frozen=True)
class Web:
    address: str
    database: Database
    browser: Any
    tokens: dict[TokenRole, str]


@contextmanager
def operating(folder: Path) -> Iterator[Web]:
    """The pages over one series of every outcome, a token of each role, and a browser."""
    bundle = make_shown_bundle(folder / "bundle", MODEL)
    settings = settings_of(folder, bundle, require_token=True)
    archive = CStoreDestination(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=9)
    pacs = PeerSection(ae_title="PACS", host="127.0.0.1", port=9)
    changed = {"destination": (*settings.destination, archive), "peer": (pacs,)}
    web = settings.web.model_copy(update={"stow": True})
    settings = settings.model_copy(update=changed | {"web": web})
    database = Database(settings.database.url)
    make_tables(database)
    fill(database, verified_identity(bundle))
    with database.write() as session:
        texts = {role: tokens.add_token(session, f"the {role}", role, later(0), None)[1] for role in TokenRole}
    with (
        recording(settings, database, lambda: later(600)) as record,
        serving(settings, record) as (client, _),
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=WAIT)
        yield Web(str(client.base_url), database, browser, texts)
        browser.close()
    database.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with operating(tmp_path_factory.mktemp("operating")) as running:
        yield running


@contextmanager
def signed_in(
    web: Web, role: TokenRole = TokenRole.OPERATE, size: str = "desktop", scheme: str = "light"
) -> Iterator[Any]:
    """A page of somebody with this role; a script error or a refused policy is a failure."""
    width, height = SIZES[size]
    context = web.browser.new_context(
        base_url=web.address, viewport={"width": width, "height": height}, color_scheme=scheme
    )
    context.set_default_timeout(WAIT)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
    page.goto("/sign-in")
    page.get_by_label("Token").fill(web.tokens[role])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()
    try:
        yield page
        assert faults == []
    finally:
        context.close()


@pytest.mark.parametrize("size", SIZES)
def test_every_page_of_an_operator_is_accessible_and_fits(web: Web, size: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with signed_in(web, size=size, scheme="dark") as page:
        _upload(page)
        for path in PAGES:
            assert page.goto(path).status == 200
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"
            cut = "[...document.querySelectorAll('.sheet')].some((sheet) => sheet.scrollWidth > sheet.clientWidth)"
            assert not page.evaluate(cut), f"{path} is cut off"
            assert page.evaluate(BROKEN_WORDS) == [], path
            violations = Axe().run(page).response["violations"]
            serious = [(item["id"], item["nodes"][0]["html"]) for item in violations if item["impact"] in SERIOUS]
            assert serious == [], path


TAGS = f"/series/{derive_uid('series', 'uploaded')}/tags"
PAGES = ["/queue", "/fetch", "/hand-overs", "/upload", "/deliveries?state=all", "/tokens", "/audit", TAGS]
SERIOUS = ("serious", "critical")


def test_a_stage_is_suspended_and_resumed_and_a_reader_sees_it(web: Web) -> None:
    with signed_in(web) as page, signed_in(web, TokenRole.READ, "phone", "dark") as reader:
        page.goto("/queue")
        page.get_by_role("button", name="Suspend deliveries").click()
        page.get_by_role("button", name="Resume deliveries").wait_for()
        reader.goto("/")
        notice = reader.locator(".suspended").inner_text()
        assert "Deliveries are suspended since" in notice
        assert "by the operate" in notice
        reader.goto("/queue")
        assert reader.get_by_role("button", name="Resume").count() == 0
        page.get_by_role("button", name="Resume deliveries").click()
        page.get_by_role("button", name="Suspend deliveries").wait_for()
        reader.goto("/")
        assert reader.locator(".suspended").count() == 0


def test_a_token_is_made_shown_once_used_and_revoked_and_the_trail_tells_it(web: Web) -> None:
    name = "ward <script>alert(1)</script>"
    with signed_in(web) as page:
        page.goto("/queue")
        page.get_by_role("link", name="Tokens").click()
        page.get_by_label("Name").fill(name)
        page.get_by_label("Valid for days").fill("30")
        page.get_by_role("button", name="Make a token").click()
        token = page.locator("#made").input_value()
        assert token.startswith("bmw_")
        page.get_by_label("Name").fill(name)
        page.get_by_role("button", name="Make a token").click()
        page.get_by_role("alert").get_by_text("has been used").wait_for()
        assert token not in page.content()
        row = page.get_by_role("row").filter(has_text=name)
        assert row.locator(".status").inner_text() == "valid"
        with signed_in(replace(web, tokens={TokenRole.READ: token}), TokenRole.READ, "phone") as reader:
            reader.goto("/queue")
            assert reader.get_by_role("link", name="Tokens").count() == 0
            assert [reader.goto(path).status for path in ("/tokens", "/audit")] == [403, 403]
            row.get_by_role("button", name="Revoke").click()
            row.get_by_text("revoked").wait_for()
            reader.goto("/queue")
            reader.get_by_label("Token").wait_for()
        page.get_by_role("link", name="Audit trail").click()
        record = page.locator("table.trail tr").filter(has_text=f"{name}").filter(has_text="made, role read").first
        assert "the operate" in record.inner_text()


def test_a_delivery_is_sent_now_again_and_elsewhere(web: Web) -> None:
    with signed_in(web) as page, signed_in(web, TokenRole.READ, "phone", "dark") as reader:
        page.goto("/queue")
        page.get_by_role("link", name="Deliveries", exact=True).click()
        row = page.get_by_role("row").filter(has_text="ID-a")
        assert "report" in row.inner_text()
        row.get_by_role("button", name="now").click()
        page.get_by_text("1 delivery will be tried now").wait_for()
        page.get_by_role("checkbox", name="Choose delivery 1").check()
        page.get_by_label("Chosen objects of pacs").select_option("archive")
        page.get_by_role("button", name="Send the chosen").click()
        page.get_by_text("1 delivery will be tried now").wait_for()
        headings = page.locator("section h2").all_inner_texts()
        assert headings == ["archive 0 failed, 1 waiting", "pacs 0 failed, 1 waiting"]
        row.first.get_by_role("link").click()
        page.get_by_role("link", name="Send again or elsewhere").click()
        page.get_by_label("All that was made of it").select_option("pacs")
        page.get_by_role("button", name="Send the study").click()
        page.get_by_text("1 delivery will be tried now").wait_for()
        page.get_by_label("State").select_option("delivered")
        page.get_by_role("button", name="Show").click()
        page.get_by_text("No delivery matches.").wait_for()
        reader.goto("/deliveries")
        assert "ID-a" in reader.locator("main").inner_text()
        assert reader.locator("main").get_by_role("button").all_inner_texts() == ["Show"]


def test_a_folder_and_an_archive_are_uploaded_and_what_is_hostile_is_refused(web: Web, tmp_path: Path) -> None:
    folder = tmp_path / "disc"
    write_series(folder / "images", 40, "uploaded")
    (folder / "README.txt").write_text("no image")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    archive, hostile = tmp_path / "disc.zip", tmp_path / "hostile.ZIP"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(1, 4):
            packed.writestr(f"../../../etc/{number}.dcm", encoded(mr_instance(number, "zipped")))
        packed.writestr("<img src=x onerror=alert(1)>.dcm", encoded(mr_instance(4, "zipped")), zipfile.ZIP_STORED)
        packed.writestr("broken.dcm", bytes(128) + b"DICM<script>")
    content = bytearray(archive.read_bytes())
    at = content.index(encoded(mr_instance(4, "zipped"))) + 400
    content[at] ^= 1
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content)
    with zipfile.ZipFile(hostile, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bomb.dcm", bytes(64 << 20))
    (tmp_path / "none.zip").write_bytes(b"PK")

    def stored(name: str) -> int:
        with web.database.read() as session:
            series = session.scalar(
                select(SeriesRow).where(SeriesRow.series_instance_uid == derive_uid("series", name))
            )
            return 0 if series is None else len(instances_of(session, series.id))

    with signed_in(web) as page:
        page.goto("/upload")
        page.locator("#folder").set_input_files(folder)
        page.get_by_text("Done: 40 stored, 2 skipped").wait_for()
        page.locator("#upload-studies a").wait_for()
        assert stored("uploaded") == 40
        page.locator("#files").set_input_files([archive, damaged, hostile, tmp_path / "none.zip"])
        page.get_by_text("Done:").get_by_text("refused").wait_for()
        state, faults = page.locator("#upload-state").inner_text(), page.locator("#upload-faults").inner_text()
        assert "7 stored, 5 refused" in state
        assert stored("zipped") == 4
        for words in (
            "damaged.zip: <img src=x onerror=alert(1)>.dcm is damaged",
            "hostile.ZIP holds a file that is compressed beyond any image",
            "none.zip is not a ZIP archive", "A file was refused: cannot be read (0xC000)",
        ):  # fmt: skip
            assert words in faults
        page.locator("#upload-studies a").first.click()
        page.get_by_text("Documents").first.wait_for()
    with signed_in(web, TokenRole.ANNOTATE) as page:
        assert page.goto("/upload").status == 403


def test_a_study_that_cannot_be_handed_over_stays_and_it_says_why(web: Web) -> None:
    with signed_in(web) as page:
        _handed_over(page)  # its images have no files
        assert "missing from the data folder" in page.locator("#jobs tr").nth(1).inner_text()
        page.locator("#jobs a").first.click()
        page.get_by_text("Hand this study over").wait_for()


def test_a_study_is_deleted_after_a_box_was_ticked(web: Web) -> None:
    with signed_in(web, size="phone", scheme="dark") as page:
        page.goto("/?patient_id=ID-b")
        page.locator("tbody.study a").first.click()
        page.get_by_text("Delete this study").click()
        page.get_by_role("button", name="Delete the study").click()
        assert page.get_by_role("checkbox", name="Delete all of it").is_visible()  # the browser asks for the box
        page.get_by_role("checkbox", name="Delete all of it").check()
        page.get_by_role("button", name="Delete the study").click()
        page.wait_for_url(f"{web.address}/")
        page.goto("/?patient_id=ID-b")
        page.get_by_text("No study matches").wait_for()


def _suspend(page: Any) -> None:
    page.goto("/queue")
    if page.get_by_role("button", name="Suspend deliveries").count():
        page.get_by_role("button", name="Suspend deliveries").click()
    page.get_by_role("button", name="Resume deliveries").wait_for()


def _upload(page: Any) -> None:
    page.goto("/upload")
    content = encoded(mr_instance(1, "uploaded"))
    files = [("1.dcm", content), ("2.dcm", bytes(128) + b"DICM"), ("notes.txt", b"none")]
    page.locator("#files").set_input_files(
        [{"name": name, "mimeType": "application/dicom", "buffer": data} for name, data in files]
    )
    page.get_by_text("Done:").wait_for()


def _tags(page: Any) -> None:
    _upload(page)
    page.goto(TAGS)


def _open_deletion(page: Any) -> None:
    page.goto("/?patient_id=ID-a")
    page.locator("tbody.study a").first.click()
    page.get_by_text("Delete this study").click()
    page.get_by_role("button", name="Delete the study").scroll_into_view_if_needed()


def _hand_over(page: Any) -> None:
    page.goto("/?patient_id=ID-a")
    page.locator("tbody.study a").first.click()
    page.get_by_text("Hand this study over").click()
    page.get_by_role("button", name="Hand the study over").scroll_into_view_if_needed()


def _handed_over(page: Any) -> None:
    """A hand-over that fails, as nobody is there."""
    _hand_over(page)
    page.get_by_label("Delete it here once it has arrived").check()
    page.get_by_role("button", name="Hand the study over").click()
    page.locator("#jobs .status.failed").first.wait_for()


def _make_token(page: Any) -> None:
    page.goto("/tokens")
    page.get_by_label("Name").fill(f"ward {page.viewport_size['width']} {time.monotonic_ns()}")
    page.get_by_role("button", name="Make a token").click()
    page.locator("#made").wait_for()


VIEWS |= {
    "suspended": _suspend,
    "deliveries": lambda page: page.goto("/deliveries"),
    "tokens": _make_token,
    "upload": _upload,
    "fetch": lambda page: page.goto("/fetch"),
    "deletion": _open_deletion,
    "hand-over": _hand_over,
    "hand-overs": _handed_over,
    "audit": lambda page: page.goto("/audit"),
    "tags": _tags,
}


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, operating(Path(temporary)) as web:
        for name in names or VIEWS:
            for size, scheme in (("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")):
                with signed_in(web, size=size, scheme=scheme) as page:
                    VIEWS[name](page)
                    page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=size == "phone")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
