"""Every query: one function, one purpose. Sessions live here; the clock is passed in.

A writing transaction on SQLite begins with BEGIN IMMEDIATE, so it never fails half way for want of the write lock; on
PostgreSQL the rows that two processes could want are locked one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    inspect,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from worker import dicom
from worker.config import sqlite_path
from worker.errors import StartError
from worker.logs import get_log
from worker.tables import (
    REVISION,
    AssociationRow,
    Commitment,
    ConflictRow,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    ModelRow,
    ModelState,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    ShadowResultRow,
    SliceResultRow,
)

if TYPE_CHECKING:  # a command that only looks things up starts without pydicom and numpy
    from pydicom import Dataset

    from worker import commitment
    from worker.values import ModelIdentity, SeriesResult

DETAIL_LENGTH = 1024
CONFIGURATION = "configuration"  # who made a model active, where it was not a person
_LOCK_WAIT_SECONDS = 30.0
# A host that is cut off must notice within half a minute, and so must the server, which keeps its locks so long.
_CONNECTION = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_CONNECTION |= {"tcp_user_timeout": 30_000}
_SERVER_SIDE = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
_SERVER_SIDE |= {"tcp_user_timeout": 30_000, "idle_in_transaction_session_timeout": 300_000, "lock_timeout": 30_000}


class Store:
    """A database: `read()` and `write()` give sessions; a `write()` commits at its end or rolls back whole."""

    def __init__(self, url: str, pseudonym: Callable[[str], str] | None = None) -> None:
        """Connects at the first use. Raises StartError for a URL that names no database we can speak to.

        `pseudonym` stands in for a patient's identifiers, in what is written and in what is searched for.
        """
        self.pseudonym = pseudonym
        file = sqlite_path(url)
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                self.engine = create_engine(url, connect_args={"timeout": _LOCK_WAIT_SECONDS})
                event.listen(self.engine, "connect", _prepare_sqlite)
                event.listen(self.engine, "begin", _begin_sqlite)
            else:
                self.engine = create_engine(url, pool_pre_ping=True, connect_args=_CONNECTION)
                event.listen(self.engine, "connect", _prepare_postgresql)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise StartError("database-url", f"[database] url: {error}") from None
        self._reader = self.engine.execution_options(read_only=True)

    @contextmanager
    def write(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def begin(self) -> AbstractContextManager[Connection]:
        """As `write`, without objects: half of what a short transaction takes is a session's."""
        return self.engine.begin()

    @contextmanager
    def read(self) -> Iterator[Session]:
        info = {"pseudonym": self.pseudonym}
        with Session(self._reader, expire_on_commit=False, info=info) as session, session.begin():
            yield session

    def revision(self) -> str | None:
        """The schema revision, None for an empty database. Raises StartError when it cannot be reached."""
        try:
            with self._reader.connect() as connection:
                if not inspect(connection).has_table("alembic_version"):
                    return None
                found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
                return found
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            first_line = str(cause).strip().splitlines()[0]
            raise StartError("database-unreachable", f"the database cannot be opened: {first_line}") from None

    def require_revision(self) -> None:
        """Raises StartError unless the schema is exactly the one this worker knows."""
        found = self.revision()
        if found is not None and found > REVISION:
            raise StartError(
                "database-newer",
                f"the database is at revision {found}, this worker knows up to {REVISION}: install a newer worker",
            )
        if found != REVISION:
            raise StartError("database-older", f"the database is at {found or 'no revision'}: run `worker migrate`")

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for name, value in _SERVER_SIDE.items():
            cursor.execute(f"SET {name} = {value}")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


