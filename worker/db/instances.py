"""Rows of associations, received instances and counts of refusals: what C-STORE and STOW-RS write; of files' faults."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    bindparam,
    delete,
    event,
    func,
    insert,
    inspect,
    null,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from worker.db.engine import upsert
from worker.db.jobs import resume_jobs
from worker.db.series_status import answer_series
from worker.db.studies.opening import add_studies
from worker.db.tables import (
    AssociationEnd,
    AssociationRow,
    ConflictRow,
    EarlierVersionRow,
    FileFault,
    FileFaultRow,
    FileKind,
    InstanceRow,
    ObjectRow,
    RefusalKind,
    RefusalRow,
    ScrubRow,
    SearchEntryRow,
    SearchWordRow,
    SeriesRow,
    SeriesState,
)
from worker.dicom.text.folding import joined_words, search_words, stored_name_key

IDENTITY_KEY = "identity"  # among an instance's attributes: whose image it is


@dataclass(frozen=True, slots=True)
class NewInstance:
    """A received instance whose file is on disk; its texts are as `stored_text` leaves them."""

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


_SERIES, _INSTANCE = (SeriesRow.metadata.tables[row.__tablename__] for row in (SeriesRow, InstanceRow))
_OF_SERIES, _OF_INSTANCE = (
    [field.name for field in fields(NewInstance) if field.name in table.c] for table in (_SERIES, _INSTANCE)
)
_INSTANCES_BY_UID = select(InstanceRow).where(InstanceRow.sop_instance_uid.in_(bindparam("uids", expanding=True)))
_ANY_BY_UID = select(_INSTANCE.c.id).where(_INSTANCE.c.sop_instance_uid.in_(bindparam("uids", expanding=True)))
_OF_UIDS: Any = bindparam("uids", expanding=True)


def _opening(uids: Any) -> Update:
    """Open the known ones of these series."""
    of_uids = _SERIES.c.series_instance_uid.in_(uids)
    locked = select(_SERIES.c.id).where(of_uids).order_by(_SERIES.c.id).with_for_update()  # in a fixed order
    return (
        update(_SERIES)
        .where(_SERIES.c.id.in_(locked))
        .values(state=SeriesState.OPEN, reason=None, detail=None, last_received_at=bindparam("now"))
        .returning(_SERIES.c.id, _SERIES.c.series_instance_uid)
    )


def arrival_of(uids: Any) -> Update:
    """Open those of the series with these UIDs, parameters, that are known and not refused, at the parameter `now`.

    Returns the ids and UIDs of their rows.
    """
    return _opening(uids).where(_SERIES.c.state != SeriesState.REFUSED)


_ARRIVE_REFUSED, _ARRIVE = _opening(_OF_UIDS), arrival_of(_OF_UIDS)
_ADD_SERIES = insert(_SERIES).returning(_SERIES.c.id)
ADD_INSTANCE = insert(_INSTANCE)
INSTANCE_COLUMNS = (*_OF_INSTANCE, "series_id", "received_at")
_ENTRY, _WORD = (row.metadata.tables[row.__tablename__] for row in (SearchEntryRow, SearchWordRow))
_ENTRY_BY_HASH = select(_ENTRY.c.id).where(_ENTRY.c.sha256 == bindparam("sha256"))
_ADD_WORD = insert(_WORD)


def open_association(session: Session, calling_ae_title: str, peer: str, receiver: str, now: datetime) -> int:
    row = AssociationRow(calling_ae_title=calling_ae_title, peer=peer, receiver=receiver, opened_at=now)
    session.add(row)
    session.flush()
    return row.id


def close_association(
    session: Session, association_id: int, now: datetime, end: AssociationEnd = AssociationEnd.RELEASED
) -> None:
    session.execute(update(AssociationRow).where(AssociationRow.id == association_id).values(closed_at=now, ended=end))


def open_associations(session: Session) -> Sequence[AssociationRow]:
    return session.scalars(select(AssociationRow).where(AssociationRow.closed_at.is_(None))).all()


def add_instance(session: Session, new: NewInstance, now: datetime) -> InstanceRow:
    """Add a single instance; its row."""
    add_instances(session, [new], now)
    return session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == new.sop_instance_uid)).one()


def instance_row(instance: NewInstance, series: Mapping[str, int], now: datetime) -> dict[str, Any]:
    """The values of INSTANCE_COLUMNS. `series`: Series Instance UID → id of its row."""
    row = {name: getattr(instance, name) for name in _OF_INSTANCE}
    return row | {"series_id": series[instance.series_instance_uid], "received_at": now}


def add_instances(session: Session | Connection, new: Sequence[NewInstance], now: datetime) -> None:
    """Add instances that have no row yet; create their series, or reopen those that had settled already.

    Core statements, and as many for a hundred instances as for a single instance: receiving spent most of its processor
    time here.
    """
    connection = session.connection() if isinstance(session, Session) else session
    by_series = {instance.series_instance_uid: instance for instance in new}
    ids = _arrive(connection, _ARRIVE, list(by_series), now)
    if missing := [uid for uid in by_series if uid not in ids]:
        refused = _arrive(connection, _ARRIVE_REFUSED, missing, now)
        answer_series(connection, list(refused.values()))
        ids |= refused
    added = {uid: instance for uid, instance in by_series.items() if uid not in ids}
    # In a fixed order, as two receivers may add the entries of two studies at once.
    found_by = {
        uid: _search_values(connection, added[uid]) for uid in sorted(added, key=lambda uid: _sha256(added[uid]))
    }
    for uid, instance in added.items():
        values = {name: getattr(instance, name) for name in _OF_SERIES} | found_by[uid]
        row = connection.execute(_ADD_SERIES, values | {"created_at": now, "last_received_at": now})
        ids[uid] = row.scalar_one()
    connection.execute(
        ADD_INSTANCE,
        [instance_row(instance, ids, now) for instance in new],
    )
    if added:
        add_studies(connection, {instance.study_instance_uid for instance in added.values()})


def _arrive(connection: Connection, statement: Update, uids: Sequence[str], now: datetime) -> dict[str, int]:
    """Open the known ones of these series; their row ids by Series Instance UID."""
    rows = connection.execute(statement, {"uids": uids, "now": now})
    return {row.series_instance_uid: row.id for row in rows}


def _search_values(connection: Connection, named: NewInstance | SeriesRow) -> dict[str, Any]:
    """What a series is found by besides its own values: the key of its name, and the entry of its words."""
    sha256 = _sha256(named)
    entry = connection.scalar(_ENTRY_BY_HASH, {"sha256": sha256})
    if entry is None:
        words = sorted(search_words(*_found_by(named)))
        add = (
            upsert(connection)(_ENTRY)
            .values(sha256=sha256, words=joined_words(words))
            .on_conflict_do_nothing()
            .returning(_ENTRY.c.id)
        )
        entry = connection.scalar(add.returning(_ENTRY.c.id))
        if entry is None:  # another receiver has added it since
            entry = connection.scalar(_ENTRY_BY_HASH, {"sha256": sha256})
        elif words:
            connection.execute(_ADD_WORD, [{"word": word, "entry_id": entry} for word in words])
    return {"name_key": stored_name_key(named.patient_name), "search_entry_id": entry}


def _found_by(named: NewInstance | SeriesRow) -> tuple[str, str, str]:
    return named.patient_id, named.patient_name, named.accession_number


def _sha256(named: NewInstance | SeriesRow) -> str:
    return hashlib.sha256("\0".join(_found_by(named)).encode()).hexdigest()


@event.listens_for(SeriesRow, "before_insert")
@event.listens_for(SeriesRow, "before_update")
def _keep_in_step(_mapper: object, connection: Connection, row: SeriesRow) -> None:
    """Whoever changes a series' patient as an object changes what it is found by."""
    state: Any = inspect(row)
    if any(state.attrs[name].history.has_changes() for name in ("patient_id", "patient_name", "accession_number")):
        for name, value in _search_values(connection, row).items():
            setattr(row, name, value)


