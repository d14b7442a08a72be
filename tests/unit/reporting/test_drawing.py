"""What every picture is drawn with."""

from __future__ import annotations

import numpy as np
import pytest

from worker.reporting.drawing import INK, draw_line, draw_paragraph, new_canvas, percent


def _drawn(text: str, width: int = 300) -> list[list[list[int]]]:
    canvas, draw = new_canvas(400, 100)
    draw_line(draw, (20, 70), text, 18, INK, width)
    pixels: list[list[list[int]]] = np.asarray(canvas).tolist()
    return pixels


@pytest.mark.parametrize(
    ("probability", "text"), [(0.9999, "> 99.9 %"), (1.0, "> 99.9 %"), (0.973, "97.3 %"), (0.0, "< 0.1 %")]
)
def test_no_probability_reads_as_certain(probability: float, text: str) -> None:
    assert percent(probability) == text


def test_letters_that_the_font_lacks_are_drawn_without_accents_or_as_question_marks() -> None:
    assert _drawn("Sch\u00e4del 3 \u5c71") == _drawn("Schadel 3 ?")
    assert _drawn("1 \u00b1 2 \u2026") != _drawn("1 ? 2 ?"), "the font has these"


def test_a_long_line_ends_within_its_width() -> None:
    canvas, draw = new_canvas(400, 100)
    assert draw_line(draw, (20, 70), "W" * 200, 18, INK, 300) <= 320
    assert not (np.asarray(canvas)[40:, 321:] > 60).any()


def test_a_paragraph_ends_within_its_box() -> None:
    canvas, draw = new_canvas(400, 200)
    draw_paragraph(draw, (20, 60, 300, 60), "word " * 200, 18)
    assert not (np.asarray(canvas)[122:] > 60).any()
