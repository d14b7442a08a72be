"""What a sender's answers say of a study. With Orthanc: tests/integration/test_peer_count.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from tests.testbed.dcmtk import free_port
from tests.testbed.find_scp import PENDING, sender
from tests.testbed.instances import later
from tests.testbed.studies import STUDY, refuse
from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import open_association
from worker.db.studies.counting import NO_ANSWER, StudyCount, held_series
from worker.db.tables import StudyCountRow
from worker.send import study_counts
from worker.send.study_counts import compare_series, count_studies


def series(uid: str, modality: str | None = "MR", images: int | None = 1) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.SeriesInstanceUID = "SERIES", uid
    if modality is not None:
        ds.Modality = modality
    if images is not None:
        ds.NumberOfSeriesRelatedInstances = images
    return ds


def study(series_number: Any, images: Any, uid: str = STUDY) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", uid
    ds.NumberOfStudyRelatedSeries, ds.NumberOfStudyRelatedInstances = series_number, images
    return ds


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        ([series("1", images=2), series("2")], StudyCount(2, 0, 0)),
        ([series("1", images=2), series("2"), series("3", images=24)], StudyCount(3, 1, 24)),
        ([series("1", images=5), series("2")], StudyCount(2, 0, 3)),
        ([series("1", images=2), series("2"), series("9", "SR"), series("8", "OT")], StudyCount(2, 0, 0)),
        ([series("1", images=2), series("2"), series("3", None, None)], StudyCount(3, 1, 0)),
        ([series("1", images=None), series("2", images=None)], StudyCount(2, 0, 0)),
        ([series("1", images=2), series("2"), series("3", images=0)], StudyCount(3, 0, 0)),
        ([series("1", images=1), series("2")], NO_ANSWER),
        ([series("1", images=2)], NO_ANSWER),
        ([series("1", images=2), series("3")], StudyCount(2, 1, 1)),
        ([series("1", "MR ", 2), series("2"), series("1", "MR", 9)], StudyCount(2, 0, 0)),
    ],
    ids=[
        "all", "a series more", "images more", "reports and pictures", "no modality", "no numbers", "an empty series",
        "an image less", "a series less", "another series", "a series twice",
    ],
)  # fmt: skip
def test_what_is_listed_against_what_is_here(listed: list[Dataset], count: StudyCount) -> None:
    assert compare_series(listed, {"1": 2, "2": 1}, ["MR"]) == count


def settings(peer: PeerSection) -> Settings:
    return Settings.model_validate({"study": {"quiet_seconds": 5}, "peer": [peer.model_dump()]})


def received(database: Database) -> None:
    """A refused series of SENDER."""
    with database.write() as session:
        number = open_association(session, "SENDER", "127.0.0.1", "host:1", later(0))
    refuse(database, "a", "modality", association_id=number)


def counted(database: Database, peer: PeerSection, seconds: float = 1) -> StudyCount | None:
    count_studies(database, settings(peer), peer, lambda: later(seconds))
    with database.read() as session:
        row = session.scalars(select(StudyCountRow)).one_or_none()
        return StudyCount(row.series, row.lacking_series, row.lacking_instances) if row else None


def test_the_numbers_of_the_study_suffice_where_they_are_those_that_are_here(database: Database) -> None:
    received(database)
    seen: list[Dataset] = []
    with sender(lambda _: iter([(PENDING, study(9, 9, "1.2.3")), (PENDING, study(1, 1))]), seen) as peer:
        assert counted(database, peer) == StudyCount(1, 0, 0)
        assert count_studies(database, settings(peer), peer, lambda: later(2)) == 0
    [identifier] = seen
    assert (identifier.QueryRetrieveLevel, identifier.StudyInstanceUID) == ("STUDY", STUDY)
    assert set(identifier.dir()) == {
        "NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries", "QueryRetrieveLevel", "StudyInstanceUID",
    }  # fmt: skip


def test_the_reports_of_a_study_are_not_awaited(database: Database) -> None:
    received(database)
    [here] = _held(database)

    def responses(identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        if identifier.QueryRetrieveLevel == "STUDY":
            yield PENDING, study(3, 3)
        else:
            yield from [(PENDING, series(here)), (PENDING, series("1.2", "SR")), (PENDING, series("1.3", "OT"))]

    with sender(responses) as peer:
        assert counted(database, peer) == StudyCount(1, 0, 0)


def test_a_study_that_a_sender_has_twice_is_listed(database: Database) -> None:
    """As Orthanc has a study of two patients: each part has as many series as are here."""
    received(database)
    [here] = _held(database)

    def responses(identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        if identifier.QueryRetrieveLevel == "STUDY":
            yield from [(PENDING, study(1, 1)), (PENDING, study(1, 1))]
        else:
            yield from [(PENDING, series(here)), (PENDING, series("1.2", images=3))]

    with sender(responses) as peer:
        assert counted(database, peer) == StudyCount(2, 1, 3)


def test_a_sender_without_a_usable_answer_is_queried_again(database: Database) -> None:
    received(database)
    away = PeerSection(ae_title="SENDER", host="127.0.0.1", port=free_port(), query=True, timeout_seconds=2)
    assert counted(database, away) == NO_ANSWER
    with sender(lambda _: iter([(PENDING, study("", ""))])) as peer:
        assert counted(database, peer, 3) == NO_ANSWER, "too early to query it again"
        assert counted(database, peer, 7) == NO_ANSWER, "it lists a study, and no series"
    [here] = _held(database)

    def responses(identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        if identifier.QueryRetrieveLevel == "SERIES":
            yield PENDING, series(here)
            yield PENDING, series("1.2", images=24)

    with sender(responses) as peer:
        assert counted(database, peer, 13) == StudyCount(2, 1, 24)


def _held(database: Database) -> list[str]:
    with database.read() as session:
        return list(held_series(session, STUDY))


class Died(BaseException):
    """What ends a process: nothing catches it."""


@pytest.mark.parametrize("step", ["held_series", "find_matches", "record_study_count"])
def test_a_process_that_dies_while_it_queries_leaves_the_study_to_be_queried(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    received(database)

    def dies(*_: Any) -> Any:
        raise Died

    with sender(lambda _: iter([(PENDING, study(1, 1))])) as peer:
        with monkeypatch.context() as patch:
            patch.setattr(study_counts, step, dies)
            with pytest.raises(Died):
                counted(database, peer)
        assert counted(database, peer) == StudyCount(1, 0, 0)


def test_two_hosts_that_query_at_once_leave_one_count(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    received(database)
    with sender(lambda _: iter([(PENDING, study(1, 1))])) as peer:
        real = study_counts.held_series

        def other_host_first(*arguments: Any) -> Any:
            monkeypatch.setattr(study_counts, "held_series", real)
            assert count_studies(database, settings(peer), peer, lambda: later(1)) == 1
            return real(*arguments)

        monkeypatch.setattr(study_counts, "held_series", other_host_first)
        assert counted(database, peer, 1.5) == StudyCount(1, 0, 0)