def stored_instances(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, InstanceRow]:
    """Rows by SOP Instance UID, of the instances that are stored."""
    stored: dict[str, InstanceRow] = {}
    for start in range(0, len(sop_instance_uids), 500):  # SQLite limits the number of bound values
        uids = sop_instance_uids[start : start + 500]
        # Usually none is stored, and Core finds that out in a third of the time that ORM objects take.
        if session.connection().execute(_ANY_BY_UID, {"uids": uids}).first() is not None:
            stored |= {row.sop_instance_uid: row for row in session.scalars(_INSTANCES_BY_UID, {"uids": uids})}
    return stored


def instances_of(session: Session, series_id: int, last_instance_id: int | None = None) -> Sequence[InstanceRow]:
    query = select(InstanceRow).where(InstanceRow.series_id == series_id).order_by(InstanceRow.id)
    if last_instance_id is not None:
        query = query.where(InstanceRow.id <= last_instance_id)
    return session.scalars(query).all()


def input_sha256(instances: Sequence[InstanceRow | NewInstance], corrections: int = 0) -> str:
    """The identity of an input set, regardless of the order in which its instances came.

    `corrections` of its series: a series that is corrected back to what it was is not what was reported then.
    """
    lines = sorted(f"{instance.sop_instance_uid} {instance.sha256}" for instance in instances)
    if corrections:
        lines.append(f"corrections {corrections}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def restore_instance(session: Session, row: InstanceRow, association_id: int | None, now: datetime) -> None:
    """Record that the file of a removed instance came again over an association, and reopen its series."""
    row.removed_at, row.received_at, row.association_id = None, now, association_id
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id == row.series_id)
        .values(state=SeriesState.OPEN, reason=None, detail=None, last_received_at=now)
    )
    answer_series(session, [row.series_id])


