"""[[notify]]: where operators are told what waits for them, by webhook or e-mail; nowhere by default."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from worker.config.paths import ConfigPath
from worker.config.sections import Section

NoticeEvent = Literal["parked", "undelivered", "urgent-lesion"]
_ADDRESS = re.compile(r"[^\s@<>,;\"\x00-\x1f]+@[^\s@<>,;\"\x00-\x1f]+")


def _check_address(value: str) -> str:
    if _ADDRESS.fullmatch(value) is None:
        raise ValueError("an e-mail address looks like name@host.example")
    return value


Address = Annotated[str, AfterValidator(_check_address)]


class NotifySection(Section):
    """A [[notify]]: a webhook (`url`) or e-mail (`smtp_host`)."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
    events: tuple[NoticeEvent, ...] = ("parked", "undelivered", "urgent-lesion")
    undelivered_seconds: float = Field(default=3600.0, ge=0)
    patient_data: bool = False
    timeout_seconds: float = Field(default=30.0, gt=0, le=300)
    tls_authority: ConfigPath | None = None
    url: str | None = None
    bearer_token_variable: str | None = Field(default=None, min_length=1)
    smtp_host: str | None = Field(default=None, min_length=1)
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = Field(default=None, min_length=1)
    smtp_password_variable: str | None = Field(default=None, min_length=1)
    sender: Address | None = None
    recipients: tuple[Address, ...] = ()

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https:") if self.url is not None else self.smtp_tls != "none"

    @property
    def address(self) -> str:
        """Where it goes, for messages."""
        return self.url or f"{self.smtp_host}:{self.smtp_port}"

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.url is None) == (self.smtp_host is None):
            raise ValueError("give url (a webhook) or smtp_host (e-mail)")
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
                raise ValueError("the URL of a webhook looks like https://host/path, without user and password")
        elif self.sender is None or not self.recipients:
            raise ValueError("e-mail needs sender and recipients")
        if (self.smtp_user is None) != (self.smtp_password_variable is None):
            raise ValueError("smtp_user and smtp_password_variable belong together")
        if not self.is_encrypted and (self.patient_data or self.bearer_token_variable or self.smtp_user):
            raise ValueError("patient_data, a token or a password go out encrypted only: https, smtp_tls")
        return self
