"""Draw the image of the Secondary Capture: the key image, and beside it the same slice with its activation map.

What a viewer may omit is burnt into the pixels: the result, the model, and that it is unverified and for research.
There are no left and right marks: the worker does not know how a viewer rotates or flips the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from worker.inference.illustrated import IllustratedResult
from worker.pixels.arrays import ByteArray, FloatArray
from worker.reporting.source_attributes import RESEARCH_USE
from worker.results import ModelIdentity, ResultStatus

WIDTH, HEIGHT = 1024, 600
ACTIVATION_THRESHOLD = 0.3  # below it the map is transparent: weak activation is everywhere and has no meaning

_PANEL_TOP, _PANEL_WIDTH, _PANEL_HEIGHT = 112, 440, 412
_PANEL_LEFT = (20, 484)
_BAR = (944, _PANEL_TOP + 40, 964, _PANEL_TOP + _PANEL_HEIGHT - 40)
_BACKGROUND, _INK, _FAINT, _WARNING = (16, 18, 22), (240, 240, 240), (170, 176, 186), (255, 196, 64)

# "plasma" of matplotlib (CC0) at nine even steps: its lightness increases evenly, and no step is grey.
_COLOUR_STEPS: npt.NDArray[np.float32] = np.array(
    [(13, 8, 135), (76, 2, 161), (126, 3, 168), (170, 35, 149), (204, 71, 120), (230, 108, 92), (248, 149, 64),
     (253, 197, 39), (240, 249, 33)], dtype=np.float32,
)  # fmt: skip

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
    if result.missing:
        _line(draw, (20, 101), f"Incomplete: {result.missing}", 15, _WARNING, WIDTH - 40)
    if result.status is ResultStatus.CLASSIFIED and result.label is not None:
        _draw_classified(canvas, draw, result, model, result.label)
    else:
        _draw_not_assessed(canvas, draw, result)
    return np.asarray(canvas, dtype=np.uint8)


def colours(values: FloatArray) -> FloatArray:
    """Colours of the map: values in [0, 1], any shape → [..., 3] in 0-255."""
    steps = np.linspace(0, 1, len(_COLOUR_STEPS))
    channels = [np.interp(values, steps, _COLOUR_STEPS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def overlay(image: ByteArray, activation: FloatArray) -> ByteArray:
    """Overlay the activation map on the slice: [rows, columns] each → uint8 RGB [rows, columns, 3].

    The slice is unchanged below ACTIVATION_THRESHOLD; above it the opacity of the map increases to 60 %.
    """
    strength = np.clip(np.nan_to_num(activation), 0, 1).astype(np.float32)
    above = np.clip((strength - ACTIVATION_THRESHOLD) / (1 - ACTIVATION_THRESHOLD), 0, 1)
    opacity = np.where(strength >= ACTIVATION_THRESHOLD, 0.25 + 0.35 * above, 0)[..., None]
    grey = np.repeat(image[..., None].astype(np.float32), 3, axis=-1)
    blended: ByteArray = np.rint(grey * (1 - opacity) + colours(above) * opacity).astype(np.uint8)
    return blended


def _draw_classified(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, result: IllustratedResult, model: ModelIdentity, label: str
) -> None:
    title = model.class_named(label).title
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
    _panel(canvas, draw, 0, key_image.image, f"Slice {key_image.slice_index + 1} of {len(result.slices)}")
    if key_image.activation is not None:
        overlaid = overlay(key_image.image, key_image.activation)
        _panel(canvas, draw, 1, overlaid, f"Where the model looked: class activation, {title}")
        _colour_bar(canvas, draw)


def _draw_not_assessed(canvas: Image.Image, draw: ImageDraw.ImageDraw, result: IllustratedResult) -> None:
    _line(draw, (20, 74), "Not assessed", 36, _INK, 580)
    key_image = result.key_image
    if key_image is not None:
        _panel(canvas, draw, 0, key_image.image, f"Slice {key_image.slice_index + 1} of {len(result.slices)}")
    reason = f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    _paragraph(draw, (_PANEL_LEFT[1], _PANEL_TOP), reason, 24, WIDTH - 20 - _PANEL_LEFT[1])


def _panel(canvas: Image.Image, draw: ImageDraw.ImageDraw, column: int, pixels: ByteArray, caption: str) -> None:
    """An image with its caption, as large as its panel allows at its own aspect ratio."""
    rows, columns = pixels.shape[:2]
    scale = min(_PANEL_WIDTH / columns, _PANEL_HEIGHT / rows)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    shown = Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left = _PANEL_LEFT[column]
    canvas.paste(shown, (left + (_PANEL_WIDTH - size[0]) // 2, _PANEL_TOP + (_PANEL_HEIGHT - size[1]) // 2))
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
