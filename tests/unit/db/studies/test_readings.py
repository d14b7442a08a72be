"""Readings of studies and what their series inherit, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.instances import later
from tests.testbed.studies import STUDY, classify, refuse
from tests.unit.jobs.test_studies import SERVED, runner
from worker.db.engine import Database
from worker.db.readings import NewReading, ReadMeanwhile, add_reading, read_series, series_to_read
from worker.db.studies.readings import (
    NewStudyReading,
    SlicesNotInherited,
    add_study_reading,
    inherits_reading,
    is_result_of,
    join_study,
    judged_study_answers,
    study_readings_of,
    study_to_read,
    withdraw_reading,
    withdraw_study_reading,
)
from worker.db.tables import ReadingRow, StudyRow
from worker.dicom.standard import derive_uid


def read(database: Database, label: str, after: int, seconds: float = 60) -> None:
    with database.write() as session:
        study = study_to_read(session, STUDY)
        assert study is not None
        add_study_reading(session, study, NewStudyReading(label, "ada", "why", study.result_id, after), later(seconds))


def readings(database: Database) -> list[tuple[int, int, str, bool]]:
    with database.read() as session:
        rows = session.scalars(select(ReadingRow).order_by(ReadingRow.id))
        return [(row.series_id, row.number, row.label, row.study_reading_id is not None) for row in rows]


def state(database: Database) -> tuple[str, str | None]:
    with database.read() as session:
        row = session.scalars(select(StudyRow)).one()
        return row.read_state, row.read_as


def test_the_classified_series_inherit_a_reading_of_their_study(database: Database, tmp_path: Path) -> None:
    head, other = classify(database, "a", 0.9), classify(database, "b", 0.8)
    refuse(database, "knee", "body-part")
    runner(database, tmp_path).run_next(SERVED)
    read(database, "glioma", 0)
    assert readings(database) == [(head, 1, "glioma", True), (other, 1, "glioma", True)]
    assert state(database) == ("confirmed", "glioma")
    read(database, "notumor", 1)
    assert readings(database)[2:] == [(head, 2, "notumor", True), (other, 2, "notumor", True)]
    assert state(database) == ("corrected", "notumor")
    with database.read() as session:
        assert [(series.label, series.answer) for series in read_series(session)] == [("notumor", "glioma")] * 2
        study = study_to_read(session, STUDY)
        assert study is not None
        assert (study.label, study.classes) == ("glioma", ("glioma", "notumor"))
        assert [(item.number, item.state, item.answer) for item in study_readings_of(session, study.study_id)] == [
            (2, "corrected", "glioma"),
            (1, "confirmed", "glioma"),
        ]
        assert study.result_id is not None
        assert is_result_of(session, study.study_id, study.result_id)
        assert not is_result_of(session, study.study_id, study.result_id + 1)


def test_a_series_that_was_read_by_itself_keeps_its_reading(database: Database, tmp_path: Path) -> None:
    head, other = classify(database, "a", 0.9), classify(database, "b", 0.8)
    runner(database, tmp_path).run_next(SERVED)
    with database.write() as session:
        row = add_reading(session, other, NewReading("not-assessable", "bo", "", (), None, 0), later(50))
        join_study(session, row)
    assert state(database) == ("unread", None)
    read(database, "glioma", 0)
    assert readings(database) == [(other, 1, "not-assessable", False), (head, 1, "glioma", True)]


def test_a_study_and_its_only_series_are_read_together(database: Database, tmp_path: Path) -> None:
    series = classify(database, "a", 0.9)
    runner(database, tmp_path).run_next(SERVED)
    with database.write() as session:
        join_study(session, add_reading(session, series, NewReading("notumor", "bo", "", (), None, 0), later(50)))
    assert state(database) == ("corrected", "notumor")
    read(database, "glioma", 1)
    assert readings(database) == [(series, 1, "notumor", True), (series, 2, "glioma", True)]
    assert state(database) == ("confirmed", "glioma")


def test_a_withdrawn_finding_gives_way_to_the_one_before_in_the_study_and_its_series(
    database: Database, tmp_path: Path
) -> None:
    classify(database, "a", 0.9)
    other = classify(database, "b", 0.8)
    runner(database, tmp_path).run_next(SERVED)
    read(database, "notumor", 0)
    read(database, "glioma", 1)

    def withdraw(number: int, reader: str = "ada") -> None:
        with database.write() as session:
            study = study_to_read(session, STUDY)
            assert study is not None
            withdraw_study_reading(session, study, number, reader, later(90))

    def of_series() -> list[str]:
        with database.read() as session:
            return [series.label for series in read_series(session)]

    for number, reader, why in ((1, "ada", "another finding"), (2, "bo", "the finding of ada")):
        with pytest.raises(ReadMeanwhile, match=why):
            withdraw(number, reader)
    assert (state(database), of_series()) == (("confirmed", "glioma"), ["glioma"] * 2)
    withdraw(2)
    assert (state(database), of_series()) == (("corrected", "notumor"), ["notumor"] * 2)
    with database.write() as session:
        series = series_to_read(session, derive_uid("series", "b"))
        assert series is not None
        with pytest.raises(ReadMeanwhile, match="that of the study"):
            withdraw_reading(session, series, 1, "ada", later(91))
        add_reading(session, other, NewReading("other", "bo", "", (), None, 2), later(92))
        withdraw_reading(session, series, 3, "bo", later(93))
    with database.read() as session:
        judged = judged_study_answers(session, later(0), later(100))
        assert [answer.reader_label for answer in judged] == ["notumor"]
    withdraw(1)
    assert (state(database), of_series()) == (("unread", None), [])
    read(database, "glioma", 2)
    assert (state(database), of_series()) == (("confirmed", "glioma"), ["glioma"] * 2)


def test_a_study_s_only_series_is_withdrawn_with_it(database: Database, tmp_path: Path) -> None:
    series_id = classify(database, "a", 0.9)
    runner(database, tmp_path).run_next(SERVED)
    with database.write() as session:
        join_study(session, add_reading(session, series_id, NewReading("notumor", "bo", "", (), None, 0), later(50)))
        series = series_to_read(session, derive_uid("series", "a"))
        assert series is not None
        withdraw_reading(session, series, 1, "bo", later(51))
    assert state(database) == ("unread", None)


def test_slices_are_marked_only_where_a_series_inherits(database: Database, tmp_path: Path) -> None:
    classify(database, "a", 0.9)
    refuse(database, "knee", "body-part")
    runner(database, tmp_path).run_next(SERVED)
    with database.write() as session:
        study = study_to_read(session, STUDY)
        assert study is not None
        for name, fits in (("knee", False), ("a", True)):
            new = NewStudyReading("glioma", "ada", "", study.result_id, 0, {derive_uid("series", name): (0,)})
            assert inherits_reading(session, derive_uid("series", name)) == fits
            if fits:
                add_study_reading(session, study, new, later(60))
                continue
            with pytest.raises(SlicesNotInherited):
                add_study_reading(session, study, new, later(60))
    with database.read() as session:
        assert [series.marked for series in read_series(session)] == [(0,)]


def test_of_two_readers_the_second_is_told(database: Database) -> None:
    classify(database, "a", 0.9)
    read(database, "glioma", 0)
    with pytest.raises(ReadMeanwhile, match="ada has read this study"):
        read(database, "notumor", 0)
    assert len(readings(database)) == 1


def test_a_study_s_last_answer_is_judged_by_its_latest_reading_of_a_time(database: Database, tmp_path: Path) -> None:
    classify(database, "a", 0.9)
    classify(database, "b", 0.8)
    runner(database, tmp_path).run_next(SERVED)
    read(database, "notumor", 0, 60)
    read(database, "glioma", 1, 70)
    read(database, "notumor", 2, 500)

    def judged(since: float, until: float) -> list[tuple[str, str | None, bool | None, str]]:
        with database.read() as session:
            answers = judged_study_answers(session, later(since), later(until))
            return [(answer.reader_label, answer.label, answer.right, answer.patient) for answer in answers]

    assert judged(0, 400) == [("glioma", "glioma", True, "ID")]
    assert judged(400, 600) == [("notumor", "glioma", False, "ID")]
    assert judged(0, 65) == [("notumor", "glioma", False, "ID")], "the later reading did not exist yet"
    assert judged(0, 60) == []
