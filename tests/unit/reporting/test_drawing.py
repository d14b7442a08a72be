"""What every picture is drawn with."""

from __future__ import annotations

import numpy as np
import pytest

from worker.reporting.drawing import INK, draw_line, draw_paragraph, new_canvas, percent


def _drawn(text: str, width: int = 300) -> bytes:
    canvas, draw = new_canvas(400, 100)
    draw_line(draw, (20, 70), text, 18, INK, width)
    return canvas.tobytes()


@pytest.mark.parametrize(
    ("probability", "text"), [(0.9999, "> 99.9 %"), (1.0, "> 99.9 %"), (0.973, "97.3 %"), (0.0, "< 0.1 %")]
)
def test_no_probability_reads_as_certain(probability: float, text: str) -> None:
    assert percent(probability) == text


@pytest.mark.parametrize("text", ["Schädel ßłøğ", "Εγκέφαλος", "Головной мозг", "1 ± 2 … ≥ 3 µm → ²"])
def test_letters_of_european_languages_are_drawn_each_in_its_own_shape(text: str) -> None:
    for letter in text.replace(" ", ""):
        assert _drawn(letter) not in (_drawn("?"), _drawn("\ufffd"), _drawn("")), letter


def test_letters_that_the_font_lacks_are_drawn_without_their_marks_or_as_question_marks() -> None:
    assert _drawn("3 山") == _drawn("3 ?")
    assert _drawn("\uff341 \u2461") == _drawn("T1 2"), "compatibility forms are drawn as what they stand for"
    assert _drawn("Scha\u0308del") == _drawn("Sch\u00e4del"), "a mark of its own is drawn on its letter"


def test_a_long_line_ends_within_its_width() -> None:
    canvas, draw = new_canvas(400, 100)
    assert draw_line(draw, (20, 70), "W" * 200, 18, INK, 300) <= 320
    assert not (np.asarray(canvas)[40:, 321:] > 60).any()


def test_a_paragraph_ends_within_its_box() -> None:
    canvas, draw = new_canvas(400, 200)
    draw_paragraph(draw, (20, 60, 300, 60), "word " * 200, 18)
    assert not (np.asarray(canvas)[122:] > 60).any()
