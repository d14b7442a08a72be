"""The monthly report: do readers agree with the models, and do inputs, outputs and calibration drift?

`data_dir/reports/2026-11.json` and the same as a page, `2026-11.html`, which needs nothing else to be shown. Months are
UTC. Shadow models have no part in it (`worker models compare` has). What is drawn from few series says so: a figure of
three patients is no figure.
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
    OTHER_LABELS,
    GivenAnswer,
    JudgedAnswer,
    given_answers,
    judged_answers,
    models_by_id,
    received_series_count,
)
from worker.db.views.json_values import json_value
from worker.errors import StartError
from worker.files import write_atomically
from worker.web.templating import render, style_sheet

FEW = 30  # patients or series below which a figure is an anecdote
MONTHS_BEFORE = 3
_BINS = 10
_NAME = re.compile(r"[12]\d{3}-(?:0[1-9]|1[0-2])", re.ASCII)
NOT_ASSESSED = "not assessed"


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `n`, with a 95 % interval (Wilson 1927); None without any. `patients` is what the interval counts."""

    count: int
    n: int
    patients: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the series that readers gave a class and the model answered, the share with the same class.

    `confusion`: what the reader said → what the model said → series; all that were read, whatever was said.
    """

    same: Share
    read: int
    confusion: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error of the answers that readers judged, 10 bins of equal width (Guo et al. 2017)."""

    n: int
    error: float | None
    mean_probability: float | None
    right: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a number a series: how many, and three of its quantiles."""

    n: int
    tenth: float | None
    median: float | None
    ninetieth: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """A spread now and before. `gap` is the largest distance of their cumulative shares (Kolmogorov-Smirnov); beyond
    `limit` chance alone would lead in one month of twenty. None where either is empty."""

    now: Spread
    before: Spread
    gap: float | None
    limit: float | None


@dataclass(frozen=True, slots=True)
class Shift:
    """A share now and before."""

    name: str
    now: Share
    before: Share

    @property
    def apart(self) -> bool:
        """Whether the two intervals do not meet."""
        ends = (self.now.low, self.now.high, self.before.low, self.before.high)
        if any(end is None for end in ends):
            return False
        low, high, low_before, high_before = (float(end or 0) for end in ends)
        return low > high_before or high < low_before


@dataclass(frozen=True, slots=True)
class ModelMonth:
    """One model's month."""

    model: str
    sha256: str
    results: int
    results_before: int
    agreement: Agreement
    calibration: Calibration
    inputs: tuple[Shift, ...]
    distance: Change
    outputs: tuple[Shift, ...]
    probability: Change


@dataclass(frozen=True, slots=True)
class MonthReport:
    month: str
    written_at: datetime
    received: int
    models: tuple[ModelMonth, ...]
    notes: tuple[str, ...]


def month_report(session: Session, month: str, now: datetime) -> MonthReport:
    """Everything of one month, and of the three before it. Raises StartError for a text that is no month that began."""
    since, until = bounds(month)
    if since > now:
        raise StartError("no-such-month", f"{month} has not begun")
    judged, given = judged_answers(session, since, until), given_answers(session, since, until)
    before = given_answers(session, _months_earlier(since, MONTHS_BEFORE), since)
    ids = sorted({one.model_id for one in judged} | {one.model_id for one in given})
    names = models_by_id(session, ids)
    models = tuple(
        _model_month(
            names[number],
            [one for one in judged if one.model_id == number],
            [one for one in given if one.model_id == number],
            [one for one in before if one.model_id == number],
        )
        for number in reversed(ids)
    )
    notes = [f"{month} has not ended yet."] if until > now else []
    return MonthReport(month, now, received_series_count(session, since, until), models, (*notes, *_notes(models)))


def bounds(month: str) -> tuple[datetime, datetime]:
    """Beginning and end of `2026-11`, UTC. Raises StartError for another text."""
    if not _NAME.fullmatch(month):
        raise StartError("no-such-month", "a month is written as 2026-11")
    since = datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC)
    return since, _months_earlier(since, -1)


def month_before(now: datetime) -> str:
    """The last month that has ended."""
    return f"{_months_earlier(now, 1):%Y-%m}"


