"""Draw the image of the Secondary Capture: the key image, and beside it the same slice with its activation map.

What a viewer may omit is burnt into the pixels: the result, the model, the patient's directions at the edges of the
slice where its orientation is known, and that it is unverified and for research. No patient is named. A map is drawn
only for a lesion; letters and captions are beside the slice, never on it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from worker.inference.illustrated import IllustratedResult, KeyImage
from worker.pixels.arrays import ByteArray
from worker.pixels.colour_map import overlay
from worker.reporting.drawing import (
    FAINT,
    INK,
    WARNING,
    Box,
    draw_colour_bar,
    draw_line,
    draw_panel,
    draw_paragraph,
    font,
    new_canvas,
    no_lesion_note,
    percent,
)
from worker.results import ModelIdentity, ResultStatus

WIDTH, HEIGHT = 1024, 600

_PANELS: tuple[Box, Box] = (20, 112, 440, 412), (484, 112, 440, 412)
_BAR: Box = 944, 152, 20, 332
_PARAGRAPH: Box = 484, 112, WIDTH - 20 - 484, 412
_NO_MAP = "The model gives no map of where it looked."


def draw_picture(result: IllustratedResult, model: ModelIdentity) -> ByteArray:
    """Draw a result: uint8 RGB [600, 1024, 3]; for "not assessed" the slice and the reason."""
    canvas, draw = new_canvas(WIDTH, HEIGHT)
    draw_line(draw, (WIDTH - 20, 62), model.name, 18, FAINT, 380, anchor="rm")
    draw_line(draw, (WIDTH - 20, 88), f"version {model.version}", 18, FAINT, 380, anchor="rm")
    left = 20
    if result.series_type:
        left = draw_line(draw, (left, 101), result.series_type, 15, FAINT, 460) + 20
    if result.missing:
        draw_line(draw, (left, 101), f"Incomplete: {result.missing}", 15, WARNING, WIDTH - 20 - left)
    if result.status is ResultStatus.CLASSIFIED and result.label is not None:
        _draw_classified(canvas, draw, result, model, result.label)
    else:
        _draw_not_assessed(canvas, draw, result)
    return np.asarray(canvas, dtype=np.uint8)


def shows_map(result: IllustratedResult, model: ModelIdentity) -> bool:
    """Whether the picture of a result has an activation map: only a lesion that was found has a map."""
    is_lesion = result.label is not None and model.class_named(result.label).is_lesion
    return is_lesion and result.key_image is not None and result.key_image.activation is not None


def _draw_classified(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, result: IllustratedResult, model: ModelIdentity, label: str
) -> None:
    answer = model.class_named(label)
    title = answer.title
    certainty = percent(result.probability or 0.0)
    room = 560 - round(draw.textlength(certainty, font(36)))
    end = draw_line(draw, (20, 74), title, 36, INK, room)
    draw.text((end + 20, 74), certainty, INK, font(36), anchor="lm")
    ranked = sorted(model.classes, key=lambda item: -result.probabilities[item.name])
    scores = ",  ".join(f"{item.title} {percent(result.probabilities[item.name])}" for item in ranked)
    draw_line(draw, (20, 578), scores, 18, FAINT, WIDTH - 40)
    key_image = result.key_image
    if key_image is None:
        return
    draw_panel(canvas, draw, _PANELS[0], key_image.image, _caption(result, key_image), key_image.edges)
    if not answer.is_lesion:
        draw_paragraph(draw, _PARAGRAPH, no_lesion_note(model), 24)
    elif key_image.activation is not None:  # as `shows_map`
        overlaid = overlay(key_image.image, key_image.activation)
        draw_panel(
            canvas, draw, _PANELS[1], overlaid, f"Where the model looked: class activation, {title}", key_image.edges
        )
        draw_colour_bar(canvas, draw, _BAR)
    else:
        draw_paragraph(draw, _PARAGRAPH, _NO_MAP, 24)


def _draw_not_assessed(canvas: Image.Image, draw: ImageDraw.ImageDraw, result: IllustratedResult) -> None:
    draw_line(draw, (20, 74), "Not assessed", 36, INK, 580)
    key_image = result.key_image
    if key_image is not None:
        draw_panel(canvas, draw, _PANELS[0], key_image.image, _caption(result, key_image), key_image.edges)
    reason = f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    draw_paragraph(draw, _PARAGRAPH, reason, 24)


def _caption(result: IllustratedResult, key_image: KeyImage) -> str:
    position = result.slices[key_image.slice_index].position_mm if result.slices else None
    place = f", {position:.1f} mm" if position is not None else ""
    return f"Slice {key_image.slice_index + 1} of {len(result.slices)}{place}"
