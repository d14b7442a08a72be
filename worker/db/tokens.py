"""Who may use the web interface: tokens with a role, browser sessions made from them, and their queries.

A token is `bmw_KEY_SECRET`, shown once. The secret has 256 random bits, so its SHA-256 is as strong as a slow hash
(there is no dictionary to try) and costs nothing at each request. A session is such a secret too, in a cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from worker.db.tables import TokenRole, TokenRow, WebSessionRow
from worker.errors import WorkerError

_PREFIX = "bmw"
_RANK = {TokenRole.READ: 0, TokenRole.ANNOTATE: 1, TokenRole.OPERATE: 2}


class NotAllowed(WorkerError):
    """A credential that opens nothing; the reason is for the audit trail, never for the caller."""


class CredentialFault(StrEnum):
    """Why a credential opens nothing."""

    MISSING = "missing"
    WRONG = "wrong"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """The owner of a valid credential."""

    name: str
    role: TokenRole
    token_id: int


def allows(held: TokenRole, wanted: TokenRole) -> bool:
    """Who may annotate may also read, and an operator may do both."""
    return _RANK[held] >= _RANK[wanted]


# --- tokens ----------------------------------------------------------------------------------------------------


def add_token(
    session: Session, name: str | None, role: TokenRole, now: datetime, expires_at: datetime | None
) -> tuple[str, str]:
    """A new token: its name and its text, which is kept nowhere. Raises NotAllowed for a name that was given before."""
    key, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    name = name or f"{role}-{key}"
    if session.scalar(select(TokenRow.id).where(TokenRow.name == name)) is not None:
        raise NotAllowed(
            "token-name", f"there is, or was, a token named '{name}': the audit trail must tell them apart"
        )
    session.add(
        TokenRow(key=key, name=name, role=role, secret_sha256=digest(secret), created_at=now, expires_at=expires_at)
    )
    session.flush()
    return name, f"{_PREFIX}_{key}_{secret}"


@dataclass(frozen=True, slots=True)
class Token:
    """What may be shown of a token."""

    key: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def list_tokens(session: Session) -> list[Token]:
    """Every token that was ever made."""
    rows = session.scalars(select(TokenRow).order_by(TokenRow.id))
    return [Token(r.key, r.name, r.role, r.created_at, r.expires_at, r.revoked_at) for r in rows]


def revoke_token(session: Session, token: str, now: datetime) -> str | None:
    """The name of the token of this name or key; it and its sessions are valid no more. None when there is none."""
    row = session.scalar(select(TokenRow).where((TokenRow.name == token) | (TokenRow.key == token)).with_for_update())
    if row is None:
        return None
    row.revoked_at = row.revoked_at or now
    session.execute(delete(WebSessionRow).where(WebSessionRow.token_id == row.id))
    session.flush()
    return row.name


def check_token(session: Session, text: str, now: datetime) -> TokenHolder:
    """The holder of a token. Raises NotAllowed with a CredentialFault as reason."""
    prefix, _, rest = text.partition("_")
    key, _, secret = rest.partition("_")
    row = session.scalar(select(TokenRow).where(TokenRow.key == key)) if prefix == _PREFIX else None
    # Compared also where there is no such key, so that the time tells nothing.
    same = hmac.compare_digest(row.secret_sha256 if row else digest(""), digest(secret))
    if row is None or not same:
        raise NotAllowed(CredentialFault.WRONG)
    return _holder(row, now)


def _holder(row: TokenRow, now: datetime) -> TokenHolder:
    if row.revoked_at is not None:
        raise NotAllowed(CredentialFault.REVOKED)
    if row.expires_at is not None and row.expires_at <= now:
        raise NotAllowed(CredentialFault.EXPIRED)
    return TokenHolder(row.name, TokenRole(row.role), row.id)


# --- sessions --------------------------------------------------------------------------------------------------


def open_web_session(session: Session, holder: TokenHolder, now: datetime, expires_at: datetime) -> str:
    """A new session's secret, for the cookie; sessions that ran out are forgotten."""
    session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    session.add(
        WebSessionRow(token_id=holder.token_id, secret_sha256=digest(secret), created_at=now, expires_at=expires_at)
    )
    session.flush()
    return secret


def check_web_session(session: Session, secret: str, now: datetime) -> TokenHolder:
    """The holder of a session, while it and its token are valid. Raises NotAllowed with a CredentialFault as reason."""
    found = session.execute(
        select(WebSessionRow, TokenRow)
        .join(TokenRow, TokenRow.id == WebSessionRow.token_id)
        .where(WebSessionRow.secret_sha256 == digest(secret))
    ).first()
    if found is None:
        raise NotAllowed(CredentialFault.WRONG)
    row, token = found
    if row.expires_at <= now:
        raise NotAllowed(CredentialFault.EXPIRED)
    return _holder(token, now)


def close_web_session(session: Session, secret: str) -> None:
    session.execute(delete(WebSessionRow).where(WebSessionRow.secret_sha256 == digest(secret)))


def csrf_token(secret: str) -> str:
    """What a form of this session must bring back; another site can neither read nor make it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
