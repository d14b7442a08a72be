"""`worker doctor`: check everything that the service needs; for each fault, what to do."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError
from worker.db.instances import file_fault_counts, files_after
from worker.db.processes import ProcessStatus, list_processes
from worker.db.series_status import unfinished_counts
from worker.db.tables import REVISION, FileKind, ModelState
from worker.db.views.model_comparison import awaited_models, model_statuses
from worker.errors import WorkerError
from worker.process import ProcessRole
from worker.send.destinations import destinations_of
from worker.send.destinations.base import Destination
from worker.web.guard import is_loopback
from worker.web.health import listens


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `advice` is what to do about a fault, otherwise empty."""

    subject: str
    well: bool
    detail: str
    advice: str = ""


def examine(settings: Settings, config: Path | None, now: datetime) -> Iterator[Finding]:
    """Run every check; changes nothing."""
    source = str(config) if config else "defaults (no file)"
    if settings.destination:
        yield Finding("configuration", True, source)
    else:
        yield Finding("configuration", False, source, "add a [[destination]]: without it no report is sent")
    yield _data_folder(settings)
    database = _database(settings)
    yield database
    if database.well:
        yield _processes(settings, now)
        yield from _models(settings)
        yield _stored_files(settings)
    yield _bundle(settings)
    yield _web(settings)
    for peer in settings.peer:
        if peer.query:
            yield _peer(settings, peer)
    for destination in destinations_of(settings):
        yield _destination(settings, destination)


def examine_role(settings: Settings, role: ProcessRole, now: datetime) -> Finding:
    """Check that a role runs on this host; fast enough for the health check of a container or service manager."""
    try:
        statuses = _process_statuses(settings, now)
    except (WorkerError, DatabaseError) as error:
        detail = error.detail if isinstance(error, WorkerError) else "the database does not answer"
        return Finding(role, False, detail, "run worker doctor, which checks everything")
    here = [status for status in statuses if status.role == role and status.host == socket.gethostname()]
    running = sum(not status.lost for status in here)
    if not running:
        return Finding(role, False, f"no {role} process is running on this host", f"worker serve --role {role}")
    if role == ProcessRole.RECEIVE and not listens(settings):
        return Finding(role, False, f"port {settings.receive.port} does not accept connections", "restart the process")
    return Finding(role, True, f"{running} running on this host")


def _process_statuses(settings: Settings, now: datetime) -> list[ProcessStatus]:
    database = Database(settings.database.url)
    try:
        database.require_revision()
        with database.read() as session:
            return list_processes(session, now, timedelta(seconds=settings.worker.lease_seconds))
    finally:
        database.close()


def _processes(settings: Settings, now: datetime) -> Finding:
    """The processes on every host. That none is running is no fault: the first check comes before the first start."""
    try:
        statuses = _process_statuses(settings, now)
    except WorkerError:  # an empty database
        return Finding("processes", True, "none has run yet")
    running = ", ".join(f"{status.role} on {status.host}" for status in statuses if not status.lost)
    lost = ", ".join(
        f"{status.role} on {status.host} since {status.seen_at:%Y-%m-%d %H:%M}" for status in statuses if status.lost
    )
    if lost:
        advice = "restart that host; a host that was removed is dropped from the list after a day"
        return Finding("processes", False, f"{running or 'none is running'}; not seen: {lost}", advice)
    return Finding("processes", True, running or "none is running")


def _web(settings: Settings) -> Finding:
    """Whether tokens and patients' data cross the network unencrypted."""
    web = settings.web
    address = f"{web.host}:{web.port}"
    if web.tls_certificate is not None:
        return Finding("web interface", True, f"{address}, HTTPS")
    if is_loopback(web.host):
        return Finding("web interface", True, f"{address}, this machine only")
    if web.trusted_proxies:
        return Finding("web interface", True, f"{address}, behind a proxy; nothing else may reach it")
    advice = "set [web] tls_certificate and tls_key, or host = 127.0.0.1 behind a proxy with TLS"
    return Finding("web interface", False, f"{address} without TLS: tokens and patients' data can be read", advice)


def _data_folder(settings: Settings) -> Finding:
    folder = settings.worker.data_dir
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    if not os.access(existing, os.W_OK):
        return Finding("data folder", False, f"{existing} is not writable", "give the worker's user write access")
    free = shutil.disk_usage(existing).free
    minimum = settings.receive.minimum_free_bytes
    if free < minimum:
        return Finding("data folder", False, f"{free >> 20} MiB free", f"free at least {minimum >> 20} MiB")
    return Finding("data folder", True, f"{folder}, {free / 1e9:.1f} GB free")


