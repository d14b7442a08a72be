"""Queries of the choice of models: which are there, which classify, which run in shadow, and how that changes.

Every change is one transaction: a process that is killed in it leaves the choice as it was, and a series that settles
meanwhile sees the choice before or after, never a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from worker.db.tables import (
    DETAIL_LENGTH,
    JobRow,
    JobState,
    LoadState,
    ModelChoiceRow,
    ModelLoadRow,
    ModelRow,
    ModelState,
)
from worker.errors import WorkerError
from worker.results import ModelIdentity

CONFIGURATION = "configuration"  # who made a model active, where it was not a person
_PREFIX = 8  # so many digits of a bundle hash stand for a version


class NoSuchModel(WorkerError):
    """No model, or more than one, answers to what was asked for."""


class NotPossible(WorkerError):
    """The model's state, or what waits for it, forbids the change; nothing was changed."""


# --- looking ---------------------------------------------------------------------------------------------------


def all_models(session: Session) -> Sequence[ModelRow]:
    """Every model that was ever known, the newest first."""
    return session.scalars(select(ModelRow).order_by(ModelRow.id.desc())).all()


def model_row(session: Session, identity: ModelIdentity, now: datetime) -> ModelRow:
    """The row of a bundle; active where it is made here, a person or `configure` may choose otherwise."""
    row = session.scalar(select(ModelRow).where(ModelRow.sha256 == identity.sha256))
    if row is None:
        named = {"name": identity.name[:64], "version": identity.version[:32], "sha256": identity.sha256}
        row = ModelRow(**named, added_at=now, state=ModelState.ACTIVE, state_at=now, state_by=CONFIGURATION)
        session.add(row)
        session.flush()
    return row


def find_model(session: Session, name: str, version: str) -> ModelRow:
    """The model of a name and a version, or the beginning of a bundle hash in its place. Raises NoSuchModel."""
    by_hash = ModelRow.sha256.startswith(version, autoescape=True) if len(version) >= _PREFIX else None
    right = ModelRow.version == version if by_hash is None else or_(ModelRow.version == version, by_hash)
    found = session.scalars(select(ModelRow).where(ModelRow.name == name, right)).all()
    here = [one for one in found if one.state != ModelState.REMOVED] or found
    if len(here) == 1:
        return here[0]
    if here:
        listed = ", ".join(one.sha256[:12] for one in here)
        raise NoSuchModel("model-ambiguous", f"{name} {version} is more than one bundle: give one of {listed} instead")
    known = ", ".join(f"{one.name} {one.version}" for one in all_models(session) if one.state != ModelState.REMOVED)
    raise NoSuchModel("no-such-model", f"there is no model {name} {version} (known: {known or 'none'})")


def find_model_named(session: Session, text: str) -> ModelRow:
    """The model of "name:version"; a name alone means the only one of it that is there. Raises NoSuchModel."""
    name, colon, version = text.rpartition(":")
    if colon:
        return find_model(session, name, version)
    here = [one for one in all_models(session) if one.name == text and one.state != ModelState.REMOVED]
    if len(here) == 1:
        return here[0]
    what = "several versions: give NAME:VERSION" if here else "none is known by this name"
    raise NoSuchModel("no-such-model", f"{text}: {what}")


def model_by_sha256(session: Session, sha256: str) -> ModelRow:
    """The model of a bundle hash. Raises NoSuchModel."""
    row = session.scalar(select(ModelRow).where(ModelRow.sha256 == sha256))
    if row is None:
        raise NoSuchModel("no-such-model", "there is no model of that bundle hash")
    return row


def models_in_use(session: Session) -> tuple[Sequence[ModelRow], Sequence[ModelRow]]:
    """(active, in shadow) at one moment, the oldest first."""
    states = (ModelState.ACTIVE, ModelState.SHADOW)
    rows = session.scalars(select(ModelRow).where(ModelRow.state.in_(states)).order_by(ModelRow.id)).all()
    active = [one for one in rows if one.state == ModelState.ACTIVE]
    return active, [one for one in rows if one.state == ModelState.SHADOW]


