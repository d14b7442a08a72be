"""A small application behind the guard, for tests of who gets in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Request

from tests.testbed.instances import later
from worker.audit.messages import AuditEvent
from worker.config.sections import WebSection
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web import guard
from worker.web.guard import Caller, posted, require
from worker.web.sign_in import sign_in_routes


@dataclass
class GuardedApp:
    """An application with a route for each role and the sign-in routes, and requests to it without a network."""

    database: Database
    web: WebSection = field(default_factory=WebSection)
    events: list[AuditEvent] = field(default_factory=list)
    now: datetime = field(default_factory=lambda: later(0))

    def __post_init__(self) -> None:
        app = self.app = FastAPI()
        guard.install(app, Settings(web=self.web), self.database, self.events.append, lambda: self.now)
        app.include_router(sign_in_routes(self.web.session_hours))

        @app.get("/read")
        def read(request: Request, caller: Annotated[Caller, Depends(require(TokenRole.READ))]) -> str:
            return caller.name

        @app.get("/open")
        def open_to_all(request: Request) -> bool:
            return bool(request.app.state.guard.knows(request))

        @app.post("/operate")
        async def operate(
            request: Request, caller: Annotated[Caller, Depends(require(TokenRole.OPERATE))]
        ) -> dict[str, str]:
            return await posted(request) | {"caller": caller.name}

    def token(self, role: TokenRole, name: str | None = None) -> str:
        with self.database.write() as session:
            return tokens.add_token(session, name or role, role, self.now, self.now + timedelta(days=1))[1]

    def request(self, *requests: tuple[str, str, dict[str, Any]], base: str = "http://worker") -> list[httpx.Response]:
        """The answers to requests of one client, which keeps its cookies."""

        async def all_of_them() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base) as client:
                return [await client.request(method, path, **options) for method, path, options in requests]

        return asyncio.run(all_of_them())

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.request(("GET", path, {"headers": headers}))[0]

    def reasons(self) -> list[str | None]:
        return [event.description for event in self.events]


def bearer(token: str) -> dict[str, Any]:
    """The options of a request with a token."""
    return {"headers": {"Authorization": f"Bearer {token}"}}


def through_session(
    app: GuardedApp, *more: Callable[[str], tuple[str, str, dict[str, Any]]], **headers: str
) -> list[httpx.Response]:
    """The answers to requests that are made of the CSRF token of a session, after signing in as an operator."""
    token = app.token(TokenRole.OPERATE)

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app.app), base_url="https://worker") as client:
            done = await client.post("/sign-in", data={"token": token, "next": "/read?a=1"}, headers=headers)
            csrf = tokens.csrf_token(client.cookies[guard.COOKIE])
            answers = [done]
            for make in more:
                method, path, options = make(csrf)
                answers.append(await client.request(method, path, **options))
            return answers

    return asyncio.run(run())
