"""What monitoring reads: whether an instance would be stored, and whether every role runs on some host."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete

from tests.testbed.instances import MODEL, later, new_instance
from worker.audit.events import unrecorded
from worker.config.sections import DatabaseSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_file_fault, add_instance, file_of
from worker.db.models import model_row
from worker.db.processes import beat
from worker.db.series import queue_series
from worker.db.tables import FileFault, ProcessRow, SeriesRow
from worker.process import ProcessRole, process_name
from worker.send.destinations.c_store import CStoreDestination
from worker.web import guard
from worker.web.health import check_health, check_ready, health_routes


@pytest.fixture
def port() -> Iterator[int]:
    """A port that listens, as the receiver's would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def settings(tmp_path: Path, port: int) -> Settings:
    return Settings(
        worker=WorkerSection(data_dir=tmp_path),
        receive=ReceiveSection(host="127.0.0.1", port=port, minimum_free_bytes=0),
        destination=(CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=4242),),
    )


def _live(database: Database, host: str, *roles: ProcessRole, at: float = 0) -> None:
    with database.write() as session:
        for number, role in enumerate(roles, 1_000_000_000):  # beyond any process id of this host
            beat(session, f"{host}:{number}", role, later(0), later(at))


def test_ready_when_every_role_lives_on_some_host(database: Database, settings: Settings) -> None:
    _live(database, "a", ProcessRole.RECEIVE, ProcessRole.WEB)
    assert check_ready(settings, database, later(1))["checks"] == {
        "database": "ok", "disk": "ok", "receive": "ok", "web": "ok", "infer": "not running", "send": "not running",
    }  # fmt: skip
    _live(database, "b", ProcessRole.INFER, ProcessRole.SEND)
    assert check_ready(settings, database, later(1))["status"] == "ok"


def test_a_lost_host_is_replaced_or_named(database: Database, settings: Settings) -> None:
    _live(database, "a", *ProcessRole)
    _live(database, "b", ProcessRole.INFER, at=50)
    report = check_ready(settings, database, later(60))
    assert report["status"] == "failing"
    assert report["checks"]["infer"] == "ok"
    assert report["checks"]["receive"] == "not seen since 2026-03-01T12:00:00Z"


def test_health_asks_the_port_only_where_the_receiver_is_on_this_host(database: Database, settings: Settings) -> None:
    assert check_health(settings, database, later(1))["checks"]["receiver"] == "no receiving process is running"
    _live(database, "elsewhere", ProcessRole.RECEIVE)
    unheard = settings.model_copy(update={"receive": settings.receive.model_copy(update={"port": 1})})
    report = check_health(unheard, database, later(1))
    assert report["status"] == "ok"
    assert [(row["host"], row["role"], row["lost"]) for row in report["processes"]] == [("elsewhere", "receive", False)]
    with database.write() as session:
        beat(session, process_name(), ProcessRole.RECEIVE, later(0), later(0))
        session.execute(delete(ProcessRow).where(ProcessRow.host == "elsewhere"))
    assert check_health(settings, database, later(1))["checks"]["receiver"] == "ok"
    assert check_health(unheard, database, later(1))["checks"]["receiver"] == "not listening"


def test_health_counts_what_is_not_done(database: Database, settings: Settings) -> None:
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        for name in "ab":
            add_instance(session, new_instance(1, name), later(0))
        queue_series(session, session.get_one(SeriesRow, 1), model, later(0))
    assert check_health(settings, database, later(1))["counts"] == {
        "series": {"open": 1},
        "jobs": {"pending": 1, "running": 0, "parked": 0},
        "studies": {"open": 2, "parked": 0},
        "deliveries": {"pending": 0, "sending": 0, "failed": 0},
        "files": {"damaged": 0, "missing": 0},
    }


@pytest.mark.parametrize(
    ("minimum", "lost_database", "failing"),
    [(1 << 62, False, "disk"), (0, True, "database")],
)
def test_a_full_disk_and_a_lost_database_are_503(
    database: Database, settings: Settings, tmp_path: Path, minimum: int, lost_database: bool, failing: str
) -> None:
    receive = settings.receive.model_copy(update={"minimum_free_bytes": minimum})
    settings = settings.model_copy(update={"receive": receive, "database": DatabaseSection()})
    checked = Database(f"sqlite:///{tmp_path}/other.db") if lost_database else database
    app = FastAPI()
    guard.install(app, settings, checked, unrecorded, lambda: later(0))
    app.include_router(health_routes(settings, checked, lambda: later(0)))
    answers = {path: _get(app, path) for path in ("/health", "/health/ready", "/health/live")}
    assert [answer.status_code for answer in answers.values()] == [503, 503, 200]
    assert answers["/health"].json()["checks"][failing] != "ok"
    assert answers["/health/ready"].json()["checks"][failing] != "ok"
    checked.close()


def _get(app: FastAPI, path: str) -> httpx.Response:
    import asyncio

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get(path)

    return asyncio.run(get())


def test_a_data_folder_that_is_gone_is_noticed(database: Database, settings: Settings, tmp_path: Path) -> None:
    _live(database, "elsewhere", *ProcessRole)
    incoming = tmp_path / "instances" / "incoming"
    assert check_health(settings, database, later(1))["checks"]["disk"] == "ok"  # its receiver has a folder of its own
    with database.write() as session:
        beat(session, process_name(), ProcessRole.RECEIVE, later(0), later(0))
    for check in (check_health, check_ready):
        assert "incoming is missing" in check(settings, database, later(1))["checks"]["disk"]
        incoming.mkdir(parents=True)
        assert check(settings, database, later(1))["checks"]["disk"] == "ok"
        shutil.rmtree(tmp_path / "instances")
    gone = settings.model_copy(update={"worker": WorkerSection(data_dir=tmp_path / "gone")})
    for check in (check_health, check_ready):
        assert check(gone, database, later(1))["checks"]["disk"] == "the data folder is missing"


def test_health_counts_faulty_files(database: Database, settings: Settings) -> None:
    with database.write() as session:
        file = file_of(add_instance(session, new_instance(), later(0)))
        add_file_fault(session, file, FileFault.MISSING, later(0))
    assert check_health(settings, database, later(1))["counts"]["files"] == {"damaged": 0, "missing": 1}