# --- receiving -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewInstance:
    """What the receiver knows of an instance whose file is on disk; text already cut to the columns' lengths."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    modality: str
    series_description: str
    attributes: dict[str, Any]
    path: str
    size: int
    sha256: str
    association_id: int | None


_SERIES, _INSTANCE = (SeriesRow.metadata.tables[one.__tablename__] for one in (SeriesRow, InstanceRow))
_OF_SERIES, _OF_INSTANCE = (
    [one.name for one in fields(NewInstance) if one.name in table.c] for table in (_SERIES, _INSTANCE)
)
_INSTANCES_BY_UID = select(InstanceRow).where(InstanceRow.sop_instance_uid.in_(bindparam("uids", expanding=True)))
_ANY_BY_UID = select(_INSTANCE.c.id).where(_INSTANCE.c.sop_instance_uid.in_(bindparam("uids", expanding=True)))
_OF_UIDS = _SERIES.c.series_instance_uid.in_(bindparam("uids", expanding=True))
_LOCKED_SERIES = select(_SERIES.c.id).where(_OF_UIDS).order_by(_SERIES.c.id).with_for_update()  # all in the same order
_ARRIVE_REFUSED = (
    update(_SERIES)
    .where(_SERIES.c.id.in_(_LOCKED_SERIES))
    .values(state=SeriesState.OPEN, reason=None, detail=None, last_received_at=bindparam("now"))
    .returning(_SERIES.c.id, _SERIES.c.series_instance_uid)
)
_ARRIVE = _ARRIVE_REFUSED.where(_SERIES.c.state != SeriesState.REFUSED)
_ADD_SERIES = insert(_SERIES).returning(_SERIES.c.id)
_ADD_INSTANCE = insert(_INSTANCE)


def open_association(session: Session, calling_ae_title: str, peer: str, receiver: str, now: datetime) -> int:
    row = AssociationRow(calling_ae_title=calling_ae_title, peer=peer, receiver=receiver, opened_at=now)
    session.add(row)
    session.flush()
    return row.id


def close_association(session: Session, association_id: int, now: datetime) -> None:
    session.execute(update(AssociationRow).where(AssociationRow.id == association_id).values(closed_at=now))


def open_associations(session: Session) -> Sequence[AssociationRow]:
    return session.scalars(select(AssociationRow).where(AssociationRow.closed_at.is_(None))).all()


def add_instance(session: Session, new: NewInstance, now: datetime) -> InstanceRow:
    """`add_instances` of one; its row."""
    add_instances(session, [new], now)
    return session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == new.sop_instance_uid)).one()


def add_instances(session: Session | Connection, new: Sequence[NewInstance], now: datetime) -> None:
    """The rows of instances that have none, their series created or (when they had settled already) opened again.

    Statements of Core, and as many for a hundred instances as for one: most of receiving's processor time was here.
    """
    connection = session.connection() if isinstance(session, Session) else session
    wanted = {one.series_instance_uid: one for one in new}
    ids = _arrive(connection, _ARRIVE, list(wanted), now)
    if missing := [uid for uid in wanted if uid not in ids]:
        refused = _arrive(connection, _ARRIVE_REFUSED, missing, now)
        answer_series(connection, list(refused.values()))
        ids |= refused
    for uid, one in wanted.items():
        if uid not in ids:
            values = {name: getattr(one, name) for name in _OF_SERIES}
            made = connection.execute(_ADD_SERIES, values | {"created_at": now, "last_received_at": now})
            ids[uid] = made.scalar_one()
    connection.execute(
        _ADD_INSTANCE,
        [
            {name: getattr(one, name) for name in _OF_INSTANCE}
            | {"series_id": ids[one.series_instance_uid], "received_at": now}
            for one in new
        ],
    )


def _arrive(connection: Connection, statement: Update, uids: Sequence[str], now: datetime) -> dict[str, int]:
    """The numbers of the series that are known, which are open now."""
    found = connection.execute(statement, {"uids": uids, "now": now})
    return {row.series_instance_uid: row.id for row in found}


def stored_instances(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, InstanceRow]:
    """Rows by SOP Instance UID, of those that are stored."""
    found: dict[str, InstanceRow] = {}
    for start in range(0, len(sop_instance_uids), 500):  # SQLite limits the number of bound values
        part = sop_instance_uids[start : start + 500]
        # Most often none is, and Core says so in a third of the time that objects would take.
        if session.connection().execute(_ANY_BY_UID, {"uids": part}).first() is not None:
            found |= {row.sop_instance_uid: row for row in session.scalars(_INSTANCES_BY_UID, {"uids": part})}
    return found


def add_conflict(session: Session, stored: InstanceRow, new: NewInstance, path: str, now: datetime) -> None:
    """Record other content of a stored instance, once for each content."""
    same = (ConflictRow.instance_id == stored.id, ConflictRow.sha256 == new.sha256)
    if session.scalar(select(ConflictRow.id).where(*same)) is None:
        session.add(
            ConflictRow(
                instance_id=stored.id,
                association_id=new.association_id,
                path=path,
                size=new.size,
                sha256=new.sha256,
                received_at=now,
            )
        )
        session.flush()


# --- settling --------------------------------------------------------------------------------------------------


def lock_open_series(session: Session, series_id: int, not_after: datetime) -> SeriesRow | None:
    """The series if it is still open and still silent since `not_after`; a late instance waits for our commit."""
    return session.scalar(
        select(SeriesRow)
        .where(SeriesRow.id == series_id, SeriesRow.state == SeriesState.OPEN)
        .where(SeriesRow.last_received_at <= not_after)
        .with_for_update()
    )


def instances_of(session: Session, series_id: int, last_instance_id: int | None = None) -> Sequence[InstanceRow]:
    query = select(InstanceRow).where(InstanceRow.series_id == series_id).order_by(InstanceRow.id)
    if last_instance_id is not None:
        query = query.where(InstanceRow.id <= last_instance_id)
    return session.scalars(query).all()


def refuse_series(series: SeriesRow, reason: str, detail: str, now: datetime) -> None:
    series.state, series.reason, series.detail = SeriesState.REFUSED, reason, detail[:DETAIL_LENGTH]
    series.settled_at = now
    series.status, series.label, series.probability = SeriesStatus.REFUSED, None, None
    series.answered_job_id = None


def queue_series(
    session: Session,
    series: SeriesRow,
    model_id: int,
    now: datetime,
    missing: str | None = None,
    *,
    shadow: bool = False,
) -> JobRow | None:
    """A pending job for the series' instances as they are; None when the model has one for this very input set.

    What waits for a smaller input set, of whichever model, is superseded. `missing`: what is known to be missing.
    """
    instances = instances_of(session, series.id)
    series.state, series.reason, series.detail, series.settled_at = SeriesState.QUEUED, None, None, now
    digest = input_sha256(instances)
    of_series = JobRow.series_id == series.id
    same = (of_series, JobRow.model_id == model_id, JobRow.input_sha256 == digest)
    if session.scalar(select(JobRow.id).where(*same)) is not None:
        return None
    session.execute(
        update(JobRow)
        .where(of_series, JobRow.state == JobState.PENDING, JobRow.input_sha256 != digest)
        .values(state=JobState.SUPERSEDED, reason="more-instances-came", finished_at=now)
    )
    job = JobRow(
        series_id=series.id,
        model_id=model_id,
        input_sha256=digest,
        last_instance_id=instances[-1].id,
        missing=missing[:DETAIL_LENGTH] if missing else None,
        shadow=shadow,
        not_before=now,
        created_at=now,
    )
    session.add(job)
    session.flush()
    return job


def input_sha256(instances: Sequence[InstanceRow | NewInstance]) -> str:
    """The identity of an input set, whatever the order its instances came in."""
    lines = sorted(f"{one.sop_instance_uid} {one.sha256}" for one in instances)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def model_row(session: Session, identity: ModelIdentity, now: datetime) -> ModelRow:
    """The row of a bundle; active where it is made here, see `store_models` for what chooses otherwise."""
    row = session.scalar(select(ModelRow).where(ModelRow.sha256 == identity.sha256))
    if row is None:
        named = {"name": identity.name[:64], "version": identity.version[:32], "sha256": identity.sha256}
        row = ModelRow(**named, added_at=now, state=ModelState.ACTIVE, state_at=now, state_by=CONFIGURATION)
        session.add(row)
        session.flush()
    return row


# --- jobs ------------------------------------------------------------------------------------------------------


def job_waits(session: Session, model_ids: Collection[int], now: datetime) -> bool:
    """Whether there is something to claim: who looks often asks this first, and takes no lock."""
    waiting = select(JobRow.id).where(JobRow.model_id.in_(model_ids), or_(*_claimable_jobs(JobRow, now))).limit(1)
    return session.scalar(waiting) is not None


def _claimable_jobs(job: type[JobRow], now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Those whose lease ran out, and those that are due.

    Asked for apart they come from an index in their order; together the whole queue would be sorted for each claim.
    """
    return (
        and_(job.state == JobState.RUNNING, job.lease_until < now),
        and_(job.state == JobState.PENDING, job.not_before <= now),
    )


