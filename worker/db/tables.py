"""The tables, and the states that their rows pass through. In one file, because the tables refer to each other.

series     open ──settled──▶ queued ──────────────▶ (then see its jobs)
             ▲  └─not eligible─▶ refused
             └── a late instance reopens it

job        pending ──claimed──▶ running ──▶ done
             ▲                     ├─ Retry: back to pending with backoff
             │                     └─ Park, or attempts spent ──▶ parked ──(worker jobs retry)──▶ pending
             └─ superseded: a later job of the same series holds a larger input set

study      open ──its series are answered and quiet, claimed──▶ answered
             ▲                     ├─ fault: open again with backoff
             │                     └─ attempts spent ──▶ parked ──(worker studies retry)──▶ open
             └── a series of it gets another answer

delivery   pending ──claimed──▶ sending ──▶ delivered
             ▲                     ├─ peer unreachable or out of resources: pending again with backoff, forever
             │                     └─ rejected `REJECTIONS_BEFORE_FAILED` times ──▶ failed
             └────────────────────── worker jobs retry

model      added ⇄ shadow ──activate──▶ active ──another is activated──▶ retired ──▶ removed
             └── rollback: every model returns to its state before the last activation ────┘

commitment due ──N-ACTION──▶ requested ──N-EVENT-REPORT──▶ confirmed
            ▲                   ├─ no report in time: due again
            │                   └─ "not stored": the delivery is pending again
            └─ delivered, where [[destination]] storage_commitment = true
"""

# No `from __future__ import annotations`: SQLAlchemy would evaluate each column's from text, a sixth of this import.
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql.compiler import DDLCompiler
from sqlalchemy.types import DateTime, TypeDecorator

from worker.dicom.text.printable import LONGEST_TEXT

# The newest revision in migrations/versions (a test compares them), so that a start needs no Alembic import.
REVISION = "0021"
DETAIL_LENGTH = 1024


def cut_detail(text: str | None) -> str | None:
    """A sentence as its column holds it; None if there is none."""
    return text[:DETAIL_LENGTH] if text else None


class SeriesState(StrEnum):
    OPEN = "open"
    QUEUED = "queued"
    REFUSED = "refused"


class SeriesStatus(StrEnum):
    """The outcome of a series, as searches and pages show it."""

    CLASSIFIED = "classified"
    NOT_ASSESSED = "not-assessed"
    REFUSED = "refused"
    FAILED = "failed"
    PENDING = "pending"


class JobState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    PARKED = "parked"
    SUPERSEDED = "superseded"


class StudyState(StrEnum):
    OPEN = "open"
    ANSWERED = "answered"
    PARKED = "parked"


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # withdrawn: the images that the object is of were corrected


class Commitment(StrEnum):
    DUE = "due"
    REQUESTED = "requested"
    CONFIRMED = "confirmed"


class ObjectKind(StrEnum):
    REPORT = "report"
    PICTURE = "picture"
    KEY_OBJECTS = "key-objects"


class ModelState(StrEnum):
    """How a model is used: see the diagram above. `removed`: its bundle is deleted, its results are not."""

    ADDED = "added"
    SHADOW = "shadow"
    ACTIVE = "active"
    RETIRED = "retired"
    REMOVED = "removed"


class LoadState(StrEnum):
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


class RefusalKind(StrEnum):
    INSTANCE = "instance"
    ASSOCIATION = "association"


class ReadState(StrEnum):
    """Whether readers agree with the present answer for a series or a study."""

    UNREAD = "unread"
    CONFIRMED = "confirmed"
    CORRECTED = "corrected"


class FileFault(StrEnum):
    """What is wrong with a stored file."""

    DAMAGED = "damaged"
    MISSING = "missing"


class FileKind(StrEnum):
    """The table whose row names a stored file."""

    INSTANCE = "instance"
    OBJECT = "object"
    CONFLICT = "conflict"
    EARLIER = "earlier"


