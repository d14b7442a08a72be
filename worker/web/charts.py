"""Charts as SVG shapes. They stretch with the page, so their text is HTML beside them; colours are CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HEIGHT = 100.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A line as an SVG `points` attribute; `mark` is its point where it has a single point, else None."""

    name: str
    style: str
    points: str
    mark: Point | None


@dataclass(frozen=True, slots=True)
class Bar:
    """A segment of a stacked bar."""

    style: str
    x: float
    y: float
    width: float
    height: float


def lines(
    names: Sequence[str], styles: Sequence[str], series: Sequence[Sequence[float | None]], top: float
) -> list[Line]:
    """A line per name: `series[name][column]`, 0 to `top` → x at the middle of each column, y from HEIGHT down to 0.

    A column without a value is skipped.
    """
    drawn = []
    for name, style, values in zip(names, styles, series, strict=True):
        points = [
            (column + 0.5, round(HEIGHT * (1 - value / top), 2))
            for column, value in enumerate(values)
            if value is not None
        ]
        text = " ".join(f"{x},{y}" for x, y in points)
        drawn.append(Line(name, style, text, points[0] if len(points) == 1 else None))
    return drawn


def stacked(styles: Sequence[str], columns: Sequence[Sequence[float]], top: float) -> list[Bar]:
    """Bars: `columns[column][segment]` from 0 to `top`, the first segment at the foot."""
    bars = []
    for column, segments in enumerate(columns):
        foot = HEIGHT
        for style, segment in zip(styles, segments, strict=True):
            height = HEIGHT * segment / top
            foot -= height
            if segment:
                bars.append(Bar(style, column + 0.12, round(foot, 2), 0.76, round(height, 2)))
    return bars


def round_top(largest: float) -> float:
    """The end of an axis: 1, 2 or 5 times a power of ten, not below `largest`; 1 for nothing."""
    if largest <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(largest))
    return next((factor * step for factor in (1, 2, 5) if factor * step >= largest), 10 * step)


def seconds(value: float | None) -> str:
    """A duration in the unit that reads best."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.0f} h"
