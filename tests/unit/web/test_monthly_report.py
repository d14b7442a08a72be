"""The monthly report: its figures by hand, its honesty about few, its files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.testbed.instances import MODEL, classified, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.readings import JudgedAnswer, NewReading, add_reading
from worker.db.results import add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.studies.comparing import StudiesMonth
from worker.db.tables import JobState
from worker.errors import StartError
from worker.results import SliceResult
from worker.web.monthly_report import (
    FEW,
    bounds,
    month_before,
    month_report,
    proportion,
    write_last_month,
    write_report,
    written_months,
)
from worker.web.monthly_report import _calibration as calibration

FEBRUARY, MARCH, APRIL = (datetime(2026, month, 10, tzinfo=UTC) for month in (2, 3, 4))


def _answered(database: Database, name: str, moment: datetime, distance: float, outside: int = 0) -> tuple[int, int]:
    """A glioma of four slices, `outside` of them unlike the training data; (series, result)."""
    images = [new_instance(number, name, patient_id=name.partition("-")[0]) for number in range(4)]
    slices = tuple(
        SliceResult(
            image.sop_class_uid, image.sop_instance_uid, None, None, (0.9, 0.1), number >= outside, True, None, distance
        )
        for number, image in enumerate(images)
    )
    with database.write() as session:
        model = model_row(session, MODEL, moment).id
        rows = [add_instance(session, image, moment) for image in images]
        series = lock_open_series(session, rows[0].series_id, moment)
        assert series is not None
        queue_series(session, series, model, moment)
        job = claim_job(session, "me", model, moment, timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, moment)
        ids = {image.sop_instance_uid: row.id for image, row in zip(images, rows, strict=True)}
        result = add_result(session, job, replace(classified(), slices=slices), ids, [], [], moment)
        return series.id, result.id


def _read(database: Database, of: tuple[int, int], label: str, moment: datetime, after: int = 0) -> None:
    with database.write() as session:
        add_reading(session, of[0], NewReading(label, "dr-a", "", (), of[1], after), moment)


def test_agreement_drift_and_calibration_are_those_of_the_month(database: Database) -> None:
    for number in range(40):
        _answered(database, f"old{number}", FEBRUARY, distance=0.4 + number / 1000)
    new = [
        _answered(database, f"p{number // 2}-{number}", MARCH, 0.9 + number / 1000, outside=2) for number in range(4)
    ]
    _read(database, new[0], "glioma", MARCH)
    _read(database, new[1], "notumor", MARCH)
    _read(database, new[1], "glioma", MARCH, after=1)  # only the latest counts
    _read(database, new[2], "notumor", MARCH)
    _read(database, new[2], "glioma", APRIL, after=1)  # not yet read so in March
    _read(database, new[3], "not-assessable", MARCH)
    with database.read() as session:
        report = month_report(session, "2026-03", APRIL)
    [model] = report.models
    assert (model.model, model.results, model.results_before, report.received) == ("test-model 1.0", 4, 40, 4)
    assert report.studies == StudiesMonth(0, {}, {}, 0, 0), "no study was answered as one"
    same = model.agreement.same
    assert (same.count, same.n, same.patients, model.agreement.read) == (2, 3, 2, 4)
    assert model.agreement.confusion == {
        "glioma": {"glioma": 2},
        "not-assessable": {"glioma": 1},
        "notumor": {"glioma": 1},
    }
    assert model.calibration.n == 3
    assert model.calibration.error == pytest.approx(0.9 - 2 / 3)
    outside = model.inputs[0]
    assert (outside.now.count, outside.now.n, outside.now.patients, outside.before.count) == (8, 16, 4, 0)
    assert outside.apart
    assert model.distance.now.median == pytest.approx(0.902)
    assert model.distance.gap == 1.0
    assert model.distance.limit == pytest.approx(1.358 * (44 / 160) ** 0.5)
    assert any(f"fewer than {FEW} are unreliable" in note for note in report.notes)
    assert any("changed more than chance explains" in note and "distance" in note for note in report.notes)


def test_wilson_interval_counts_patients_and_never_is_certain() -> None:
    # Agresti and Coull 1998: 0 of 10 → 0 to 0.278
    none = proportion(0, 10, 10)
    assert (none.low, none.high) == (pytest.approx(0), pytest.approx(0.2775, abs=1e-3))
    assert proportion(3, 3, 3).low == pytest.approx(0.4385, abs=1e-3)
    assert proportion(30, 30, 3).low == proportion(3, 3, 3).low
    assert proportion(0, 0, 0).value is None


def test_a_perfectly_calibrated_bin_has_no_error() -> None:
    judged = [JudgedAnswer(1, str(n), "glioma" if n < 8 else "notumor", "glioma", 0.8) for n in range(10)]
    result = calibration(judged)
    assert (result.n, result.error, result.right) == (10, pytest.approx(0), 0.8)


@pytest.mark.parametrize("text", ["2026-13", "26-01", "2026-1", "x", "0000-01", "2026-01-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(StartError, match="is written like"):
        bounds(text)


def test_months_at_the_turn_of_the_year() -> None:
    assert bounds("2026-12")[1] == datetime(2027, 1, 1, tzinfo=UTC)
    assert month_before(datetime(2026, 1, 31, tzinfo=UTC)) == "2025-12"


def test_the_last_month_is_written_once_and_an_empty_one_never(database: Database, tmp_path: Path) -> None:
    assert write_last_month(database, tmp_path, APRIL) is None
    _read(database, _answered(database, "a", MARCH, 0.5), "glioma", MARCH)
    page = write_last_month(database, tmp_path, APRIL)
    assert page == tmp_path / "reports/2026-03.html"
    assert write_last_month(database, tmp_path, APRIL) is None
    text = page.read_text()
    for expected in ("Research use only", "test-model 1.0", "patients read: 1;", "<style>"):
        assert expected in text
    assert "<script" not in text
    assert "Family" not in text
    assert written_months(tmp_path) == ["2026-03"]
    assert json.loads((page.with_suffix(".json")).read_text())["models"][0]["agreement"]["read"] == 1
    with pytest.raises(StartError, match="has not begun"):
        write_report(database, tmp_path, "2026-05", APRIL)
