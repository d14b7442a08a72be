from __future__ import annotations

import pytest

from worker.wording import counted, written_date


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "study", "1 study"),
        (0, "study", "0 studies"),
        (2, "day", "2 days"),
        (2, "input set", "2 input sets"),
        (3, "class", "3 classes"),
        (1200, "series", "1,200 series"),
        (1, "series", "1 series"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("value", "text"), [("20261121", "2026-11-21"), ("", ""), ("2026.11.21", "2026.11.21"), ("2026112x", "2026112x")]
)
def test_a_dicom_date_is_written_as_people_read_it(value: str, text: str) -> None:
    assert written_date(value) == text
