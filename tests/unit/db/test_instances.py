"""Rows of associations, received instances and refusals, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from sqlalchemy import func, select

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series
from worker.db.engine import Database
from worker.db.instances import (
    add_instance,
    add_instances,
    add_refusals,
    close_association,
    instances_of,
    kept_files,
    open_association,
    open_associations,
    refusal_counts,
    restore_instance,
    stored_instances,
)
from worker.db.tables import ConflictRow, RefusalKind, SearchEntryRow, SeriesRow, SeriesState, SeriesStatus
from worker.db.versions.conflicts import add_conflict
from worker.db.views.search import Search, find_series
from worker.dicom.standard import derive_uid
from worker.dicom.text.printable import LONGEST_TEXT


def _series(database: Database, number: int = 1) -> SeriesRow:
    with database.read() as session:
        return session.get_one(SeriesRow, number)


def test_associations_are_open_until_they_are_closed(database: Database) -> None:
    with database.write() as session:
        ids = [open_association(session, "PACS", "10.0.0.1", "host:1", later(number)) for number in (1, 2)]
        close_association(session, ids[0], later(3))
        assert [(row.id, row.calling_ae_title) for row in open_associations(session)] == [(ids[1], "PACS")]


def test_instances_of_several_series_come_in_a_batch(database: Database) -> None:
    batch = [new_instance(number, name) for name in "ab" for number in (1, 2)]
    with database.write() as session:
        add_instances(session, batch, later(0))
        add_instances(session, [new_instance(3, "b")], later(5))
        assert [len(instances_of(session, number)) for number in (1, 2)] == [2, 3]
        last = instances_of(session, 2)[1].id
        assert [row.id for row in instances_of(session, 2, last)] == [3, 4]
    assert _series(database).last_received_at == later(0)
    assert _series(database, 2).last_received_at == later(5)
    assert _series(database, 2).created_at == later(0)


@pytest.mark.parametrize("outcome", [SeriesStatus.CLASSIFIED, SeriesStatus.REFUSED])
def test_a_late_instance_reopens_a_series(database: Database, outcome: SeriesStatus) -> None:
    number = add_series(database, "a", outcome)
    with database.write() as session:
        add_instance(session, new_instance(2, "a"), later(60))
    series = _series(database, number)
    assert (series.state, series.reason, series.detail) == (SeriesState.OPEN, None, None)
    # An answer stays visible; a refusal is no longer true.
    assert series.status == ("classified" if outcome is SeriesStatus.CLASSIFIED else "pending")


def test_stored_instances_among_more_than_sqlite_binds_at_once(database: Database) -> None:
    with database.write() as session:
        add_instances(session, [new_instance(number) for number in (1, 700)], later(0))
    uids = [derive_uid("instance", "a", str(number)) for number in range(1, 1100)]
    with database.read() as session:
        assert set(stored_instances(session, uids)) == {uids[0], uids[699]}
        assert stored_instances(session, uids[1:3]) == {}
        assert stored_instances(session, []) == {}


def test_other_content_is_recorded_once_per_content(database: Database) -> None:
    with database.write() as session:
        stored = add_instance(session, new_instance(), later(0))
        for digest in ("11", "11", "22"):
            add_conflict(session, stored, new_instance(sha256=digest * 32), f"conflicts/{digest}", later(1))
        paths = session.scalars(select(ConflictRow.path).order_by(ConflictRow.id)).all()
        assert paths == ["conflicts/11", "conflicts/22"]
        assert sorted(path for path, _ in kept_files(session)) == ["conflicts/11", "conflicts/22", stored.path]


def test_a_deleted_file_that_comes_again_reopens_its_series(database: Database) -> None:
    add_series(database, "a", SeriesStatus.REFUSED)
    with database.write() as session:
        [row] = instances_of(session, 1)
        row.removed_at = later(10)
        session.flush()
        assert kept_files(session) == []
        restore_instance(session, row, None, later(20))
        assert [path for path, _ in kept_files(session)] == [row.path]
        assert row.received_at == later(20)
    series = _series(database)
    assert (series.state, series.last_received_at, series.status) == (SeriesState.OPEN, later(20), "pending")


def test_refusals_of_all_receivers_are_summed(database: Database) -> None:
    key = (RefusalKind.INSTANCE, "0xA700", "no-space")
    with database.write() as session:
        add_refusals(session, {key: 2, (RefusalKind.ASSOCIATION, "", "network"): 1})
    with database.write() as session:
        add_refusals(session, {key: 3})
    with database.read() as session:
        assert refusal_counts(session, RefusalKind.INSTANCE) == {("0xA700", "no-space"): 5}
        assert refusal_counts(session, RefusalKind.ASSOCIATION) == {("", "network"): 1}


def test_an_instance_is_stored_once(database: Database) -> None:
    new = new_instance()
    with database.write() as session:
        row = add_instance(session, replace(new, association_id=None), later(0))
        assert (row.path, row.size, row.attributes) == (new.path, new.size, new.attributes)


def _found(database: Database, text: str) -> list[str]:
    with database.read() as session:
        return [answer.series_instance_uid for answer in find_series(session, Search(text=text))]


def test_a_series_whose_patient_is_corrected_is_found_by_what_it_says_now(database: Database) -> None:
    with database.write() as session:
        row = add_instance(session, new_instance(1, "a", patient_name="Müller^Jörg"), later(0))
        add_instance(session, new_instance(1, "b", patient_name="Müller^Jörg", patient_id="ID-a"), later(0))
    assert len(_found(database, "jorg")) == 2
    with database.write() as session:
        series = session.get_one(SeriesRow, row.series_id)
        series.patient_name, series.accession_number = "Дюрер^Альбрехт", "NEW-17"
        session.flush()
        assert series.name_key == "дюрер^альбрехт"
    assert _found(database, "альбрехт") == _found(database, "new17") == [derive_uid("series", "a")]
    assert _found(database, "jorg") == [derive_uid("series", "b")]


def test_series_of_a_patient_that_arrive_at_once_share_their_words(database: Database) -> None:
    barrier = Barrier(4)

    def arrive(name: str) -> None:
        barrier.wait()
        with database.write() as session:
            add_instance(
                session, new_instance(1, name, patient_id="P", patient_name="Doe^J", accession_number="1"), later(0)
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(arrive, "abcd"))
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(SearchEntryRow)) == 1
    assert len(_found(database, "doe")) == 4


def test_text_of_the_greatest_length_is_stored_and_found(database: Database) -> None:
    longest = "\U0001f9e0" * LONGEST_TEXT  # four bytes a character: more would not fit PostgreSQL's index
    values = {"patient_id": longest, "patient_name": longest, "accession_number": longest, "modality": longest}
    with database.write() as session:
        add_instance(session, new_instance(1, series_description=longest, study_date=longest, **values), later(0))
    with database.read() as session:
        [answer] = find_series(session, Search(patient_id=longest, accession_number=longest))
    assert (answer.patient_name, answer.modality, answer.study_date) == (longest, longest, longest)
