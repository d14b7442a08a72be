"""The documentation site of `make docs`: built once, then read as a browser does."""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml

import monai_train.cli.app
import worker.cli.app
from tests.testbed.browser import CHROMIUM, FLAGS
from worker.config.settings import Settings
from worker.send.destinations import kinds

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Links, what is loaded, anchors and text of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") != "canonical":
            self.loaded.append(values["href"])
        elif tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @cached_property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning of the generator is a failure."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, str(ROOT / "docs/build_site.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html") if file.name != "404.html"}


def test_every_link_and_anchor_leads_somewhere_and_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    faults = []
    for file, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                faults += [(file.name, link)] if link in page.loaded else []
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (parts.fragment and target in pages and not _has(pages[target], parts.fragment)):
                faults.append((file.name, link))
    assert faults == []
    assert len(pages) > 30


def _has(page: Page, fragment: str) -> bool:
    return unquote(fragment) in page.anchors | {"__skip"} or fragment.startswith("__")


def test_every_document_is_in_the_contents() -> None:
    listed = yaml.safe_dump(yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text())["nav"])
    assert [file.name for file in (ROOT / "docs").glob("*.md") if f"docs/{file.name}" not in listed] == []


def test_every_configuration_key_has_its_meaning(site: Path) -> None:
    text = (site.parent / "source/docs/reference/configuration.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []
    described = {row[0].strip("| `") for row in rows}
    sections = [field.annotation for field in Settings.model_fields.values()]
    models = [section for section in sections if hasattr(section, "model_fields")] + list(kinds())
    assert {key for model in models for key in model.model_fields} <= described
    assert {"query", "urgent", "attribute", "in", "smtp_host"} <= described


def test_every_command_and_option_is_described(pages: dict[Path, Page], site: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from build_site import leaves  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    for program, app in (("worker", worker.cli.app.app), ("monai-train", monai_train.cli.app.app)):
        text = pages[site / f"docs/reference/{program}.html"].text
        commands = list(leaves((program,), typer.main.get_command(app)))
        assert len(commands) > 10
        for names, command in commands:
            assert f"{' '.join(names)} " in text
            names_of = [word for found in command.params for word in found.opts if word.startswith("-")]
            assert [word for word in names_of if word not in text] == []


def test_the_rest_interface_and_the_guides_are_there(pages: dict[Path, Page], site: Path) -> None:
    rest = pages[site / "docs/reference/rest.html"].text
    assert "GET /api/v1/series" in rest
    assert "DELETE /api/v1/studies/{study_instance_uid}" in rest
    for guide in ("orthanc", "dcm4chee", "ohif", "docker", "kubernetes", "tls", "postgresql", "compared"):
        assert site / f"docs/{guide}.html" in pages


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_search_works_from_the_file_system_without_a_network(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    requests = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.locator("input[name=query]").fill("quiet_seconds")
        page.wait_for_selector(".md-search-result__link")
        found = [link.get_attribute("href") for link in page.locator(".md-search-result__link").all()]
        browser.close()
    assert any("reference/configuration.html" in str(link) for link in found)
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []
