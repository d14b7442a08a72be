from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.requests import ClientDisconnect

from tests.testbed.dcmtk import free_port
from worker.db.engine import Database, DatabaseError
from worker.web import errors


def answer_to(error: Exception) -> httpx.Response:
    app = FastAPI()
    errors.install(app)

    @app.get("/api/v1/broken")
    def broken() -> None:
        raise error

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await client.get("/api/v1/broken")

    return asyncio.run(get())


def test_a_fault_of_ours_is_a_problem_that_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_to(RuntimeError("CANARY^NAME"))
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["cache-control"] == "no-store"
    log = capsys.readouterr()
    assert "CANARY" not in answer.text + log.out + log.err


@pytest.mark.parametrize("statement", ["SELECT CANARY_NAME FROM nothing", "SELECT CANARY NAME FROM FROM"])
def test_a_query_that_is_wrong_is_no_unreachable_database(
    database: Database, statement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatabaseError) as fault, database.read() as session:
        session.execute(text(statement))
    answer = answer_to(fault.value)
    assert (answer.status_code, "retry-after" in answer.headers) == (500, False)
    log = capsys.readouterr()
    assert "the web role failed" in log.out + log.err
    assert "CANARY" not in answer.text + log.out + log.err


def test_a_database_that_cannot_be_asked_is_503(tmp_path: Path) -> None:
    damaged = tmp_path / "worker.db"
    damaged.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 16)
    for url in (f"sqlite:///{damaged}", f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"):
        database = Database(url)
        with pytest.raises(DatabaseError) as fault, database.read() as session:
            session.execute(text("SELECT 1 FROM series"))
        database.close()
        answer = answer_to(fault.value)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), url


def test_a_value_that_no_database_holds_is_400(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    database = Database(postgres_url)
    with pytest.raises(DatabaseError) as fault, database.read() as session:
        session.execute(text("SELECT :value"), {"value": "CANARY\0"})
    database.close()
    answer = answer_to(fault.value)
    assert answer.status_code == 400
    log = capsys.readouterr()
    assert "query failed" in log.out + log.err
    assert "CANARY" not in answer.text + log.out + log.err


def test_a_client_that_leaves_is_no_fault_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_to(ClientDisconnect()).status_code == 400
    log = capsys.readouterr()
    assert "failed" not in log.out + log.err
