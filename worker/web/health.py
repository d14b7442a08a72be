"""Is the worker well? GET /health for people and monitoring."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from worker import __version__
from worker.audit.recorder import audit_faults
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError
from worker.db.processes import ProcessStatus, list_processes
from worker.db.series_status import unfinished_counts
from worker.db.tables import ModelState
from worker.db.views.model_comparison import ModelStatus, awaited_models, model_statuses, unserved_models
from worker.process import ProcessRole
from worker.web.guard import Guard

FAILING: dict[int | str, dict[str, Any]] = {503: {"description": "As 200, with what is at fault"}}


def health_routes(settings: Settings, database: Database, clock: Callable[[], datetime]) -> APIRouter:
    """GET /health for people; /health/live and /health/ready for what starts processes and shares out load."""
    routes = APIRouter(prefix="/health")

    @routes.get("", responses=FAILING)
    def health(request: Request, response: Response) -> dict[str, Any]:
        """200 when the worker can receive and record, else 503; what is wrong for those who may know it."""
        return _answer(request, response, check_health(settings, database, clock()))

    @routes.get("/live")
    def live() -> dict[str, str]:
        """200: this process answers."""
        return {"status": "ok"}

    @routes.get("/ready", responses=FAILING)
    def ready(request: Request, response: Response) -> dict[str, Any]:
        """200 when database and disk are well and every role runs somewhere, else 503."""
        return _answer(request, response, check_ready(settings, database, clock()))

    return routes


def _answer(request: Request, response: Response, report: dict[str, Any]) -> dict[str, Any]:
    """Details for this machine and for whoever holds a token; nothing but the status for the rest of the network."""
    response.status_code = 200 if report["status"] == "ok" else 503
    guard: Guard = request.app.state.guard
    return report if guard.knows(request) else {"status": report["status"]}


def check_health(settings: Settings, database: Database, now: datetime) -> dict[str, Any]:
    """The parts that must work for a C-STORE to be kept, and the counts of what is not done yet, or failed."""
    counts: dict[str, dict[str, int]] = {}
    living: list[ProcessStatus] = []
    models: list[ModelStatus] = []
    awaited: list[str] = []
    checks = {"database": "ok", "receiver": "ok", "disk": _disk(settings), "audit": "ok"}
    try:
        with database.read() as session:
            checks["audit"] = "; ".join(audit_faults(session)) or "ok"
            counts = unfinished_counts(session)
            models = [one for one in model_statuses(session) if one.state in (ModelState.ACTIVE, ModelState.SHADOW)]
            awaited = awaited_models(session, settings.route)
            living = list_processes(session, now, _lease(settings))
    except DatabaseError as error:
        checks["database"] = f"unreachable ({type(error).__name__})"
    receivers = [one for one in living if one.role == ProcessRole.RECEIVE and not one.lost]
    if not receivers:
        checks["receiver"] = "no receiving process is seen"
    elif all(one.host == socket.gethostname() for one in receivers) and not listens(settings):
        checks["receiver"] = "not listening"
    return {
        **_report(checks),
        "free_bytes": shutil.disk_usage(settings.worker.data_dir).free,
        "counts": counts,
        "models": [asdict(one) for one in models],
        "awaited_models": awaited,
        "processes": [asdict(one) for one in living],
    }


def check_ready(settings: Settings, database: Database, now: datetime) -> dict[str, Any]:
    """Whether what comes in now is also classified and sent: each role lives on this host or another."""
    checks = {"database": "ok", "disk": _disk(settings)}
    try:
        with database.read() as session:
            seen = list_processes(session, now, _lease(settings))
            if unserved := unserved_models(session):
                checks["models"] = "; ".join(unserved)
    except DatabaseError as error:
        checks["database"] = f"unreachable ({type(error).__name__})"
        return _report(checks)
    for role in ProcessRole:
        if role == ProcessRole.SEND and not settings.destination:
            continue
        of_role = [one for one in seen if one.role == role]
        if not of_role:
            checks[role] = "not running"
        elif all(one.lost for one in of_role):
            silent = max(one.seen_at for one in of_role)
            checks[role] = f"not seen since {silent:%Y-%m-%dT%H:%M:%SZ}"
        else:
            checks[role] = "ok"
    return _report(checks)


def _report(checks: dict[str, str]) -> dict[str, Any]:
    well = all(value == "ok" for value in checks.values())
    return {"status": "ok" if well else "failing", "version": __version__, "checks": checks}


def _lease(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.worker.lease_seconds)


def _disk(settings: Settings) -> str:
    if shutil.disk_usage(settings.worker.data_dir).free < settings.receive.minimum_free_bytes:
        return "below minimum_free_bytes: instances are refused with 0xA700"
    return "ok"


def listens(settings: Settings) -> bool:
    """Whether the DICOM port of this host takes connections."""
    host = settings.receive.host
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    try:
        with socket.create_connection((target, settings.receive.port), timeout=1):
            return True
    except OSError:
        return False
