"""Draw the image of the Secondary Capture: the key image, and beside it the same slice with its activation map.

What a viewer may omit is burnt into the pixels: the result, the model, the patient's directions at the edges of the
slice where its orientation is known, and that it is unverified and for research. No patient is named. A map is drawn
only for a lesion; letters and captions are beside the slice, never on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.inference.illustrated import IllustratedResult, KeyImage
from worker.pixels.arrays import ByteArray
from worker.pixels.colour_map import ACTIVATION_THRESHOLD, colours, overlay
from worker.pixels.geometry import Edges
from worker.reporting.source_attributes import RESEARCH_USE
from worker.results import ModelIdentity, ResultStatus

WIDTH, HEIGHT = 1024, 600

_PANEL_TOP, _PANEL_WIDTH, _PANEL_HEIGHT = 112, 440, 412
_PANEL_LEFT = (20, 484)
_BAR = (944, _PANEL_TOP + 40, 964, _PANEL_TOP + _PANEL_HEIGHT - 40)
_LETTERS = 26  # of each side of a panel, for the patient's directions
_NO_LESION = "No map is shown, because the model found no lesion. This does not exclude a tumour."
_BACKGROUND, _INK, _FAINT, _WARNING = (16, 18, 22), (240, 240, 240), (170, 176, 186), (255, 196, 64)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Colour = tuple[int, int, int]


def draw_picture(result: IllustratedResult, model: ModelIdentity) -> ByteArray:
    """Draw a result: uint8 RGB [600, 1024, 3]; for "not assessed" the slice and the reason."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, WIDTH, 36), fill=_WARNING)
    draw.text((20, 18), f"{RESEARCH_USE}. Not for diagnosis.", (0, 0, 0), _font(20), anchor="lm")
    _line(draw, (WIDTH - 20, 62), model.name, 18, _FAINT, 380, anchor="rm")
    _line(draw, (WIDTH - 20, 88), f"version {model.version}", 18, _FAINT, 380, anchor="rm")
    left = 20
    if result.series_type:
        left = _line(draw, (left, 101), result.series_type, 15, _FAINT, 460) + 20
    if result.missing:
        _line(draw, (left, 101), f"Incomplete: {result.missing}", 15, _WARNING, WIDTH - 20 - left)
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
    certainty = _percent(result.probability or 0.0)
    room = 560 - round(draw.textlength(certainty, _font(36)))
    end = _line(draw, (20, 74), title, 36, _INK, room)
    draw.text((end + 20, 74), certainty, _INK, _font(36), anchor="lm")
    ranked = sorted(model.classes, key=lambda item: -result.probabilities[item.name])
    scores = ",  ".join(f"{item.title} {_percent(result.probabilities[item.name])}" for item in ranked)
    _line(draw, (20, 578), scores, 18, _FAINT, WIDTH - 40)
    key_image = result.key_image
    if key_image is None:
        return
    _panel(canvas, draw, 0, key_image.image, _caption(result, key_image), key_image.edges)
    if not answer.is_lesion:
        _paragraph(draw, (_PANEL_LEFT[1], _PANEL_TOP), _NO_LESION, 24, WIDTH - 20 - _PANEL_LEFT[1])
    elif key_image.activation is not None:  # as `shows_map`
        overlaid = overlay(key_image.image, key_image.activation)
        _panel(canvas, draw, 1, overlaid, f"Where the model looked: class activation, {title}", key_image.edges)
        _colour_bar(canvas, draw)


def _draw_not_assessed(canvas: Image.Image, draw: ImageDraw.ImageDraw, result: IllustratedResult) -> None:
    _line(draw, (20, 74), "Not assessed", 36, _INK, 580)
    key_image = result.key_image
    if key_image is not None:
        _panel(canvas, draw, 0, key_image.image, _caption(result, key_image), key_image.edges)
    reason = f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    _paragraph(draw, (_PANEL_LEFT[1], _PANEL_TOP), reason, 24, WIDTH - 20 - _PANEL_LEFT[1])


