"""Rows of models: which exist, which are active, which run in shadow, and how that changes.

Every change is one transaction: a process that is killed during it leaves everything unchanged, and a series that
settles meanwhile sees the state before or after, never a part of the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from worker.db.tables import (
    JobRow,
    JobState,
    LoadState,
    ModelChoiceRow,
    ModelLoadRow,
    ModelRow,
    ModelState,
    SeriesRow,
    StudyRow,
    StudyState,
    cut_detail,
)
from worker.errors import WorkerError
from worker.results import ModelIdentity

CONFIGURATION = "configuration"  # `state_by` where no person made the change
_PREFIX = 8  # fewest digits of a bundle hash that may stand for a version


class NoSuchModel(WorkerError):
    """No model matches, or several do."""


class NotPossible(WorkerError):
    """The model's state, or its unfinished jobs, forbid the change; nothing was changed."""


# --- queries ---------------------------------------------------------------------------------------------------


def all_models(session: Session) -> Sequence[ModelRow]:
    """Every model that was ever known, newest first."""
    return session.scalars(select(ModelRow).order_by(ModelRow.id.desc())).all()


def model_row(session: Session, identity: ModelIdentity, now: datetime) -> ModelRow:
    """The row of a bundle, added as active if it is new; a person or `set_configured_model` may change that."""
    row = session.scalar(select(ModelRow).where(ModelRow.sha256 == identity.sha256))
    labels = {
        item.name: {"neoplasm": item.neoplasm, "lesion": item.is_lesion, "kind": item in identity.classes}
        for item in identity.labels
    }
    if row is None:
        names = {"name": identity.name[:64], "version": identity.version[:32], "sha256": identity.sha256}
        row = ModelRow(
            **names, added_at=now, state=ModelState.ACTIVE, state_at=now, state_by=CONFIGURATION, labels=labels
        )
        session.add(row)
        session.flush()
    elif row.labels is None:  # of an earlier version
        row.labels = labels
    return row


def find_model(session: Session, name: str, version: str) -> ModelRow:
    """The model of a name and a version; a prefix of the bundle hash may replace the version. Raises NoSuchModel."""
    by_hash = ModelRow.sha256.startswith(version, autoescape=True) if len(version) >= _PREFIX else None
    matches = ModelRow.version == version if by_hash is None else or_(ModelRow.version == version, by_hash)
    rows = session.scalars(select(ModelRow).where(ModelRow.name == name, matches)).all()
    rows = [row for row in rows if row.state != ModelState.REMOVED] or rows
    if len(rows) == 1:
        return rows[0]
    if rows:
        hashes = ", ".join(row.sha256[:12] for row in rows)
        raise NoSuchModel("model-ambiguous", f"{name} {version} names several bundles: give a hash instead ({hashes})")
    known = ", ".join(f"{row.name} {row.version}" for row in all_models(session) if row.state != ModelState.REMOVED)
    raise NoSuchModel("no-such-model", f"there is no model {name} {version} (known: {known or 'none'})")


def find_model_named(session: Session, text: str) -> ModelRow:
    """The model of "name:version"; the version may be omitted if the name has only one version. Raises NoSuchModel."""
    name, colon, version = text.rpartition(":")
    if colon:
        return find_model(session, name, version)
    rows = [row for row in all_models(session) if row.name == text and row.state != ModelState.REMOVED]
    if len(rows) == 1:
        return rows[0]
    fault = "has several versions: give NAME:VERSION" if rows else "is not the name of a known model"
    raise NoSuchModel("no-such-model", f"{text} {fault}")


def model_by_sha256(session: Session, sha256: str) -> ModelRow:
    """The model of a bundle hash. Raises NoSuchModel."""
    row = session.scalar(select(ModelRow).where(ModelRow.sha256 == sha256))
    if row is None:
        raise NoSuchModel("no-such-model", "there is no model of that bundle hash")
    return row


def models_in_use(session: Session) -> tuple[Sequence[ModelRow], Sequence[ModelRow]]:
    """(active, in shadow) at the same moment, oldest first."""
    states = (ModelState.ACTIVE, ModelState.SHADOW)
    rows = session.scalars(select(ModelRow).where(ModelRow.state.in_(states)).order_by(ModelRow.id)).all()
    active = [row for row in rows if row.state == ModelState.ACTIVE]
    return active, [row for row in rows if row.state == ModelState.SHADOW]


