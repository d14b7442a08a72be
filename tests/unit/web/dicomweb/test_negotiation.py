"""What an Accept header means."""

from __future__ import annotations

import re

import pytest

from worker.web.dicomweb import negotiation
from worker.web.dicomweb.negotiation import MediaRange, accepted


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, [("*/*", False, None)]),
        ("*/*", [("*/*", False, None)]),
        ("application/dicom", [("application/dicom", False, None)]),
        ("application/dicom; transfer-syntax=*", [("application/dicom", False, "*")]),
        ('multipart/related; type="application/dicom"', [("application/dicom", True, None)]),
        (
            "multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.80",
            [("image/jls", True, "1.2.840.10008.1.2.4.80")],
        ),
        ("image/png;q=0.2, image/jpeg", [("image/jpeg", False, None), ("image/png", False, None)]),
        ("image/png;q=0", []),
        ("multipart/related", [("*/*", True, None)]),
        (
            'multipart/related; type="image/jp2, x"; q=1, text/html',
            [("image/jp2, x", True, None), ("text/html", False, None)],
        ),
        ("", [("*/*", False, None)]),
        ("nonsense", []),
        (";;;,,,", []),
    ],
)
def test_ranges(header: str | None, expected: list[tuple[str, bool, str | None]]) -> None:
    assert [
        (media_range.type, media_range.is_multipart, media_range.transfer_syntax) for media_range in accepted(header)
    ] == expected


@pytest.mark.parametrize("header", ["*" * 30_000, "a" * 30_000, "*a" * 15_000, "* " * 15_000, "*.+-" * 8_000])
def test_a_header_that_is_no_list_is_looked_at_once(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look takes a step per character, so one from every character on would take quadratic time."""
    looks: list[int] = []
    pattern = negotiation._RANGE

    class Counted:
        def match(self, text: str, position: int) -> re.Match[str] | None:
            looks.append(position)
            return pattern.match(text, position)

    monkeypatch.setattr(negotiation, "_RANGE", Counted())
    assert len(accepted(header)) <= 1
    assert len(looks) == 1


def test_a_range_includes_its_type_and_its_kind() -> None:
    assert MediaRange("image/*", False, None, 1.0).includes("image/png")
    assert not MediaRange("image/*", False, None, 1.0).includes("application/dicom")
    assert MediaRange("*/*", True, None, 1.0).includes("application/dicom")
