"""Deliveries with patient and study, by destination; on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from tests.testbed.rows import add_series
from tests.testbed.studies import STUDY, classify, report_study
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState, SeriesRow, SeriesStatus
from worker.db.views.deliveries import DeliverySearch, DestinationCounts, count_by_destination, find_deliveries


@pytest.fixture
def three(database: Database) -> Database:
    """Deliveries 1 to 3 to `pacs`: failed, pending and delivered."""
    for number, name in enumerate("abc"):
        add_series(database, name, SeriesStatus.CLASSIFIED, number * 10)
    with database.write() as session:
        failed, _, arrived = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id))
        failed.state, failed.reason, failed.detail = DeliveryState.FAILED, "rejected", "the peer answered 0xC000"
        arrived.state = DeliveryState.DELIVERED
    return database


def _numbers(database: Database, search: DeliverySearch) -> list[int]:
    with database.read() as session:
        return [delivery.number for delivery in find_deliveries(session, search)]


def test_deliveries_name_their_patient_and_study_and_are_filtered(three: Database) -> None:
    with three.read() as session:
        [failed, _] = find_deliveries(session, DeliverySearch())
    assert (failed.destination, failed.object, failed.state) == ("pacs", "report", "failed")
    assert failed.patient_id == "ID-a"
    assert (failed.reason, failed.detail) == ("rejected", "the peer answered 0xC000")
    for search, numbers in (
        (DeliverySearch(states=[DeliveryState.DELIVERED]), [3]),
        (DeliverySearch(patient_id="ID-a"), [1]),
        (DeliverySearch(states=tuple(DeliveryState), newest_first=True), [3, 2, 1]),
        (DeliverySearch(states=tuple(DeliveryState), newest_first=True, before=3, limit=1), [2]),
        (DeliverySearch(study_instance_uid=failed.study_instance_uid), [1]),
        (DeliverySearch(series_instance_uid=failed.series_instance_uid, states=list(DeliveryState)), [1]),
        (DeliverySearch(destination="elsewhere"), []),
        (DeliverySearch(after=1), [2]),
        (DeliverySearch(limit=1), [1]),
    ):
        assert _numbers(three, search) == numbers, search


def test_each_destination_is_counted_with_the_reason_of_its_newest_delivery(three: Database) -> None:
    with three.write() as session:
        session.get_one(DeliveryRow, 2).detail = "connection refused"
    with three.read() as session:
        assert count_by_destination(session) == [DestinationCounts("pacs", 1, 0, 1, None, "connection refused")]


def test_a_report_of_a_study_names_the_patient_of_its_series(database: Database) -> None:
    classify(database, "a")
    report_study(database)
    with database.read() as session:
        [delivery] = find_deliveries(session, DeliverySearch(study_instance_uid=STUDY))
        series = session.get_one(SeriesRow, 1)
    assert (delivery.study_instance_uid, delivery.series_instance_uid) == (STUDY, None)
    assert delivery.patient_id == series.patient_id != ""
    assert _numbers(database, DeliverySearch(patient_id=series.patient_id)) == [delivery.number]
    assert _numbers(database, DeliverySearch(series_instance_uid=series.series_instance_uid)) == []
