"""What every kind of destination offers: its section of the configuration, a connection, a probe and a description.

A module of this package is imported by every command that reads the configuration. What a connection needs is
therefore imported when it is opened: pydicom and a client library take half a second and 40 MB.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Protocol, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from worker.config.paths import ConfigPath
from worker.config.sections import DestinationSection, TlsPaths
from worker.errors import Retry, WorkerError

if TYPE_CHECKING:
    from pydicom import Dataset


class Rejected(WorkerError):
    """The peer answered with a failure status, or does not support the SOP class or any transfer syntax of ours."""

    def __init__(self, status: int | None, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.status = status


class ConnectionLost(Retry):
    """The connection ended: nothing more can be stored over it."""


class Connection(Protocol):
    """A connection to a destination."""

    def store(self, ds: Dataset) -> tuple[int, str]:
        """The peer's success or warning status and the SOP Instance UID under which it stored the object.

        Raises Rejected; Retry for a temporary fault, ConnectionLost where the connection ended; Park for an object that
        this kind of destination never accepts.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Description:
    """A destination in words, for pages, messages and the audit trail."""

    protocol: str
    address: str  # with its port
    host: str  # the network access point of an audit message
    answer: str  # what a successful probe shows
    advice: str  # what to check after a failed probe
    ae_title: str | None = None


class Destination(DestinationSection):
    """A [[destination]] of the configuration. A kind is a subclass in a module of this package, and nothing else."""

    is_dicom: ClassVar[bool] = True  # accepts every object of ours; otherwise reports only

    @property
    def wants_key_objects(self) -> bool:
        """Whether Key Object Selections are sent here."""
        return False

    @property
    def accepted_kinds(self) -> tuple[str, ...]:
        """The kinds of our objects (`ObjectKind`) that are sent here."""
        pictures = ("picture",) if self.is_dicom else ()
        return ("report", *pictures, *(("key-objects",) if self.wants_key_objects else ()))

    @property
    @abstractmethod
    def store_seconds(self) -> float:
        """The longest that storing an object can take. The sender leases its deliveries for a batch of these."""

    @abstractmethod
    def open(self, ae_title: str) -> Connection:
        """Connect. Raises Retry when the peer is unreachable or rejects us, StartError for unusable TLS files."""

    @abstractmethod
    def probe(self, ae_title: str) -> None:
        """Ask whether the peer is there and speaks the protocol; changes nothing. Raises Retry when not."""

    @abstractmethod
    def describe(self) -> Description: ...

    @property
    def commitment_timeout(self) -> timedelta | None:
        """How long the peer may take to report storage commitment; None where it is not requested."""
        return None

    def request_commitment(
        self,
        ae_title: str,
        transaction_uid: str,
        instances: Sequence[tuple[str, str]],
        on_report: Callable[[Dataset], int],
    ) -> None:
        """Request storage commitment (PS3.4 Annex J) for (SOP class, SOP instance) pairs.

        `on_report` is given a report that arrives meanwhile and returns the status to answer. Raises Retry when the
        request is not accepted. For destinations with a `commitment_timeout`.
        """
        raise NotImplementedError


class HttpDestination(Destination, TlsPaths):
    """A [[destination]] with a `url`.

    A server that requests no client certificate needs `tls_authority` alone; without it the system's authorities are
    trusted.
    """

    url: str
    bearer_token_file: ConfigPath | None = None
    bearer_token_variable: str | None = Field(default=None, min_length=1)
    timeout_seconds: float = Field(default=30.0, gt=0)

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("the URL of a service looks like https://host/dicom-web or https://host/fhir")
        if parts.username or parts.password:
            raise ValueError("no user or password in the URL: give bearer_token_file or bearer_token_variable")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _secrets_travel_by_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("a client certificate needs tls_certificate and tls_key together")
        if self.bearer_token_file is not None and self.bearer_token_variable is not None:
            raise ValueError("bearer_token_file or bearer_token_variable, not both")
        if self.url.startswith("https:"):
            return self
        if self.tls_certificate or self.tls_authority:
            raise ValueError("TLS files need an https URL")
        if (self.bearer_token_file or self.bearer_token_variable) and not _is_loopback(self.url):
            raise ValueError("a bearer token goes out by https only")
        return self

    @property
    def store_seconds(self) -> float:
        return 2 * self.timeout_seconds

    def _describe(self, protocol: str, server: str) -> Description:
        return Description(
            protocol=protocol,
            address=self.url,
            host=self.url,
            answer=f"{self.url} answers as {server}",
            advice="are the url, the bearer token and the TLS files right?",
        )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
