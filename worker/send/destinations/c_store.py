"""A destination that is a Storage SCP: C-STORE and, where it is configured, storage commitment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from pydantic import Field

from worker.config.sections import AeTitle, TlsFiles
from worker.send.destinations.base import Connection, Description, Destination

if TYPE_CHECKING:
    from pydicom import Dataset


class CStoreDestination(Destination, TlsFiles):
    """A [[destination]] to which reports and pictures are sent by C-STORE: the default kind."""

    ae_title: AeTitle
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    timeout_seconds: float = Field(default=30.0, gt=0)
    key_objects: bool = False
    storage_commitment: bool = False
    commitment_timeout_seconds: float = Field(default=300.0, gt=0)

    @property
    def application_entity(self) -> Self:
        return self

    @property
    def wants_key_objects(self) -> bool:
        return self.key_objects

    @property
    def store_seconds(self) -> float:
        return 2 * self.timeout_seconds

    @property
    def commitment_timeout(self) -> timedelta | None:
        return timedelta(seconds=self.commitment_timeout_seconds) if self.storage_commitment else None

    def open(self, ae_title: str) -> Connection:
        from worker.send.storage_scu import StorageAssociation, associate_for_results

        return StorageAssociation(associate_for_results(self, ae_title))

    def probe(self, ae_title: str) -> None:
        """C-ECHO."""
        from worker.send.storage_scu import echo

        echo(self, ae_title)

    def request_commitment(
        self,
        ae_title: str,
        transaction_uid: str,
        instances: Sequence[tuple[str, str]],
        on_report: Callable[[Dataset], int],
    ) -> None:
        from worker.send.commitment_scu import request_commitment

        request_commitment(self, ae_title, transaction_uid, instances, on_report)

    def describe(self) -> Description:
        return Description(
            protocol="DICOM",
            ae_title=self.ae_title,
            address=f"{self.host}:{self.port}",
            host=self.host,
            answer=f"{self.ae_title} at {self.host}:{self.port} answers C-ECHO",
            advice="is it running and reachable, and does it know the AE title of [worker] ae_title?",
        )
