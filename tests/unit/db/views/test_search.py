from __future__ import annotations

import csv
import io
import json
from datetime import date

import pytest
from sqlalchemy import event

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series
from worker.cli.output import answers_as_text
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.tables import SeriesStatus
from worker.db.views import search as views_search
from worker.db.views.search import ListPosition, Search, find_page, find_series, find_series_by_suffix
from worker.dicom.standard import derive_uid


@pytest.fixture
def filled(database: Database) -> Database:
    add_series(database, "a", SeriesStatus.CLASSIFIED, 0, 0.95)
    add_series(database, "b", SeriesStatus.CLASSIFIED, 86400, 0.6)
    add_series(database, "c", SeriesStatus.REFUSED, 2 * 86400)
    add_series(database, "d", SeriesStatus.FAILED, 3 * 86400)
    add_series(database, "e", SeriesStatus.PENDING, 4 * 86400)
    return database


@pytest.mark.parametrize(
    ("search", "expected"),
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
def test_every_filter_finds_what_it_names_newest_first(filled: Database, search: Search, expected: str) -> None:
    with filled.read() as session:
        answers = find_series(session, search)
    assert "".join(answer.patient_id.removeprefix("ID-") for answer in answers) == expected


@pytest.fixture
def named(database: Database) -> Database:
    patients = {
        "a": ("FONTAINE^HUGO", "4711", "ACC-2026/0815"),
        "b": ("Müller^Jörg", "ID 12345", "ACC-2026/0816"),
        "c": ("ИВАНОВ^ПЁТР", "PAT_%", "X9"),
        "d": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "", "ACC-2025/9999"),
    }
    with database.write() as session:
        for seconds, (series, (name, patient_id, accession)) in enumerate(patients.items()):
            values = {"patient_name": name, "patient_id": patient_id, "accession_number": accession}
            add_instance(session, new_instance(1, series, **values), later(seconds))
    return database


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fontaine, Hugo", "a"),
        ("Hugo", "a"),
        ("hugo fontaine", "a"),
        ("hugo müller", ""),
        ("MUELLER", "b"),
        ("jörg mull", "b"),
        ("петр", "c"),
        ("山田太郎", "d"),
        ("0815", "a"),
        ("2026/08", "ba"),
        ("acc", "dba"),
        ("345 jorg", "b"),
        ("pat_%", "c"),
        ("%", ""),
        ("*", ""),
        ("2.25.1.2", ""),
    ],
)
def test_a_text_is_words_of_a_name_or_parts_of_a_number(named: Database, text: str, expected: str) -> None:
    names = {derive_uid("series", name): name for name in "abcd"}
    with named.read() as session:
        found = find_series(session, Search(text=text))
    assert "".join(names[series.series_instance_uid] for series in found) == expected


def test_a_common_word_is_looked_for_in_the_order_of_the_list(named: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_search, "FEW", 1)
    with named.read() as session:
        first = find_page(session, Search(text="acc 202"), 2)
        second = find_page(session, Search(text="acc 202", older_than=first.older_than), 2)
    assert [answer.accession_number for answer in (*first.answers, *second.answers)] == [
        "ACC-2025/9999", "ACC-2026/0816", "ACC-2026/0815",
    ]  # fmt: skip


def test_every_outcome_has_its_reason(filled: Database) -> None:
    with filled.read() as session:
        outcomes = {row.patient_id[-1]: (row.status, row.label, row.reason) for row in find_series(session, Search())}
    assert outcomes == {
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
    [(statement, values)] = [(query, given) for query, given in executed if "probabilities" in query]
    with filled.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]  # type: ignore[arg-type]
    assert any("SEARCH series USING INTEGER PRIMARY KEY" in step for step in plan), plan
    assert len([step for step in plan if step.startswith("SCAN series")]) <= 1, plan


def test_a_series_is_found_by_the_end_of_its_uid(filled: Database) -> None:
    uid = derive_uid("series", "a")
    with filled.read() as session:
        assert find_series_by_suffix(session, uid) == [uid]
        assert find_series_by_suffix(session, uid[-10:]) == [uid]
        assert find_series_by_suffix(session, "%") == []


def test_pages_forward_and_back_are_the_whole_list(filled: Database) -> None:
    with filled.read() as session:
        first = find_page(session, Search(), 2)
        second = find_page(session, Search(older_than=first.older_than), 2)
        third = find_page(session, Search(older_than=second.older_than), 2)
        back = find_page(session, Search(newer_than=third.newer_than), 2)
    pages = [[answer.patient_id[-1] for answer in page.answers] for page in (first, second, third, back)]
    assert pages == [["e", "d"], ["c", "b"], ["a"], ["c", "b"]]
    assert first.newer_than is None
    assert third.older_than is None


@pytest.mark.parametrize("position", [ListPosition(later(0), 1), ListPosition(later(0.000001), 10**17)])
def test_a_position_is_read_as_it_is_written(position: ListPosition) -> None:
    assert ListPosition.parse(str(position)) == position


@pytest.mark.parametrize("text", ["", "1", "1-", "-1-1", "1-1 ", "1" * 18 + "-1", "1-" + "1" * 19, "\uff11-\uff11"])
def test_another_text_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        ListPosition.parse(text)
