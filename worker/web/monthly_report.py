"""The monthly report: agreement of readers with the models, and drift of inputs, outputs and calibration.

`data_dir/reports/2026-11.json` and the same as a self-contained page, `2026-11.html`. Months are UTC. Shadow models are
left out (`worker models compare` covers them). Figures from few series carry a note: three patients prove nothing.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.db.engine import Database, Session
from worker.db.readings import (
    GivenAnswer,
    JudgedAnswer,
    given_answers,
    judged_answers,
    models_by_id,
    received_series_count,
)
from worker.db.studies.comparing import StudiesMonth, studies_answered
from worker.db.studies.readings import judged_study_answers
from worker.db.views.json_values import json_value
from worker.errors import StartError
from worker.files import write_atomically
from worker.web.templating import render, style_sheet
from worker.wording import counted

FEW = 30  # a figure of fewer patients or series carries a note
MONTHS_BEFORE = 3
_BINS = 10
_NAME = re.compile(r"[12]\d{3}-(?:0[1-9]|1[0-2])", re.ASCII)
NOT_ASSESSED = "not assessed"


@dataclass(frozen=True, slots=True)
class Proportion:
    """`count` of `n` with a 95 % interval (Wilson 1927), which counts `patients`; values are None where n is 0."""

    count: int
    n: int
    patients: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the series, or studies, to which both a reader and the model gave a finding, the share in which it is right.

    A tumour whose kind the model did not determine is right where the reader sees a tumour of any kind; one of
    which the reader knows no kind, and the model names a kind, does not count. `confusion`: reader's finding →
    model's result → number of series or studies, for every one that was read.
    """

    same: Proportion
    read: int
    confusion: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error of the results that readers judged, 10 bins of equal width (Guo et al. 2017)."""

    n: int
    error: float | None
    mean_probability: float | None
    right: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure over series: how many have it, and three of its quantiles."""

    n: int
    tenth: float | None
    median: float | None
    ninetieth: float | None


@dataclass(frozen=True, slots=True)
class MonthlyChange:
    """A spread now and before. `gap` is the largest distance of their cumulative distributions (Kolmogorov-Smirnov).

    Chance alone exceeds `limit` in 1 month of 20. Both are None where either spread is empty.
    """

    now: Spread
    before: Spread
    gap: float | None
    limit: float | None


@dataclass(frozen=True, slots=True)
class Shift:
    """A proportion now and before."""

    name: str
    now: Proportion
    before: Proportion

    @property
    def apart(self) -> bool:
        """Whether the two intervals do not overlap."""
        ends = (self.now.low, self.now.high, self.before.low, self.before.high)
        if any(end is None for end in ends):
            return False
        low, high, low_before, high_before = (float(end or 0) for end in ends)
        return low > high_before or high < low_before


@dataclass(frozen=True, slots=True)
class ModelMonth:
    """The figures of a model in a month. `agreement` is that on series, `study_agreement` that on studies."""

    model: str
    sha256: str
    results: int
    results_before: int
    agreement: Agreement
    study_agreement: Agreement
    calibration: Calibration
    inputs: tuple[Shift, ...]
    distance: MonthlyChange
    outputs: tuple[Shift, ...]
    probability: MonthlyChange


@dataclass(frozen=True, slots=True)
class MonthReport:
    """The report of a month; `notes` are caveats to read first. `studies`: the answers for them, of all models."""

    month: str
    written_at: datetime
    received: int
    studies: StudiesMonth
    models: tuple[ModelMonth, ...]
    notes: tuple[str, ...]


def month_report(session: Session, month: str, now: datetime) -> MonthReport:
    """Compute the report of a month, with the three before it. Raises StartError for an invalid or a future month."""
    since, until = bounds(month)
    if since > now:
        raise StartError("no-such-month", f"{month} has not begun")
    judged, given = judged_answers(session, since, until), given_answers(session, since, until)
    judged_studies = judged_study_answers(session, since, until)
    before = given_answers(session, _months_earlier(since, MONTHS_BEFORE), since)
    ids = sorted({answer.model_id for answer in [*judged, *judged_studies]} | {answer.model_id for answer in given})
    names = models_by_id(session, ids)
    models = tuple(
        _model_month(
            names[model_id],
            [answer for answer in judged if answer.model_id == model_id],
            [answer for answer in judged_studies if answer.model_id == model_id],
            [answer for answer in given if answer.model_id == model_id],
            [answer for answer in before if answer.model_id == model_id],
        )
        for model_id in reversed(ids)
    )
    notes = [f"{month} has not ended yet."] if until > now else []
    received, studies = received_series_count(session, since, until), studies_answered(session, since, until)
    return MonthReport(month, now, received, studies, models, (*notes, *_notes(models)))