class Decision(StrEnum):
    """What became of content that had been set aside."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class AssociationEnd(StrEnum):
    """How an association ended: released by its requestor, aborted by either side, or lost without either."""

    RELEASED = "released"
    ABORTED = "aborted"
    LOST = "lost"


class Stage(StrEnum):
    """What an operator may suspend while receiving goes on."""

    CLASSIFICATION = "classification"
    DELIVERIES = "deliveries"


class NoticeState(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"


class TokenRole(StrEnum):
    READ = "read"
    ANNOTATE = "annotate"
    OPERATE = "operate"


# Conditions of the partial indexes. A query uses such an index only if it has the condition in the same words.
REFUSED = text("status = 'refused'")
UNCOMMITTED = text("commitment IN ('due', 'requested')")
URGENT = text("urgent AND state = 'pending'")


class PartialIndex(Index):
    """An index of the rows for which `where` holds.

    The condition becomes an option of the dialect when DDL is made: to name it as `postgresql_where` would import that
    dialect at every start, 19 modules and 2 MB.
    """

    def __init__(self, *columns: str, where: TextClause) -> None:
        super().__init__(None, *columns)
        self.where = where


@compiles(CreateIndex)
def _create_index(create: CreateIndex, compiler: DDLCompiler, **options: Any) -> str:
    if isinstance(create.element, PartialIndex):
        create.element.dialect_options[compiler.dialect.name]["where"] = create.element.where
    return str(compiler.visit_create_index(create, **options))  # type: ignore[no-untyped-call]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite has no time zones, so none is stored there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcDateTime,
        # SQLite numbers rows only where the key is INTEGER by name.
        int: BigInteger().with_variant(Integer, "sqlite"),
        dict[str, Any]: JSON,
        dict[str, float]: JSON,
        list[float]: JSON,
        list[str]: JSON,
    }


def _searched(length: int = LONGEST_TEXT, longest: int = LONGEST_TEXT) -> String:
    """Text that is searched by its prefix: in byte order on PostgreSQL too, so that an index serves the search.

    SQLite limits no length; it keeps the length that the column was created with.
    """
    return String(length).with_variant(String(longest, collation="C"), "postgresql")


def _received(length: int) -> String:
    """Received text, which may be longer than its VR allows."""
    return String(length).with_variant(String(LONGEST_TEXT), "postgresql")


def _is_among(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class AssociationRow(Base):
    """An association that brought an instance; open while `closed_at` is null."""

    __tablename__ = "association"

    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    peer: Mapped[str] = mapped_column(String(64))
    receiver: Mapped[str] = mapped_column(String(128))  # the receiving process, host:pid
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    ended: Mapped[str | None] = mapped_column(String(16))  # null while open, and where an earlier worker closed it

    __table_args__ = (_is_among("ended", AssociationEnd), Index(None, "closed_at"))


class SeriesRow(Base):
    __tablename__ = "series"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    patient_id: Mapped[str] = mapped_column(_searched(64), index=True)
    patient_name: Mapped[str] = mapped_column(_searched(324), index=True)
    accession_number: Mapped[str] = mapped_column(_searched(16), index=True)
    name_key: Mapped[str] = mapped_column(_searched(), index=True, server_default="")  # folding.stored_name_key
    search_entry_id: Mapped[int | None]  # null where the series is found by no word
    study_date: Mapped[str] = mapped_column(_received(8))
    modality: Mapped[str] = mapped_column(_received(16))
    series_description: Mapped[str] = mapped_column(_received(64))
    state: Mapped[str] = mapped_column(String(16), default=SeriesState.OPEN)
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    created_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
    rules: Mapped[str | None] = mapped_column(String(64))  # of a refused series: by which rules, config.fingerprint
    # The number of images that the sender reports, and when it was queried: see receive.peer_count.
    expected_instances: Mapped[int | None]
    counted_at: Mapped[datetime | None]
    # How often its images were corrected, or left it: part of the identity of its input sets.
    corrections: Mapped[int] = mapped_column(default=0, server_default="0")
    # Where its study was corrected, the study that it was received in: see standard.produced_series_uid.
    first_study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    # When its images last named other attributes of patient or study than those before them.
    attributes_changed_at: Mapped[datetime | None]
    # The answer as searches see it; only `answer_series` writes it, from the series, its jobs and its results.
    status: Mapped[str] = mapped_column(String(16), default=SeriesStatus.PENDING)
    label: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None]
    answered_job_id: Mapped[int | None]  # the last job that ended
    # What it is by its headers, since it settled: dicom.series_type.SeriesType, and of it what searches filter by.
    series_type: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    sequence: Mapped[str | None] = mapped_column(String(16))
    contrast_agent: Mapped[str | None] = mapped_column(String(8))
    plane: Mapped[str | None] = mapped_column(String(8))

    __table_args__ = (
        _is_among("state", SeriesState),
        _is_among("status", SeriesStatus),
        Index(None, "state", "last_received_at"),
        # The probability is read from the index: a page is selected without touching the rows.
        Index(None, "created_at", "id", "probability"),
        Index(None, "status", "created_at", "id", "probability"),
        Index(None, "label", "created_at", "id", "probability"),
        Index(None, "sequence", "created_at", "id", "probability"),
        Index(None, "search_entry_id", "study_instance_uid"),
        # Counted by reason at every scrape of /metrics.
        PartialIndex("status", "reason", where=REFUSED),
    )


class SearchEntryRow(Base):
    """What people find series by: a Patient ID, a name and an accession number, which the series of a study share."""

    __tablename__ = "search_entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)  # of the three
    words: Mapped[str] = mapped_column(Text)  # a space before each


class SearchWordRow(Base):
    """A word of a search entry: see dicom.text.folding."""

    __tablename__ = "search_word"

    word: Mapped[str] = mapped_column(_searched(64, 64), primary_key=True)
    entry_id: Mapped[int] = mapped_column(ForeignKey("search_entry.id"), primary_key=True)

    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy reads it from the class


class InstanceRow(Base):
    """An acknowledged SOP instance; its file is on disk before its row is committed."""

    __tablename__ = "instance"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    association_id: Mapped[int | None] = mapped_column(ForeignKey("association.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    attributes: Mapped[dict[str, Any]]  # for eligibility: see storage.acceptance.describe
    path: Mapped[str] = mapped_column(String(255))  # below [worker] data_dir
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))  # of the file
    received_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]  # the file was deleted by retention; the row stays

    __table_args__ = (Index(None, "series_id", "id"),)


class EarlierVersionRow(Base):
    """The content of an instance before a correction; its file stays as long as retention leaves it."""

    __tablename__ = "earlier_version"

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)  # which it was an image of
    association_id: Mapped[int | None] = mapped_column(ForeignKey("association.id"))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    attributes: Mapped[dict[str, Any]]
    path: Mapped[str] = mapped_column(String(255))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]
    replaced_at: Mapped[datetime]
    replaced_by: Mapped[str | None] = mapped_column(String(64))  # who accepted a conflict; null: it was sent again
    removed_at: Mapped[datetime | None]  # the file was deleted by retention


class ConflictRow(Base):
    """Content with other pixels that came under a known SOP Instance UID: set aside until a person decides."""

    __tablename__ = "conflict"

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    association_id: Mapped[int | None] = mapped_column(ForeignKey("association.id"))
    path: Mapped[str] = mapped_column(String(255))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(String(32))  # what differs; null where an earlier worker set it aside
    received_at: Mapped[datetime]
    # Null while it waits; then its file is deleted, or the instance's.
    decision: Mapped[str | None] = mapped_column(String(16))
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None] = mapped_column(String(64))  # null: it came again as a correction

    __table_args__ = (UniqueConstraint("instance_id", "sha256"), _is_among("decision", Decision))


class ModelRow(Base):
    __tablename__ = "model"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(32))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)  # the bundle hash
    added_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16), default=ModelState.ADDED)
    state_at: Mapped[datetime]
    state_by: Mapped[str] = mapped_column(String(64))  # who gave it that state; see db.models.CONFIGURATION
    # What each label means (readings.LabelMeaning); null for a model that no earlier version told about.
    labels: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    __table_args__ = (_is_among("state", ModelState),)


class ModelChoiceRow(Base):
    """An activation, which `worker models rollback` undoes."""

    __tablename__ = "model_choice"

    id: Mapped[int] = mapped_column(primary_key=True)
    made_at: Mapped[datetime]
    made_by: Mapped[str] = mapped_column(String(64))
    before: Mapped[dict[str, Any]]  # row id → state before, of the models whose state it changed
    undone_at: Mapped[datetime | None]


class ModelLoadRow(Base):
    """Whether a host could load a model in use; a process that died while loading leaves `loading`."""

    __tablename__ = "model_load"

    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), primary_key=True)
    host: Mapped[str] = mapped_column(String(128), primary_key=True)
    process: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str | None] = mapped_column(String(1024))
    deaths: Mapped[int]  # consecutive processes that died while loading it
    at: Mapped[datetime]

    __table_args__ = (_is_among("state", LoadState),)


class JobRow(Base):
    """A model's work on an input set: the series' instances with `id <= last_instance_id`."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    input_sha256: Mapped[str] = mapped_column(String(64))
    last_instance_id: Mapped[int]
    missing: Mapped[str | None] = mapped_column(String(1024))  # what is known to be missing from the input set
    shadow: Mapped[bool] = mapped_column(default=False)  # its result goes to shadow_result, and nothing is sent
    urgent: Mapped[bool] = mapped_column(default=False, server_default=false())  # by [[route]]: claimed first
    state: Mapped[str] = mapped_column(String(16), default=JobState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("series_id", "model_id", "input_sha256"),
        _is_among("state", JobState),
        CheckConstraint("(state = 'running') = (lease_owner IS NOT NULL)", name="lease"),
        Index(None, "state", "not_before", "id"),
        PartialIndex("not_before", "id", where=URGENT),
    )


