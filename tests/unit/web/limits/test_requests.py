from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from worker.web.limits.requests import MAXIMUM_ADDRESS_BYTES, MAXIMUM_BODY_BYTES, MOST_HEADERS, RequestLimits


class Body(BaseModel):
    text: str


def answer(method: str, path: str, **options: Any) -> httpx.Response:
    app = FastAPI()

    @app.post("/json")
    def take(body: Body) -> int:
        return len(body.text)

    @app.get("/{path:path}")
    def give(path: str) -> str:
        return path

    app.add_middleware(RequestLimits)

    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
            return await client.request(method, path, **options)

    return asyncio.run(request())


def test_a_large_json_body_is_413() -> None:
    assert answer("POST", "/json", json={"text": "x" * 1000}).status_code == 200
    assert answer("POST", "/json", json={"text": "x" * (2 * MAXIMUM_BODY_BYTES)}).status_code == 413
    assert answer("POST", "/json", content="{", headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize(("number", "status"), [(150, 200), (MOST_HEADERS + 1, 431), (12_000, 431)])
def test_more_headers_than_any_client_sends_are_not_looked_at(number: int, status: int) -> None:
    assert answer("GET", "/a", headers=[("a", "b")] * number).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/a%00", 404),
        ("/a?text=b%00c", 400),
        ("/" + "x" * MAXIMUM_ADDRESS_BYTES, 414),
        ("/a?text=" + "x" * MAXIMUM_ADDRESS_BYTES, 414),
        ("/" + "x" * 4000, 200),
    ],
)
def test_addresses_that_nothing_can_have(path: str, status: int) -> None:
    response = answer("GET", path)
    assert response.status_code == status
    assert response.headers["x-content-type-options"] == "nosniff"
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"
