"""Queries that answer a study: which are due, what their series say, and the result, once for each set of answers.

A study is due when none of its series is open or waits for a job, and nothing of it came for the quiet time: at once
where a sender says that it is whole, and later, within limits, while a sender has more of it (`counting`). Whoever
answers it computes without a lock; the result is added under a lock on the study's row, if its series still say the
same. So two processes, or a process that died before, add no second result; and a series that gets another answer
meanwhile waits for that lock, and opens the study again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from worker.db.instances import IDENTITY_KEY
from worker.db.results import NewObject, queue_object
from worker.db.studies.counting import is_whole, lacks
from worker.db.studies.identity import newest_attributes
from worker.db.studies.summary import summarise_studies
from worker.db.tables import (
    DETAIL_LENGTH,
    InstanceRow,
    JobRow,
    JobState,
    ModelRow,
    ObjectKind,
    ObjectRow,
    OtherStudyRow,
    ResultRow,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    StudyResultRow,
    StudyRow,
    StudyState,
    cut_detail,
)
from worker.dicom.standard import produced_series_uid
from worker.dicom.text.names import comparable_name

if TYPE_CHECKING:  # a command that only queries starts without numpy
    from worker.results import StudyResult

_UNFINISHED = (JobState.PENDING, JobState.RUNNING)
_OPEN_STUDY = select(StudyRow.id).where(StudyRow.state == StudyState.OPEN).limit(1)


@dataclass(frozen=True, slots=True)
class StudySeries:
    """A series of a study with its answer: `label`, or why it has none. `file` is a stored file of it, or None.

    `basis` as in ResultRow; `sequence` and `plane` are those of its headers. `key` names this answer. `patient` is that
    of its newest image, None where all its images were moved to other series.
    """

    series_instance_uid: str
    key: str
    patient: tuple[str, str] | None  # Patient ID, and the name where there is no ID
    issuer: str | None  # of the Patient ID
    status: str
    label: str | None
    reason: str | None
    probabilities: Mapping[str, float]
    basis: Mapping[str, Any] | None
    sequence: str | None
    plane: str | None
    model_id: int | None
    file: str | None


@dataclass(frozen=True, slots=True)
class StudyInputs:
    """What a study is answered from: its series in the order of their UIDs, and the model whose results count.

    `model_id` is that of most results, of several the newest; None where no series has a result. `sha256` is the
    identity of the answers, `answered_at` the time of the last of them, None where no series settled.
    """

    study_instance_uid: str
    series: tuple[StudySeries, ...]
    model_id: int | None
    sha256: str
    answered_at: datetime | None


@dataclass(frozen=True, slots=True)
class StudySettling:
    """When a study is answered: after `quiet`, and `extra_quiet` later where a sender has more of it."""

    quiet: timedelta
    extra_quiet: timedelta = timedelta()


def study_is_due(session: Session, now: datetime, settling: StudySettling) -> bool:
    """Whether a study can be claimed. Takes no lock, so frequent polls ask this first."""
    connection = session.connection()
    if connection.scalar(_OPEN_STUDY) is None:
        return False  # of most polls
    return connection.scalar(_due_study(), _moments(now, settling)) is not None


def claim_study(
    session: Session, owner: str, now: datetime, settling: StudySettling, lease: timedelta
) -> StudyRow | None:
    """Claim the oldest study that is due; no other process claims it for the time of the lease."""
    oldest = _due_study().with_for_update(skip_locked=True).scalar_subquery()
    return session.scalar(
        update(StudyRow)
        .where(StudyRow.id == oldest)
        .values(attempts=StudyRow.attempts + 1, lease_owner=owner, not_before=now + lease)
        .returning(StudyRow),
        _moments(now, settling),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )


def _moments(now: datetime, settling: StudySettling) -> dict[str, datetime]:
    """The parameters of `_due_study`."""
    quiet_since = now - settling.quiet
    return {"now": now, "quiet_since": quiet_since, "long_since": quiet_since - settling.extra_quiet}


@lru_cache
def _due_study() -> Select[int]:
    """The oldest study that is due; made once, for that takes ten times as long as to execute it.

    The quiet time is that of its senders: it goes by while the last of its series is classified.
    """
    now: BindParameter[datetime] = bindparam("now", type_=StudyRow.not_before.type)
    series, job = aliased(SeriesRow), aliased(JobRow)
    uid = StudyRow.study_instance_uid
    of_study = series.study_instance_uid == uid
    is_open = select(series.id).where(of_study, series.state == SeriesState.OPEN).exists()
    works = (
        select(job.id)
        .join(series, series.id == job.series_id)
        .where(of_study, ~job.shadow, job.state.in_(_UNFINISHED))
        .exists()
    )

    def changed_since(moment: str) -> ColumnElement[bool]:
        """A time to come, of a clock that was set back since, does not count."""
        times = (series.last_received_at, series.settled_at)
        came = or_(*[and_(column > bindparam(moment), column <= now) for column in times])
        return select(series.id).where(of_study, came).exists()

    is_quiet = and_(~changed_since("quiet_since"), or_(~lacks(uid, now), ~changed_since("long_since")))
    waits = or_(StudyRow.not_before.is_(None), StudyRow.not_before <= now)
    is_due = and_(StudyRow.state == StudyState.OPEN, waits, ~is_open, ~works, or_(is_quiet, is_whole(uid, now)))
    return select(StudyRow.id).where(is_due).order_by(StudyRow.id).limit(1)


def study_inputs(session: Session, study_instance_uid: str) -> StudyInputs:
    """What the series of a study say now.

    Documents, and what other workers of this product made of the study, are none of its series, unless it has no other:
    a reader's key images, say, that the PACS forwards lead to no other answer.
    """
    file = (
        select(InstanceRow.path)
        .where(InstanceRow.series_id == SeriesRow.id, InstanceRow.removed_at.is_(None))
        .order_by(InstanceRow.id)
        .limit(1)
        .correlate(SeriesRow)
        .scalar_subquery()
    )
    besides = select(OtherStudyRow.series_id).where(OtherStudyRow.study_instance_uid == study_instance_uid)
    rows = session.execute(
        select(SeriesRow, ResultRow, JobRow.reason, file, newest_attributes())
        .outerjoin(JobRow, JobRow.id == SeriesRow.answered_job_id)
        .outerjoin(ResultRow, ResultRow.job_id == SeriesRow.answered_job_id)
        .where(or_(SeriesRow.study_instance_uid == study_instance_uid, SeriesRow.id.in_(besides)))
        .order_by(SeriesRow.series_instance_uid)
        .execution_options(populate_existing=True)
    )
    every = [tuple(row) for row in rows]
    found = [row for row in every if not _is_about_images(row[0])] or every
    series = tuple(_read(*row) for row in found)
    times = [row[1].created_at for row in found if row[1] is not None]
    times += [row[0].settled_at for row in found if row[0].settled_at is not None]
    counts = Counter(item.model_id for item in series if item.model_id is not None)
    model_id = max(counts, key=lambda key: (counts[key], key), default=None)
    lines = [f"model {model_id}", *(f"{item.series_instance_uid} {item.key}" for item in series)]
    sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return StudyInputs(study_instance_uid, series, model_id, sha256, max(times, default=None))


def _is_about_images(series: SeriesRow) -> bool:
    is_document = series.reason == "modality" and series.modality in ("SR", "KO")
    return series.status == SeriesStatus.REFUSED and (is_document or series.reason == "produced")


def _read(
    series: SeriesRow,
    result: ResultRow | None,
    parked: str | None,
    file: str | None,
    attributes: Mapping[str, Any] | None,
) -> StudySeries:
    answered = result is not None and series.status in (SeriesStatus.CLASSIFIED, SeriesStatus.NOT_ASSESSED)
    reason = series.reason if series.status == SeriesStatus.REFUSED else parked or series.status
    patient: tuple[str, str] | None = None
    identity: Mapping[str, str] = (attributes or {}).get(IDENTITY_KEY, {})
    if identity:
        patient = identity["patient"], identity.get("name", "")
    elif attributes is not None:  # an earlier worker recorded that of the series only
        patient = series.patient_id, "" if series.patient_id else comparable_name(series.patient_name)
    corrected = f" {series.corrections}" if series.corrections else ""
    return StudySeries(
        series_instance_uid=series.series_instance_uid,
        key=f"{series.status} {series.answered_job_id} {series.reason or ''} {' '.join(patient or ())}{corrected}",
        patient=patient,
        issuer=identity.get("issuer"),
        status=series.status,
        label=result.label if answered and result is not None and result.reason is None else None,
        reason=result.reason if answered and result is not None else reason,
        probabilities=dict(result.probabilities) if answered and result is not None else {},
        basis=result.basis if answered and result is not None else None,
        sequence=series.sequence,
        plane=series.plane,
        model_id=result.model_id if answered and result is not None else None,
        file=file,
    )


def latest_model(session: Session, study_id: int) -> int | None:
    """The model of the last answer for a study."""
    return session.scalar(
        select(StudyResultRow.model_id)
        .where(StudyResultRow.study_id == study_id)
        .order_by(StudyResultRow.number.desc())
        .limit(1)
    )


@dataclass(frozen=True, slots=True)
class StudyLineage:
    """What the next answer for a study follows: its `number`, and the stored paths of the reports that it replaces."""

    number: int
    predecessors: tuple[str, ...]


def study_lineage(session: Session, study_id: int) -> StudyLineage:
    """That of the next answer for a study: it replaces the newest report of the study, by whichever model."""
    report = session.scalar(
        select(ObjectRow.path)
        .join(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .where(StudyResultRow.study_id == study_id, ObjectRow.kind == ObjectKind.REPORT)
        .order_by(StudyResultRow.number.desc())
        .limit(1)
    )
    return StudyLineage(_next_number(session, study_id), (report,) if report is not None else ())


def add_study_result(
    session: Session,
    study_id: int,
    inputs: StudyInputs,
    model_id: int | None,
    result: StudyResult | None,
    now: datetime,
    objects: Sequence[NewObject] = (),
    destinations: Sequence[str] = (),
    number: int | None = None,
) -> StudyResultRow | None:
    """Add the answer for a study with its objects and deliveries, and end its claim; None where nothing was added.

    Nothing is added where its series say something else by now (it stays open), where they were answered already, and
    where `result` is None, because no model answered any of its series. `number` is that of the answer that `objects`
    are of: where another was added meanwhile, they follow another report, and the study stays open, too.
    """
    study = session.scalar(
        select(StudyRow).where(StudyRow.id == study_id).with_for_update().execution_options(populate_existing=True)
    )
    if study is None or study.state != StudyState.OPEN:
        return None
    study.lease_owner = study.not_before = None
    is_stale = number is not None and number != _next_number(session, study.id)
    if is_stale or study_inputs(session, inputs.study_instance_uid).sha256 != inputs.sha256:
        session.flush()
        return None
    study.state, study.attempts = StudyState.ANSWERED, 0
    if model_id is None and result is not None:
        study.reason, study.detail = result.reason, cut_detail(result.detail)
    latest = session.get(StudyResultRow, study.answered_by) if study.answered_by is not None else None
    row: StudyResultRow | None = None
    if result is not None and model_id is not None and (latest is None or latest.input_sha256 != inputs.sha256):
        row = StudyResultRow(
            study_id=study.id,
            number=_next_number(session, study.id),
            model_id=model_id,
            input_sha256=inputs.sha256,
            status=result.status,
            label=result.label,
            probability=result.probability,
            probabilities=dict(result.probabilities),
            lesion_probability=result.lesion_probability,
            reason=result.reason,
            detail=cut_detail(result.detail),
            contradiction=cut_detail(result.contradiction),
            deciding=result.deciding,
            contributions=[asdict(item) for item in result.contributions],
            created_at=now,
        )
        session.add(row)
        session.flush()
        study.answered_by = row.id
        model_sha256 = session.get_one(ModelRow, model_id).sha256
        for new in objects:
            series_uid = produced_series_uid(new.kind, inputs.study_instance_uid, model_sha256)
            queue_object(session, new, series_uid, destinations, now, study_result_id=row.id)
    session.flush()
    summarise_studies(session, [study.study_instance_uid])
    return row


def _next_number(session: Session, study_id: int) -> int:
    newest = select(func.max(StudyResultRow.number)).where(StudyResultRow.study_id == study_id)
    return 1 + (session.scalar(newest) or 0)


def postpone_study(session: Session, study_id: int, owner: str, not_before: datetime, reason: str, detail: str) -> None:
    """Let a claimed study wait before the next attempt."""
    _give_up(session, study_id, owner, reason, detail, not_before=not_before)


def park_study(session: Session, study_id: int, owner: str, reason: str, detail: str) -> None:
    """Attempt a study no more until a series of it gets another answer, or a person retries it."""
    _give_up(session, study_id, owner, reason, detail, state=StudyState.PARKED, not_before=None)


def _give_up(session: Session, study_id: int, owner: str, reason: str, detail: str, **values: Any) -> None:
    given_up = session.scalars(
        update(StudyRow)
        .where(StudyRow.id == study_id, StudyRow.state == StudyState.OPEN, StudyRow.lease_owner == owner)
        .values(lease_owner=None, reason=reason, detail=detail[:DETAIL_LENGTH], **values)
        .returning(StudyRow.study_instance_uid)
    ).all()
    summarise_studies(session, given_up)


def retry_parked_studies(session: Session, study_instance_uids: Collection[str] = ()) -> list[str]:
    """Open parked studies again, all of them if none is named; their UIDs."""
    named = [StudyRow.study_instance_uid.in_(list(study_instance_uids))] if study_instance_uids else []
    opened = list(
        session.scalars(
            update(StudyRow)
            .where(StudyRow.state == StudyState.PARKED, *named)
            .values(state=StudyState.OPEN, attempts=0, reason=None, detail=None, not_before=None)
            .returning(StudyRow.study_instance_uid)
        )
    )
    summarise_studies(session, opened)
    return opened
