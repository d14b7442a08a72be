"""`worker doctor`: check everything that the service needs; for each fault, what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError, database_fault
from worker.db.instances import file_fault_counts, files_after
from worker.db.operating.clock_changes import newest_time
from worker.db.operating.notices import unsent_notices
from worker.db.operating.suspensions import list_suspensions
from worker.db.processes import ProcessStatus, list_processes
from worker.db.series_status import unfinished_counts
from worker.db.tables import REVISION, FileKind, ModelState
from worker.db.views.model_comparison import awaited_models, model_statuses
from worker.errors import WorkerError
from worker.logs import fault_fields
from worker.network.unreachable import TLS_FAILED, UNAVAILABLE, UNRESOLVED
from worker.ops.host_checks import Finding, folders, host_names, listeners, syslog_server, tls_files
from worker.process import ProcessRole
from worker.send.destinations import destinations_of
from worker.send.destinations.base import Destination
from worker.web.guard import is_loopback
from worker.web.health import listens
from worker.wording import counted

_CLOCKS_APART_SECONDS = 60
_SELF_EXPLAINED = (UNRESOLVED, UNAVAILABLE, TLS_FAILED, "association-rejected")
_DATABASE_ADVICE = {
    "database-unreachable": "check [database] url and start the server",
    "database-older": "stop the worker and make a backup; `worker serve` without --role does it too",
}


def examine(settings: Settings, config: Path | None, now: datetime) -> Iterator[Finding]:
    """Run every check, whatever another finds; changes nothing, not even a database that does not exist yet."""
    yield _configuration(settings, config)
    yield from _guarded("folders", lambda: folders(settings))
    # A database that is away takes its time to say so, and is asked once.
    usable = yield from _guarded("database", lambda: [_database(settings)])
    running: list[ProcessStatus] = []
    if usable:
        running = yield from _examine_database(settings, now)
    else:
        detail = "processes, queue, clock, models and stored files: the database cannot be used"
        yield Finding("not checked", False, detail, "run worker doctor again once it can")
    here = [status.role for status in running if status.host == socket.gethostname() and not status.lost]
    yield from _guarded("ports", lambda: listeners(settings, here))
    yield from _guarded("TLS files", lambda: tls_files(settings, now))
    yield from _guarded("configured bundle", lambda: [_bundle(settings)])
    yield _web(settings)
    yield from _guarded("peers", lambda: host_names(settings))
    yield from _guarded("syslog server", lambda: syslog_server(settings))
    for peer in settings.peer:
        if peer.query:
            yield from _guarded(f"peer {peer.ae_title}", partial(_alone, _peer, settings, peer))
    for destination in destinations_of(settings):
        yield from _guarded(f"destination {destination.name}", partial(_alone, _destination, settings, destination))


def _alone(check: Callable[..., Finding], *arguments: Any) -> list[Finding]:
    return [check(*arguments)]


def _guarded(subject: str, check: Callable[[], Iterable[Finding]]) -> Generator[Finding, None, bool]:
    """The findings of a check, or as a finding why it failed; whether all is well."""
    well = True
    try:
        for finding in check():
            well = well and finding.well
            yield finding
        return well
    except WorkerError as error:
        detail = error.detail
    except DatabaseError as error:
        detail = f"the database failed: {database_fault(error)}"
    except OSError as error:
        detail = (error.strerror or type(error).__name__) + (f": {error.filename}" if error.filename else "")
    except Exception as error:  # the boundary of a check: the others run all the same
        fields = fault_fields(error)
        yield Finding(subject, False, f"the check failed: {fields['fault']} at {fields['at']}", "report this line")
        return False
    yield Finding(subject, False, detail, "see the message")
    return False


def _examine_database(settings: Settings, now: datetime) -> Generator[Finding, None, list[ProcessStatus]]:
    """The checks that read the database, and the processes that it knows; none of an empty database."""
    database = Database(settings.database.url)
    try:
        if database.revision() is None:
            return []
        running = _process_statuses(settings, now)
        yield from _guarded("processes", lambda: [_processes(running)])
        yield from _guarded("queue", lambda: [_queue(database)])
        yield from _guarded("suspended", lambda: _suspended(database))
        yield from _guarded("notices", lambda: _notices(settings, database))
        yield from _guarded("clock", lambda: [_clock(database, now)])
        yield from _guarded("models", lambda: _models(settings))
        yield from _guarded("stored files", lambda: [_stored_files(settings)])
        return running
    finally:
        database.close()


def _configuration(settings: Settings, config: Path | None) -> Finding:
    source = str(config) if config else "defaults (no file)"
    if settings.destination:
        return Finding("configuration", True, source)
    return Finding("configuration", False, source, "add a [[destination]]: without it no report is sent")


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


def _processes(statuses: Sequence[ProcessStatus]) -> Finding:
    """The processes on every host. That none is running is no fault: the first check comes before the first start."""
    running = ", ".join(f"{status.role} on {status.host}" for status in statuses if not status.lost)
    lost = ", ".join(
        f"{status.role} on {status.host} since {status.seen_at:%Y-%m-%d %H:%M}" for status in statuses if status.lost
    )
    if lost:
        advice = "restart that host; a host that was removed is dropped from the list after a day"
        return Finding("processes", False, f"{running or 'none is running'}; not seen: {lost}", advice)
    return Finding("processes", True, running or "none is running")


def _queue(database: Database) -> Finding:
    with database.read() as session:
        counts = unfinished_counts(session)
    parked, failed = counts["jobs"]["parked"], counts["deliveries"]["failed"]
    if parked or failed:
        advice = "worker jobs list, worker deliveries list"
        return Finding("queue", False, f"{counted(parked, 'parked job')}, {counted(failed, 'failed delivery')}", advice)
    waiting = counts["deliveries"]["pending"] + counts["deliveries"]["sending"]
    jobs = counts["jobs"]["pending"]
    return Finding("queue", True, f"waiting: {counted(jobs, 'job')}, {counted(waiting, 'delivery')}")


def _notices(settings: Settings, database: Database) -> Iterator[Finding]:
    """Whether operators are told: what each [[notify]] was not."""
    with database.read() as session:
        unsent = unsent_notices(session)
    for section in settings.notify:
        subject = f"notify {section.name}"
        number, why = unsent.get(section.name, (0, None))
        if number:
            yield Finding(subject, False, f"{counted(number, 'notice')} not sent: {why}", "correct the [[notify]]")
        else:
            yield Finding(subject, True, ", ".join(section.events))


def _suspended(database: Database) -> Iterator[Finding]:
    """The stages that an operator suspended and may have forgotten."""
    with database.read() as session:
        suspensions = list_suspensions(session)
    for suspension in suspensions:
        detail = f"suspended since {suspension.suspended_at:%Y-%m-%d %H:%M} UTC by {suspension.suspended_by}"
        yield Finding(suspension.stage, False, detail, f"worker resume {suspension.stage}")


def _clock(database: Database, now: datetime) -> Finding:
    """Whether this host's clock agrees with the database server's, or with what was recorded last."""
    if database.is_shared:
        apart = (datetime.now(UTC) - database.server_time()).total_seconds()
        detail = f"{abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} the database server's"
        if abs(apart) > _CLOCKS_APART_SECONDS:
            return Finding("clock", False, detail, "have both hosts keep the time by NTP")
        return Finding("clock", True, detail)
    with database.read() as session:
        newest = newest_time(session)
    if newest is not None and (newest - now).total_seconds() > _CLOCKS_APART_SECONDS:
        detail = f"now is {now:%Y-%m-%d %H:%M} UTC, but the newest image came at {newest:%Y-%m-%d %H:%M} UTC"
        return Finding("clock", False, detail, "was the clock set back? set it by NTP")
    return Finding("clock", True, f"{now:%Y-%m-%d %H:%M} UTC")


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


def _database(settings: Settings) -> Finding:
    try:
        database = Database(settings.database.url)
        revision = database.revision()
        if revision is None:
            return Finding("database", True, "empty; `worker serve` or `worker migrate` creates the tables")
        database.require_revision()
    except WorkerError as error:
        return Finding("database", False, error.detail, _DATABASE_ADVICE.get(error.reason, "see the message"))
    return Finding("database", True, f"revision {REVISION}")


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
            # Without an active model the service activates that of the configured bundle when it starts.
            is_served = any(model.state == ModelState.ACTIVE for model in used)
            awaited = awaited_models(session, settings.route) if is_served else []
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
    from worker.inference.engines import has_exact_int8
    from worker.jobs.bundle_store import BundleStore

    try:
        identity = BundleStore(settings).load_configured().identity
    except WorkerError as error:
        return Finding("configured bundle", False, error.detail, "set [worker] bundle, or reinstall the worker")
    detail = f"{identity.name} {identity.version}: hashes and golden cases verified"
    if settings.worker.engine == "openvino-int8" and not has_exact_int8():
        detail += "; this processor has no VNNI: int8 is computed as float32, which is slower"
    return Finding("configured bundle", True, detail)


def _peer(settings: Settings, peer: PeerSection) -> Finding:
    from worker.network.count_queries import associate_for_count

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
        advice = "" if error.reason in _SELF_EXPLAINED else destination.describe().advice
        return Finding(subject, False, error.detail, advice or f"worker echo {destination.name} tries it alone")
    return Finding(subject, True, destination.describe().answer)
