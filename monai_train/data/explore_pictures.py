"""Charts and contact sheets of the exploration report, as PNG."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from monai_train.data.images import is_dicom_file, read_dicom_frame, read_picture

# Okabe and Ito: distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
_SPLIT_COLOURS = {"train": "#8ECAE6", "test": "#FFB703", "val": "#B7D66B", "": "#CCCCCC"}  # labelled with black numbers
_TILE = 128
_GAP = 4
_CAPTION = 14  # height of a line of Pillow's own font


def counts_chart(labels: Sequence[str], splits: Sequence[str]) -> bytes:
    """Bar chart of images by class, stacked and labelled by split. `labels` and `splits` have an entry per image."""
    from matplotlib.figure import Figure

    names = sorted(set(labels))
    counts = Counter(zip(labels, splits, strict=True))
    figure = Figure(figsize=(8, 0.8 + 0.45 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(names))
    for split in (split for split in _SPLIT_COLOURS if split in splits):
        widths = np.array([counts[name, split] for name in names])
        bars = axes.barh(
            names, widths, left=left, color=_SPLIT_COLOURS[split], label=split or "no split", edgecolor="white"
        )
        axes.bar_label(
            bars, [str(w) if w > 0.04 * len(labels) / len(names) else "" for w in widths], label_type="center"
        )
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return _png(figure)


def intensity_chart(labels: Sequence[str], histograms: npt.NDArray[np.float32]) -> bytes:
    """Line chart of the mean share of each grey value, by class. `histograms` [images, bins]."""
    from matplotlib.figure import Figure

    names = sorted(set(labels))
    bins = histograms.shape[1]
    centres = (np.arange(bins) + 0.5) / bins
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    of = np.array(labels)
    for number, (colour, name) in enumerate(zip(_colours(len(names)), names, strict=True)):
        style = ("-", "--", "-.", ":")[number // len(COLOURS) % 4]
        axes.plot(centres, 100 * histograms[of == name].mean(axis=0), style, color=colour, label=name, lw=2)
    axes.set_yscale("log")
    axes.set_xlabel("grey value (0 black, 1 the maximum of the format)")
    axes.set_ylabel("% of pixels")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return _png(figure)


def contact_sheet(paths: Sequence[Path], columns: int) -> bytes:
    """The images in rows of `columns`, each scaled to a square, the brightest value white."""
    return tiled([_thumbnail(path) for path in paths], columns, "L")


def tiled(tiles: Sequence[Image.Image], columns: int, mode: str, captions: Sequence[str] = ()) -> bytes:
    """PNG of images in rows of `columns`, each in the middle of a tile as large as the largest, its caption below."""
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    below = _CAPTION if captions else 0
    rows = -(-len(tiles) // columns)
    size = columns * (width + _GAP) - _GAP, rows * (height + below + _GAP) - _GAP
    sheet = Image.new(mode, size, "white")
    for n, tile in enumerate(tiles):
        x, y = (n % columns) * (width + _GAP), (n // columns) * (height + below + _GAP)
        sheet.paste(Image.new(mode, (width, height)), (x, y))
        sheet.paste(tile, (x + (width - tile.width) // 2, y + (height - tile.height) // 2))
        if captions:
            ImageDraw.Draw(sheet).text((x, y + height), captions[n], fill="black")
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _thumbnail(path: Path) -> Image.Image:
    pixels = (read_dicom_frame(path) if is_dicom_file(path) else read_picture(path)).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels * (255.0 / max(1, int(pixels.max())))).astype(np.uint8)
    image = Image.fromarray(pixels)
    scale = _TILE / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _png(figure: object) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})  # type: ignore[attr-defined]
    return stream.getvalue()
