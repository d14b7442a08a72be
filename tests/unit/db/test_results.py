"""Results with their slices, objects and deliveries, on both databases."""

from __future__ import annotations

from sqlalchemy import select

from tests.testbed.instances import MODEL, classified, later, new_instance
from tests.testbed.rows import claimed_job, queued_job
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import end_job
from worker.db.results import NewObject, add_result, add_shadow_result, reports_to_replace
from worker.db.tables import (
    DeliveryRow,
    JobState,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    ShadowResultRow,
    SliceResultRow,
)
from worker.dicom.standard import derive_uid, produced_series_uid


def _object(kind: ObjectKind, only_to: tuple[str, ...] | None = None, name: str = "") -> NewObject:
    return NewObject(kind, "1.2", derive_uid(kind, name), f"objects/{kind}{name}", "00" * 32, only_to)


def test_each_object_goes_to_every_destination_or_to_those_it_names(database: Database) -> None:
    new = new_instance()
    with database.write() as session:
        row = add_instance(session, new, later(0))
        job = claimed_job(session, row.series_id)
        end_job(session, job.id, "me", JobState.DONE, later(1))
        objects = [_object(ObjectKind.REPORT), _object(ObjectKind.PICTURE, ()), _object(ObjectKind.KEY_OBJECTS, ("b",))]
        result = add_result(
            session, job, classified([new]), {new.sop_instance_uid: row.id}, objects, ["a", "b"], later(1)
        )
    with database.read() as session:
        deliveries = session.execute(
            select(ObjectRow.kind, DeliveryRow.destination, DeliveryRow.not_before)
            .join(DeliveryRow, DeliveryRow.object_id == ObjectRow.id)
            .order_by(DeliveryRow.id)
        ).all()
        assert [tuple(row) for row in deliveries] == [
            ("report", "a", later(1)),
            ("report", "b", later(1)),
            ("key-objects", "b", later(1)),
        ]
        report = session.scalars(select(ObjectRow).where(ObjectRow.kind == ObjectKind.REPORT)).one()
        assert report.series_instance_uid == produced_series_uid("report", new.series_instance_uid, MODEL.sha256)
        slices = session.scalars(select(SliceResultRow).where(SliceResultRow.result_id == result.id)).all()
        assert [(slice_result.ordinal, slice_result.probabilities) for slice_result in slices] == [(0, [0.9, 1 - 0.9])]
        assert session.get_one(ResultRow, result.id).basis is None, "of a bundle of format 1"
        series = session.get_one(SeriesRow, 1)
        assert (series.status, series.label, series.probability, series.answered_job_id) == (
            "classified", "glioma", 0.9, job.id,
        )  # fmt: skip


def test_a_shadow_result_answers_nothing(database: Database) -> None:
    with database.write() as session:
        row = add_instance(session, new_instance(), later(0))
        job = queued_job(session, row.series_id, shadow=True)
        add_shadow_result(session, job, classified(probability=0.8), later(1))
    with database.read() as session:
        stored = session.scalars(select(ShadowResultRow)).one()
        assert (stored.job_id, stored.label, stored.probability) == (job.id, "glioma", 0.8)
        series = session.get_one(SeriesRow, 1)
        assert (series.status, series.answered_job_id) == ("pending", None)


def test_the_latest_report_is_of_that_series_and_model(database: Database) -> None:
    with database.write() as session:
        row = add_instance(session, new_instance(), later(0))
        for number, kind in enumerate((ObjectKind.REPORT, ObjectKind.REPORT, ObjectKind.PICTURE)):
            if number:
                add_instance(session, new_instance(number + 1), later(number))
            job = claimed_job(session, row.series_id, number)
            end_job(session, job.id, "me", JobState.DONE, later(number))
            add_result(session, job, classified(), {}, [_object(kind, (), str(number))], [], later(number))
        [latest] = reports_to_replace(session, row.series_id, job.model_id)
        assert latest.path == "objects/report1"
        assert reports_to_replace(session, row.series_id, job.model_id + 1) == []
        assert reports_to_replace(session, row.series_id + 1, job.model_id) == []
