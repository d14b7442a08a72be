"""What the responses to a query for an image count amount to. With Orthanc: tests/integration/test_peer_count.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset

from tests.testbed.find_scp import FAILURE, PENDING, sender
from tests.testbed.instances import later, new_instance
from worker.config.sections import PeerSection, ReceiveSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_instance, open_association
from worker.db.tables import SeriesRow
from worker.receive.peer_count import count_series

SERIES = new_instance().series_instance_uid


def match(images: Any, series: str = SERIES) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "SERIES"
    ds.SeriesInstanceUID = series
    if images is not None:
        ds.NumberOfSeriesRelatedInstances = images
    return ds


@pytest.fixture
def open_series(database: Database) -> int:
    """A series of SENDER that has paused."""
    with database.write() as session:
        association = open_association(session, "SENDER", "127.0.0.1", "host:1", later(0))
        return add_instance(session, new_instance(association_id=association), later(0)).series_id


def expected(database: Database, series: int) -> int | None:
    with database.read() as session:
        row = session.get_one(SeriesRow, series)
        assert row.counted_at == later(10)
        return row.expected_instances


def count(database: Database, peer: PeerSection) -> int:
    settings = Settings(peer=(peer,), receive=ReceiveSection(quiet_seconds=60))
    return count_series(database, settings, peer, lambda: later(10))


@pytest.mark.parametrize(
    ("responses", "images"),
    [
        ([(PENDING, match(7))], 7),
        ([(PENDING, match(3, "1.2.3")), (PENDING, match(7))], 7),  # a sender that matches more than was requested
        ([(PENDING, match(7, "1.2.3"))], None),
        ([(PENDING, match(0))], None),
        ([(PENDING, match(None))], None),
        ([], None),
        ([(FAILURE, None)], None),
        ([(PENDING, match(9, f"1.2.{number}")) for number in range(16)] + [(PENDING, match(7))], None),
    ],
    ids=["count", "others-too", "other-series", "zero", "no-count", "no-match", "failure", "too-many"],
)
def test_the_count_is_that_of_the_series_or_none(
    database: Database, open_series: int, responses: list[tuple[int, Dataset | None]], images: int | None
) -> None:
    with sender(lambda _: iter(responses)) as peer:
        assert count(database, peer) == 1
    assert expected(database, open_series) == images


def test_the_query_is_at_series_level_for_the_count_only(database: Database, open_series: int) -> None:
    seen: list[Dataset] = []
    with sender(lambda _: iter(()), seen) as peer:
        count(database, peer)
    [identifier] = seen
    assert identifier.QueryRetrieveLevel == "SERIES"
    assert (identifier.StudyInstanceUID, identifier.SeriesInstanceUID) == (new_instance().study_instance_uid, SERIES)
    assert set(identifier.dir()) == {
        "NumberOfSeriesRelatedInstances", "QueryRetrieveLevel", "SeriesInstanceUID", "StudyInstanceUID",
    }  # fmt: skip


def test_a_sender_is_not_queried_again_before_its_time(database: Database, open_series: int) -> None:
    seen: list[Dataset] = []
    with sender(lambda _: iter([(PENDING, match(7))]), seen) as peer:
        settings = Settings(peer=(peer,), receive=ReceiveSection(quiet_seconds=60))
        times = [later(0.5), later(10), later(12), later(16)]
        assert [count_series(database, settings, peer, lambda: now) for now in times] == [0, 1, 0, 1]  # noqa: B023
    assert len(seen) == 2
