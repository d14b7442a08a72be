"""Tokens are made, listed and revoked."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from tests.testbed.command import Run


def test_a_token_is_shown_once_and_listed_without_its_secret(run: Run) -> None:
    code, token, error = run("tokens", "add", "--role", "read", "--name", "ward")
    assert code == 0
    assert token.startswith("bmw_")
    assert error == "token 'ward', role read; it will not be shown again:\n"
    _, listed, _ = run("tokens", "list", "--format", "json")
    [row] = json.loads(listed)
    assert (row["name"], row["role"], row["revoked_at"]) == ("ward", "read", None)
    assert row["expires_at"] > row["created_at"]
    assert token.strip().split("_", 2)[2] not in listed
    assert run("tokens", "add", "--role", "read", "--name", "ward")[0] == 1
    assert run("tokens", "revoke", "ward") == (0, "token 'ward' is revoked\n", "")
    assert run("tokens", "revoke", "nobody") == (1, "", "worker: there is no token 'nobody'\n")
    assert json.loads(run("tokens", "list", "--format", "json")[1])[0]["revoked_at"]


def test_days_is_how_long_it_is_valid_and_0_is_for_ever(run: Run) -> None:
    for name, days in (("short", "90"), ("long", "0")):
        run("tokens", "add", "--role", "operate", "--name", name, "--days", days)
    rows = {row["name"]: row for row in json.loads(run("tokens", "list", "--format", "json")[1])}
    created, expires = (datetime.fromisoformat(rows["short"][key]) for key in ("created_at", "expires_at"))
    assert expires - created == timedelta(days=90)
    assert rows["long"]["expires_at"] is None
