"""The page is self-contained, marks what leaks, and shows no figure without its n."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_needs_no_other_file_and_marks_what_leaks(written: Path) -> None:
    text = (written / "report.html").read_text()
    parsed = _Page()
    parsed.feed(text)
    assert parsed.sources
    assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert not parsed.tags & {"script", "link", "iframe"}
    assert "url(" not in text
    assert "Research use only" in text
    assert '<span class="leaky">Official split: LEAKY</span>' in text
    assert "prefers-color-scheme:dark" in text
    today = datetime.now(UTC)
    title = r"<title>tiny on data: Split by patient, External set, Official split: LEAKY, (\S+)</title>"
    match = re.search(title, text)
    assert match is not None
    assert abs(today - datetime.fromisoformat(match[1]).replace(tzinfo=UTC)) < timedelta(days=2)
    assert "goal" not in re.sub(r"base64,[^\"]*", "", text.lower())  # of this project's own model
    for cell in re.findall(r"<td>[-\d][^<]*<small>([^<]*)</small>", text):
        assert "n=" in cell or "unknown" in cell  # no figure without its n
