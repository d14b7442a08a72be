"""Which studies have their files deleted by retention: whole ones; on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series, queued_job
from tests.testbed.studies import STUDY, receive, refuse
from worker.db.engine import Database
from worker.db.instances import add_instance, instances_of
from worker.db.studies.emptying import lock_settled_study, studies_to_empty
from worker.db.tables import (
    Commitment,
    DeliveryRow,
    DeliveryState,
    JobState,
    SeriesStatus,
    StudyRow,
    StudyState,
)
from worker.dicom.standard import derive_uid

LATER = 1000.0


def _to_empty(database: Database, before: float = LATER, study: StudyState = StudyState.ANSWERED) -> list[str]:
    _update(database, StudyRow, state=study)
    names = {derive_uid("study", name): name for name in "abcd"} | {STUDY: "study"}
    with database.read() as session:
        return [names[uid] for uid in studies_to_empty(session, later(before))]


def _update(database: Database, table: Any, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(table).values(**values))


def test_studies_are_emptied_once_their_series_are_answered_and_delivered(database: Database) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    add_series(database, "b", SeriesStatus.REFUSED, 1)
    add_series(database, "c", SeriesStatus.FAILED)
    add_series(database, "d", SeriesStatus.PENDING)
    assert _to_empty(database) == ["b"]
    _update(database, DeliveryRow, state=DeliveryState.DELIVERED)
    assert _to_empty(database) == ["a", "b"]
    assert _to_empty(database, before=1) == ["a"]
    for commitment, expected in ((Commitment.DUE, "b"), (Commitment.REQUESTED, "b"), (Commitment.CONFIRMED, "ab")):
        _update(database, DeliveryRow, commitment=commitment)
        assert _to_empty(database) == list(expected)
    with database.write() as session:
        for row in instances_of(session, 2):
            row.removed_at = later(5)
    assert _to_empty(database) == ["a"]


def test_a_study_is_emptied_whole_or_not_at_all(database: Database) -> None:
    first = refuse(database, "a", "modality", 1)
    second = refuse(database, "b", "modality", 5)
    assert _to_empty(database, before=3) == []
    assert _to_empty(database, before=6) == ["study"]
    assert _to_empty(database, before=6, study=StudyState.OPEN) == [], "its answer is under way"
    with database.write() as session:
        assert lock_settled_study(session, STUDY, later(3)) == []
        assert lock_settled_study(session, STUDY, later(6)) == [first, second]
        assert lock_settled_study(session, "1.2.3", later(6)) == []
    receive(database, "late", seconds=7)
    assert _to_empty(database) == []
    with database.write() as session:
        assert lock_settled_study(session, STUDY, later(9)) == [], "a series came after the look"


@pytest.mark.parametrize(("shadow", "state", "retained"), [
    (False, JobState.PENDING, True), (False, JobState.PARKED, True), (False, JobState.DONE, False),
    (True, JobState.PENDING, True), (True, JobState.PARKED, False),
])  # fmt: skip
def test_a_series_with_unfinished_work_retains_its_files(
    database: Database, shadow: bool, state: JobState, retained: bool
) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    _update(database, DeliveryRow, state=DeliveryState.DELIVERED)
    with database.write() as session:
        add_instance(session, new_instance(2, "a"), later(1))
        job = queued_job(session, 1, 1, shadow=shadow)
        job.state = state
    assert _to_empty(database) == ([] if retained else ["a"])
