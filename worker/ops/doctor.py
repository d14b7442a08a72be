"""`worker doctor`: look at everything the service needs, and say what to do about each fault."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from worker.config.settings import PeerSection, Settings
from worker.db.engine import Database, DatabaseError
from worker.db.processes import ProcessStatus, list_processes
from worker.db.series_status import unfinished_counts
from worker.db.tables import REVISION, ModelState
from worker.db.views.model_comparison import awaited_models, model_statuses
from worker.errors import WorkerError
from worker.process import ProcessRole
from worker.send.destinations import destinations_of
from worker.send.destinations.base import Destination
from worker.web.health import listens


@dataclass(frozen=True, slots=True)
class Finding:
    """One look: `advice` is what to do, empty when all is well."""

    subject: str
    well: bool
    detail: str
    advice: str = ""


def examine(settings: Settings, config: Path | None, now: datetime) -> Iterator[Finding]:
    """Every finding, well or not; nothing is changed."""
    shown = str(config) if config else "defaults (no file)"
    if settings.destination:
        yield Finding("configuration", True, shown)
    else:
        yield Finding("configuration", False, shown, "add a [[destination]]: without one no report is sent anywhere")
    yield _data_folder(settings)
    database = _database(settings)
    yield database
    if database.well:
        yield _processes(settings, now)
        yield from _models(settings)
    yield _bundle(settings)
    for peer in settings.peer:
        if peer.query:
            yield _peer(settings, peer)
    for destination in destinations_of(settings):
        yield _destination(settings, destination)


def examine_role(settings: Settings, role: ProcessRole, now: datetime) -> Finding:
    """Whether a role is alive on this host: quick enough for a container's or a service manager's health check."""
    try:
        alive = _seen(settings, now)
    except (WorkerError, DatabaseError) as error:
        detail = error.detail if isinstance(error, WorkerError) else "the database does not answer"
        return Finding(role, False, detail, "worker doctor looks at everything")
    here = [one for one in alive if one.role == role and one.host == socket.gethostname()]
    if not any(not one.lost for one in here):
        return Finding(role, False, f"no living {role} process on this host", f"worker serve --role {role}")
    if role == ProcessRole.RECEIVE and not listens(settings):
        return Finding(role, False, f"port {settings.receive.port} takes no connection", "start the process again")
    return Finding(role, True, f"{sum(not one.lost for one in here)} alive on this host")


def _seen(settings: Settings, now: datetime) -> list[ProcessStatus]:
    database = Database(settings.database.url)
    try:
        database.require_revision()
        with database.read() as session:
            return list_processes(session, now, timedelta(seconds=settings.worker.lease_seconds))
    finally:
        database.close()


def _processes(settings: Settings, now: datetime) -> Finding:
    """What runs, on whatever host; that nothing runs is no fault, for this is also asked before the first start."""
    try:
        alive = _seen(settings, now)
    except WorkerError:  # an empty database
        return Finding("processes", True, "none has run yet")
    shown = ", ".join(f"{one.role} on {one.host}" for one in alive if not one.lost) or "none runs"
    lost = ", ".join(f"{one.role} on {one.host} since {one.seen_at:%Y-%m-%d %H:%M}" for one in alive if one.lost)
    if lost:
        advice = "start that host again; one that is gone for good is forgotten after a day"
        return Finding("processes", False, f"{shown}; not seen: {lost}", advice)
    return Finding("processes", True, shown)


def _data_folder(settings: Settings) -> Finding:
    folder = settings.worker.data_dir
    existing = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    if not os.access(existing, os.W_OK):
        return Finding("data folder", False, f"{existing} is not writable", "give the worker's user write access")
    free = shutil.disk_usage(existing).free
    wanted = settings.receive.minimum_free_bytes
    if free < wanted:
        return Finding("data folder", False, f"{free >> 20} MiB free", f"free at least {wanted >> 20} MiB")
    return Finding("data folder", True, f"{folder}, {free / 1e9:.1f} GB free")


def _database(settings: Settings) -> Finding:
    try:
        database = Database(settings.database.url)
        revision = database.revision()
        if revision is None:
            return Finding("database", True, "empty; `worker serve` or `worker migrate` makes the tables")
        database.require_revision()
        with database.read() as session:
            counts = unfinished_counts(session)
    except WorkerError as error:
        advice = "check [database] url and that the server runs" if error.reason == "database-unreachable" else ""
        return Finding("database", False, error.detail, advice or "see the message")
    parked, failed = counts["jobs"]["parked"], counts["deliveries"]["failed"]
    detail = f"revision {REVISION}"
    if parked or failed:
        return Finding(
            "database", False, f"{detail}, {parked} parked jobs, {failed} failed deliveries", "worker jobs list"
        )
    return Finding("database", True, detail)


def _models(settings: Settings) -> Iterator[Finding]:
    """The models that are in use, as this host's files and what every host said of loading them tell."""
    from worker.inference.bundle import verified_identity
    from worker.jobs.bundle_store import BundleStore

    database = Database(settings.database.url)
    try:
        if database.revision() is None:
            return
        with database.read() as session:
            known = [one for one in model_statuses(session) if one.state in (ModelState.ACTIVE, ModelState.SHADOW)]
            awaited = awaited_models(session, settings.route) if known else []
    finally:
        database.close()
    for one in known:
        subject = f"model {one.name} {one.version}"
        try:
            verified_identity(BundleStore(settings).require(one.sha256))
        except WorkerError as error:
            yield Finding(
                subject, False, f"{one.state}; {error.detail}", "worker models add, or worker models rollback"
            )
            continue
        if one.not_loaded:
            yield Finding(subject, False, f"{one.state}; not loaded on {one.not_loaded}", "worker models rollback")
        else:
            yield Finding(subject, True, one.state)
    for what in awaited:
        yield Finding("routes", False, what, "activate it (worker models activate … --beside), or change the rule")


def _bundle(settings: Settings) -> Finding:
    from worker.jobs.bundle_store import BundleStore

    try:
        identity = BundleStore(settings).load_configured().identity
    except WorkerError as error:
        return Finding("configured bundle", False, error.detail, "set [worker] bundle, or install the worker again")
    return Finding("configured bundle", True, f"{identity.name} {identity.version}, hashes and golden cases agree")


def _peer(settings: Settings, peer: PeerSection) -> Finding:
    from worker.receive.peer_count import associate

    subject = f"peer {peer.ae_title}"
    try:
        associate(peer, settings.worker.ae_title).release()
    except WorkerError as error:
        return Finding(subject, False, error.detail, "its series settle by silence alone; or set query = false")
    return Finding(subject, True, f"at {peer.host}:{peer.port} can be asked for the number of images")


def _destination(settings: Settings, destination: Destination) -> Finding:
    subject = f"destination {destination.name}"
    try:
        destination.probe(settings.worker.ae_title)
    except WorkerError as error:
        return Finding(subject, False, error.detail, destination.describe().advice)
    return Finding(subject, True, destination.describe().answer)
