"""Access to the web interface: tokens with a role, and the browser sessions opened with them.

A token is `bmw_KEY_SECRET`, shown once. The secret has 256 random bits, so its SHA-256 is as strong as a slow hash
(no dictionary can be tried) and costs nothing at each request. A session is such a secret as well, in a cookie.
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
    """An invalid credential; the reason is for the audit trail, never for the caller."""


class CredentialFault(StrEnum):
    """Why a credential is invalid."""

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


def allows(held: TokenRole, required: TokenRole) -> bool:
    """Whether a role includes another: `annotate` includes `read`, `operate` includes both."""
    return _RANK[held] >= _RANK[required]


# --- tokens ----------------------------------------------------------------------------------------------------


def add_token(
    session: Session, name: str | None, role: TokenRole, now: datetime, expires_at: datetime | None
) -> tuple[str, str]:
    """Add a token: its name and its text, which is stored nowhere. Raises NotAllowed for a name used before."""
    key, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    name = name or f"{role}-{key}"
    if session.scalar(select(TokenRow.id).where(TokenRow.name == name)) is not None:
        raise NotAllowed(
            "token-name",
            f"the name '{name}' has been used: choose another, names in the audit trail are unique",
        )
    session.add(
        TokenRow(key=key, name=name, role=role, secret_sha256=digest(secret), created_at=now, expires_at=expires_at)
    )
    session.flush()
    return name, f"{_PREFIX}_{key}_{secret}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret."""

    key: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def list_tokens(session: Session) -> list[Token]:
    """Every token that was ever created."""
    rows = session.scalars(select(TokenRow).order_by(TokenRow.id))
    return [Token(row.key, row.name, row.role, row.created_at, row.expires_at, row.revoked_at) for row in rows]


def revoke_token(session: Session, token: str, now: datetime) -> str | None:
    """Revoke the token of this name or key, and its sessions; the token's name, None when there is no such token."""
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
    # Compared even where there is no such key, so that the duration reveals nothing.
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
    """Open a session and delete expired ones; its secret, for the cookie."""
    session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    session.add(
        WebSessionRow(token_id=holder.token_id, secret_sha256=digest(secret), created_at=now, expires_at=expires_at)
    )
    session.flush()
    return secret


def check_web_session(session: Session, secret: str, now: datetime) -> TokenHolder:
    """The holder of a session, while it and its token are valid. Raises NotAllowed with a CredentialFault as reason."""
    row = session.execute(
        select(WebSessionRow, TokenRow)
        .join(TokenRow, TokenRow.id == WebSessionRow.token_id)
        .where(WebSessionRow.secret_sha256 == digest(secret))
    ).first()
    if row is None:
        raise NotAllowed(CredentialFault.WRONG)
    web_session, token = row
    if web_session.expires_at <= now:
        raise NotAllowed(CredentialFault.EXPIRED)
    return _holder(token, now)


def close_web_session(session: Session, secret: str) -> None:
    session.execute(delete(WebSessionRow).where(WebSessionRow.secret_sha256 == digest(secret)))


def csrf_token(secret: str) -> str:
    """The value that every form of this session returns; another site can neither read nor compute it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
