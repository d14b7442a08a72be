"""Is the worker well? GET /health for people and monitoring."""

from __future__ import annotations

import shutil
import socket
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from worker import __version__, store
from worker.config import Settings


def health_routes(settings: Settings, database: store.Store) -> APIRouter:
    """GET /health: 200 when the worker can receive and record, else 503; either way with what is wrong."""
    routes = APIRouter(prefix="/health")

    @routes.get("")
    def health(response: Response) -> dict[str, Any]:
        report = check_health(settings, database)
        response.status_code = 200 if report["status"] == "ok" else 503
        return report

    return routes


def check_health(settings: Settings, database: store.Store) -> dict[str, Any]:
    """The parts that must work for a C-STORE to be kept, and the counts that tell a person how things stand."""
    checks = {
        "database": "ok",
        "receiver": "ok" if _listens(settings.receive.host, settings.receive.port) else "not listening",
        "disk": "ok",
    }
    counts: dict[str, dict[str, int]] = {}
    try:
        with database.read() as session:
            counts = store.counts(session)
    except SQLAlchemyError as error:
        checks["database"] = f"unreachable ({type(error).__name__})"
    free = shutil.disk_usage(settings.worker.data_dir).free
    if free < settings.receive.minimum_free_bytes:
        checks["disk"] = "below minimum_free_bytes: instances are refused with 0xA700"
    healthy = all(value == "ok" for value in checks.values())
    return {
        "status": "ok" if healthy else "failing",
        "version": __version__,
        "checks": checks,
        "free_bytes": free,
        "counts": counts,
    }


def _listens(host: str, port: int) -> bool:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    try:
        with socket.create_connection((target, port), timeout=1):
            return True
    except OSError:
        return False
