"""Who gets in to the web interface, what everybody else gets, and what is written down of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from tests.testbed.instances import later
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings, WebSection
from worker.db import tokens
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import TokenRole
from worker.web import guard
from worker.web.guard import Caller, posted, require
from worker.web.sign_in import sign_in_routes

_FORM = {"content-type": "application/x-www-form-urlencoded"}


@dataclass
class Site:
    """A web application with a route for each role, and the means to ask it."""

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

    def ask(self, *asked: tuple[str, str, dict[str, Any]], base: str = "http://worker") -> list[httpx.Response]:
        """The answers to requests of one client, which keeps its cookies."""

        async def all_of_them() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base) as client:
                return [await client.request(method, path, **options) for method, path, options in asked]

        return asyncio.run(all_of_them())

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask(("GET", path, {"headers": headers}))[0]

    def told(self) -> list[str | None]:
        return [event.description for event in self.events]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('guard') / 'worker.db'}"
    database = Database(url)
    migrate(database)
    database.close()
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM web_session")
        connection.exec_driver_sql("DELETE FROM token")
    database.close()


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


def _bearer(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def test_a_token_opens_what_its_role_allows(site: Site) -> None:
    reader, operator = site.token(TokenRole.READ), site.token(TokenRole.OPERATE)
    answers = site.ask(
        ("GET", "/read", _bearer(reader)),
        ("GET", "/read", _bearer(operator)),
        ("POST", "/operate", _bearer(operator)),
        ("POST", "/operate", _bearer(reader)),
    )
    assert [one.status_code for one in answers] == [200, 200, 200, 403]
    assert answers[0].json() == "read"
    assert site.told() == ["the role read does not allow this"]
    assert site.events[0].participants[0].user_id == "read"


@pytest.mark.parametrize("how", ["missing", "wrong", "expired", "revoked", "no scheme"])
def test_without_a_valid_token_there_is_a_problem_and_nothing_else(site: Site, how: str) -> None:
    token = site.token(TokenRole.READ)
    if how == "expired":
        site.now += timedelta(days=2)
    if how == "revoked":
        with site.database.write() as session:
            tokens.revoke_token(session, "read", site.now)
    headers = {
        "missing": {},
        "wrong": {"Authorization": f"Bearer {token}x"},
        "no scheme": {"Authorization": token},
    }.get(how, {"Authorization": f"Bearer {token}"})
    answer = site.get("/read", **headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"status": 401, "detail": "this needs a valid token"}
    assert "Bearer" in answer.headers["www-authenticate"]
    [event] = site.events
    assert event.description == f"token {'wrong' if how == 'no scheme' else how}"
    assert (event.id.meaning, event.outcome) == ("User Authentication", 4)
    assert event.subjects[0].id == "/read"


def test_every_answer_has_the_headers(site: Site) -> None:
    for answer in site.ask(("GET", "/read", {}), ("GET", "/sign-in", {}), ("GET", "/nowhere", {})):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_failures_are_limited_and_the_audit_trail_is_not_flooded(site: Site) -> None:
    wrong = [("GET", "/read", _bearer("bmw_x_y"))] * 25
    answers = site.ask(*wrong, ("GET", "/read", _bearer(site.token(TokenRole.READ))))
    assert [one.status_code for one in answers] == [401] * 20 + [429] * 6
    assert answers[-1].headers["retry-after"] == "60"
    assert len(site.events) == 20
    assert "not recorded" in str(site.told()[-1])


def test_missing_tokens_lock_nobody_out(site: Site) -> None:
    answers = site.ask(*[("GET", "/read", {})] * 30, ("GET", "/read", _bearer(site.token(TokenRole.READ))))
    assert [one.status_code for one in answers] == [401] * 30 + [200]
    assert len(site.events) == 20


# --- browsers --------------------------------------------------------------------------------------------------


def _signed_in(
    site: Site, *more: Callable[[str], tuple[str, str, dict[str, Any]]], **headers: str
) -> list[httpx.Response]:
    """The answers to requests that are made of the CSRF token of a session, after signing in as an operator."""
    token = site.token(TokenRole.OPERATE)

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="https://worker") as client:
            done = await client.post("/sign-in", data={"token": token, "next": "/read?a=1"}, headers=headers)
            csrf = tokens.csrf_token(client.cookies[guard.COOKIE])
            answers = [done]
            for make in more:
                method, path, options = make(csrf)
                answers.append(await client.request(method, path, **options))
            return answers

    return asyncio.run(run())


def test_a_browser_is_led_to_the_form_and_back(site: Site) -> None:
    led = site.get("/read?a=1&b=2", accept="text/html")
    assert (led.status_code, led.headers["location"]) == (303, "/sign-in?next=/read%3Fa%3D1%26b%3D2")
    done, read = _signed_in(site, lambda _: ("GET", "/read", {}))
    assert (done.status_code, done.headers["location"]) == (303, "/read?a=1")
    cookie = done.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure", "max-age=43200", "path=/"))
    assert read.json() == "operate"
    assert [event.type.meaning for event in site.events if event.outcome == 0 and event.type] == ["Login"]


def test_a_form_must_be_ours(site: Site) -> None:
    def form(fields: dict[str, str], **headers: str) -> Callable[[str], tuple[str, str, dict[str, Any]]]:
        return lambda csrf: (
            "POST",
            "/operate",
            {"data": {key: value.format(csrf) for key, value in fields.items()}, "headers": headers},
        )

    _, *answers = _signed_in(
        site,
        form({"csrf_token": "{}", "job": "7"}),
        lambda csrf: ("POST", "/operate", {"headers": {"X-CSRF-Token": csrf}}),
        form({"job": "7"}),
        form({"csrf_token": "0" * 64}),
        form({"csrf_token": "{}"}, origin="https://evil.example"),
        form({"csrf_token": "{}"}, **{"sec-fetch-site": "cross-site"}),
        form({"csrf_token": "{}"}, origin="https://worker"),
    )
    assert [one.status_code for one in answers] == [200, 200, 403, 403, 403, 403, 200]
    assert answers[0].json()["job"] == "7"
    assert site.told().count("a cross-site or expired form") == 4


def test_signing_out_ends_the_session(site: Site) -> None:
    _, out, after = _signed_in(
        site,
        lambda csrf: ("POST", "/sign-out", {"data": {"csrf_token": csrf}}),
        lambda _: ("GET", "/read", {}),
    )
    assert (out.status_code, after.status_code) == (303, 401)


def test_a_session_ends_after_its_hours_and_its_cookie_is_taken_back(site: Site) -> None:
    def much_later(_csrf: str) -> tuple[str, str, dict[str, Any]]:
        site.now += timedelta(hours=12)
        return "GET", "/read", {}

    _, after = _signed_in(site, much_later)
    assert after.status_code == 401
    assert f'{guard.COOKIE}=""' in after.headers["set-cookie"]
    assert site.told()[-1] == "token expired"


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nb: c"])
def test_signing_in_leads_nowhere_else(site: Site, target: str) -> None:
    token = site.token(TokenRole.READ)
    [done] = site.ask(("POST", "/sign-in", {"data": {"token": token, "next": target}}))
    assert done.headers["location"] == "/"


def test_a_wrong_token_or_another_site_is_not_signed_in(site: Site) -> None:
    token = site.token(TokenRole.READ)
    wrong, foreign = site.ask(
        ("POST", "/sign-in", {"data": {"token": "<script>", "next": '"><b>'}}),
        ("POST", "/sign-in", {"data": {"token": token}, "headers": {"origin": "https://evil.example"}}),
    )
    assert (wrong.status_code, foreign.status_code) == (401, 403)
    assert "set-cookie" not in wrong.headers
    assert "set-cookie" not in foreign.headers
    assert "<b>" not in wrong.text


# --- without tokens, and limits --------------------------------------------------------------------------------


def test_without_tokens_only_this_machine_by_its_own_name_gets_in(database: Database) -> None:
    site = Site(database, WebSection(require_token=False))
    for base, status in (
        ("http://127.0.0.1:8080", 200),
        ("http://localhost", 200),
        ("http://[::1]:8080", 200),
        ("http://evil.example", 403),
    ):
        [answer] = site.ask(("GET", "/read", {}), base=base)
        assert answer.status_code == status, base
    own, foreign = site.ask(
        ("POST", "/operate", {"headers": {"origin": "http://localhost"}}),
        ("POST", "/operate", {"headers": {"origin": "http://evil.example"}}),
        base="http://localhost",
    )
    assert (own.status_code, foreign.status_code) == (200, 403)


def test_tokens_cannot_be_switched_off_for_the_network() -> None:
    with pytest.raises(ValueError, match="require_token"):
        WebSection(host="0.0.0.0", require_token=False)
    with pytest.raises(ValueError, match="together"):
        WebSection(tls_certificate=Path("a.pem"))


def test_a_request_may_not_be_huge(site: Site) -> None:
    [answer] = site.ask(
        ("POST", "/sign-in", {"content": b"token=" + b"x" * (1 << 20), "headers": _FORM}),
    )
    assert answer.status_code == 413


def test_details_are_for_this_machine_and_for_holders_of_tokens(database: Database) -> None:
    for host, details in (("127.0.0.1", True), ("0.0.0.0", False)):
        site = Site(database, WebSection(host=host))
        token = site.token(TokenRole.READ, f"of-{host}")
        answers = site.ask(("GET", "/open", {}), ("GET", "/open", _bearer(token)), ("GET", "/open", _bearer("x")))
        assert [one.json() for one in answers] == [details, True, details]
        assert site.events == []


def test_a_lost_database_is_503(tmp_path: Path) -> None:
    lost = Database(f"sqlite:///{tmp_path}/empty.db")
    [answer] = Site(lost).ask(("GET", "/read", _bearer("bmw_x_y")))
    assert answer.status_code == 503
    lost.close()