def bounds(month: str) -> tuple[datetime, datetime]:
    """Beginning and end of a month such as `2026-11`, UTC. Raises StartError for any other text."""
    if not _NAME.fullmatch(month):
        raise StartError("no-such-month", "a month is written like 2026-11")
    since = datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC)
    return since, _months_earlier(since, -1)


def month_before(now: datetime) -> str:
    """The last month that has ended."""
    return f"{_months_earlier(now, 1):%Y-%m}"


def _months_earlier(moment: datetime, months: int) -> datetime:
    number = moment.year * 12 + moment.month - 1 - months
    return datetime(max(1, number // 12), number % 12 + 1, 1, tzinfo=UTC)


def _model_month(
    name: tuple[str, str],
    judged: Sequence[JudgedAnswer],
    judged_studies: Sequence[JudgedAnswer],
    given: Sequence[GivenAnswer],
    before: Sequence[GivenAnswer],
) -> ModelMonth:
    periods = (given, before)
    labels = sorted({answer.label for answer in [*given, *before] if answer.label is not None})
    by_class = [
        (label, [[answer.label == label for answer in period if answer.label] for period in periods])
        for label in labels
    ]
    not_assessed = [[answer.label is None for answer in period] for period in periods]
    out_of_distribution = [[answer.reason == "out-of-distribution" for answer in period] for period in periods]
    outside = [
        (sum(answer.outside for answer in period), sum(answer.slices for answer in period), len(period))
        for period in periods
    ]
    return ModelMonth(
        model=name[0],
        sha256=name[1],
        results=len(given),
        results_before=len(before),
        agreement=_agreement(judged),
        study_agreement=_agreement(judged_studies),
        calibration=_calibration(judged),
        inputs=(
            # The slices of a series are correlated, so the interval counts series.
            Shift("slices unlike the training data", *(proportion(*counts) for counts in outside)),
            Shift("series not assessed because of that", *(_proportion_of(hits) for hits in out_of_distribution)),
        ),
        distance=_change([[answer.distance for answer in period if answer.distance is not None] for period in periods]),
        outputs=(
            *(Shift(label, *(_proportion_of(hits) for hits in both)) for label, both in by_class),
            Shift(NOT_ASSESSED, *(_proportion_of(hits) for hits in not_assessed)),
        ),
        probability=_change(
            [[answer.probability for answer in period if answer.probability is not None] for period in periods]
        ),
    )


def _agreement(judged: Sequence[JudgedAnswer]) -> Agreement:
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in judged:
        confusion[answer.reader_label][answer.label or NOT_ASSESSED] += 1
    compared = _compared(judged)
    same = sum(answer.right is True for answer in compared)
    patients = len({answer.patient for answer in compared})
    table = {finding: dict(sorted(results.items())) for finding, results in sorted(confusion.items())}
    return Agreement(proportion(same, len(compared), patients), len(judged), table)


def _compared(judged: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
    """The answers that are right or wrong by the reader's."""
    return [answer for answer in judged if answer.right is not None]


def _calibration(judged: Sequence[JudgedAnswer]) -> Calibration:
    pairs = [
        (answer.probability, answer.right is True) for answer in _compared(judged) if answer.probability is not None
    ]
    if not pairs:
        return Calibration(0, None, None, None)
    gaps: dict[int, float] = defaultdict(float)
    for probability, right in pairs:
        gaps[min(int(probability * _BINS), _BINS - 1)] += probability - right
    n = len(pairs)
    return Calibration(
        n,
        sum(abs(gap) for gap in gaps.values()) / n,
        sum(probability for probability, _ in pairs) / n,
        sum(right for _, right in pairs) / n,
    )


def proportion(count: int, n: int, patients: int) -> Proportion:
    """`count` of `n` with Wilson's interval for as many answers as patients: those of a patient are correlated."""
    if not n or not patients:
        return Proportion(count, n, patients, None, None, None)
    z, p = 1.959964, count / n
    middle = (p + z * z / (2 * patients)) / (1 + z * z / patients)
    half = z / (1 + z * z / patients) * math.sqrt(p * (1 - p) / patients + z * z / (4 * patients * patients))
    return Proportion(count, n, patients, p, max(0.0, middle - half), min(1.0, middle + half))


def _proportion_of(hits: Sequence[bool]) -> Proportion:
    return proportion(sum(hits), len(hits), len(hits))


def _change(periods: Sequence[Sequence[float]]) -> MonthlyChange:
    now, before = (sorted(values) for values in periods)
    if not now or not before:
        return MonthlyChange(_spread(now), _spread(before), None, None)
    gap = max(
        abs(bisect_right(now, value) / len(now) - bisect_right(before, value) / len(before))
        for value in (*now, *before)
    )
    limit = 1.358 * math.sqrt((len(now) + len(before)) / (len(now) * len(before)))
    return MonthlyChange(_spread(now), _spread(before), gap, limit)


def _spread(ordered: Sequence[float]) -> Spread:
    if not ordered:
        return Spread(0, None, None, None)
    tenth, median, ninetieth = (ordered[round(level * (len(ordered) - 1))] for level in (0.1, 0.5, 0.9))
    return Spread(len(ordered), tenth, median, ninetieth)


def _notes(models: Sequence[ModelMonth]) -> list[str]:
    """The caveats of the figures."""
    notes = []
    for model in models:
        patients, read = model.agreement.same.patients, model.agreement.read
        if patients < FEW:
            notes.append(f"{model.model}: patients read: {patients}; figures of fewer than {FEW} are unreliable.")
        if read:
            notes.append(f"{model.model}: {read} series read; unless chosen at random, the figures are biased.")
        if min(model.results, model.results_before) < FEW:
            counts = f"{counted(model.results, 'result')} now and {model.results_before} before"
            notes.append(f"{model.model}: {counts}; with fewer than {FEW} a drift may be chance.")
        moved = [shift.name for shift in (*model.inputs, *model.outputs) if shift.apart]
        spreads = (("distance from the training data", model.distance), ("probability", model.probability))
        moved += [name for name, it in spreads if it.gap is not None and it.limit is not None and it.gap > it.limit]
        if moved:
            notes.append(f"{model.model}: changed more than chance explains: {', '.join(moved)}.")
    return notes


# --- the files -------------------------------------------------------------------------------------------------


def write_report(database: Database, data_dir: Path, month: str, now: datetime) -> Path:
    """Write the report of a month, both files atomically; return the path of the page. Raises StartError."""
    with database.read() as session:
        content = json_value(month_report(session, month, now))
    folder = data_dir / "reports"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{month}.html"
        # The classes by their names: this host need not have the models of the month.
        written = render("month.html", None, layout="file.html", style=style_sheet(), report=content, titles={})
        write_atomically(page, written)
        # Last: its presence means that the report is complete.
        write_atomically(folder / f"{month}.json", json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise StartError("report-unwritable", f"cannot write to {folder}: {error.strerror}") from None
    return page


def write_last_month(database: Database, data_dir: Path, now: datetime) -> Path | None:
    """Write the report of the last month, unless it exists or the month had neither series nor readings."""
    month = month_before(now)
    if (data_dir / "reports" / f"{month}.json").exists():
        return None
    since, until = bounds(month)
    with database.read() as session:
        if not received_series_count(session, since, until) and not judged_answers(session, since, until):
            return None
    return write_report(database, data_dir, month, now)


def written_months(data_dir: Path) -> list[str]:
    """The months with a report, the newest first."""
    files = (data_dir / "reports").glob("*.json")
    return sorted((file.stem for file in files if _NAME.fullmatch(file.stem)), reverse=True)


def read_report(data_dir: Path, month: str) -> dict[str, Any] | None:
    """The report of a month as it was written; None where there is none."""
    if not _NAME.fullmatch(month):
        return None
    try:
        content: dict[str, Any] = json.loads((data_dir / "reports" / f"{month}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content