def models_to_serve(session: Session) -> Sequence[ModelRow]:
    """The models that some process must serve: active, in shadow, or with jobs that wait from an earlier time."""
    waits = (
        select(JobRow.id)
        .where(JobRow.model_id == ModelRow.id, JobRow.state.in_([JobState.PENDING, JobState.RUNNING]))
        .exists()
    )
    used = ModelRow.state.in_([ModelState.ACTIVE, ModelState.SHADOW])
    # The active ones first: what a host has memory for is theirs.
    rows = session.scalars(select(ModelRow).where(or_(used, waits)).order_by(ModelRow.id)).all()
    order = [ModelState.ACTIVE, ModelState.RETIRED, ModelState.SHADOW, ModelState.ADDED, ModelState.REMOVED]
    return sorted(rows, key=lambda one: order.index(ModelState(one.state)))


# --- changing --------------------------------------------------------------------------------------------------


def _locked(session: Session) -> dict[int, ModelRow]:
    """All of them: two people who choose at once come one after the other."""
    rows = session.scalars(
        select(ModelRow).order_by(ModelRow.id).with_for_update().execution_options(populate_existing=True)
    )
    return {one.id: one for one in rows}


def set_configured_model(session: Session, identity: ModelIdentity, now: datetime) -> ModelRow:
    """The row of the configured bundle, which is the active one as long as nobody has chosen another by a command."""
    rows = _locked(session)
    known = next((one for one in rows.values() if one.sha256 == identity.sha256), None)
    active = [one for one in rows.values() if one.state == ModelState.ACTIVE]
    chosen_by_a_person = any(one.state_by != CONFIGURATION for one in active)
    if known is None:
        known = model_row(session, identity, now)
        known.state = ModelState.ADDED
        rows[known.id] = known
    elif known.state == ModelState.REMOVED:
        _set(known, ModelState.ADDED, CONFIGURATION, now)
    if known.state != ModelState.ACTIVE and not chosen_by_a_person:
        _choose(session, rows, known, [one for one in active if one is not known], CONFIGURATION, now)
    session.flush()
    return known


def add_model(session: Session, identity: ModelIdentity, user: str, now: datetime) -> tuple[ModelRow, bool]:
    """(its row, whether it is new) of a bundle that was verified. Raises NotPossible for a name and version in use."""
    rows = _locked(session)
    for one in rows.values():
        if one.sha256 == identity.sha256:
            if one.state != ModelState.REMOVED:
                return one, False
            _set(one, ModelState.ADDED, user, now)
            return one, True
    named = (identity.name[:64], identity.version[:32])
    same = [one for one in rows.values() if (one.name, one.version) == named]
    if any(one.state != ModelState.REMOVED for one in same):
        said = f"another bundle is known as {identity.name} {identity.version}: give this one a version of its own"
        raise NotPossible("version-in-use", said)
    row = model_row(session, identity, now)
    _set(row, ModelState.ADDED, user, now)
    session.flush()
    return row, True


def shadow_model(session: Session, model_id: int, user: str, now: datetime) -> ModelRow:
    """Let a model classify every eligible series beside the active ones, unseen. Raises NotPossible."""
    row = _locked(session)[model_id]
    if row.state == ModelState.ACTIVE:
        raise NotPossible("model-active", "the model is active; activate another before this one goes to the shadow")
    _require_bundle(row)
    if row.state != ModelState.SHADOW:
        _set(row, ModelState.SHADOW, user, now)
    return row


def activate_model(session: Session, model_id: int, user: str, now: datetime, beside: bool = False) -> ModelRow:
    """Let a model answer in the place of the active ones; with `beside` only of those of its name.

    Raises NotPossible.
    """
    rows = _locked(session)
    row = rows[model_id]
    _require_bundle(row)
    others = [one for one in rows.values() if one.state == ModelState.ACTIVE and one is not row]
    leaving = [one for one in others if not beside or one.name == row.name]
    if leaving or row.state != ModelState.ACTIVE:
        _choose(session, rows, row, leaving, user, now)
    return row


