"""What an Accept header means."""

from __future__ import annotations

import pytest

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


def test_a_range_includes_its_type_and_its_kind() -> None:
    assert MediaRange("image/*", False, None, 1.0).includes("image/png")
    assert not MediaRange("image/*", False, None, 1.0).includes("application/dicom")
    assert MediaRange("*/*", True, None, 1.0).includes("application/dicom")
