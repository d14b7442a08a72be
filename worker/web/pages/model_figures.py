"""How good a model is, by its bundle's docs/figures.json, as the page draws it. docs/bundle.md has the form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.logs import get_log

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Point = tuple[Share, Share]
Name = Annotated[str, Field(max_length=64)]


class Dot(NamedTuple):
    """Its centre in a square of 100, its width in pixels."""

    x: float
    y: float
    width: float


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Level(_Checked):
    """Figures of slices or of patients; the matrix holds counts, a row for each truth, a column for each answer."""

    n: Count
    patients: Count
    accuracy: Share | None
    balanced_accuracy: Share | None
    balanced_accuracy_ci: tuple[Share, Share] | None
    ece: Share | None
    tumour_auc: Share | None
    truths: Annotated[list[Name], Field(max_length=40)]
    answers: Annotated[list[Name], Field(max_length=40)]
    confusion_matrix: list[list[Count]]
    reliability: Annotated[list[tuple[Share, Share, Count]], Field(max_length=100)]
    roc: Annotated[list[Point], Field(max_length=1000)]
    risk_coverage: Annotated[list[Point], Field(max_length=1000)]

    @model_validator(mode="after")
    def _matrix_has_a_cell_for_each(self) -> Level:
        if [len(row) for row in self.confusion_matrix] != [len(self.answers)] * len(self.truths):
            raise ValueError("confusion_matrix: a row for each truth and a column for each answer")
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
        """The top of the axis: the next tenth, so that curves of several models are read alike."""
        return max(1, -(-max((y for _, y in self.risk_coverage), default=0) // 0.1)) / 10

    @property
    def reliability_dots(self) -> list[Dot]:
        """A dot's area grows with the number of answers."""
        most = max((n for _, _, n in self.reliability), default=0) or 1
        return [
            Dot(round(100 * stated, 2), round(100 * (1 - right), 2), round(3 + 10 * (n / most) ** 0.5, 1))
            for stated, right, n in self.reliability
        ]


class Part(_Checked):
    title: Annotated[str, Field(max_length=200)]
    slices: Level
    patients: Level


class Figures(_Checked):
    format: Literal[1]
    parts: Annotated[list[Part], Field(max_length=20)]


def read_figures(content: str | None) -> Figures | None:
    """None for a bundle without figures, or with some that are not in their form, which the log says."""
    if content is None:
        return None
    try:
        return Figures.model_validate_json(content)
    except ValidationError as error:
        get_log().warning("a bundle's docs/figures.json is not shown", faults=error.error_count())
        return None


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Points of an SVG polyline in a square of 100, the origin at the bottom left."""
    return " ".join(f"{100 * x:.2f},{100 * (1 - y):.2f}" for x, y in points)