class ResultRow(Base):
    __tablename__ = "result"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), unique=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    status: Mapped[str] = mapped_column(String(16))
    label: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None]
    probabilities: Mapped[dict[str, float]]
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    basis: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # as results.AnswerBasis
    created_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("status IN ('classified', 'not-assessed')", name="status"),
        CheckConstraint("(status = 'classified') = (reason IS NULL)", name="reason"),
        CheckConstraint("probability IS NULL OR probability BETWEEN 0 AND 1", name="probability"),
        Index(None, "series_id", "id"),
        Index(None, "created_at"),
    )


class StudyRow(Base):
    """A study of which a series was received; `answered_by` is the row of its latest result.

    A claim is a lease until `not_before`. See db.studies.
    """

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16), default=StudyState.OPEN)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    answered_by: Mapped[int | None]
    # The study as the worklist sees it; only `summarise_studies` writes it, from its results, series and readings.
    received_at: Mapped[datetime | None]  # when its first image came; null where no series of it is left
    status: Mapped[str] = mapped_column(String(16), default=SeriesStatus.PENDING, server_default=SeriesStatus.PENDING)
    label: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None]
    read_state: Mapped[str] = mapped_column(String(16), default=ReadState.UNREAD, server_default=ReadState.UNREAD)
    read_as: Mapped[str | None] = mapped_column(String(64))  # the label of its latest reading

    __table_args__ = (
        _is_among("state", StudyState),
        CheckConstraint("state = 'open' OR lease_owner IS NULL", name="lease"),
        Index(None, "state", "id"),
        # As those of series: a page is selected from an index.
        Index(None, "received_at", "id", "probability"),
        Index(None, "status", "received_at", "id", "probability"),
        Index(None, "label", "received_at", "id", "probability"),
        Index(None, "read_state", "received_at", "id", "probability"),
    )