def models_to_serve(session: Session) -> Sequence[ModelRow]:
    """The models that must be served: active, in shadow, or with unfinished jobs or studies of an earlier time."""
    has_jobs = (
        select(JobRow.id)
        .where(JobRow.model_id == ModelRow.id, JobRow.state.in_([JobState.PENDING, JobState.RUNNING]))
        .exists()
    )
    has_studies = (
        select(JobRow.id)
        .join(SeriesRow, SeriesRow.answered_job_id == JobRow.id)
        .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
        .where(StudyRow.state == StudyState.OPEN, JobRow.model_id == ModelRow.id)
        .exists()
    )
    used = ModelRow.state.in_([ModelState.ACTIVE, ModelState.SHADOW])
    # Active models first: they get a host's memory before the others.
    rows = session.scalars(select(ModelRow).where(or_(used, has_jobs, has_studies)).order_by(ModelRow.id)).all()
    order = [ModelState.ACTIVE, ModelState.RETIRED, ModelState.SHADOW, ModelState.ADDED, ModelState.REMOVED]
    return sorted(rows, key=lambda row: order.index(ModelState(row.state)))


# --- changes ---------------------------------------------------------------------------------------------------


def _locked(session: Session) -> dict[int, ModelRow]:
    """All models by row id, locked: simultaneous changes by two people run in sequence."""
    rows = session.scalars(
        select(ModelRow).order_by(ModelRow.id).with_for_update().execution_options(populate_existing=True)
    )
    return {row.id: row for row in rows}


def set_configured_model(session: Session, identity: ModelIdentity, now: datetime) -> ModelRow:
    """The row of the configured bundle; it becomes the active model unless a person activated another by a command."""
    rows = _locked(session)
    known = next((row for row in rows.values() if row.sha256 == identity.sha256), None)
    active = [row for row in rows.values() if row.state == ModelState.ACTIVE]
    chosen_by_a_person = any(row.state_by != CONFIGURATION for row in active)
    if known is None:
        known = model_row(session, identity, now)
        known.state = ModelState.ADDED
        rows[known.id] = known
    elif known.state == ModelState.REMOVED:
        _set(known, ModelState.ADDED, CONFIGURATION, now)
    if known.state != ModelState.ACTIVE and not chosen_by_a_person:
        _choose(session, rows, known, [row for row in active if row is not known], CONFIGURATION, now)
    session.flush()
    return known


def add_model(session: Session, identity: ModelIdentity, user: str, now: datetime) -> tuple[ModelRow, bool]:
    """Add a verified bundle: (its row, whether it is new). Raises NotPossible for a name and version in use."""
    rows = _locked(session)
    for row in rows.values():
        if row.sha256 == identity.sha256:
            if row.state != ModelState.REMOVED:
                return row, False
            _set(row, ModelState.ADDED, user, now)
            return row, True
    name_and_version = (identity.name[:64], identity.version[:32])
    namesakes = [row for row in rows.values() if (row.name, row.version) == name_and_version]
    if any(row.state != ModelState.REMOVED for row in namesakes):
        detail = f"another bundle is known as {identity.name} {identity.version}: give this bundle another version"
        raise NotPossible("version-in-use", detail)
    row = model_row(session, identity, now)
    _set(row, ModelState.ADDED, user, now)
    session.flush()
    return row, True


def shadow_model(session: Session, model_id: int, user: str, now: datetime) -> ModelRow:
    """Let a model classify every eligible series beside the active models, without reporting. Raises NotPossible."""
    row = _locked(session)[model_id]
    if row.state == ModelState.ACTIVE:
        raise NotPossible("model-active", "the model is active: activate another before it runs in shadow")
    _require_bundle(row)
    if row.state != ModelState.SHADOW:
        _set(row, ModelState.SHADOW, user, now)
    return row


def activate_model(session: Session, model_id: int, user: str, now: datetime, beside: bool = False) -> ModelRow:
    """Let a model answer in place of the active models; with `beside` it replaces only those of its own name.

    Raises NotPossible.
    """
    rows = _locked(session)
    row = rows[model_id]
    _require_bundle(row)
    others = [other for other in rows.values() if other.state == ModelState.ACTIVE and other is not row]
    leaving = [other for other in others if not beside or other.name == row.name]
    if leaving or row.state != ModelState.ACTIVE:
        _choose(session, rows, row, leaving, user, now)
    return row


def retire_model(session: Session, model_id: int, user: str, now: datetime) -> ModelRow:
    """Give a model no new jobs; it finishes those it has. Raises NotPossible for the only active model."""
    rows = _locked(session)
    row = rows[model_id]
    if row.state not in (ModelState.ACTIVE, ModelState.SHADOW):
        raise NotPossible("model-not-in-use", f"the model is {row.state}, neither active nor in shadow")
    if [other for other in rows.values() if other.state == ModelState.ACTIVE] == [row]:
        raise NotPossible("model-active", "it is the only active model: activate another first")
    if row.state == ModelState.ACTIVE:
        session.add(ModelChoiceRow(made_at=now, made_by=user, before={str(row.id): row.state}))
    _set(row, ModelState.RETIRED, user, now)
    return row


