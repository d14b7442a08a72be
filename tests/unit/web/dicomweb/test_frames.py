"""In which form frames are sent, and the options of rendering."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from fastapi import HTTPException, Request
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from worker.db.views.archive import Instance
from worker.pixels.windowing import VoiFunction, Window
from worker.web.dicomweb.frames import _form, _frame_numbers, _options
from worker.web.dicomweb.negotiation import accepted

OCTETS, RLE = "application/octet-stream", "image/dicom-rle"


@pytest.fixture(params=[ExplicitVRLittleEndian, RLELossless])
def stored(request: pytest.FixtureRequest) -> Instance:
    return Instance("1.2", "1.3", "1.4", "1.5", str(request.param), "MR", "", "", "", "", None, "a.dcm")


@pytest.mark.parametrize(
    ("accept", "uncompressed", "compressed"),
    [
        (None, (OCTETS, False, False), (OCTETS, False, False)),
        (f"multipart/related; type={OCTETS}", (OCTETS, False, False), (OCTETS, False, False)),
        (f"multipart/related; type={OCTETS}; transfer-syntax=*", (OCTETS, False, False), (OCTETS, True, False)),
        (f"multipart/related; type={RLE}", None, (RLE, True, False)),
        (f"multipart/related; type={RLE}; transfer-syntax={RLELossless}", None, (RLE, True, False)),
        ("multipart/related; type=image/jls", None, None),
        ("multipart/related; type=image/jls, */*", (OCTETS, False, False), (OCTETS, False, False)),
        (f"multipart/related; type={OCTETS}; transfer-syntax=1.2.840.10008.1.2.4.80", None, None),
        (OCTETS, (OCTETS, False, True), (OCTETS, False, True)),
        (f"{OCTETS}; transfer-syntax=*", (OCTETS, False, True), (OCTETS, True, True)),
        (RLE, None, (RLE, True, True)),
        ("text/html", None, None),
    ],
)
def test_frames_are_sent_in_the_form_that_the_client_prefers(
    stored: Instance,
    accept: str | None,
    uncompressed: tuple[str, bool, bool] | None,
    compressed: tuple[str, bool, bool] | None,
) -> None:
    expected = compressed if stored.transfer_syntax_uid == RLELossless else uncompressed
    assert _form(stored, accepted(accept)) == expected


def request(**query: str) -> Request:
    return Request({"type": "http", "query_string": urlencode(query).encode(), "headers": []})


def test_the_options_of_rendering_are_window_viewport_and_quality() -> None:
    assert _options(request()) == (None, None, 90)
    options = _options(request(window="40,80", viewport="512,256", quality="50"))
    assert options == (Window(40, 80, VoiFunction.LINEAR), 256, 50)
    window, _, _ = _options(request(window="40,80,linear-exact"))
    assert window == Window(40, 80, VoiFunction.LINEAR_EXACT)


@pytest.mark.parametrize(
    "query",
    [
        {"window": "40"},
        {"window": "40,0"},
        {"window": "nan,80"},
        {"window": "40,inf"},
        {"window": "40,80,cubic"},
        {"viewport": "512"},
        {"viewport": "0,512"},
        {"viewport": "5000,5000"},
        {"quality": "0"},
        {"quality": "101"},
        {"quality": "٣"},
    ],
)
def test_an_option_that_is_not_valid_is_answered_400(query: dict[str, str]) -> None:
    with pytest.raises(HTTPException) as refused:
        _options(request(**query))
    assert refused.value.status_code == 400


def test_frames_are_numbered_from_one() -> None:
    assert _frame_numbers("1,1") == [1, 1]
    for text in ("0", "1,", "x", "9" * 8):
        with pytest.raises(HTTPException) as refused:
            _frame_numbers(text)
        assert refused.value.status_code == 400
