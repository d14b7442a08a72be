from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from worker.web import errors


def test_a_fault_of_ours_is_a_problem_that_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/api/v1/broken")
    def broken() -> None:
        raise RuntimeError("CANARY^NAME")

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await client.get("/api/v1/broken")

    answer = asyncio.run(get())
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["cache-control"] == "no-store"
    log = capsys.readouterr()
    assert "CANARY" not in answer.text + log.out + log.err
