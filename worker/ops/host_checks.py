"""What `worker serve` needs of this host before it can start: folders, addresses to listen on, TLS files, names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from worker.audit.syslog import connect
from worker.config.paths import sqlite_path
from worker.config.settings import Settings
from worker.errors import StartError
from worker.network import unreachable
from worker.network.known_peers import resolve
from worker.network.listening import binding_fault
from worker.process import ProcessRole
from worker.tls import certificate_fault, client_context, server_context, web_context


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `advice` is what to do about a fault, otherwise empty."""

    subject: str
    well: bool
    detail: str
    advice: str = ""


def folders(settings: Settings) -> Iterator[Finding]:
    """The folders in which files are written; those that do not exist yet must be creatable."""
    yield _folder("data folder", settings.worker.data_dir, settings.receive.minimum_free_bytes)
    places = {"audit folder": settings.audit_dir}
    database = sqlite_path(settings.database.url)
    if database is not None:
        places["database folder"] = database.parent
    for subject, folder in places.items():
        if settings.worker.data_dir not in (folder, *folder.parents):
            yield _folder(subject, folder, 0)


def _folder(subject: str, folder: Path, minimum_bytes: int) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        return Finding(subject, False, f"{folder} cannot be made: {existing} is not a folder", "choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        shown = f"{existing} is not writable" + (f", so {folder} cannot be made" if existing != folder else "")
        return Finding(subject, False, shown, "give the worker's user write access")
    free = shutil.disk_usage(existing).free
    if free < minimum_bytes:
        return Finding(subject, False, f"{free >> 20} MiB free", f"free at least {minimum_bytes >> 20} MiB")
    return Finding(subject, True, f"{folder}, {free / 1e9:.1f} GB free")


def listeners(settings: Settings, running_here: Sequence[str]) -> Iterator[Finding]:
    """The addresses of the receive and web role; `running_here` are the roles that hold theirs already."""
    receive, web = settings.receive, settings.web
    clash = receive.port == web.port and (
        receive.host == web.host or not {receive.host, web.host}.isdisjoint(("0.0.0.0", "::", ""))
    )
    for section, role, host, port in (
        ("receive", ProcessRole.RECEIVE, receive.host, receive.port),
        ("web", ProcessRole.WEB, web.host, web.port),
    ):
        subject = f"{section} port"
        fault = binding_fault(section, host, port)
        if clash:
            detail, advice = f"[receive] and [web] both have port {port}", "give them different ports"
            yield Finding(subject, False, detail, advice)
        elif fault is None:
            yield Finding(subject, True, f"{host}:{port} is free")
        elif role in running_here and "in use" in fault:
            yield Finding(subject, True, f"{host}:{port}, held by the running worker")
        else:
            detail, _, advice = fault.partition("; ")
            yield Finding(subject, False, detail, advice)


def tls_files(settings: Settings, now: datetime) -> Iterator[Finding]:
    """The TLS files of each section that has some: readable, of the same pair, and valid for a month yet."""
    receive, web = settings.receive, settings.web
    if receive.tls_certificate and receive.tls_key and receive.tls_authority:
        authority, pair = receive.tls_authority, (receive.tls_certificate, receive.tls_key)
        yield _tls("[receive] TLS", lambda: server_context(*pair, authority), pair, now, of_server=True)
    if web.tls_certificate and web.tls_key:
        files = (web.tls_certificate, web.tls_key)
        yield _tls("[web] TLS", lambda: web_context(*files), files, now, of_server=True)
    clients: list[tuple[str, object]] = [(f"destination {each.name} TLS", each) for each in settings.destination]
    clients += [*((f"peer {each.ae_title} TLS", each) for each in settings.peer), ("[audit] TLS", settings.audit)]
    for subject, section in clients:
        named: tuple[Path | None, ...] = tuple(
            getattr(section, key, None) for key in ("tls_certificate", "tls_key", "tls_authority")
        )
        if any(named):
            yield _tls(subject, partial(client_context, *named), named[:2], now, of_server=False)


def _tls(
    subject: str, load: Callable[[], object], pair: tuple[Path | None, ...], now: datetime, *, of_server: bool
) -> Finding:
    try:
        load()
        certificate, key = pair
        fault = certificate_fault(certificate, key, now, of_server=of_server) if certificate and key else None
    except StartError as error:
        return Finding(subject, False, error.detail.removeprefix("TLS: "), "correct the path, or make the file anew")
    if fault is not None:
        return Finding(subject, False, fault, "renew the certificate, then restart the worker")
    return Finding(subject, True, "files are there, certificate and key belong together, valid for a month or more")


def host_names(settings: Settings) -> Iterator[Finding]:
    """The names of the peers that call us: an association of a name that does not resolve is a stranger's.

    Those that we call are tried by other checks, which say the same.
    """
    for peer in settings.peer:
        subject = f"peer {peer.ae_title} host"
        if resolve(peer.host):
            yield Finding(subject, True, peer.host)
        else:
            yield Finding(subject, False, unreachable.unresolved(peer.host), "correct host in [[peer]], or the DNS")


def syslog_server(settings: Settings) -> Iterator[Finding]:
    """The server to which the audit trail is forwarded, where that is configured."""
    host, address = settings.audit.syslog_host, f"{settings.audit.syslog_host}:{settings.audit.syslog_port}"
    if host is None:
        return
    try:
        connect(settings.audit).close()
    except StartError as error:
        yield Finding("syslog server", False, error.detail, "see [audit]")
    except (OSError, UnicodeError) as error:
        advice = "the trail is kept here and forwarded later; see [audit] syslog_host"
        yield Finding("syslog server", False, f"it {unreachable.explain(error, host, address)[1]}", advice)
    else:
        yield Finding("syslog server", True, f"{address} accepts our certificate")