class OtherStudyRow(Base):
    """A study besides its own that images of a series name, which is refused for that."""

    __tablename__ = "other_study"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class StudyCountRow(Base):
    """What a sender has of a study, as it answered at `counted_at`; null without an answer: see studies.counting."""

    __tablename__ = "study_count"

    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    counted_at: Mapped[datetime]
    series: Mapped[int | None]
    lacking_series: Mapped[int | None]
    lacking_instances: Mapped[int | None]


class StudyResultRow(Base):
    """An answer for a study; `input_sha256` names the answers for its series that it rests on. Never changed."""

    __tablename__ = "study_result"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    number: Mapped[int]  # 1, 2, ... within the study
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    input_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    label: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None]
    probabilities: Mapped[dict[str, float]]
    lesion_probability: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    contradiction: Mapped[str | None] = mapped_column(String(1024))
    deciding: Mapped[str | None] = mapped_column(String(64))  # Series Instance UID
    contributions: Mapped[list[dict[str, Any]]] = mapped_column(JSON)  # as results.Contribution
    created_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        CheckConstraint("status IN ('classified', 'not-assessed')", name="status"),
        CheckConstraint("(status = 'classified') = (reason IS NULL)", name="reason"),
        CheckConstraint("probability IS NULL OR probability BETWEEN 0 AND 1", name="probability"),
    )


class ShadowResultRow(Base):
    """The result of a shadow job: apart from `result`, so that it enters no answer, report or statistic."""

    __tablename__ = "shadow_result"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    label: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None]
    probabilities: Mapped[dict[str, float]]
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    basis: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # as results.AnswerBasis
    created_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("status IN ('classified', 'not-assessed')", name="status"),)


