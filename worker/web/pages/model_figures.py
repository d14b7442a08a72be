"""The evaluation of a model, from its bundle's docs/figures.json, as the page plots it. Format: docs/bundle.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.logs import get_log

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Point = tuple[Fraction, Fraction]
Name = Annotated[str, Field(max_length=64)]


class Dot(NamedTuple):
    """A dot: its centre in a square of 100, its width in pixels."""

    x: float
    y: float
    width: float


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FigureLevel(_Checked):
    """Figures per slice or per patient; the matrix holds counts, a row per truth and a column per answer."""

    n: Count
    patients: Count
    accuracy: Fraction | None
    balanced_accuracy: Fraction | None
    balanced_accuracy_ci: tuple[Fraction, Fraction] | None
    ece: Fraction | None
    tumour_auc: Fraction | None
    truths: Annotated[list[Name], Field(max_length=40)]
    answers: Annotated[list[Name], Field(max_length=40)]
    confusion_matrix: list[list[Count]]
    reliability: Annotated[list[tuple[Fraction, Fraction, Count]], Field(max_length=100)]
    roc: Annotated[list[Point], Field(max_length=1000)]
    risk_coverage: Annotated[list[Point], Field(max_length=1000)]

    @model_validator(mode="after")
    def _matrix_fits_its_labels(self) -> FigureLevel:
        if [len(row) for row in self.confusion_matrix] != [len(self.answers)] * len(self.truths):
            raise ValueError("confusion_matrix: a row per truth and a column per answer")
        return self

    @property
    def roc_line(self) -> str:
        return _line(self.roc)

    @property
    def risk_line(self) -> str:
        """Risk over coverage, the axis of risk up to `highest_risk`."""
        return _line((x, y / self.highest_risk) for x, y in self.risk_coverage)

    @property
    def highest_risk(self) -> float:
        """The top of the risk axis: rounded up to a tenth, so that curves of different models compare."""
        return max(1, -(-max((y for _, y in self.risk_coverage), default=0) // 0.1)) / 10

    @property
    def reliability_dots(self) -> list[Dot]:
        """A dot per bin; its area grows with the number of answers."""
        most = max((n for _, _, n in self.reliability), default=0) or 1
        return [
            Dot(round(100 * predicted, 2), round(100 * (1 - accuracy), 2), round(3 + 10 * (n / most) ** 0.5, 1))
            for predicted, accuracy, n in self.reliability
        ]


class FigureSection(_Checked):
    """The figures of an evaluation."""

    title: Annotated[str, Field(max_length=200)]
    slices: FigureLevel
    patients: FigureLevel


class ModelFigures(_Checked):
    """docs/figures.json."""

    format: Literal[1]
    parts: Annotated[list[FigureSection], Field(max_length=20)]


def read_figures(content: str | None) -> ModelFigures | None:
    """None for a bundle without figures, or with invalid figures, which are logged."""
    if content is None:
        return None
    try:
        return ModelFigures.model_validate_json(content)
    except ValidationError as error:
        get_log().warning("docs/figures.json of a bundle is invalid and not shown", faults=error.error_count())
        return None


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Points of an SVG polyline in a square of 100, the origin at the bottom left."""
    return " ".join(f"{100 * x:.2f},{100 * (1 - y):.2f}" for x, y in points)