def kept_files(session: Session) -> list[tuple[str, str]]:
    """(path below the data folder, SHA-256) of every file that a row names and that retention has not deleted."""
    files: dict[tuple[str, str], None] = {}  # an earlier version may be the same file as a later version
    for query in (select(row.path, row.sha256).where(_has_file(row)) for row in _ROWS.values()):
        files |= dict.fromkeys((path, sha256) for path, sha256 in session.execute(query))
    return list(files)


def add_refusals(session: Session, counts: Mapping[tuple[RefusalKind, str, str], int]) -> None:
    """Add counts by (kind, status, reason) to the totals of all receivers."""
    for kind, status, reason in sorted(counts):  # two receivers lock rows in the same order
        number = counts[kind, status, reason]
        same = (RefusalRow.kind == kind, RefusalRow.status == status, RefusalRow.reason == reason)
        known = session.execute(
            update(RefusalRow).where(*same).values(number=RefusalRow.number + number).returning(RefusalRow.number)
        )
        if known.first() is None:
            # Of two receivers that add the row at once the database refuses the second, which tries again at its next
            # tick.
            session.add(RefusalRow(kind=kind, status=status, reason=reason, number=number))
            session.flush()


def refusal_counts(session: Session, kind: RefusalKind) -> dict[tuple[str, str], int]:
    """Refusals by (status, reason) since the database was created; an association's status is empty."""
    rows = session.scalars(select(RefusalRow).where(RefusalRow.kind == kind))
    return {(row.status, row.reason): row.number for row in rows}


# --- stored files that are damaged or missing ------------------------------------------------------------------

FILE_REASONS = {FileFault.DAMAGED: "file-damaged", FileFault.MISSING: "file-missing"}  # of a parked job
_ROWS: dict[FileKind, type[InstanceRow | ObjectRow | ConflictRow | EarlierVersionRow]] = {
    FileKind.INSTANCE: InstanceRow,
    FileKind.OBJECT: ObjectRow,
    FileKind.CONFLICT: ConflictRow,
    FileKind.EARLIER: EarlierVersionRow,
}


