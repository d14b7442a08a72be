"""Tokens and sessions: their holders, what they allow, and when they end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.testbed.instances import later
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole, TokenRow, WebSessionRow
from worker.db.tokens import CredentialFault, NotAllowed

# The queries are the same everywhere; SQLite is enough for what is not about them.
one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
NOW, MUCH_LATER = later(0), later(0) + timedelta(days=400)


def _token(database: Database, role: TokenRole = TokenRole.READ, days: int | None = 30) -> str:
    until = NOW + timedelta(days=days) if days is not None else None
    with database.write() as session:
        return tokens.add_token(session, "ward", role, NOW, until)[1]


def _reason(database: Database, token: str, moment: object = NOW) -> str:
    with database.read() as session, pytest.raises(NotAllowed) as refused:
        tokens.check_token(session, token, moment)  # type: ignore[arg-type]
    return refused.value.reason


@one_database
def test_a_token_is_known_by_its_secret_which_is_kept_nowhere(database: Database) -> None:
    token = _token(database)
    with database.read() as session:
        holder = tokens.check_token(session, token, NOW)
        row = session.scalars(select(TokenRow)).one()
    assert (holder.name, holder.role) == ("ward", TokenRole.READ)
    secret = token.split("_", 2)[2]
    assert len(secret) >= 43
    assert all(secret not in str(value) for value in vars(row).values())


@one_database
def test_a_wrong_secret_key_or_form_is_wrong(database: Database) -> None:
    token = _token(database)
    other = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (other, token[1:], token.replace("bmw", "x"), "bmw_x_y", "", "bmw__", token + "A", "é"):
        assert _reason(database, wrong) == CredentialFault.WRONG


def test_a_token_ends_by_time_or_by_revocation(database: Database) -> None:
    token = _token(database)
    assert _reason(database, token, MUCH_LATER) == CredentialFault.EXPIRED
    with database.write() as session:
        assert tokens.revoke_token(session, "nobody", NOW) is None
        assert tokens.revoke_token(session, "ward", NOW) == "ward"
    assert _reason(database, token) == CredentialFault.REVOKED
    with database.read() as session:
        assert [token.revoked_at for token in tokens.list_tokens(session)] == [NOW]


@one_database
def test_a_token_without_an_end_stays_valid(database: Database) -> None:
    token = _token(database, days=None)
    with database.read() as session:
        assert tokens.check_token(session, token, MUCH_LATER).name == "ward"


def test_a_name_is_given_once_even_after_its_token_was_revoked(database: Database) -> None:
    _token(database)
    with database.write() as session:
        tokens.revoke_token(session, "ward", NOW)
    with database.write() as session, pytest.raises(NotAllowed, match="audit trail"):
        tokens.add_token(session, "ward", TokenRole.READ, NOW, None)
    with database.write() as session:
        names = {tokens.add_token(session, None, TokenRole.READ, NOW, None)[0] for _ in range(2)}
    assert len(names) == 2


def test_an_operator_may_read_and_a_reader_may_not_operate() -> None:
    assert tokens.allows(TokenRole.OPERATE, TokenRole.READ)
    assert tokens.allows(TokenRole.READ, TokenRole.READ)
    assert not tokens.allows(TokenRole.READ, TokenRole.OPERATE)


@one_database
def test_a_session_lives_no_longer_than_its_token(database: Database) -> None:
    token = _token(database, TokenRole.OPERATE, days=1)
    with database.write() as session:
        holder = tokens.check_token(session, token, NOW)
        secret = tokens.open_web_session(session, holder, NOW, NOW + timedelta(days=9))
        assert tokens.check_web_session(session, secret, NOW).role == TokenRole.OPERATE
        with pytest.raises(NotAllowed, match=CredentialFault.EXPIRED):
            tokens.check_web_session(session, secret, NOW + timedelta(days=2))
        with pytest.raises(NotAllowed, match=CredentialFault.WRONG):
            tokens.check_web_session(session, secret + "x", NOW)


def test_a_session_ends_by_time_by_signing_out_and_with_its_token(database: Database) -> None:
    token = _token(database)
    with database.write() as session:
        holder = tokens.check_token(session, token, NOW)
        first, second, third = (
            tokens.open_web_session(session, holder, NOW, NOW + timedelta(hours=hours)) for hours in (1, 9, 9)
        )
        with pytest.raises(NotAllowed, match=CredentialFault.EXPIRED):
            tokens.check_web_session(session, first, NOW + timedelta(hours=1))
        tokens.close_web_session(session, second)
        with pytest.raises(NotAllowed, match=CredentialFault.WRONG):
            tokens.check_web_session(session, second, NOW)
        tokens.revoke_token(session, "ward", NOW)
        with pytest.raises(NotAllowed, match=CredentialFault.WRONG):
            tokens.check_web_session(session, third, NOW)


@one_database
def test_sessions_that_ran_out_are_forgotten(database: Database) -> None:
    token = _token(database)
    with database.write() as session:
        holder = tokens.check_token(session, token, NOW)
        tokens.open_web_session(session, holder, NOW, NOW + timedelta(hours=1))
        tokens.open_web_session(session, holder, NOW + timedelta(hours=2), NOW + timedelta(hours=3))
        assert len(session.scalars(select(WebSessionRow)).all()) == 1
