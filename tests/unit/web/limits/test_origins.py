from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from worker.web.limits.origins import AllowedOrigins

VIEWER = "https://viewer.example"
ALLOWED = "access-control-allow-origin"


def answer(method: str, path: str = "/dicom-web/studies", **headers: str) -> httpx.Response:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    def give(path: str) -> str:
        return path

    app.add_middleware(AllowedOrigins, origins=(VIEWER,), prefixes=("/dicom-web", "/api/v1"))

    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
            return await client.request(method, path, headers={key.replace("_", "-"): headers[key] for key in headers})

    return asyncio.run(request())


def preflight(origin: str, method: str = "GET", header: str = "authorization") -> httpx.Response:
    return answer("OPTIONS", origin=origin, access_control_request_method=method, access_control_request_headers=header)


def test_a_preflight_of_an_allowed_site_is_answered() -> None:
    allowed = preflight(VIEWER)
    assert (allowed.status_code, allowed.headers[ALLOWED]) == (200, VIEWER)
    assert "Authorization" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    assert preflight(VIEWER, "POST", "authorization, content-type").status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://viewer.example.evil.example", "null", "http://viewer.example"]
)
def test_another_site_gets_nothing(origin: str) -> None:
    for denied in (preflight(origin), answer("GET", origin=origin)):
        assert ALLOWED not in denied.headers
    assert preflight(origin).status_code == 400
    assert preflight(VIEWER, "DELETE").status_code == 400


def test_an_answer_says_for_whom_it_is() -> None:
    given = answer("GET", origin=VIEWER, authorization="Bearer x")
    assert (given.headers[ALLOWED], given.headers["vary"]) == (VIEWER, "Origin")
    assert "Warning" in given.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in given.headers
    assert ALLOWED not in answer("GET", "/worklist", origin=VIEWER).headers
    assert ALLOWED not in answer("GET").headers