def _has_file(row: Any) -> ColumnElement[bool]:
    """The condition that the file which a row names was not deleted."""
    if row is ObjectRow:
        return true()
    return cast("ColumnElement[bool]", (row.decision if row is ConflictRow else row.removed_at).is_(None))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a row names; `size` is None where the row has none."""

    kind: FileKind
    id: int
    path: str  # below [worker] data_dir
    sha256: str
    size: int | None = None


def file_of(row: InstanceRow) -> StoredFile:
    """The file of a received instance."""
    return StoredFile(FileKind.INSTANCE, row.id, row.path, row.sha256, row.size)


def add_file_fault(session: Session, file: StoredFile, fault: FileFault, now: datetime) -> bool:
    """Record a fault; False where it is known, and for a file that was deleted or replaced meanwhile."""
    if file.kind is not FileKind.OBJECT:
        table: Any = _ROWS[file.kind]
        there = select(table.id).where(table.id == file.id, table.path == file.path, _has_file(table))
        if session.scalar(there.with_for_update(read=True)) is None:
            return False
    known = session.get(FileFaultRow, file.path)
    if known is not None:
        known.fault = fault
        return False
    session.add(FileFaultRow(path=file.path, fault=fault, found_at=now))
    session.flush()
    return True


def clear_file_faults(session: Session, paths: Collection[str]) -> int:
    """Forget the faults of files that are whole again, or deleted; the number of faults."""
    cleared = session.scalars(
        delete(FileFaultRow).where(FileFaultRow.path.in_(paths)).returning(FileFaultRow.path)
    ).all()
    return len(cleared)


def resume_series(session: Session, series_id: int, now: datetime) -> int:
    """Return the jobs of a series that a damaged or missing file had parked to pending; the number of jobs."""
    return resume_jobs(session, series_id, list(FILE_REASONS.values()), now)


def faulty_paths(session: Session, paths: Collection[str]) -> set[str]:
    """Those of some paths whose files are known to be damaged or missing."""
    return set(session.scalars(select(FileFaultRow.path).where(FileFaultRow.path.in_(paths))))


def file_fault_counts(session: Session) -> dict[FileFault, int]:
    """The number of files by fault."""
    rows = session.execute(select(FileFaultRow.fault, func.count()).group_by(FileFaultRow.fault))
    return dict.fromkeys(FileFault, 0) | {FileFault(fault): number for fault, number in rows}


def series_of(session: Session, file: StoredFile) -> int | None:
    """The series of a received instance's file."""
    if file.kind is not FileKind.INSTANCE:
        return None
    return session.scalar(select(InstanceRow.series_id).where(InstanceRow.id == file.id))


# --- the scrub -------------------------------------------------------------------------------------------------


def scrub_position(session: Session, kind: FileKind) -> tuple[int, datetime | None]:
    """(id of the row whose file was checked last, when the next pass may begin)."""
    row = session.get(ScrubRow, kind)
    return (row.last_id, row.not_before) if row is not None else (0, None)


def move_scrub(session: Session, kind: FileKind, last_id: int, not_before: datetime) -> None:
    row = session.get(ScrubRow, kind)
    if row is None:
        session.add(ScrubRow(kind=kind, last_id=last_id, not_before=not_before))
    else:
        row.last_id, row.not_before = last_id, not_before
    session.flush()


def files_after(session: Session, kind: FileKind, last_id: int, limit: int) -> list[StoredFile]:
    """The next files of a kind by the ids of their rows, without those that retention deleted."""
    row = _ROWS[kind]
    size: ColumnElement[Any] = null() if row is ObjectRow else row.metadata.tables[row.__tablename__].c.size
    query = select(row.id, row.path, row.sha256, size).where(row.id > last_id).order_by(row.id).limit(limit)
    query = query.where(_has_file(row))
    return [StoredFile(kind, id_, path, sha256, bytes_) for id_, path, sha256, bytes_ in session.execute(query)]
