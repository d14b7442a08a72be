"""Which studies a search finds, on both databases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series
from tests.testbed.studies import STUDY, classify, receive, refuse
from tests.unit.jobs.test_studies import SERVED, runner
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.tables import ReadState, SeriesStatus
from worker.db.views.search import Search
from worker.db.views.worklist import matching
from worker.db.views.worklist.pages import find_study_page
from worker.dicom.standard import derive_uid

PEOPLE = {"a": "Fontaine^Hugo", "b": "ÅNGSTRÖM^ÉVA", "c": "Hugo^Victor", "d": "Łódzki^Jan"}


def found(database: Database, **criteria: object) -> list[str]:
    names = {derive_uid("study", name): name for name in PEOPLE} | {STUDY: "s"}
    with database.read() as session:
        page = find_study_page(session, Search(**criteria), 50)  # type: ignore[arg-type]
    return [names.get(study.study_instance_uid, "?") for study in page.studies]


def receive_people(database: Database) -> None:
    with database.write() as session:
        for minute, (name, person) in enumerate(PEOPLE.items()):
            new = new_instance(1, name, patient_name=person, accession_number=f"2026/{name}0815")
            add_instance(session, new, later(60 * minute))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Fontaine, Hugo", ["a"]),
        ("hugo fontaine", ["a"]),
        ("Hugo", ["c", "a"]),
        ("ångström", ["b"]),
        ("éva Angstrom", ["b"]),
        ("lodzki", ["d"]),
        ("0815", ["d", "c", "b", "a"]),
        ("b081", ["b"]),
        ("nobody", []),
        ("%", []),
        (derive_uid("study", "c"), ["c"]),
        (derive_uid("series", "c"), ["c"]),
    ],
)
@pytest.mark.parametrize("few", [matching.FEW, 0])
def test_a_text_finds_studies_however_it_is_written(
    database: Database, monkeypatch: pytest.MonkeyPatch, few: int, text: str, names: list[str]
) -> None:
    """Whether matches are looked up first, or the list is walked."""
    monkeypatch.setattr(matching, "FEW", few)
    receive_people(database)
    assert found(database, text=text) == names


def test_criteria_of_the_study_and_of_its_series_are_combined(database: Database, tmp_path: Path) -> None:
    classify(database, "one", 0.9)
    refuse(database, "knee", "body-part")
    runner(database, tmp_path).run_next(SERVED)
    add_series(database, "b", SeriesStatus.REFUSED, 60)
    receive(database, "x", study_instance_uid=derive_uid("study", "c"), patient_id="P", seconds=120)
    assert found(database) == ["c", "b", "s"]
    assert found(database, status=SeriesStatus.REFUSED) == ["b"]
    assert found(database, label="glioma", minimum_probability=0.8) == ["s"]
    assert found(database, label="glioma", minimum_probability=0.95) == []
    assert found(database, reading=ReadState.UNREAD, answered=True) == ["s"]
    assert found(database, reading=ReadState.CORRECTED) == []
    assert found(database, patient_id="ID") == ["s"]
    assert found(database, patient_id="ID", label="notumor") == []
    assert found(database, sequence="FLAIR") == found(database, plane="axial") == []


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_a_day_is_that_of_the_servers_time_zone(database: Database) -> None:
    with database.write() as session:
        for name, hour in (("a", 14), ("b", 15)):  # 23 o'clock, and midnight in Tokyo
            add_instance(session, new_instance(1, name), datetime(2026, 3, 1, hour, tzinfo=UTC))
    assert found(database, since=date(2026, 3, 1), until=date(2026, 3, 1)) == ["a"]
    assert found(database, since=date(2026, 3, 2), until=date(2026, 3, 2)) == ["b"]
    assert found(database, since=date.min, until=date.max) == ["b", "a"]
