from __future__ import annotations

import re

import httpx

from tests.testbed.web_site import signed_in
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.db.tokens import list_tokens

TOKEN = r'value="(bmw_[0-9a-f]{12}_[\w-]{43})"'


def _csrf(page: str) -> str:
    return re.findall(r'name="csrf_token" value="(\w+)"', page)[0]


def test_only_an_operator_with_the_form_makes_a_token_which_is_shown_once(
    guarded: tuple[httpx.Client, Database],
) -> None:
    with signed_in(*guarded, TokenRole.ANNOTATE, "annotator") as annotator:
        assert annotator.get("/tokens").status_code == 403
        assert annotator.post("/tokens", data={"name": "x", "role": "operate", "days": "1"}).status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "maker") as operator:
        fields = {"name": " <i>ward</i> ", "role": "read", "days": "30"}
        assert operator.post("/tokens", data=fields).status_code == 403  # without the CSRF token of the form
        fields["csrf_token"] = _csrf(operator.get("/tokens").text)
        answer = operator.post("/tokens", data=fields)
        [token] = re.findall(TOKEN, answer.text)
        assert answer.headers["cache-control"] == "no-store"
        assert "&lt;i&gt;ward&lt;/i&gt;" in answer.text
        assert "<i>ward" not in answer.text
        again = operator.post("/tokens", data=fields)
        assert (again.status_code, re.findall(TOKEN, again.text)) == (409, [])
        assert token not in operator.get("/tokens").text
        reads = {"Authorization": f"Bearer {token}"}
        assert guarded[0].get("/api/v1/series", headers=reads).status_code == 200
        assert guarded[0].get("/tokens", headers=reads).status_code == 403
        with guarded[1].read() as session:
            [made] = [known for known in list_tokens(session) if known.name == "<i>ward</i>"]
        assert made.expires_at is not None
        assert (made.role, (made.expires_at - made.created_at).days) == ("read", 30)
        revoked = operator.post("/tokens/revoke", data={"key": made.key, "csrf_token": fields["csrf_token"]})
        assert revoked.headers["location"] == "/tokens"
        assert guarded[0].get("/api/v1/series", headers=reads).status_code == 401
        unknown = operator.post("/tokens/revoke", data={"key": "0" * 12, "csrf_token": fields["csrf_token"]})
        assert unknown.status_code == 404


def test_fields_that_cannot_be_are_named_and_kept_in_the_form(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.OPERATE, "clumsy") as operator:
        good = {"name": "a", "role": "read", "days": "30", "csrf_token": _csrf(operator.get("/tokens").text)}
        for name, value in (
            ("name", ""), ("name", "x" * 65), ("name", "a\x00b"), ("role", "root"), ("days", "-1"), ("days", "4000"),
            ("days", "many"),
        ):  # fmt: skip
            answer = operator.post("/tokens", data=good | {name: value})
            assert (answer.status_code, re.findall(TOKEN, answer.text)) == (422, [])
            assert f"Not made. {name}: " in answer.text
        assert operator.post("/tokens", data={"csrf_token": good["csrf_token"]}).status_code == 422


def test_without_the_guard_nobody_makes_a_key_for_later(client: httpx.Client) -> None:
    assert "Make a token" not in client.get("/tokens").text
    assert client.post("/tokens", data={"name": "later", "role": "operate", "days": "0"}).status_code == 409