def _database(settings: Settings) -> Finding:
    try:
        database = Database(settings.database.url)
        revision = database.revision()
        if revision is None:
            return Finding("database", True, "empty; `worker serve` or `worker migrate` creates the tables")
        database.require_revision()
        with database.read() as session:
            counts = unfinished_counts(session)
    except WorkerError as error:
        advice = "check [database] url and start the server" if error.reason == "database-unreachable" else ""
        return Finding("database", False, error.detail, advice or "see the message")
    parked, failed = counts["jobs"]["parked"], counts["deliveries"]["failed"]
    detail = f"revision {REVISION}"
    if parked or failed:
        return Finding(
            "database", False, f"{detail}, {parked} parked jobs, {failed} failed deliveries", "worker jobs list"
        )
    return Finding("database", True, detail)


def _stored_files(settings: Settings) -> Finding:
    """What commitment, retrieval, inference and the scrub have found; reads no file itself."""
    subject = "stored files"
    database = Database(settings.database.url)
    try:
        database.require_revision()
        with database.read() as session:
            counts = file_fault_counts(session)
            expected = bool(files_after(session, FileKind.INSTANCE, 0, 1))
    except WorkerError:  # an empty database
        return Finding(subject, True, "none yet")
    finally:
        database.close()
    if expected and not (settings.worker.data_dir / "instances").is_dir():
        detail = "the folder instances is missing below the data folder, and the database knows files in it"
        return Finding(subject, False, detail, "mount or restore the folder, then restart the worker")
    if any(counts.values()):
        detail = ", ".join(f"{number} {fault}" for fault, number in counts.items() if number)
        advice = "check the disk; have the senders send them again, or restore the files from a backup"
        return Finding(subject, False, detail, advice)
    return Finding(subject, True, "none is known to be damaged or missing")


def _models(settings: Settings) -> Iterator[Finding]:
    """The models in use: their files on this host, and the hosts that could not load them."""
    from worker.inference.bundle import verified_identity
    from worker.jobs.bundle_store import BundleStore

    database = Database(settings.database.url)
    try:
        if database.revision() is None:
            return
        with database.read() as session:
            used = [model for model in model_statuses(session) if model.state in (ModelState.ACTIVE, ModelState.SHADOW)]
            awaited = awaited_models(session, settings.route) if used else []
    finally:
        database.close()
    for model in used:
        subject = f"model {model.name} {model.version}"
        try:
            verified_identity(BundleStore(settings).require(model.sha256))
        except WorkerError as error:
            advice = "worker models add, or worker models rollback"
            yield Finding(subject, False, f"{model.state}; {error.detail}", advice)
            continue
        if model.not_loaded:
            yield Finding(subject, False, f"{model.state}; not loaded on {model.not_loaded}", "worker models rollback")
        else:
            yield Finding(subject, True, model.state)
    for fault in awaited:
        yield Finding("routes", False, fault, "activate it (worker models activate … --beside), or change the rule")


def _bundle(settings: Settings) -> Finding:
    from worker.jobs.bundle_store import BundleStore

    try:
        identity = BundleStore(settings).load_configured().identity
    except WorkerError as error:
        return Finding("configured bundle", False, error.detail, "set [worker] bundle, or reinstall the worker")
    return Finding("configured bundle", True, f"{identity.name} {identity.version}: hashes and golden cases verified")


def _peer(settings: Settings, peer: PeerSection) -> Finding:
    from worker.receive.peer_count import associate_for_count

    subject = f"peer {peer.ae_title}"
    try:
        associate_for_count(peer, settings.worker.ae_title).release()
    except WorkerError as error:
        return Finding(
            subject, False, error.detail, "its series settle by silence alone; start it, or set query = false"
        )
    return Finding(subject, True, f"at {peer.host}:{peer.port} answers queries for the number of images")


def _destination(settings: Settings, destination: Destination) -> Finding:
    subject = f"destination {destination.name}"
    try:
        destination.probe(settings.worker.ae_title)
    except WorkerError as error:
        return Finding(subject, False, error.detail, destination.describe().advice)
    return Finding(subject, True, destination.describe().answer)
