from __future__ import annotations

import pytest

from tests.testbed.guarded_app import GuardedApp, through_session
from worker.db.tables import TokenRole


def test_a_browser_is_led_to_the_form_and_back(app: GuardedApp) -> None:
    led = app.get("/read?a=1&b=2", accept="text/html")
    assert (led.status_code, led.headers["location"]) == (303, "/sign-in?next=/read%3Fa%3D1%26b%3D2")
    done, read = through_session(app, lambda _: ("GET", "/read", {}))
    assert (done.status_code, done.headers["location"]) == (303, "/read?a=1")
    cookie = done.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure", "max-age=43200", "path=/"))
    assert read.json() == "operate"
    assert [event.type.meaning for event in app.events if event.outcome == 0 and event.type] == ["Login"]


def test_signing_out_ends_the_session(app: GuardedApp) -> None:
    _, out, after = through_session(
        app,
        lambda csrf: ("POST", "/sign-out", {"data": {"csrf_token": csrf}}),
        lambda _: ("GET", "/read", {}),
    )
    assert (out.status_code, after.status_code) == (303, 401)


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nb: c"])
def test_signing_in_leads_nowhere_else(app: GuardedApp, target: str) -> None:
    token = app.token(TokenRole.READ)
    [done] = app.request(("POST", "/sign-in", {"data": {"token": token, "next": target}}))
    assert done.headers["location"] == "/"


def test_a_wrong_token_or_another_site_is_not_signed_in(app: GuardedApp) -> None:
    token = app.token(TokenRole.READ)
    wrong, foreign = app.request(
        ("POST", "/sign-in", {"data": {"token": "<script>", "next": '"><b>'}}),
        ("POST", "/sign-in", {"data": {"token": token}, "headers": {"origin": "https://evil.example"}}),
    )
    assert (wrong.status_code, foreign.status_code) == (401, 403)
    assert "set-cookie" not in wrong.headers
    assert "set-cookie" not in foreign.headers
    assert "<b>" not in wrong.text
