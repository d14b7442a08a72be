"""Draw the picture of a study: key slices of the deciding series with their maps, and a row for each series.

It is read at 1:1: no text is smaller than 13 pixels. What a viewer may omit is burnt in, as in the picture of a series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import ImageDraw

from worker.dicom.text.printable import printable
from worker.inference.illustrated import KeyImage
from worker.pixels.arrays import ByteArray
from worker.pixels.colour_map import overlay
from worker.reporting.drawing import (
    FAINT,
    INK,
    LINE,
    WARNING,
    draw_colour_bar,
    draw_line,
    draw_panel,
    draw_paragraph,
    font,
    new_canvas,
    no_lesion_note,
    percent,
)
from worker.reporting.sr_document import sequence_in_words
from worker.reporting.study_sr import answer_probability
from worker.results import ModelIdentity, ReportedSeries, ReportedStudy

WIDTH = 1280
KEY_IMAGES = 3  # the most that are drawn
ROWS = 24  # the most series that are listed

_LEFT, _RIGHT = 20, WIDTH - 20
_GAP, _CAPTION = 15, 40
_SMALL, _LARGE = (360, 300), (547, 420)  # width and height of a panel: of several slices, and of a single slice
_BAR_LEFT = _LEFT + KEY_IMAGES * (_SMALL[0] + _GAP) + 5
_ROW = 28
# The columns of the table: left and width.
_COLUMNS = {"No.": (20, 70), "Series": (100, 380), "Judged as": (490, 245), "Answer": (745, 330), "Counts": (1085, 175)}


def draw_study(study: ReportedStudy, model: ModelIdentity, key_images: Sequence[KeyImage]) -> ByteArray:
    """Draw a study: uint8 RGB [height, 1280, 3], as high as it has rows.

    `key_images` are of the deciding series, at most `KEY_IMAGES` are drawn; `slice_index` counts from 0.
    """
    shown = key_images[:KEY_IMAGES]
    has_maps = any(image.activation is not None for image in shown)
    rows, omitted = _rows(study)
    warning = _warning(study)
    top = 130 + (52 if warning else 0)
    width, height = _LARGE if len(shown) == 1 else _SMALL
    # The map of a single slice is beside it, those of several are below them.
    right, down = (width + _GAP, 0) if len(shown) == 1 else (0, height + _CAPTION)
    bottom = top + (height + _CAPTION) * bool(shown) + down * has_maps + (0 if has_maps else 44)
    canvas, draw = new_canvas(WIDTH, bottom + 44 + _ROW * (len(rows) + bool(omitted)) + 20)
    _draw_answer(draw, study, model)
    if warning:
        draw_paragraph(draw, (_LEFT, 122, _RIGHT - _LEFT, 56), warning, 18, WARNING)
    for column, image in enumerate(shown):
        left = _LEFT + column * (width + _GAP)
        draw_panel(canvas, draw, (left, top, width, height), image.image, _caption(study, image), image.edges)
        if image.activation is not None:
            box = (left + right, top + down, width, height)
            pixels = overlay(image.image, image.activation)
            draw_panel(canvas, draw, box, pixels, f"Class activation, {_found(study, model)}", image.edges)
    if has_maps:
        draw_colour_bar(canvas, draw, (_BAR_LEFT, top + down + 40, 20, height - 80))
    else:
        draw_line(draw, (_LEFT, bottom - 22), _note(study, model, bool(shown)), 18, FAINT, _RIGHT - _LEFT)
    _draw_table(draw, study, model, rows, omitted, bottom)
    return np.asarray(canvas, dtype=np.uint8)


def _draw_answer(draw: ImageDraw.ImageDraw, study: ReportedStudy, model: ModelIdentity) -> None:
    result = study.result
    draw_line(draw, (_RIGHT, 62), model.name, 18, FAINT, 400, anchor="rm")
    draw_line(draw, (_RIGHT, 88), f"version {model.version}", 18, FAINT, 400, anchor="rm")
    if result.label is None:
        draw_line(draw, (_LEFT, 70), "Study: not assessed", 36, INK, 800)
    else:
        certainty = percent(result.probability or 0.0)
        room = 800 - round(draw.textlength(certainty, font(36)))
        end = draw_line(draw, (_LEFT, 70), f"Study: {model.class_named(result.label).title}", 36, INK, room)
        draw.text((end + 20, 70), certainty, INK, font(36), anchor="lm")
    assessed = sum(item.contribution.answer.label is not None for item in study.series)
    told = f"AI brain MRI summary of {len(study.series)} series, of which {assessed} assessed"
    if study.deciding is not None:
        told += f". Slices of series {printable(study.deciding.title)}"
    draw_line(draw, (_LEFT, 106), told, 18, FAINT, 860)


def _warning(study: ReportedStudy) -> str:
    """What the reader must know of the answer, above the slices."""
    result = study.result
    if result.label is None:
        return f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    return f"The series contradict each other. {result.contradiction}" if result.contradiction else ""


def _note(study: ReportedStudy, model: ModelIdentity, has_slices: bool) -> str:
    label = study.result.label
    if label is not None and not model.class_named(label).is_lesion:
        return no_lesion_note(model)
    if study.deciding is not None and not study.deciding.key_slices and label is not None:
        return "No slice is shown: the model judges the series as a whole."
    return "" if has_slices else "No slice is shown: no series was assessed, or its images are no longer stored."


def _found(study: ReportedStudy, model: ModelIdentity) -> str:
    """What the deciding series found, of which its maps are."""
    label = study.deciding.contribution.answer.label if study.deciding is not None else None
    return model.class_named(label).title if label is not None else ""


def _caption(study: ReportedStudy, image: KeyImage) -> str:
    if study.deciding is None:
        return ""
    number = image.slice_index + 1
    positions = {key: item.position_mm for key, item in study.deciding.key_slices}
    position = positions.get(number)
    place = f", {position:.1f} mm" if position is not None else ""
    return f"Slice {number} of {study.deciding.slices}{place}"


def _rows(study: ReportedStudy) -> tuple[Sequence[ReportedSeries], int]:
    """The series that are listed, and how many others there are; assessed series first where there are too many."""
    if len(study.series) <= ROWS:
        return study.series, 0
    ranked = sorted(study.series, key=lambda item: (item is not study.deciding, item.contribution.answer.label is None))
    kept = {id(item) for item in ranked[:ROWS]}
    return [item for item in study.series if id(item) in kept], len(study.series) - ROWS


def _draw_table(
    draw: ImageDraw.ImageDraw,
    study: ReportedStudy,
    model: ModelIdentity,
    rows: Sequence[ReportedSeries],
    omitted: int,
    top: int,
) -> None:
    for name, (left, width) in _COLUMNS.items():
        draw_line(draw, (left, top + 20), name, 16, FAINT, width)
    for number, series in enumerate(rows):
        middle = top + 44 + number * _ROW + _ROW // 2
        draw.line((_LEFT, middle - _ROW // 2, _RIGHT, middle - _ROW // 2), LINE)
        if series is study.deciding:
            draw.rectangle((8, middle - _ROW // 2 + 3, 13, middle + _ROW // 2 - 3), fill=WARNING)
        colour = INK if series.contribution.answer.label is not None else FAINT
        for (left, width), text in zip(_COLUMNS.values(), _cells(series, study, model), strict=True):
            draw_line(draw, (left, middle), text, 18, colour, width)
    if omitted:
        middle = top + 44 + len(rows) * _ROW + _ROW // 2
        text = f"and {omitted} series more: see the report"
        draw_line(draw, (_LEFT, middle), text, 18, FAINT, _RIGHT - _LEFT)


def _cells(series: ReportedSeries, study: ReportedStudy, model: ModelIdentity) -> tuple[str, ...]:
    """Number, description, what it was judged as, its answer, and how it counted."""
    said, counted = series.contribution.answer, series.contribution
    kind = ", ".join(part for part in (sequence_in_words(said.sequence or ""), said.plane or "") if part)
    number = "" if said.number is None else str(said.number)
    if said.label is None:
        reason = (said.reason or "no answer").replace("-", " ")
        return number, printable(series.description), kind, f"not assessed: {reason}", "no"
    answer = f"{model.class_named(said.label).title} {percent(answer_probability(series, model))}"
    marks = [", contradicts"] if counted.contradicts else []
    marks += [", deciding"] if series is study.deciding else []
    return number, printable(series.description), kind, answer, f"{100 * counted.weight:.0f} %{''.join(marks)}"
