"""Queries of the audit trail: the studies of an association, of deliveries or of several series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session, aliased

from worker.audit.events import Transferred
from worker.db.tables import (
    AssociationRow,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    ObjectRow,
    ResultRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
)


def received_over(session: Session, association_id: int) -> tuple[str, str, list[Transferred]]:
    """Calling AE title, address, and the new instances that an association brought, by study."""
    association = session.get_one(AssociationRow, association_id)
    query = (
        _by_study(InstanceRow.sop_class_uid)
        .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
        .where(InstanceRow.association_id == association_id)
    )
    return association.calling_ae_title, association.peer, _transferred(session.execute(query))


def delivered(session: Session, delivery_ids: Sequence[int]) -> list[Transferred]:
    """The delivered objects of these deliveries, by study."""
    earlier = aliased(SeriesRow)
    is_first = ~exists().where(earlier.study_instance_uid == SeriesRow.study_instance_uid, earlier.id < SeriesRow.id)
    of_series = (
        _by_study(ObjectRow.sop_class_uid)
        .join(ResultRow, ResultRow.series_id == SeriesRow.id)
        .join(ObjectRow, ObjectRow.result_id == ResultRow.id)
    )
    of_study = (
        _by_study(ObjectRow.sop_class_uid)
        .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
        .join(StudyResultRow, StudyResultRow.study_id == StudyRow.id)
        .join(ObjectRow, ObjectRow.study_result_id == StudyResultRow.id)
        .where(is_first)
    )
    is_delivered = (DeliveryRow.id.in_(delivery_ids), DeliveryRow.state == DeliveryState.DELIVERED)
    return _transferred(
        row
        for query in (of_series, of_study)
        for row in session.execute(query.join(DeliveryRow, DeliveryRow.object_id == ObjectRow.id).where(*is_delivered))
    )


def received_of(session: Session, series_ids: Sequence[int]) -> list[Transferred]:
    """The received instances of series whose files are not deleted."""
    query = (
        _by_study(InstanceRow.sop_class_uid)
        .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
        .where(SeriesRow.id.in_(series_ids), InstanceRow.removed_at.is_(None))
    )
    return _transferred(session.execute(query))


def received_of_study(session: Session, study_instance_uid: str) -> list[Transferred]:
    """The received instances of a study, also those whose files are deleted."""
    query = _by_study(InstanceRow.sop_class_uid).join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
    return _transferred(session.execute(query.where(SeriesRow.study_instance_uid == study_instance_uid)))


def _by_study(sop_class_uid: Any) -> Select[Any]:
    keys = (SeriesRow.study_instance_uid, SeriesRow.patient_id, sop_class_uid)
    return select(*keys, func.count()).select_from(SeriesRow).group_by(*keys).order_by(*keys)


def _transferred(rows: Iterable[Any]) -> list[Transferred]:
    by_study: dict[tuple[str, str], dict[str, int]] = {}
    for study, patient_id, sop_class, number in rows:
        sop_classes = by_study.setdefault((study, patient_id), {})
        sop_classes[sop_class] = sop_classes.get(sop_class, 0) + number
    return [Transferred(study, patient_id, sop_classes) for (study, patient_id), sop_classes in by_study.items()]