class SliceResultRow(Base):
    __tablename__ = "slice_result"

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)  # in stack order, from 0
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    frame_number: Mapped[int | None]
    position_mm: Mapped[float | None]
    probabilities: Mapped[list[float]]
    in_distribution: Mapped[bool]
    deciding: Mapped[bool]
    activation: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # as results.Activation
    distance: Mapped[float | None]  # as results.SliceResult


class ReadingRow(Base):
    """A reader's finding on a series: never changed or deleted, but superseded by the next, or withdrawn."""

    __tablename__ = "reading"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    number: Mapped[int]  # 1, 2, ... within the series: of two simultaneous readers only the first gets the next
    result_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"))  # the answer that the reader saw
    label: Mapped[str] = mapped_column(String(64))  # a class of the model, or in readings.OTHER_LABELS
    slices: Mapped[list[int]] = mapped_column(JSON)  # ordinals in that result that show it; [] if not given
    comment: Mapped[str] = mapped_column(String(1024))
    reader: Mapped[str] = mapped_column(String(64))  # the name of the token
    created_at: Mapped[datetime]
    study_reading_id: Mapped[int | None]  # of which it is part; null where the series was read by itself
    withdrawn_at: Mapped[datetime | None]  # by its reader; the reading before it then stands again

    __table_args__ = (UniqueConstraint("series_id", "number"), Index(None, "created_at"))


class StudyReadingRow(Base):
    """A reader's finding on a study, as ReadingRow; the series that the model classified inherit it."""

    __tablename__ = "study_reading"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    number: Mapped[int]  # 1, 2, ... within the study
    study_result_id: Mapped[int | None] = mapped_column(ForeignKey("study_result.id"))  # the answer that the reader saw
    label: Mapped[str] = mapped_column(String(64))
    comment: Mapped[str] = mapped_column(String(1024))
    reader: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]  # with those of its series

    __table_args__ = (UniqueConstraint("study_id", "number"), Index(None, "created_at"))


class ObjectRow(Base):
    """A DICOM object produced from the result of a series or of a study; its file is on disk before its row."""

    __tablename__ = "object"

    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"))  # null for an object of a study
    study_result_id: Mapped[int | None] = mapped_column(ForeignKey("study_result.id"))
    kind: Mapped[str] = mapped_column(String(16))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)  # its own: standard.produced_series_uid
    path: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))

    __table_args__ = (
        _is_among("kind", ObjectKind),
        CheckConstraint("(result_id IS NULL) <> (study_result_id IS NULL)", name="result"),
        UniqueConstraint("result_id", "kind"),
        UniqueConstraint("study_result_id", "kind"),
    )

    @property
    def result(self) -> tuple[int | None, int | None]:
        """The result that it was produced from."""
        return self.result_id, self.study_result_id


class DeliveryRow(Base):
    """An object on its way to a destination."""

    __tablename__ = "delivery"

    id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[int] = mapped_column(ForeignKey("object.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    rejections: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    status: Mapped[int | None]  # the peer's last C-STORE status
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    delivered_at: Mapped[datetime | None]
    sent_as: Mapped[str | None] = mapped_column(
        String(64)
    )  # SOP Instance UID at the peer: a Comprehensive SR has its own
    # Storage commitment (PS3.4 J), where it is requested of the destination: null, due, requested, confirmed.
    commitment: Mapped[str | None] = mapped_column(String(16))
    transaction_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    ask_again_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("object_id", "destination"),
        _is_among("state", DeliveryState),
        _is_among("commitment", Commitment),
        CheckConstraint("(state = 'sending') = (lease_owner IS NOT NULL)", name="lease"),
        Index(None, "destination", "state", "not_before", "id"),
        Index(None, "state", "id"),
        PartialIndex("destination", "commitment", where=UNCOMMITTED),
    )


class TokenRow(Base):
    """A token of the web interface; never deleted, so that the audit trail's names stay unambiguous."""

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(16), unique=True)  # the public part, by which it is looked up
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (_is_among("role", TokenRole),)


class WebSessionRow(Base):
    """A browser session, opened with a token."""

    __tablename__ = "web_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("token.id"), index=True)
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class ProcessRow(Base):
    """A process of the service, alive at `seen_at`: see worker.db.processes."""

    __tablename__ = "process"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)  # host:pid, as in leases
    host: Mapped[str] = mapped_column(String(128))
    pid: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    version: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class StageTimeRow(Base):
    """How often a stage of the work took a time within a bucket, in all processes: see worker.stage_times.

    `bound`: of the bucket, in ms; `seconds`: those times in all.
    """

    __tablename__ = "stage_time"

    work: Mapped[str] = mapped_column(String(16), primary_key=True)
    stage: Mapped[str] = mapped_column(String(16), primary_key=True)
    bound: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int]
    seconds: Mapped[float]