def claim_job(
    session: Session,
    owner: str,
    model_id: int | Collection[int],
    now: datetime,
    lease: timedelta,
    *,
    shadow: bool = False,
) -> JobRow | None:
    """The oldest job of one of these models that may run now, leased to `owner`; `shadow` asks for those in shadow.

    A job whose lease ran out counts as claimable.
    """
    models = [model_id] if isinstance(model_id, int) else model_id
    one = aliased(JobRow)
    oldest = [
        select(one.id)
        .where(one.model_id.in_(models), one.shadow == shadow, claimable)
        .order_by(one.not_before, one.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
        for claimable in _claimable_jobs(one, now)
    ]
    leased: dict[str, Any] = {"state": JobState.RUNNING, "lease_owner": owner, "lease_until": now + lease}
    return session.scalar(
        update(JobRow)
        .where(JobRow.id == func.coalesce(*oldest))
        .values(attempts=JobRow.attempts + 1, **leased)
        .returning(JobRow),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )


def adopt_jobs(session: Session, lost: Collection[int], model_id: int, now: datetime) -> int:
    """Hand the waiting jobs of models whose bundles are gone to one that is served; the number of them.

    Superseded are those in shadow, and where the series has a job of the other model for the same input already.
    """
    waiting = session.scalars(
        select(JobRow)
        .where(JobRow.model_id.in_(lost))
        .where(
            or_(
                JobRow.state == JobState.PENDING,
                and_(JobRow.state == JobState.RUNNING, JobRow.lease_until < now),
            )
        )
        .order_by(JobRow.id)
        .with_for_update(skip_locked=True)
    ).all()
    for job in waiting:
        job.lease_owner = job.lease_until = None
        same = (JobRow.series_id == job.series_id, JobRow.input_sha256 == job.input_sha256)
        if not job.shadow and session.scalar(select(JobRow.id).where(JobRow.model_id == model_id, *same)) is None:
            job.model_id, job.state = model_id, JobState.PENDING
        else:
            job.state, job.reason, job.finished_at = JobState.SUPERSEDED, "model-replaced", now
        session.flush()
    return len(waiting)


def extend_job_lease(session: Session, job_id: int, owner: str, until: datetime) -> bool:
    """False when the job is no longer ours."""
    done = session.execute(
        update(JobRow).where(JobRow.id == job_id, _leased_to(owner)).values(lease_until=until).returning(JobRow.id)
    )
    return done.first() is not None


def _leased_to(owner: str) -> Any:
    return and_(JobRow.state == JobState.RUNNING, JobRow.lease_owner == owner)


def end_job(
    session: Session,
    job_id: int,
    owner: str,
    state: JobState,
    now: datetime,
    *,
    reason: str | None = None,
    detail: str | None = None,
    not_before: datetime | None = None,
) -> bool:
    """Give a leased job its next state; False (and nothing changes) when the lease went to another."""
    values: dict[str, Any] = {
        "state": state,
        "reason": reason,
        "detail": detail[:DETAIL_LENGTH] if detail else None,
        "lease_owner": None,
        "lease_until": None,
    }
    if state == JobState.PENDING:
        values["not_before"] = not_before or now
    else:
        values["finished_at"] = now
    done = session.execute(
        update(JobRow).where(JobRow.id == job_id, _leased_to(owner)).values(**values).returning(JobRow.series_id)
    ).first()
    if done is not None and state == JobState.PARKED:
        answer_series(session, [done.series_id])
    return done is not None


def answer_series(session: Session | Connection, series_ids: Sequence[int]) -> None:
    """Bring what searches see of series up to date: the last job that ended tells, of a series that is not refused.

    A job in shadow never does.
    While a first job is under way the series is pending; an earlier answer stays in sight while a later job works.
    """
    for series_id in series_ids:
        last = session.execute(
            select(JobRow.id, JobRow.state, ResultRow.status, ResultRow.label, ResultRow.probability)
            .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
            .where(JobRow.series_id == series_id, JobRow.state.in_([JobState.DONE, JobState.PARKED]))
            .where(~JobRow.shadow)
            .order_by(JobRow.id.desc())
            .limit(1)
        ).first()
        status: str = SeriesStatus.PENDING
        if last is not None:
            status = SeriesStatus.FAILED if last.state == JobState.PARKED else last.status or SeriesStatus.PENDING
        session.execute(
            update(SeriesRow)
            .where(SeriesRow.id == series_id, SeriesRow.state != SeriesState.REFUSED)
            .values(
                status=status,
                label=last.label if last else None,
                probability=last.probability if last else None,
                answered_job_id=last.id if last else None,
            )
        )


def lease_owners(session: Session) -> set[str]:
    """Who holds a job or a delivery just now."""
    jobs = session.scalars(select(JobRow.lease_owner).where(JobRow.lease_owner.is_not(None)).distinct())
    sends = session.scalars(select(DeliveryRow.lease_owner).where(DeliveryRow.lease_owner.is_not(None)).distinct())
    return {owner for owner in (*jobs, *sends) if owner}


def release_leases_of(session: Session, owner: str, now: datetime) -> None:
    """The owner is known to be dead: what it held may be claimed at once (its attempts stay counted)."""
    session.execute(update(JobRow).where(JobRow.lease_owner == owner).values(lease_until=now - timedelta(seconds=1)))
    session.execute(
        update(DeliveryRow).where(DeliveryRow.lease_owner == owner).values(lease_until=now - timedelta(seconds=1))
    )


def note_death(session: Session, owner: str, reason: str, detail: str) -> int:
    """Why the process that held them died, on its running jobs; the number of them."""
    noted = update(JobRow).where(_leased_to(owner)).values(reason=reason, detail=detail).returning(JobRow.id)
    return len(session.scalars(noted).all())


def retry_parked_jobs(session: Session, job_ids: Sequence[int], now: datetime) -> list[int]:
    """Parked jobs back to pending with their attempts forgotten; all of them when no id is given."""
    query = update(JobRow).where(JobRow.state == JobState.PARKED)
    if job_ids:
        query = query.where(JobRow.id.in_(job_ids))
    fresh: dict[str, Any] = {"state": JobState.PENDING, "attempts": 0, "not_before": now, "reason": None}
    fresh |= {"detail": None, "finished_at": None}
    tried = session.execute(query.values(**fresh).returning(JobRow.id, JobRow.series_id)).all()
    answer_series(session, [one.series_id for one in tried])
    return [one.id for one in tried]


# --- results ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewObject:
    """A produced object whose file is on disk; `only_to` names the destinations that want it, None: each does."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    only_to: tuple[str, ...] | None = None


def add_result(
    session: Session,
    job: JobRow,
    result: SeriesResult,
    instance_ids: dict[str, int],
    objects: Sequence[NewObject],
    destinations: Sequence[str],
    now: datetime,
) -> ResultRow:
    """Result, slices, objects and deliveries in the caller's transaction (architecture, invariant 4).

    `instance_ids` maps the SOP Instance UIDs of the job's instances to their rows.
    """
    row = ResultRow(
        job_id=job.id,
        series_id=job.series_id,
        model_id=job.model_id,
        status=result.status,
        label=result.label,
        probability=result.probability,
        probabilities=dict(result.probabilities),
        reason=result.reason,
        detail=result.detail[:DETAIL_LENGTH] if result.detail else None,
        created_at=now,
    )
    session.add(row)
    session.flush()
    session.add_all(
        SliceResultRow(
            result_id=row.id,
            ordinal=ordinal,
            instance_id=instance_ids[one.sop_instance_uid],
            frame_number=one.frame_number,
            position_mm=one.position_mm,
            probabilities=list(one.probabilities),
            in_distribution=one.in_distribution,
            deciding=one.deciding,
            activation=asdict(one.activation) if one.activation else None,
            distance=one.distance,
        )
        for ordinal, one in enumerate(result.slices)
    )
    source, model = session.get_one(SeriesRow, job.series_id), session.get_one(ModelRow, job.model_id)
    for new in objects:
        made = ObjectRow(
            result_id=row.id,
            kind=new.kind,
            sop_class_uid=new.sop_class_uid,
            sop_instance_uid=new.sop_instance_uid,
            series_instance_uid=dicom.produced_series_uid(new.kind, source.series_instance_uid, model.sha256),
            path=new.path,
            sha256=new.sha256,
        )
        session.add(made)
        session.flush()
        wanting = [name for name in destinations if new.only_to is None or name in new.only_to]
        session.add_all(DeliveryRow(object_id=made.id, destination=name, not_before=now) for name in wanting)
    session.flush()
    answer_series(session, [job.series_id])
    return row


def add_shadow_result(session: Session, job: JobRow, result: SeriesResult, now: datetime) -> None:
    """What a model in shadow said, in the transaction that ends its job; nothing of it is sent or answered."""
    session.add(
        ShadowResultRow(
            job_id=job.id,
            status=result.status,
            label=result.label,
            probability=result.probability,
            probabilities=dict(result.probabilities),
            reason=result.reason,
            detail=result.detail[:DETAIL_LENGTH] if result.detail else None,
            created_at=now,
        )
    )
    session.flush()


def latest_report(session: Session, series_id: int, model_id: int) -> ObjectRow | None:
    """The newest report on a series by a model: the predecessor of the next one."""
    return session.scalar(
        select(ObjectRow)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .where(ResultRow.series_id == series_id, ResultRow.model_id == model_id, ObjectRow.kind == ObjectKind.REPORT)
        .order_by(ResultRow.id.desc())
        .limit(1)
    )


# --- deliveries ------------------------------------------------------------------------------------------------


def delivery_waits(session: Session, destination: str, now: datetime) -> bool:
    """Whether there is something to claim, as `job_waits`."""
    waiting = select(DeliveryRow.id).where(DeliveryRow.destination == destination, or_(*_claimable_deliveries(now)))
    return session.scalar(waiting.limit(1)) is not None


def _claimable_deliveries(now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """As `_claimable_jobs`."""
    return (
        and_(DeliveryRow.state == DeliveryState.SENDING, DeliveryRow.lease_until < now),
        and_(DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.not_before <= now),
    )


def claim_deliveries(
    session: Session, destination: str, owner: str, now: datetime, lease: timedelta, limit: int = 32
) -> list[tuple[DeliveryRow, ObjectRow]]:
    """Up to `limit` deliveries that are due at a destination, leased to `owner`, oldest first."""
    rows: list[DeliveryRow] = []
    for claimable in _claimable_deliveries(now):
        rows += session.scalars(
            select(DeliveryRow)
            .where(DeliveryRow.destination == destination, claimable)
            .order_by(DeliveryRow.not_before, DeliveryRow.id)
            .limit(limit - len(rows))
            .with_for_update(skip_locked=True)
        )
    for row in rows:
        row.state, row.lease_owner, row.lease_until = DeliveryState.SENDING, owner, now + lease
        row.attempts += 1
    session.flush()
    objects = {
        one.id: one
        for one in session.scalars(select(ObjectRow).where(ObjectRow.id.in_({row.object_id for row in rows})))
    }
    return [(row, objects[row.object_id]) for row in rows]


def end_delivery(session: Session, delivery_id: int, owner: str, values: dict[str, Any]) -> bool:
    """Give a leased delivery its next state; False when the lease went to another."""
    done = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id == delivery_id, DeliveryRow.state == DeliveryState.SENDING)
        .where(DeliveryRow.lease_owner == owner)
        .values(lease_owner=None, lease_until=None, **values)
        .returning(DeliveryRow.id)
    )
    return done.first() is not None


def claim_commitments(
    session: Session, destination: str, transaction_uid: str, now: datetime, ask_again_at: datetime, limit: int = 256
) -> list[tuple[str, str]]:
    """(SOP class, SOP instance) of delivered objects whose storage shall be committed to, now asked for so."""
    due = or_(
        DeliveryRow.commitment == Commitment.DUE,
        and_(DeliveryRow.commitment == Commitment.REQUESTED, DeliveryRow.ask_again_at <= now),
    )
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.destination == destination, DeliveryRow.state == DeliveryState.DELIVERED, due)
        .where(or_(DeliveryRow.ask_again_at.is_(None), DeliveryRow.ask_again_at <= now))
        .order_by(DeliveryRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        row.commitment, row.transaction_uid = Commitment.REQUESTED, transaction_uid
        row.ask_again_at = ask_again_at
    session.flush()
    wanted = select(ObjectRow).where(ObjectRow.id.in_([row.object_id for row in rows]))
    classes = {one.sop_instance_uid: one.sop_class_uid for one in session.scalars(wanted)}
    # A UID of its own was given to a Comprehensive SR, for a peer without Comprehensive 3D SR.
    return [(classes.get(row.sent_as or "", dicom.COMPREHENSIVE_SR), row.sent_as or "") for row in rows]


def record_commitment_report(database: Store, information: Dataset, now: datetime) -> int:
    """Apply the N-EVENT-REPORT of a peer; the status to answer."""
    from worker import commitment

    try:
        report = commitment.read_report(information)
    except commitment.MalformedReport:
        return dicom.PROCESSING_FAILURE
    with database.write() as session:
        confirmed, again = apply_commitment(session, report, now)
    get_log().info("storage commitment report", confirmed=confirmed, sent_again=again)
    return dicom.SUCCESS


def apply_commitment(session: Session, report: commitment.Report, now: datetime) -> tuple[int, int]:
    """Record a peer's report: (confirmed, to be sent again). What the transaction did not ask for is passed over."""
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.transaction_uid == report.transaction_uid)
        .where(DeliveryRow.commitment == Commitment.REQUESTED)
        .with_for_update()
    ).all()
    confirmed = again = 0
    for row in rows:
        if row.sent_as in report.failed:
            row.state, row.not_before, row.commitment, row.ask_again_at = DeliveryState.PENDING, now, None, None
            row.reason = "commitment-failed"
            row.detail = f"the peer does not have it any more (0x{report.failed[row.sent_as]:04X}); it is sent again"
            again += 1
        elif row.sent_as in report.committed:
            row.commitment, row.ask_again_at = Commitment.CONFIRMED, None
            confirmed += 1
    session.flush()
    return confirmed, again


