"""What is recorded of a transfer: associations that broke off, repetitions, refused series that open again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from tests.testbed.instances import later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance, close_association, open_association
from worker.db.series import (
    lock_open_series,
    reconsider_refused,
    reconsider_series,
    record_repetitions,
    refuse_series,
)
from worker.db.settling import broken_transfers
from worker.db.tables import AssociationEnd, InstanceRow, SeriesRow, SeriesState, SeriesStatus
from worker.dicom.standard import derive_uid

RELEASED, ABORTED, LOST = AssociationEnd.RELEASED, AssociationEnd.ABORTED, AssociationEnd.LOST


def _transfer(database: Database, numbers: range, end: AssociationEnd | None, series: str = "a") -> int:
    """An association that brings instances of a series, again where they are stored, and ends so or not at all."""
    with database.write() as session:
        association = open_association(session, "PACS", "10.0.0.1", "host:1", later(0))
        for number in numbers:
            new = new_instance(number, series, association_id=association)
            row = session.scalar(select(InstanceRow).where(InstanceRow.sop_instance_uid == new.sop_instance_uid))
            if row is None:
                add_instance(session, new, later(1))
            else:
                record_repetitions(session, [(row, new)], "rules", later(2))
        if end is not None:
            close_association(session, association, later(3), end)
    return association


def _broken(database: Database) -> dict[str, int]:
    with database.read() as session:
        return broken_transfers(session, 1)


@pytest.mark.parametrize(
    ("ends", "broken"),
    [
        ((RELEASED,), {}),
        ((ABORTED,), {"aborted": 3}),
        ((LOST,), {"lost": 3}),
        ((None,), {"lost": 3}),
        ((ABORTED, RELEASED), {}),
        ((None, RELEASED), {}),
        ((LOST, ABORTED), {"aborted": 3}),
        ((RELEASED, ABORTED), {}),  # it was all there before
    ],
)
def test_a_transfer_that_broke_off_is_made_good_by_one_that_is_released(
    database: Database, ends: tuple[AssociationEnd | None, ...], broken: dict[str, int]
) -> None:
    for end in ends:
        _transfer(database, range(1, 4), end)
    assert _broken(database) == broken


def test_only_what_came_again_is_made_good(database: Database) -> None:
    _transfer(database, range(1, 4), ABORTED)
    _transfer(database, range(3, 9), RELEASED)
    assert _broken(database) == {"aborted": 2}


def _refuse(database: Database, series: str, reason: str, rules: str | None) -> None:
    with database.write() as session:
        row = session.scalars(
            select(SeriesRow).where(SeriesRow.series_instance_uid == derive_uid("series", series))
        ).one()
        locked = lock_open_series(session, row.id, later(9))
        assert locked is not None
        refuse_series(locked, reason, "why", later(9), rules)


@pytest.mark.parametrize(
    ("reason", "rules", "opens"),
    [
        ("body-part", "rules", False),
        ("body-part", "other rules", True),
        ("body-part", None, True),  # refused by an earlier worker
        ("incomplete", "rules", True),
    ],
)
def test_a_repetition_opens_what_other_rules_refused(
    database: Database, reason: str, rules: str | None, opens: bool
) -> None:
    _transfer(database, range(1, 4), RELEASED)
    _refuse(database, "a", reason, rules)
    with database.write() as session:
        row = session.get_one(InstanceRow, 1)
        again = replace(new_instance(1), attributes={"body_part": "HEAD"})
        record_repetitions(session, [(row, again)], "rules", later(60))
    with database.read() as session:
        series = session.get_one(SeriesRow, 1)
        assert (series.state == SeriesState.OPEN) is opens
        assert (series.status == SeriesStatus.PENDING) is opens
        assert (series.last_received_at == later(60)) is opens
        assert (session.get_one(InstanceRow, 1).attributes == again.attributes) is opens


def test_refused_series_are_opened_by_name_or_all_of_them_in_turn(database: Database) -> None:
    for name in "abcd":
        _transfer(database, range(1, 3), RELEASED, name)
    for name in "abc":
        _refuse(database, name, "body-part", "rules")
    with database.write() as session:
        assert reconsider_series(session, derive_uid("series", "b"))
        assert not reconsider_series(session, derive_uid("series", "b"))
        assert not reconsider_series(session, derive_uid("series", "d"))
        assert not reconsider_series(session, "1.2.3")
    with database.write() as session:
        assert [reconsider_refused(session, after, 1) for after in (0, 1, 3)] == [[1], [3], []]
    with database.read() as session:
        rows = session.scalars(select(SeriesRow)).all()
    assert {(row.state, row.status, row.reason, row.detail) for row in rows} == {("open", "pending", None, None)}