class RefusalRow(Base):
    """How often the receivers of all hosts refused something for a reason: see worker.storage.refusals."""

    __tablename__ = "refusal"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    status: Mapped[str] = mapped_column(String(8), primary_key=True)  # of C-STORE, as 0xA700; empty for associations
    reason: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int]

    __table_args__ = (_is_among("kind", RefusalKind),)


class RefusedInstanceRow(Base):
    """An instance that was refused, of a series that may lack it until it comes again: see db.settling.

    Its numbers are limited by peer and in all, and its age: see `settling.add_refused_instances`. UIDs are valid or
    empty; the series is empty where the dataset does not tell it.
    """

    __tablename__ = "refused_instance"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64))  # of the dataset, or else of the command
    affected_sop_instance_uid: Mapped[str] = mapped_column(String(64))  # of the command where it differs, else empty
    association_id: Mapped[int | None] = mapped_column(ForeignKey("association.id"))
    peer: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(8))  # of C-STORE, as 0xA700
    reason: Mapped[str] = mapped_column(String(64))
    refused_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (
        UniqueConstraint(
            "series_instance_uid", "sop_instance_uid", "affected_sop_instance_uid", name="uq_refused_instance_uids"
        ),
    )


class FileFaultRow(Base):
    """A stored file that was found damaged or missing; deleted when the file is whole again: see storage.integrity."""

    __tablename__ = "file_fault"

    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    fault: Mapped[str] = mapped_column(String(16))
    found_at: Mapped[datetime]

    __table_args__ = (_is_among("fault", FileFault),)


class ScrubRow(Base):
    """How far the files of a kind are checked: see storage.scrub."""

    __tablename__ = "scrub"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    last_id: Mapped[int]  # of the row whose file was checked last; 0 before a pass
    not_before: Mapped[datetime]  # the next pass begins then

    __table_args__ = (_is_among("kind", FileKind),)


class SuspensionRow(Base):
    """A stage that an operator suspended; deleted when it resumes: see db.operating.suspensions."""

    __tablename__ = "suspension"

    stage: Mapped[str] = mapped_column(String(16), primary_key=True)
    suspended_at: Mapped[datetime]
    suspended_by: Mapped[str] = mapped_column(String(64))

    __table_args__ = (_is_among("stage", Stage),)


class NoticeRow(Base):
    """Something that a [[notify]] is told, once: see db.operating.notices."""

    __tablename__ = "notice"

    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(64))
    event: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(160))  # the same as long as it is the same thing
    text: Mapped[str] = mapped_column(String(1024))  # names no patient
    series_id: Mapped[int | None]  # whose patient is told where the channel may; the series may be deleted
    state: Mapped[str] = mapped_column(String(16), default=NoticeState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    lease_owner: Mapped[str | None] = mapped_column(String(192))
    lease_until: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(String(1024))
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("channel", "event", "subject"),
        _is_among("state", NoticeState),
        CheckConstraint("(state = 'sending') = (lease_owner IS NOT NULL)", name="lease"),
        Index(None, "channel", "state", "not_before"),
    )


class HandOverRow(Base):
    """A study that is being handed over: see db.operating.hand_overs. Deleted with the study."""

    __tablename__ = "hand_over"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    destination: Mapped[str] = mapped_column(String(64))
    content: Mapped[str] = mapped_column(String(64))  # SHA-256 of what is handed over: UIDs and hashes of files
    begun_at: Mapped[datetime]
    transaction_uid: Mapped[str | None] = mapped_column(String(64), index=True)  # of storage commitment
    committed: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # of it; null before the report
    taken_at: Mapped[datetime | None]  # the destination has all of it


class AuditChainRow(Base):
    """The head of a host's audit trail, stored apart from its files, so that a truncated trail is detected."""

    __tablename__ = "audit_chain"

    host: Mapped[str] = mapped_column(String(128), primary_key=True)
    records: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))  # of the last record
    anchored_at: Mapped[datetime]
    fault: Mapped[str | None] = mapped_column(String(64))  # why records cannot be written; null without a fault