def retry_failed_deliveries(session: Session, now: datetime, delivery_ids: Sequence[int] = ()) -> list[int]:
    """Failed deliveries back to pending, all of them when no id is given; a named one that waits is tried now."""
    chosen = DeliveryRow.state == DeliveryState.FAILED
    if delivery_ids:
        waits = DeliveryRow.state.in_([DeliveryState.FAILED, DeliveryState.PENDING])
        chosen = and_(waits, DeliveryRow.id.in_(delivery_ids))
    fresh: dict[str, Any] = {"state": DeliveryState.PENDING, "rejections": 0, "not_before": now, "commitment": None}
    return list(session.scalars(update(DeliveryRow).where(chosen).values(**fresh).returning(DeliveryRow.id)))


# --- retention -------------------------------------------------------------------------------------------------


def series_to_empty(session: Session, before: datetime, limit: int = 100) -> Sequence[int]:
    """Ids of series that were answered before a time and still have files: refused, or every delivery has arrived.

    Where storage commitment is asked for, arrived means confirmed. A series with a job that is not done keeps its
    files, a parked one too; one in shadow does so only while it is under way.
    """
    under_way = JobRow.state.in_([JobState.PENDING, JobState.RUNNING])
    parked = and_(JobRow.state == JobState.PARKED, ~JobRow.shadow)
    open_job = select(JobRow.id).where(JobRow.series_id == SeriesRow.id, or_(under_way, parked)).exists()
    has_result = select(ResultRow.id).where(ResultRow.series_id == SeriesRow.id).exists()
    undelivered = (
        select(DeliveryRow.id)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .where(ResultRow.series_id == SeriesRow.id)
        .where(
            or_(
                DeliveryRow.state != DeliveryState.DELIVERED,
                DeliveryRow.commitment.in_([Commitment.DUE, Commitment.REQUESTED]),
            )
        )
        .exists()
    )
    answered = or_(
        SeriesRow.state == SeriesState.REFUSED,
        and_(SeriesRow.state == SeriesState.QUEUED, has_result, ~open_job, ~undelivered),
    )
    has_files = (
        select(InstanceRow.id).where(InstanceRow.series_id == SeriesRow.id, InstanceRow.removed_at.is_(None)).exists()
    )
    return session.scalars(
        select(SeriesRow.id)
        .where(SeriesRow.settled_at < before, answered, has_files)
        .order_by(SeriesRow.settled_at)
        .limit(limit)
    ).all()


