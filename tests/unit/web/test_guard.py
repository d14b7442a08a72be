"""Who gets in to the web interface, what everybody else gets, and what is written down of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.guarded_app import GuardedApp, bearer, through_session
from worker.config.sections import WebSection
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web import guard

_FORM = {"content-type": "application/x-www-form-urlencoded"}


def test_a_token_opens_what_its_role_allows(app: GuardedApp) -> None:
    reader, operator = app.token(TokenRole.READ), app.token(TokenRole.OPERATE)
    answers = app.request(
        ("GET", "/read", bearer(reader)),
        ("GET", "/read", bearer(operator)),
        ("POST", "/operate", bearer(operator)),
        ("POST", "/operate", bearer(reader)),
    )
    assert [answer.status_code for answer in answers] == [200, 200, 200, 403]
    assert answers[0].json() == "read"
    assert app.reasons() == ["the role read does not allow this"]
    assert app.events[0].participants[0].user_id == "read"


@pytest.mark.parametrize("how", ["missing", "wrong", "expired", "revoked", "no scheme"])
def test_without_a_valid_token_there_is_a_problem_and_nothing_else(app: GuardedApp, how: str) -> None:
    token = app.token(TokenRole.READ)
    if how == "expired":
        app.now += timedelta(days=2)
    if how == "revoked":
        with app.database.write() as session:
            tokens.revoke_token(session, "read", app.now)
    headers = {
        "missing": {},
        "wrong": {"Authorization": f"Bearer {token}x"},
        "no scheme": {"Authorization": token},
    }.get(how, {"Authorization": f"Bearer {token}"})
    answer = app.get("/read", **headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"status": 401, "detail": "this needs a valid token"}
    assert "Bearer" in answer.headers["www-authenticate"]
    [event] = app.events
    assert event.description == f"token {'wrong' if how == 'no scheme' else how}"
    assert (event.id.meaning, event.outcome) == ("User Authentication", 4)
    assert event.subjects[0].id == "/read"


def test_every_answer_has_the_headers(app: GuardedApp) -> None:
    for answer in app.request(("GET", "/read", {}), ("GET", "/sign-in", {}), ("GET", "/nowhere", {})):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_a_wrong_credential_is_refused_faster_after_a_while_and_a_valid_one_always_passes(app: GuardedApp) -> None:
    wrong = [("GET", "/read", bearer("bmw_x_y"))] * 25
    valid = bearer(app.token(TokenRole.READ))
    answers = app.request(*wrong, ("GET", "/read", valid), ("GET", "/read", bearer("bmw_x_z")))
    assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 5 + [200, 401]
    assert answers[24].headers["retry-after"] == "60"


def test_ever_other_wrong_credentials_of_an_address_are_limited_too(app: GuardedApp) -> None:
    valid = bearer(app.token(TokenRole.READ))
    guesses = [("GET", "/read", bearer(f"bmw_x_{number}")) for number in range(210)]
    answers = app.request(*guesses, ("GET", "/read", valid), ("POST", "/sign-in", {"data": {"token": "bmw_x_y"}}))
    assert [answer.status_code for answer in answers] == [401] * 200 + [429] * 10 + [200, 429]
    [signed_in] = app.request(("POST", "/sign-in", {"data": {"token": app.token(TokenRole.READ, "other")}}))
    assert signed_in.status_code == 303


def test_missing_tokens_and_expired_cookies_lock_nobody_out(app: GuardedApp) -> None:
    old = {"headers": {"Cookie": f"{guard.COOKIE}=expired"}}
    answers = app.request(
        *[("GET", "/read", {})] * 250,
        *[("GET", "/read", old)] * 250,
        ("POST", "/sign-in", {"data": {"token": app.token(TokenRole.READ)}}),
    )
    assert [answer.status_code for answer in answers] == [401] * 500 + [303]


# --- browsers --------------------------------------------------------------------------------------------------


def test_a_form_must_be_ours(app: GuardedApp) -> None:
    def form(fields: dict[str, str], **headers: str) -> Callable[[str], tuple[str, str, dict[str, Any]]]:
        return lambda csrf: (
            "POST",
            "/operate",
            {"data": {key: value.format(csrf) for key, value in fields.items()}, "headers": headers},
        )

    _, *answers = through_session(
        app,
        form({"csrf_token": "{}", "job": "7"}),
        lambda csrf: ("POST", "/operate", {"headers": {"X-CSRF-Token": csrf}}),
        form({"job": "7"}),
        form({"csrf_token": "0" * 64}),
        form({"csrf_token": "{}"}, origin="https://evil.example"),
        form({"csrf_token": "{}"}, **{"sec-fetch-site": "cross-site"}),
        form({"csrf_token": "{}"}, origin="http://["),
        form({"csrf_token": "{}"}, origin="https://worker"),
    )
    assert [answer.status_code for answer in answers] == [200, 200, 403, 403, 403, 403, 403, 200]
    assert answers[0].json()["job"] == "7"
    assert app.reasons().count("a cross-site or expired form") == 5


def test_a_page_of_an_allowed_site_may_post_with_a_token_only(token_database: Database) -> None:
    app = GuardedApp(token_database, WebSection(cors_origins=("https://viewer.example",)))
    foreign = {"origin": "https://viewer.example", "sec-fetch-site": "cross-site"}
    token = bearer(app.token(TokenRole.OPERATE, "viewer"))["headers"]
    allowed, other = app.request(
        ("POST", "/operate", {"headers": token | foreign}),
        ("POST", "/operate", {"headers": token | foreign | {"origin": "https://evil.example"}}),
    )
    assert (allowed.status_code, other.status_code) == (200, 403)
    _, by_cookie = through_session(
        app, lambda csrf: ("POST", "/operate", {"headers": foreign | {"X-CSRF-Token": csrf}})
    )
    assert by_cookie.status_code == 403


def test_a_session_ends_after_its_hours_and_its_cookie_is_taken_back(app: GuardedApp) -> None:
    def much_later(_csrf: str) -> tuple[str, str, dict[str, Any]]:
        app.now += timedelta(hours=12)
        return "GET", "/read", {}

    _, after = through_session(app, much_later)
    assert after.status_code == 401
    assert f'{guard.COOKIE}=""' in after.headers["set-cookie"]
    assert app.reasons()[-1] == "token expired"


# --- without tokens, and limits --------------------------------------------------------------------------------


def test_without_tokens_only_this_machine_by_its_own_name_gets_in(token_database: Database) -> None:
    app = GuardedApp(token_database, WebSection(require_token=False))
    for base, status in (
        ("http://127.0.0.1:8080", 200),
        ("http://localhost", 200),
        ("http://[::1]:8080", 200),
        ("http://evil.example", 403),
    ):
        [answer] = app.request(("GET", "/read", {}), base=base)
        assert answer.status_code == status, base
    own, *foreign = app.request(
        ("POST", "/operate", {"headers": {"origin": "http://localhost"}}),
        ("POST", "/operate", {"headers": {"origin": "http://evil.example"}}),
        ("POST", "/operate", {"headers": {"origin": "http://[::1"}}),
        ("GET", "/read", {"headers": {"host": "["}}),
        base="http://localhost",
    )
    assert (own.status_code, [answer.status_code for answer in foreign]) == (200, [403, 403, 403])


def test_tokens_cannot_be_switched_off_for_the_network() -> None:
    with pytest.raises(ValueError, match="require_token"):
        WebSection(host="0.0.0.0", require_token=False)
    with pytest.raises(ValueError, match="together"):
        WebSection(tls_certificate=Path("a.pem"))


def test_a_request_may_not_be_huge(app: GuardedApp) -> None:
    [answer] = app.request(
        ("POST", "/sign-in", {"content": b"token=" + b"x" * (1 << 20), "headers": _FORM}),
    )
    assert answer.status_code == 413


def test_without_tokens_nobody_gets_in_through_a_proxy(token_database: Database) -> None:
    app = GuardedApp(token_database, WebSection(require_token=False))
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        [answer] = app.request(("GET", "/read", {"headers": {name: "127.0.0.1"}}), base="http://localhost")
        assert answer.status_code == 403


def test_details_are_for_this_machine_and_for_holders_of_tokens(token_database: Database) -> None:
    for host, details in (("127.0.0.1", True), ("0.0.0.0", False)):
        app = GuardedApp(token_database, WebSection(host=host))
        token = app.token(TokenRole.READ, f"of-{host}")
        answers = app.request(
            ("GET", "/open", {}),
            ("GET", "/open", bearer(token)),
            ("GET", "/open", bearer("x")),
            ("GET", "/open", {"headers": {"X-Forwarded-For": "10.1.2.3"}}),
            base="http://localhost:8080",
        )
        assert [answer.json() for answer in answers] == [details, True, details, False]
        [behind_a_proxy] = app.request(("GET", "/open", {}), base="http://worker.hospital.example")
        assert behind_a_proxy.json() is False
        assert app.events == []


def test_a_lost_database_is_503(tmp_path: Path) -> None:
    (tmp_path / "lost.db").write_bytes(bytes(range(256)) * 16)
    lost = Database(f"sqlite:///{tmp_path}/lost.db")
    [answer] = GuardedApp(lost).request(("GET", "/read", bearer("bmw_x_y")))
    assert answer.status_code == 503
    lost.close()
