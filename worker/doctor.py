"""`worker doctor`: look at everything the service needs, and say what to do about each fault."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker import store
from worker.config import Settings
from worker.errors import WorkerError
from worker.tables import REVISION


@dataclass(frozen=True, slots=True)
class Finding:
    """One look: `advice` is what to do, empty when all is well."""

    subject: str
    well: bool
    detail: str
    advice: str = ""


def examine(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Every finding, well or not; nothing is changed."""
    shown = str(config) if config else "defaults (no file)"
    if settings.destination:
        yield Finding("configuration", True, shown)
    else:
        yield Finding("configuration", False, shown, "add a [[destination]]: without one no report is sent anywhere")
    yield _data_folder(settings)
    yield _database(settings)
    yield _bundle(settings)
    for destination in settings.destination:
        where = f"{destination.ae_title} at {destination.host}:{destination.port}"
        yield _destination(settings, destination.name, where)


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
        database = store.Store(settings.database.url)
        revision = database.revision()
        if revision is None:
            return Finding("database", True, "empty; `worker serve` or `worker migrate` makes the tables")
        database.require_revision()
        with database.read() as session:
            counts = store.counts(session)
    except WorkerError as error:
        advice = "check [database] url and that the server runs" if error.reason == "database-unreachable" else ""
        return Finding("database", False, error.detail, advice or "see the message")
    parked = counts["jobs"].get("parked", 0)
    failed = counts["deliveries"].get("failed", 0)
    detail = f"revision {REVISION}, {sum(counts['series'].values())} series"
    if parked or failed:
        return Finding(
            "database", False, f"{detail}, {parked} parked jobs, {failed} failed deliveries", "worker jobs list"
        )
    return Finding("database", True, detail)


def _bundle(settings: Settings) -> Finding:
    from worker.serve import load_classifier

    try:
        identity, _ = load_classifier(settings)
    except WorkerError as error:
        return Finding("model", False, error.detail, "set [worker] bundle, or install the worker again")
    return Finding("model", True, f"{identity.name} {identity.version}, hashes and golden cases agree")


def _destination(settings: Settings, name: str, where: str) -> Finding:
    from worker.outbound.send import echo

    destination = next(one for one in settings.destination if one.name == name)
    try:
        echo(destination, settings.worker.ae_title)
    except WorkerError as error:
        advice = f"is it running, reachable, and does it know our AE title {settings.worker.ae_title}?"
        return Finding(f"destination {name}", False, error.detail, advice)
    return Finding(f"destination {name}", True, f"{where} answers C-ECHO")
