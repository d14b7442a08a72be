"""Draw text, slices and the colour bar of our pictures. Letters and captions are beside a slice, never on it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.pixels.arrays import ByteArray
from worker.pixels.colour_map import ACTIVATION_THRESHOLD, colours
from worker.pixels.geometry import Edges
from worker.reporting.source_attributes import RESEARCH_USE
from worker.results import ModelIdentity

BACKGROUND, INK, FAINT, WARNING, LINE = (16, 18, 22), (240, 240, 240), (170, 176, 186), (255, 196, 64), (70, 74, 82)
BANNER = 36  # its height
_LETTERS = 26  # of each side of a panel, for the patient's directions
_SMALLEST = 13
_FONT = Path(__file__).parent / "fonts" / "DejaVuSansCondensed.ttf"

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, width, height


def new_canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A canvas with the banner that it is unverified and for research."""
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width, BANNER), fill=WARNING)
    draw.text((20, BANNER // 2), f"{RESEARCH_USE}. Not for diagnosis.", (0, 0, 0), font(20), anchor="lm")
    return canvas, draw


def draw_panel(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, box: Box, pixels: ByteArray, caption: str, edges: Edges | None
) -> None:
    """An image with its caption, as large as its box allows at its own aspect ratio, and the letters around it."""
    left, top, width, height = box
    rows, columns = pixels.shape[:2]
    margin = _LETTERS if edges is not None else 0
    scale = min((width - 2 * margin) / columns, (height - 2 * margin) / rows)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    shown = Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    corner = left + (width - size[0]) // 2, top + (height - size[1]) // 2
    canvas.paste(shown, corner)
    if edges is not None:
        middle = left + width // 2, top + height // 2
        beyond = _LETTERS // 2
        for letters, place in (
            (edges.left, (corner[0] - beyond, middle[1])),
            (edges.right, (corner[0] + size[0] + beyond, middle[1])),
            (edges.top, (middle[0], corner[1] - beyond)),
            (edges.bottom, (middle[0], corner[1] + size[1] + beyond)),
        ):
            draw.text(place, letters, INK, font(18 if len(letters) == 1 else 13), anchor="mm")
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=LINE)
    draw_line(draw, (left, top + height + 18), caption, 18, INK, width)


def draw_colour_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, bar: Box) -> None:
    """The colours of a map, with 80 pixels to the right of the bar for their values."""
    left, top, width, height = bar
    ramp = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(width, axis=1)
    canvas.paste(Image.fromarray(np.rint(colours(ramp)).astype(np.uint8)), (left, top))
    draw.text((left + width + 8, top), "1.0", INK, font(16), anchor="lm")
    draw.text((left + width + 8, top + height), f"{ACTIVATION_THRESHOLD}", INK, font(16), anchor="lm")
    draw.text((left, top - 24), "activation", FAINT, font(15), anchor="lm")
    draw.text((left, top + height + 22), "below: clear", FAINT, font(13), anchor="lm")


def draw_line(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: Colour,
    width: int,
    anchor: str = "lm",
) -> int:
    """Draw a line of text within `width` pixels: first smaller, then truncated with an ellipsis; its right end.

    A letter that the font lacks is drawn without its marks, or as a question mark.
    """
    text = "".join(map(_drawable, unicodedata.normalize("NFC", text)))
    while size > _SMALLEST and draw.textlength(text, font(size)) > width:
        size -= 1
    if draw.textlength(text, font(size)) > width:
        while text and draw.textlength(f"{text}…", font(size)) > width:
            text = text[:-1]
        text += "…"
    draw.text(at, text, colour, font(size), anchor=anchor)
    return at[0] + round(draw.textlength(text, font(size)))


def draw_paragraph(draw: ImageDraw.ImageDraw, box: Box, text: str, size: int, colour: Colour = INK) -> None:
    """Text wrapped in a box, cut off at its foot."""
    left, top, width, height = box
    lines = _wrapped(draw, text.split(), size, width)
    room = max(1, height // (size + 8))
    if len(lines) > room:
        lines[room - 1] += " …"
    for number, line in enumerate(lines[:room]):
        draw_line(draw, (left, top + size // 2 + number * (size + 8)), line, size, colour, width)


def _wrapped(draw: ImageDraw.ImageDraw, words: Sequence[str], size: int, width: int) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font(size)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Condensed, of which the package has the Latin, Greek and Cyrillic letters, digits and signs."""
    return ImageFont.truetype(_FONT, size)


@lru_cache(maxsize=1024)
def _drawable(letter: str) -> str:
    """A letter as the font can draw it."""
    if letter.isascii() or bytes(font(18).getmask(letter)) != _missing():
        return letter
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if part.isascii())
    return plain or "?"


@lru_cache(maxsize=1)
def _missing() -> bytes:
    """What the font draws for a letter that it lacks."""
    return bytes(font(18).getmask("\uffff"))


def no_lesion_note(model: ModelIdentity) -> str:
    """What stands in place of the map where the model found nothing."""
    excluded = "a tumour" if model.names_neoplasms else "one"
    return f"No map is shown, because the model found no lesion. This does not exclude {excluded}."


def percent(probability: float) -> str:
    """Never 0 or 100 %: no model is certain."""
    if probability > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if probability < 0.001 else f"{100 * probability:.1f} %"