def _months_earlier(moment: datetime, months: int) -> datetime:
    number = moment.year * 12 + moment.month - 1 - months
    return datetime(max(1, number // 12), number % 12 + 1, 1, tzinfo=UTC)


def _model_month(
    name: tuple[str, str], judged: Sequence[JudgedAnswer], given: Sequence[GivenAnswer], before: Sequence[GivenAnswer]
) -> ModelMonth:
    labels = sorted({one.label for one in [*given, *before] if one.label is not None})
    by_class = [
        (label, [[one.label == label for one in part if one.label] for part in (given, before)]) for label in labels
    ]
    unassessed = [[one.label is None for one in part] for part in (given, before)]
    foreign = [[one.reason == "out-of-distribution" for one in part] for part in (given, before)]
    outside = [
        (sum(one.outside for one in part), sum(one.slices for one in part), len(part)) for part in (given, before)
    ]
    return ModelMonth(
        model=name[0],
        sha256=name[1],
        results=len(given),
        results_before=len(before),
        agreement=_agreement(judged),
        calibration=_calibration(judged),
        inputs=(
            # The slices of a series are alike, so series count for the interval.
            Shift("slices unlike the training data", *(share(*part) for part in outside)),
            Shift("series not assessed because of that", *(_of(part) for part in foreign)),
        ),
        distance=_change([[one.distance for one in part if one.distance is not None] for part in (given, before)]),
        outputs=(
            *(Shift(label, *(_of(part) for part in parts)) for label, parts in by_class),
            Shift(NOT_ASSESSED, *(_of(part) for part in unassessed)),
        ),
        probability=_change(
            [[one.probability for one in part if one.probability is not None] for part in (given, before)]
        ),
    )


def _agreement(judged: Sequence[JudgedAnswer]) -> Agreement:
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for one in judged:
        confusion[one.reader_label][one.label or NOT_ASSESSED] += 1
    compared = _compared(judged)
    same = sum(one.reader_label == one.label for one in compared)
    patients = len({one.patient for one in compared})
    table = {said: dict(sorted(answers.items())) for said, answers in sorted(confusion.items())}
    return Agreement(share(same, len(compared), patients), len(judged), table)


def _compared(judged: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
    """Where both gave a class."""
    return [one for one in judged if one.reader_label not in OTHER_LABELS and one.label is not None]


def _calibration(judged: Sequence[JudgedAnswer]) -> Calibration:
    pairs = [
        (answer.probability, answer.reader_label == answer.label)
        for answer in _compared(judged)
        if answer.probability is not None
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


def share(count: int, n: int, patients: int) -> Share:
    """Wilson's interval, as if there were only so many answers as patients: those of one patient are alike."""
    if not n or not patients:
        return Share(count, n, patients, None, None, None)
    z, p = 1.959964, count / n
    middle = (p + z * z / (2 * patients)) / (1 + z * z / patients)
    half = z / (1 + z * z / patients) * math.sqrt(p * (1 - p) / patients + z * z / (4 * patients * patients))
    return Share(count, n, patients, p, max(0.0, middle - half), min(1.0, middle + half))


def _of(hits: Sequence[bool]) -> Share:
    return share(sum(hits), len(hits), len(hits))


def _change(parts: Sequence[Sequence[float]]) -> Change:
    now, before = (sorted(part) for part in parts)
    if not now or not before:
        return Change(_spread(now), _spread(before), None, None)
    gap = max(
        abs(bisect_right(now, value) / len(now) - bisect_right(before, value) / len(before))
        for value in (*now, *before)
    )
    limit = 1.358 * math.sqrt((len(now) + len(before)) / (len(now) * len(before)))
    return Change(_spread(now), _spread(before), gap, limit)


def _spread(ordered: Sequence[float]) -> Spread:
    if not ordered:
        return Spread(0, None, None, None)
    tenth, median, ninetieth = (ordered[round(part * (len(ordered) - 1))] for part in (0.1, 0.5, 0.9))
    return Spread(len(ordered), tenth, median, ninetieth)


def _notes(models: Sequence[ModelMonth]) -> list[str]:
    """What a reader of the report must know first."""
    notes = []
    for one in models:
        patients, read = one.agreement.same.patients, one.agreement.read
        if patients < FEW:
            notes.append(f"{one.model}: patients that were read: {patients}; figures of fewer than {FEW} say little.")
        if read:
            notes.append(f"{one.model}: who chose what to read ({read} series) chose the figures too; read at random.")
        if min(one.results, one.results_before) < FEW:
            told = f"{one.results} results now and {one.results_before} before"
            notes.append(f"{one.model}: {told}; a drift of fewer than {FEW} cannot be told from chance.")
        moved = [shift.name for shift in (*one.inputs, *one.outputs) if shift.apart]
        spreads = (("distance from the training data", one.distance), ("probability", one.probability))
        moved += [name for name, it in spreads if it.gap is not None and it.limit is not None and it.gap > it.limit]
        if moved:
            notes.append(f"{one.model}: changed more than chance would: {', '.join(moved)}.")
    return notes


# --- the files -------------------------------------------------------------------------------------------------


def write_report(database: Database, data_dir: Path, month: str, now: datetime) -> Path:
    """Write the report of a month, both files whole; the page's path. Raises StartError."""
    with database.read() as session:
        content = json_value(month_report(session, month, now))
    folder = data_dir / "reports"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{month}.html"
        write_atomically(page, render("month.html", None, layout="file.html", style=style_sheet(), report=content))
        # Last: it says that the report is there.
        write_atomically(folder / f"{month}.json", json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise StartError("report-unwritable", f"{folder} cannot be written: {error.strerror}") from None
    return page


def write_last_month(database: Database, data_dir: Path, now: datetime) -> Path | None:
    """The report of the month that has ended, unless it is there or nothing came in it."""
    month = month_before(now)
    if (data_dir / "reports" / f"{month}.json").exists():
        return None
    since, until = bounds(month)
    with database.read() as session:
        if not received_series_count(session, since, until) and not judged_answers(session, since, until):
            return None
    return write_report(database, data_dir, month, now)


def written_months(data_dir: Path) -> list[str]:
    """The newest first."""
    found = (data_dir / "reports").glob("*.json")
    return sorted((one.stem for one in found if _NAME.fullmatch(one.stem)), reverse=True)


def read_report(data_dir: Path, month: str) -> dict[str, Any] | None:
    """What was written; None where nothing was."""
    if not _NAME.fullmatch(month):
        return None
    try:
        content: dict[str, Any] = json.loads((data_dir / "reports" / f"{month}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content
