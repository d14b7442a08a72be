"""The archive as its users see it: received and produced objects, by study, series and instance.

For C-FIND (PS3.4 C) and QIDO-RS (PS3.18 10.6). Newest first; an answer names a file, whose header has the attributes
that the database does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import ColumnElement, Select, exists, false, func, literal, not_, null, select
from sqlalchemy.orm import Session, aliased

from worker.db.instances import StoredFile
from worker.db.tables import (
    FileKind,
    InstanceRow,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
)
from worker.db.views.archive_matching import MODALITIES, Keys, has_modality, is_among, is_like, of_modality, of_study


@dataclass(frozen=True, slots=True)
class Study:
    """`path`: a file of the study below the data folder, None when no file is left."""

    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    modalities: tuple[str, ...]
    series: int
    instances: int
    path: str | None


@dataclass(frozen=True, slots=True)
class Series:
    """`kind` is None for a received series; only received series have a `description`."""

    study: Study
    series_instance_uid: str
    modality: str
    description: str
    kind: ObjectKind | None
    instances: int
    path: str | None


@dataclass(frozen=True, slots=True)
class Instance:
    """`path` is None where retention deleted the file; `kind` is None for a received instance."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    kind: ObjectKind | None
    path: str | None
    file: StoredFile | None = None  # as `path`


def match_studies(session: Session, keys: Keys, limit: int | None = None, offset: int = 0) -> list[Study]:
    """Studies by their own keys. Their attributes are those of their first series."""
    rows = session.scalars(
        select(SeriesRow)
        .where(_is_first_of_study(), *of_study(session, keys), *has_modality(session, keys.modalities))
        .order_by(SeriesRow.id.desc())
        .limit(limit)
        .offset(offset)
    ).all()
    contents = _contents(session, [row.study_instance_uid for row in rows])
    return [_study(row, contents[row.study_instance_uid]) for row in rows]


def match_series(session: Session, keys: Keys, limit: int | None = None, offset: int = 0) -> list[Series]:
    """Series by their study's keys and their own: the received series, those produced from them, and the study's."""
    study = of_study(session, keys)
    received = (
        select(SeriesRow.id.label("source"), null().label("kind"), SeriesRow.series_instance_uid.label("uid"))
        .where(*study, *is_among(SeriesRow.series_instance_uid, keys.series_instance_uids))
        .where(*is_like(session, SeriesRow.modality, keys.modalities))
        .order_by(SeriesRow.id.desc())
    )
    earlier = aliased(ObjectRow)
    is_first = not_(
        exists().where(earlier.series_instance_uid == ObjectRow.series_instance_uid, earlier.id < ObjectRow.id)
    )
    columns = (
        SeriesRow.id.label("source"),
        ObjectRow.kind.label("kind"),
        ObjectRow.series_instance_uid.label("uid"),
    )
    produced = [
        query.where(is_first, *study, *is_among(ObjectRow.series_instance_uid, keys.series_instance_uids))
        .where(*of_modality(keys.modalities))
        .order_by(SeriesRow.id.desc(), ObjectRow.id)
        for query in _produced(*columns)
    ]
    page = _page_of_all(session, [received, *produced], limit, offset)
    rows = _in_batches(session, select(SeriesRow), SeriesRow.id, [row.source for row in page])
    sources = {row.id: row for (row,) in rows}
    contents = _contents(session, [row.study_instance_uid for row in sources.values()])
    files = _files(session, [row.uid for row in page])
    answers = []
    for row in page:
        source, kind = sources[row.source], ObjectKind(row.kind) if row.kind else None
        content = contents[source.study_instance_uid]
        answers.append(
            Series(
                study=_study(source, content),
                series_instance_uid=row.uid,
                modality=MODALITIES[kind] if kind else source.modality,
                description="" if kind else source.series_description,
                kind=kind,
                instances=content.instances[row.uid],
                path=files.get(row.uid),
            )
        )
    return answers


def match_instances(session: Session, keys: Keys, limit: int | None = None, offset: int = 0) -> list[Instance]:
    """Instances by the keys of every level, in order of arrival; produced instances come last."""
    columns = (
        SeriesRow.study_instance_uid, SeriesRow.patient_id, SeriesRow.patient_name, SeriesRow.accession_number,
        SeriesRow.study_date,
    )  # fmt: skip
    study = of_study(session, keys)
    received = (
        select(
            InstanceRow.id, null().label("kind"), SeriesRow.series_instance_uid, SeriesRow.modality,
            InstanceRow.sop_instance_uid, InstanceRow.sop_class_uid, InstanceRow.transfer_syntax_uid,
            InstanceRow.path, InstanceRow.sha256, InstanceRow.removed_at.is_not(None).label("removed"), *columns,
        )
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(*study, *is_among(SeriesRow.series_instance_uid, keys.series_instance_uids))
        .where(*is_like(session, SeriesRow.modality, keys.modalities))
        .where(*is_among(InstanceRow.sop_instance_uid, keys.sop_instance_uids))
        .where(*is_among(InstanceRow.sop_class_uid, keys.sop_class_uids))
        .order_by(InstanceRow.id)
    )  # fmt: skip
    of_objects = (
        ObjectRow.id, ObjectRow.kind, ObjectRow.series_instance_uid, literal("").label("modality"),
        ObjectRow.sop_instance_uid, ObjectRow.sop_class_uid,
        literal(str(ExplicitVRLittleEndian)).label("transfer_syntax_uid"),
        ObjectRow.path, ObjectRow.sha256, false().label("removed"), *columns,
    )  # fmt: skip
    produced = [
        query.where(*study, *is_among(ObjectRow.series_instance_uid, keys.series_instance_uids))
        .where(*of_modality(keys.modalities))
        .where(*is_among(ObjectRow.sop_instance_uid, keys.sop_instance_uids))
        .where(*is_among(ObjectRow.sop_class_uid, keys.sop_class_uids))
        .order_by(ObjectRow.id)
        for query in _produced(*of_objects)
    ]
    page = _page_of_all(session, [received, *produced], limit, offset)
    return [_instance(row) for row in page]


