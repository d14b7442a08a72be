from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta

import pytest
from sqlalchemy import event

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.cli.output import answers_as_text
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.tables import JobState, ObjectKind, SeriesStatus
from worker.db.views import activity
from worker.db.views.queue import find_unfinished
from worker.db.views.search import Search, find_page, find_series, find_series_by_suffix
from worker.db.views.series_detail import latest_slices
from worker.dicom.standard import derive_uid


def _series(database: Database, name: str, outcome: SeriesStatus, seconds: float = 0, probability: float = 0.9) -> None:
    """One series of one instance with that outcome."""
    new = new_instance(1, name)
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        row = add_instance(session, new, later(seconds))
        series = lock_open_series(session, row.series_id, later(seconds))
        assert series is not None
        if outcome is SeriesStatus.PENDING:
            return
        if outcome is SeriesStatus.REFUSED:
            refuse_series(series, "modality", "modality CT", later(seconds))
            return
        queued = queue_series(session, series, model, later(seconds))
        job = claim_job(session, "me", model, later(seconds), timedelta(seconds=30))
        assert job is not None
        assert queued is not None
        if outcome is SeriesStatus.FAILED:
            end_job(session, job.id, "me", JobState.PARKED, later(seconds), reason="process-died", detail="it died")
            return
        end_job(session, job.id, "me", JobState.DONE, later(seconds))
        objects = [NewObject(ObjectKind.REPORT, "1.2", derive_uid("report", name), "objects/x", "00" * 32)]
        rows = {new.sop_instance_uid: row.id}
        add_result(session, job, classified([new], probability), rows, objects, ["pacs"], later(seconds))


@pytest.fixture
def filled(database: Database) -> Database:
    _series(database, "a", SeriesStatus.CLASSIFIED, 0, 0.95)
    _series(database, "b", SeriesStatus.CLASSIFIED, 86400, 0.6)
    _series(database, "c", SeriesStatus.REFUSED, 2 * 86400)
    _series(database, "d", SeriesStatus.FAILED, 3 * 86400)
    _series(database, "e", SeriesStatus.PENDING, 4 * 86400)
    return database


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(), "edcba"),
        (Search(limit=2), "ed"),
        (Search(patient_id="ID-b"), "b"),
        (Search(study_instance_uid=derive_uid("study", "c")), "c"),
        (Search(series_instance_uid=derive_uid("series", "d")), "d"),
        (Search(accession_number="ACC-e"), "e"),
        (Search(label="glioma"), "ba"),
        (Search(label="meningioma"), ""),
        (Search(status=SeriesStatus.CLASSIFIED), "ba"),
        (Search(status=SeriesStatus.REFUSED), "c"),
        (Search(status=SeriesStatus.FAILED), "d"),
        (Search(status=SeriesStatus.PENDING), "e"),
        (Search(minimum_probability=0.7), "a"),
        (Search(since=date(2026, 3, 2), until=date(2026, 3, 3)), "cb"),
        (Search(patient_id="ID-a' OR '1'='1"), ""),
    ],
)
def test_every_filter_finds_what_it_names_newest_first(filled: Database, search: Search, found: str) -> None:
    with filled.read() as session:
        answers = find_series(session, search)
    assert "".join(one.patient_id.removeprefix("ID-") for one in answers) == found


def test_every_outcome_tells_its_reason(filled: Database) -> None:
    with filled.read() as session:
        told = {one.patient_id[-1]: (one.status, one.label, one.reason) for one in find_series(session, Search())}
    assert told == {
        "a": (SeriesStatus.CLASSIFIED, "glioma", None),
        "b": (SeriesStatus.CLASSIFIED, "glioma", None),
        "c": (SeriesStatus.REFUSED, None, "modality"),
        "d": (SeriesStatus.FAILED, None, "process-died"),
        "e": (SeriesStatus.PENDING, None, None),
    }


def test_json_has_the_keys_that_scripts_rely_on(filled: Database) -> None:
    with filled.read() as session:
        rows = json.loads(answers_as_text(find_series(session, Search(patient_id="ID-a")), "json"))
    promised = {
        "series_instance_uid", "study_instance_uid", "patient_id", "status", "label", "probability", "probabilities",
        "reason", "model", "created_at", "deliveries",
    }  # fmt: skip
    assert promised <= rows[0].keys()
    assert rows[0]["created_at"] == "2026-03-01T12:00:00.000Z"
    assert rows[0]["deliveries"][0] | {"detail": None} == rows[0]["deliveries"][0]
    assert rows[0]["deliveries"][0]["state"] == "pending"


def test_csv_holds_one_line_a_series_and_no_formula(database: Database) -> None:
    with database.write() as session:
        add_instance(session, new_instance(1, patient_id='=HYPERLINK("x")'), later(0))
    with database.read() as session:
        [row] = csv.DictReader(io.StringIO(answers_as_text(find_series(session, Search()), "csv")))
    assert row["patient_id"] == '\'=HYPERLINK("x")'


def test_a_late_instance_leaves_the_earlier_result_in_sight(filled: Database) -> None:
    with filled.write() as session:
        add_instance(session, new_instance(2, "a"), later(10))
    with filled.read() as session:
        [answer] = find_series(session, Search(patient_id="ID-a"))
    assert (answer.status, answer.label, answer.instances) == (SeriesStatus.CLASSIFIED, "glioma", 2)


@pytest.mark.parametrize("search", [Search(), Search(answered=True), Search(minimum_probability=0.5), Search(text="P")])
def test_a_page_touches_its_own_rows_only(filled: Database, search: Search) -> None:
    """The list is walked in its order once, until the page is full."""
    if filled.engine.dialect.name != "sqlite":
        pytest.skip("another planner, which has statistics")
    executed: list[tuple[str, object]] = []
    event.listen(filled.engine, "before_cursor_execute", lambda *call: executed.append((call[2], call[3])))
    with filled.read() as session:
        find_page(session, search, 50)
    [(statement, values)] = [one for one in executed if "probabilities" in one[0]]
    with filled.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]  # type: ignore[arg-type]
    assert any("SEARCH series USING INTEGER PRIMARY KEY" in step for step in plan), plan
    assert len([step for step in plan if step.startswith("SCAN series")]) <= 1, plan


def test_each_status_is_counted_up_to_a_number(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "MANY", 1)
    with filled.read() as session:
        counted = activity.count_by_status(session)
    assert counted[SeriesStatus.CLASSIFIED] == activity.Tally(1, more=True)
    assert counted[SeriesStatus.REFUSED] == activity.Tally(1, more=False)
    assert counted[SeriesStatus.NOT_ASSESSED] == activity.Tally(0, more=False)


def test_slices_and_endings(filled: Database) -> None:
    uid = derive_uid("series", "a")
    with filled.read() as session:
        assert [one.deciding for one in latest_slices(session, uid)] == [True]
        assert find_series_by_suffix(session, uid) == [uid]
        assert find_series_by_suffix(session, uid[-10:]) == [uid]
        assert find_series_by_suffix(session, "%") == []


def test_unfinished_lists_jobs_and_deliveries(filled: Database) -> None:
    with filled.read() as session:
        unfinished = find_unfinished(session)
    assert [(one.state, one.reason) for one in unfinished.jobs] == [("parked", "process-died")]
    assert [(one.destination, one.state) for one in unfinished.deliveries] == [("pacs", "pending")] * 2