def retire_model(session: Session, model_id: int, user: str, now: datetime) -> ModelRow:
    """Let a model classify nothing new; what waits for it is finished. Raises NotPossible for the only active one."""
    rows = _locked(session)
    row = rows[model_id]
    if row.state not in (ModelState.ACTIVE, ModelState.SHADOW):
        raise NotPossible("model-not-in-use", f"the model is {row.state}: neither active nor in shadow")
    if [one for one in rows.values() if one.state == ModelState.ACTIVE] == [row]:
        raise NotPossible("model-active", "it is the only active model; activate another")
    if row.state == ModelState.ACTIVE:
        session.add(ModelChoiceRow(made_at=now, made_by=user, before={str(row.id): row.state}))
    _set(row, ModelState.RETIRED, user, now)
    return row


def undo_activation(session: Session, user: str, now: datetime) -> Sequence[ModelRow]:
    """Undo the last activation that is not undone; the models that are active now. Raises NotPossible."""
    rows = _locked(session)
    choice = session.scalar(
        select(ModelChoiceRow).where(ModelChoiceRow.undone_at.is_(None)).order_by(ModelChoiceRow.id.desc()).limit(1)
    )
    if choice is None:
        raise NotPossible("nothing-to-undo", "no activation is left to go back from")
    for key, state in choice.before.items():
        row = rows[int(key)]
        if row.state == ModelState.REMOVED:
            if state == ModelState.ACTIVE:
                raise NotPossible("model-removed", f"{row.name} {row.version} was active before; it is removed now")
        elif row.state != state:
            _set(row, ModelState(state), user, now)
    active = [one for one in rows.values() if one.state == ModelState.ACTIVE]
    if not active:
        raise NotPossible("nothing-to-undo", "no model was active before")
    choice.undone_at = now
    session.flush()
    return active


def remove_model(session: Session, model_id: int, user: str, now: datetime) -> ModelRow:
    """Forget a model's bundle; its results stay. Raises NotPossible while it is in use or jobs wait for it."""
    row = _locked(session)[model_id]
    if row.state in (ModelState.ACTIVE, ModelState.SHADOW):
        raise NotPossible("model-in-use", f"the model is {row.state}; only one that is not in use can be removed")
    unfinished = (JobState.PENDING, JobState.RUNNING, JobState.PARKED)
    waiting = select(JobRow.id).where(JobRow.model_id == model_id, JobRow.state.in_(unfinished)).limit(1)
    if session.scalar(waiting) is not None:
        raise NotPossible("model-has-jobs", "jobs of the model are not done; worker jobs list")
    _set(row, ModelState.REMOVED, user, now)
    for load in session.scalars(select(ModelLoadRow).where(ModelLoadRow.model_id == model_id)):
        session.delete(load)
    return row


def _require_bundle(row: ModelRow) -> None:
    if row.state == ModelState.REMOVED:
        raise NotPossible("model-removed", "the model's bundle was removed; worker models add")


def _set(row: ModelRow, state: ModelState, user: str, now: datetime) -> None:
    row.state, row.state_by, row.state_at = state, user[:64], now


def _choose(
    session: Session, rows: dict[int, ModelRow], row: ModelRow, leaving: Sequence[ModelRow], user: str, now: datetime
) -> None:
    """Make `row` active and retire `leaving`, and note what that changed."""
    before = {str(one.id): one.state for one in [row, *leaving]}
    _set(row, ModelState.ACTIVE, user, now)
    for one in leaving:
        _set(rows[one.id], ModelState.RETIRED, user, now)
    session.add(ModelChoiceRow(made_at=now, made_by=user[:64], before=before))
    session.flush()


# --- what hosts could load -------------------------------------------------------------------------------------


def model_loads(session: Session, host: str | None = None) -> list[tuple[ModelRow, ModelLoadRow]]:
    """What each host, or one, said of loading the models that are in use."""
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
    """`process` as worker.process.process_name gives it; `deaths` of processes that loaded the model before."""
    host = process.partition(":")[0]
    row = model_load(session, model_id, host)
    if row is None:
        row = ModelLoadRow(model_id=model_id, host=host)
        session.add(row)
    row.process, row.state, row.at, row.deaths = process, state, now, deaths
    row.detail = detail[:DETAIL_LENGTH] if detail else None
    session.flush()