def _instance(row: Any) -> Instance:
    kind = ObjectKind(row.kind) if row.kind else None
    file_kind = FileKind.OBJECT if kind else FileKind.INSTANCE
    return Instance(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        modality=MODALITIES[kind] if kind else row.modality,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        accession_number=row.accession_number,
        study_date=row.study_date,
        kind=kind,
        path=None if row.removed else row.path,
        file=None if row.removed else StoredFile(file_kind, row.id, row.path, row.sha256),
    )


def _produced(*columns: Any) -> tuple[Select[Any], Select[Any]]:
    """These columns of the objects of series, each with its source series, and of studies, with the first series."""
    of_series = (
        select(*columns)
        .select_from(ObjectRow)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .join(SeriesRow, SeriesRow.id == ResultRow.series_id)
    )
    of_study = (
        select(*columns)
        .select_from(ObjectRow)
        .join(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .join(StudyRow, StudyRow.id == StudyResultRow.study_id)
        .join(SeriesRow, SeriesRow.study_instance_uid == StudyRow.study_instance_uid)
        .where(_is_first_of_study())
    )
    return of_series, of_study


def _is_first_of_study() -> ColumnElement[bool]:
    earlier = aliased(SeriesRow)
    return not_(exists().where(earlier.study_instance_uid == SeriesRow.study_instance_uid, earlier.id < SeriesRow.id))


def _page_of_all(session: Session, queries: Sequence[Any], limit: int | None, offset: int) -> list[Any]:
    """A page of the rows of the queries, one query after the other."""
    page: list[Any] = []
    for query in queries:
        left = None if limit is None else limit - len(page)
        if left == 0:
            break
        rows = session.execute(query.limit(left).offset(offset)).all()
        if not rows and offset:
            offset -= session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
        else:
            offset = 0
        page += rows
    return page


# --- contents of studies ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Content:
    """A study's modalities, the number of instances of each series, and the path of a file."""

    modalities: set[str] = field(default_factory=set)
    instances: dict[str, int] = field(default_factory=dict)
    path: str | None = None


def _contents(session: Session, study_instance_uids: Iterable[str]) -> dict[str, _Content]:
    studies = list(dict.fromkeys(study_instance_uids))
    contents = {uid: _Content() for uid in studies}
    received = (
        select(SeriesRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.modality, func.count())
        .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
        .group_by(SeriesRow.id)
    )
    of_objects = (SeriesRow.study_instance_uid, ObjectRow.series_instance_uid, ObjectRow.kind)
    produced = [query.group_by(*of_objects) for query in _produced(*of_objects, func.count())]
    for study, series, modality, number in _in_batches(session, received, SeriesRow.study_instance_uid, studies):
        contents[study].modalities.add(modality)
        contents[study].instances[series] = number
    for query in produced:
        for study, series, kind, number in _in_batches(session, query, SeriesRow.study_instance_uid, studies):
            contents[study].modalities.add(MODALITIES[ObjectKind(kind)])
            contents[study].instances[series] = number
    files = _files(session, [series for content in contents.values() for series in content.instances])
    for content in contents.values():
        content.path = next((files[series] for series in content.instances if series in files), None)
    return contents


def _files(session: Session, series_instance_uids: Sequence[str]) -> dict[str, str]:
    """The path of a file of each series that has any."""
    other = aliased(InstanceRow)
    has_file = (other.series_id == SeriesRow.id, other.removed_at.is_(None))
    first = select(func.min(other.id)).where(*has_file).scalar_subquery()
    received = select(SeriesRow.series_instance_uid, InstanceRow.path).join(InstanceRow, InstanceRow.id == first)
    last = aliased(ObjectRow)
    is_last = not_(exists().where(last.series_instance_uid == ObjectRow.series_instance_uid, last.id > ObjectRow.id))
    produced = select(ObjectRow.series_instance_uid, ObjectRow.path).where(is_last)
    rows = _in_batches(session, received, SeriesRow.series_instance_uid, series_instance_uids)
    rows += _in_batches(session, produced, ObjectRow.series_instance_uid, series_instance_uids)
    return {series: path for series, path in rows}


def _in_batches(session: Session, query: Any, column: Any, values: Sequence[Any]) -> list[Any]:
    """The rows where a column has any of many values: SQLite limits the number of bound values."""
    distinct = list(dict.fromkeys(values))
    batches = [distinct[start : start + 500] for start in range(0, len(distinct), 500)]
    return [row for batch in batches for row in session.execute(query.where(column.in_(batch))).all()]


def _study(row: SeriesRow, content: _Content) -> Study:
    return Study(
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        accession_number=row.accession_number,
        study_date=row.study_date,
        modalities=tuple(sorted(content.modalities - {""})),
        series=len(content.instances),
        instances=sum(content.instances.values()),
        path=content.path,
    )
