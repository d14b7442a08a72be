"""GET /health: whether the worker can receive and record, for people and monitoring."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from worker import __version__
from worker.audit.recorder import audit_faults
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError, is_unavailable
from worker.db.instances import file_fault_counts
from worker.db.operating.suspensions import Suspension, list_suspensions
from worker.db.processes import ProcessStatus, list_processes
from worker.db.series_status import unfinished_counts
from worker.db.tables import ModelState
from worker.db.views.model_comparison import ModelStatus, awaited_models, model_statuses, unserved_models
from worker.process import ProcessRole
from worker.web.guard import Guard

FAILING: dict[int | str, dict[str, Any]] = {503: {"description": "As 200, with the failing checks"}}


def health_routes(settings: Settings, database: Database, clock: Callable[[], datetime]) -> APIRouter:
    """GET /health for people; /health/live and /health/ready for process managers and load balancers."""
    routes = APIRouter(prefix="/health")

    @routes.get("", responses=FAILING)
    def health(request: Request, response: Response) -> dict[str, Any]:
        """200 when the worker can receive and record, else 503; details for callers that may see them."""
        return _answer(request, response, check_health(settings, database, clock()))

    @routes.get("/live")
    def live() -> dict[str, str]:
        """200: this process is running."""
        return {"status": "ok"}

    @routes.get("/ready", responses=FAILING)
    def ready(request: Request, response: Response) -> dict[str, Any]:
        """200 when database and disk are usable and every role runs on some host, else 503."""
        return _answer(request, response, check_ready(settings, database, clock()))

    return routes


def _answer(request: Request, response: Response, report: dict[str, Any]) -> dict[str, Any]:
    """Details for this machine and for holders of a token; only the status for the rest of the network."""
    response.status_code = 200 if report["status"] == "ok" else 503
    guard: Guard = request.app.state.guard
    return report if guard.knows(request) else {"status": report["status"]}


def check_health(settings: Settings, database: Database, now: datetime) -> dict[str, Any]:
    """The checks on which storing an instance depends, and counts of unfinished and failed work."""
    counts: dict[str, dict[str, int]] = {}
    living: list[ProcessStatus] = []
    models: list[ModelStatus] = []
    awaited: list[str] = []
    suspended: list[Suspension] = []
    checks = {"database": "ok", "receiver": "ok", "disk": _disk(settings), "audit": "ok"}
    try:
        with database.read() as session:
            checks["audit"] = "; ".join(audit_faults(session)) or "ok"
            counts = unfinished_counts(session)
            counts["files"] = {fault.value: number for fault, number in file_fault_counts(session).items()}
            models = [
                model for model in model_statuses(session) if model.state in (ModelState.ACTIVE, ModelState.SHADOW)
            ]
            awaited = awaited_models(session, settings.route)
            living = list_processes(session, now, _lease(settings))
            suspended = list_suspensions(session)
    except DatabaseError as error:
        checks["database"] = _fault(error)
    receivers = [process for process in living if process.role == ProcessRole.RECEIVE and not process.lost]
    if _is_here(receivers) and checks["disk"] == "ok":
        checks["disk"] = _incoming(settings)
    if not receivers:
        checks["receiver"] = "no receiving process is running"
    elif all(process.host == socket.gethostname() for process in receivers) and not listens(settings):
        checks["receiver"] = "not listening"
    return {
        **_report(checks),
        "free_bytes": _free_bytes(settings),
        "counts": counts,
        "models": [asdict(model) for model in models],
        "awaited_models": awaited,
        "suspended": [asdict(suspension) for suspension in suspended],
        "processes": [asdict(process) for process in living],
    }


def _fault(error: DatabaseError) -> str:
    return f"{'unreachable' if is_unavailable(error) else 'a query failed'} ({type(error).__name__})"


def check_ready(settings: Settings, database: Database, now: datetime) -> dict[str, Any]:
    """Whether what is received now is also classified and sent: each role runs on this host or another."""
    checks = {"database": "ok", "disk": _disk(settings)}
    try:
        with database.read() as session:
            seen = list_processes(session, now, _lease(settings))
            if _is_here([process for process in seen if process.role == ProcessRole.RECEIVE and not process.lost]):
                checks["disk"] = checks["disk"] if checks["disk"] != "ok" else _incoming(settings)
            if unserved := unserved_models(session):
                checks["models"] = "; ".join(unserved)
    except DatabaseError as error:
        checks["database"] = _fault(error)
        return _report(checks)
    for role in ProcessRole:
        if role == ProcessRole.SEND and not settings.destination:
            continue
        of_role = [process for process in seen if process.role == role]
        if not of_role:
            checks[role] = "not running"
        elif all(process.lost for process in of_role):
            silent = max(process.seen_at for process in of_role)
            checks[role] = f"not seen since {silent:%Y-%m-%dT%H:%M:%SZ}"
        else:
            checks[role] = "ok"
    return _report(checks)


def _report(checks: dict[str, str]) -> dict[str, Any]:
    healthy = all(value == "ok" for value in checks.values())
    return {"status": "ok" if healthy else "failing", "version": __version__, "checks": checks}


def _lease(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.worker.lease_seconds)


def _is_here(receivers: Sequence[ProcessStatus]) -> bool:
    return any(process.host == socket.gethostname() for process in receivers)


def _incoming(settings: Settings) -> str:
    """The receiver on this host creates the folder when it starts, so that it tells whether the disk is there."""
    if (settings.worker.data_dir / "instances" / "incoming").is_dir():
        return "ok"
    return "instances/incoming is missing below the data folder: nothing can be stored; mount or restore, then restart"


def _free_bytes(settings: Settings) -> int:
    try:
        return shutil.disk_usage(settings.worker.data_dir).free
    except OSError:
        return 0


def _disk(settings: Settings) -> str:
    if not settings.worker.data_dir.is_dir():
        return "the data folder is missing"
    if _free_bytes(settings) < settings.receive.minimum_free_bytes:
        return "below minimum_free_bytes: instances are refused with 0xA700"
    return "ok"


def listens(settings: Settings) -> bool:
    """Whether the DICOM port of this host accepts connections."""
    host = settings.receive.host
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    try:
        with socket.create_connection((target, settings.receive.port), timeout=1):
            return True
    except OSError:
        return False