def lock_settled_series(session: Session, series_id: int, before: datetime) -> bool:
    """True when the series is still settled since before a time; a late instance waits for our commit."""
    locked = session.scalar(
        select(SeriesRow.id)
        .where(SeriesRow.id == series_id, SeriesRow.state != SeriesState.OPEN, SeriesRow.settled_at < before)
        .with_for_update()
    )
    return locked is not None


def restore_instance(session: Session, row: InstanceRow, now: datetime) -> None:
    """The file of a removed instance came again: its series is open once more."""
    row.removed_at, row.received_at = None, now
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id == row.series_id)
        .values(state=SeriesState.OPEN, reason=None, detail=None, last_received_at=now)
    )
    answer_series(session, [row.series_id])


def kept_files(session: Session) -> list[tuple[str, str]]:
    """(path below the data folder, SHA-256) of every file that a row names and retention has left."""
    named: list[tuple[str, str]] = []
    for query in (
        select(InstanceRow.path, InstanceRow.sha256).where(InstanceRow.removed_at.is_(None)),
        select(ObjectRow.path, ObjectRow.sha256),
        select(ConflictRow.path, ConflictRow.sha256),
    ):
        named += [(path, sha256) for path, sha256 in session.execute(query)]
    return named


# --- counts for health and doctor ------------------------------------------------------------------------------


def unfinished_counts(session: Session) -> dict[str, dict[str, int]]:
    """How many series, jobs and deliveries are in each state but the last: cheap among millions that are done."""
    found = {}
    for name, column, states in (
        ("series", SeriesRow.state, (SeriesState.OPEN,)),
        ("jobs", JobRow.state, (JobState.PENDING, JobState.RUNNING, JobState.PARKED)),
        ("deliveries", DeliveryRow.state, (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED)),
    ):
        rows = session.execute(select(column, func.count()).where(column.in_(states)).group_by(column))
        found[name] = {state.value: 0 for state in states} | {str(state): number for state, number in rows}
    return found