def _caption(result: IllustratedResult, key_image: KeyImage) -> str:
    position = result.slices[key_image.slice_index].position_mm if result.slices else None
    place = f", {position:.1f} mm" if position is not None else ""
    return f"Slice {key_image.slice_index + 1} of {len(result.slices)}{place}"


def _panel(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    column: int,
    pixels: ByteArray,
    caption: str,
    edges: Edges | None,
) -> None:
    """An image with its caption, as large as its panel allows at its own aspect ratio, and the letters around it."""
    rows, columns = pixels.shape[:2]
    margin = _LETTERS if edges is not None else 0
    scale = min((_PANEL_WIDTH - 2 * margin) / columns, (_PANEL_HEIGHT - 2 * margin) / rows)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    shown = Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left = _PANEL_LEFT[column]
    corner = left + (_PANEL_WIDTH - size[0]) // 2, _PANEL_TOP + (_PANEL_HEIGHT - size[1]) // 2
    canvas.paste(shown, corner)
    if edges is not None:
        middle = left + _PANEL_WIDTH // 2, _PANEL_TOP + _PANEL_HEIGHT // 2
        beyond = _LETTERS // 2
        for letters, place in (
            (edges.left, (corner[0] - beyond, middle[1])),
            (edges.right, (corner[0] + size[0] + beyond, middle[1])),
            (edges.top, (middle[0], corner[1] - beyond)),
            (edges.bottom, (middle[0], corner[1] + size[1] + beyond)),
        ):
            draw.text(place, letters, _INK, _font(18 if len(letters) == 1 else 13), anchor="mm")
    draw.rectangle((left - 1, _PANEL_TOP - 1, left + _PANEL_WIDTH, _PANEL_TOP + _PANEL_HEIGHT), outline=(70, 74, 82))
    _line(draw, (left, _PANEL_TOP + _PANEL_HEIGHT + 18), caption, 18, _INK, _PANEL_WIDTH)


def _colour_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    left, top, right, bottom = _BAR
    ramp = np.linspace(1, 0, bottom - top, dtype=np.float32)[:, None].repeat(right - left, axis=1)
    canvas.paste(Image.fromarray(np.rint(colours(ramp)).astype(np.uint8)), (left, top))
    draw.text((right + 8, top), "1.0", _INK, _font(16), anchor="lm")
    draw.text((right + 8, bottom), f"{ACTIVATION_THRESHOLD}", _INK, _font(16), anchor="lm")
    draw.text((left, top - 24), "activation", _FAINT, _font(15), anchor="lm")
    draw.text((left, bottom + 22), "below: clear", _FAINT, _font(13), anchor="lm")


def _line(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: _Colour,
    width: int,
    anchor: str = "lm",
) -> int:
    """Draw a line of text within `width` pixels: first smaller, then truncated with an ellipsis; its right end."""
    while size > 13 and draw.textlength(text, _font(size)) > width:
        size -= 1
    if draw.textlength(text, _font(size)) > width:
        while text and draw.textlength(f"{text}…", _font(size)) > width:
            text = text[:-1]
        text += "…"
    draw.text(at, text, colour, _font(size), anchor=anchor)
    return at[0] + round(draw.textlength(text, _font(size)))


def _paragraph(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, width: int) -> None:
    """Text wrapped at `width` pixels, cut off at the foot of the panels."""
    lines = _wrapped(draw, text.split(), size, width)
    room = _PANEL_HEIGHT // (size + 8)
    if len(lines) > room:
        lines[room - 1] += " …"
    for number, line in enumerate(lines[:room]):
        _line(draw, (at[0], at[1] + size // 2 + number * (size + 8)), line, size, _INK, width)


def _wrapped(draw: ImageDraw.ImageDraw, words: Sequence[str], size: int, width: int) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, _font(size)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size: int) -> _Font:
    return ImageFont.load_default(size)  # Aileron, inside Pillow: the same on every machine


def _percent(probability: float) -> str:
    """Never 0 or 100 %: no model is certain."""
    if probability > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if probability < 0.001 else f"{100 * probability:.1f} %"
