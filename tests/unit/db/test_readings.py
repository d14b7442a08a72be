"""Readings on both databases: a single next reading, and series found by whether readers agree."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.readings import NewReading, ReadMeanwhile, add_reading, is_right, read_state, readings_of
from worker.db.results import add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import JobState, ReadState
from worker.db.views.search import Search, find_series


def _answered(database: Database, name: str) -> int:
    new = new_instance(1, name)
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        row = add_instance(session, new, later(0))
        series = lock_open_series(session, row.series_id, later(0))
        assert series is not None
        queue_series(session, series, model, later(0))
        job = claim_job(session, "me", model, later(0), timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, later(1))
        add_result(session, job, classified([new]), {new.sop_instance_uid: row.id}, [], [], later(1))
        return row.series_id


def _read(database: Database, series: int, label: str, after: int = 0) -> None:
    with database.write() as session:
        add_reading(session, series, NewReading(label, "dr-a", "", (), None, after), later(2))


def test_series_are_found_by_their_latest_reading(database: Database) -> None:
    for name, labels in {"a": [], "b": ["glioma"], "c": ["glioma", "notumor"], "d": ["notumor", "glioma"]}.items():
        series = _answered(database, name)
        for after, label in enumerate(labels):
            _read(database, series, label, after)
    expected = {ReadState.UNREAD: ["ID-a"], ReadState.CONFIRMED: ["ID-b", "ID-d"], ReadState.CORRECTED: ["ID-c"]}
    for state, patients in expected.items():
        with database.read() as session:
            answers = find_series(session, Search(reading=state))
        assert sorted(answer.patient_id for answer in answers) == patients
        assert {answer.reading for answer in answers} == {state}


@pytest.mark.parametrize("after", [0, 2])
def test_a_reading_after_another_than_the_latest_is_refused(database: Database, after: int) -> None:
    series = _answered(database, "a")
    _read(database, series, "glioma")
    with pytest.raises(ReadMeanwhile):
        _read(database, series, "notumor", after)
    with database.read() as session:
        assert [reading.label for reading in readings_of(session, series)] == ["glioma"]


@pytest.mark.parametrize(
    ("reader_label", "label", "state"),
    [
        (None, "glioma", ReadState.UNREAD),
        ("glioma", "glioma", ReadState.CONFIRMED),
        ("notumor", "glioma", ReadState.CORRECTED),
        ("glioma", None, ReadState.CORRECTED),
        ("not-assessable", None, ReadState.CONFIRMED),
        ("not-assessable", "glioma", ReadState.CORRECTED),
    ],
)
def test_the_state_of_an_answer_with_a_reading(reader_label: str | None, label: str | None, state: ReadState) -> None:
    assert read_state(reader_label, label) is state


TUMOUR = {"neoplasm": True, "lesion": True, "kind": True}
LABELS: dict[str, Any] = {
    "glioma": TUMOUR,
    "meningioma": TUMOUR,
    "other": {"neoplasm": False, "lesion": True, "kind": True},
    "notumor": {"neoplasm": False, "lesion": False, "kind": True},
    "tumor": {"neoplasm": True, "lesion": True, "kind": False},
}
FOUR = {name: LABELS[name] for name in ("glioma", "meningioma", "notumor")}


@pytest.mark.parametrize(
    ("reader_label", "label", "labels", "right"),
    [
        ("glioma", "glioma", LABELS, True),
        ("glioma", "meningioma", LABELS, False),
        ("glioma", "tumor", LABELS, True),  # a tumour it is
        ("other", "tumor", LABELS, False),
        ("notumor", "tumor", LABELS, False),
        ("tumor", "tumor", LABELS, True),
        ("tumor", "glioma", LABELS, None),  # the reader knows no kind
        ("tumor", "notumor", LABELS, False),
        ("tumor", "other", LABELS, False),
        ("other", "other", LABELS, True),
        ("other", "glioma", LABELS, False),
        ("other", "glioma", FOUR, None),  # something else, which that model does not know
        ("tumor", "notumor", FOUR, False),
        ("ependymoma", "glioma", FOUR, False),
        ("ependymoma", "tumor", LABELS, None),  # whether that is a tumour is not known
        ("not-assessable", "glioma", LABELS, None),
        ("glioma", None, LABELS, None),
        ("notumor", "glioma", None, False),
        ("tumor", "notumor", None, None),
        ("other", "notumor", None, None),
    ],
)
def test_whether_a_label_is_right(reader_label: str, label: str | None, labels: Any, right: bool | None) -> None:
    assert is_right(reader_label, label, labels) is right