def undo_activation(session: Session, user: str, now: datetime) -> Sequence[ModelRow]:
    """Undo the last activation that is not undone yet; the models that are active now. Raises NotPossible."""
    rows = _locked(session)
    choice = session.scalar(
        select(ModelChoiceRow).where(ModelChoiceRow.undone_at.is_(None)).order_by(ModelChoiceRow.id.desc()).limit(1)
    )
    if choice is None:
        raise NotPossible("nothing-to-undo", "there is no activation to undo")
    for key, state in choice.before.items():
        row = rows[int(key)]
        if row.state == ModelState.REMOVED:
            if state == ModelState.ACTIVE:
                raise NotPossible(
                    "model-removed", f"{row.name} {row.version} was active before but is removed: add its bundle again"
                )
        elif row.state != state:
            _set(row, ModelState(state), user, now)
    active = [row for row in rows.values() if row.state == ModelState.ACTIVE]
    if not active:
        raise NotPossible("nothing-to-undo", "no model was active before")
    choice.undone_at = now
    session.flush()
    return active


def remove_model(session: Session, model_id: int, user: str, now: datetime) -> ModelRow:
    """Mark a model as removed; its results stay. Raises NotPossible while it is in use or has unfinished jobs."""
    row = _locked(session)[model_id]
    if row.state in (ModelState.ACTIVE, ModelState.SHADOW):
        raise NotPossible("model-in-use", f"the model is {row.state}: retire it before it is removed")
    unfinished = (JobState.PENDING, JobState.RUNNING, JobState.PARKED)
    waiting = select(JobRow.id).where(JobRow.model_id == model_id, JobRow.state.in_(unfinished)).limit(1)
    if session.scalar(waiting) is not None:
        raise NotPossible("model-has-jobs", "the model has unfinished jobs: see `worker jobs list`")
    _set(row, ModelState.REMOVED, user, now)
    for load in session.scalars(select(ModelLoadRow).where(ModelLoadRow.model_id == model_id)):
        session.delete(load)
    return row


def _require_bundle(row: ModelRow) -> None:
    if row.state == ModelState.REMOVED:
        raise NotPossible("model-removed", "the model's bundle was removed: add it with `worker models add`")


def _set(row: ModelRow, state: ModelState, user: str, now: datetime) -> None:
    row.state, row.state_by, row.state_at = state, user[:64], now


def _choose(
    session: Session, rows: dict[int, ModelRow], row: ModelRow, leaving: Sequence[ModelRow], user: str, now: datetime
) -> None:
    """Make `row` active, retire `leaving`, and record their previous states."""
    before = {str(changed.id): changed.state for changed in [row, *leaving]}
    _set(row, ModelState.ACTIVE, user, now)
    for other in leaving:
        _set(rows[other.id], ModelState.RETIRED, user, now)
    session.add(ModelChoiceRow(made_at=now, made_by=user[:64], before=before))
    session.flush()


# --- loading, per host -----------------------------------------------------------------------------------------


def model_loads(session: Session, host: str | None = None) -> list[tuple[ModelRow, ModelLoadRow]]:
    """How loading the models in use went, on every host or on `host`."""
    query = (
        select(ModelRow, ModelLoadRow)
        .join(ModelLoadRow, ModelLoadRow.model_id == ModelRow.id)
        .where(ModelRow.state.in_([ModelState.ACTIVE, ModelState.SHADOW]))
        .order_by(ModelRow.id, ModelLoadRow.host)
    )
    if host is not None:
        query = query.where(ModelLoadRow.host == host)
    return [(model, load) for model, load in session.execute(query)]


def model_load(session: Session, model_id: int, host: str) -> ModelLoadRow | None:
    return session.get(ModelLoadRow, (model_id, host))


def record_load(
    session: Session,
    model_id: int,
    process: str,
    state: LoadState,
    detail: str | None,
    now: datetime,
    deaths: int = 0,
) -> None:
    """Record how loading went. `process`: see process_name; `deaths`: earlier processes that died while loading."""
    host = process.partition(":")[0]
    row = model_load(session, model_id, host)
    if row is None:
        row = ModelLoadRow(model_id=model_id, host=host)
        session.add(row)
    row.process, row.state, row.at, row.deaths = process, state, now, deaths
    row.detail = cut_detail(detail)
    session.flush()
